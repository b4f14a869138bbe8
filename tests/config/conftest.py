"""A config of the Object Detection API, changes to it, and what is refused of it."""

from __future__ import annotations

import pytest

from object_detection_fpn.config.pipeline import ConfigError, check_config
from object_detection_fpn.config.text import apply_override, parse_text
from object_detection_fpn.protos import pipeline_pb2


@pytest.fixture
def config(golden_dir) -> pipeline_pb2.TrainEvalPipelineConfig:
    text = (golden_dir / "odapi_pipeline.config").read_text()
    return parse_text(text, pipeline_pb2.TrainEvalPipelineConfig, "my.config")


@pytest.fixture(scope="session")
def change():
    return _change


@pytest.fixture(scope="session")
def refusals():
    return _refusals


def _change(config, *changes: str) -> None:
    """Applies overrides; "-path" clears a field."""
    for item in changes:
        if item.startswith("-"):
            *parents, name = item[1:].split(".")
            message = config
            for parent in parents:
                message = getattr(message, parent)
            message.ClearField(name)
        else:
            apply_override(config, item)


def _refusals(config, **arguments) -> list[str]:
    try:
        check_config(config, "my.config", **arguments)
    except ConfigError as error:
        return str(error).splitlines()
    return []
