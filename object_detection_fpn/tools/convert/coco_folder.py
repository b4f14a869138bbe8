"""Finds COCO JSON files and their images.

A source is a file, a folder with `annotations/` and folders of images, or Roboflow's `train/`, `valid/`, `test/`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from object_detection_fpn.data.source import image_files
from object_detection_fpn.data.source.coco import CocoDataset, read_coco, shown
from object_detection_fpn.tools.convert import labelme, sources, storage
from object_detection_fpn.tools.convert.sources import Options, Source, SourceError, Split

FORMAT = "COCO JSON"
_KEYS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_NUM_TRIED = 20  # images of a file that are looked for in a folder
_MAX_CLASS_ID = 2**31 - 1  # of a label map
_PREFIXES = ("instances_", "annotations_")


def recognize(path: str) -> str | None:
    """The first JSON file, if the source is of this format."""
    return next(iter(_find(path).values()), None)


def _is_coco(path: str) -> bool:
    return not labelme.is_labelme(path) and _KEYS.search(sources.head_and_tail(path)) is not None


def _find(path: str) -> dict[str, str]:
    """JSON files by split."""
    if storage.isfile(path):
        return {sources.UNSPLIT: path} if path.lower().endswith(".json") and _is_coco(path) else {}
    for folder in (path, os.path.join(path, "annotations")):
        names = sources.list_files(folder, ".json")
        found = [each for name in names if _is_coco(each := os.path.join(folder, name))]
        found = [each for each in found if os.path.basename(each).startswith("instances_")] or found
        if len(found) == 1:
            return {sources.UNSPLIT: found[0]}
        if found:
            return {_split_name(each): each for each in found}
    splits: dict[str, str] = {}
    for name in sources.SPLIT_NAMES:
        folder = os.path.join(path, name)
        found = [each for file in sources.list_files(folder, ".json") if _is_coco(each := os.path.join(folder, file))]
        if len(found) > 1:
            raise SourceError(
                f"{folder}: has several COCO files: {sources.listed(found)}. Allowed: one in each folder."
            )
        if found:
            splits["val" if name.startswith("val") else name] = found[0]
    return splits


def _split_name(path: str) -> str:
    """As a part of a file name."""
    name = os.path.splitext(os.path.basename(path))[0]
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def read(path: str, options: Options) -> Source:
    """Reads a file or a folder; class ids are kept where they are allowed ones and the same in all files.

    Raises:
        SourceError: if the classes of the files differ, or the images are not found.
        CocoError: if a file is not COCO's (see `data.source.coco`).
    """
    files = _find(path) if storage.isdir(path) else {sources.UNSPLIT: path}
    datasets = {
        split: read_coco(file, renumber_classes=True, with_segmentations=options.with_masks)
        for split, file in files.items()
    }
    first = next(iter(datasets.values()))
    for dataset in datasets.values():
        if (dataset.names, dataset.label_of) != (first.names, first.label_of):
            raise SourceError(
                f"{dataset.path}: its categories differ from those of {first.path}. Allowed: the same in all files."
            )
    keeps_ids = all(isinstance(each, int) and 1 <= each <= _MAX_CLASS_ID for each in first.label_of)
    notes = []
    if not keeps_ids:
        notes.append("Category ids start below 1 or are text; the records' are 1, 2, ... in their order.")
    splits = []
    for split, dataset in datasets.items():
        kept = _keep_ids(dataset) if keeps_ids and not options.renumber_classes else dataset
        if options.class_names is not None:
            kept = _order_classes(kept, options.class_names)
        splits.append(Split(split, kept, options.image_dir or _find_images(kept, split)))
    return Source(FORMAT, path, splits, notes)


def _keep_ids(dataset: CocoDataset) -> CocoDataset:
    label_of: dict[int | str, int] = {each: int(each) for each in dataset.label_of}
    return dataset._replace(
        label_of=label_of, names={int(each): dataset.names[label] for each, label in dataset.label_of.items()}
    )


def _order_classes(dataset: CocoDataset, class_names: Sequence[str]) -> CocoDataset:
    """The data set with the classes numbered as the user orders them."""
    order = {name: label for label, name in enumerate(class_names, start=1)}
    for name in dataset.names.values():
        if name not in order:
            raise SourceError(f"{dataset.path}: category {shown(name)} is unknown. Allowed: {sources.listed(order)}.")
    label_of = {each: order[dataset.names[label]] for each, label in dataset.label_of.items()}
    return dataset._replace(label_of=label_of, names={label: name for name, label in order.items()})


def _find_images(dataset: CocoDataset, split: str) -> str:
    """The folder that the file names start from: beside the file, or as COCO's archives are unpacked."""
    beside = os.path.dirname(dataset.path) or "."
    above = os.path.join(beside, "..")
    names = dict.fromkeys((_split_name(dataset.path), split))
    folders = [beside, os.path.join(beside, "images"), above, os.path.join(above, "images")]
    for name in names:
        folders += [os.path.join(place, name) for place in folders[:4]]
    for folder in folders:
        tried = dataset.images[:_NUM_TRIED]
        if any(storage.isfile(image_files.find_image_file(folder, image.file_name)) for image in tried):
            return storage.normalized(folder)
    raise SourceError(
        f"{dataset.path}: none of its first images, as {shown(dataset.images[0].file_name)}, is in any of "
        f"{', '.join(storage.normalized(folder) for folder in folders)}. --image_dir names their folder."
    )
