"""Recognizes the format of a source and reads it. A new format is a module with `recognize` and `read`, and a line here."""

from __future__ import annotations

import os
from typing import NamedTuple, Protocol

from object_detection_fpn.tools.convert import (
    coco_folder,
    csv_boxes,
    cvat,
    labelme,
    open_images,
    sources,
    storage,
    voc,
    yolo,
)
from object_detection_fpn.tools.convert.sources import Options, Source, SourceError


class Reader(Protocol):
    """What the module of a format has."""

    FORMAT: str
    """Name for people."""

    def recognize(self, path: str, /) -> str | None:
        """The file or folder by which a source is known to be of this format; None if it is not."""

    def read(self, path: str, options: Options, /) -> Source:
        """Reads a source of this format."""


READERS: dict[str, Reader] = {
    "coco": coco_folder,
    "voc": voc,
    "yolo": yolo,
    "csv": csv_boxes,
    "labelme": labelme,
    "cvat": cvat,
    "open_images": open_images,
}
"""By the name that `--format` takes."""

_KNOWN = (
    "a COCO JSON file or a folder with one (also in annotations, train, valid, test); a PASCAL VOC folder (Annotations with "
    "JPEGImages, or XML files beside their images); a YOLO data.yaml or its folder; a CSV file of boxes; a folder of LabelMe "
    "files; CVAT's XML for images; a CSV file of Open Images' boxes or its folder"
)


class Found(NamedTuple):
    """What a source was recognized as."""

    format: str
    """Key of `READERS`."""
    evidence: str
    """The file or folder by which it was."""


def detect(path: str) -> Found:
    """Finds out the format of a source.

    Raises:
        SourceError: if there is no such file or folder, it is of no format that is known, or of several.
    """
    if not storage.exists(path):
        raise SourceError(f"{path}: there is no such file or folder.")
    found = [Found(name, evidence) for name, reader in READERS.items() if (evidence := reader.recognize(path))]
    if len(found) > 1:
        choices = ", ".join(f"{READERS[each.format].FORMAT} ({each.evidence})" for each in found)
        raise SourceError(
            f"{path}: may be of several formats: {choices}. --format {' or '.join(each.format for each in found)} chooses; or "
            "name the file."
        )
    if not found:
        entries = sources.listed(storage.list_names(path)) if storage.isdir(path) else "is a file of another kind"
        held = f"holds {entries or 'nothing'}" if storage.isdir(path) else entries
        hint = (
            " The text files of YOLO need a data.yaml with the names of the classes." if _has_label_files(path) else ""
        )
        raise SourceError(f"{path}: its format is not recognized; it {held}. Allowed: {_KNOWN}.{hint}")
    return found[0]


def _has_label_files(path: str) -> bool:
    return any(sources.list_files(os.path.join(path, each), ".txt") for each in (".", "labels"))


def read_source(path: str, options: Options, format: str | None = None) -> Source:
    """Recognizes a source and reads it.

    Args:
        path: of a file or a folder.
        options: what the user says about it.
        format: key of `READERS`; None = it is recognized.

    Raises:
        SourceError: as `detect`, or if it cannot be read.
        CocoError: if it is COCO JSON and holds what is not allowed.
    """
    if format is None:
        format = detect(path).format
    elif not storage.exists(path):
        raise SourceError(f"{path}: there is no such file or folder.")
    elif not READERS[format].recognize(path):
        raise SourceError(f"{path}: is not {READERS[format].FORMAT} (--format {format}). Allowed: {_KNOWN}.")
    if options.image_dir is not None and not storage.isdir(options.image_dir):
        raise SourceError(f"{options.image_dir}: there is no such folder (--image_dir).")
    return READERS[format].read(path, options)
