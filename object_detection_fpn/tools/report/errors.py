"""The kinds of errors of a detector, and what each costs, as TIDE counts them.

Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors" (2020), sections 2.2 and 2.3. A false
detection is of one kind. Where several fit, it is the first of: localization, classification, duplicate, background, both,
which is the order of the authors' implementation. An object that nothing found is missed, unless a detection with a wrong
class or a bad place was meant for it. The cost of a kind is what AP50 gains once its errors are mended.

Shape letters: D detections and G groundtruth of one image; N detections and M groundtruth (no crowds) of all images; C
classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from object_detection_fpn.tools.report.curves import precision_at_recalls
from object_detection_fpn.tools.report.matching import AT_50, THRESHOLDS, ImageMatches

FOREGROUND_IOU = float(THRESHOLDS[AT_50])
BACKGROUND_IOU = 0.1  # TIDE's t_b

CLASSIFICATION, LOCALIZATION, BOTH, DUPLICATE, BACKGROUND, MISSED = KINDS = (
    "classification",
    "localization",
    "both",
    "duplicate",
    "background",
    "missed",
)
TRUE, IGNORED = "true", "ignored"
"""What a detection is that is no error."""


class ImageErrors(NamedTuple):
    """The kind of each detection of one image, and what it was meant for."""

    kinds: np.ndarray
    """[D] str: `TRUE`, `IGNORED`, or one of `KINDS` but `MISSED`."""
    targets: np.ndarray
    """[D] int, the object that a true detection found, or that an error of classification or localization was meant for;
    -1 for others."""
    is_missed: np.ndarray
    """[G] bool; crowds are never missed."""


class Costs(NamedTuple):
    """What the errors cost."""

    ap50: float
    """Over classes that have groundtruth; NaN if none has."""
    gains: dict[str, float]
    """By how much AP50 rises if all errors of a kind are mended."""
    gain_of_false: float
    """By how much AP50 rises without any false detection."""
    gain_of_missed: float
    """By how much AP50 rises if only the found objects were there to be found."""


def classify_errors(matches: ImageMatches) -> ImageErrors:
    """Finds the kind of every error of an image."""
    kinds = np.full(len(matches.scores), BOTH, dtype="<U14")
    targets = np.where(matches.is_true[AT_50], matches.matched, -1)
    kinds[matches.is_true[AT_50]] = TRUE
    kinds[matches.is_ignored[AT_50]] = IGNORED
    objects = np.flatnonzero(~matches.is_crowd)
    is_taken = np.isin(objects, matches.matched)
    for row in np.flatnonzero(~matches.is_true[AT_50] & ~matches.is_ignored[AT_50]):
        iou = matches.overlaps[row, objects]
        is_of_class = matches.gt_classes[objects] == matches.classes[row]
        own, other = np.where(is_of_class, iou, 0.0), np.where(is_of_class, 0.0, iou)
        if not len(iou) or iou.max() < BACKGROUND_IOU:
            kinds[row] = BACKGROUND
        elif BACKGROUND_IOU <= own.max() < FOREGROUND_IOU:
            kinds[row], targets[row] = LOCALIZATION, objects[np.argmax(own)]
        elif other.max() >= FOREGROUND_IOU:
            kinds[row], targets[row] = CLASSIFICATION, objects[np.argmax(other)]
        elif np.where(is_taken, own, 0.0).max() >= FOREGROUND_IOU:
            kinds[row] = DUPLICATE
    is_meant = np.isin(np.arange(len(matches.gt_classes)), targets)
    return ImageErrors(kinds, targets, ~matches.is_crowd & ~is_meant)


def costs(images: Sequence[ImageMatches], errors: Sequence[ImageErrors], *, num_classes: int) -> Costs:
    """Mends the errors of one kind after the other.

    A wrong class becomes the object's, a bad place becomes the object's; of all detections that an object then has, the best
    one stays. Both wrong, duplicates and detections of background are removed. Missed objects are no longer there to be
    found: if nothing is left of a class, its AP is 1 without false detections, and 0 with them.

    Args:
        images: of a data set.
        errors: of the same images.
        num_classes: C.
    """
    table = _Table.of(images, errors, num_classes)
    if not table.num_groundtruth.any():
        undefined = float("nan")
        return Costs(undefined, dict.fromkeys(KINDS, undefined), undefined, undefined)
    ap50 = table.mean_ap()
    gains = {kind: table.mended(kind).mean_ap() - ap50 for kind in KINDS}
    is_right = table.kinds == TRUE
    found = np.bincount(table.classes[is_right], minlength=num_classes)
    return Costs(
        ap50,
        gains,
        table.keep(is_right).mean_ap() - ap50,
        table._replace(num_left=found).mean_ap() - ap50,
    )


class _Table(NamedTuple):
    """Detections of all images that count, images in order."""

    scores: np.ndarray
    """[N] float."""
    classes: np.ndarray
    """[N] int."""
    is_true: np.ndarray
    """[N] bool."""
    kinds: np.ndarray
    """[N] str."""
    targets: np.ndarray
    """[N] int, numbers of objects counted through all images; -1 = none."""
    gt_classes: np.ndarray
    """[M] int, crowds among them, which no target is."""
    missed_classes: np.ndarray
    """[number of missed objects] int."""
    num_groundtruth: np.ndarray
    """[C] int: classes with an object count in the mean."""
    num_left: np.ndarray
    """[C] int, objects that are there to be found."""

    @classmethod
    def of(cls, images: Sequence[ImageMatches], errors: Sequence[ImageErrors], num_classes: int) -> _Table:
        begins = np.cumsum([0, *(len(image.gt_classes) for image in images)])
        targets = [
            np.where(error.targets < 0, -1, error.targets + begin)
            for error, begin in zip(errors, begins[:-1], strict=True)
        ]
        gt_classes = np.concatenate([np.zeros(0, int), *(image.gt_classes for image in images)])
        is_crowd = np.concatenate([np.zeros(0, bool), *(image.is_crowd for image in images)])
        is_missed = np.concatenate([np.zeros(0, bool), *(error.is_missed for error in errors)])
        num_groundtruth = np.bincount(gt_classes[~is_crowd], minlength=num_classes)
        kinds = np.concatenate([np.zeros(0, "<U14"), *(error.kinds for error in errors)])
        table = cls(
            scores=np.concatenate([np.zeros(0), *(image.scores for image in images)]),
            classes=np.concatenate([np.zeros(0, int), *(image.classes for image in images)]),
            is_true=kinds == TRUE,
            kinds=kinds,
            targets=np.concatenate([np.zeros(0, int), *targets]),
            gt_classes=gt_classes,
            missed_classes=gt_classes[is_missed],
            num_groundtruth=num_groundtruth,
            num_left=num_groundtruth,
        )
        return table.keep(kinds != IGNORED)

    def keep(self, is_kept: np.ndarray) -> _Table:
        """The table with some of its detections."""
        rows = ("scores", "classes", "is_true", "kinds", "targets")
        return self._replace(**{name: getattr(self, name)[is_kept] for name in rows})

    def mended(self, kind: str) -> _Table:
        """The table without the errors of a kind."""
        if kind == MISSED:
            missed = np.bincount(self.missed_classes, minlength=len(self.num_left))
            return self._replace(num_left=self.num_left - missed)
        is_mended = self.kinds == kind
        if kind not in (CLASSIFICATION, LOCALIZATION):
            return self.keep(~is_mended)
        classes = np.where(is_mended, self.gt_classes[self.targets] if len(self.gt_classes) else 0, self.classes)
        is_true = self.is_true | is_mended
        candidates = np.flatnonzero(is_true)
        # By object, best first; of equal scores the one that was true before.
        order = np.lexsort((~self.is_true[candidates], -self.scores[candidates], self.targets[candidates]))
        ordered = candidates[order]
        is_first = np.append(True, self.targets[ordered][1:] != self.targets[ordered][:-1])[: len(ordered)]
        is_kept = np.ones(len(self.scores), bool)
        is_kept[ordered[~is_first]] = False
        return self._replace(classes=classes, is_true=is_true).keep(is_kept)

    def mean_ap(self) -> float:
        values = []
        for class_index in np.flatnonzero(self.num_groundtruth):
            rows = self.classes == class_index
            num_left = int(self.num_left[class_index])
            if num_left:
                values.append(np.mean(precision_at_recalls(self.scores[rows], self.is_true[rows], num_left)))
            else:
                values.append(0.0 if rows.any() else 1.0)
        return float(np.mean(values))
