"""Reads the images of TFRecord files, with their context features, one after the other."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from object_detection_fpn.data.context import FEATURES_KEY, LENGTH_KEY
from object_detection_fpn.data.failures import DataError
from object_detection_fpn.data.source import reader
from object_detection_fpn.data.source.files import list_record_files

_NAME = re.compile(r"\.(tf)?records?(-\d+-of-\d+)?$", re.IGNORECASE)


class RecordImage(NamedTuple):
    """The image file in a record, and what stands beside it."""

    name: str
    """File and number of the record."""
    file_name: str
    """`image/filename`, or `name` where the record has none."""
    source_id: str
    """`image/source_id`; empty where the record has none."""
    encoded: bytes
    """`image/encoded`."""
    context: np.ndarray | None
    """[N, F] float32, of which there may be none; None for a record without `image/context_feature_length`."""


def is_record_file(path: str) -> bool:
    """Whether a name is that of a file of records: it ends in .tfrecord or .record, or in that and -00000-of-00010."""
    return _NAME.search(os.path.basename(path)) is not None


def read_record_images(path: str) -> Iterator[RecordImage]:
    """The images of a file of records, in its order.

    Raises:
        DataError: if the file cannot be read, is truncated or corrupted, or holds something else than tf.Examples.
    """
    records = reader.read_records(list_record_files([path])).with_options(reader.untuned())
    for record in records.as_numpy_iterator():
        if broken := record.broken_file():
            raise DataError(broken)
        name = f"{path}:{record.index}"
        try:
            features = tf.train.Example.FromString(record.serialized).features.feature
        except (
            Exception
        ) as error:  # the protobuf runtimes (upb, C++, Python) raise different classes for malformed bytes
            raise DataError(f"{path}, record {record.index}: no serialized tf.Example.") from error
        file_name, source_id = (
            b"".join(features[key].bytes_list.value[:1]).decode("utf-8", "replace")
            for key in ("image/filename", "image/source_id")
        )
        encoded = b"".join(features["image/encoded"].bytes_list.value[:1])
        values = np.array(features[FEATURES_KEY].float_list.value, np.float32)
        length = [*features[LENGTH_KEY].int64_list.value, 0][0]
        context = values.reshape(-1, length) if length > 0 and len(values) % length == 0 else None
        yield RecordImage(name, file_name or name, source_id, encoded, context)
