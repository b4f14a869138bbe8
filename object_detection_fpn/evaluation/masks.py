"""What metrics of masks share, and how the masks of records and of detections become run lengths."""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import TypeVar

import numpy as np
import pycocotools.mask as coco_mask
import tensorflow as tf
from PIL import Image

from object_detection_fpn.evaluation.metric import EvaluationError, ImageDetections, ImageGroundtruth
from object_detection_fpn.ops.pasting import MaskPasting, PastedMask, paste_masks
from object_detection_fpn.ops.rle import Rle, decode, encode_box, encode_mask, encode_pasted

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def regions_of_masks(groundtruth: ImageGroundtruth, detections: ImageDetections) -> tuple[ImageGroundtruth, np.ndarray]:
    """Gives each object without a mask its box as one.

    Args:
        groundtruth: of one image, with `masks` and `image_size`.
        detections: of the same image, with `masks`.

    Returns:
        The groundtruth, and which of its objects had no mask, [G] bool.

    Raises:
        ValueError: if a record has no masks, or a mask of another size than the image.
    """
    of_image = f"image {groundtruth.source_id!r}"
    if groundtruth.masks is None or groundtruth.image_size is None or detections.masks is None:
        raise ValueError(f"A metric of masks needs the masks and the size of {of_image}; they are None.")
    size = groundtruth.image_size
    wrong = [
        mask["size"] for mask in (*groundtruth.masks, *detections.masks) if mask and list(mask["size"]) != list(size)
    ]
    if wrong:
        raise ValueError(
            f"A mask of {of_image} has the size {list(wrong[0])}. Allowed: that of the image, {list(size)}."
        )
    masks = [
        encode_box(box, size) if mask is None else mask
        for mask, box in zip(groundtruth.masks, groundtruth.boxes, strict=True)
    ]
    return groundtruth._replace(masks=masks), np.array([mask is None for mask in groundtruth.masks], bool)


def mask_areas(masks: Sequence[Rle]) -> np.ndarray:
    """[N] float64, pixels."""
    return np.asarray(coco_mask.area(list(masks)), np.float64).reshape(-1)


def mask_overlaps(detections: ImageDetections, groundtruth: ImageGroundtruth, is_group_of: np.ndarray) -> np.ndarray:
    """The overlaps of the masks of one image that `average_precision.match_detections` takes, [D, G]."""
    found, masks = list(detections.masks or ()), list(groundtruth.masks or ())
    overlaps = coco_mask.iou(found, masks, is_group_of.astype(np.uint8).tolist())
    return np.reshape(np.asarray(overlaps, np.float64), (len(found), len(masks)))


def encode_record(encoded: Sequence[bytes], image_size: tuple[int, int], source_id: str) -> list[Rle | None]:
    """The masks of a record as run lengths.

    Args:
        encoded: [G] PNG files, in which all but 0 is the object; empty for an object without a mask.
        image_size: height and width that they must have.
        source_id: of the record.

    Raises:
        EvaluationError: if a file is no PNG, or an image of another size.
    """
    return [
        _encode_png(png, image_size, f"record {source_id!r}: mask {row}") if png else None
        for row, png in enumerate(encoded)
    ]


def _encode_png(png: bytes, image_size: tuple[int, int], name: str) -> Rle:
    try:
        with tf.device("/CPU:0"):
            mask = tf.io.decode_png(png, channels=1).numpy()[..., 0] != 0
    except tf.errors.InvalidArgumentError as error:
        raise EvaluationError(f"{name} of image/object/mask is no PNG file. Allowed: one PNG an object.") from error
    if mask.shape != tuple(image_size):
        raise EvaluationError(
            f"{name} of image/object/mask has the size {list(mask.shape)}. Allowed: that of the image, {list(image_size)}."
        )
    return encode_mask(mask)


def encode_detections(
    masks: np.ndarray, boxes: np.ndarray, image_size: tuple[int, int], *, pasting: MaskPasting
) -> list[Rle]:
    """Pastes the masks of detections, one at a time.

    Args:
        masks: [D, M, M] float in [0, 1], within the boxes.
        boxes: [D, 4] float, pixels of the image.
        image_size: height and width of the image.
        pasting: see `ops.pasting`.
    """
    return [
        encode_pasted(paste_masks(masks[i : i + 1], boxes[i : i + 1], image_size, pasting=pasting)[0], image_size)
        for i in range(len(masks))
    ]


def resize_masks(masks: Sequence[Rle | None], image_size: tuple[int, int]) -> list[PastedMask | None]:
    """Masks in an image that was resized, for pictures of it: the nearest pixels.

    Args:
        masks: [N] run lengths in the original image, None for an object without a mask.
        image_size: height and width of the resized image.
    """
    height, width = image_size

    def resize(mask: Rle) -> PastedMask:
        resized = Image.fromarray(decode(mask)).resize((width, height), Image.Resampling.NEAREST)
        return PastedMask(np.asarray(resized, bool), (0, 0))

    return [None if mask is None else resize(mask) for mask in masks]


def map_in_threads(
    function: Callable[[_Item], _Result], items: Iterable[_Item], *, num_threads: int | None = None
) -> Iterator[_Result]:
    """Maps items in threads and gives the results in order; the next items are taken while earlier ones are computed.

    Args:
        function: runs in several threads at once.
        items: taken in the thread of the caller, at most two a thread ahead of the results.
        num_threads: None = one a core, but two at least.
    """
    num_threads = num_threads or max(2, os.cpu_count() or 1)
    waiting: collections.deque[futures.Future[_Result]] = collections.deque()
    with futures.ThreadPoolExecutor(num_threads, thread_name_prefix="masks") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                while waiting and (waiting[0].done() or len(waiting) > 2 * num_threads):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
