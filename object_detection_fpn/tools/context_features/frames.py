"""Reads what records say of the images in them: which sequence they are of, and when they were taken."""

from __future__ import annotations

import collections
import datetime
import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from absl import logging

from object_detection_fpn.data import failures
from object_detection_fpn.data.failures import DataError
from object_detection_fpn.data.source import reader
from object_detection_fpn.data.source.files import RecordFile

DATE_KEY = "image/date_captured"
FRAME_KEY = "image/seq_frame_num"
_MAX_LINES = 10  # images that cannot be read are named one by one up to here


class Oddity(enum.Enum):
    """What is odd about a record, as the end of a sentence that begins with a number of records."""

    NO_KEY = "have no {key}: they get no context and give none"
    NO_DATE = "have no image/date_captured: {dateless}"
    BROKEN_DATE = "have an image/date_captured that is no date (YYYY-MM-DD HH:MM:SS): {dateless}"
    UNREADABLE = "hold no readable image and were left out"


class OddRecords:
    """Counts records that are odd, and reports them with the first of each kind."""

    def __init__(self, *, sequence_key: str, needs_dates: bool):
        """Args:
        sequence_key: the field that images of one bank have in common.
        needs_dates: whether an image without a date belongs to no bank.
        """
        self._words = {
            "key": sequence_key,
            "dateless": "they get no context and give none" if needs_dates else "the time in their features is 0",
        }
        self._counts: collections.Counter[Oddity] = collections.Counter()
        self._first: dict[Oddity, str] = {}

    def __getitem__(self, oddity: Oddity) -> int:
        """How many records are odd in this way."""
        return self._counts[oddity]

    def first(self, oddity: Oddity) -> str:
        """The name of the first record that is odd in this way, with what was found there."""
        return self._first[oddity]

    def add(self, oddity: Oddity, name: str, found: str = "") -> None:
        """Counts a record.

        Args:
            oddity: what is odd about it.
            name: of the record.
            found: what it holds, or why it is odd.
        """
        self._counts[oddity] += 1
        self._first.setdefault(oddity, f"{name}{f' ({found})' if found else ''}")
        if oddity is Oddity.UNREADABLE and self._counts[oddity] <= _MAX_LINES:
            logging.warning("%s left out: %s", name, found)

    def report(self) -> None:
        """Warns of each kind that was found."""
        for oddity in Oddity:
            if self._counts[oddity]:
                what = oddity.value.format(**self._words)
                logging.warning("%d records %s. The first is %s.", self._counts[oddity], what, self._first[oddity])


class RawFrame(NamedTuple):
    """A record before anything is detected in its image."""

    name: str
    """File and number, for messages."""
    example: tf.train.Example
    image_id: bytes
    """`image/source_id`, or file and number where there is none, as in evaluation."""


def read_frames(files: Sequence[RecordFile]) -> Iterator[RawFrame]:
    """All records, in the order of the files.

    Raises:
        DataError: if a file is truncated or corrupted, or a record is no tf.Example.
    """
    for record in reader.read_records(files).with_options(reader.untuned()).as_numpy_iterator():
        if broken := record.broken_file():
            raise DataError(broken)
        path, index = record.file.decode(), int(record.index)
        example = parse_example(record.serialized, failures.name_record(path, index, ""))
        source_id = b"".join(values_of(example, "image/source_id")[:1])
        name = failures.name_record(path, index, source_id.decode("utf-8", "replace"))
        yield RawFrame(name, example, source_id or f"{path}:{index}".encode())


def parse_example(serialized: bytes, name: str) -> tf.train.Example:
    """Parses a record; `name` is its name in errors.

    Raises:
        DataError: if it is no tf.Example.
    """
    try:
        example = tf.train.Example.FromString(serialized)
        is_sequence = bool(tf.train.SequenceExample.FromString(serialized).feature_lists.feature_list)
    except Exception as error:  # the protobuf runtimes (upb, C++, Python) raise different classes for malformed bytes
        raise DataError(f"{name}: {len(serialized):,} bytes that are no serialized tf.Example.") from error
    if is_sequence:
        raise DataError(f"{name}: is a tf.SequenceExample; write one tf.Example for each of its frames.")
    return example


def values_of(example: tf.train.Example, key: str) -> Sequence[Any]:
    """The values of a field, of whatever kind; empty where it is missing."""
    features: Mapping[str, tf.train.Feature] = example.features.feature
    if key not in features:  # asking for it would add it
        return ()
    feature = features[key]
    kind = feature.WhichOneof("kind")
    return getattr(feature, kind).value if kind else ()


def read_key(example: tf.train.Example, key: str) -> str | None:
    """The value of the field that images of a bank have in common, text or a whole number; None where it is missing."""
    values = values_of(example, key)
    if len(values) != 1 or isinstance(values[0], float):
        return None
    value = values[0].decode("utf-8", "replace") if isinstance(values[0], bytes) else str(values[0])
    return value or None


def read_frame_num(example: tf.train.Example) -> int | None:
    """The place of an image in its sequence; None where it is missing or no whole number."""
    values = values_of(example, FRAME_KEY)
    return values[0] if len(values) == 1 and isinstance(values[0], int) else None


def read_date(example: tf.train.Example) -> datetime.datetime | str | None:
    """When an image was taken, without its time zone; a text that is no date as it is, None where there is none.

    Dates are written as in COCO camera traps, "2013-07-14 06:31:00"; whatever ISO 8601 allows besides is read too.
    """
    values = values_of(example, DATE_KEY)
    text = values[0].decode("utf-8", "replace").strip() if len(values) and isinstance(values[0], bytes) else ""
    if not text:
        return None
    try:
        return datetime.datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        return text
