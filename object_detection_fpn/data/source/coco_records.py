"""Records of a COCO JSON file and its images, in memory, as `odfpn convert` would write them; they name the image files."""

from __future__ import annotations

import concurrent.futures
import functools
import os
from typing import NamedTuple

import tensorflow as tf
from absl import logging

from object_detection_fpn.data.failures import DataError
from object_detection_fpn.data.source.coco import CocoError, read_coco
from object_detection_fpn.data.source.coco_examples import ExifBoxes, prepare
from object_detection_fpn.data.source.files import RecordFile

_NUM_THREADS = 16  # that read the beginnings of image files
_MOST_BYTES = 3 << 29  # of all records: a graph that goes to a data service holds them, and may have 2 GiB


class CocoSource(NamedTuple):
    """A COCO file in place of record files."""

    annotations_path: str
    image_dir: str = ""
    """Folder that the file names start from; "" = that of the file."""
    renumber_classes: bool = False
    """As in `coco.parse_coco`."""
    exif_boxes: ExifBoxes | None = None
    """Of rotated photographs, see `tools.convert.coco`."""
    with_masks: bool = False


def coco_class_names(source: CocoSource) -> dict[int, str]:
    """Names of the categories by class id, from 1.

    Raises:
        CocoError: as `coco.read_coco`; the whole file is checked.
    """
    path = source.annotations_path
    return _class_names(path, source.renumber_classes, _version(path))


@functools.lru_cache(maxsize=8)
def _class_names(path: str, renumber_classes: bool, version: tuple[int, int]) -> dict[int, str]:
    return read_coco(path, renumber_classes=renumber_classes).names


def read_coco_records(source: CocoSource) -> RecordFile:
    """The records of a COCO file, in the order of its images.

    A record names its image file, which is read and decoded where a batch needs it. Photographs that have to be turned upright,
    and files of other formats than JPEG and PNG, are read and encoded here, and held in memory.

    Raises:
        DataError: as `coco.read_coco` and `coco_examples.prepare`, with fields in place of flags; or if the records take more
            memory than a graph may have.
    """
    try:
        return _read(source, _version(source.annotations_path))
    except CocoError as error:
        raise DataError(in_fields(str(error))) from error


@functools.lru_cache(maxsize=4)  # evaluation reads its data set after every checkpoint
def _read(source: CocoSource, version: tuple[int, int]) -> RecordFile:
    path = source.annotations_path
    dataset = read_coco(path, renumber_classes=source.renumber_classes, with_segmentations=source.with_masks)
    make = functools.partial(
        prepare,
        dataset=dataset,
        image_dir=source.image_dir or os.path.dirname(path) or ".",
        exif_boxes=source.exif_boxes,
        has_masks=source.with_masks
        and any(row.segmentation is not None for rows in dataset.annotations.values() for row in rows),
        names_file=True,
    )
    logging.info("Reading the annotations and the beginnings of the %d images of %s.", len(dataset.images), path)
    records: list[bytes] = []
    num_dropped = num_broken = 0
    with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
        for example, objects in pool.map(make, dataset.images):
            records.append(example.SerializeToString(deterministic=True))
            num_dropped += len(objects.dropped)
            num_broken += len(objects.broken_masks)
    num_bytes = sum(map(len, records))
    if num_bytes > _MOST_BYTES:
        raise DataError(
            f"{path}: its records take {num_bytes / 2**30:.1f} GiB of memory, mostly masks and turned photographs. Allowed: "
            f"{_MOST_BYTES / 2**30:.1f} GiB. `odfpn convert` writes them to files."
        )
    if num_dropped:
        logging.warning("%s: %d boxes have no area inside their image and were left out.", path, num_dropped)
    if num_broken:
        logging.warning("%s: %d objects whose segmentation gives no mask were left out.", path, num_broken)
    return RecordFile(path, num_bytes, records=tuple(records))


def in_fields(text: str) -> str:
    """A message of `data.source.coco`, which names flags of `odfpn convert`, with the fields of a config in their place."""
    for flag, field in (
        ("--renumber_classes", "renumber_classes: true"),
        ("--exif_boxes upright", "exif_boxes: UPRIGHT"),
        ("--exif_boxes stored", "exif_boxes: STORED"),
        ("--no_masks", "load_instance_masks: false"),
    ):
        text = text.replace(flag, field)
    return text


def _version(path: str) -> tuple[int, int]:
    """Tells a file from an earlier one of the same name."""
    try:
        found = tf.io.gfile.stat(path)
    except tf.errors.OpError:
        return 0, 0  # who reads it says why it cannot be read
    return found.length, found.mtime_nsec
