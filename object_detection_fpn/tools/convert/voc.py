"""Reads PASCAL VOC: one XML file an image, `Annotations/` with `JPEGImages/`, or XML files beside their images.

Boxes are taken as the files have them; the marks "difficult" are kept.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree

from object_detection_fpn.data.source.coco import shown
from object_detection_fpn.tools.convert import sources, storage
from object_detection_fpn.tools.convert.sources import Options, Source, SourceError, SourceImage, SourceObject

FORMAT = "PASCAL VOC"
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", ".")
_NUM_SNIFFED = 3  # files of a folder that are looked into
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def recognize(path: str) -> str | None:
    """The folder that holds the annotations, if the source is of this format."""
    return next(iter(_annotation_folders(path).values()), None) if storage.isdir(path) else None


def _annotation_folders(path: str) -> dict[str, str]:
    """Folders of XML files by split."""
    whole = os.path.join(path, "Annotations")
    if _has_annotations(whole):
        return {sources.UNSPLIT: whole}
    found = sources.split_folders(path, _has_annotations)
    if found:
        return found
    years = [name for name in storage.list_names(path) if re.fullmatch(r"VOC\d{4}", name)]
    inside = [folder for name in years if _has_annotations(folder := os.path.join(path, name, "Annotations"))]
    if len(inside) > 1:
        raise SourceError(
            f"{path}: has {len(inside)} sets of PASCAL VOC: {sources.listed(years)}. Allowed: name one of them."
        )
    return {sources.UNSPLIT: inside[0]} if inside else {}


def _has_annotations(folder: str) -> bool:
    names = sources.list_files(folder, ".xml")[:_NUM_SNIFFED]
    heads = [sources.head_and_tail(os.path.join(folder, name)) for name in names]
    return any(re.search(rb"<annotation[\s>]", head) for head in heads)


def read(path: str, options: Options) -> Source:
    """Reads a folder; the lists `train`, `val`, `test` of `ImageSets/Main`, or such subfolders, are its splits.

    Raises:
        SourceError: if a file is no XML or a value is not allowed.
    """
    folders = _annotation_folders(path)
    root = os.path.dirname(folders[sources.UNSPLIT]) if set(folders) == {sources.UNSPLIT} else path
    if folders.get(sources.UNSPLIT) == path:
        root = path
    notes: list[str] = []
    splits: dict[str, list[SourceImage]] = {}
    image_root = options.image_dir or root
    for split, folder in folders.items():
        parent = root if os.path.basename(folder) == "Annotations" else folder
        places = [options.image_dir] if options.image_dir else [os.path.join(parent, each) for each in _IMAGE_FOLDERS]
        finder = sources.ImageFinder(places)
        stems = [os.path.splitext(name)[0] for name in sources.list_files(folder, ".xml")]
        lists = _read_lists(root, stems, notes) if split == sources.UNSPLIT else {}
        for name, listed in (lists or {split: stems}).items():
            splits[name] = [_read_file(os.path.join(folder, stem + ".xml"), finder, image_root) for stem in listed]
    return sources.make_source(FORMAT, path, image_root, splits, options, notes=notes)


def _read_lists(root: str, stems: list[str], notes: list[str]) -> dict[str, list[str]]:
    """Stems by split, of the lists of `ImageSets/Main` that there are."""
    known = set(stems)
    found: dict[str, list[str]] = {}
    listed: set[str] = set()
    for name in ("train", "val", "test"):
        list_path = os.path.join(root, "ImageSets", "Main", f"{name}.txt")
        if not storage.isfile(list_path):
            continue
        names = list(
            dict.fromkeys(line.split()[0] for line in sources.read_text(list_path).splitlines() if line.split())
        )
        absent = [each for each in names if each not in known]
        if absent:
            notes.append(
                f"{list_path}: {len(absent)} names have no XML file and were left out, the first is {absent[0]}."
            )
        found[name] = [each for each in names if each in known]
        listed.update(names)
    if found and known - listed:
        notes.append(
            f"{len(known - listed)} XML files are in none of the lists and were left out, the first is "
            f"{min(known - listed)}.xml."
        )
    return {name: rows for name, rows in found.items() if rows}


def _read_file(path: str, finder: sources.ImageFinder, image_root: str) -> SourceImage:
    root = sources.parse_xml(path, "annotation")
    stem = os.path.splitext(os.path.basename(path))[0]
    file_name = (root.findtext("filename") or "").strip()
    found = finder.find(file_name, stem)
    size = [sources.side(root.findtext(f"size/{key}"), path, f"size/{key}") for key in ("width", "height")]
    objects = [_read_object(row, f"object {i} of {path}") for i, row in enumerate(root.iter("object"), start=1)]
    name = os.path.relpath(found, image_root) if found else file_name or stem
    return SourceImage(name, size[0], size[1], objects)


def _read_object(row: ElementTree.Element, where: str) -> SourceObject:
    name = (row.findtext("name") or "").strip()
    if not name:
        raise SourceError(f"{where} has no name. Allowed: the name of a class.")
    corners = []
    for key in _CORNERS:
        text = row.findtext(f"bndbox/{key}")
        if text is None:
            raise SourceError(f"{where} lacks bndbox/{key}. Allowed: {', '.join(_CORNERS)} in pixels.")
        corners.append(sources.number(text.strip(), where, f"bndbox/{key}"))
    difficult = (row.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise SourceError(f"{where}: difficult = {shown(difficult)}. Allowed: 0 or 1.")
    return SourceObject(name, (corners[0], corners[1], corners[2], corners[3]), where, is_difficult=difficult == "1")
