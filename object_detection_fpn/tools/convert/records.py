"""Writes TFRecord files, with the feature keys of the Object Detection API, and label maps."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from object_detection_fpn.tools.convert.images import StoredImage


class RecordObject(NamedTuple):
    """An annotated object of an image."""

    box: tuple[float, float, float, float]
    """(ymin, xmin, ymax, xmax), normalized to the image."""
    label: int
    """Class id, from 1."""
    name: str
    """Of the class."""
    area: float
    """Pixels."""
    is_crowd: bool
    mask: bytes | None = None
    """A PNG file of the size of the image, 0 outside of the object; empty for an object without a mask. None for all objects
    of a data set without masks."""
    is_difficult: bool = False
    """As PASCAL VOC marks objects."""


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
        self._remove("", kept={os.path.basename(path) for path in self._paths})

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


def make_example(
    stored: StoredImage,
    *,
    width: int,
    height: int,
    file_name: str,
    source_id: str,
    objects: Sequence[RecordObject],
    more: Mapping[str, str | int | None] | None = None,
) -> tf.train.Example:
    """The record of an image.

    Args:
        stored: the image.
        width: of the image, in pixels.
        height: of the image, in pixels.
        file_name: of the file that the image comes from.
        source_id: of the image, by which evaluation results can be compared with those of other tools.
        objects: what is annotated in it.
        more: further fields of one value, by their keys; those that are None are left out.
    """
    columns: dict[str, Sequence[Any]] = {
        "image/encoded": [stored.encoded],
        "image/format": [stored.format.encode()],
        "image/filename": [file_name.encode()],
        "image/source_id": [source_id.encode()],
        "image/key/sha256": [hashlib.sha256(stored.encoded).hexdigest().encode()],
        "image/height": [height],
        "image/width": [width],
        "image/object/bbox/ymin": [o.box[0] for o in objects],
        "image/object/bbox/xmin": [o.box[1] for o in objects],
        "image/object/bbox/ymax": [o.box[2] for o in objects],
        "image/object/bbox/xmax": [o.box[3] for o in objects],
        "image/object/class/label": [o.label for o in objects],
        "image/object/class/text": [o.name.encode() for o in objects],
        "image/object/area": [o.area for o in objects],
        "image/object/is_crowd": [int(o.is_crowd) for o in objects],
        "image/object/difficult": [int(o.is_difficult) for o in objects]
        if any(o.is_difficult for o in objects)
        else [],
        "image/object/mask": [o.mask for o in objects if o.mask is not None],
    }
    for key, value in (more or {}).items():
        columns[key] = [] if value is None else [value.encode() if isinstance(value, str) else value]
    example = tf.train.Example()
    for key, values in columns.items():
        if not values:  # keys without values, as those of images without objects, are left out
            continue
        feature = example.features.feature[key]
        if isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        elif isinstance(values[0], float):
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    return example


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
