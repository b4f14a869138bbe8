"""Converts COCO annotations and image files to TFRecords and back; ids, areas and crowd flags are kept."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from absl import logging
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from object_detection_fpn.data import failures
from object_detection_fpn.data.source import files, reader


class CocoError(ValueError):
    """A COCO file, or an image it names, that cannot be converted; the message says where and why."""


class Conversion(NamedTuple):
    """What `coco_to_tfrecords` wrote."""

    record_pattern: str
    """Glob of the record files."""
    label_map_path: str | None
    num_images: int
    num_boxes: int
    num_dropped: int
    """Boxes left out because they have no area inside their image."""


_STORED_AS_IS = {"JPEG": "jpeg", "PNG": "png"}  # other formats are stored as PNG, without loss
_MAX_DROP_LINES = 10


def coco_to_tfrecords(
    annotations_path: str,
    image_dir: str,
    output_prefix: str,
    *,
    label_map_path: str | None = None,
    num_shards: int = 1,
    contiguous_ids: bool = False,
    show_progress: bool = True,
) -> Conversion:
    """Writes `<output_prefix>-00000-of-0000N.tfrecord` etc. and a label map.

    Images become records in the order of the file, dealt out to the shards in turn. `image/source_id` is the image id,
    by which evaluation results can be compared with those of other tools. Shards appear under their names when all of
    them are complete.

    Args:
        annotations_path: a COCO "instances" JSON file.
        image_dir: folder to which the `file_name`s are relative.
        output_prefix: path and beginning of the names of the record files, such as "records/train".
        label_map_path: where to write the label map; None for none.
        num_shards: number of record files.
        contiguous_ids: number the classes 1, 2, ... in the order of their category ids instead of keeping the ids.
        show_progress: show a progress bar.

    Raises:
        CocoError: if the file is no COCO file, names an image that is missing, of another size or not readable, an
            unknown category or image id, or a bounding box that is not four finite numbers.
        ValueError: if `num_shards` is below 1.
    """
    if num_shards < 1:
        raise ValueError(f"num_shards = {num_shards} is not allowed. Allowed: 1 and above.")
    coco = _read_coco(annotations_path)
    names, label_of = _read_categories(coco["categories"], annotations_path, contiguous_ids)
    annotations = _group_annotations(coco, annotations_path)

    num_boxes = num_dropped = 0
    paths = [f"{output_prefix}-{i:05d}-of-{num_shards:05d}.tfrecord" for i in range(num_shards)]
    tf.io.gfile.makedirs(os.path.dirname(output_prefix) or ".")
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(tf.io.TFRecordWriter(path + ".part")) for path in paths]
        for i, image in enumerate(tqdm(coco["images"], desc="images", unit="image", disable=not show_progress)):
            example, dropped = _make_example(
                image, annotations[image["id"]], image_dir, label_of, names, annotations_path
            )
            writers[i % num_shards].write(example.SerializeToString())
            num_boxes += len(example.features.feature["image/object/class/label"].int64_list.value)
            for annotation in dropped:
                num_dropped += 1
                if num_dropped <= _MAX_DROP_LINES:
                    where = f"{annotations_path}: annotation {annotation.get('id')} of image {image['id']}"
                    logging.warning("%s dropped: bbox %s has no area inside the image.", where, annotation["bbox"])
    for path in paths:
        tf.io.gfile.rename(path + ".part", path, overwrite=True)
    if num_dropped > _MAX_DROP_LINES:
        logging.warning("%s: %d boxes dropped in all.", annotations_path, num_dropped)
    if label_map_path is not None:
        write_label_map(label_map_path, names)
    return Conversion(
        f"{output_prefix}-*-of-{num_shards:05d}.tfrecord", label_map_path, len(coco["images"]), num_boxes, num_dropped
    )


def tfrecords_to_coco(
    file_patterns: str | Sequence[str],
    output_dir: str,
    *,
    categories: Mapping[int, str],
    show_progress: bool = True,
) -> str:
    """Writes `annotations.json` and the image files under `images/`; returns the path of the JSON file.

    Images keep their ids if all source ids are different whole numbers, otherwise they are numbered from 1. Image files
    keep their bytes; they are named after their id.

    Args:
        file_patterns: globs or names of TFRecord files.
        output_dir: is created if needed.
        categories: from class id to name, as in the label map.
        show_progress: show a progress bar.

    Raises:
        CocoError: if a file is truncated or corrupted, or a record holds no readable image or a class id that
            `categories` lacks.
        FileNotFoundError: if no file matches.
    """
    patterns = [file_patterns] if isinstance(file_patterns, str) else list(file_patterns)
    image_dir = os.path.join(output_dir, "images")
    tf.io.gfile.makedirs(image_dir)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    ids = _choose_image_ids(patterns)
    for image_id, (where, features) in zip(
        ids, tqdm(_read_features(patterns), unit="image", disable=not show_progress), strict=True
    ):
        encoded = b"".join(features["image/encoded"].bytes_list.value[:1])
        (width, height), image_format = _probe(encoded, where)
        file_name = f"{image_id:012d}.{'jpg' if image_format == 'JPEG' else image_format.lower()}"
        with tf.io.gfile.GFile(os.path.join(image_dir, file_name), "wb") as file:
            file.write(encoded)
        images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        for label, box, area, is_crowd in _read_objects(features):
            if label not in categories:
                known = ", ".join(map(str, sorted(categories)))
                raise CocoError(f"{where}: class id {label} is not in the label map. Allowed: {known}.")
            ymin, xmin, ymax, xmax = box[0] * height, box[1] * width, box[2] * height, box[3] * width
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label, "iscrowd": is_crowd}
            bbox = [xmin, ymin, xmax - xmin, ymax - ymin]
            annotations.append(annotation | {"bbox": bbox, "area": bbox[2] * bbox[3] if area is None else area})
    coco = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in sorted(categories.items())],
    }
    path = os.path.join(output_dir, "annotations.json")
    with tf.io.gfile.GFile(path, "w") as file:
        json.dump(coco, file)
    return path


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


def _read_coco(path: str) -> dict[str, Any]:
    """The parsed file, of which the three lists are known to be there."""
    try:
        with tf.io.gfile.GFile(path, "r") as file:
            coco = json.load(file)
    except tf.errors.NotFoundError as error:
        raise CocoError(f"{path}: there is no such file.") from error
    except ValueError as error:
        raise CocoError(f"{path}: is not JSON ({error}).") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(coco, dict) or not isinstance(coco.get(key), list):
            raise CocoError(f"{path}: has no list '{key}'; a COCO file has images, annotations and categories.")
    if not coco["images"]:
        raise CocoError(f"{path}: lists no images.")
    for image in coco["images"]:
        if "id" not in image or "file_name" not in image:
            raise CocoError(f"{path}: image {image} lacks 'id' or 'file_name'.")
    return coco


def _read_categories(
    categories: Iterable[Mapping[str, Any]], path: str, contiguous_ids: bool
) -> tuple[dict[int, str], dict[int, int]]:
    """Names by class id, and class ids by category id."""
    names: dict[int, str] = {}
    label_of: dict[int, int] = {}
    for category in categories:
        if "id" not in category or "name" not in category:
            raise CocoError(f"{path}: category {dict(category)} lacks 'id' or 'name'.")
        if category["id"] in label_of:
            raise CocoError(f"{path}: category id {category['id']} occurs twice.")
        label_of[category["id"]] = category["id"]
        names[category["id"]] = category["name"]
    if contiguous_ids:
        label_of = {category_id: i + 1 for i, category_id in enumerate(sorted(names))}
        names = {label_of[category_id]: name for category_id, name in names.items()}
    if not names:
        raise CocoError(f"{path}: lists no categories.")
    if min(names) < 1:
        raise CocoError(
            f"{path}: category id {min(names)} is below 1, and 0 is the background's. "
            "Number the classes anew (contiguous_ids) to use this file."
        )
    return names, label_of


def _group_annotations(coco: Mapping[str, Any], path: str) -> dict[int, list[dict[str, Any]]]:
    """Annotations by image id; images without any have an empty list."""
    grouped: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in coco["images"]}
    if len(grouped) != len(coco["images"]):
        twice = [i for i, n in collections.Counter(image["id"] for image in coco["images"]).items() if n > 1]
        raise CocoError(f"{path}: image id {twice[0]} occurs twice.")
    for annotation in coco["annotations"]:
        where = f"{path}: annotation {annotation.get('id', annotation)}"
        if annotation.get("image_id") not in grouped:
            raise CocoError(f"{where} is of image id {annotation.get('image_id')}, which is not among the images.")
        bbox = annotation.get("bbox")
        is_box = isinstance(bbox, list) and len(bbox) == 4
        if not is_box or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in bbox):
            raise CocoError(f"{where} has bbox {bbox}; four finite numbers (x, y, width, height) are needed.")
        grouped[annotation["image_id"]].append(annotation)
    return grouped


def _make_example(
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
    (width, height), image_format = _probe(encoded, f"{path} (image {image['id']} of {annotations_path})")
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


def _probe(encoded: bytes, where: str) -> tuple[tuple[int, int], str]:
    """((width, height), format) from the head of an image file."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return image.size, image.format or ""
    except (UnidentifiedImageError, OSError) as error:
        raise CocoError(f"{where}: the image ({len(encoded):,} bytes) cannot be read: unknown format.") from error


def _read_features(patterns: Sequence[str]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Words that name each record, and its features."""
    for record in reader.read_records(files.list_record_files(patterns)).as_numpy_iterator():
        if broken := record.broken_file():
            raise CocoError(broken)
        features = tf.train.Example.FromString(record.serialized).features.feature
        yield failures.name_record(record.file.decode(), record.index, ""), features


def _choose_image_ids(patterns: Sequence[str]) -> list[int]:
    source_ids = [b"".join(f["image/source_id"].bytes_list.value[:1]).decode() for _, f in _read_features(patterns)]
    if all(i.isdecimal() for i in source_ids) and len({int(i) for i in source_ids}) == len(source_ids):
        return [int(i) for i in source_ids]
    return list(range(1, len(source_ids) + 1))


def _read_objects(
    features: Mapping[str, Any],
) -> Iterable[tuple[int, tuple[float, float, float, float], float | None, int]]:
    """(class id, normalized box, area or None, crowd flag) of each object."""
    sides = [features[f"image/object/bbox/{side}"].float_list.value for side in ("ymin", "xmin", "ymax", "xmax")]
    labels = features["image/object/class/label"].int64_list.value
    areas = features["image/object/area"].float_list.value or [None] * len(labels)
    crowds = features["image/object/is_crowd"].int64_list.value or [0] * len(labels)
    yield from zip(labels, zip(*sides, strict=True), areas, crowds, strict=True)
