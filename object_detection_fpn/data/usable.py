"""Looks, before training, whether the records have anything to train on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from object_detection_fpn.data import decoder, failures
from object_detection_fpn.data.report import MOST_SIDES, DataReport, Notice
from object_detection_fpn.data.source import reader
from object_detection_fpn.data.source.files import RecordFile

_MOST_RECORDS = 10_000
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
    report = DataReport(decoding.label_to_id or ())
    num_records, keys = 0, set()
    num_boxes = num_without_weight = 0
    records = reader.read_records(files, num_readers=min(len(files), 64), is_shuffled=False)
    for record in records.take(most_records).as_numpy_iterator():
        try:
            features = tf.train.Example.FromString(record.serialized).features.feature
        except Exception:  # the protobuf runtimes raise different classes; the pipeline names the record
            return
        num_records += 1
        keys.update(features)
        fields = [features[f"image/object/bbox/{side}"] for side in _SIDES]
        if any(field.WhichOneof("kind") not in (None, "float_list") for field in fields):
            return
        sides = [field.float_list.value for field in fields]
        if not any(len(side) for side in sides):
            continue
        try:
            objects, issues = decoder.decode_objects(tf.constant(record.serialized), decoding, label_table)
        except tf.errors.OpError:
            return
        num_boxes += int(issues.num_boxes)
        name = failures.name_record(record.file.decode(), int(record.index), "")
        for notice, count, value in zip(Notice, issues.notices.numpy(), issues.values.numpy(), strict=True):
            report.tally(
                notice, int(count), name, num_boxes=int(issues.num_boxes), value=value.decode("utf-8", "replace")
            )
        in_pixels = np.any(np.abs(np.stack(sides, axis=-1)) > MOST_SIDES, axis=-1)
        num_in_pixels = min(int(np.sum(in_pixels)), int(issues.notices[Notice.CLIPPED]))
        has_weight = objects.weights.numpy() > 0
        num_without_weight += int(np.sum(~has_weight))
        if np.sum(has_weight) > num_in_pixels:
            return
    if num_records:
        raise failures.DataError(_explain(files, num_records, num_boxes, num_without_weight, report, keys))


def _explain(
    files: Sequence[RecordFile],
    num_records: int,
    num_boxes: int,
    num_without_weight: int,
    report: DataReport,
    keys: set[str],
) -> str:
    records = "The only record" if num_records == 1 else f"None of {num_records:,} records"
    place = files[0].path if len(files) == 1 else f"{files[0].path} and {len(files) - 1:,} more files"
    if not num_boxes:
        found = sorted(keys - {f"image/object/bbox/{side}" for side in _SIDES})
        listed = ", ".join(found[:_MOST_KEYS]) + (" ..." if len(found) > _MOST_KEYS else "")
        has = "has no object" if num_records == 1 else "has an object"
        return (
            f"{place}: {records} {has}: image/object/bbox/ymin, xmin, ymax and xmax are missing or empty. Nothing can be "
            f"learned from these. Their features: {listed or 'none'}."
        )
    reasons = report.summary().replace("\n", " ")
    if num_without_weight:
        reasons = f"{reasons} {num_without_weight:,} of {num_boxes:,} have image/object/weight 0.".strip()
    has = "has no object that can train" if num_records == 1 else "has an object that can train"
    return f"{place}: {records} {has}. {reasons}"
