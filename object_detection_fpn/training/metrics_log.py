"""The numbers of a run in a file that scripts and spreadsheets read: `model_dir/metrics.jsonl` or `metrics.csv`."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import time
from collections.abc import Mapping
from typing import Literal, TypeAlias

import tensorflow as tf

from object_detection_fpn.training.errors import writing

LogFormat: TypeAlias = Literal["json", "csv"]
_HEADER = ("step", "kind", "time", "name", "value")


class MetricsLog:
    """Appends what is measured; a resumed run goes on where it was.

    JSON has an object a line: `step`, `kind`, `time` in seconds since 1970, and every value by its name, null where it is NaN
    or infinite. CSV has a row for each value, which is empty there: the names of training and evaluation differ.

    What a run wrote after the checkpoint from which it is resumed is dropped, since these steps are done anew; so is a line
    that was cut off when the process was killed. Nothing is changed before the first line is written.

    Args:
        model_dir: folder of the run, local or remote.
        log_format: "json" or "csv".
        first_step: steps that were done before this run.
    """

    def __init__(self, model_dir: str, log_format: LogFormat, *, first_step: int):
        self._is_csv = log_format == "csv"
        self.path = os.path.join(model_dir, "metrics.csv" if self._is_csv else "metrics.jsonl")
        self._first_step = first_step
        self._is_open = False

    def write(self, kind: Literal["train", "eval"], step: int, values: Mapping[str, float]) -> None:
        """Appends the values of a step.

        Raises:
            WriteError: if they cannot be written.
        """
        with writing(f"The metrics log {self.path}"):
            if not self._is_open:
                self._drop_later_lines()
                self._is_open = True
            with tf.io.gfile.GFile(self.path, "a") as file:
                file.write(self._lines(kind, step, values))

    def _lines(self, kind: str, step: int, values: Mapping[str, float]) -> str:
        numbers = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        now = round(time.time(), 3)
        if not self._is_csv:
            return json.dumps({"step": step, "kind": kind, "time": now, **numbers}) + "\n"
        rows = [(step, kind, now, name, "" if value is None else value) for name, value in numbers.items()]
        return _csv(rows)

    def _drop_later_lines(self) -> None:
        tf.io.gfile.makedirs(os.path.dirname(self.path))
        text = ""
        if tf.io.gfile.exists(self.path):
            with tf.io.gfile.GFile(self.path) as file:
                text = file.read()
        kept = "".join(line for line in text.splitlines(keepends=True) if self._stays(line))
        if self._is_csv and not kept.startswith(",".join(_HEADER)):
            kept = _csv([_HEADER]) + kept
        if kept != text:
            with tf.io.gfile.GFile(f"{self.path}.new", "w") as file:
                file.write(kept)
            tf.io.gfile.rename(f"{self.path}.new", self.path, overwrite=True)

    def _stays(self, line: str) -> bool:
        if not line.endswith("\n"):
            return False  # cut off
        step = self._step_of(line)
        return step is None or step <= self._first_step

    def _step_of(self, line: str) -> int | None:
        """The step of a line; None for one that is not of this log's making, such as a header or a user's remark."""
        try:
            step = next(csv.reader([line]), [""])[0] if self._is_csv else json.loads(line)["step"]
            return int(step)
        except (ValueError, KeyError, TypeError, IndexError):
            return None


def _csv(rows: list[tuple]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
