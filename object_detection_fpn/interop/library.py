"""A library of detectors whose weights are read: the names that it gives their tensors, and what its ResNets compute."""

from __future__ import annotations

import abc
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from object_detection_fpn.interop import resnets, state_dict
from object_detection_fpn.interop.state_dict import Entry
from object_detection_fpn.modeling.backbones.backbone import Backbone, PixelNormalization
from object_detection_fpn.modeling.detectors.faster_rcnn import FasterRCNN

Tensors = Mapping[str, np.ndarray]
"""A state dict: arrays by the names of the library."""


class Library(abc.ABC):
    """Files the tensors of a library under the paths of our variables, by the names that its subclass states.

    Attributes:
        title: for people.
        of_detectors: how names of tensors begin that only its detectors have.
        of_classifiers: how names of tensors begin that only its ResNets for ImageNet have.
        other_models: (how a name begins that only another kind of model has, what kind it is), to refuse these in words.
        backbone_prefix: what names of a ResNet in a detector begin with; a ResNet for ImageNet has them without it.
        ignored_names: finds the names of tensors that are no weights, such as counters.
        ignored_classifier_names: finds those of a ResNet for ImageNet that its backbone lacks, such as its classifier's.
        stride_in_3x3: whether its ResNets have the stride of a stage in a 3 x 3 convolution.
        pixels: what its ResNets want pixels to be. A file may state another mean and standard deviation.
    """

    title: str
    of_detectors: tuple[str, ...]
    of_classifiers: tuple[str, ...]
    other_models: Sequence[tuple[str, str]]
    backbone_prefix: str
    ignored_names: re.Pattern[str]
    ignored_classifier_names: re.Pattern[str]
    stride_in_3x3: bool
    pixels: PixelNormalization

    @abc.abstractmethod
    def resnet_names(self, layers: resnets.ResNetLayers) -> tuple[str, str]:
        """The names of a convolution of a ResNet and of its normalization, without `backbone_prefix`."""

    @abc.abstractmethod
    def head_entries(self, head: state_dict.HeadLayers) -> Iterator[Entry]:
        """The names of the layers of pyramid, RPN and box head."""

    def detector_tensors(self, tensors: Tensors, source: str) -> Tensors:
        """The tensors of a detector by the names that `entries` has; for a library with more than one spelling.

        Raises:
            CheckpointError: if a tensor stands there twice.
        """
        return tensors

    def classifier_tensors(self, tensors: Tensors, entries: Sequence[Entry]) -> Tensors:
        """The same of a ResNet for ImageNet, whose backbone has these entries; what it leaves unsaid is added."""
        return tensors

    def entries(self, model: FasterRCNN, source: str) -> list[Entry]:
        """The names of all layers of a model.

        Raises:
            CheckpointError: if the model is built otherwise than a detector of this library.
        """
        backbone = self._backbone_entries(model.feature_extractor.backbone, self.backbone_prefix, source)
        return [*backbone, *self.head_entries(state_dict.head_layers(model, source))]

    def weights_by_path(self, tensors: Tensors, model: FasterRCNN, source: str) -> dict[str, np.ndarray]:
        """Files the tensors of a detector under the paths of our variables.

        Args:
            tensors: of its state dict.
            model: what they are for, built from the recipe of that detector.
            source: name of the file in errors.

        Returns:
            {path of our variable: array}, every variable of the model.

        Raises:
            CheckpointError: if the file is of another model, or the config describes another: a tensor is missing, left over
                or of another shape, or strides or pixels are others.
        """
        state_dict.refuse_other_models(tensors, self.other_models, source)
        self._check_backbone(model.feature_extractor.backbone, tensors, source)
        return state_dict.file_under_our_paths(
            self.detector_tensors(tensors, source),
            self.entries(model, source),
            model,
            source=source,
            is_ignored=lambda name: bool(self.ignored_names.search(name)),
        )

    def backbone_weights_by_path(self, tensors: Tensors, model: FasterRCNN, source: str) -> dict[str, np.ndarray]:
        """Files the tensors of a ResNet for ImageNet under the paths of the variables of our backbone.

        Args:
            tensors: of its state dict.
            model: whose backbone they are for, built.
            source: name of the file in errors.

        Returns:
            {path of our variable: array}, every variable of the backbone.

        Raises:
            CheckpointError: as `weights_by_path`.
        """
        backbone = model.feature_extractor.backbone
        self._check_backbone(backbone, tensors, source)
        entries = list(self._backbone_entries(backbone, "", source))
        return state_dict.file_under_our_paths(
            self.classifier_tensors(tensors, entries),
            entries,
            model,
            source=source,
            is_ignored=lambda name: bool(self.ignored_names.search(name) or self.ignored_classifier_names.search(name)),
            parts=("feature_extractor/backbone",),
        )

    def _backbone_entries(self, backbone: Backbone, prefix: str, source: str) -> Iterator[Entry]:
        for layers in resnets.resnet_layers(backbone, source):
            conv, norm = self.resnet_names(layers)
            yield Entry(prefix + conv, layers.conv)
            yield Entry(prefix + norm, layers.norm)

    def _check_backbone(self, backbone: Backbone, tensors: Tensors, source: str) -> None:
        mean, stddev = (
            tuple(float(value) for value in np.ravel(tensors.get(name, default)))
            for name, default in (("pixel_mean", self.pixels.mean), ("pixel_std", self.pixels.stddev))
        )
        pixels = PixelNormalization(mean=mean, stddev=stddev, is_bgr=self.pixels.is_bgr)
        resnets.refuse_other_backbone(backbone, stride_in_3x3=self.stride_in_3x3, pixels=pixels, source=source)
