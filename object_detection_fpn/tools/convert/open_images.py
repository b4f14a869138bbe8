"""Reads Open Images: CSV files of boxes (ImageID, LabelName, XMin, ...), with the names of classes and a folder of images.

Coordinates are fractions of the image. Groups (`IsGroupOf`) are crowds.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator

from object_detection_fpn.data.source.coco import shown
from object_detection_fpn.tools.convert import sources, storage
from object_detection_fpn.tools.convert.sources import Options, Source, SourceError, SourceImage, SourceObject

FORMAT = "Open Images"
_COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
_CORNERS = ("XMin", "YMin", "XMax", "YMax")
_SUBFOLDERS = (".", "labels", "metadata", "annotations")


def recognize(path: str) -> str | None:
    """The first CSV file of boxes, if the source is of this format."""
    return next(iter(_find(path).values()), None)


def is_open_images(path: str) -> bool:
    """Whether a CSV file has the columns of boxes."""
    first = sources.head_and_tail(path).decode("utf-8-sig", "replace").splitlines()[:1]
    return bool(first) and set(_COLUMNS) <= {word.strip() for word in first[0].split(",")}


def _find(path: str) -> dict[str, str]:
    """CSV files of boxes by split, which the first word of their name tells."""
    if storage.isfile(path):
        return {sources.UNSPLIT: path} if path.lower().endswith(".csv") and is_open_images(path) else {}
    found = [each for each in _csv_files(path) if is_open_images(each)]
    if len(found) == 1:
        return {sources.UNSPLIT: found[0]}
    splits: dict[str, str] = {}
    for each in found:
        word = os.path.basename(each).replace("oidv6-", "").split("-")[0].lower()
        name = "val" if word.startswith("val") else word
        if name not in ("train", "val", "test") or name in splits:
            raise SourceError(
                f"{path}: has several files of boxes: {sources.listed(found)}. Allowed: name one of them."
            )
        splits[name] = each
    return splits


def _csv_files(folder: str) -> list[str]:
    places = [os.path.join(folder, each) if each != "." else folder for each in _SUBFOLDERS]
    return [os.path.join(place, name) for place in places for name in sources.list_files(place, ".csv")]


def read(path: str, options: Options) -> Source:
    """Reads a CSV file of boxes, or a folder with one for each of train, validation and test.

    Raises:
        SourceError: if a value is not allowed.
    """
    files = _find(path)
    folder = path if storage.isdir(path) else os.path.dirname(path) or "."
    root = options.image_dir or folder
    name_of = _read_class_names(folder)
    splits: dict[str, list[SourceImage]] = {}
    for split, csv_path in files.items():
        parts = (split, "validation") if split == "val" else (split,)
        places = [root, *(os.path.join(root, each) for each in ("data", "images", *parts))]
        finder = sources.ImageFinder([*places, *(os.path.join(root, "images", part) for part in parts)])
        images: dict[str, list[tuple[str, dict[str, str]]]] = {}
        for where, row in _rows(csv_path):
            images.setdefault(row["ImageID"], []).append((where, row))
        splits[split] = [_make_image(name, rows, finder, root, name_of) for name, rows in images.items()]
    notes = (
        [] if name_of else ["There is no file of class descriptions beside the boxes: classes have the codes as names."]
    )
    return sources.make_source(FORMAT, path, root, splits, options, notes=notes)._replace(exif_boxes="upright")


def _rows(path: str) -> Iterator[tuple[str, dict[str, str]]]:
    reader = csv.DictReader(sources.read_text(path).splitlines(keepends=True))
    try:
        for row in reader:
            where = f"{path}: line {reader.line_num}"
            if any(row.get(key) is None for key in _COLUMNS):
                raise SourceError(f"{where} has fewer columns than the first line. Allowed: {', '.join(_COLUMNS)}.")
            yield where, row
    except csv.Error as error:
        raise SourceError(f"{path}: line {reader.line_num} is not CSV ({error}).") from error


def _read_class_names(folder: str) -> dict[str, str]:
    """Names by code, of the file of class descriptions: two columns, with or without a header."""
    found = [
        each
        for each in _csv_files(folder)
        if "class" in os.path.basename(each).lower() and not is_open_images(each)
    ]  # fmt: skip
    if not found:
        return {}
    rows = csv.reader(sources.read_text(found[0]).splitlines())
    return {row[0].strip(): row[1].strip() for row in rows if len(row) == 2 and row[0] != "LabelName"}


def _make_image(
    image_id: str,
    rows: list[tuple[str, dict[str, str]]],
    finder: sources.ImageFinder,
    root: str,
    name_of: dict[str, str],
) -> SourceImage:
    found = finder.find(image_id)
    size = sources.image_size(found) if found else None
    objects = [
        _read_object(where, row, size or (1, 1), name_of) for where, row in rows
    ]  # checked even without the image
    if not found or not size:
        return SourceImage(os.path.relpath(found, root) if found else f"{image_id}.jpg", None, None, [])
    return SourceImage(os.path.relpath(found, root), *size, objects)


def _read_object(where: str, row: dict[str, str], size: tuple[int, int], name_of: dict[str, str]) -> SourceObject:
    code = row["LabelName"].strip()
    if not code or (name_of and code not in name_of):
        raise SourceError(f"{where}: LabelName = {shown(code)}. Allowed: a code of the class descriptions.")
    values = []
    for i, key in enumerate(_CORNERS):
        value = sources.number(row[key], where, key, "a fraction of the image, 0 to 1")
        if not -0.01 <= value <= 1.01:  # a few files are rounded beyond
            raise SourceError(f"{where}: {key} = {value:g}. Allowed: a fraction of the image, 0 to 1.")
        values.append(value * size[i % 2])
    box = (values[0], values[1], values[2], values[3])
    is_group = (row.get("IsGroupOf") or "0").strip()
    return SourceObject(name_of.get(code, code), box, where, is_crowd=is_group in ("1", "true", "True"))
