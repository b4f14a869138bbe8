"""RetinaNets of PyTorch: their layers in ours, and the order in which their predictors have anchors and classes."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import tf_keras

from object_detection_fpn.interop import state_dict
from object_detection_fpn.interop.state_dict import Entry
from object_detection_fpn.modeling import fpn, layers
from object_detection_fpn.modeling.detectors.retinanet import RetinaNet
from object_detection_fpn.modeling.heads.dense import Tower
from object_detection_fpn.training.stored import CheckpointError


class TowerLayer(NamedTuple):
    """A convolution of a tower, and what follows it."""

    conv: tf_keras.layers.Layer
    norm: tf_keras.layers.Layer | None


class DenseLayers(NamedTuple):
    """The layers of a RetinaNet beyond its backbone."""

    laterals: dict[int, layers.ConvNormActivation]
    """By level, as `smoothings` and `extras`."""
    smoothings: dict[int, layers.ConvNormActivation]
    extras: dict[int, tf_keras.layers.Layer]
    class_tower: list[TowerLayer]
    box_tower: list[TowerLayer]
    class_predictor: tf_keras.layers.Layer
    box_predictor: tf_keras.layers.Layer
    cell_anchors: np.ndarray
    """[A, 4], the anchors of a cell in our order."""
    num_columns: int
    """Of each anchor, in the class predictor."""
    has_background: bool
    """Whether the first of them is the background's."""


def dense_layers(model: RetinaNet, source: str, *, may_have_background: bool) -> DenseLayers:
    """The layers of a RetinaNet that is built like those of PyTorch.

    Args:
        model: ours, built.
        source: name of the file in errors.
        may_have_background: whether its class predictor may have a column of the background.

    Raises:
        CheckpointError: if it is built otherwise; it names the field.
    """
    pyramid, head = model.feature_extractor.fpn, model.dense_head
    predictor = "box_predictor.weight_shared_convolutional_box_predictor"
    needed = None
    if not isinstance(pyramid, fpn.PaperFPN):
        needed = "feature_extractor.fpn.style: PAPER"
    elif head.class_tower is None:
        needed = f"{predictor}.share_prediction_tower: false"
    elif len(head.box_tower.norms) > 1:
        needed = f"{predictor}.share_norms: true"
    elif head.has_background and not may_have_background:
        needed = "add_background_class: false"
    if needed:
        raise CheckpointError(f"{source}: the config describes another model. This one has {needed}. Use its recipe.")
    assert isinstance(pyramid, fpn.PaperFPN) and head.class_tower is not None
    return DenseLayers(
        laterals=state_dict.layers_by_level(pyramid.laterals),
        smoothings=state_dict.layers_by_level(pyramid.smoothings),
        extras={int(level): layer for level, layer in pyramid.extras.items()},
        class_tower=_tower_layers(head.class_tower),
        box_tower=_tower_layers(head.box_tower),
        class_predictor=head.class_predictor,
        box_predictor=head.box_predictor,
        cell_anchors=model.cell_anchors(),
        num_columns=head.num_columns,
        has_background=head.has_background,
    )


def _tower_layers(tower: Tower) -> list[TowerLayer]:
    norms = tower.norms[0] if tower.norms else [None] * len(tower.convs)
    return [TowerLayer(conv, norm) for conv, norm in zip(tower.convs, norms, strict=True)]


def box_entry(name: str, head: DenseLayers, anchors: np.ndarray) -> Entry:
    """The box predictor, whose rows are (dx, dy, dw, dh) of each anchor there; `anchors` [A] says in which order."""
    return Entry(name, head.box_predictor, rows=state_dict.box_rows(len(anchors), boxes=anchors))


def class_entry(name: str, head: DenseLayers, anchors: np.ndarray, *, num_first: int = 0) -> Entry:
    """The class predictor, whose rows are the classes of each anchor there.

    Args:
        name: of the layer there.
        head: ours.
        anchors: [A], for each of our anchors its number there.
        num_first: columns that come there before those that ours has.
    """
    num_there = num_first + head.num_columns
    return Entry(
        name,
        head.class_predictor,
        rows=_class_rows(anchors, num_there, num_first),
        num_rows=len(anchors) * num_there,
        anchors=anchors,
    )


def with_class_rows(entry: Entry, num_rows: int) -> Entry:
    """The class predictor of a RetinaNet of other classes, whose tensors have `num_rows` rows."""
    assert entry.anchors is not None and entry.rows is not None and entry.num_rows is not None
    num_anchors = len(entry.anchors)
    num_first = (entry.num_rows - len(entry.rows)) // num_anchors
    rows = _class_rows(entry.anchors, num_rows // num_anchors, num_first)
    return dataclasses.replace(entry, rows=rows, num_rows=num_rows)


def _class_rows(anchors: np.ndarray, num_there: int, num_first: int) -> np.ndarray:
    return (anchors[:, np.newaxis] * num_there + np.arange(num_first, num_there)).ravel()
