"""`data/source/files.py`: which files are read, how they are compressed, and what is refused."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

import pytest
import tensorflow as tf

from object_detection_fpn.data.failures import DataError
from object_detection_fpn.data.source import files, reader


def contents(listing) -> list[bytes]:
    return [record.serialized for record in reader.read_records(listing, num_readers=4).as_numpy_iterator()]


def test_empty_files_beside_others_are_no_fault(write_records):
    listing = files.list_record_files([write_records([], "a"), write_records([b"x"], "b"), write_records([], "c")])
    assert contents(listing) == [b"x"]


def test_no_matching_file_is_an_error_that_names_the_patterns():
    with pytest.raises(FileNotFoundError, match=r"No record file matches '/no/such/\*\.a', '/no/such/b'\."):
        files.list_record_files(["/no/such/*.a", "/no/such/b"])


@pytest.mark.parametrize("compress", [lambda data: data, gzip.compress, zlib.compress])
def test_files_without_any_record_are_an_error(tmp_path, compress):
    path = tmp_path / "empty"
    path.write_bytes(compress(b""))
    with pytest.raises(DataError, match=f"no records in the 1 file.s. that match '{path}'"):
        files.list_record_files([str(path)])


def test_a_pattern_without_match_beside_others_is_tolerated(write_records):
    path = write_records([b"x"])
    assert files.list_record_files(["/no/such/file", path]) == [files.RecordFile(path, 17)]


def test_a_folder_in_place_of_a_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=f"{tmp_path}: is a folder, not a record file. The files in it are {tmp_path}/"):
        files.list_record_files([str(tmp_path)])


def test_a_file_system_that_is_not_there_is_an_error_of_one_line():
    with pytest.raises(DataError, match=r"^nosuch://bucket/\*: cannot be listed: .*nosuch") as caught:
        files.list_record_files(["nosuch://bucket/*"])
    assert "\n" not in str(caught.value)


COMPRESS = {"GZIP": gzip.compress, "ZLIB": zlib.compress}


@pytest.mark.parametrize("options", ["GZIP", "ZLIB"])
def test_plain_and_compressed_files_are_read_side_by_side(tmp_path, write_records, options):
    plain = write_records([b"a", b"b"], "0")
    with tf.io.TFRecordWriter(str(tmp_path / "1"), options) as writer:  # as TensorFlow compresses
        writer.write(b"c" * 1000)
    Path(write_records([b"d"], "2")).write_bytes(COMPRESS[options](Path(write_records([b"d"], "2")).read_bytes()))
    listing = files.list_record_files([f"{tmp_path}/*"])
    assert [file.compression for file in listing] == ["", options, options]
    assert [file.num_bytes for file in listing] == [2 * 17, 1016, 17] and listing[0].path == plain
    assert sorted(contents(listing)) == [b"a", b"b", b"c" * 1000, b"d"]


@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_compression_is_known_at_every_level(level):
    data = b"records" * 50
    assert files.find_compression(gzip.compress(data, level)[:12]) == "GZIP"
    assert files.find_compression(zlib.compress(data, level)[:12]) == "ZLIB"


@pytest.mark.parametrize("length", [0x088B1F, 0x9C78, 0x0178, 0xDA78, 0x5E78, 17])
@pytest.mark.no_cover
def test_a_length_that_looks_like_the_mark_of_a_compressed_file_is_none(tmp_path, write_records, length):
    record = b"x" * length
    listing = files.list_record_files([write_records([record])])
    assert listing[0].compression == "" and contents(listing) == [record]


def test_a_gzip_file_that_is_cut_off_is_named(tmp_path):
    path = tmp_path / "cut.gz"
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for i in range(300):
            writer.write(bytes([i % 251, i % 7, i % 11]) * (i + 1))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    *_, last = reader.read_records(files.list_record_files([str(path)])).as_numpy_iterator()
    assert re.fullmatch(
        rf"{path}: truncated or corrupted at byte \d+ of \d+ of its content \(GZIP\), after \d+ good records.",
        last.broken_file(),
    )


def test_a_zlib_file_that_is_cut_off_is_named(tmp_path):
    path = tmp_path / "cut.zlib"
    path.write_bytes(zlib.compress(bytes(range(256)) * 4)[:-30])
    with pytest.raises(DataError, match=f"{path}: cannot be read: its compressed data are truncated"):
        files.list_record_files([str(path)])
