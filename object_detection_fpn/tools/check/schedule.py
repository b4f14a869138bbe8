"""The learning rate over a training run, as numbers and as a plot of characters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

_COLUMNS, _ROWS = 72, 6
_EIGHTHS = " ▁▂▃▄▅▆▇█"


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Learning rates at some steps of a run."""

    num_steps: int
    steps: tuple[int, ...]
    """Finished updates, from 0 to `num_steps` - 1, rising."""
    rates: tuple[float, ...]
    """Of the update that follows each."""

    @property
    def highest(self) -> tuple[float, int]:
        """(rate, first step with it)."""
        place = int(np.argmax(self.rates))
        return self.rates[place], self.steps[place]

    @property
    def is_zero(self) -> bool:
        """Whether no step changes a weight."""
        return not any(self.rates)


def sample(rate_at: Callable[[int], float], num_steps: int) -> Schedule:
    """Learning rates at `_COLUMNS` steps, in equal distances.

    Args:
        rate_at: from finished updates to the rate of the next.
        num_steps: of the run.
    """
    steps = np.unique(np.linspace(0, num_steps - 1, _COLUMNS).round().astype(np.int64)).tolist()
    return Schedule(num_steps, tuple(steps), tuple(float(rate_at(step)) for step in steps))


def plot(schedule: Schedule) -> list[str]:
    """Bars of characters, the highest rate on top; lines of text with both axes."""
    highest, _ = schedule.highest
    if not highest > 0:
        return []
    label = f"{highest:.4g}"
    width = max(len(label), 1)
    eighths = [round(rate / highest * _ROWS * 8) for rate in schedule.rates]
    # The least rate above 0 is seen.
    eighths = [max(number, 1) if rate > 0 else 0 for number, rate in zip(eighths, schedule.rates, strict=True)]
    lines = []
    for row in reversed(range(_ROWS)):
        bar = "".join(_EIGHTHS[min(max(number - 8 * row, 0), 8)] for number in eighths)
        name = label if row == _ROWS - 1 else "0" if row == 0 else ""
        lines.append(f"{name:>{width}} │{bar}".rstrip())
    last = f"{schedule.num_steps:,}"
    lines.append(f"{'':>{width}} └{'─' * len(eighths)}")
    lines.append(f"{'':>{width}}  1{last:>{max(len(eighths) - 1, len(last) + 1)}}")
    return lines
