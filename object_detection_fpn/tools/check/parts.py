"""The parts of a detector: their layers and parameters, and why some of these do not train."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from object_detection_fpn.modeling.detector import Detector
from object_detection_fpn.training.weights import variables_by_path

PYRAMID, PROPOSALS, BOXES, BOX_FEATURES, MASKS = "pyramid", "region proposals", "box head", "box features", "mask head"
DENSE_PREDICTORS = "dense head, predictors"
# The first beginning that fits a variable's path gives its part; the order is that of the table.
_PARTS = (
    ("feature_extractor/fpn/", PYRAMID),
    ("feature_extractor/", "feature extractor"),
    ("rpn/", PROPOSALS),
    ("box_head/feature_extractor/", BOX_FEATURES),
    ("box_head/", BOXES),
    ("mask_head/", MASKS),
    ("context_attention/", "context attention"),
    ("dense_head/class_tower/", "dense head, class tower"),
    ("dense_head/box_tower/", "dense head, box tower"),
    ("dense_head/", DENSE_PREDICTORS),
)
_STATISTICS = ("moving_mean", "moving_variance")


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a detector."""

    name: str
    num_layers: int
    """Layers with variables; normalization counts as layers of its own."""
    num_parameters: int
    num_trained: int
    """Of these."""
    output: str = ""
    """What it gives of one image; empty if unknown."""


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Variables that a step does not train, for one reason."""

    reason: str
    paths: tuple[str, ...]
    num_parameters: int


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """The variables of a detector."""

    parts: tuple[Part, ...]
    frozen: tuple[Frozen, ...]
    num_parameters: int
    num_trained: int
    variables: tuple[tuple[str, tuple[int, ...], bool], ...]
    """(path, shape, whether it is trained) of each."""


def describe(
    model: Detector,
    trained: Collection[tf.Variable],
    *,
    freeze: Sequence[str] = (),
    update: Sequence[str] = (),
    outputs: Mapping[str, str] | None = None,
) -> Anatomy:
    """Takes a detector apart.

    Args:
        model: the detector, built.
        trained: what training changes, of `training.selection.select_variables`.
        freeze: `train_config.freeze_variables`, for the reasons.
        update: `train_config.update_trainable_variables`.
        outputs: what the parts give, by name.
    """
    paths = variables_by_path(model)
    trained_ids = {id(variable) for variable in trained}
    backbone = model.feature_extractor.backbone
    stage_of = _stages(backbone)
    frozen_stages = [stage_name(level) for level in backbone.levels[: max(backbone.frozen_stages - 1, 0)]]
    by_part: dict[str, list[str]] = collections.defaultdict(list)
    by_reason: dict[str, list[str]] = collections.defaultdict(list)
    trainable_ids = {id(variable) for variable in model.trainable_variables}
    for path, variable in paths.items():
        by_part[stage_of.get(id(variable)) or _part(path)].append(path)
        if id(variable) not in trained_ids:
            reason = (
                _why_left_out(path, variable.name, freeze)
                if id(variable) in trainable_ids
                else _why_not_trainable(path, stage_of.get(id(variable)), frozen_stages)
            )
            by_reason[reason].append(path)
    order = [*dict.fromkeys(stage_of.values()), *(name for _, name in _PARTS)]
    names = [name for name in order if name in by_part] + [name for name in by_part if name not in order]

    def count(chosen: Sequence[str]) -> int:
        return sum(math.prod(paths[path].shape) for path in chosen)

    parts = tuple(
        Part(
            name,
            num_layers=len({path.rpartition("/")[0] for path in by_part[name]}),
            num_parameters=count(by_part[name]),
            num_trained=count([path for path in by_part[name] if id(paths[path]) in trained_ids]),
            output=(outputs or {}).get(name, ""),
        )
        for name in names
    )
    return Anatomy(
        parts=parts,
        frozen=tuple(Frozen(reason, tuple(of_it), count(of_it)) for reason, of_it in by_reason.items()),
        num_parameters=sum(part.num_parameters for part in parts),
        num_trained=sum(part.num_trained for part in parts),
        variables=tuple((path, tuple(variable.shape), id(variable) in trained_ids) for path, variable in paths.items()),
    )


def stage_name(level: int) -> str:
    """The part of a backbone that leads to a level, from the one before."""
    return f"backbone, to C{level}"


def _stages(backbone: Any) -> dict[int, str]:
    """{id of a variable: its stage}, in the order of the stages."""
    stage_of: dict[int, str] = {}
    for level, output in zip(backbone.levels, backbone.network.outputs, strict=True):
        network = tf_keras.Model(backbone.network.inputs, output)
        for variable in network.variables:
            stage_of.setdefault(id(variable), stage_name(level))
    return stage_of


def _part(path: str) -> str:
    return next((name for beginning, name in _PARTS if path.startswith(beginning)), path.split("/")[0])


def _why_left_out(path: str, name: str, freeze: Sequence[str]) -> str:
    """Of what could be trained."""
    for pattern in freeze:
        if any(re.search(pattern, text) for text in (path, name)):
            return f'train_config.freeze_variables: "{pattern}"'
    return "none of train_config.update_trainable_variables matches"


def _why_not_trainable(path: str, stage: str | None, frozen_stages: Collection[str]) -> str:
    kind = path.rpartition("/")[2]
    # Nothing else takes the training of a convolution away.
    if stage in frozen_stages or kind in ("kernel", "bias"):
        return "frozen_stages of the backbone"
    if kind in _STATISTICS:
        return "statistics of batch norm: they have no gradient"
    if kind in ("gamma", "beta"):
        return "scale and offset of batch norm that is frozen"
    return "no weights: a state of the model"
