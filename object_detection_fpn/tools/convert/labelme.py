"""Reads LabelMe: one JSON file an image, with shapes.

Rectangles, polygons and circles are kept; those of one group and class are one object.
"""

from __future__ import annotations

import collections
import math
import os
from typing import Any

from object_detection_fpn.data.source.coco import shown
from object_detection_fpn.tools.convert import sources, storage
from object_detection_fpn.tools.convert.sources import Options, Source, SourceError, SourceImage, SourceObject

FORMAT = "LabelMe"
_NUM_SNIFFED = 3  # files of a folder that are looked into
_CIRCLE_CORNERS = 64
_SHAPES = {"rectangle": 2, "polygon": 3, "circle": 2}
"""Kind of shape -> fewest points."""
_LEFT_OUT = ("point", "line", "linestrip", "points", "mask")


def recognize(path: str) -> str | None:
    """The first folder of files, if the source is of this format."""
    return next(iter(sources.split_folders(path, _has_files).values()), None) if storage.isdir(path) else None


def is_labelme(path: str) -> bool:
    """Whether a JSON file is LabelMe's, by what it begins and ends with."""
    text = sources.head_and_tail(path)
    return b'"shapes"' in text and b'"imagePath"' in text


def _has_files(folder: str) -> bool:
    names = sources.list_files(folder, ".json")[:_NUM_SNIFFED]
    return any(is_labelme(os.path.join(folder, name)) for name in names)


def read(path: str, options: Options) -> Source:
    """Reads a folder, or its subfolders `train`, `val`, `test`.

    Raises:
        SourceError: if a file is no JSON or a value is not allowed.
    """
    left_out: collections.Counter[str] = collections.Counter()
    root = options.image_dir or path
    splits: dict[str, list[SourceImage]] = {}
    for split, folder in sources.split_folders(path, _has_files).items():
        finder = sources.ImageFinder(
            [root, folder, os.path.join(folder, "images"), os.path.join(folder, "..", "images")]
        )
        names = [os.path.join(folder, name) for name in sources.list_files(folder, ".json")]
        splits[split] = [_read_file(name, finder, root, left_out) for name in names]
    notes = [f'{count} shapes of kind "{kind}" were left out.' for kind, count in sorted(left_out.items())]
    return sources.make_source(FORMAT, path, root, splits, options, notes=notes)


def _read_file(path: str, finder: sources.ImageFinder, root: str, left_out: collections.Counter[str]) -> SourceImage:
    contents = sources.parse_json(path)
    shapes, image_path = contents.get("shapes"), contents.get("imagePath")
    if not isinstance(shapes, list):
        raise SourceError(f"{path}: shapes = {shown(shapes)}. Allowed: a list.")
    if not isinstance(image_path, str) or not image_path:
        raise SourceError(f"{path}: imagePath = {shown(image_path)}. Allowed: the name of an image file.")
    groups: dict[Any, list[tuple[str, str, list[float]]]] = {}
    for i, shape in enumerate(shapes, start=1):
        where = f"shape {i} of {path}"
        if not isinstance(shape, dict):
            raise SourceError(f"{where} is {shown(shape)}. Allowed: an object.")
        kind = shape.get("shape_type") or "polygon"
        if kind in _LEFT_OUT:
            left_out[kind] += 1
            continue
        label, group = shape.get("label"), shape.get("group_id")
        if not isinstance(label, str) or not label.strip():
            raise SourceError(f"{where}: label = {shown(label)}. Allowed: the name of a class.")
        key = (label, shown(group)) if group is not None else i
        groups.setdefault(key, []).append((label.strip(), where, _polygon(shape.get("points"), kind, where)))
    has_polygons = any(
        isinstance(s, dict) and (s.get("shape_type") or "polygon") in ("polygon", "circle") for s in shapes
    )
    found = finder.find(image_path, os.path.splitext(os.path.basename(path))[0])
    return SourceImage(
        os.path.relpath(found, root) if found else image_path,
        sources.side(contents.get("imageWidth"), path, "imageWidth"),
        sources.side(contents.get("imageHeight"), path, "imageHeight"),
        [_to_object(parts, has_polygons) for parts in groups.values()],
    )


def _to_object(parts: list[tuple[str, str, list[float]]], has_polygons: bool) -> SourceObject:
    polygons = [polygon for _, _, polygon in parts]
    name, where, _ = parts[0]
    box = sources.polygon_box(polygons)
    area = sum(map(sources.polygon_area, polygons))
    return SourceObject(name, box, where, area=area, segmentation=polygons if has_polygons else None)


def _polygon(points: Any, kind: str, where: str) -> list[float]:
    """Corners x, y, x, y, ... of a shape."""
    if kind not in _SHAPES:
        raise SourceError(f"{where}: shape_type = {shown(kind)}. Allowed: {', '.join((*_SHAPES, *_LEFT_OUT))}.")
    if not isinstance(points, list) or len(points) < _SHAPES[kind]:
        raise SourceError(f"{where}: points = {shown(points)}. Allowed: {_SHAPES[kind]} points [x, y] or more.")
    corners: list[tuple[float, float]] = []
    for point in points:
        if not isinstance(point, list) or len(point) != 2:
            raise SourceError(f"{where}: points has {shown(point)}. Allowed: [x, y] in pixels.")
        corners.append((sources.number(point[0], where, "x"), sources.number(point[1], where, "y")))
    if kind == "rectangle":
        (x1, y1), (x2, y2) = corners[0], corners[-1] if len(corners) == 2 else corners[2]
        corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    elif kind == "circle":
        (x, y), (x2, y2) = corners[:2]
        radius = math.hypot(x2 - x, y2 - y)
        turns = [2 * math.pi * i / _CIRCLE_CORNERS for i in range(_CIRCLE_CORNERS)]
        corners = [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns]
    return [value for corner in corners for value in corner]
