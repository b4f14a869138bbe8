"""What a trial told, put together: what is known of a config, and whether training would work."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from object_detection_fpn.tools.check.schedule import Schedule

_GIB = 2**30


@dataclasses.dataclass
class Findings:
    """What is known of a config; None or empty where the trial did not come so far.

    The dicts are events of `trial`.
    """

    source: str
    batch_size: int
    """`train_config.batch_size`."""
    problems: list[str] = dataclasses.field(default_factory=list)
    """Why training would fail; empty if it would work."""
    device: dict[str, Any] | None = None
    schedule: Schedule | None = None
    model: dict[str, Any] | None = None
    restored: dict[str, Any] | None = None
    measured: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    expected: dict[str, Any] | None = None
    largest: dict[str, Any] | None = None
    chosen: int | None = None
    """Of a trial that chooses a batch; 0 = none fits."""
    tried: int | None = None
    """Images of the last batch that was begun."""

    def add(self, event: Mapping[str, Any]) -> None:
        """Takes an event of the trial."""
        values = {name: value for name, value in event.items() if name != "event"}
        kind = event["event"]
        if kind in ("device", "model", "restored", "expected", "largest"):
            setattr(self, kind, values)
        elif kind == "stage":
            self.tried = values.get("batch_size", self.tried)
        elif kind == "schedule":
            self.schedule = Schedule(values["num_steps"], tuple(values["steps"]), tuple(values["rates"]))
            if self.schedule.is_zero:
                self.problems.append(
                    f"The learning rate is 0 at every step from 1 to {self.schedule.num_steps}: no weight would change. "
                    "Set a rate above 0 in train_config.optimizer, or a later end of its decay."
                )
        elif kind == "measured":
            self.measured.append(values)
        elif kind == "chosen":
            self.chosen = values["batch_size"]
        elif kind == "failed":
            self.problems.append(values["message"])
        elif kind == "out_of_memory":
            self.problems.append(self._no_memory())
        elif kind == "crashed":
            self.problems.append(
                f"The process that tried the config out ended with exit status {values['status']}; what it printed says why."
            )
        if kind == "expected" and not values["fits"]:
            self.problems.append(self._does_not_fit(values["bytes"]))

    @property
    def of_batch(self) -> dict[str, Any] | None:
        """What the step of the config's batch was like; None if none was taken."""
        return next((each for each in self.measured if each["batch_size"] == self.batch_size), None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no numbers that are not finite: null stands for them."""
        values = dataclasses.asdict(self)
        del values["chosen"], values["tried"]
        return {"works": not self.problems, **_without_infinity(values)}

    def _no_memory(self) -> str:
        images = "1 image" if self.tried == 1 else f"{self.tried} images"
        return f"A step of {images} does not fit the memory{self._of_device()}.{self._remedy()}"

    def _does_not_fit(self, num_bytes: int) -> str:
        return (
            f"train_config.batch_size = {self.batch_size} needs about {gib(num_bytes)} of memory, which is more than there is"
            f"{self._of_device()}.{self._remedy()}"
        )

    def _of_device(self) -> str:
        if not self.device or self.device["available_bytes"] is None:
            return ""
        return f" ({gib(self.device['available_bytes'])} on this {self.device['device']})"

    def _remedy(self) -> str:
        return (
            " What helps: odfpn train --batch_size auto, a smaller size in image_resizer, train_config.accumulate_gradients, "
            "or train_config.recompute_backbone: true."
        )


def _without_infinity(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_infinity(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinity(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def gib(num_bytes: float) -> str:
    """A size, for people."""
    return f"{num_bytes / _GIB:.2f} GiB"
