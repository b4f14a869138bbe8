"""Numbers that stand for records in batches of training, which cannot carry strings: XLA has none.

A key holds a fingerprint of the file's name and the record's position in the file. So it is the same in every run, on every
worker and in a data service, and needs no table: who has the list of files finds the record.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import tensorflow as tf

from object_detection_fpn.data.failures import DataError, name_record
from object_detection_fpn.data.source.files import RecordFile

_INDEX_BITS = 32
_NUM_FINGERPRINTS = 2**31 - 1  # so that keys are positive; two of 1,000 files share one in 1 of 4,000 data sets
_SOURCE_ID = {"image/source_id": tf.io.FixedLenFeature([], tf.string, "")}


def make_key(file: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """The key of a record: its file, scalar string, and its position there, scalar int64 -> scalar int64."""
    return tf.bitwise.bitwise_or(tf.bitwise.left_shift(_fingerprint(file), _INDEX_BITS), index)


def name_records(keys: Iterable[int], list_files: Callable[[], Sequence[RecordFile]]) -> list[str]:
    """Names the records that have these keys as errors do: file, position and source id.

    Reads the files as far as these records, so it is for failures only. A record that is not found is called by its key; where
    two files have one fingerprint, both are named.

    Args:
        keys: of `make_key`.
        list_files: the record files.
    """
    keys = [int(key) for key in keys]
    try:
        files = list_files()
    except (DataError, FileNotFoundError):  # vanished since training began: the keys still tell the records apart
        files = []
    with_fingerprint: dict[int, list[RecordFile]] = collections.defaultdict(list)
    for file, number in zip(files, _fingerprint(tf.constant([f.path for f in files], tf.string)).numpy(), strict=True):
        with_fingerprint[int(number)].append(file)
    wanted: dict[RecordFile, set[int]] = collections.defaultdict(set)
    for key in keys:
        for file in with_fingerprint[key >> _INDEX_BITS]:
            wanted[file].add(_index(key))
    source_ids = {file: _read_source_ids(file, indices) for file, indices in wanted.items()}
    return [_name(key, with_fingerprint[key >> _INDEX_BITS], source_ids) for key in keys]


def _name(key: int, files: Sequence[RecordFile], source_ids: Mapping[RecordFile, Mapping[int, str]]) -> str:
    index = _index(key)
    names = [name_record(file.path, index, source_ids[file].get(index, "")) for file in files]
    return " or ".join(names) or f"the record with key {key}"


def _index(key: int) -> int:
    return key & (2**_INDEX_BITS - 1)


def _fingerprint(file: tf.Tensor) -> tf.Tensor:
    return tf.strings.to_hash_bucket_fast(file, _NUM_FINGERPRINTS)


def _read_source_ids(file: RecordFile, indices: Collection[int]) -> dict[int, str]:
    """The source ids of some records of a file; those that cannot be read are left out."""
    found: dict[int, str] = {}
    if file.records is not None:
        records = tf.data.Dataset.from_tensor_slices(list(file.records))
    else:
        records = tf.data.TFRecordDataset(file.path, file.compression)
    records = records.take(max(indices) + 1)
    try:
        for index, serialized in enumerate(records):
            if index in indices:
                source_id = tf.io.parse_single_example(serialized, _SOURCE_ID)["image/source_id"]
                found[index] = source_id.numpy().decode("utf-8", "replace")
    except tf.errors.OpError:  # the file is gone or damaged by now; the other ids are known already
        return found
    return found
