"""Reads a folder of PASCAL VOC: lists of names, JPEG files, and their boxes as XML."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read_voc(folder: Path, split: str, class_names: Sequence[str]) -> dict[str, Any]:
    """The images of `ImageSets/Main/<split>.txt` and their boxes, as COCO's JSON has them.

    Boxes are taken as the files have them, those without area too. An image is `<name>.jpg` in `JPEGImages`, and has as its id
    its place in the list, from 1.

    Args:
        folder: has `ImageSets`, `JPEGImages` and `Annotations` in it.
        split: name of a list.
        class_names: names of the objects; a category's id is its place, from 1.

    Raises:
        ValueError: if a file is missing or is no XML, lacks an element, or names a class that is not among `class_names`.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, name in enumerate(_read(folder / "ImageSets" / "Main" / f"{split}.txt").split(), start=1):
        path = folder / "Annotations" / f"{name}.xml"
        try:
            root = ElementTree.fromstring(_read(path))
        except ElementTree.ParseError as error:
            raise ValueError(f"{path}: is no XML ({error}).") from error
        width, height = (_number(root, f"size/{side}", path) for side in ("width", "height"))
        images.append({"id": image_id, "file_name": f"{name}.jpg", "width": width, "height": height})
        for row in root.iter("object"):
            class_name = _text(row, "name", path)
            if class_name not in class_names:
                raise ValueError(f'{path}: object "{class_name}" is unknown. Allowed: {", ".join(class_names)}.')
            xmin, ymin, xmax, ymax = (
                _number(row, f"bndbox/{corner}", path) for corner in ("xmin", "ymin", "xmax", "ymax")
            )
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": class_names.index(class_name) + 1,
                    "bbox": [xmin, ymin, xmax - xmin, ymax - ymin],
                    "area": max(xmax - xmin, 0) * max(ymax - ymin, 0),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(class_names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}).") from error


def _text(element: ElementTree.Element, place: str, path: Path) -> str:
    text = element.findtext(place)
    if text is None or not text.strip():
        raise ValueError(f"{path}: {element.tag} has no {place}.")
    return text.strip()


def _number(element: ElementTree.Element, place: str, path: Path) -> float:
    text = _text(element, place, path)
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f'{path}: {place} of {element.tag} = "{text}" is no number.') from error
