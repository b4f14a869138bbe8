"""Parses and checks COCO "instances" JSON.

The tables at the head say what each field may hold. A value that has one meaning is taken (1.0 is the id 1, null sizes are
sizes left out); any other is refused with file, row, field, value and what is allowed.
"""

from __future__ import annotations

import collections
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

import tensorflow as tf
from absl import logging

from object_detection_fpn.data.source.capture import Capture, read_capture


class CocoError(ValueError):
    """A COCO file, or an image it names, that cannot be used; the message says where and why."""


class CocoImage(NamedTuple):
    """A row of "images"."""

    id: int | str
    file_name: str
    """As the file writes it, often relative to a folder of images."""
    width: int | None
    """Pixels; None where the file does not say."""
    height: int | None
    capture: Capture = Capture()


class CocoAnnotation(NamedTuple):
    """A row of "annotations"."""

    id: int | str | None
    image_id: int | str
    category_id: int | str
    bbox: tuple[float, float, float, float]
    """xmin, ymin, width, height in pixels; finite, otherwise as the file has it."""
    area: float | None
    """Pixels; None where the file does not say."""
    is_crowd: bool
    segmentation: Any = None
    """Polygons or run lengths as the file has them, not checked; None where it has none or an empty list. Only if asked for."""
    is_difficult: bool = False
    """As PASCAL VOC marks objects; COCO has no such mark."""


class CocoDataset(NamedTuple):
    """A checked file: every id is there once, and every annotation is of an image and a category of the file."""

    path: str
    images: list[CocoImage]
    annotations: dict[int | str, list[CocoAnnotation]]
    """By image id; images without any have an empty list."""
    label_of: dict[int | str, int]
    """Category id -> class id."""
    names: dict[int, str]
    """Class id, from 1 -> name, not empty, none twice."""


class _Refused(ValueError):
    """A value that a field may not hold; the text says more of it, or is empty."""


_MAX_ID = 2**63 - 1
_MAX_CLASS_ID = 2**31 - 1  # of a label map, whose ids are int32
_MAX_NUMBER = 3e38  # float32, the type of records
_MAX_SHOWN = 120  # characters of a value in a message
_IS_TEXT = "text, not a number"


def _whole(value: Any) -> int:
    if isinstance(value, str):
        raise _Refused(_IS_TEXT)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _MAX_ID:
        raise _Refused
    return value


def _number(value: Any) -> float:
    if isinstance(value, str):
        raise _Refused(_IS_TEXT)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Refused
    if not abs(value) <= _MAX_NUMBER:  # also NaN
        raise _Refused
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Refused
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _Refused("half a surrogate pair, no text in Unicode") from error
    if "\0" in value:
        raise _Refused
    return value


def _id(value: Any) -> int | str:
    return _text(value) if isinstance(value, str) else _whole(value)


def _name(value: Any) -> str:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value)


def _area(value: Any) -> float:
    area = _number(value)
    if area < 0:
        raise _Refused
    return area


def _flag(value: Any) -> bool:
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise _Refused
    return bool(value)


def _bbox(value: Any) -> tuple[float, float, float, float]:
    if not isinstance(value, list) or len(value) != 4:
        raise _Refused
    x, y, width, height = map(_number, value)
    return x, y, width, height


class _Field(NamedTuple):
    read: Callable[[Any], Any]
    allowed: str
    is_optional: bool = False  # null and a field that is left out are then both None


_IMAGE_FIELDS = {
    "id": _Field(_id, "a whole number or text"),
    "file_name": _Field(_text, "text that is not empty"),
    "width": _Field(_whole, "a whole number of pixels, or null", is_optional=True),
    "height": _Field(_whole, "a whole number of pixels, or null", is_optional=True),
}
_CATEGORY_FIELDS = {
    "id": _Field(_id, "a whole number"),
    "name": _Field(_name, "text that is not empty, or a whole number"),
}
_ANNOTATION_FIELDS = {
    "id": _Field(_id, "a whole number or text, or null", is_optional=True),
    "image_id": _Field(_id, "the id of an image"),
    "category_id": _Field(_id, "the id of a category"),
    "bbox": _Field(_bbox, "four finite numbers (x, y, width, height)", is_optional=True),
    "area": _Field(_area, "a finite number, 0 or more, or null", is_optional=True),
    "iscrowd": _Field(_flag, "0, 1, false, true or null", is_optional=True),
}


def read_coco(path: str, *, renumber_classes: bool = False, with_segmentations: bool = False) -> CocoDataset:
    """Reads a COCO file, local or remote.

    Args:
        path: of the JSON file, in UTF-8, UTF-16 or UTF-32.
        renumber_classes: as in `parse_coco`.
        with_segmentations: as in `parse_coco`.

    Raises:
        CocoError: if the file cannot be read, or as `parse_coco`.
    """
    try:
        if tf.io.gfile.isdir(path):
            raise CocoError(f"{path}: is a folder. Allowed: a COCO JSON file.")
        with tf.io.gfile.GFile(path, "rb") as file:
            contents = file.read()
    except tf.errors.NotFoundError as error:
        raise CocoError(f"{path}: there is no such file.") from error
    except tf.errors.OpError as error:
        raise CocoError(f"{path}: cannot be read ({error.message}).") from error
    return parse_coco(contents, path=path, renumber_classes=renumber_classes, with_segmentations=with_segmentations)


def parse_coco(
    contents: bytes, *, path: str, renumber_classes: bool = False, with_segmentations: bool = False
) -> CocoDataset:
    """Parses and checks a COCO "instances" JSON file.

    Args:
        contents: of the file.
        path: of the file, for messages.
        renumber_classes: number the classes 1, 2, ... in the order of their category ids; these may then be any
            whole numbers, or text.
        with_segmentations: keep the polygons and run lengths, most of what such a file holds.

    Raises:
        CocoError: if it is no COCO file, a field holds what its table does not allow, an id of an image or a category or a
            name of a category occurs twice, an image file is listed twice, an annotation is of an image or a category that is
            not listed or has no box, or (without `renumber_classes`) a category id is below 1.
    """
    coco = _parse_json(contents, path)
    images = [
        CocoImage(**row, capture=read_capture(raw))
        for (_, row), raw in zip(_read_rows(coco["images"], "image", _IMAGE_FIELDS, path), coco["images"], strict=True)
    ]
    _refuse_repeated_images(images, path)
    label_of, names = _read_categories(coco["categories"], path, renumber_classes)
    annotations: dict[int | str, list[CocoAnnotation]] = {image.id: [] for image in images}
    ids: collections.Counter[int | str] = collections.Counter()
    for (where, row), raw in zip(
        _read_rows(coco["annotations"], "annotation", _ANNOTATION_FIELDS, path), coco["annotations"], strict=True
    ):
        if row["image_id"] not in annotations:
            _refuse_unknown(where(), "image", row["image_id"], annotations)
        if row["category_id"] not in label_of:
            _refuse_unknown(where(), "category", row["category_id"], label_of)
        annotation = CocoAnnotation(
            id=row["id"],
            image_id=row["image_id"],
            category_id=row["category_id"],
            bbox=row["bbox"] or _box_of_polygons(raw, where()),
            area=row["area"],
            is_crowd=bool(row["iscrowd"]),
            segmentation=(raw.get("segmentation") or None) if with_segmentations else None,
        )
        annotations[annotation.image_id].append(annotation)
        if annotation.id is not None:
            ids[annotation.id] += 1
    repeated = [id for id, count in ids.items() if count > 1]
    if repeated:  # nothing depends on these ids, but who merged two files may have merged too much
        logging.warning(
            "%s: %d annotation ids occur more than once, the first is %s; every annotation is kept.",
            path, len(repeated), shown(repeated[0]),
        )  # fmt: skip
    return CocoDataset(path, images, annotations, label_of, names)


def _parse_json(contents: bytes, path: str) -> dict[str, Any]:
    """The parsed file, of which the three lists are known to be there."""
    if not contents.strip():
        raise CocoError(f"{path}: is empty. Allowed: a COCO JSON file.")
    try:
        coco = json.loads(contents)  # which tells UTF-8, with and without BOM, UTF-16 and UTF-32 apart
    except UnicodeDecodeError as error:
        raise CocoError(
            f"{path}: is not {error.encoding.upper()} (byte 0x{contents[error.start]:02x} at {error.start:,}); save it as "
            "UTF-8."
        ) from error
    except (ValueError, RecursionError) as error:
        raise CocoError(f"{path}: is not JSON ({error}).") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(coco, dict) or not isinstance(coco.get(key), list):
            raise CocoError(f"{path}: has no list '{key}'; a COCO file has images, annotations and categories.")
    if not coco["images"]:
        raise CocoError(f"{path}: lists no images.")
    if not coco["categories"]:
        raise CocoError(f"{path}: lists no categories.")
    return coco


def _read_rows(
    rows: list[Any], kind: str, fields: Mapping[str, _Field], path: str
) -> Iterable[tuple[Callable[[], str], dict[str, Any]]]:
    """What names each row in messages (a call: few rows are named, and files have millions), and its fields."""
    for index, row in enumerate(rows):
        where = functools.partial(_name_row, path, kind, index, row)
        if not isinstance(row, dict):
            raise CocoError(f"{where()} is {shown(row)}. Allowed: an object with {', '.join(fields)}.")
        values: dict[str, Any] = {}
        for key, field in fields.items():
            value = row.get(key)
            if value is None and field.is_optional:
                values[key] = None
                continue
            if key not in row:
                raise CocoError(f"{where()} lacks '{key}'. Allowed: {field.allowed}.")
            try:
                values[key] = field.read(value)
            except _Refused as refused:
                hint = f", which is {refused}" if str(refused) else ""
                raise CocoError(f"{where()} has {key} {shown(value)}{hint}. Allowed: {field.allowed}.") from None
        yield where, values


def _name_row(path: str, kind: str, index: int, row: Any) -> str:
    number = row.get("id") if isinstance(row, dict) else None
    if isinstance(number, int | float | str) and not isinstance(number, bool):
        return f"{path}: {kind} {shown(number)}"
    return f"{path}: {kind} number {index + 1} of the list"


def _refuse_repeated_images(images: Iterable[CocoImage], path: str) -> None:
    ids: set[str] = set()
    id_of_file: dict[str, int | str] = {}
    for image in images:
        if str(image.id) in ids:  # as text: records hold ids as text, in which 1 and "1" are one
            raise CocoError(f"{path}: image id {shown(image.id)} occurs twice.")
        ids.add(str(image.id))
        if image.file_name in id_of_file:
            raise CocoError(
                f"{path}: images {shown(id_of_file[image.file_name])} and {shown(image.id)} have one file_name, "
                f"{shown(image.file_name)}: what is annotated in one would be background in the other. Allowed: each file "
                "once, with all its annotations."
            )
        id_of_file[image.file_name] = image.id


def _read_categories(rows: list[Any], path: str, renumber: bool) -> tuple[dict[int | str, int], dict[int, str]]:
    """Class ids by category id, and names by class id."""
    name_of: dict[int | str, str] = {}
    id_of: dict[str, int | str] = {}
    for where, row in _read_rows(rows, "category", _CATEGORY_FIELDS, path):
        category_id, name = row["id"], row["name"]
        if category_id in name_of:
            raise CocoError(f"{path}: category id {shown(category_id)} occurs twice.")
        if name in id_of:
            raise CocoError(
                f"{path}: categories {shown(id_of[name])} and {shown(category_id)} have one name, {shown(name)}. "
                "Allowed: a name for each; rename one of them, or give all annotations one of the two ids."
            )
        if not renumber and isinstance(category_id, str):
            raise CocoError(
                f"{where()} has id {shown(category_id)}, which is text. Allowed: a whole number, 1 or more. "
                "--renumber_classes numbers the classes 1, 2, ... and takes any ids."
            )
        if not renumber and not 1 <= category_id <= _MAX_CLASS_ID:
            reason = "0 is the background's" if category_id < 1 else f"the largest id is {_MAX_CLASS_ID}"
            raise CocoError(
                f"{path}: category id {category_id} is {'below 1' if category_id < 1 else 'too large'}, and {reason}. "
                "--renumber_classes numbers the classes 1, 2, ... and takes any ids."
            )
        name_of[category_id], id_of[name] = name, category_id
    if renumber:
        label_of: dict[int | str, int] = {id: label for label, id in enumerate(sorted(name_of, key=_order), start=1)}
    else:
        label_of = {category_id: int(category_id) for category_id in name_of}
    return label_of, {label_of[category_id]: name for category_id, name in name_of.items()}


def _order(id: int | str) -> tuple[bool, int, str]:
    """Sorts numbers, and then text: the two have no order in common."""
    return isinstance(id, str), 0 if isinstance(id, str) else id, str(id)


def _refuse_unknown(where: str, kind: str, given: int | str, known: Mapping[int | str, Any]) -> NoReturn:
    """The message for an id that is not listed; says so if only its type differs from one that is."""
    other: int | str | None = str(given) if isinstance(given, int) else None
    if isinstance(given, str) and given.strip().lstrip("+-").isdecimal():
        other = int(given) if len(given) < 20 else None
    kinds = {True: "text", False: "a number"}
    hint = ""
    if other is not None and other in known:
        hint = f"; {shown(given)} is {kinds[isinstance(given, str)]}, {shown(other)} {kinds[isinstance(other, str)]}"
    plural = "images" if kind == "image" else "categories"
    few = ", ".join(map(shown, sorted(known, key=_order)[:10])) + (", ..." if len(known) > 10 else "")
    verb = "is of image" if kind == "image" else "has category"
    raise CocoError(f"{where} {verb} id {shown(given)}, which is not among the {plural}{hint}. Allowed: {few}.")


def _box_of_polygons(annotation: Mapping[str, Any], where: str) -> tuple[float, float, float, float]:
    """The box around the polygons of an annotation that has no bbox."""
    polygons = annotation.get("segmentation")
    if not polygons:
        raise CocoError(f"{where} has no bbox. Allowed: {_ANNOTATION_FIELDS['bbox'].allowed}.")
    if not isinstance(polygons, list):
        raise CocoError(
            f"{where} has no bbox, and a segmentation that is no list of polygons; write the box around it to bbox (of "
            "run lengths, pycocotools.mask.toBbox gives it)."
        )
    xs: list[float] = []
    ys: list[float] = []
    for polygon in polygons:
        try:
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                raise _Refused
            numbers = [_number(value) for value in polygon]
        except _Refused:
            raise CocoError(
                f"{where} has no bbox, and in its segmentation {shown(polygon)}. Allowed: polygons of at least three corners, "
                "each a list x, y, x, y, ... of finite numbers."
            ) from None
        xs += numbers[::2]
        ys += numbers[1::2]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def shown(value: Any) -> str:
    """A value as JSON writes it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
