"""The ids by which results name images: those of a COCO file, or of records, or counted."""

from __future__ import annotations

import collections
import json
import os
import re
from collections.abc import Sequence
from typing import Any, Protocol

import tensorflow as tf

from object_detection_fpn.config import paths as path_rules
from object_detection_fpn.data.failures import DataError


class ImageIds(Protocol):
    """Gives ids to images, one after the other."""

    def take(self, name: str, source_id: str = "") -> int | str | None:
        """The id of an image of this path or file name, and of a record's source id; None leaves the image out."""


class CountedIds:
    """The source id of a record where it is a whole number, as in records of COCO's data sets; else 1, 2, ..."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._last = 0

    def take(self, name: str, source_id: str = "") -> int:
        """The id of the next image, which no other has."""
        if re.fullmatch("[0-9]{1,18}", source_id) and int(source_id) not in self._taken:
            self._taken.add(int(source_id))
            return int(source_id)
        self._last += 1
        while self._last in self._taken:
            self._last += 1
        self._taken.add(self._last)
        return self._last


class CocoIds:
    """The ids that a COCO file gives to file names. Images that the file does not list have none.

    A path and a listed name are one image if one of them ends with the other ("val/1.jpg" and "coco/val/1.jpg"). Where that
    fits nothing, and all file names differ without their folders too, these are compared.
    """

    def __init__(self, path: str, given: Sequence[str] = ()):
        """Args:
            path: COCO JSON with `images`.
            given: paths of image files that ids will be asked for; those of records are known later.

        Raises:
            ValueError: if the file cannot be read, holds no images with id and file name, or lists an image twice; if two of
                the given images are one of the file, or none is in it.
        """
        self._path = path
        self._by_base_name: dict[str, list[tuple[tuple[str, ...], int | str]]] = collections.defaultdict(list)
        for image in _read_images(path):
            parts = _split(image["file_name"])
            self._by_base_name[parts[-1]].append((parts, image["id"]))
        base_names = [_split(each)[-1] for each in given]
        self._base_names_differ = len(set(base_names)) == len(base_names) and all(
            len(each) == 1 for each in self._by_base_name.values()
        )
        self._taken: dict[int | str, str] = {}
        self._given = {each: self._take(each) for each in given}
        if given and not self._taken:
            listed = next(iter(self._by_base_name.values()))[0][0]
            raise ValueError(
                f"{path} lists none of the images, such as {given[0]}. Allowed: images with a file name of it, such as "
                f"{'/'.join(listed)}."
            )

    def take(self, name: str, source_id: str = "") -> int | str | None:
        """The id of an image; None if the file does not list it.

        Raises:
            DataError: if a record's file name has several ids, or the id of another image.
        """
        if name in self._given:
            return self._given[name]
        try:
            return self._take(name)
        except ValueError as error:
            raise DataError(str(error)) from error

    def _take(self, name: str) -> int | str | None:
        parts = _split(name)
        candidates = self._by_base_name.get(parts[-1], [])
        fitting = [(len(each), image_id) for each, image_id in candidates if _is_same(each, parts)]
        if not fitting and self._base_names_differ:
            fitting = [(len(each), image_id) for each, image_id in candidates]
        if not fitting:
            return None
        longest = max(length for length, _ in fitting)
        ids = [image_id for length, image_id in fitting if length == longest]
        if len(ids) > 1:
            raise ValueError(
                f"{self._path}: the images {ids[0]} and {ids[1]} both have the file name of {name}. Allowed: one."
            )
        if ids[0] in self._taken:
            raise ValueError(
                f"{self._path}: the image {ids[0]} has the file name of both {self._taken[ids[0]]} and {name}. Allowed: one "
                "of them, or file names with folders."
            )
        self._taken[ids[0]] = name
        return ids[0]


def _is_same(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    num = min(len(one), len(other))
    return one[-num:] == other[-num:]


def _split(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.replace(os.sep, "/").split("/") if part not in ("", ".")) or (path,)


def _read_images(path: str) -> list[dict[str, Any]]:
    try:
        with tf.io.gfile.GFile(path, "r") as file:
            content = json.loads(file.read())
    except (OSError, tf.errors.OpError) as error:
        raise ValueError(f"{path}: {path_rules.explain(error, path) or 'cannot be read'}.") from error
    except ValueError as error:  # of JSON, or of its characters
        raise ValueError(f"{path}: no JSON ({error}).") from error
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        raise ValueError(f"{path}: no COCO file: it has no list of images. Allowed: annotations or images of COCO.")
    for number, image in enumerate(images):
        is_image = isinstance(image, dict) and isinstance(image.get("file_name"), str) and image["file_name"]
        if not is_image or not isinstance(image.get("id"), int | str):
            raise ValueError(f"{path}: images[{number}] = {image!r:.80}. Allowed: an object with id and file_name.")
    return images
