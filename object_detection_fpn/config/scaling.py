"""Learning rates for another batch than the one they were written for: the linear rule (Goyal et al., 2017, section 2.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from object_detection_fpn.config.text import ConfigError, is_repeated
from object_detection_fpn.protos import pipeline_pb2


class Scaling(NamedTuple):
    """What became of the learning rates."""

    old: float
    """The highest of them."""
    new: float
    batch_size: int
    reference_batch_size: int

    def __str__(self) -> str:
        rule = f"batch_size / reference_batch_size = {self.batch_size} / {self.reference_batch_size}"
        return f"Learning rates times {rule}: the highest, {self.old:.7g}, becomes {self.new:.7g}."


def scale_learning_rates(config: pipeline_pb2.TrainEvalPipelineConfig, source: str) -> Scaling:
    """Multiplies all learning rates of the schedule by `batch_size` / `reference_batch_size`, in place; steps stay.

    `reference_batch_size` becomes `batch_size`, for which the rates then are written: doing it again changes nothing.

    Args:
        config: a checked config.
        source: the file it comes from, for the error.

    Raises:
        ConfigError: if `reference_batch_size` is 0.
    """
    settings = config.train_config
    batch_size, reference = settings.batch_size, settings.reference_batch_size
    if not reference:
        raise ConfigError(
            source,
            "does not say for which batch the learning rates are written, which --auto_scale_lr has to know",
            field="train_config.reference_batch_size",
            value="0",
            allowed="1 or more, in the config or by --config_override",
        )
    kind = settings.optimizer.WhichOneof("optimizer")
    schedule = getattr(settings.optimizer, kind).learning_rate
    rates = list(_rates(getattr(schedule, schedule.WhichOneof("learning_rate"))))
    old = max(getattr(message, name) for message, name in rates)
    for message, name in rates:
        setattr(message, name, getattr(message, name) * batch_size / reference)
    settings.reference_batch_size = batch_size
    return Scaling(old, max(getattr(message, name) for message, name in rates), batch_size, reference)


def _rates(message: Any) -> Iterator[tuple[Message, str]]:
    """Every learning rate in a schedule, set or not: the message that has it, and the field's name."""
    for field in message.DESCRIPTOR.fields:
        if is_repeated(field) and field.message_type:
            for row in getattr(message, field.name):
                yield from _rates(row)
        elif field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT and "learning_rate" in field.name:
            yield message, field.name
