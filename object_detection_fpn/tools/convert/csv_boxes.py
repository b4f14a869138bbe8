"""Reads a CSV file with one row a box: file name, class and corners in pixels, under the usual names of columns.

Known headers: those of the TensorFlow tutorials and Roboflow (filename, width, height, class, xmin, ymin, xmax, ymax), with the
other names of `_COLUMNS`, and files without a header as RetinaNet's (path, x1, y1, x2, y2, class). A row with a file name
alone is an image without objects.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from object_detection_fpn.data.source.coco import shown
from object_detection_fpn.tools.convert import sources, storage
from object_detection_fpn.tools.convert.sources import Options, Source, SourceError, SourceImage, SourceObject

FORMAT = "CSV of boxes"
_COLUMNS = {
    "file": ("filename", "file_name", "image", "image_name", "image_path", "path", "file", "img", "image_id"),
    "class": ("class", "label", "class_name", "label_name", "category", "name"),
    "xmin": ("xmin", "x_min", "x1", "left"),
    "ymin": ("ymin", "y_min", "y1", "top"),
    "xmax": ("xmax", "x_max", "x2", "right"),
    "ymax": ("ymax", "y_max", "y2", "bottom"),
}
_OPTIONAL = {
    "width": ("width", "image_width", "img_width"),
    "height": ("height", "image_height", "img_height"),
    "split": ("split", "set", "subset"),
}
_WITHOUT_HEADER = {"file": 0, "xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4, "class": 5}
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _Layout(NamedTuple):
    """Where the columns are."""

    columns: dict[str, int]
    """Index of each column that is known."""
    has_header: bool


def recognize(path: str) -> str | None:
    """The first CSV file, if the source is of this format."""
    return next(iter(_find(path).values()), None)


def _find(path: str) -> dict[str, str]:
    """CSV files by split: the file itself, the only one of a folder, or that of each of its subfolders."""
    if storage.isfile(path):
        return {sources.UNSPLIT: path} if path.lower().endswith((".csv", ".tsv")) and _find_columns(path) else {}
    folders = sources.split_folders(path, lambda folder: bool(_in_folder(folder)))
    return {split: _in_folder(folder)[0] for split, folder in folders.items()}


def _in_folder(folder: str) -> list[str]:
    found = [os.path.join(folder, name) for name in sources.list_files(folder, ".csv", ".tsv")]
    usable = [each for each in found if _find_columns(each)]
    if len(usable) > 1:
        raise SourceError(f"{folder}: has several files of boxes: {sources.listed(usable)}. Allowed: name one of them.")
    return usable


def _find_columns(path: str) -> _Layout | None:
    """Of a file of boxes; None if it is of another kind."""
    first = sources.head_and_tail(path).decode("utf-8-sig", "replace").splitlines()[:1]
    if not first:
        return None
    words = next(csv.reader(first, delimiter=_delimiter(first[0])), [])
    names = [word.strip().lower() for word in words]
    found: dict[str, int] = {}
    for key, choices in (_COLUMNS | _OPTIONAL).items():
        index = next((names.index(choice) for choice in choices if choice in names), None)
        if index is not None:
            found[key] = index
    if found.keys() >= _COLUMNS.keys():
        return _Layout(found, has_header=True)
    is_retinanet = len(words) == 6 and all(re.fullmatch(r"\s*(-?\d+(\.\d*)?)?\s*", word) for word in words[1:5])
    return _Layout(_WITHOUT_HEADER, has_header=False) if is_retinanet else None


def _delimiter(line: str) -> str:
    return max(",;\t", key=line.count)


def _rows(path: str, layout: _Layout) -> Iterator[tuple[str, dict[str, str]]]:
    """What names each row in messages, and its words by column."""
    columns = layout.columns
    text = sources.read_text(path)
    delimiter = _delimiter(text.splitlines()[0])
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter)
    try:
        for i, words in enumerate(reader):
            if not any(word.strip() for word in words) or (i == 0 and layout.has_header):
                continue
            where = f"{path}: line {reader.line_num}"
            if len(words) <= max(columns[key] for key in _COLUMNS):
                raise SourceError(f"{where} has {len(words)} columns. Allowed: those of the first line.")
            yield where, {key: words[column].strip() if column < len(words) else "" for key, column in columns.items()}
    except csv.Error as error:
        raise SourceError(f"{path}: line {reader.line_num} is not CSV ({error}).") from error


def read(path: str, options: Options) -> Source:
    """Reads a file, or a folder with one or with `train/`, `valid/`, `test/`.

    Raises:
        SourceError: if a value is not allowed.
    """
    files = _find(path)
    folder = path if storage.isdir(path) else os.path.dirname(path) or "."
    root = options.image_dir or folder
    splits: dict[str, list[SourceImage]] = {}
    for split, csv_path in files.items():
        beside = os.path.dirname(csv_path) or "."
        finder = sources.ImageFinder(
            [root, beside, os.path.join(beside, "images"), os.path.join(beside, "..", "images")]
        )
        layout = _find_columns(csv_path)
        if layout is None:
            continue  # `_find` gives files of boxes alone
        images: dict[tuple[str, str], list[SourceObject]] = {}
        sizes: dict[tuple[str, str], tuple[int | None, int | None]] = {}
        for where, row in _rows(csv_path, layout):
            if not row["file"]:
                raise SourceError(f"{where} names no file. Allowed: the name of an image file.")
            image = (row.get("split", "").lower() or split, row["file"])
            width, height = (sources.side(row.get(key), where, key) for key in ("width", "height"))
            if sizes.setdefault(image, (width, height)) != (width, height):
                raise SourceError(
                    f"{where}: {width} x {height} pixels. Allowed: {sizes[image]}, as in the rows before."
                )
            rows = images.setdefault(image, [])
            if any(row[key] for key in (*_CORNERS, "class")):
                rows.append(_read_object(row, where))
        for (part, file_name), objects in images.items():
            direct = os.path.join(root, file_name)
            found = direct if storage.isfile(direct) else finder.find(file_name)
            name = os.path.relpath(found, root) if found else file_name
            splits.setdefault(part, []).append(SourceImage(name, *sizes[part, file_name], objects))
    return sources.make_source(FORMAT, path, root, splits, options)


def _read_object(row: dict[str, str], where: str) -> SourceObject:
    if not row["class"]:
        raise SourceError(f"{where}: class = {shown('')}. Allowed: the name of a class.")
    xmin, ymin, xmax, ymax = (sources.number(row[key], where, key, "a number of pixels") for key in _CORNERS)
    return SourceObject(row["class"], (xmin, ymin, xmax, ymax), where)
