"""Counts what the input pipeline had to put right, so that imperfect training data is never dropped silently."""

from __future__ import annotations

import enum
import threading

from absl import logging


class Notice(enum.IntEnum):
    """What can be wrong with a box whose image is still used; the value is the position in a vector of counts."""

    NOT_FINITE = 0
    INVERTED = 1
    EMPTY = 2
    OUTSIDE = 3
    UNKNOWN_CLASS = 4
    CLIPPED = 5
    TOO_MANY = 6


_WORDS = {
    Notice.NOT_FINITE: "dropped: a coordinate is NaN or infinite",
    Notice.INVERTED: "dropped: inverted (ymin > ymax or xmin > xmax)",
    Notice.EMPTY: "dropped: no height or no width",
    Notice.OUTSIDE: "dropped: lies outside the image",
    Notice.UNKNOWN_CLASS: "dropped: its class name is not in the label map",
    Notice.CLIPPED: "clipped: reaches beyond the image",
    Notice.TOO_MANY: "dropped: more boxes in the image than max_num_boxes",
}

_NUM_FULL_LINES = 5  # per notice; enough to see a pattern in file names and ids without drowning the progress line


class DataReport:
    """Counts notices over a whole run; safe to call from the threads of several pipelines.

    The first few boxes of each notice are logged with file and record, then one line each time the count grows tenfold.
    A pipeline that repeats its data counts a bad box each time it comes by.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(Notice, 0)
        self._num_lines = dict.fromkeys(Notice, 0)

    @property
    def counts(self) -> dict[Notice, int]:
        """How many boxes each notice applied to so far; notices that never occurred are 0."""
        with self._lock:
            return dict(self._counts)

    @property
    def num_dropped(self) -> int:
        """How many boxes were dropped so far, for whatever reason."""
        return sum(count for notice, count in self.counts.items() if notice is not Notice.CLIPPED)

    def add(self, notice: Notice, num_boxes: int, record: str) -> None:
        """Counts `num_boxes` boxes of `record` (words that name file, record and source id) under `notice`."""
        if num_boxes <= 0:
            return
        with self._lock:
            before = self._counts[notice]
            after = self._counts[notice] = before + num_boxes
            is_full_line = self._num_lines[notice] < _NUM_FULL_LINES
            self._num_lines[notice] += 1
        if is_full_line:
            logging.warning("%s: %s %s", record, _boxes(num_boxes), _WORDS[notice])
        elif len(str(after)) > len(str(before)):
            logging.warning("%s so far %s (latest: %s)", _boxes(after), _WORDS[notice], record)

    def summary(self) -> str:
        """One line per notice that occurred, most frequent first; empty when the data was clean."""
        found = sorted(((n, c) for n, c in self.counts.items() if c), key=lambda item: -item[1])
        return "\n".join(f"{_boxes(count)} {_WORDS[notice]}" for notice, count in found)


def _boxes(count: int) -> str:
    return "1 box" if count == 1 else f"{count:,} boxes"
