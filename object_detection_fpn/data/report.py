"""Counts what the input pipeline dropped, clipped or noticed, so that imperfect training data is never dropped silently."""

from __future__ import annotations

import dataclasses
import enum
import math
import threading
from collections.abc import Iterable

from absl import logging


class Notice(enum.IntEnum):
    """What can be wrong with a box, or an image, that is still used; the value is the position in a vector of counts."""

    NOT_FINITE = 0
    INVERTED = 1
    EMPTY = 2
    OUTSIDE = 3
    UNKNOWN_CLASS = 4
    CLIPPED = 5
    TOO_MANY = 6
    ROTATED = 7
    """Counts images, not boxes."""
    CONTEXT_CUT = 8
    """Counts images, not boxes."""


_MESSAGES = {
    Notice.NOT_FINITE: "dropped: a coordinate is NaN or infinite",
    Notice.INVERTED: "dropped: inverted (ymin > ymax or xmin > xmax)",
    Notice.EMPTY: "dropped: no height or no width",
    Notice.OUTSIDE: "dropped: lies outside the image",
    Notice.UNKNOWN_CLASS: "dropped: its class name is not in the label map",
    Notice.CLIPPED: "clipped: reaches beyond the image",
    Notice.TOO_MANY: "dropped: more boxes in the image than max_number_of_boxes",
    Notice.ROTATED: "whose EXIF orientation asks for a turn: pixels are used as they are stored, and boxes must fit those",
    Notice.CONTEXT_CUT: "with more context features than max_num_context_features: those beyond are cut",
}
_OF_IMAGES = (Notice.ROTATED, Notice.CONTEXT_CUT)
_OF_COORDINATES = (Notice.NOT_FINITE, Notice.INVERTED, Notice.EMPTY, Notice.OUTSIDE, Notice.CLIPPED)

MOST_SIDES = 2.0
"""A coordinate beyond this many times the image's side is taken for one in pixels."""
_NUM_FULL_LINES = 5  # per notice; enough to see a pattern in file names and ids without drowning the progress line
_MOST_NAMES = 10  # of a label map that a message lists


@dataclasses.dataclass
class _Tally:
    """What is known of one notice."""

    count: int = 0
    num_records: int = 0
    num_boxes: int = 0
    """Boxes in those records, good ones too; 0 where they were not counted."""
    first: str = ""
    """The first value: coordinates, or a class name."""
    first_record: str = ""


class DataReport:
    """Counts notices over a whole run; safe to call from the threads of several pipelines.

    The first few boxes of each notice are logged with file and record, then one line each time the count grows tenfold; of
    notices of images only the first is. A pipeline that repeats its data counts a bad box each time it comes by.
    """

    def __init__(self, label_names: Iterable[str] = ()) -> None:
        self.label_names = list(label_names)
        """Names of the label map, for messages about names that are not in it."""
        self._lock = threading.Lock()
        self._tallies = {notice: _Tally() for notice in Notice}

    @property
    def counts(self) -> dict[Notice, int]:
        """How many boxes, or images, each notice applied to so far; notices that never occurred are 0."""
        with self._lock:
            return {notice: tally.count for notice, tally in self._tallies.items()}

    @property
    def num_dropped(self) -> int:
        """How many boxes were dropped so far, for whatever reason."""
        kept = (Notice.CLIPPED, *_OF_IMAGES)
        return sum(count for notice, count in self.counts.items() if notice not in kept)

    def add(self, notice: Notice, count: int, record: str, *, num_boxes: int = 0, value: str = "") -> None:
        """Counts what a notice applies to in one record.

        Args:
            notice: what is wrong.
            count: boxes, or 1 for an image.
            record: name of file, record and source id.
            num_boxes: boxes of the record, good ones too.
            value: the first value that is wrong: coordinates with commas between them, or a class name.
        """
        if count <= 0:
            return
        num_lines, after = self.tally(notice, count, record, num_boxes=num_boxes, value=value)
        before = after - count
        example = _describe(notice, value)
        if num_lines < (1 if notice in _OF_IMAGES else _NUM_FULL_LINES):
            cause = self._likely_cause(notice, value)
            logging.warning("%s: %s %s%s%s", record, _amount(notice, count), _MESSAGES[notice], example, cause)
        elif notice not in _OF_IMAGES and len(str(after)) > len(str(before)):
            logging.warning("%s so far %s (latest: %s)", _amount(notice, after), _MESSAGES[notice], record)

    def tally(self, notice: Notice, count: int, record: str, *, num_boxes: int = 0, value: str = "") -> tuple[int, int]:
        """Counts like `add` and logs nothing; returns the records before this one, and the count after it."""
        with self._lock:
            tally = self._tallies[notice]
            num_before = tally.num_records
            if count > 0:
                tally.count += count
                tally.num_records += 1
                tally.num_boxes += num_boxes
                if value and not tally.first:
                    tally.first, tally.first_record = value, record
            return num_before, tally.count

    def summary(self) -> str:
        """One line per notice that occurred, most frequent first; empty when the data was clean."""
        with self._lock:
            found = [(notice, dataclasses.replace(tally)) for notice, tally in self._tallies.items() if tally.count]
        return "\n".join(self._line(*item) for item in sorted(found, key=lambda item: -item[1].count))

    def _line(self, notice: Notice, tally: _Tally) -> str:
        amount = _amount(notice, tally.count)
        if tally.num_boxes and notice not in _OF_IMAGES:
            records = "1 image" if tally.num_records == 1 else f"{tally.num_records:,} images"
            amount = f"{tally.count:,} of {tally.num_boxes:,} boxes ({tally.count / tally.num_boxes:.0%}) in {records}"
        first = _describe(notice, tally.first, tally.first_record)
        return f"{amount} {_MESSAGES[notice]}{first}{self._likely_cause(notice, tally.first)}"

    def _likely_cause(self, notice: Notice, value: str) -> str:
        """A sentence, after a space, or nothing."""
        if notice is Notice.UNKNOWN_CLASS and value and self.label_names:
            alike = [name for name in self.label_names if _folded(name) == _folded(value)]
            if alike:
                return f" The label map has '{alike[0]}': names must be equal in every letter."
            names = ", ".join(f"'{name}'" for name in self.label_names[:_MOST_NAMES])
            more = len(self.label_names) - _MOST_NAMES
            return f" The label map has {names}{f' and {more:,} more' if more > 0 else ''}."
        if notice in _OF_COORDINATES and value:
            numbers = [float(coordinate) for coordinate in value.split(",")]
            if any(math.isfinite(number) and abs(number) > MOST_SIDES for number in numbers):
                return " These seem to be pixels: records hold shares of the image's height and width, from 0 to 1."
        return ""


def _describe(notice: Notice, value: str, record: str = "") -> str:
    if not value:
        return ""
    shown = f"'{value}'" if notice is Notice.UNKNOWN_CLASS else f"(ymin, xmin, ymax, xmax) = ({value})"
    return f"; first {shown} in {record}." if record else f"; first {shown}."


def _folded(name: str) -> str:
    """What names that are meant to be the same have in common."""
    return "".join(character for character in name.casefold() if character.isalnum())


def _amount(notice: Notice, count: int) -> str:
    one, many = ("image", "images") if notice in _OF_IMAGES else ("box", "boxes")
    return f"1 {one}" if count == 1 else f"{count:,} {many}"
