"""A library of detectors whose weights are read: the names that it gives their tensors, and what its ResNets compute."""

from __future__ import annotations

import abc
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from object_detection_fpn.interop import resnets, retinanets, state_dict
from object_detection_fpn.interop.state_dict import Entry
from object_detection_fpn.modeling import loss_normalization
from object_detection_fpn.modeling.backbones.backbone import Backbone, PixelNormalization
from object_detection_fpn.modeling.detector import Detector
from object_detection_fpn.modeling.detectors.faster_rcnn import FasterRCNN
from object_detection_fpn.modeling.detectors.retinanet import RetinaNet
from object_detection_fpn.modeling.single_level import SingleLevel
from object_detection_fpn.training.stored import CheckpointError
from object_detection_fpn.training.weights import variables_by_path

Tensors = Mapping[str, np.ndarray]
"""A state dict: arrays by the names of the library."""


class Library(abc.ABC):
    """Files the tensors of a library under the paths of our variables, by the names that its subclass states.

    Attributes:
        title: for people.
        of_detectors: how names of tensors begin that only its detectors have.
        of_classifiers: how names of tensors begin that only its ResNets for ImageNet have.
        other_models: (how a name begins that only another kind of model has, what kind it is), to refuse these in words.
        of_masks: how names of tensors begin that only mask heads have.
        of_single_level: how names of tensors begin that only its detectors without feature pyramid have.
        of_retinanets: how names of tensors begin that only its RetinaNets have.
        retinanets_have_first_column: whether their class predictors have a column before those of the classes.
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
    of_masks: tuple[str, ...]
    of_single_level: tuple[str, ...] = ()
    of_retinanets: tuple[str, ...]
    retinanets_have_first_column: bool
    backbone_prefix: str
    ignored_names: re.Pattern[str]
    ignored_classifier_names: re.Pattern[str]
    stride_in_3x3: bool
    pixels: PixelNormalization

    def stage_prefix(self, stage: int, *, has_pyramid: bool) -> str:
        """What names of a stage of the ResNet, 1 for the stem, begin with in a detector."""
        return self.backbone_prefix

    @abc.abstractmethod
    def resnet_names(self, layers: resnets.ResNetLayers) -> tuple[str, str]:
        """The names of a convolution of a ResNet and of its normalization, without `backbone_prefix`."""

    @abc.abstractmethod
    def head_entries(self, head: state_dict.HeadLayers) -> Iterator[Entry]:
        """The names of the layers of pyramid, RPN, box head and mask head."""

    @abc.abstractmethod
    def dense_entries(self, head: retinanets.DenseLayers) -> Iterator[Entry]:
        """The names of the layers of a RetinaNet's pyramid and head."""

    def detector_tensors(self, tensors: Tensors, source: str) -> Tensors:
        """The tensors of a detector by the names that `entries` has; for a library with more than one spelling.

        Raises:
            CheckpointError: if a tensor stands there twice.
        """
        return tensors

    def classifier_tensors(self, tensors: Tensors, entries: Sequence[Entry]) -> Tensors:
        """The same of a ResNet for ImageNet, whose backbone has these entries; what it leaves unsaid is added."""
        return tensors

    def has_masks(self, tensors: Tensors) -> bool:
        """Whether tensors are of a detector that predicts masks."""
        return any(name.startswith(self.of_masks) for name in tensors)

    def unused_part(self, tensors: Tensors, model: FasterRCNN | RetinaNet) -> str:
        """What of the masks in a file a model has no place for, in words; "" if nothing."""
        if isinstance(model, RetinaNet) or not self.has_masks(tensors):
            return ""
        if model.mask_head is None:
            return "mask head"
        return "mask predictor" if model.mask_head.predictor is None else ""

    def entries(self, model: FasterRCNN | RetinaNet, source: str, *, with_masks: bool = True) -> list[Entry]:
        """The names of all layers of a model, those of its mask head among them if it is wanted and there.

        Raises:
            CheckpointError: if the model is built otherwise than a detector of this library.
        """
        backbone = self._backbone_entries(model, source, in_detector=True)
        if isinstance(model, RetinaNet):
            layers = retinanets.dense_layers(model, source, may_have_background=self.retinanets_have_first_column)
            return [*backbone, *self.dense_entries(layers)]
        return [*backbone, *self.head_entries(state_dict.head_layers(model, source, with_masks=with_masks))]

    def weights_by_path(
        self, tensors: Tensors, model: FasterRCNN | RetinaNet, source: str, *, needs_masks: bool = True
    ) -> dict[str, np.ndarray]:
        """Files the tensors of a detector under the paths of our variables. A model of boxes takes no masks, see `unused_part`.

        Args:
            tensors: of its state dict.
            model: what they are for, built from the recipe of that detector.
            source: name of the file in errors.
            needs_masks: whether every variable of the model's mask head must get a value. If not, the file may be of a
                detector of boxes, or of one whose mask predictor the model computes (`mask_transfer`).

        Returns:
            {path of our variable: array}, every variable of the model, but for those of the mask head see `needs_masks`.

        Raises:
            CheckpointError: if the file is of another model, or the config describes another: a tensor is missing, left over
                or of another shape, or strides or pixels are others.
        """
        state_dict.refuse_other_models(tensors, self.other_models, source)
        self._refuse_other_detector(tensors, model, source)
        has_pyramid = not any(name.startswith(self.of_single_level) for name in tensors)
        state_dict.refuse_other_levels(model, has_pyramid=has_pyramid, source=source)
        self._check_backbone(model.feature_extractor.backbone, tensors, source)
        has_masks = self.has_masks(tensors)
        has_mask_head = isinstance(model, FasterRCNN) and model.mask_head is not None
        if needs_masks and has_mask_head and not has_masks:
            raise CheckpointError(
                f"{source}: no masks in this file, whose names would begin with {' or '.join(self.of_masks)}, but the model "
                "has number_of_stages: 3. Allowed: 2, or to name the file as train_config.fine_tune_checkpoint and train the "
                "mask head."
            )
        is_left_out = self.unused_part(tensors, model) and not (has_mask_head and needs_masks)
        tops = dict.fromkeys(path.partition("/")[0] for path in variables_by_path(model))
        return state_dict.file_under_our_paths(
            self.detector_tensors(tensors, source),
            self.entries(model, source, with_masks=has_masks),
            model,
            source=source,
            is_ignored=lambda name: bool(
                self.ignored_names.search(name) or (is_left_out and name.startswith(self.of_masks))
            ),
            parts=None if needs_masks else [top for top in tops if top != "mask_head"],
            given=_loss_normalizer(model),
        )

    def backbone_weights_by_path(self, tensors: Tensors, model: Detector, source: str) -> dict[str, np.ndarray]:
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
        self._check_backbone(model.feature_extractor.backbone, tensors, source)
        entries = list(self._backbone_entries(model, source, in_detector=False))
        return state_dict.file_under_our_paths(
            self.classifier_tensors(tensors, entries),
            entries,
            model,
            source=source,
            is_ignored=lambda name: bool(self.ignored_names.search(name) or self.ignored_classifier_names.search(name)),
            parts=model.restorable_parts("classification"),
        )

    def _backbone_entries(self, model: Detector, source: str, *, in_detector: bool) -> Iterator[Entry]:
        has_pyramid = not isinstance(model.feature_extractor.fpn, SingleLevel)
        for layers in resnets.resnet_layers(model, source):
            conv, norm = self.resnet_names(layers)
            prefix = self.stage_prefix(layers.stage, has_pyramid=has_pyramid) if in_detector else ""
            yield Entry(prefix + conv, layers.conv)
            yield Entry(prefix + norm, layers.norm)

    def _refuse_other_detector(self, tensors: Tensors, model: FasterRCNN | RetinaNet, source: str) -> None:
        """Refuses a RetinaNet for another detector, and the other way round."""
        kinds = {True: "a RetinaNet (model.ssd)", False: "a Faster or Mask R-CNN (model.faster_rcnn)"}
        is_retinanet = any(name.startswith(self.of_retinanets) for name in tensors)
        if is_retinanet != isinstance(model, RetinaNet):
            raise CheckpointError(
                f"{source}: this file is {kinds[is_retinanet]}, but the config describes {kinds[not is_retinanet]}. Use the "
                "recipe of this model."
            )

    def _check_backbone(self, backbone: Backbone, tensors: Tensors, source: str) -> None:
        mean, stddev = (
            tuple(float(value) for value in np.ravel(tensors.get(name, default)))
            for name, default in (("pixel_mean", self.pixels.mean), ("pixel_std", self.pixels.stddev))
        )
        pixels = PixelNormalization(mean=mean, stddev=stddev, is_bgr=self.pixels.is_bgr)
        resnets.refuse_other_backbone(backbone, stride_in_3x3=self.stride_in_3x3, pixels=pixels, source=source)


def _loss_normalizer(model: FasterRCNN | RetinaNet) -> dict[str, np.ndarray]:
    """Where a RetinaNet averages what its losses are divided by, the average before the first step: no file holds it."""
    if isinstance(model, FasterRCNN) or model.dense_head.loss_normalizer is None:
        return {}
    variable = model.dense_head.loss_normalizer
    (path,) = (path for path, each in variables_by_path(model).items() if each is variable)
    return {path: np.array(loss_normalization.FIRST_AVERAGE, np.float32)}
