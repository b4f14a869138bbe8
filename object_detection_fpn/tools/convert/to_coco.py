"""Converts TFRecords to COCO JSON and image files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tqdm import tqdm

from object_detection_fpn.data import failures
from object_detection_fpn.data.source import files, reader
from object_detection_fpn.data.source.coco import CocoError
from object_detection_fpn.data.source.image_files import read_header


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
        header = read_header(encoded, where)
        width, height = header.width, header.height
        file_name = f"{image_id:012d}.{'jpg' if header.is_jpeg else header.format.lower()}"
        with tf.io.gfile.GFile(os.path.join(image_dir, file_name), "wb") as file:
            file.write(encoded)
        images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        for label, box, area, is_crowd in _read_objects(features, where):
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


def _read_features(patterns: Sequence[str]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Words that name each record, and its features."""
    for record in reader.read_records(files.list_record_files(patterns)).as_numpy_iterator():
        if broken := record.broken_file():
            raise CocoError(broken)
        where = failures.name_record(record.file.decode(), record.index, "")
        try:
            features = tf.train.Example.FromString(record.serialized).features.feature
        except (
            Exception
        ) as error:  # the protobuf runtimes (upb, C++, Python) raise different classes for malformed bytes
            raise CocoError(f"{where}: {len(record.serialized):,} bytes that are no serialized tf.Example.") from error
        yield where, features


def _choose_image_ids(patterns: Sequence[str]) -> list[int]:
    source_ids = [
        b"".join(f["image/source_id"].bytes_list.value[:1]).decode("utf-8", "replace")
        for _, f in _read_features(patterns)
    ]
    if all(i.isdecimal() for i in source_ids) and len({int(i) for i in source_ids}) == len(source_ids):
        return [int(i) for i in source_ids]
    return list(range(1, len(source_ids) + 1))


def _read_objects(
    features: Mapping[str, Any], where: str
) -> Iterable[tuple[int, tuple[float, float, float, float], float | None, int]]:
    """(class id, normalized box, area or None, crowd flag) of each object."""
    sides = [features[f"image/object/bbox/{side}"].float_list.value for side in ("ymin", "xmin", "ymax", "xmax")]
    labels = features["image/object/class/label"].int64_list.value
    areas = features["image/object/area"].float_list.value or [None] * len(labels)
    crowds = features["image/object/is_crowd"].int64_list.value or [0] * len(labels)
    numbers = [len(values) for values in (*sides, labels, areas, crowds)]
    if len(set(numbers)) > 1:
        raise CocoError(
            f"{where}: image/object/bbox/ymin, xmin, ymax, xmax, image/object/class/label, area and is_crowd have {numbers} "
            "values. Allowed: as many of each."
        )
    yield from zip(labels, zip(*sides, strict=True), areas, crowds, strict=True)
