"""Reads and decodes TFRecord files so that whatever goes wrong names the file, the record and the reason.

The errors of tf.data name neither the truncated file nor the record that does not decode. Here every record carries its
file and index, and a failure shows as a gap in the numbers of the records.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from object_detection_fpn.data import decoder, failures, record_keys
from object_detection_fpn.data.report import DataReport, Notice
from object_detection_fpn.data.source.files import RecordFile

_READ_BUFFER_BYTES = 4 << 20  # a few large requests a file, which remote file systems need; times num_readers in memory
_RECORD_FRAME_BYTES = 16  # length (8), its checksum (4), checksum of the data (4)
_GZIP_SIZE_MODULUS = 2**32  # a gzip file states the size of its content modulo this
_RECORDS_BETWEEN_MARKS = 64
_NO_EXAMPLE = b"\0"  # no message begins with a zero byte, so whatever begins like this never decodes
_END_OF_FILE = _NO_EXAMPLE + b"end of file"
_END = np.int64(-1)  # index of the mark after the last record
_BROKEN_FILE = np.int64(-2)  # index of the record that stands for the unreadable rest of a file

# For every function handed to tf.data: nothing here needs AutoGraph, whose conversion would take seconds at each start.
without_autograph = tf.autograph.experimental.do_not_convert


class Record(NamedTuple):
    """A serialized tf.Example and where it comes from, so that whatever happens to it later can be named."""

    serialized: tf.Tensor
    """Scalar string."""
    file: tf.Tensor
    """Scalar string."""
    index: tf.Tensor
    """Scalar int64, position in the file from 0; negative for marks."""

    def broken_file(self) -> str | None:
        """For a record as numpy values: what is wrong with the file, if this stands for its unreadable rest."""
        return self.serialized[len(_NO_EXAMPLE) :].decode() if self.index == _BROKEN_FILE else None


class RecordIssues(NamedTuple):
    """What is wrong with a record; `report_issues` reports it from Python, which a data service's workers cannot call."""

    notices: tf.Tensor
    """[len(Notice)] int32, like the next two of `decoder.Issues`."""
    num_boxes: tf.Tensor
    """Scalar int32."""
    values: tf.Tensor
    """[len(Notice)] string."""
    file: tf.Tensor
    """Scalar string."""
    index: tf.Tensor
    """Scalar int64."""
    source_id: tf.Tensor
    """Scalar string."""
    failed: Record
    """The record before this one if it did not decode, else one that is empty and has no file."""


def untuned() -> tf.data.Options:
    """Options by which parallel calls are as many as cores."""
    # TensorFlow 2.20's thread that tunes their number sometimes misses that its iterator is deleted, which waits for it: at
    # the end of training or evaluation, or of a worker of a data service, all stood still for up to a minute.
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def read_records(
    files: Sequence[RecordFile],
    *,
    is_shuffled: bool = False,
    shuffle_buffer_size: int | None = None,
    num_epochs: int = 1,
    num_readers: int = 1,
    block_length: int = 1,
    input_context: tf.distribute.InputContext | None = None,
    is_deterministic: bool = True,
    seed: int | tf.Tensor = 0,
    cache: str | None = None,
) -> tf.data.Dataset:
    """The `Record`s of all files, or one pipeline's share of them.

    A file that is truncated or corrupted gives its good records and then one that marks it (`Record.broken_file`), which
    `decode_records` refuses. It is never left out by sharding or sampling.

    Args:
        files: see `files.list_record_files`; some may be compressed. A file whose records are in memory is read as one of these
            alone, in its order.
        is_shuffled: read the files in another order each epoch (records of a file keep theirs).
        shuffle_buffer_size: file names to choose the next one from; None = all of them.
        num_epochs: how often to read everything, 0 for ever.
        num_readers: files to read at the same time.
        block_length: records to take from a file before turning to the next.
        input_context: which part to read: every n-th file if there are enough of them, else every n-th record.
        is_deterministic: keep the order exactly, however fast the files arrive.
        seed: of the order of the files.
        cache: keeps the records of the first pass for the others: "" in memory, a folder in files there. None = reads anew.
    """
    if any(file.records is not None for file in files):
        return _records_in_memory(files, num_epochs=num_epochs, input_context=input_context)
    paths, sizes, compressions = zip(*((file.path, file.num_bytes, file.compression) for file in files), strict=True)
    dataset = tf.data.Dataset.from_tensor_slices((list(paths), tf.constant(sizes, tf.int64), list(compressions)))
    num_files, num_shards, shard = len(files), 1, 0
    if input_context is not None:
        num_shards, shard = input_context.num_input_pipelines, input_context.input_pipeline_id
    has_files_for_all = num_files >= num_shards
    if has_files_for_all:
        dataset = dataset.shard(num_shards, shard)
        num_files = len(range(shard, num_files, num_shards))
    if is_shuffled:
        dataset = dataset.shuffle(min(shuffle_buffer_size or num_files, num_files), seed=seed)
    if cache is None:
        dataset = dataset.repeat(num_epochs or None)
    records = dataset.interleave(
        _read_file,
        cycle_length=min(num_readers, num_files),
        block_length=block_length,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=is_deterministic,
    )
    records = keep_flagged(records)
    if cache is not None:
        contents = [(file.path, file.num_bytes) for file in files]
        place = _cache_place(cache, [*contents, ("shard", shard if has_files_for_all else 0), ("of", num_shards)])
        records = records.cache(place).repeat(num_epochs or None)
    return records if has_files_for_all else every_nth(records, num_shards, first=shard)


def _records_in_memory(
    files: Sequence[RecordFile], *, num_epochs: int, input_context: tf.distribute.InputContext | None
) -> tf.data.Dataset:
    """What `read_records` gives of one file of the same records."""
    (file,) = files
    assert file.records is not None
    rows = tf.data.Dataset.from_tensor_slices(tf.constant(file.records, tf.string))

    @without_autograph
    def to_record(index, serialized):
        return Record(serialized, tf.constant(file.path), index)

    records = rows.enumerate().map(to_record).repeat(num_epochs or None)
    if input_context is None:
        return records
    return every_nth(records, input_context.num_input_pipelines, first=input_context.input_pipeline_id)


def _cache_place(folder: str, contents: Sequence[tuple[str, int]]) -> str:
    """Prefix of the files that keep `contents`, without what a run that was cut off has left there; "" for memory."""
    if not folder:
        return ""
    tf.io.gfile.makedirs(folder)
    place = os.path.join(folder, "records-" + hashlib.sha256(repr(contents).encode()).hexdigest()[:16])
    if not tf.io.gfile.exists(f"{place}.index"):
        for path in tf.io.gfile.glob(f"{place}*"):
            tf.io.gfile.remove(path)
    return place


def every_nth(records: tf.data.Dataset, n: int, *, first: int = 0) -> tf.data.Dataset:
    """Records number `first`, `first` + n, ... of `records`, and all that stand for a broken file."""

    @without_autograph
    def flag(number, record):
        return record, (number % n == first) | (record.index == _BROKEN_FILE)

    return keep_flagged(records.enumerate().map(flag))


def decode_records(
    records: tf.data.Dataset,
    decode: Callable[[tf.Tensor], decoder.DecodedExample],
    *,
    end: bytes,
    report: DataReport | None,
    num_parallel_calls: int = tf.data.AUTOTUNE,
    decode_one: Callable[[tf.Tensor, tf.Tensor], decoder.DecodedExample] | None = None,
) -> tf.data.Dataset:
    """Decodes records in parallel and in order, naming the one (or the file) that fails, and counts what was dropped.

    Args:
        records: of `Record`.
        decode: `decoder.decode_example` with its keywords bound.
        end: any record that `decode` accepts; it marks the end.
        report: takes the counts. None puts off both counting and failing: every element then has `RecordIssues` as its fourth
            component, for `report_issues`, and what follows a record that fails is to be thrown away.
        num_parallel_calls: records to decode at the same time.
        decode_one: instead of `decode`, which then only explains, takes a record and its number among the results.

    Returns:
        A data set of (`Example`, source id, key of the record); the source id is "<file>:<index>" for records that have none,
        the key that of `record_keys`. Iterating raises tf.errors.InvalidArgumentError at the record that fails.
    """
    # An error inside a parallel map does not name the record that caused it. So failing elements are left out, and each
    # element carries the record before it: at a gap in the numbers, this is the one that failed. Python explains why.
    end_record = Record(tf.constant(end), tf.constant(""), tf.constant(_END))
    mark = tf.data.Dataset.from_tensors(end_record)
    # Marks in between too: data that repeat without end and of which nothing decodes would never come to the last one.
    choices = tf.data.Dataset.from_tensor_slices(tf.constant([0] * _RECORDS_BETWEEN_MARKS + [1], tf.int64)).repeat()
    marked = tf.data.Dataset.choose_from_datasets([records, mark.repeat()], choices, stop_on_empty_dataset=True)

    @without_autograph
    def number(state, record):
        position, previous = state
        return (position + 1, record), (position, record, previous)

    @without_autograph
    def decode_numbered(position, record, previous):
        if decode_one is None:
            decoded = decode(record.serialized)
        else:
            decoded = decode_one(record.serialized, position - position // (_RECORDS_BETWEEN_MARKS + 1))
        return position, Record(tf.constant(""), record.file, record.index), previous, decoded

    @without_autograph
    def check(expected, element):
        position, record, previous, decoded = element
        is_complete = position == expected
        nothing = Record(tf.constant(""), tf.constant(""), tf.constant(0, tf.int64))
        failed = tf.nest.map_structure(functools.partial(tf.where, is_complete), nothing, previous)
        issues = RecordIssues(*decoded.issues, record.file, record.index, decoded.source_id, failed)
        is_kept = record.index != _END
        has_id = tf.strings.length(decoded.source_id) > 0
        name = tf.strings.join([record.file, ":", tf.strings.as_string(record.index)])
        found = (
            decoded.example,
            tf.where(has_id, decoded.source_id, name),
            record_keys.make_key(record.file, record.index),
        )
        if report is None:
            return position + 1, ((*found, issues), is_kept | ~is_complete)
        report_issues(issues, decode, report)
        return position + 1, (found, is_kept)

    zero = tf.constant(0, tf.int64)
    numbered = marked.concatenate(mark).scan((zero, end_record), number)
    decoded = numbered.map(decode_numbered, num_parallel_calls=num_parallel_calls, deterministic=True).ignore_errors()
    return keep_flagged(decoded.scan(zero, check))


@without_autograph
def _read_file(file: tf.Tensor, size: tf.Tensor, compression: tf.Tensor) -> tf.data.Dataset:
    """(`Record`, is to be kept) of a file of `size` bytes, at last a mark, to be kept only if there are bytes left over.

    The arguments are the fields of a `RecordFile`.
    """
    # A file that has vanished since it was listed would be tried for ever: it is read only if a look for its name, in
    # which "?" stands for characters that mean something in a pattern, finds anything.
    found = tf.io.matching_files(tf.strings.regex_replace(file, r"[*?\[\]\\]", "?"))
    existing = tf.boolean_mask([file], [tf.size(found) > 0])
    # tf.data's own error names no file. So it is put aside, and the missing bytes are noticed at the end.
    records = tf.data.TFRecordDataset(existing, compression, buffer_size=_READ_BUFFER_BYTES).ignore_errors()
    kind = tf.where(compression == "", "", tf.strings.join([" of its content (", compression, ")"]))
    counted = tf.where(compression == "GZIP", tf.constant(_GZIP_SIZE_MODULUS, tf.int64), tf.int64.max)

    @without_autograph
    def number(state, serialized):
        offset, index = state
        is_end = serialized == _END_OF_FILE
        is_broken = is_end & (offset % counted != size)
        message = tf.strings.join(
            [_NO_EXAMPLE, file, ": truncated or corrupted at byte ", tf.strings.as_string(offset), " of ",
             tf.strings.as_string(size), kind, ", after ", tf.strings.as_string(index), " good records."]
        )  # fmt: skip
        record = Record(tf.where(is_broken, message, serialized), file, tf.where(is_broken, _BROKEN_FILE, index))
        next_offset = offset + _RECORD_FRAME_BYTES + tf.cast(tf.strings.length(serialized), tf.int64)
        return (next_offset, index + 1), (record, ~is_end | is_broken)

    zero = tf.constant(0, tf.int64)
    return records.concatenate(tf.data.Dataset.from_tensors(_END_OF_FILE)).scan((zero, zero), number)


def keep_flagged(flagged: tf.data.Dataset) -> tf.data.Dataset:
    """From a data set of (element, flag) to the elements whose flag is set."""
    # Functions that only pick a component are never run; anything more would cost 50 microseconds an element.
    kept = flagged.filter(without_autograph(lambda element, is_kept: is_kept))
    return kept.map(without_autograph(lambda element, is_kept: element))


def report_issues(
    issues: RecordIssues,
    decode: Callable[[tf.Tensor], decoder.DecodedExample],
    report: DataReport,
    *,
    batched: bool = False,
) -> None:
    """Counts what was dropped, and fails if a record did not decode; to be called where tf.data calls Python functions.

    Args:
        issues: of one record, or, if `batched`, of several, each component with a leading dimension.
        decode: decodes the record that failed once more, for the reason.
        report: takes the counts.
        batched: see `issues`.

    Raises:
        tf.errors.InvalidArgumentError: if a record did not decode.
    """
    if not batched:
        issues = tf.nest.map_structure(lambda component: component[tf.newaxis], issues)
    # Python is called for records with issues only: a call takes about 50 microseconds.
    is_good = tf.reduce_all(
        tf.strings.length(issues.failed.file) == 0
    )  # a record may have no bytes, and then fails too
    message = tf.cond(is_good, lambda: tf.constant(""), lambda: _explain(issues.failed, decode))
    tf.raw_ops.Assert(condition=is_good, data=[message])
    _count(issues, report)


def _explain(records: Record, decode: Callable[[tf.Tensor], decoder.DecodedExample]) -> tf.Tensor:
    """Says why the first of these [N] records that has a file does not decode."""

    def explain(serialized: np.ndarray, files: np.ndarray, indices: np.ndarray) -> bytes:
        row = next(row for row, file in enumerate(files) if file)
        record = Record(serialized[row], files[row], indices[row])
        message = record.broken_file() or failures.explain_failure(
            record.serialized, file=record.file.decode(), index=int(record.index), decode=decode
        )
        return message.encode("utf-8", "replace")

    return tf.ensure_shape(tf.numpy_function(explain, list(records), tf.string), [])


def _count(issues: RecordIssues, report: DataReport) -> None:
    """Hands the counts of records, each component with a leading dimension, to the report."""

    def add(*components: np.ndarray) -> np.bool_:
        for notices, num_boxes, values, file, index, source_id in zip(*components, strict=True):
            name = failures.name_record(file.decode(), int(index), source_id.decode("utf-8", "replace"))
            for notice, count, value in zip(Notice, notices.tolist(), values.tolist(), strict=True):
                report.add(notice, count, name, num_boxes=int(num_boxes), value=value.decode("utf-8", "replace"))
        return np.bool_(True)

    tf.cond(
        tf.reduce_any(issues.notices > 0),
        lambda: tf.numpy_function(add, list(issues[:-1]), tf.bool),
        lambda: tf.constant(True),
    )
