"""How far the detections of an exported file lie from those of the SavedModel: on the same images, detection by detection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from object_detection_fpn.serving.predictor import ImagePrediction

_MIN_SCORE = 0.1  # of the SavedModel's detections that are looked for
_MIN_IOU = 0.5  # with the one that is taken for the same


class Differences(NamedTuple):
    """What the images show together."""

    num_images: int
    num_detections: int
    """The SavedModel's, scored 0.1 or more."""
    num_found: int
    """Those of them that the file detects too: the same class, an IoU of at least 0.5."""
    score: float
    """The largest difference of two scores."""
    box: float
    """The largest difference of two coordinates, in pixels of the image."""
    mask: float | None = None
    """The largest difference of two cells of masks, which are in [0, 1]; None = there are no masks."""

    def __str__(self) -> str:
        mask = "" if self.mask is None else f", of a mask's cell {self.mask:.2g}"
        return (
            f"{self.num_found} of {self.num_detections} detections on {self.num_images} images are the SavedModel's; largest "
            f"difference of a score {self.score:.2g}, of a box {self.box:.2g} pixels{mask}"
        )


def compare(images: Iterable[tuple[ImagePrediction, ImagePrediction, tuple[int, int]]]) -> Differences:
    """Compares predictions.

    Args:
        images: of each image the prediction of the SavedModel, that of the file, and height and width.
    """
    num_images = num_detections = num_found = 0
    score = box = 0.0
    mask: float | None = None
    for wanted, found, size in images:
        num_images += 1
        scale = np.tile(np.array(size, np.float64), 2)
        pairs = _match(wanted, found)
        num_detections += int(np.sum(wanted.scores >= _MIN_SCORE))
        num_found += len(pairs)
        for i, j in pairs:
            score = max(score, abs(float(wanted.scores[i]) - float(found.scores[j])))
            box = max(box, float(np.abs((wanted.boxes_normalized[i] - found.boxes_normalized[j]) * scale).max()))
            if wanted.masks is not None and found.masks is not None:
                mask = max(mask or 0.0, float(np.abs(wanted.masks[i] - found.masks[j]).max()))
    return Differences(num_images, num_detections, num_found, score, box, mask)


def _match(wanted: ImagePrediction, found: ImagePrediction) -> list[tuple[int, int]]:
    """Rows of the same detections: each wanted one takes, best first, what overlaps it most of what is left."""
    overlaps = _pairwise_iou(wanted.boxes_normalized, found.boxes_normalized)
    overlaps[wanted.class_ids[:, np.newaxis] != found.class_ids] = 0.0
    pairs = []
    for i in np.flatnonzero(wanted.scores >= _MIN_SCORE):
        j = int(np.argmax(overlaps[i])) if overlaps.shape[1] else -1
        if j >= 0 and overlaps[i, j] >= _MIN_IOU:
            pairs.append((int(i), j))
            overlaps[:, j] = 0.0
    return pairs


def _pairwise_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Boxes [N, 4] and [M, 4] -> [N, M]."""
    first, second = first.astype(np.float64)[:, np.newaxis], second.astype(np.float64)[np.newaxis]
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    shared = np.prod(np.maximum(sides, 0.0), axis=-1)
    areas = [np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0.0), axis=-1) for boxes in (first, second)]
    union = areas[0] + areas[1] - shared
    return np.divide(shared, union, out=np.zeros_like(union), where=union > 0.0)
