"""Matches the detections of each image with its groundtruth as COCO does, at all ten IoU thresholds.

The rule is that of pycocotools' `COCOeval.evaluateImg`: of each class the 100 best detections of an image, best first, each
take the object of their class that they overlap most among those not taken, if the overlap reaches the threshold; one that
finds none may lie in a crowd and is then ignored. Here the overlaps across classes are kept too, which the kinds of errors
and the confusion matrix need.

Shape letters: D detections and G groundtruth of one image; N detections and M groundtruth of all images; T = 10 thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pycocotools.mask as coco_mask

from object_detection_fpn.evaluation import coco_format
from object_detection_fpn.evaluation.metric import ImageDetections, ImageGroundtruth, take_rows

THRESHOLDS = np.linspace(0.5, 0.95, 10)
AT_50, AT_75 = 0, 5
"""Rows of `THRESHOLDS`."""
MAX_DETECTIONS = 100  # of a class in an image, COCO's largest limit
_NEARLY_ONE = 1 - 1e-10  # pycocotools' highest threshold


class ImageMatches(NamedTuple):
    """What became of the detections and the objects of one image. Detections are best first."""

    scores: np.ndarray
    """[D] float."""
    classes: np.ndarray
    """[D] int, 0-based."""
    rows: np.ndarray
    """[D] int, where each detection stands among those that were given."""
    is_true: np.ndarray
    """[T, D] bool, whether the detection found an object."""
    is_ignored: np.ndarray
    """[T, D] bool, whether it lies in a crowd, or is a box turned inside out, and counts neither as true nor as false."""
    matched: np.ndarray
    """[D] int, the object that the detection found at IoU 0.5; -1 = none."""
    gt_classes: np.ndarray
    """[G] int, 0-based."""
    is_crowd: np.ndarray
    """[G] bool."""
    overlaps: np.ndarray
    """[D, G] float: intersection over union, of crowds over the detection's own area."""


class Matches(NamedTuple):
    """The matches of all images in one table each; images are numbered in the order in which they were given."""

    images: np.ndarray
    """[N] int, the image of each detection."""
    scores: np.ndarray
    """[N] float."""
    classes: np.ndarray
    """[N] int."""
    is_true: np.ndarray
    """[T, N] bool."""
    is_ignored: np.ndarray
    """[T, N] bool."""
    gt_images: np.ndarray
    """[M] int, the image of each object; crowds are left out."""
    gt_classes: np.ndarray
    """[M] int."""
    num_images: int
    num_classes: int

    def num_groundtruth(self) -> np.ndarray:
        """Objects of each class, [C] int."""
        return np.bincount(self.gt_classes, minlength=self.num_classes)


def match_image(groundtruth: ImageGroundtruth, detections: ImageDetections, *, use_masks: bool = False) -> ImageMatches:
    """Matches one image.

    Args:
        groundtruth: as `metric.clean_image` gives it.
        detections: of the same image.
        use_masks: overlaps are those of masks. An object without one is then a crowd, as in the metrics.

    Raises:
        ValueError: if masks are missing, or of another size than the image.
    """
    if use_masks:
        groundtruth = coco_format.with_regions(groundtruth, detections)
    rows = _best_rows(detections)
    found = take_rows(detections, np.isin(np.arange(len(detections.scores)), rows))
    in_order = np.argsort(np.argsort(rows))  # `found` keeps the order of `detections`
    overlaps = _overlaps(groundtruth, found, use_masks=use_masks)[in_order]
    scores, classes = detections.scores[rows], detections.classes[rows]
    is_true, is_ignored, matched = _match(overlaps, classes, groundtruth.classes, groundtruth.is_crowd)
    if not use_masks:
        # Of a size beyond COCO's range "all", which begins at 0.
        height, width = (detections.boxes[rows, 2:] - detections.boxes[rows, :2]).T
        is_ignored |= ~is_true & (height * width < 0)
    return ImageMatches(
        scores, classes, rows, is_true, is_ignored, matched, groundtruth.classes, groundtruth.is_crowd, overlaps
    )


def gather(images: Sequence[ImageMatches], *, num_classes: int) -> Matches:
    """The table of all images.

    Args:
        images: in the order that decides between equal scores.
        num_classes: C.
    """
    counts = [len(image.scores) for image in images]
    objects = [image.gt_classes[~image.is_crowd] for image in images]
    return Matches(
        images=np.repeat(np.arange(len(images)), counts),
        scores=_join([image.scores for image in images], float),
        classes=_join([image.classes for image in images], int),
        is_true=_join([image.is_true for image in images], bool, num_rows=len(THRESHOLDS)),
        is_ignored=_join([image.is_ignored for image in images], bool, num_rows=len(THRESHOLDS)),
        gt_images=np.repeat(np.arange(len(images)), [len(classes) for classes in objects]),
        gt_classes=_join(objects, int),
        num_images=len(images),
        num_classes=num_classes,
    )


def _join(arrays: Sequence[np.ndarray], dtype: type, *, num_rows: int | None = None) -> np.ndarray:
    empty: np.ndarray = np.zeros(0 if num_rows is None else (num_rows, 0), dtype)
    return np.concatenate([empty, *arrays], axis=-1).astype(dtype)


def _best_rows(detections: ImageDetections) -> np.ndarray:
    """Rows of the detections that count, best first."""
    order = np.argsort(-detections.scores, kind="stable")
    classes = detections.classes[order]
    rank = np.zeros(len(order), int)
    for class_index in np.unique(classes):
        of_class = classes == class_index
        rank[of_class] = np.arange(np.sum(of_class))
    return order[rank < MAX_DETECTIONS]


def _overlaps(groundtruth: ImageGroundtruth, detections: ImageDetections, *, use_masks: bool) -> np.ndarray:
    """[D, G]"""
    shape = len(detections.scores), len(groundtruth.classes)
    if not all(shape):
        return np.zeros(shape)
    found = list(detections.masks or ()) if use_masks else _xywh(detections.boxes)
    truth = list(groundtruth.masks or ()) if use_masks else _xywh(groundtruth.boxes)
    overlaps = coco_mask.iou(found, truth, groundtruth.is_crowd.astype(np.uint8).tolist())
    return np.reshape(np.asarray(overlaps, np.float64), shape)


def _xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, 1::-1], boxes[:, 3:1:-1] - boxes[:, 1::-1]], axis=1)


def _match(
    overlaps: np.ndarray, classes: np.ndarray, gt_classes: np.ndarray, is_crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`is_true`, `is_ignored` and `matched` of `ImageMatches`, for detections in descending order of score."""
    num_detections, num_objects = overlaps.shape
    shape = len(THRESHOLDS), num_detections
    is_true, is_ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    matched = np.full(num_detections, -1)
    is_taken = np.zeros((len(THRESHOLDS), num_objects), bool)
    thresholds = np.minimum(THRESHOLDS, _NEARLY_ONE)[:, np.newaxis]
    every = np.arange(len(THRESHOLDS))
    for row in range(num_detections):
        iou = np.where(gt_classes == classes[row], overlaps[row], -1.0)
        if not (iou >= THRESHOLDS[0]).any():
            continue
        reaches = iou >= thresholds  # [T, G]
        open_iou = np.where(reaches & ~is_taken & ~is_crowd, iou, -1.0)
        # The last of equal overlaps, as in pycocotools.
        best = num_objects - 1 - np.argmax(open_iou[:, ::-1], axis=1)
        is_true[:, row] = open_iou[every, best] >= 0
        is_taken[every[is_true[:, row]], best[is_true[:, row]]] = True
        is_ignored[:, row] = ~is_true[:, row] & (reaches & is_crowd).any(axis=1)
        if is_true[AT_50, row]:
            matched[row] = best[AT_50]
    return is_true, is_ignored, matched
