"""What a save that was killed leaves in the folder of a run, and who may remove it.

TensorFlow writes a checkpoint into the folder `ckpt-N_temp`, renames its data file, writes its index, and at last replaces the
file `checkpoint`. A process that is killed in between leaves a part of that, as large as a checkpoint.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import time
import weakref

import tensorflow as tf

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

_LOGGER = logging.getLogger(__name__)

_SECONDS_UNTIL_STALE = 3600.0  # far longer than a save pauses between two writes, also on a slow remote folder
_PART_OF_SAVE = re.compile(r"part-\d+-of-\d+\.")
_TEMPORARY_FOLDER = re.compile(r"ckpt-\d+_temp")
_TEMPORARY_FILE = re.compile(r"checkpoint\.tmp[0-9a-f]+|ckpt-\d+\..*tempstate\d+")
_DATA_FILE = re.compile(r"(ckpt-\d+)\.data-\d+-of-\d+")


class FolderClaim:
    """A process's claim on the folder of its run, which the operating system ends with the process, however that ends.

    It is a lock on the folder itself, so that no file is needed that would be left. Remote folders, and file systems without
    such locks, cannot be claimed.

    Args:
        folder: of the run; need not exist yet.
    """

    def __init__(self, folder: str):
        self._folder = folder
        self._finalizer: weakref.finalize | None = None
        self.is_taken = False
        """Whether another process held the folder when `acquire` was last called."""

    @property
    def is_held(self) -> bool:
        return self._finalizer is not None

    def acquire(self) -> bool:
        """Claims the folder, if it exists and nobody else has; True if it is now held."""
        if self.is_held or fcntl is None or "://" in self._folder or not os.path.isdir(self._folder):
            return self.is_held
        try:
            descriptor = os.open(self._folder, os.O_RDONLY)
        except OSError:
            return False  # saving will say why
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            self.is_taken = error.errno in (errno.EWOULDBLOCK, errno.EACCES)
            return False
        self.is_taken = False
        self._finalizer = weakref.finalize(self, os.close, descriptor)
        return True

    def release(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
            self._finalizer = None


def remove_leftovers(folder: str, *, is_claimed: bool) -> None:
    """Removes what killed saves left in the folder of a run.

    Args:
        folder: of the run.
        is_claimed: no other process can be saving there. Otherwise one may be (an earlier run that is being stopped, or one
            that was started twice), and only folders in which nothing has changed for an hour are removed.
    """
    for path in tf.io.gfile.glob(os.path.join(folder, "ckpt-*_temp")):
        _remove(path, only_stale=not is_claimed)
    if is_claimed:
        for path in _part_files(folder):
            _remove(path)


def remove_failed_save(folder: str, step: int) -> None:
    """Removes what a save of this process that could not be written left: where a disk is full, the space is needed."""
    path = os.path.join(folder, f"ckpt-{step}_temp")
    if tf.io.gfile.exists(path):
        _remove(path)
    for path in _part_files(folder):
        if os.path.basename(path).startswith((f"ckpt-{step}.", "checkpoint.")):
            _remove(path)


def _part_files(folder: str) -> list[str]:
    """Files that only a save that was cut off leaves: temporary ones, and data without the index that is written after them."""
    if not tf.io.gfile.isdir(folder):
        return []
    names = set(tf.io.gfile.listdir(folder))
    found = []
    for name in sorted(names):
        data = _DATA_FILE.fullmatch(name)
        if _TEMPORARY_FILE.fullmatch(name) or (data and f"{data[1]}.index" not in names):
            found.append(os.path.join(folder, name))
    return found


def _remove(path: str, *, only_stale: bool = False) -> None:
    try:
        if not tf.io.gfile.isdir(path):
            tf.io.gfile.remove(path)
        elif _is_save(path) and not (only_stale and time.time() - _newest_change(path) <= _SECONDS_UNTIL_STALE):
            tf.io.gfile.rmtree(path)
    except tf.errors.NotFoundError:
        return  # the save has come to its end meanwhile
    except tf.errors.OpError as error:
        _LOGGER.warning("%s was left by a save that was killed, and cannot be removed (%s).", path, error.message)


def _is_save(folder: str) -> bool:
    """Whether a folder holds nothing but parts of a checkpoint."""
    is_named = _TEMPORARY_FOLDER.fullmatch(os.path.basename(folder))
    return bool(is_named) and all(map(_PART_OF_SAVE.match, tf.io.gfile.listdir(folder)))


def _newest_change(folder: str) -> float:
    """Seconds since the epoch."""
    places = [os.path.join(folder, name) for name in tf.io.gfile.listdir(folder)] or [folder]
    return max(tf.io.gfile.stat(place).mtime_nsec for place in places) / 1e9
