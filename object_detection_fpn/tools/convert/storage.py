"""Files and folders, local and remote: what `os` and `open` say of local ones, and TensorFlow's file systems of others."""

from __future__ import annotations

import os
from collections.abc import Iterator

import tensorflow as tf

_SCHEME = "://"


def is_remote(path: str) -> bool:
    """Whether a path is of a file system of TensorFlow, as gs://."""
    return _SCHEME in path


def exists(path: str) -> bool:
    """Whether there is a file or a folder."""
    return tf.io.gfile.exists(normalized(path)) if is_remote(path) else os.path.exists(path)


def isdir(path: str) -> bool:
    """Whether there is a folder."""
    return tf.io.gfile.isdir(normalized(path)) if is_remote(path) else os.path.isdir(path)


def isfile(path: str) -> bool:
    """Whether there is a file."""
    if is_remote(path):
        return exists(path) and not isdir(path)
    return os.path.isfile(path)


def list_names(folder: str) -> list[str]:
    """Names of the files and folders in a folder, in the order of the alphabet."""
    if not is_remote(folder):
        return sorted(os.listdir(folder))
    try:
        return sorted(name.rstrip("/") for name in tf.io.gfile.listdir(normalized(folder)))
    except tf.errors.NotFoundError:  # some systems take the beginning of any path for a folder
        return []


def normalized(path: str) -> str:
    """The path without "." and "..", which remote file systems take for names."""
    if not is_remote(path):
        return os.path.normpath(path)
    scheme, _, rest = path.partition(_SCHEME)
    return f"{scheme}{_SCHEME}{os.path.normpath(rest)}"


def absolute(path: str) -> str:
    """The path from the root of its file system."""
    return path if is_remote(path) else os.path.abspath(path)


def walk(folder: str) -> Iterator[str]:
    """The folder and all below it, each once, in the order of the alphabet; links are followed."""
    if is_remote(folder):
        yield from sorted(path for path, _, _ in tf.io.gfile.walk(folder))
        return
    seen: set[str] = set()
    for path, folders, _ in os.walk(folder, followlinks=True):
        if os.path.realpath(path) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(os.path.realpath(path))
        folders.sort()
        yield path


def read_bytes(path: str) -> bytes:
    """The content of a file.

    Raises:
        OSError: if it cannot be read; `strerror` says why.
    """
    if not is_remote(path):
        with open(path, "rb") as file:
            return file.read()
    return _read_remote(path)


def read_head_and_tail(path: str, size: int) -> bytes:
    """The first and the last `size` bytes of a file.

    Raises:
        OSError: as `read_bytes`.
    """
    if is_remote(path):
        return _read_remote(path, size)
    with open(path, "rb") as file:
        head = file.read(size)
        file.seek(max(os.path.getsize(path) - size, size))
        return head + file.read(size)


def _read_remote(path: str, size: int | None = None) -> bytes:
    try:
        with tf.io.gfile.GFile(normalized(path), "rb") as file:
            if size is None:
                return file.read()
            head = file.read(size)
            if file.size() <= size:
                return head
            file.seek(max(file.size() - size, size))
            return head + file.read(size)
    except tf.errors.OpError as error:
        raise OSError(0, error.message, path) from error
