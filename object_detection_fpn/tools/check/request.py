"""What a config is to be tried out for, and how the process that does it is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from object_detection_fpn.protos import pipeline_pb2

Config = pipeline_pb2.TrainEvalPipelineConfig
Emit = Callable[[Mapping[str, Any]], None]

CHECK, CHOOSE = "check", "choose"
EVENTS = "events.jsonl"
"""The file in which the process tells what it finds."""
_REQUEST, _CONFIG = "request.json", "pipeline.config"


class Request(NamedTuple):
    """What is to be tried."""

    config: Config
    purpose: str = CHECK
    """CHECK: everything; CHOOSE: the batch that fits the memory, and nothing else."""
    jit_compile: bool = False
    from_label_map: str | None = None
    seed: int = 0

    def save(self, folder: Path) -> None:
        """Writes it for the other process."""
        (folder / _CONFIG).write_bytes(self.config.SerializeToString())
        values = {name: value for name, value in self._asdict().items() if name != "config"}
        (folder / _REQUEST).write_text(json.dumps(values))

    @classmethod
    def load(cls, folder: Path) -> Request:
        """Reads what `save` wrote."""
        config = Config.FromString((folder / _CONFIG).read_bytes())
        return cls(**json.loads((folder / _REQUEST).read_text()) | {"config": config})
