"""Refuses combinations of fields of `eval_config` that cannot work."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import Message

from object_detection_fpn.config import model as model_config
from object_detection_fpn.config import tables as fields
from object_detection_fpn.config.problems import Problem, Rule, single
from object_detection_fpn.config.text import listed, nearest, split_names
from object_detection_fpn.drawing.boxes import is_color
from object_detection_fpn.protos import (
    eval_pb2,
    pipeline_pb2,
)


def _masks_can_be_measured(config: pipeline_pb2.TrainEvalPipelineConfig, path: str) -> Iterator[Problem]:
    if model_config.has_masks(config.model):
        return
    allowed = "metrics of boxes"
    if model_config.has_stages(config.model):
        allowed += f", or {model_config.field_path(config.model, 'number_of_stages')} = 3"
    for row, name in enumerate(config.eval_config.metrics_set):
        if name in fields.MASK_METRICS_SETS:
            problem = f"measures masks, which the model does not predict: {model_config.why_no_masks(config.model)}"
            yield Problem(f"eval_config.metrics_set[{row}]", problem, allowed, f'"{name}"')


def _metrics_are_known(message: Message, path: str) -> Iterator[Problem]:
    known = (*fields.METRICS_SETS, *fields.FORMER_METRICS_SETS)
    seen: dict[str, str] = {}
    for row, name in enumerate(message.metrics_set):  # type: ignore[attr-defined]
        place, value = f"{path}.metrics_set[{row}]", f'"{name}"'
        if name not in known:
            problem = fields.REFUSED_METRICS_SETS.get(name, f"is unknown{nearest(name, known)}")
            yield Problem(place, problem, listed(fields.METRICS_SETS), value)
            continue
        todays_name = fields.FORMER_METRICS_SETS.get(name, name)
        if todays_name in seen:
            yield Problem(place, f"asks for the same metrics as {seen[todays_name]}", "each set once", value)
        seen.setdefault(todays_name, place)


def _super_categories_have_members(message: eval_pb2.EvalConfig, path: str) -> Iterator[Problem]:
    for name, members in sorted(message.super_categories.items()):
        if not split_names(members):
            place = f'{path}.super_categories["{name}"]'
            yield Problem(place, "names no class", "names of classes, separated by commas", f'"{members}"')


def _color_is_known(message: eval_pb2.EvalConfig, path: str) -> Iterator[Problem]:
    name = "groundtruth_box_visualization_color"
    if not is_color(message.groundtruth_box_visualization_color):
        yield single(message, path, name, "is no colour", 'HTML names such as "black", "DarkOrange", "Chartreuse"')


RULES: dict[str, tuple[Rule, ...]] = {
    "TrainEvalPipelineConfig": (_masks_can_be_measured,),
    "EvalConfig": (
        _metrics_are_known,
        _super_categories_have_members,
        _color_is_known,
    ),
}
