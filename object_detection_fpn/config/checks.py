"""Refuses configs that cannot work before anything is built: the tables of `config.tables` and the rules of `config.rules`.

To refuse one more value, add a line to a table; to refuse a combination of fields, a rule.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from object_detection_fpn.config import rules
from object_detection_fpn.config import tables as fields
from object_detection_fpn.config.bounds import BOUNDS, NEED_NOT_BE_SET
from object_detection_fpn.config.problems import Problem, join, single, unset, walk
from object_detection_fpn.config.rules import context, masks, single_level
from object_detection_fpn.config.rules.model import pyramid_levels
from object_detection_fpn.config.text import format_value, is_repeated, listed
from object_detection_fpn.protos import pipeline_pb2


def find_problems(config: pipeline_pb2.TrainEvalPipelineConfig) -> Iterator[Problem]:
    """All that is wrong with the config itself; no file is opened."""
    for path, message in walk(config):
        name = message.DESCRIPTOR.name
        for rule in (_required, _bounds, _ranges, _refused, *rules.rules_of(name)):
            yield from rule(message, path)


def find_ineffective(config: pipeline_pb2.TrainEvalPipelineConfig) -> Iterator[Problem]:
    """The fields that say something which has no effect here, and why."""
    for path, message in walk(config):
        for field, value in message.ListFields():
            reason = fields.NO_EFFECT.get(f"{message.DESCRIPTOR.name}.{field.name}")
            if reason and (field.message_type or value != field.default_value):
                text = None if field.message_type else format_value(field, value)
                yield Problem(join(path, field.name), f"has no effect: {reason}", value=text)
    yield from masks.ineffective(config)
    yield from single_level.ineffective(config)
    yield from context.ineffective(config)


def _required(message: Message, path: str) -> Iterator[Problem]:
    descriptor = message.DESCRIPTOR
    for name in fields.REQUIRED.get(descriptor.name, ()):
        if name in descriptor.oneofs_by_name:
            if not message.WhichOneof(name):
                members = [field.name for field in descriptor.oneofs_by_name[name].fields]
                yield Problem(path, "is empty", f"one of {listed(members)}" if len(members) > 1 else members[0])
        else:
            yield from unset(message, path, name)


def _bounds(message: Message, path: str) -> Iterator[Problem]:
    for field in message.DESCRIPTOR.fields:
        name = f"{message.DESCRIPTOR.name}.{field.name}"
        bounds = BOUNDS.get(name) or BOUNDS.get(f"*.{field.name}")
        if not bounds or field.message_type or (name in NEED_NOT_BE_SET and not message.HasField(field.name)):
            continue
        value = getattr(message, field.name)
        for row, element in enumerate(value) if is_repeated(field) else [(None, value)]:
            if element not in bounds:
                place = join(path, field.name) + ("" if row is None else f"[{row}]")
                yield Problem(place, "is out of range", str(bounds), format_value(field, element))


def _ranges(message: Message, path: str) -> Iterator[Problem]:
    known = message.DESCRIPTOR.fields_by_name
    for low_part, high_part in fields.RANGE_ENDS:
        for low_name in known:
            high = known.get(low_name.replace(low_part, high_part))
            if low_part not in low_name or not high or is_repeated(high):
                continue
            if not high.has_default_value and not message.HasField(high.name):
                continue  # without a default, an unset end means no end
            low_value = getattr(message, low_name)
            if getattr(message, high.name) < low_value:
                low_text = format_value(known[low_name], low_value)
                allowed = pyramid_levels(message) or f"{low_text} or more"
                yield single(message, path, high.name, f"is below {low_name} = {low_text}", allowed)


def _refused(message: Message, path: str) -> Iterator[Problem]:
    for field, value in message.ListFields():
        reason = fields.REFUSED.get(f"{message.DESCRIPTOR.name}.{field.name}")
        if reason and (field.message_type or value):
            text = None if field.message_type or is_repeated(field) else format_value(field, value)
            allowed = "false" if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else "to leave it out"
            yield Problem(join(path, field.name), reason, allowed, text)
