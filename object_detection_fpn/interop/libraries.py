"""The libraries whose files of weights are read: which one a file is of, and what of it a model gets."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, NamedTuple

import numpy as np

from object_detection_fpn.interop import resnets, retinanets, state_dict
from object_detection_fpn.interop.detectron2 import Detectron2
from object_detection_fpn.interop.library import Library, Tensors
from object_detection_fpn.interop.odapi import local_name
from object_detection_fpn.interop.state_dict import Entry
from object_detection_fpn.interop.torch_files import StateDict
from object_detection_fpn.interop.torchvision import Torchvision
from object_detection_fpn.modeling.detectors.faster_rcnn import FasterRCNN
from object_detection_fpn.modeling.detectors.retinanet import RetinaNet
from object_detection_fpn.training.stored import CheckpointError, some
from object_detection_fpn.training.weights import variables_by_path

LIBRARIES: dict[str, Library] = {"torchvision": Torchvision(), "detectron2": Detectron2()}
"""By the name that `odfpn import-weights --from` takes."""

# Detectron2 has ResNets of torchvision in its own names; they compute what torchvision's do.
_NAMES_OF_TORCHVISION = (
    (re.compile(r"^stem\.conv1\.norm\."), "bn1."),
    (re.compile(r"^stem\."), ""),
    (re.compile(r"\.conv(\d)\.norm\."), r".bn\1."),
    (re.compile(r"\.shortcut\.norm\."), ".downsample.1."),
    (re.compile(r"\.shortcut\."), ".downsample.0."),
    *((re.compile(rf"^res{stage}\."), f"layer{stage - 1}.") for stage in range(2, 6)),
)


class Found(NamedTuple):
    """What a file holds for a model."""

    library: str
    """A key of `LIBRARIES`."""
    is_detector: bool
    """Whether it is a whole detector, or a backbone alone."""
    weights: dict[str, Any]
    """{path of our variable: array}. A detector of other classes has predictors of other shapes."""
    unused_part: str = ""
    """What of its masks the model has no place for, in words."""


def find_weights(file: StateDict, model: FasterRCNN | RetinaNet, source: str) -> Found:
    """Finds out which library a file is of, and files its weights under the paths of our variables.

    Args:
        file: its content.
        model: what the weights are for, built.
        source: name of the file in errors.

    Raises:
        CheckpointError: if it is of no known library, or of another model: a tensor is left over or missing, or the model
            computes something else with it.
    """
    name, is_detector = identify(file.tensors, source)
    library = LIBRARIES[name]
    if is_detector:
        return Found(
            name,
            is_detector=True,
            weights=_detector_weights(library, file.tensors, model, source),
            unused_part=library.unused_part(file.tensors, model),
        )
    tensors: Tensors = file.tensors
    if name == "detectron2" and file.author == "torchvision":
        library, tensors = (
            LIBRARIES["torchvision"],
            {state_dict.rename(key, _NAMES_OF_TORCHVISION): tensor for key, tensor in tensors.items()},
        )
    backbone = model.feature_extractor.backbone
    if resnets.check_depth(tensors, backbone, source) in resnets.SMALL_DEPTHS:
        epsilon = next(resnets.resnet_layers(model, source)).norm.epsilon
        tensors = {**tensors, **_first_shortcut(tensors, epsilon)}
    return Found(name, is_detector=False, weights=library.backbone_weights_by_path(tensors, model, source))


def identify(tensors: Tensors, source: str) -> tuple[str, bool]:
    """The library that gave tensors their names, and whether they are a whole detector.

    Raises:
        CheckpointError: if it is none of `LIBRARIES`.
    """
    for is_detector in (True, False):
        for name, library in LIBRARIES.items():
            beginnings = library.of_detectors if is_detector else library.of_classifiers
            if any(tensor.startswith(beginnings) for tensor in tensors):
                return name, is_detector
    titles = " or ".join(library.title for library in LIBRARIES.values())
    raise CheckpointError(
        f"{source}: these tensors are of no detector and no ResNet of {titles}: {some(sorted(tensors))}."
    )


def _detector_weights(library: Library, tensors: Tensors, model: FasterRCNN | RetinaNet, source: str) -> dict[str, Any]:
    """The weights of a detector. Where its classes are others than the model's, the predictors have columns for these."""
    if isinstance(model, RetinaNet):
        predictors = [model.dense_head.class_predictor]
    elif model.box_head is None:
        return library.weights_by_path(tensors, model, source)
    else:
        predictors = [model.box_head.class_predictor, model.box_head.box_predictor]
        if model.mask_head is not None:
            predictors.append(model.mask_head.predictor)
    paths = {id(variable): path for path, variable in variables_by_path(model).items()}
    fitting, others = dict(tensors), {}
    for entry in library.entries(model, source, with_masks=library.has_masks(tensors)):
        for variable in entry.layer.variables if entry.layer in predictors else ():
            name = f"{entry.name}.{state_dict.THEIR_NAMES[local_name(variable)]}"
            shape = entry.shape_there(variable)
            tensor = tensors.get(name, np.zeros(shape))
            num_anchors = 1 if entry.anchors is None else len(entry.anchors)
            if tensor.shape != shape and tensor.shape[1:] == shape[1:] and len(tensor) % num_anchors == 0:
                others[paths[id(variable)]] = with_rows(entry, len(tensor)).convert(tensor)
                fitting[name] = np.zeros(shape, np.float32)
    return library.weights_by_path(fitting, model, source, needs_masks=False) | others


def with_rows(entry: Entry, num_rows: int) -> Entry:
    """The entry of a predictor in a detector of other classes, whose tensors have `num_rows` rows."""
    if entry.anchors is not None:
        return retinanets.with_class_rows(entry, num_rows)
    rows = entry.rows
    if rows is not None and entry.name.endswith("bbox_pred"):
        first = 1 if entry.num_rows else 0  # a box of the background
        rows = state_dict.box_rows(num_rows // 4 - first, first=first)
    elif rows is not None and entry.name.endswith("mask_fcn_logits"):
        rows = state_dict.mask_rows(num_rows - 1)
    elif rows is not None:  # the background is last
        rows = np.roll(np.arange(num_rows), 1)
    return dataclasses.replace(entry, rows=rows, num_rows=num_rows)


def _first_shortcut(tensors: Tensors, epsilon: float) -> dict[str, np.ndarray]:
    """Tensors of a first shortcut that changes nothing.

    ResNet-18 and -34 of tf-models-official have a convolution and a normalization there, those of torchvision have none.
    """
    num_filters = np.size(tensors.get("bn1.weight", ()))
    ones, zeros = np.ones(num_filters, np.float32), np.zeros(num_filters, np.float32)
    prefix = "layer1.0.downsample."
    return {
        f"{prefix}0.weight": np.eye(num_filters, dtype=np.float32)[:, :, np.newaxis, np.newaxis],
        f"{prefix}1.weight": ones,
        f"{prefix}1.bias": zeros,
        f"{prefix}1.running_mean": zeros,
        f"{prefix}1.running_var": ones - np.float32(epsilon),
    }
