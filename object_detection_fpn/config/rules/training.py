"""Refuses combinations of fields of `train_config` that cannot work."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message

from object_detection_fpn.config import tables as fields
from object_detection_fpn.config.problems import Problem, Rule, join, single
from object_detection_fpn.config.text import listed
from object_detection_fpn.protos import (
    pipeline_pb2,
    train_pb2,
)


def _averages_exist(config: pipeline_pb2.TrainEvalPipelineConfig, path: str) -> Iterator[Problem]:
    trained = config.HasField("train_config") and config.train_config.HasField("optimizer")
    if trained and config.eval_config.use_moving_averages and not config.train_config.optimizer.use_moving_average:
        problem = "needs averages that training does not keep: train_config.optimizer.use_moving_average is false"
        yield single(config.eval_config, "eval_config", "use_moving_averages", problem, "false, or true in both")


def _fine_tuning_is_known(message: train_pb2.TrainConfig, path: str) -> Iterator[Problem]:
    known = fields.FINE_TUNE_CHECKPOINT_TYPES
    if message.fine_tune_checkpoint_type not in known:
        yield single(message, path, "fine_tune_checkpoint_type", "is unknown", listed(known[1:]))
    if message.fine_tune_checkpoint == fields.IMAGENET and message.fine_tune_checkpoint_type in ("detection", "full"):
        problem = f'does not fit fine_tune_checkpoint = "{fields.IMAGENET}", which is a backbone'
        yield single(message, path, "fine_tune_checkpoint_type", problem, "classification, or to leave it out")
    # The default is V1, which no TensorFlow 2 config can mean: only V1 in writing is refused.
    version = "fine_tune_checkpoint_version"
    if (
        message.fine_tune_checkpoint
        and message.HasField(version)
        and message.fine_tune_checkpoint_version != train_pb2.V2
    ):
        yield single(message, path, version, "is the format of TensorFlow 1, which cannot be read", "V2")


def _patterns_are_regular_expressions(message: train_pb2.TrainConfig, path: str) -> Iterator[Problem]:
    for name in ("freeze_variables", "update_trainable_variables"):
        for row, pattern in enumerate(getattr(message, name)):
            try:
                re.compile(pattern)
            except re.error as error:
                place = f"{join(path, name)}[{row}]"
                yield Problem(place, f"is no regular expression ({error})", "regular expressions", f'"{pattern}"')


def _parts_fit_batch(message: train_pb2.TrainConfig, path: str) -> Iterator[Problem]:
    num_parts = message.accumulate_gradients
    if num_parts and message.batch_size % num_parts:
        problem = f"cannot be computed in accumulate_gradients = {num_parts} parts of one size"
        yield single(message, path, "batch_size", problem, f"multiples of {num_parts}")


def _gradients_travel_in_known_numbers(message: train_pb2.TrainConfig, path: str) -> Iterator[Problem]:
    if message.all_reduce_precision == train_pb2.FLOAT16:
        problem = "cannot hold the gradients of every model, whose range is that of float32"
        yield single(message, path, "all_reduce_precision", problem, "BFLOAT16, FLOAT32")


def _schedule_ascends(message: Message, path: str) -> Iterator[Problem]:
    previous = -1
    for row, change in enumerate(message.schedule):  # type: ignore[attr-defined]
        if change.step <= previous:
            yield single(
                change, f"{path}.schedule[{row}]", "step", "is not after the one before", f"{previous + 1} or more"
            )
        previous = change.step


def _warmup_fits(message: Any, path: str) -> Iterator[Problem]:
    before = message.warmup_steps + message.hold_base_rate_steps
    if before > message.total_steps:
        problem = f"is below warmup_steps + hold_base_rate_steps = {before}"
        yield single(message, path, "total_steps", problem, f"{before} or more")
    if message.warmup_steps and message.warmup_learning_rate > message.learning_rate_base:
        base = f"{message.learning_rate_base:g}"
        problem = f"is above learning_rate_base = {base}"
        yield single(message, path, "warmup_learning_rate", problem, f"0 to {base}, or warmup_steps: 0")


RULES: dict[str, tuple[Rule, ...]] = {
    "TrainEvalPipelineConfig": (_averages_exist,),
    "TrainConfig": (
        _fine_tuning_is_known,
        _patterns_are_regular_expressions,
        _parts_fit_batch,
        _gradients_travel_in_known_numbers,
    ),
    "ManualStepLearningRate": (_schedule_ascends,),
    "CosineDecayLearningRate": (_warmup_fits,),
}
