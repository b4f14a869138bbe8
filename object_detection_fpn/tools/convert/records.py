"""Writes TFRecord files and label maps."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

import tensorflow as tf


class RecordFiles:
    """A set of record files, `<prefix>-00000-of-0000N.tfrecord` etc., that appears as a whole.

    `with files.open(): files.write(...)` writes files that end in ".part"; they get their names when the block ends. An older
    set of the same prefix is then removed, of which a glob would read what is left over. After an error or an interruption
    the ".part" files are removed and the older set is left as it is.
    """

    def __init__(self, prefix: str, num_shards: int):
        """Args:
        prefix: folder and beginning of the names.
        num_shards: number of files; records are dealt out to them in turn.
        """
        self._prefix = prefix
        self._paths = [f"{prefix}-{i:05d}-of-{num_shards:05d}.tfrecord" for i in range(num_shards)]
        self._writers: Sequence[tf.io.TFRecordWriter] = ()
        self._num_written = 0
        self.names = [os.path.basename(path) for path in self._paths]
        """Of the files."""
        self.pattern = f"{prefix}-*-of-{num_shards:05d}.tfrecord"
        """Glob of the files."""

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Opens the files for `write`."""
        tf.io.gfile.makedirs(os.path.dirname(self._prefix) or ".")
        self._remove(r"\.part")  # of a run that was killed
        try:
            with contextlib.ExitStack() as stack:
                self._writers = [stack.enter_context(tf.io.TFRecordWriter(path + ".part")) for path in self._paths]
                yield
            for path in self._paths:
                tf.io.gfile.rename(path + ".part", path, overwrite=True)
        finally:
            self._remove(r"\.part")
        self.remove_older()

    def remove_older(self) -> None:
        """Removes an older set of this prefix, of other names."""
        self._remove("", kept=self.names)

    def write(self, example: tf.train.Example) -> None:
        """Writes a record to the next file in turn."""
        self.write_serialized(example.SerializeToString())

    def write_serialized(self, record: bytes) -> None:
        """Writes a serialized record to the next file in turn."""
        self._writers[self._num_written % len(self._writers)].write(record)
        self._num_written += 1

    def _remove(self, ending: str, kept: Collection[str] = ()) -> None:
        """Removes the files of this prefix, and no others, whose name has this ending (a regular expression)."""
        folder, name = os.path.split(self._prefix)
        is_ours = re.compile(re.escape(name) + r"-\d{5}-of-\d{5}\.tfrecord" + ending)
        for found in tf.io.gfile.listdir(folder or "."):
            if is_ours.fullmatch(found) and found not in kept:
                tf.io.gfile.remove(os.path.join(folder, found))


def write_label_map(path: str, names: Mapping[int, str]) -> None:
    """Writes a `StringIntLabelMap` in text format.

    Args:
        path: of the file.
        names: from class id to name.
    """
    items = [f'item {{\n  id: {label}\n  name: "{_escape(name)}"\n}}\n' for label, name in sorted(names.items())]
    write_whole(path, "\n".join(items))


def write_whole(path: str, text: str) -> None:
    """Writes a file that appears as a whole: after an error an older one is left as it is."""
    tf.io.gfile.makedirs(os.path.dirname(path) or ".")
    part = path + ".part"
    try:
        with tf.io.gfile.GFile(part, "w") as file:
            file.write(text)
        tf.io.gfile.rename(part, path, overwrite=True)
    finally:
        if tf.io.gfile.exists(part):
            tf.io.gfile.remove(part)


def _escape(name: str) -> str:
    """As protobuf's text format wants it between double quotes; other alphabets stay readable."""
    name = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return re.sub(r"[\x00-\x1f\x7f]", lambda character: f"\\{ord(character[0]):03o}", name)
