"""Parses and checks COCO "instances" JSON."""

from __future__ import annotations

import collections
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf


class CocoError(ValueError):
    """A COCO file, or an image it names, that cannot be converted; the message says where and why."""


def read_coco(path: str) -> dict[str, Any]:
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


def read_categories(
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


def group_annotations(coco: Mapping[str, Any], path: str) -> dict[int, list[dict[str, Any]]]:
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
