"""The images that the page shows: the worst, the best, and for each class the one with most of its errors.

Chosen while images come in, so that of all others no pixel is kept.
"""

from __future__ import annotations

import base64
import heapq
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from object_detection_fpn.drawing.boxes import to_rgb
from object_detection_fpn.evaluation.metric import ImageDetections, ImageGroundtruth
from object_detection_fpn.jobs.detect import DetectedImage
from object_detection_fpn.ops import rle
from object_detection_fpn.tools.report.curves import precision_at_recalls
from object_detection_fpn.tools.report.errors import IGNORED, TRUE, ImageErrors
from object_detection_fpn.tools.report.matching import AT_50, ImageMatches

MIN_SCORE = 0.05  # detections below are neither drawn nor counted as errors of a class
MAX_DETECTIONS = 60  # of an image, that are drawn
MAX_BYTES = 20_000_000  # of all examples on the page
_SIDE = 480  # pixels of a thumbnail's longer side
_QUALITY = 80  # of JPEG


class _Entry(NamedTuple):
    """A candidate. Entries are compared by `rank` and then by `number`, which is unique."""

    rank: tuple[float, ...]
    number: int
    """Of the image, negative so that of equal images the first stays."""
    image: _Kept


class _Kept(NamedTuple):
    """What is kept of a chosen image."""

    quality: float
    jpeg: bytes
    """A thumbnail."""
    size: tuple[int, int]
    """Its height and width."""
    groundtruth: ImageGroundtruth
    detections: ImageDetections
    matches: ImageMatches
    errors: ImageErrors
    name: str


class Examples:
    """Takes images as they come and keeps the telling ones.

    Args:
        num: how many of the worst, and how many of the best.
    """

    def __init__(self, num: int):
        self._num = num
        self._heaps: dict[tuple[str, int], list[_Entry]] = {}
        self._num_seen = 0

    def add(self, seen: DetectedImage, matches: ImageMatches, errors: ImageErrors) -> None:
        """Takes in one image, with the matches of its boxes."""
        self._num_seen += 1
        if not self._num:
            return
        quality = image_quality(matches)
        is_false = (errors.kinds != TRUE) & (errors.kinds != IGNORED) & (matches.scores >= MIN_SCORE)
        weight_of_false = float(matches.scores[is_false].sum())
        num_errors = weight_of_false + float(errors.is_missed.sum())
        num_objects = float(np.sum(~matches.is_crowd))
        ranks: dict[tuple[str, int], tuple[float, ...]] = {
            ("worst", 0): (-quality, num_errors),
            ("best", 0): (quality, num_objects, -weight_of_false),
        }
        for class_index in np.unique(np.concatenate([matches.classes[is_false], matches.gt_classes[errors.is_missed]])):
            of_class = matches.scores[is_false & (matches.classes == class_index)].sum()
            missed = np.sum(matches.gt_classes[errors.is_missed] == class_index)
            ranks["class", int(class_index)] = (float(of_class + missed),)
        wanted = [key for key, rank in ranks.items() if self._wants(key, rank)]
        if not wanted:
            return
        kept = _Kept(
            quality, *_thumbnail(seen.image.pixels()), seen.groundtruth, seen.detections, matches, errors,
            seen.groundtruth.source_id,
        )  # fmt: skip
        for key in wanted:
            heap = self._heaps.setdefault(key, [])
            heapq.heappush(heap, _Entry(ranks[key], -self._num_seen, kept))
            if len(heap) > self._size(key):
                heapq.heappop(heap)

    def _size(self, key: tuple[str, int]) -> int:
        return 1 if key[0] == "class" else self._num

    def _wants(self, key: tuple[str, int], rank: tuple[float, ...]) -> bool:
        heap = self._heaps.get(key, [])
        return len(heap) < self._size(key) or rank > heap[0].rank

    def to_json(self) -> list[dict[str, Any]]:
        """The chosen images, worst first, then the best, then those of classes, as far as they fit into `MAX_BYTES`."""
        roles: dict[int, list[str]] = {}
        images: dict[int, _Kept] = {}
        for role in ("worst", "best", "class"):
            for key in sorted(key for key in self._heaps if key[0] == role):
                for entry in sorted(self._heaps[key], reverse=True):
                    images[-entry.number] = entry.image
                    named = roles.setdefault(-entry.number, [])
                    if role not in named:
                        named.append(role)
        result: list[dict[str, Any]] = []
        num_bytes = 0
        for number, image in images.items():
            content = {"number": number, "roles": roles[number], **_image_to_json(image)}
            num_bytes += _size_of(content)
            if num_bytes > MAX_BYTES:
                break
            result.append(content)
        return result


def image_quality(matches: ImageMatches) -> float:
    """How well an image is understood, 0 to 1: the average precision at IoU 0.5 of all its classes together.

    An image without objects has 1 minus the score of its best detection.
    """
    is_counted = ~matches.is_ignored[AT_50]
    scores, is_true = matches.scores[is_counted], matches.is_true[AT_50, is_counted]
    num_objects = int(np.sum(~matches.is_crowd))
    if not num_objects:
        return 1.0 - float(scores.max(initial=0.0))
    return float(np.mean(precision_at_recalls(scores, is_true, num_objects)))


def _thumbnail(image: np.ndarray) -> tuple[bytes, tuple[int, int]]:
    """A JPEG file, with its height and width."""
    picture = Image.fromarray(to_rgb(image))
    picture.thumbnail((_SIDE, _SIDE))
    jpeg = io.BytesIO()
    picture.save(jpeg, format="JPEG", quality=_QUALITY)
    return jpeg.getvalue(), (picture.height, picture.width)


def _image_to_json(image: _Kept) -> dict[str, Any]:
    height, width = image.size
    truth, found = image.groundtruth, image.detections
    original = truth.image_size or (height, width)
    scale = np.array([width / original[1], height / original[0]] * 2)
    drawn = np.flatnonzero(image.matches.scores >= MIN_SCORE)[:MAX_DETECTIONS]
    return {
        "name": image.name,
        "quality": round(image.quality, 3),
        "width": width,
        "height": height,
        "jpeg": base64.b64encode(image.jpeg).decode(),
        "detections": [
            {
                "box": _box(found.boxes[image.matches.rows[row]], scale),
                "class": int(image.matches.classes[row]),
                "score": round(float(image.matches.scores[row]), 3),
                "kind": str(image.errors.kinds[row]),
                **_mask(None if found.masks is None else found.masks[image.matches.rows[row]], (height, width)),
            }
            for row in drawn
        ],
        "groundtruth": [
            {
                "box": _box(truth.boxes[row], scale),
                "class": int(truth.classes[row]),
                "kind": "crowd" if truth.is_crowd[row] else "missed" if image.errors.is_missed[row] else "object",
                **_mask(None if truth.masks is None else truth.masks[row], (height, width)),
            }
            for row in range(len(truth.classes))
        ],
    }


def _box(box: np.ndarray, scale: np.ndarray) -> list[float]:
    """Left, top, width, height in pixels of the thumbnail; a box turned inside out has no width or height."""
    ymin, xmin, ymax, xmax = box
    return np.round(np.array([xmin, ymin, max(0.0, xmax - xmin), max(0.0, ymax - ymin)]) * scale, 1).tolist()


def _mask(mask: rle.Rle | None, size: tuple[int, int]) -> dict[str, Any]:
    """The pixels of a mask in the thumbnail: the rectangle around them, and run lengths in it, row by row, outside first."""
    if mask is None:
        return {}
    height, width = size
    resized = np.asarray(Image.fromarray(rle.decode(mask)).resize((width, height), Image.Resampling.NEAREST), bool)
    rows, columns = np.flatnonzero(resized.any(axis=1)), np.flatnonzero(resized.any(axis=0))
    if not len(rows):
        return {}
    top, left = int(rows[0]), int(columns[0])
    part = resized[top : rows[-1] + 1, left : columns[-1] + 1]
    edges = np.flatnonzero(np.diff(part.ravel(), prepend=False))
    runs = np.diff(edges, prepend=0, append=part.size)
    return {"mask": {"frame": [left, top, part.shape[1], part.shape[0]], "runs": runs.tolist()}}


def _size_of(value: Any) -> int:
    """About the bytes of JSON, without writing it."""
    if isinstance(value, Mapping):
        return sum(len(key) + 4 + _size_of(item) for key, item in value.items())
    if isinstance(value, list):
        return sum(1 + _size_of(item) for item in value)
    return len(str(value)) + 2
