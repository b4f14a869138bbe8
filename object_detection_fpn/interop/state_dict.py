"""State dicts of PyTorch models, filed under the paths of our variables: layouts, and the rule that every tensor counts once.

| there | here |
|---|---|
| convolution, weight [out, in, height, width] | kernel [height, width, in, out] |
| transposed convolution, weight [in, out, height, width] | kernel [height, width, out, in]: the same exchange of axes |
| linear layer, weight [out, in] | kernel [in, out] |
| linear layer after flattening [C, S, S], weight [out, C * S * S] | kernel [S * S * C, out]: ours flattens [S, S, C] |
| bias | bias |
| normalization, weight, bias, running_mean, running_var | gamma, beta, moving_mean, moving_variance |

Which layer has which name there is the matter of `torchvision` and `detectron2`.
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras

from object_detection_fpn.interop.odapi import local_name
from object_detection_fpn.modeling import fpn, layers
from object_detection_fpn.modeling.detector import Detector
from object_detection_fpn.modeling.detectors.faster_rcnn import FasterRCNN
from object_detection_fpn.modeling.heads.mask import MaskHead
from object_detection_fpn.modeling.single_level import SingleLevel
from object_detection_fpn.training.stored import CheckpointError, some
from object_detection_fpn.training.weights import variables_by_path

THEIR_NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""What PyTorch calls the variables of a layer."""
BOX_ORDER = (1, 0, 3, 2)
"""(dx, dy, dw, dh), which PyTorch's detectors predict, in our order (dy, dx, dh, dw)."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A layer of ours, and where its tensors stand.

    Attributes:
        name: of the layer there; its tensors are "name.weight", "name.bias", ...
        layer: ours.
        rows: for each of our outputs the row of theirs; None = the same.
        num_rows: how many rows theirs has; None = as many as we have outputs.
        flattened_size: S of a linear layer after flattening [C, S, S].
        anchors: of a predictor that has all classes of one anchor after those of another: for each of our anchors its number
            there.
    """

    name: str
    layer: tf_keras.layers.Layer
    rows: np.ndarray | None = None
    num_rows: int | None = None
    flattened_size: int | None = None
    anchors: np.ndarray | None = None

    def shape_there(self, variable: tf.Variable) -> tuple[int, ...]:
        """The shape that the tensor of one of the layer's variables must have."""
        *inner, num_outputs = variable.shape
        if len(inner) == 3:
            inner = [inner[2], inner[0], inner[1]]
        return (self.num_rows or num_outputs, *inner)

    def convert(self, tensor: np.ndarray) -> np.ndarray:
        """A tensor of the right shape in our layout, float32."""
        tensor = np.asarray(tensor, np.float32)
        if self.rows is not None:
            tensor = tensor[self.rows]
        if tensor.ndim == 2 and self.flattened_size:
            side = self.flattened_size
            tensor = tensor.reshape([len(tensor), -1, side, side]).transpose(0, 2, 3, 1).reshape(tensor.shape)
        return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T


def box_rows(num_boxes: int, *, first: int = 0, boxes: np.ndarray | None = None) -> np.ndarray:
    """Rows of a box predictor's weight [(first + num_boxes) * 4, ...] for ours, the first boxes left out.

    Args:
        num_boxes: of ours.
        first: how many stand before them there.
        boxes: [num_boxes], for each of ours its number there; None = the same.
    """
    numbers = first + (np.arange(num_boxes) if boxes is None else boxes)
    return (numbers[:, np.newaxis] * 4 + np.array(BOX_ORDER)).reshape(-1)


def mask_rows(num_masks: int) -> np.ndarray:
    """Rows of a mask predictor's weight [1 + num_masks, ...] for ours, the first left out: the mask of the background."""
    return np.arange(1, num_masks + 1)


class MaskLayers(NamedTuple):
    """The layers of a mask head (He et al. 2017, figure 4)."""

    convs: list[layers.ConvNormActivation]
    upsample: tf_keras.layers.Layer
    """The transposed convolution."""
    predictor: tf_keras.layers.Layer | None
    """None where its weights are computed from those of the box head (`mask_transfer`)."""
    num_masks: int
    """As many as classes, or 1 where all classes share a mask."""


class HeadLayers(NamedTuple):
    """The layers of a detector beyond its backbone, as PyTorch's detectors have them."""

    laterals: dict[int, layers.ConvNormActivation]
    """By level, as `smoothings`."""
    smoothings: dict[int, layers.ConvNormActivation]
    rpn_convs: list[tf_keras.layers.Layer]
    objectness: tf_keras.layers.Layer
    deltas: tf_keras.layers.Layer
    cell_anchors: np.ndarray
    """[A, 4], the anchors of a cell in our order."""
    box_convs: list[layers.ConvNormActivation]
    dense: list[tf_keras.layers.Layer]
    """Of the box head, before the predictors."""
    flattened_size: int
    """S of the RoI features [S, S, C], which go into the first of `dense`."""
    class_predictor: tf_keras.layers.Layer
    box_predictor: tf_keras.layers.Layer
    num_classes: int
    num_boxes: int
    """`num_classes`, or 1 where all classes share a box."""
    mask: MaskLayers | None
    """None for a detector of boxes."""


def head_layers(model: FasterRCNN, source: str, *, with_masks: bool = True) -> HeadLayers:
    """The layers of a detector that is built like those of PyTorch.

    Args:
        model: ours, built.
        source: name of the file in errors.
        with_masks: whether the mask head is among them, if the model has one.

    Raises:
        CheckpointError: if it is built otherwise; it names the field.
    """
    pyramid, rpn_head, box_head = model.feature_extractor.fpn, model.rpn.head, model.box_head
    mask_head = model.mask_head if with_masks else None
    needed = None
    has_pyramid = not isinstance(pyramid, SingleLevel)
    if has_pyramid and not isinstance(pyramid, fpn.PaperFPN):
        needed = "feature_extractor.fpn.style: PAPER"
    elif len(rpn_head.objectness) > 1:
        needed = "rpn.share_predictors: true"
    elif mask_head is not None and mask_head.upsample is None:
        needed = "mask_upsampling: TRANSPOSED_CONVOLUTION"
    if needed or box_head is None:
        raise CheckpointError(
            f"{source}: the config describes another model. This one has {needed or 'number_of_stages: 2'}. Use its recipe."
        )
    assert model.roi_pooler is not None
    parts = box_head.feature_extractor.parts
    return HeadLayers(
        laterals=layers_by_level(pyramid.laterals) if isinstance(pyramid, fpn.PaperFPN) else {},
        smoothings=layers_by_level(pyramid.smoothings) if isinstance(pyramid, fpn.PaperFPN) else {},
        rpn_convs=[rpn_head.conv, *(further.conv for further in rpn_head.further_convs)],
        objectness=rpn_head.objectness[0],
        deltas=rpn_head.deltas[0],
        cell_anchors=model.rpn.cell_anchors(),
        box_convs=[part for part in parts if isinstance(part, layers.ConvNormActivation)],
        dense=[part for part in parts if isinstance(part, tf_keras.layers.Dense)],
        flattened_size=model.roi_pooler.output_size,
        class_predictor=box_head.class_predictor,
        box_predictor=box_head.box_predictor,
        num_classes=box_head.num_classes,
        num_boxes=box_head.num_boxes,
        mask=None if mask_head is None else _mask_layers(mask_head),
    )


def layers_by_level(layers_by_name: Mapping[str, layers.ConvNormActivation]) -> dict[int, layers.ConvNormActivation]:
    """Layers of a pyramid, whose names are their levels."""
    return {int(level): layer for level, layer in layers_by_name.items()}


def _mask_layers(head: MaskHead) -> MaskLayers:
    parts = [child for child in head.submodules if isinstance(child, layers.ConvNormActivation)]
    assert head.upsample is not None
    return MaskLayers(
        convs=sorted(parts, key=lambda part: int(part.name.removeprefix("conv"))),
        upsample=head.upsample,
        predictor=head.predictor,
        num_masks=head.num_masks,
    )


def rename(name: str, substitutions: Iterable[tuple[re.Pattern[str], str]]) -> str:
    """A name after all substitutions (pattern, replacement), one after the other."""
    for pattern, replacement in substitutions:
        name = pattern.sub(replacement, name)
    return name


def refuse_other_models(names: Iterable[str], others: Iterable[tuple[str, str]], source: str) -> None:
    """Refuses a file of another kind of model.

    Args:
        names: of its tensors.
        others: (how a name begins that only that kind has, what kind it is).
        source: name of the file.

    Raises:
        CheckpointError: if it is of one of these kinds; it says which.
    """
    names = list(names)
    for beginning, kind in others:
        if any(name.startswith(beginning) for name in names):
            raise CheckpointError(f"{source}: this file is {kind}.")


def refuse_other_levels(model: FasterRCNN, *, has_pyramid: bool, source: str) -> None:
    """Refuses a file of a detector with a feature pyramid where the model has none, or the other way round.

    Raises:
        CheckpointError: if the two differ.
    """
    if isinstance(model.feature_extractor.fpn, SingleLevel) != has_pyramid:
        return
    kinds = ("of one level, without feature pyramid", "with a feature pyramid")
    types = (
        'feature_extractor.type: "faster_rcnn_resnet50_keras"',
        'feature_extractor.type: "faster_rcnn_resnet50_fpn_keras"',
    )
    raise CheckpointError(
        f"{source}: this file is of a detector {kinds[has_pyramid]}, but the model is one {kinds[not has_pyramid]}. "
        f"Use the recipe of the file, which has {types[has_pyramid]} or a deeper one."
    )


def file_under_our_paths(
    tensors: Mapping[str, np.ndarray],
    entries: Iterable[Entry],
    model: Detector,
    *,
    source: str,
    is_ignored: Callable[[str], bool],
    parts: Sequence[str] | None = None,
    given: Mapping[str, np.ndarray] = types.MappingProxyType({}),
) -> dict[str, np.ndarray]:
    """Files tensors under the paths of our variables, in our layouts.

    Args:
        tensors: of the state dict, by name.
        entries: the table of names.
        model: what they are for, built.
        source: name of the file in errors.
        is_ignored: says of a name whether its tensor is no weight.
        parts: paths of the model that the entries must fill; None = all of it.
        given: {path of our variable: array} of what no file of this kind holds.

    Returns:
        {path of our variable: array}, every variable of these parts.

    Raises:
        CheckpointError: if a tensor is missing, left over or of another shape, or a variable has no tensor.
    """
    paths = {id(variable): path for path, variable in variables_by_path(model).items()}
    wanted = {path for path in paths.values() if parts is None or path.startswith(tuple(f"{part}/" for part in parts))}
    result: dict[str, np.ndarray] = dict(given)
    missing: list[str] = []
    misshapen: list[str] = []
    used: set[str] = set()
    for entry in entries:
        for variable in entry.layer.variables:
            name = f"{entry.name}.{THEIR_NAMES[local_name(variable)]}"
            tensor, shape = tensors.get(name), entry.shape_there(variable)
            used.add(name)
            if tensor is None:
                missing.append(name)
            elif tuple(tensor.shape) != shape:
                misshapen.append(f"{name} {list(tensor.shape)}, needed {list(shape)}")
            else:
                result[paths[id(variable)]] = entry.convert(tensor)
    left_over = [name for name in tensors if name not in used and not is_ignored(name)]
    faults = {"missing": missing, "left over": left_over, "of another shape": misshapen}
    if not (missing or misshapen):
        faults["variables of the model without a tensor"] = sorted(wanted - result.keys())
    found = [f"{len(names)} {kind}: {some(names)}" for kind, names in faults.items() if names]
    if found:
        raise CheckpointError(
            f"{source}: these tensors are not those of the model that the config describes. {'; '.join(found)}. Use the "
            "recipe of this model, with num_classes of the file."
        )
    return result
