"""Looks, before training, whether the records have anything to train on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from object_detection_fpn.data import decoder, failures
from object_detection_fpn.data.report import MOST_SIDES, DataReport, Notice
from object_detection_fpn.data.source import reader
from object_detection_fpn.data.source.files import RecordFile

_FIRST_RECORDS = 16  # of one file
_MOST_RECORDS = 10_000
_MOST_READERS = 64
_MOST_KEYS = 12  # that a message lists
_SIDES = ("ymin", "xmin", "ymax", "xmax")


def check_usable(
    files: Sequence[RecordFile],
    decoding: decoder.Decoding,
    *,
    label_table: tf.lookup.StaticHashTable | None = None,
    most_records: int = _MOST_RECORDS,
) -> None:
    """Reads records, a few from each file in turn, up to the first object that a model can learn from.

    That is an object that the decoder keeps, of a weight above 0; a box in pixels whose clipping would leave the whole image
    does not count. Usually one record is read. A record that does not decode is left to the pipeline, which names it.

    Args:
        files: what training reads.
        decoding: see `decoder.decode_example`.
        label_table: likewise.
        most_records: records to read at most.

    Raises:
        failures.DataError: if none of these records has such an object; it gives the reasons, with share and first value.
    """
    # The first file first: reading a few records of each of many remote files takes time, and is seldom needed.
    if _starts_well(files, min(_FIRST_RECORDS, most_records), decoding, label_table):
        return
    records = reader.read_records(files, num_readers=min(len(files), _MOST_READERS)).take(most_records)
    tally = _Tally(DataReport(decoding.label_to_id or ()))
    records = records.with_options(reader.untuned()).as_numpy_iterator()
    if any(_is_usable(record, tally, decoding, label_table) for record in records):
        return
    if tally.num_records:
        raise failures.DataError(_explain(files, tally))


def _starts_well(
    files: Sequence[RecordFile],
    num_records: int,
    decoding: decoder.Decoding,
    label_table: tf.lookup.StaticHashTable | None,
) -> bool:
    """Whether the first records tell that training is possible, or a file among them has an error for the pipeline to name."""
    if files[0].records is not None:
        return False  # all of them are looked at as quickly
    # TensorFlow's own reader, which does not name places, starts in a tenth of the time.
    paths = [file.path for file in files[:num_records] if file.compression == files[0].compression]
    first = tf.data.TFRecordDataset(paths, files[0].compression).take(num_records).with_options(reader.untuned())
    tally = _Tally(DataReport(decoding.label_to_id or ()))
    try:
        records = (reader.Record(serialized, b"", np.int64(0)) for serialized in first.as_numpy_iterator())
        return any(_is_usable(record, tally, decoding, label_table) for record in records)
    except tf.errors.OpError:
        return True


@dataclasses.dataclass
class _Tally:
    """What was seen in records without a usable object."""

    report: DataReport
    num_records: int = 0
    num_boxes: int = 0
    num_without_weight: int = 0
    keys: set[str] = dataclasses.field(default_factory=set)
    """Of the records' features."""


def _is_usable(
    record: reader.Record, tally: _Tally, decoding: decoder.Decoding, label_table: tf.lookup.StaticHashTable | None
) -> bool:
    """Whether a record has an object that can train, or an error that the pipeline will name; if not, it is counted."""
    try:
        features = tf.train.Example.FromString(record.serialized).features.feature
    except Exception:  # the protobuf runtimes (upb, C++, Python) raise different classes for malformed bytes
        return True
    tally.num_records += 1
    tally.keys.update(features)
    fields = [features[f"image/object/bbox/{side}"] for side in _SIDES]
    if any(field.WhichOneof("kind") not in (None, "float_list") for field in fields):
        return True
    sides = [field.float_list.value for field in fields]
    if not any(len(side) for side in sides):
        return False
    try:
        objects, issues = decoder.decode_objects(tf.constant(record.serialized), decoding, label_table)
    except (tf.errors.OpError, UnicodeDecodeError):  # the second where the error quotes bytes of the record
        return True
    num_boxes = int(issues.num_boxes)
    tally.num_boxes += num_boxes
    name = failures.name_record(record.file.decode(), int(record.index), "")
    for notice, count, value in zip(Notice, issues.notices.numpy().tolist(), issues.values.numpy(), strict=True):
        tally.report.tally(notice, count, name, num_boxes=num_boxes, value=value.decode("utf-8", "replace"))
    in_pixels = np.any(np.abs(np.stack(sides, axis=-1)) > MOST_SIDES, axis=-1)
    num_in_pixels = min(int(np.sum(in_pixels)), int(issues.notices[Notice.CLIPPED]))
    has_weight = objects.weights.numpy() > 0
    tally.num_without_weight += int(np.sum(~has_weight))
    return bool(np.sum(has_weight) > num_in_pixels)


def _explain(files: Sequence[RecordFile], tally: _Tally) -> str:
    num_records, num_boxes = tally.num_records, tally.num_boxes
    records = "The only record" if num_records == 1 else f"None of {num_records:,} records"
    place = files[0].path if len(files) == 1 else f"{files[0].path} and {len(files) - 1:,} more files"
    if not num_boxes:
        found = sorted(tally.keys - {f"image/object/bbox/{side}" for side in _SIDES})
        listed = ", ".join(found[:_MOST_KEYS]) + (" ..." if len(found) > _MOST_KEYS else "")
        has = "has no object" if num_records == 1 else "has an object"
        return (
            f"{place}: {records} {has}: image/object/bbox/ymin, xmin, ymax and xmax are missing or empty. Nothing can be "
            f"learned from these. Their features: {listed or 'none'}."
        )
    reasons = tally.report.summary().replace("\n", " ")
    if tally.num_without_weight:
        reasons = f"{reasons} {tally.num_without_weight:,} of {num_boxes:,} have image/object/weight 0.".strip()
    has = "has no object that can train" if num_records == 1 else "has an object that can train"
    return f"{place}: {records} {has}. {reasons}"
