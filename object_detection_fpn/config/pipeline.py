"""Pipeline configs: read, override, check, write.

`load_config` is what everything else uses. A config that it returns can be built: mistakes are refused here, with file,
line or field path, value, and what is allowed (`ConfigError`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence

import tensorflow as tf

from object_detection_fpn.config import checks, files
from object_detection_fpn.config.problems import Problem
from object_detection_fpn.config.rules import devices
from object_detection_fpn.config.text import (
    ConfigError,
    apply_override,
    format_message,
    parse_text,
    read_text,
)
from object_detection_fpn.protos import pipeline_pb2

__all__ = [
    "ConfigError",
    "check_config",
    "format_config",
    "load_config",
    "save_config",
]

_logger = logging.getLogger(__name__)


def load_config(
    path: str, overrides: Sequence[str] = (), *, require_data: str | Iterable[str] = ()
) -> pipeline_pb2.TrainEvalPipelineConfig:
    """Reads a pipeline config, changes it, and checks it.

    Fields that are set but have no effect here, and a class count that is not that of the label map, are logged as warnings.

    Args:
        path: a `.config` file in protobuf text format, local or remote.
        overrides: changes in order, each `path=value` or `path+=value` (`config.text.apply_override`).
        require_data: as for `check_config`.

    Raises:
        ConfigError: if the file is missing, is not a pipeline config, an override does not fit, or a check refuses it.
    """
    config = parse_text(read_text(path), pipeline_pb2.TrainEvalPipelineConfig, path)
    for override in overrides:
        apply_override(config, override)
    check_config(config, path, require_data=require_data)
    uses = _uses(require_data)
    unusual = [*checks.find_ineffective(config)]
    unusual += [problem for use in uses for problem in files.find_class_differences(config, use)]
    for field, reason, _, value in dict.fromkeys(unusual):
        _logger.warning("%s: %s %s.", path, field if value is None else f"{field} = {value}", reason)
    return config


def check_config(
    config: pipeline_pb2.TrainEvalPipelineConfig, source: str, *, require_data: str | Iterable[str] = ()
) -> None:
    """Refuses a config that cannot work.

    Args:
        config: the config.
        source: the file it comes from, for the error.
        require_data: "train", "eval" or both: what the config is about to be used for. Then label maps, records and the
            checkpoint to start from must exist and be readable. With nothing, no
            file is opened.

    Raises:
        ConfigError: for the first mistake, with all further ones as its `others` and in its text, a line each.
    """
    uses = _uses(require_data)
    problems: list[Problem | ConfigError] = [*checks.find_problems(config)]
    problems += [problem for use in uses for problem in files.find_missing_data(config, use)]
    _refuse(problems, source)


def _uses(require_data: str | Iterable[str]) -> tuple[str, ...]:
    return (require_data,) if isinstance(require_data, str) else tuple(require_data)


def check_strategy(
    config: pipeline_pb2.TrainEvalPipelineConfig,
    source: str,
    *,
    use: str,
    num_replicas: int,
    is_tpu: bool,
    has_workers: bool = False,
    jit_compile: bool = False,
) -> None:
    """Refuses a config that does not suit the devices of a strategy; the arguments are those of `config.rules.devices`.

    Raises:
        ConfigError: as `check_config`.
    """
    found = devices.find_problems(
        config, use=use, num_replicas=num_replicas, is_tpu=is_tpu, has_workers=has_workers, jit_compile=jit_compile
    )
    _refuse(found, source)


def _refuse(problems: Iterable[Problem | ConfigError], source: str) -> None:
    errors = [
        problem
        if isinstance(problem, ConfigError)
        else ConfigError(source, problem.problem, field=problem.field, value=problem.value, allowed=problem.allowed)
        for problem in problems
    ]
    if errors:
        # Training and evaluation may share a label map, and its mistake.
        raise ConfigError.joined(list({str(error): error for error in errors}.values()))


def format_config(config: pipeline_pb2.TrainEvalPipelineConfig) -> str:
    """The config in text format; `load_config` reads it back unchanged."""
    return format_message(config)


def save_config(config: pipeline_pb2.TrainEvalPipelineConfig, path: str) -> None:
    """Writes a config, with the folders it needs. The file that `path` may name already stays whole until then."""
    folder = os.path.dirname(path)
    if folder:
        tf.io.gfile.makedirs(folder)
    unfinished = f"{path}.unfinished"
    with tf.io.gfile.GFile(unfinished, "w") as file:
        file.write(format_config(config))
    tf.io.gfile.rename(unfinished, path, overwrite=True)
