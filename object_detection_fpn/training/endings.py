"""What ends a run before its last step, beside the user: its time is over, or it learns nothing more."""

from __future__ import annotations

import time
from collections.abc import Callable

from object_detection_fpn.training.errors import SettingsError
from object_detection_fpn.training.progress import duration

_SECONDS_PER_HOUR = 3600.0


class TimeBudget:
    """The time a run may take, from now on.

    Args:
        hours: how long; any positive number.
        clock: seconds that only grow.

    Raises:
        SettingsError: if `hours` is not positive.
    """

    def __init__(self, hours: float, *, clock: Callable[[], float] = time.monotonic):
        if not hours > 0:  # also NaN
            raise SettingsError(f"time_budget = {hours:g} is not positive. Allowed: hours above 0, such as 0.5.")
        self._seconds = hours * _SECONDS_PER_HOUR
        self._clock = clock
        self._start = clock()

    @property
    def is_over(self) -> bool:
        return self._clock() - self._start >= self._seconds

    def __str__(self) -> str:
        return duration(self._seconds) if self._seconds != float("inf") else "no end"


class EarlyStopping:
    """Ends a run after some evaluations in a row without a better result.

    Args:
        patience: how many, at least 1.
        metric: the name of the number that has to get better, for the message.
    """

    def __init__(self, patience: int, *, metric: str):
        self.patience = patience
        self._metric = metric

    def reason(self, num_without: int, best: float | None, best_step: int | None) -> str | None:
        """Why the run is to end; None = it goes on.

        Args:
            num_without: evaluations since the best one.
            best: its result; None = there is none.
            best_step: its step.
        """
        if num_without < self.patience:
            return None
        evaluations = "evaluation" if num_without == 1 else "evaluations in a row"
        than = (
            f"a finite {self._metric}"
            if best is None
            else f"a better {self._metric} than {best:.4g} of step {best_step}"
        )
        return f"{num_without} {evaluations} without {than}"
