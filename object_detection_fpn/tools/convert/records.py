"""Writes TFRecord files and label maps."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf
from PIL import Image, UnidentifiedImageError

from object_detection_fpn.data.source.coco import CocoError

_STORED_AS_IS = {"JPEG": "jpeg", "PNG": "png"}  # other formats are stored as PNG, without loss


def make_example(
    image: Mapping[str, Any],
    annotations: Iterable[dict[str, Any]],
    image_dir: str,
    label_of: Mapping[int, int],
    names: Mapping[int, str],
    annotations_path: str,
) -> tuple[tf.train.Example, list[dict[str, Any]]]:
    """The record of an image, and those of its annotations that have no area inside it."""
    path = os.path.join(image_dir, image["file_name"])
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            encoded = file.read()
    except tf.errors.NotFoundError as error:
        raise CocoError(f"{annotations_path}: image {image['id']} names {path}, which does not exist.") from error
    (width, height), image_format = probe(encoded, f"{path} (image {image['id']} of {annotations_path})")
    stated = (image.get("width", width), image.get("height", height))
    if stated != (width, height):
        raise CocoError(
            f"{annotations_path}: image {image['id']} is said to be {stated[0]} x {stated[1]} pixels, "
            f"but {path} is {width} x {height}; its boxes would be misplaced."
        )
    if image_format not in _STORED_AS_IS:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(encoded)).convert("RGB").save(buffer, "PNG")
        encoded, image_format = buffer.getvalue(), "PNG"

    example = tf.train.Example()
    feature = example.features.feature

    def append(key: str, *values: Any) -> None:
        if isinstance(values[0], bytes):
            feature[key].bytes_list.value.extend(values)
        elif isinstance(values[0], float):
            feature[key].float_list.value.extend(values)
        else:
            feature[key].int64_list.value.extend(values)

    append("image/encoded", encoded)
    append("image/format", _STORED_AS_IS[image_format].encode())
    append("image/filename", image["file_name"].encode())
    append("image/source_id", str(image["id"]).encode())
    append("image/key/sha256", hashlib.sha256(encoded).hexdigest().encode())
    append("image/height", height)
    append("image/width", width)
    dropped = []
    for annotation in annotations:
        category_id = annotation.get("category_id", -1)
        if category_id not in label_of:
            known = ", ".join(map(str, sorted(label_of)))
            raise CocoError(
                f"{annotations_path}: annotation {annotation.get('id')} has category id {category_id}, "
                f"which is not among the categories. Allowed: {known}."
            )
        x, y, w, h = (float(v) for v in annotation["bbox"])
        xmin, xmax = max(x, 0.0) / width, min(x + w, float(width)) / width
        ymin, ymax = max(y, 0.0) / height, min(y + h, float(height)) / height
        if xmin >= xmax or ymin >= ymax:
            dropped.append(annotation)
            continue
        for side, value in (("xmin", xmin), ("xmax", xmax), ("ymin", ymin), ("ymax", ymax)):
            append(f"image/object/bbox/{side}", value)
        append("image/object/class/label", label_of[category_id])
        append("image/object/class/text", names[label_of[category_id]].encode())
        append("image/object/area", float(annotation.get("area", w * h)))
        append("image/object/is_crowd", int(annotation.get("iscrowd", 0)))
    return example, dropped


def probe(encoded: bytes, where: str) -> tuple[tuple[int, int], str]:
    """((width, height), format) from the head of an image file."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return image.size, image.format or ""
    except (UnidentifiedImageError, OSError) as error:
        raise CocoError(f"{where}: the image ({len(encoded):,} bytes) cannot be read: unknown format.") from error


def write_label_map(path: str, names: Mapping[int, str]) -> None:
    """Writes a `StringIntLabelMap` in text format.

    Args:
        path: of the file.
        names: from class id to name.
    """
    items = []
    for label, name in sorted(names.items()):
        escaped = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        items.append(f'item {{\n  id: {label}\n  name: "{escaped}"\n}}\n')
    tf.io.gfile.makedirs(os.path.dirname(path) or ".")
    with tf.io.gfile.GFile(path, "w") as file:
        file.write("\n".join(items))
