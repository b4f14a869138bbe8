"""`data/source/reader.py`: every record once, and failures that name file, record and reason."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import tensorflow as tf

from object_detection_fpn.data import decoder, failures
from object_detection_fpn.data.report import DataReport, Notice
from object_detection_fpn.data.source import files, reader

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time


@pytest.fixture
def three_files(write_records):
    """Three files with 4, 1 and 3 records; returns (their names and sizes, all records as (file, index, bytes))."""
    expected = []
    for name, num in (("a", 4), ("b", 1), ("c", 3)):
        records = [f"{name}{i}".encode() * (i + 1) for i in range(num)]
        path = write_records(records, f"{name}.tfrecord")
        expected += [(path.encode(), i, record) for i, record in enumerate(records)]
    return files.list_record_files(
        [str(Path(path.decode()).parent / "*.tfrecord") for path, *_ in expected[:1]]
    ), expected


def listed(dataset: tf.data.Dataset) -> list[tuple[bytes, int, bytes]]:
    return [(r.file, int(r.index), r.serialized) for r in dataset.as_numpy_iterator()]


def broken_files(dataset: tf.data.Dataset) -> list[str]:
    return [words for words in (record.broken_file() for record in dataset.as_numpy_iterator()) if words]


def test_records_come_in_order_with_their_file_and_index(three_files):
    listing, expected = three_files
    assert listed(reader.read_records(listing)) == expected


@pytest.mark.parametrize("num_readers, block_length", [(1, 1), (2, 1), (64, 32)])
@pytest.mark.parametrize("is_shuffled", [False, True])
def test_every_record_comes_once_an_epoch(three_files, num_readers, block_length, is_shuffled):
    listing, expected = three_files
    dataset = reader.read_records(
        listing, num_readers=num_readers, block_length=block_length, is_shuffled=is_shuffled, num_epochs=2
    )
    assert sorted(listed(dataset)) == sorted(expected * 2)


def test_zero_epochs_never_end(three_files):
    listing, _ = three_files
    assert len(listed(reader.read_records(listing, num_epochs=0).take(50))) == 50


def test_files_come_in_another_order_each_epoch_and_with_each_seed(three_files):
    listing, _ = three_files

    def order(seed):
        return [file for file, *_ in listed(reader.read_records(listing, is_shuffled=True, num_epochs=6, seed=seed))]

    first = order(1)
    assert first == order(1)
    assert first != order(2)
    assert len({tuple(first[i : i + 8]) for i in range(0, 48, 8)}) > 1


@pytest.mark.parametrize("num_pipelines", [2, 3, 5])
def test_pipelines_share_all_records_without_overlap(three_files, num_pipelines):
    listing, expected = three_files
    shares = [
        listed(reader.read_records(listing, input_context=tf.distribute.InputContext(num_pipelines, i, num_pipelines)))
        for i in range(num_pipelines)
    ]
    assert sorted([record for share in shares for record in share]) == sorted(expected)
    assert all(shares)


@pytest.mark.parametrize("is_parallel", [False, True])
@pytest.mark.parametrize(
    "spoil, num_good, offset",
    [
        (lambda data: data[:-1], 3, 60),  # cut in the last record
        (lambda data: data[:30], 1, 18),  # cut in the second
        (lambda data: data[:5], 0, 0),  # not even a length
        (lambda data: data[:31] + b"?" + data[32:], 1, 18),  # a byte of the second record changed
        (lambda data: b"?" + data[1:], 0, 0),  # a byte of the first length changed
        (lambda data: data + b"rest", 4, 84),
    ],
)
def test_a_truncated_or_corrupted_file_is_named_with_the_place(
    tmp_path, write_records, spoil, num_good, offset, is_parallel
):
    records = [b"ab" * (i + 1) for i in range(4)]  # 18, 20, 22 and 24 bytes in the file
    good = write_records([b"fine"], "a.tfrecord")
    path = write_records(records, "b.tfrecord")
    data = spoil(Path(path).read_bytes())
    Path(path).write_bytes(data)
    listing = files.list_record_files([good, path])
    dataset = reader.read_records(listing, num_readers=2 if is_parallel else 1, is_deterministic=not is_parallel)
    assert broken_files(dataset) == [
        f"{path}: truncated or corrupted at byte {offset} of {len(data)}, after {num_good} good records."
    ]
    assert len(list(dataset)) == 1 + num_good + 1


def test_a_file_that_is_no_record_file_is_named(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("These are not the records you are looking for.")
    words = broken_files(reader.read_records(files.list_record_files([str(path)])))
    assert words == [f"{path}: truncated or corrupted at byte 0 of 46, after 0 good records."]


def test_a_file_that_vanished_is_named(write_records):
    path = write_records([b"x"], "odd [1]*name.tfrecord")
    listing = [files.RecordFile(path, 17)]
    assert [record for *_, record in listed(reader.read_records(listing))] == [b"x"]
    Path(path).unlink()
    words = broken_files(reader.read_records(listing))
    assert words == [f"{path}: truncated or corrupted at byte 0 of 17, after 0 good records."]


@pytest.mark.parametrize("first", [0, 1, 2])
def test_every_nth_record_is_taken_but_none_that_stands_for_a_broken_file_is_lost(write_records, first):
    path = write_records([b"a", b"b", b"c", b"d", b"e"])
    with open(path, "r+b") as file:
        file.truncate(4 * 17 + 3)
    records = reader.read_records(files.list_record_files([path]))
    kept = reader.every_nth(records, 3, first=first)
    assert [record for *_, record in listed(kept)][:-1] == [[b"a", b"d"], [b"b"], [b"c"]][first]
    assert len(broken_files(kept)) == 1


END_MARK = tf.io.encode_png(tf.zeros([1, 1, 1], tf.uint8)).numpy()


@pytest.fixture
def decode_all(write_records, make_record):
    """Writes records, decodes them in parallel, and returns (list of source ids, report)."""

    def run(records):
        report = DataReport()
        dataset = reader.decode_records(
            reader.read_records(files.list_record_files([write_records(records)])),
            functools.partial(decoder.decode_example, decoding=decoder.Decoding(num_classes=3)),
            end=make_record([], [], image=END_MARK),
            report=report,
            num_parallel_calls=4,
        )
        return [source_id for _, source_id, _ in dataset.as_numpy_iterator()], report

    return run


def test_records_are_decoded_in_order(decode_all, make_record):
    ids, report = decode_all([make_record(source_id=str(i)) for i in range(20)])
    assert ids == [str(i).encode() for i in range(20)]
    assert report.num_dropped == 0


def test_records_without_source_id_are_called_by_file_and_index(decode_all, make_record, tmp_path):
    ids, _ = decode_all([make_record(source_id=s) for s in ("x", "")])
    assert ids == [b"x", f"{tmp_path}/data.tfrecord:1".encode()]


_NO_IMAGE = "(source_id bad): image/encoded (7 bytes beginning with 67 61 72 62) does not decode"


@pytest.mark.parametrize(
    "kind, words, num_before, num_after",
    [
        ("image", _NO_IMAGE, 0, 0),
        ("image", _NO_IMAGE, 0, 3),
        ("image", _NO_IMAGE, 3, 0),
        ("image", _NO_IMAGE, 9, 9),
        ("label", "(source_id bad): image/object/class/label gives class id 4. Allowed: 1 to 3 (num_classes).", 2, 1),
        ("bytes", ": 3 bytes that are no serialized tf.Example.", 2, 1),
        ("nothing", ": image/encoded is missing or empty.", 2, 1),
        ("group", " bytes that are no serialized tf.Example.", 2, 1),
        ("second field", ": image/encoded is missing or empty.", 2, 1),
    ],
)
def test_a_record_that_does_not_decode_is_named_wherever_it_stands(
    decode_all, make_record, tmp_path, num_before, num_after, kind, words
):
    bad = {
        "image": make_record(image=b"garbage", source_id="bad"),
        "label": make_record(labels=[4], source_id="bad"),
        "bytes": b"\xff\xff\xff",
        "nothing": b"",
        "group": b"\x13\x14" + make_record(),  # protobuf reads it, TensorFlow does not, and quotes the bytes
        "second field": b"\x12\x03abc",  # no field of a tf.Example, and no tf.SequenceExample's
    }[kind]
    good = make_record()
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        decode_all([good] * num_before + [bad] + [good] * num_after)
    refused = failures.error_message(caught.value)
    assert refused.startswith(f"{tmp_path}/data.tfrecord, record {num_before}")
    assert words in refused


def test_a_broken_file_is_refused_by_its_words(make_record, write_records):
    path = write_records([make_record()] * 3)
    size = Path(path).stat().st_size
    with open(path, "r+b") as file:
        file.truncate(size - 1)
    report = DataReport()
    dataset = reader.decode_records(
        reader.read_records(files.list_record_files([path])),
        functools.partial(decoder.decode_example, decoding=decoder.Decoding(num_classes=3)),
        end=make_record([], [], image=END_MARK),
        report=report,
    )
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        list(dataset)
    assert failures.error_message(caught.value) == (
        f"{path}: truncated or corrupted at byte {size // 3 * 2} of {size - 1}, after 2 good records."
    )


def test_two_bad_records_in_a_row_are_refused_too(decode_all, make_record):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"record 2 .source_id 7.: image/encoded is missing"):
        decode_all([make_record(), make_record(image=b""), make_record(image=b""), make_record()])


def test_endless_data_of_which_nothing_decodes_are_refused(write_records, make_record):
    path = write_records([make_record(image=b"garbage", source_id="bad")])
    dataset = reader.decode_records(
        reader.read_records(files.list_record_files([path]), num_epochs=0),
        functools.partial(decoder.decode_example, decoding=decoder.Decoding(num_classes=3)),
        end=make_record([], [], image=END_MARK),
        report=DataReport(),
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"record 0 .source_id bad."):
        next(iter(dataset))


def test_dropped_boxes_are_counted_with_the_name_of_their_record(decode_all, make_record, monkeypatch, tmp_path):
    lines = []
    monkeypatch.setattr(
        DataReport, "add", lambda self, notice, num, name, **_: num and lines.append((notice, num, name))
    )
    nan = float("nan")
    records = [
        make_record(source_id="ok"),
        make_record([(0.5, 0.1, 0.1, 0.5), (0.5, 0.1, 0.1, 0.5), (nan, 0, 1, 1)], source_id="bad"),
        make_record([(0.1, 0.1, 1.5, 0.5)], source_id="big"),
    ]
    ids, _ = decode_all(records)
    assert len(ids) == 3
    file = f"{tmp_path}/data.tfrecord"
    assert sorted(lines) == [
        (Notice.NOT_FINITE, 1, f"{file}, record 1 (source_id bad)"),
        (Notice.INVERTED, 2, f"{file}, record 1 (source_id bad)"),
        (Notice.CLIPPED, 1, f"{file}, record 2 (source_id big)"),
    ]
