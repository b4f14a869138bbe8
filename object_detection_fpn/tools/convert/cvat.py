"""Reads CVAT's XML "for images 1.1": boxes, polygons and masks; the labels of the task are the classes, in their order."""

from __future__ import annotations

import collections
import math
import os
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np

from object_detection_fpn.data.source.coco import shown
from object_detection_fpn.tools.convert import sources, storage
from object_detection_fpn.tools.convert.sources import Options, Source, SourceError, SourceImage, SourceObject

FORMAT = "CVAT"
_KEPT = ("box", "polygon", "mask")
_LEFT_OUT = ("polyline", "points", "ellipse", "cuboid", "skeleton")
_MAX_PIXELS = 1 << 28  # of an image with masks, for which an array of its size is made


def recognize(path: str) -> str | None:
    """The XML file, if the source is of this format."""
    if storage.isfile(path):
        return path if path.lower().endswith(".xml") and _is_cvat(path) else None
    found = [os.path.join(path, name) for name in sources.list_files(path, ".xml")[:10]]
    usable = [each for each in found if _is_cvat(each)]
    if len(usable) > 1:
        raise SourceError(f"{path}: has several CVAT files: {sources.listed(usable)}. Allowed: name one of them.")
    return usable[0] if usable else None


def _is_cvat(path: str) -> bool:
    return re.search(rb"<annotations[\s>]", sources.head_and_tail(path)) is not None


def read(path: str, options: Options) -> Source:
    """Reads an XML file, or the folder that it is in; the subsets of the task are its splits.

    Raises:
        SourceError: if it is no XML, of a video, or a value is not allowed.
    """
    xml_path = recognize(path) or path
    root = sources.parse_xml(xml_path, "annotations")
    if root.find("track") is not None:
        raise SourceError(f'{xml_path}: has tracks, of a video. Allowed: exports as "CVAT for images 1.1".')
    labels = [(each.text or "").strip() for each in root.iterfind("meta//labels/label/name")]
    folder = os.path.dirname(xml_path) or "."
    image_root = options.image_dir or folder
    places = [image_root] if options.image_dir else [folder, os.path.join(folder, "images")]
    finder = sources.ImageFinder(places)
    left_out: collections.Counter[str] = collections.Counter()
    splits: dict[str, list[SourceImage]] = {}
    seen: set[tuple[str, str]] = set()
    for image in root.iterfind("image"):
        name, subset = image.get("name", ""), image.get("subset") or sources.UNSPLIT
        where = f"{xml_path}: image {shown(name)}"
        if not name:
            raise SourceError(f"{xml_path}: image {image.get('id')} lacks name. Allowed: the name of an image file.")
        if (subset, name) in seen:
            raise SourceError(f"{where} occurs twice. Allowed: each image once.")
        seen.add((subset, name))
        # With subsets, CVAT writes images/<subset>/<name>.
        choices = [os.path.join(place, part, name) for place in places for part in ("", subset)]
        found = next((each for each in choices if storage.isfile(each)), None) or finder.find(name)
        size = [sources.side(image.get(key), where, key) for key in ("width", "height")]
        objects = _read_objects(image, where, left_out)
        file_name = os.path.relpath(found, image_root) if found else name
        split = sources.UNSPLIT if subset.lower() == "default" else subset  # CVAT's name for no subset
        splits.setdefault(split, []).append(SourceImage(file_name, size[0], size[1], objects))
    notes = [f"{count} shapes of kind <{kind}> were left out." for kind, count in sorted(left_out.items())]
    return sources.make_source(FORMAT, xml_path, image_root, splits, options, names=labels or None, notes=notes)


def _read_objects(image: ElementTree.Element, where: str, left_out: collections.Counter[str]) -> list[SourceObject]:
    objects: list[SourceObject] = []
    for shape in image:
        if shape.tag in _LEFT_OUT:
            left_out[shape.tag] += 1
        if shape.tag not in _KEPT:  # <tag> is of the whole image
            continue
        each = f"{shape.tag} {len(objects) + 1} of {where}"
        label = (shape.get("label") or "").strip()
        if not label:
            raise SourceError(f"{each} lacks label. Allowed: the name of a class.")
        objects.append(
            {"box": _read_box, "polygon": _read_polygon, "mask": _read_mask}[shape.tag](shape, label, each, image)
        )
    return objects


def _numbers(shape: ElementTree.Element, keys: tuple[str, ...], where: str) -> list[float]:
    return [sources.number(shape.get(key), where, key) for key in keys]


def _read_box(shape: ElementTree.Element, label: str, where: str, _: Any) -> SourceObject:
    xmin, ymin, xmax, ymax = _numbers(shape, ("xtl", "ytl", "xbr", "ybr"), where)
    rotation = sources.number(shape.get("rotation", "0"), where, "rotation", "a number of degrees")
    if not rotation:
        return SourceObject(label, (xmin, ymin, xmax, ymax), where)
    # Clockwise about the middle, as the y axis points down; the box is the one around the turned corners.
    sine, cosine = math.sin(math.radians(rotation)), math.cos(math.radians(rotation))
    x, y, w, h = (xmin + xmax) / 2, (ymin + ymax) / 2, (xmax - xmin) / 2, (ymax - ymin) / 2
    polygon = []
    for dx, dy in ((-w, -h), (w, -h), (w, h), (-w, h)):
        polygon += [x + dx * cosine - dy * sine, y + dx * sine + dy * cosine]
    area = sources.polygon_area(polygon)
    return SourceObject(label, sources.polygon_box([polygon]), where, area=area, segmentation=[polygon])


def _read_polygon(shape: ElementTree.Element, label: str, where: str, _: Any) -> SourceObject:
    points = [point.split(",") for point in (shape.get("points") or "").split(";")]
    if len(points) < 3 or any(len(point) != 2 for point in points):
        raise SourceError(f"{where}: points = {shown(shape.get('points'))}. Allowed: x,y;x,y;x,y and more.")
    polygon = [sources.number(value, where, "points", "x,y;x,y;x,y and more") for point in points for value in point]
    area = sources.polygon_area(polygon)
    return SourceObject(label, sources.polygon_box([polygon]), where, area=area, segmentation=[polygon])


def _read_mask(shape: ElementTree.Element, label: str, where: str, image: ElementTree.Element) -> SourceObject:
    """A mask: run lengths row by row, outside first, of the rectangle left, top, width, height."""
    keys = ("left", "top", "width", "height")
    values = [int(value) for value in _numbers(shape, keys, where)]
    left, top, width, height = values
    sides = [sources.side(image.get(key), where, f"{key} of the image") or 0 for key in ("width", "height")]
    if min(left, top) < 0 or width <= 0 or height <= 0 or left + width > sides[0] or top + height > sides[1]:
        raise SourceError(
            f"{where}: left, top, width, height = {values}. Allowed: a rectangle inside the image, {sides[0]} x {sides[1]}."
        )
    if sides[0] * sides[1] > _MAX_PIXELS:
        raise SourceError(f"{where}: the image is of {sides[0]} x {sides[1]} pixels. Allowed: {_MAX_PIXELS:,} pixels.")
    words = (shape.get("rle") or "").split(",")
    runs = [int(sources.number(word, where, "rle", "whole numbers, 0 and above")) for word in words]
    if min(runs) < 0 or sum(runs) != width * height:
        raise SourceError(f"{where}: rle adds up to {sum(runs)}. Allowed: width x height = {width * height}.")
    inside = np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8).reshape(height, width)
    whole = np.zeros((sides[1], sides[0]), np.uint8)
    whole[top : top + height, left : left + width] = inside
    column = whole.flatten(order="F")
    ends = np.flatnonzero(np.diff(column, prepend=np.uint8(0))).tolist()
    counts = np.diff([0, *ends, column.size]).tolist()
    return SourceObject(
        label,
        (left, top, left + width, top + height),
        where,
        area=float(inside.sum()),
        segmentation={"size": [sides[1], sides[0]], "counts": counts},
    )
