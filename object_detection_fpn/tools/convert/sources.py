"""What the readers of the formats share: the objects that they make of a source, and how files are read and refused.

A reader turns a source into `SourceImage`s; `make_source` numbers images and classes and makes the data sets that
`data.source.coco_examples.prepare` takes, those of COCO too.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image

from object_detection_fpn.data import exif
from object_detection_fpn.data.pillow import PILLOW_ERRORS
from object_detection_fpn.data.source.coco import CocoAnnotation, CocoDataset, CocoImage, shown
from object_detection_fpn.data.source.coco_examples import ExifBoxes
from object_detection_fpn.serving.images import IMAGE_SUFFIXES
from object_detection_fpn.tools.convert import storage

UNSPLIT = "data"
"""Name of the only split of a source that has none."""
SPLIT_NAMES = ("train", "valid", "val", "validation", "test")
"""Names of subfolders that are splits."""
_MAX_ALLOWED = 20  # names in a message
_MAX_NUMBER = 3e38  # float32, the type of records


class SourceError(ValueError):
    """A source that cannot be converted; the message says where and why."""


class Options(NamedTuple):
    """What the user says about a source."""

    image_dir: str | None = None
    """Folder of the images; None = where the format has them."""
    class_names: Sequence[str] | None = None
    """All classes in the order of their ids; None = those of the source."""
    renumber_classes: bool = False
    """Number the classes of COCO JSON 1, 2, ... even if their ids are allowed."""
    with_masks: bool = True


class SourceObject(NamedTuple):
    """An annotated object."""

    name: str
    """Of its class."""
    box: tuple[float, float, float, float]
    """(xmin, ymin, xmax, ymax), pixels."""
    where: str
    """What names it in messages and the report, as "object 2 of a.xml"."""
    area: float | None = None
    """Pixels; None = that of the box."""
    is_crowd: bool = False
    is_difficult: bool = False
    segmentation: Any = None
    """As COCO has it."""


class SourceImage(NamedTuple):
    """An image and what is annotated in it."""

    file_name: str
    """Relative to the folder of images."""
    width: int | None
    """Pixels of the image that the boxes are of; None = not known."""
    height: int | None
    objects: Sequence[SourceObject]


class Split(NamedTuple):
    """A part of a source that gets record files of its own."""

    name: str
    dataset: CocoDataset
    image_dir: str


class Source(NamedTuple):
    """A source as it was read."""

    format: str
    """Name for people, as "PASCAL VOC"."""
    path: str
    splits: Sequence[Split]
    notes: Sequence[str] = ()
    """What the reader left out or decided, one sentence each."""
    exif_boxes: ExifBoxes | None = None
    """Which pixels the boxes of rotated photographs are of, where the format says so; see `coco.coco_to_tfrecords`."""


def make_source(
    format: str,
    path: str,
    image_dir: str,
    images: Mapping[str, Sequence[SourceImage]],
    options: Options,
    *,
    names: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> Source:
    """Numbers the images of all splits from 1 and the classes from 1, in the order given.

    Args:
        format: name for people.
        path: of the source.
        image_dir: what the file names are relative to.
        images: by the name of their split.
        options: their class names come before `names`.
        names: the classes of the source, in order; None = those of the objects, in the order of the alphabet.
        notes: what the reader left out or decided.

    Raises:
        SourceError: if there is no image or no class, or an object is of a class that is not among the names.
    """
    used = sorted({row.name for rows in images.values() for image in rows for row in image.objects})
    order = list(options.class_names or names or used)
    for text in (*used, *order, *(image.file_name for rows in images.values() for image in rows)):
        _check_text(text, path)
    if not any(images.values()):
        raise SourceError(f"{path}: has no images ({format}).")
    if not order:
        raise SourceError(f"{path}: has no objects, so there is nothing to detect ({format}).")
    label_of: dict[int | str, int] = {name: label for label, name in enumerate(order, start=1)}
    splits = []
    first_id = 1
    for split, rows in images.items():
        table = [CocoImage(first_id + i, row.file_name, row.width, row.height) for i, row in enumerate(rows)]
        annotations: dict[int | str, list[CocoAnnotation]] = {
            image.id: [_to_annotation(each, image.id, label_of, options.with_masks) for each in row.objects]
            for image, row in zip(table, rows, strict=True)
        }
        if rows:
            dataset = CocoDataset(path, table, annotations, label_of, dict(enumerate(order, start=1)))
            splits.append(Split(re.sub(r"[^\w.-]+", "_", split).lower(), dataset, image_dir))
        first_id += len(rows)
    return Source(format, path, splits, notes)


def _check_text(text: str, path: str) -> None:
    """Refuses what a record cannot hold as a name of a class or a file."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"{path}: the name {shown(text)} is no text in Unicode. Allowed: names in UTF-8.") from error
    if "\0" in text:
        raise SourceError(f"{path}: the name {shown(text)} has a character 0. Allowed: names without.")


def _to_annotation(
    row: SourceObject, image_id: int | str, label_of: Mapping[int | str, int], with_masks: bool
) -> CocoAnnotation:
    if row.name not in label_of:
        raise SourceError(f"{row.where} is of class {shown(row.name)}. Allowed: {listed(map(str, label_of))}.")
    xmin, ymin, xmax, ymax = row.box
    return CocoAnnotation(
        id=row.where,
        image_id=image_id,
        category_id=row.name,
        bbox=(xmin, ymin, xmax - xmin, ymax - ymin),
        area=row.area,
        is_crowd=row.is_crowd,
        segmentation=row.segmentation if with_masks else None,
        is_difficult=row.is_difficult,
    )


def listed(names: Any) -> str:
    """Names for a message, cut where there are many."""
    found = list(names)
    return ", ".join(found[:_MAX_ALLOWED]) + (", ..." if len(found) > _MAX_ALLOWED else "")


def read_class_names(path: str) -> list[str]:
    """The lines of a text file that are not empty.

    Raises:
        SourceError: if the file cannot be read, has no line, or one twice.
    """
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    repeated = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if not names or repeated:
        found = f"has {shown(repeated)} twice" if repeated else "is empty"
        raise SourceError(f"{path}: {found}. Allowed: the names of the classes, one a line.")
    return names


def polygon_box(polygons: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """(xmin, ymin, xmax, ymax) around polygons [x, y, x, y, ...]."""
    xs = [x for polygon in polygons for x in polygon[::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def polygon_area(polygon: Sequence[float]) -> float:
    """Area of a polygon [x, y, x, y, ...] (shoelace formula)."""
    xs, ys = polygon[::2], polygon[1::2]
    return abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))) / 2


def read_text(path: str) -> str:
    """The text of a file in UTF-8, with or without BOM.

    Raises:
        SourceError: if it cannot be read or is not UTF-8.
    """
    try:
        return storage.read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path}: is not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start:,})."
        ) from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}).") from error


def parse_json(path: str) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        SourceError: if it is no JSON, or no object.
    """
    try:
        contents = json.loads(read_text(path))
    except SourceError:
        raise
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: is not JSON ({error}).") from error
    if not isinstance(contents, dict):
        raise SourceError(f"{path}: is {shown(contents)}. Allowed: an object.")
    return contents


def parse_xml(path: str, root_tag: str) -> ElementTree.Element:
    """The root of an XML file.

    Raises:
        SourceError: if it is no XML, or its root has another name.
    """
    try:
        root = ElementTree.fromstring(storage.read_bytes(path))
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise SourceError(f"{path}: is not XML ({error}).") from error
    if root.tag != root_tag:
        raise SourceError(f"{path}: its root is <{root.tag}>. Allowed: <{root_tag}>.")
    return root


def number(value: Any, where: str, key: str, allowed: str = "a finite number") -> float:
    """A number that a file holds, as text or as such.

    Raises:
        SourceError: if it is none, or not finite; names `where`, `key`, the value and what is allowed.
    """
    try:
        if isinstance(value, bool) or value is None:
            raise ValueError
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not abs(found) <= _MAX_NUMBER:
        raise SourceError(f"{where}: {key} = {shown(value)}. Allowed: {allowed}.")
    return found


def side(value: Any, where: str, key: str) -> int | None:
    """Width or height of an image; None where it is left out or 0, as some tools write it."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    pixels = number(value, where, key, "a whole number of pixels")
    if pixels < 0 or pixels != int(pixels):
        raise SourceError(f"{where}: {key} = {shown(value)}. Allowed: a whole number of pixels.")
    return int(pixels) or None


def image_size(path: str) -> tuple[int, int] | None:
    """(width, height) of an image file as viewers show it; None if it is missing or no image, which `prepare` reports."""
    try:
        with Image.open(io.BytesIO(storage.read_bytes(path)) if storage.is_remote(path) else path) as picture:
            width, height = picture.size
            return (height, width) if exif.swaps_axes(exif.read_orientation(picture)) else (width, height)
    except PILLOW_ERRORS:
        return None


def list_files(folder: str, *suffixes: str) -> list[str]:
    """Names of the files in a folder that end so, in the order of the alphabet; none if there is no such folder."""
    if not storage.isdir(folder):
        return []
    names = storage.list_names(folder)
    found = [name for name in names if name.lower().endswith(suffixes) and not name.startswith(".")]
    # A look at each of many remote files would take minutes.
    return (
        found if storage.is_remote(folder) else [name for name in found if os.path.isfile(os.path.join(folder, name))]
    )


def list_images(folder: str) -> list[str]:
    """Names of the image files in a folder."""
    return list_files(folder, *IMAGE_SUFFIXES)


def split_folders(folder: str, fits: Callable[[str], bool]) -> dict[str, str]:
    """The folder itself as the split `UNSPLIT` if `fits` accepts it, otherwise its subfolders that are splits, by name."""
    if fits(folder):
        return {UNSPLIT: folder}
    found = {name: os.path.join(folder, name) for name in SPLIT_NAMES}
    return {("val" if name.startswith("val") else name): path for name, path in found.items() if fits(path)}


def head_and_tail(path: str, size: int = 1 << 16) -> bytes:
    """The first and the last bytes of a file, which tell formats apart; nothing of a file that cannot be read."""
    try:
        return storage.read_head_and_tail(path, size)
    except OSError:
        return b""  # who reads the whole file then says why it cannot be read


class ImageFinder:
    """Finds image files by names that formats write with, without or with another folder and ending."""

    def __init__(self, folders: Sequence[str]):
        """Args: folders: where images may be; the first that has one wins."""
        self._paths: dict[str, str] = {}
        for folder in reversed(folders):
            for name in list_images(folder):
                path = os.path.join(folder, name)
                self._paths[os.path.splitext(name)[0]] = path
            self._paths.update({name: os.path.join(folder, name) for name in list_images(folder)})

    def find(self, *names: str | None) -> str | None:
        """The path of the first name that there is an image of; a name without ending fits any."""
        for name in names:
            base = os.path.basename((name or "").replace("\\", "/"))
            if base in self._paths:
                return self._paths[base]
        return None
