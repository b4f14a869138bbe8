"""Makes records, with the feature keys of the Object Detection API."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from object_detection_fpn.data.source.image_files import StoredImage

PATH_KEY = "image/path"
"""Feature of a record that names its image file in place of `image/encoded`."""


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
        stored: the image; without bytes where `more` has `PATH_KEY`.
        width: of the image, in pixels.
        height: of the image, in pixels.
        file_name: of the file that the image comes from.
        source_id: of the image, by which evaluation results can be compared with those of other tools.
        objects: what is annotated in it.
        more: further fields of one value, by their keys; those that are None are left out.
    """
    columns: dict[str, Sequence[Any]] = {
        "image/encoded": [stored.encoded] if stored.encoded else [],
        "image/format": [stored.format.encode()],
        "image/filename": [file_name.encode()],
        "image/source_id": [source_id.encode()],
        "image/key/sha256": [hashlib.sha256(stored.encoded).hexdigest().encode()] if stored.encoded else [],
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
