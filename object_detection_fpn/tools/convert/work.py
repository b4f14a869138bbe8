"""The folder in which a conversion keeps finished record files until all are complete; the next run goes on with them."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

from object_detection_fpn.tools.convert import storage

FOLDER_NAME = ".unfinished"
_FINGERPRINT = "fingerprint"
_COMPLETE = "complete"
_ROWS = ".rows"
_PART = ".part"
_PACKAGE = "object_detection_fpn.data.source."
_CLASSES = {
    *("coco.CocoImage", "coco.CocoAnnotation", "capture.Capture", "coco_examples.ImageObjects"),
    *("segmentations.BrokenMask", "segmentations.Fault", "segmentations.Notice", "image_files.Unusable"),
}
"""What rows are made of; a folder that somebody else wrote must not run anything."""


class WorkFolder:
    """Finished record files, each with what the report needs of it.

    A file is finished once its rows are written, which appear as a whole. `complete` is written when all files are finished;
    from then on, files that are no longer here have been moved to their place.
    """

    def __init__(self, output_dir: str, fingerprint: str):
        """Opens the folder of an earlier run of the same fingerprint, or a new one; that of another run is removed.

        Args:
            output_dir: folder of the conversion.
            fingerprint: of source and settings.
        """
        self._output_dir, self._folder = output_dir, os.path.join(output_dir, FOLDER_NAME)
        if self._read(_FINGERPRINT) != fingerprint.encode():
            self.remove()
            tf.io.gfile.makedirs(self._folder)
            self._write(_FINGERPRINT, fingerprint.encode())
        self._is_complete = tf.io.gfile.exists(os.path.join(self._folder, _COMPLETE))

    def part_path(self, name: str) -> str:
        """Where a record file is written; `finish` gives it its name."""
        return os.path.join(self._folder, name + _PART)

    def load(self, name: str) -> list[Any] | None:
        """The rows of a record file that is finished; None for one that is not."""
        contents = self._read(name + _ROWS)
        if contents is None:
            return None
        try:
            num_bytes, rows = _Unpickler(io.BytesIO(contents)).load()
        except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError):
            return None  # of another version, or cut off
        places = [self._folder, *([self._output_dir] if self._is_complete else [])]
        paths = [os.path.join(place, name) for place in places]
        return rows if any(tf.io.gfile.exists(path) and _size(path) == num_bytes for path in paths) else None

    def finish(self, name: str, rows: Sequence[Any]) -> None:
        """Keeps a record file that was written to `part_path`."""
        path = os.path.join(self._folder, name)
        tf.io.gfile.rename(self.part_path(name), path, overwrite=True)
        self._write(name + _ROWS, pickle.dumps((_size(path), list(rows)), protocol=4))

    def discard_part(self, name: str) -> None:
        """Removes a record file that was not finished."""
        if tf.io.gfile.exists(self.part_path(name)):
            tf.io.gfile.remove(self.part_path(name))

    def move(self, names: Iterable[str]) -> None:
        """Moves the record files, all of which are finished, to their place."""
        self._write(_COMPLETE, b"")
        for name in names:
            path = os.path.join(self._folder, name)
            if tf.io.gfile.exists(path):
                tf.io.gfile.rename(path, os.path.join(self._output_dir, name), overwrite=True)

    def remove(self) -> None:
        """Removes the folder."""
        if tf.io.gfile.isdir(self._folder):
            tf.io.gfile.rmtree(self._folder)

    def _read(self, name: str) -> bytes | None:
        path = os.path.join(self._folder, name)
        if not tf.io.gfile.exists(path):
            return None
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()

    def _write(self, name: str, contents: bytes) -> None:
        """Writes a file that appears as a whole."""
        path = os.path.join(self._folder, name)
        with tf.io.gfile.GFile(path + _PART, "wb") as file:
            file.write(contents)
        tf.io.gfile.rename(path + _PART, path, overwrite=True)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}".removeprefix(_PACKAGE) not in _CLASSES or not module.startswith(_PACKAGE):
            raise pickle.UnpicklingError(f"{module}.{name} is none of {sorted(_CLASSES)}")
        return super().find_class(module, name)


def image_version(path: str) -> tuple[int, int] | None:
    """Tells an image file from an earlier one of its name; None where it is missing, or remote: a look takes a request."""
    if storage.is_remote(path):
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def fingerprint(parts: Iterable[Any]) -> str:
    """A text that differs where one of the parts does, which are records, numbers and texts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _size(path: str) -> int:
    return int(tf.io.gfile.stat(path).length)
