"""Reads YOLO: `data.yaml` names the classes and the folders of images; each image has a text file of boxes or polygons.

Coordinates are fractions of the image as viewers show it. An image without a text file shows none of the classes.
"""

from __future__ import annotations

import os
from typing import Any

import yaml

from object_detection_fpn.data.source.coco import shown
from object_detection_fpn.tools.convert import sources, storage
from object_detection_fpn.tools.convert.sources import Options, Source, SourceError, SourceImage, SourceObject

FORMAT = "YOLO"
_BOX = "class x_center y_center width height"
_FORMS = f"{_BOX}, or class x y x y x y ... of a polygon, as fractions of the image"
_MAX_FRACTION = 2.0  # a coordinate above is no fraction; some tools write boxes that reach beyond the image
_FRACTION = "fractions of the image, 0 to 1"


def recognize(path: str) -> str | None:
    """The data.yaml, if the source is of this format."""
    if storage.isfile(path):
        return path if path.lower().endswith((".yaml", ".yml")) else None
    found = [os.path.join(path, name) for name in sources.list_files(path, ".yaml", ".yml")]
    usable = [each for each in found if b"names" in sources.head_and_tail(each)]
    if len(usable) > 1:
        raise SourceError(f"{path}: has several YOLO files: {sources.listed(usable)}. Allowed: name one of them.")
    return usable[0] if usable else None


def read(path: str, options: Options) -> Source:
    """Reads a data.yaml, or the folder that it is in.

    Raises:
        SourceError: if it or a text file holds a value that is not allowed.
    """
    yaml_path = recognize(path)
    if yaml_path is None:
        raise SourceError(f"{path}: has no data.yaml. Allowed: a data.yaml, or the folder that it is in.")
    contents = _parse_yaml(yaml_path)
    names = _read_names(contents, yaml_path)
    root = options.image_dir or _find_root(contents, yaml_path)
    splits: dict[str, list[SourceImage]] = {}
    notes: list[str] = []
    for key in ("train", "val", "test"):
        if contents.get(key):
            images = _list_images(contents[key], root, f"{yaml_path}: {key}")
            unlabelled = [each for each in images if not storage.exists(_label_path(each))]
            if images and len(unlabelled) == len(images):
                raise SourceError(
                    f"{yaml_path}: none of the {len(images)} images of {key} has a text file; that of {images[0]} would be "
                    f"{_label_path(images[0])}."
                )
            if unlabelled:
                notes.append(
                    f"{key}: {len(unlabelled)} images have no text file, so that they show none of the classes; the first is "
                    f"{unlabelled[0]}."
                )
            splits[key] = [_read_image(each, root, names) for each in images]
    if not splits:
        raise SourceError(
            f"{yaml_path}: has none of train, val and test. Allowed: folders of images or lists of files."
        )
    if list(names) != list(range(len(names))):
        notes.append(
            "The class ids of the source have gaps or do not start at 0; the records' are 1, 2, ... in their order."
        )
    source = sources.make_source(FORMAT, yaml_path, root, splits, options, names=list(names.values()), notes=notes)
    return source._replace(exif_boxes="upright")


def _parse_yaml(path: str) -> dict[str, Any]:
    try:
        contents = yaml.safe_load(sources.read_text(path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{path}: is not YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(contents, dict):
        raise SourceError(f"{path}: holds no keys. Allowed: names, and train, val or test.")
    return contents


def _read_names(contents: dict[str, Any], path: str) -> dict[int, str]:
    """Class names by the ids of the text files, in their order."""
    names = contents.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise SourceError(
            f"{path}: names = {_show(names)}. Allowed: a list of class names, or class ids with their names."
        )
    found: dict[int, str] = {}
    for key, name in names.items():
        text = str(name).strip() if isinstance(name, str | int | float | bool) else ""
        if isinstance(key, bool) or not isinstance(key, int) or key < 0 or not text:
            raise SourceError(
                f"{path}: names has {_show(key)}: {_show(name)}. Allowed: ids from 0 on, with a name each."
            )
        if text in found.values():
            raise SourceError(f"{path}: names has {_show(text)} twice. Allowed: a name for each class.")
        found[key] = text
    count = contents.get("nc")
    if count is not None and count != len(found):
        raise SourceError(f"{path}: nc = {_show(count)}, but names has {len(found)}. Allowed: the number of names.")
    return dict(sorted(found.items()))


def _find_root(contents: dict[str, Any], path: str) -> str:
    """The folder that the folders of images are relative to."""
    folder = os.path.dirname(storage.absolute(path))
    given = contents.get("path")
    if given is None:
        return folder
    if not isinstance(given, str):
        raise SourceError(f"{path}: path = {_show(given)}. Allowed: a folder.")
    named = os.path.join(folder, given)
    return storage.normalized(named) if storage.isdir(named) else folder  # `path` is often that of the author's machine


def _list_images(value: Any, root: str, where: str) -> list[str]:
    """Paths of the images of a split: of a folder with its subfolders, of a list of files, or of several of these."""
    found: dict[str, None] = {}
    for each in value if isinstance(value, list) else [value]:
        if not isinstance(each, str):
            raise SourceError(f"{where} = {_show(each)}. Allowed: a folder of images or a text file with their paths.")
        # Roboflow writes "../train/images" into a data.yaml that stands beside train.
        choices = [os.path.join(root, each), os.path.join(root, each.removeprefix("../"))]
        place = next((storage.normalized(choice) for choice in choices if storage.exists(choice)), None)
        if place is None:
            raise SourceError(f"{where} = {_show(each)}, which does not exist in {root}. Allowed: a folder or a file.")
        if storage.isdir(place):
            for folder in storage.walk(place):
                found.update(dict.fromkeys(os.path.join(folder, name) for name in sources.list_images(folder)))
        else:
            lines = [line.strip() for line in sources.read_text(place).splitlines()]
            base = os.path.dirname(place)
            found.update(dict.fromkeys(storage.normalized(os.path.join(base, line)) for line in lines if line))
    if not found:
        raise SourceError(f"{where} = {_show(value)} has no images.")
    return list(found)


def _label_path(image_path: str) -> str:
    """The text file of an image: "images" becomes "labels" where it occurs last; otherwise it is beside the image."""
    stem = os.path.splitext(image_path)[0]
    before, separator, after = stem.rpartition(f"{os.sep}images{os.sep}")
    return f"{before}{os.sep}labels{os.sep}{after}.txt" if separator else f"{stem}.txt"


def _read_image(path: str, root: str, names: dict[int, str]) -> SourceImage:
    size = sources.image_size(path)
    label_path = _label_path(path)
    objects = []
    if storage.exists(label_path):
        for i, line in enumerate(sources.read_text(label_path).splitlines(), start=1):
            if line.strip():
                # Lines are checked even where the image is missing.
                objects.append(_read_line(line.split(), f"line {i} of {label_path}", size or (1, 1), names))
    name = os.path.relpath(path, root)
    return SourceImage(name, *size, objects) if size else SourceImage(name, None, None, [])


def _read_line(words: list[str], where: str, size: tuple[int, int], names: dict[int, str]) -> SourceObject:
    values = [sources.number(word, where, f"value {i}", _FORMS) for i, word in enumerate(words, start=1)]
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        raise SourceError(f"{where} has {len(values)} values. Allowed: {_FORMS}.")
    if values[0] not in names:
        known = sources.listed(map(str, names))
        raise SourceError(f"{where}: class = {words[0]}, which is not among the names. Allowed: {known}.")
    if max(map(abs, values[1:])) > _MAX_FRACTION:
        raise SourceError(f"{where}: {' '.join(words[1:5])} are no fractions. Allowed: {_FRACTION}.")
    width, height = size
    name = names[int(values[0])]
    if len(values) == 5:
        x, y, w, h = values[1:]
        box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        return SourceObject(name, box, where)
    polygon = [value * (height if i % 2 else width) for i, value in enumerate(values[1:])]
    area = sources.polygon_area(polygon)
    return SourceObject(name, sources.polygon_box([polygon]), where, area=area, segmentation=[polygon])


def _show(value: Any) -> str:
    """A value of YAML, whose dates JSON cannot write."""
    return shown(value if isinstance(value, str | int | float | bool | None) else str(value))
