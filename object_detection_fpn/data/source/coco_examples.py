"""Makes the record of one image of a data set: reads and checks the file, turns photographs upright, makes masks."""

from __future__ import annotations

import dataclasses
import os
from typing import Literal

import tensorflow as tf

from object_detection_fpn.data import exif
from object_detection_fpn.data.source import image_files, segmentations
from object_detection_fpn.data.source.coco import CocoAnnotation, CocoDataset, CocoError, CocoImage
from object_detection_fpn.data.source.examples import PATH_KEY, RecordObject, make_example
from object_detection_fpn.data.source.image_files import Unusable, UnusableImage

ExifBoxes = Literal["stored", "upright"]
_HEAD_BYTES = 1 << 16  # of a JPEG; size and orientation stand in them but for long comments


@dataclasses.dataclass
class ImageObjects:
    """The annotations of one image, sorted."""

    image: CocoImage
    is_turned: bool
    kept: list[CocoAnnotation] = dataclasses.field(default_factory=list)
    dropped: list[CocoAnnotation] = dataclasses.field(default_factory=list)
    """Those without area inside the image."""
    num_clipped: int = 0
    """Of the kept ones, those whose box reaches more than a pixel beyond the image."""
    num_masks: int = 0
    broken_masks: list[tuple[CocoAnnotation, segmentations.BrokenMask]] = dataclasses.field(default_factory=list)
    """Those that are dropped because their segmentation gives no mask."""
    notices: list[tuple[CocoAnnotation, segmentations.Notice]] = dataclasses.field(default_factory=list)
    """What is odd about the masks of those that are kept."""


def prepare(
    image: CocoImage,
    *,
    dataset: CocoDataset,
    image_dir: str,
    exif_boxes: ExifBoxes | None,
    has_masks: bool,
    names_file: bool = False,
) -> tuple[tf.train.Example, ImageObjects]:
    """The record of an image, and what became of its annotations.

    Args:
        image: a row of the data set.
        dataset: has the annotations of this image; those of others may be left out.
        image_dir: folder of the image files.
        exif_boxes: see `coco.coco_to_tfrecords`.
        has_masks: whether the data set has segmentations, so that every object has a mask, which may be empty.
        names_file: let the record name the file of an image that is stored as it is. Of a JPEG no more than the beginning is
            read then, and nothing is decoded.

    Raises:
        UnusableImage: if the file is missing, not decodable, or of another size than the data set says.
        CocoError: if it is not known whether the boxes of a rotated photograph are of its stored pixels.
    """
    row = f"image {image.id} of {dataset.path}"
    path = image_files.find_image_file(image_dir, image.file_name)
    where = f"{dataset.path}: image {image.id}"
    if names_file:
        encoded, header = _read_beginning(path, where, f"{path} ({row})")
    else:
        encoded = _read_file(path, where)
        header = image_files.read_header(encoded, f"{path} ({row})")
    annotations = dataset.annotations[image.id]
    is_stored = _are_boxes_of_stored_pixels(image, header, exif_boxes, bool(annotations), dataset.path, path)
    more: dict[str, str | int | None] = dict(image.capture.fields())
    if names_file and header.is_stored_as_is:
        stored = image_files.StoredImage(b"", header.stored_format)
        more[PATH_KEY] = path if "://" in path else os.path.abspath(path)
    else:
        stored = image_files.to_stored(encoded, header, f"{path} ({row})")

    swaps = exif.swaps_axes(header.orientation)
    upright_size = (header.height, header.width) if swaps else (header.width, header.height)
    width, height = (header.width, header.height) if is_stored else upright_size
    objects: list[RecordObject] = []
    sorted_rows = ImageObjects(image, is_turned=header.orientation != exif.UPRIGHT)
    orientation = header.orientation if is_stored else exif.UPRIGHT
    for annotation in annotations:
        x, y, w, h = annotation.bbox
        xmin, xmax = max(x, 0.0) / width, min(x + w, float(width)) / width
        ymin, ymax = max(y, 0.0) / height, min(y + h, float(height)) / height
        if xmin >= xmax or ymin >= ymax:
            sorted_rows.dropped.append(annotation)
            continue
        try:
            mask = _encode_mask(annotation, width, height, orientation, sorted_rows) if has_masks else None
        except segmentations.BrokenMask as error:
            sorted_rows.broken_masks.append((annotation, error))
            continue
        sorted_rows.kept.append(annotation)
        sorted_rows.num_clipped += x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1
        label = dataset.label_of[annotation.category_id]
        objects.append(
            RecordObject(
                box=exif.turn_box((ymin, xmin, ymax, xmax), orientation),
                label=label,
                name=dataset.names[label],
                area=w * h if annotation.area is None else annotation.area,
                is_crowd=annotation.is_crowd,
                mask=mask,
                is_difficult=annotation.is_difficult,
            )
        )
    example = make_example(
        stored,
        width=upright_size[0],
        height=upright_size[1],
        file_name=image.file_name,
        source_id=str(image.id),
        objects=objects,
        more=more,
    )
    return example, sorted_rows


def _encode_mask(annotation: CocoAnnotation, width: int, height: int, orientation: int, objects: ImageObjects) -> bytes:
    """The upright mask of an annotation as a PNG file; empty where it has none. Counts the mask, and what is odd about it.

    Args:
        annotation: of an image.
        width: pixels of that image, as the annotation has them.
        height: of the same.
        orientation: of the same, see `data.exif`.
        objects: of the same, where the mask is counted.

    Raises:
        segmentations.BrokenMask: if the segmentation gives no mask, and the annotation is no crowd, which does without.
    """
    if annotation.segmentation is None:
        objects.notices.append((annotation, segmentations.Notice.ABSENT))
        return b""
    try:
        mask = segmentations.make_mask(annotation, width, height)
    except segmentations.BrokenMask:
        if not annotation.is_crowd:
            raise
        objects.notices.append((annotation, segmentations.Notice.BROKEN_CROWD))
        return b""
    objects.num_masks += 1
    objects.notices += [(annotation, notice) for notice in mask.notices]
    is_upright = orientation == exif.UPRIGHT
    return segmentations.encode_png(mask.pixels if is_upright else exif.turn_pixels(mask.pixels, orientation))


def _read_beginning(path: str, where: str, name: str) -> tuple[bytes, image_files.Header]:
    """The first bytes of a JPEG that need not be turned, or all of another file, and its header."""
    head = _read_file(path, where, _HEAD_BYTES)
    try:
        header = image_files.read_header(head, name)
        if header.is_jpeg and header.is_stored_as_is:
            return head, header
    except UnusableImage as error:
        if len(head) < _HEAD_BYTES:  # the whole file
            raise error
    encoded = _read_file(path, where)
    return encoded, image_files.read_header(encoded, name)


def _read_file(path: str, where: str, num_bytes: int = -1) -> bytes:
    try:
        if tf.io.gfile.isdir(path):
            raise UnusableImage(Unusable.MISSING, f"{where} names {path}, which is a folder.")
        with tf.io.gfile.GFile(path, "rb") as file:
            encoded = file.read(num_bytes)
    except tf.errors.NotFoundError as error:
        raise UnusableImage(Unusable.MISSING, f"{where} names {path}, which does not exist.") from error
    except tf.errors.OpError as error:
        reason = f"{where} names {path}, which cannot be read ({error.message})."
        raise UnusableImage(Unusable.UNREADABLE, reason) from error
    if not encoded:
        raise UnusableImage(Unusable.UNREADABLE, f"{where} names {path}, which is empty.")
    return encoded


def _are_boxes_of_stored_pixels(
    image: CocoImage,
    header: image_files.Header,
    exif_boxes: ExifBoxes | None,
    has_boxes: bool,
    annotations_path: str,
    path: str,
) -> bool:
    """Whether the boxes are of the pixels as the file stores them, not as viewers show them; refuses other sizes."""
    stored = (header.width, header.height)
    upright = stored[::-1] if exif.swaps_axes(header.orientation) else stored
    fits_stored, fits_upright = (
        image.width in (None, width) and image.height in (None, height) for width, height in (stored, upright)
    )
    is_turned = header.orientation != exif.UPRIGHT
    if not fits_stored and not fits_upright:
        shown = f" ({upright[0]} x {upright[1]} upright)" if is_turned else ""
        said = (
            header.width if image.width is None else image.width,
            header.height if image.height is None else image.height,
        )
        raise UnusableImage(
            Unusable.OTHER_SIZE,
            f"{annotations_path}: image {image.id} is said to be {said[0]} x {said[1]} pixels, "
            f"but {path} is {stored[0]} x {stored[1]}{shown}; its boxes would be misplaced.",
        )
    if is_turned and has_boxes and fits_stored and fits_upright:
        if exif_boxes is None:
            raise CocoError(
                f"{annotations_path}: {path} of image {image.id} has EXIF orientation {header.orientation}, and its annotated "
                "size does not tell whether its boxes are of the pixels as they are stored or as viewers show them. "
                "Choose --exif_boxes upright or --exif_boxes stored; tools in which one draws boxes mostly mean upright."
            )
        return exif_boxes == "stored"
    return fits_stored
