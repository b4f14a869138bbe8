"""Counts what became of the annotations of a COCO file, reports what was dropped, and refuses what is of no use."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping

from absl import logging

from object_detection_fpn.data.source.coco import CocoAnnotation, CocoError
from object_detection_fpn.data.source.coco_examples import ImageObjects
from object_detection_fpn.data.source.segmentations import Fault, Notice

_MAX_DROP_LINES = 10
_MANY = 0.3  # share of boxes dropped or clipped, from which on the annotations are likely to mean something else


@dataclasses.dataclass
class Counts:
    """What became of the boxes of a data set; reports what was dropped."""

    path: str
    logs_rows: bool = True
    """Whether the first dropped objects are logged one by one."""
    num_kept: int = 0
    num_dropped: int = 0
    num_clipped: int = 0
    num_turned: int = 0
    num_fractions: int = 0
    first_dropped: str = ""
    first_cause: str = ""
    first_kept: str = ""
    first_clipped: str = ""

    def __post_init__(self) -> None:
        self.masks = MaskCounts(self.path, self.logs_rows)

    def add(self, objects: ImageObjects) -> None:
        """Counts the annotations of an image."""
        self.masks.add(objects)
        self.num_turned += objects.is_turned
        self.num_kept += len(objects.kept)
        self.num_fractions += sum(max(annotation.bbox) <= 1.0 for annotation in objects.kept)
        if objects.kept and not self.first_kept:
            self.first_kept = _describe(objects.kept[0])
        if objects.num_clipped and not self.first_clipped:
            self.first_clipped = f"image {objects.image.id}"
        self.num_clipped += objects.num_clipped
        for annotation in objects.dropped:
            self.num_dropped += 1
            if self.num_dropped == 1:
                self.first_dropped = _describe(annotation)
                has_size = annotation.bbox[2] > 0 and annotation.bbox[3] > 0
                self.first_cause = (
                    "it lies outside the image: are the boxes of images of another size?"
                    if has_size
                    else "a width or height is not above 0: is bbox x, y, width, height in all of them?"
                )
            if self.logs_rows and self.num_dropped <= _MAX_DROP_LINES:
                where = f"{self.path}: annotation {annotation.id} of image {objects.image.id}"
                logging.warning("%s dropped: bbox %s has no area inside the image.", where, list(annotation.bbox))

    def check(self, *, allow_no_boxes: bool) -> None:
        """Refuses a data set whose boxes are of no use, and warns where many of them are not.

        Raises:
            CocoError: if there are no boxes, all were dropped, or all are smaller than a pixel.
        """
        self.masks.check(self.num_kept)
        total = self.num_kept + self.num_dropped + self.masks.num_dropped
        if not total and not allow_no_boxes:
            raise CocoError(
                f"{self.path}: has no annotations, so there is nothing to detect. --allow_no_boxes writes images without "
                "objects all the same."
            )
        if total and not self.num_kept:
            raise CocoError(
                f"{self.path}: all {total} boxes have no area inside their image. The first, of {self.first_dropped}: "
                f"{self.first_cause}"
            )
        if self.num_kept and self.num_fractions == self.num_kept:
            raise CocoError(
                f"{self.path}: all {self.num_kept} boxes lie within the first pixel of their image, the first of "
                f"{self.first_kept}: they seem to be fractions of the image. Allowed: pixels."
            )
        if self.num_dropped > _MAX_DROP_LINES:
            logging.warning("%s: %d boxes dropped in all.", self.path, self.num_dropped)
        if self.num_dropped > _MANY * total:
            logging.warning(
                "%s: %d of %d boxes (%.0f%%) have no area inside their image. The first, of %s: %s",
                self.path, self.num_dropped, total, 100 * self.num_dropped / total, self.first_dropped, self.first_cause,
            )  # fmt: skip
        if self.num_clipped > _MANY * total:
            logging.warning(
                "%s: %d of %d boxes (%.0f%%) reach beyond their image and were clipped, the first in %s: is bbox xmin, ymin, "
                "xmax, ymax? Allowed: x, y, width, height.",
                self.path, self.num_clipped, total, 100 * self.num_clipped / total, self.first_clipped,
            )  # fmt: skip


class MaskCounts:
    """What became of the segmentations of a data set; reports what is odd about them."""

    def __init__(self, path: str, logs_rows: bool = True):
        self._path = path
        self._logs_rows = logs_rows
        self.num_masks = 0
        self._faults: collections.Counter[Fault] = collections.Counter()
        self._notices: collections.Counter[Notice] = collections.Counter()
        self._first: dict[Fault | Notice, str] = {}
        self._first_reason = ""

    @property
    def num_dropped(self) -> int:
        """Objects left out because their segmentation gives no mask."""
        return self._faults.total()

    def add(self, objects: ImageObjects) -> None:
        """Counts the segmentations of an image."""
        self.num_masks += objects.num_masks
        for annotation, notice in objects.notices:
            self._count(self._notices, notice, annotation)
        for annotation, broken in objects.broken_masks:
            where = self._count(self._faults, broken.fault, annotation)
            self._first_reason = self._first_reason or f"{where}: {broken}"
            if self._logs_rows and self.num_dropped <= _MAX_DROP_LINES:
                logging.warning("%s: %s dropped: %s.", self._path, where, broken)

    def check(self, num_kept: int) -> None:
        """Says how many objects were dropped for their masks, and what is odd about others.

        Args:
            num_kept: objects that are left.

        Raises:
            CocoError: if none is left and some were dropped for their masks.
        """
        if self.num_dropped and not num_kept:
            raise CocoError(
                f"{self._path}: no object is left, and {self.num_dropped} were dropped because their segmentation gives no "
                f"mask. The first is {self._first_reason}. --no_masks converts the boxes alone."
            )
        if self._logs_rows:
            self._log(self._faults, "dropped, which ")
            self._log(self._notices, "")
        if self.num_dropped > _MANY * (num_kept + self.num_dropped):
            logging.warning(
                "%s: %d of %d objects were dropped because their segmentation gives no mask; --no_masks keeps their boxes.",
                self._path, self.num_dropped, num_kept + self.num_dropped,
            )  # fmt: skip

    def _count(self, counter: collections.Counter, kind: Fault | Notice, annotation: CocoAnnotation) -> str:
        where = f"annotation {annotation.id} of image {annotation.image_id}"
        counter[kind] += 1
        self._first.setdefault(kind, where)
        return where

    def _log(self, counter: Mapping, what: str) -> None:
        for kind, number in counter.items():
            text = "%s: %d objects %s%s; the first is %s."
            logging.warning(text, self._path, number, what, kind.value, self._first[kind])


def _describe(annotation: CocoAnnotation) -> str:
    return f"annotation {annotation.id}, is {list(annotation.bbox)}"
