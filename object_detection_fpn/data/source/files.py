"""Finds record files, and what each of them is: its size and its compression."""

from __future__ import annotations

import concurrent.futures
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf
from absl import logging

from object_detection_fpn.data.failures import DataError

_NUM_OPENING_THREADS = 32
_HEAD_BYTES = 12  # of a record: its length (8) and the checksum of the length (4)
_CHUNK_BYTES = 4 << 20
_CRC32C_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed
_CRC_MASK_DELTA = 0xA282EAD8  # of TensorFlow's record format


class RecordFile(NamedTuple):
    """A file of records."""

    path: str
    num_bytes: int
    """Of the records with their frames, without compression; of gzip files modulo 2**32, as these state it."""
    compression: str = ""
    """As `tf.data.TFRecordDataset` calls it: "", "GZIP" or "ZLIB"."""
    records: tuple[bytes, ...] | None = None
    """The records themselves, of a file of another format (`coco_records`); None = they are in the file."""


def list_record_files(patterns: Sequence[str]) -> list[RecordFile]:
    """Lists the files that match, in the order of the patterns, then of the names.

    A pattern that matches nothing, beside others that do, is only worth a warning, as in the Object Detection API.

    Raises:
        FileNotFoundError: if there are no files.
        DataError: if all files are empty, one is a folder or cannot be read, or a file system cannot be reached.
    """
    paths: list[str] = []
    for pattern in patterns:
        try:
            matching = sorted(tf.io.gfile.glob(pattern))
        except tf.errors.OpError as error:
            raise DataError(f"{pattern}: cannot be listed: {error.message}") from error
        if not matching:
            logging.warning("No record file matches '%s'.", pattern)
        paths.extend(matching)
    names = ", ".join(f"'{pattern}'" for pattern in patterns)
    if not paths:
        raise FileNotFoundError(f"No record file matches {names or 'an empty list of patterns'}.")
    with concurrent.futures.ThreadPoolExecutor(_NUM_OPENING_THREADS) as pool:
        files = list(pool.map(_look_at, paths))
    if not any(file.num_bytes for file in files):
        raise DataError(f"There are no records in the {len(files)} file(s) that match {names}: all are empty.")
    return files


def _look_at(path: str) -> RecordFile:
    """Opens a file: one that does not open would make the reader try for ever."""
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
            compression = find_compression(head)
            if compression == "GZIP":
                file.seek(max(file.size() - 4, 0))
                return RecordFile(path, int.from_bytes(file.read(4), "little"), compression)
            if compression == "ZLIB":
                file.seek(0)
                return RecordFile(path, _count_decompressed(file), compression)
            return RecordFile(path, file.size())
    except (tf.errors.OpError, zlib.error) as error:
        if tf.io.gfile.isdir(path):
            raise DataError(
                f"{path}: is a folder, not a record file. The files in it are {path.rstrip('/')}/*."
            ) from error
        reason = error.message if isinstance(error, tf.errors.OpError) else str(error)
        raise DataError(f"{path}: cannot be read: {reason}") from error


def find_compression(head: bytes) -> str:
    """Says how a file is compressed, as `RecordFile.compression`, from its first 12 bytes."""
    # The length of a first record may look like the mark of a compressed file, but not with its checksum after it.
    if len(head) >= _HEAD_BYTES and struct.unpack("<I", head[8:12])[0] == _masked_crc32c(head[:8]):
        return ""
    if head[:3] == b"\x1f\x8b\x08":  # RFC 1952
        return "GZIP"
    is_zlib = len(head) >= 2 and head[0] & 0x0F == 8 and head[0] >> 4 <= 7 and int.from_bytes(head[:2], "big") % 31 == 0
    return "ZLIB" if is_zlib else ""  # RFC 1950


def _masked_crc32c(data: bytes) -> int:
    """The checksum that stands beside data in a record file."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_CRC32C_POLYNOMIAL if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + _CRC_MASK_DELTA) & 0xFFFFFFFF


def _count_decompressed(file: tf.io.gfile.GFile) -> int:
    """Bytes of the content of a zlib file, which does not state them; without them a truncated file would go unnoticed."""
    stream, num_bytes = zlib.decompressobj(), 0
    while chunk := file.read(_CHUNK_BYTES):
        num_bytes += len(stream.decompress(chunk))
    if not stream.eof:
        raise zlib.error("its compressed data are truncated")
    return num_bytes
