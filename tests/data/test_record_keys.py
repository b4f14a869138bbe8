"""Keys of records: the same everywhere, and found again."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.data import record_keys
from object_detection_fpn.data.source.files import RecordFile, list_record_files


def key_of(path, index):
    return int(record_keys.make_key(tf.constant(path), tf.constant(index, tf.int64)))


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_a_record_is_found_by_its_key(make_record, tmp_path, compression):
    paths = [str(tmp_path / f"data-{i}.tfrecord") for i in range(3)]
    for path in paths:
        with tf.io.TFRecordWriter(path, compression) as writer:
            for i in range(4):
                writer.write(make_record(source_id="" if i == 0 else f"{os.path.basename(path)}/{i}"))
    keys = np.array([key_of(paths[2], 3), key_of(paths[0], 0), key_of(paths[2], 1)])
    assert (keys > 0).all()
    assert record_keys.name_records(keys, lambda: list_record_files([str(tmp_path / "data-*")])) == [
        f"{paths[2]}, record 3 (source_id data-2.tfrecord/3)",
        f"{paths[0]}, record 0",
        f"{paths[2]}, record 1 (source_id data-2.tfrecord/1)",
    ]


def test_a_record_that_is_gone_is_called_by_its_key(make_record, write_records, tmp_path):
    path = write_records([make_record()])
    gone = key_of("other", 0)
    assert record_keys.name_records([gone, key_of(path, 5)], lambda: list_record_files([path])) == [
        f"the record with key {gone}",
        f"{path}, record 5",
    ]
    os.remove(path)
    assert record_keys.name_records([gone], lambda: list_record_files([path])) == [f"the record with key {gone}"]


def test_records_in_memory_are_found_too(make_record):
    records = tuple(make_record(source_id=str(i)) for i in (5, 6))
    file = RecordFile("train.json", sum(map(len, records)), records=records)
    names = record_keys.name_records([key_of("train.json", 1)], lambda: [file])
    assert names == ["train.json, record 1 (source_id 6)"]


def test_keys_do_not_change_from_version_to_version():
    """A batch that was written to disk may be looked at later."""
    assert key_of("gs://bucket/train-00000-of-00010", 7) == 3753066410360700935
