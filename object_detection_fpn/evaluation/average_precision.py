"""Average precision as PASCAL VOC and Open Images define it, for the metrics that differ only in what they count.

Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective" (2015), section 3.2: detections of a class
are taken in descending order of score; one that overlaps an object not found yet is true, every other one false; the
average precision is the area under the monotone envelope of precision over recall, over all points. Groups of objects
follow Open Images (https://storage.googleapis.com/openimages/web/evaluation.html).

The overlap is that of boxes, or of masks where a metric of masks asks for it.

Shape letters: D detections, G groundtruth boxes, both of one class in one image; N outcomes of one class in all images.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from object_detection_fpn.evaluation.masks import mask_overlaps, regions_of_masks
from object_detection_fpn.evaluation.metric import (
    ImageDetections,
    ImageGroundtruth,
    check_categories,
    clean_image,
    take_rows,
)

_IOU_THRESHOLD = 0.5  # of every metric here: the overlap at which PASCAL VOC takes an object as found


class Outcomes(NamedTuple):
    """What became of detections of one class; those that are ignored have no row."""

    scores: np.ndarray
    """[N] float."""
    true_positives: np.ndarray
    """[N] float: 1 for an object found, the weight of a group for a group found, 0 for a false detection."""


def match_detections(
    overlaps: np.ndarray,
    scores: np.ndarray,
    *,
    is_difficult: np.ndarray,
    is_group_of: np.ndarray,
    group_of_weight: float = 0.0,
    iou_threshold: float = _IOU_THRESHOLD,
) -> Outcomes:
    """Decides which detections of one class in one image are true, false or ignored.

    Best first, each detection is compared with the single object that it overlaps most. If the overlap
    suffices, it is ignored where the object is difficult, and true where nothing has found the object before. The others
    are compared with the groups: a detection that lies in one by at least the threshold (intersection over the detection's own
    area) is ignored, but with a weight above 0 the best detection in each group counts once, for that weight.

    Args:
        overlaps: [D, G] float, intersection over union; in columns of groups, the share of the detection that lies in it.
        scores: [D] float.
        is_difficult: [G] bool.
        is_group_of: [G] bool.
        group_of_weight: what finding a group is worth.
        iou_threshold: least overlap.
    """
    order = np.argsort(-scores, kind="stable")
    overlaps, scores = overlaps[order], scores[order]
    is_true = np.zeros(len(scores), bool)
    is_ignored = np.zeros(len(scores), bool)

    single = np.flatnonzero(~is_group_of)
    if len(single):
        iou = overlaps[:, single]
        is_found = np.zeros(len(single), bool)
        for row, column in enumerate(np.argmax(iou, axis=1)):
            if iou[row, column] < iou_threshold:
                continue
            if is_difficult[single[column]]:
                is_ignored[row] = True
            elif not is_found[column]:
                is_true[row] = is_found[column] = True

    groups = np.flatnonzero(is_group_of)
    group_scores = np.zeros(len(groups))
    if len(groups):
        share_inside = overlaps[:, groups]
        nearest = np.argmax(share_inside, axis=1)
        is_inside = ~is_true & ~is_ignored & (share_inside[np.arange(len(scores)), nearest] >= iou_threshold)
        is_ignored |= is_inside
        np.maximum.at(group_scores, nearest[is_inside], scores[is_inside])
    group_scores = group_scores[group_scores > 0] if group_of_weight > 0 else group_scores[:0]

    return Outcomes(
        np.concatenate([scores[~is_ignored], group_scores]),
        np.concatenate([is_true[~is_ignored], np.full(len(group_scores), group_of_weight)]),
    )


def box_overlaps(boxes: np.ndarray, gt_boxes: np.ndarray, is_group_of: np.ndarray) -> np.ndarray:
    """What `match_detections` takes.

    Args:
        boxes: [D, 4] float, each with an area.
        gt_boxes: [G, 4] float.
        is_group_of: [G] bool.
    """
    low = np.maximum(boxes[:, None, :2], gt_boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], gt_boxes[None, :, 2:])
    intersections = np.prod(np.maximum(high - low, 0.0), axis=-1)
    unions = _areas(boxes)[:, None] + _areas(gt_boxes)[None] - intersections
    return intersections / np.where(is_group_of[None], _areas(boxes)[:, None], unions)


def average_precision(
    outcomes: Outcomes, num_groundtruth: float, *, recall_range: tuple[float, float] = (0.0, 1.0)
) -> float:
    """The area under the envelope of precision over recall; NaN where there is nothing to find.

    Args:
        outcomes: of a class in all images, in any order; equal scores keep theirs.
        num_groundtruth: how much there is to find, groups counted by their weight.
        recall_range: points whose recall lies outside it are left out; what is left counts from recall 0, as in the API.
    """
    if num_groundtruth == 0:
        return float("nan")
    order = np.argsort(-outcomes.scores, kind="stable")
    true_positives = outcomes.true_positives[order]
    num_true, num_false = np.cumsum(true_positives), np.cumsum(true_positives <= 0)
    recall, precision = num_true / num_groundtruth, num_true / (num_true + num_false)
    is_kept = (recall >= recall_range[0]) & (recall <= recall_range[1])
    recall, precision = recall[is_kept], precision[is_kept]
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


class AveragePrecision:
    """Average precision of every class and its mean, under the names of the Object Detection API.

    A metric of this kind says which of an image's marks and detections count, and hands them to `add`.
    """

    def __init__(
        self,
        categories: Sequence[Mapping[str, Any]],
        *,
        prefix: str,
        group_of_weight: float = 0.0,
        recall_range: tuple[float, float] = (0.0, 1.0),
        pool_classes: bool = False,
        needs_masks: bool = False,
    ):
        """Args:
            categories: one mapping a class with `id` (1-based; class c of the records is id c + 1) and `name`.
            prefix: what the names of the results begin with, such as "PascalBoxes".
            group_of_weight: see `match_detections`.
            recall_range: see `average_precision`; where it is not all, the name of the mean says so.
            pool_classes: take the mean over detections of all classes together, ranked by score, instead of over classes.
            needs_masks: match masks instead of boxes. An object without a mask is then a group that is worth nothing.

        Raises:
            ValueError: if there is no category, two share an id or a name, an id is below 1, or the range is empty or
                reaches beyond 0 to 1.
        """
        low, high = recall_range
        if not 0 <= low <= high <= 1:
            raise ValueError(f"recall_range = {low:g} to {high:g} is no part of 0 to 1.")
        self._names = check_categories(categories)
        self._recall_range = recall_range
        self._group_of_weight = group_of_weight
        self._pool_classes = pool_classes
        self.needs_masks = needs_masks
        bounds = "" if recall_range == (0.0, 1.0) else f"@[{low:.1f},{high:.1f}]Recall"
        self.main_result = f"{prefix}_Precision/mAP@{_IOU_THRESHOLD}IOU{bounds}"
        self._prefix_of_classes = f"{prefix}_PerformanceByCategory/AP@{_IOU_THRESHOLD}IOU/"
        self._outcomes: dict[int, list[Outcomes]] = {class_id: [] for class_id in self._names}
        self._num_groundtruth = dict.fromkeys(self._names, 0.0)
        self._num_images = 0

    def add(
        self,
        groundtruth: ImageGroundtruth,
        detections: ImageDetections,
        *,
        ignore_difficult: bool = False,
        match_groups: bool = False,
        only_labeled_classes: bool = False,
    ) -> None:
        """Takes in one image.

        Args:
            groundtruth: real rows only.
            detections: real rows only; those whose box has no area are left out.
            ignore_difficult: ignore what overlaps difficult boxes; otherwise they are boxes like others.
            match_groups: treat groups as groups; otherwise they are boxes like others.
            only_labeled_classes: leave out detections of classes that the image was not labelled for: neither among
                `groundtruth.labeled_classes`, where that is known, nor of any of its boxes.

        Raises:
            ValueError: if the lengths of a record's fields differ, a groundtruth class is not among the categories, or masks
                are matched and there are none.
        """
        groundtruth, detections, _ = clean_image(groundtruth, detections, self._names)
        nothing = np.zeros(len(groundtruth.boxes), bool)
        is_difficult = (
            groundtruth.is_difficult if ignore_difficult and groundtruth.is_difficult is not None else nothing
        )
        is_group_of = groundtruth.is_group_of if match_groups and groundtruth.is_group_of is not None else nothing
        if self.needs_masks:
            groundtruth, has_no_mask = regions_of_masks(groundtruth, detections)
            is_group_of = is_group_of | has_no_mask
            is_difficult = is_difficult & ~has_no_mask
        is_kept = _areas(detections.boxes) > 0
        is_kept &= (detections.boxes[:, 2:] > detections.boxes[:, :2]).all(axis=1)
        if only_labeled_classes and groundtruth.labeled_classes is not None:
            labeled = np.flatnonzero(groundtruth.labeled_classes)
            is_kept &= np.isin(detections.classes, np.concatenate([labeled, groundtruth.classes]))
        detections = take_rows(detections, is_kept)
        for class_index in np.unique(np.concatenate([groundtruth.classes, detections.classes])).tolist():
            of_truth = groundtruth.classes == class_index
            found = take_rows(detections, detections.classes == class_index)
            truth = take_rows(groundtruth, of_truth)
            overlaps = (
                mask_overlaps(found, truth, is_group_of[of_truth])
                if self.needs_masks
                else box_overlaps(found.boxes, truth.boxes, is_group_of[of_truth])
            )
            self._outcomes[class_index + 1].append(
                match_detections(
                    overlaps,
                    found.scores,
                    is_difficult=is_difficult[of_truth],
                    is_group_of=is_group_of[of_truth],
                    group_of_weight=self._group_of_weight,
                )
            )
            weights = np.where(is_group_of[of_truth], self._group_of_weight, 1.0)
            self._num_groundtruth[class_index + 1] += float(np.sum(weights[~is_difficult[of_truth]]))
        self._num_images += 1

    def result(self) -> dict[str, float]:
        """The metrics over all images so far; NaN where there is no groundtruth to measure, as in the API.

        Returns:
            `<prefix>_Precision/mAP@0.5IOU`, the mean over classes that have groundtruth, then
            `<prefix>_PerformanceByCategory/AP@0.5IOU/<name>` of each class.

        Raises:
            ValueError: if there was no image.
        """
        if not self._num_images:
            raise ValueError(
                f"There is no {self.main_result} of no images: the evaluation saw none. Does its input hold any records?"
            )
        of_classes = {class_id: _concatenate(outcomes) for class_id, outcomes in self._outcomes.items()}
        precisions = {
            class_id: average_precision(outcomes, self._num_groundtruth[class_id], recall_range=self._recall_range)
            for class_id, outcomes in of_classes.items()
        }
        measured = [class_id for class_id, num in self._num_groundtruth.items() if num]
        if self._pool_classes:
            pooled = _concatenate([of_classes[class_id] for class_id in measured])
            total = sum(self._num_groundtruth.values())
            mean = average_precision(pooled, total, recall_range=self._recall_range)
        else:
            mean = float(np.mean([precisions[class_id] for class_id in measured])) if measured else float("nan")
        results = {self.main_result: mean}
        for class_id, name in self._names.items():
            # The API decomposes accents, and so do the names of its results.
            results[self._prefix_of_classes + unicodedata.normalize("NFKD", name)] = precisions[class_id]
        return results


def _concatenate(outcomes: Sequence[Outcomes]) -> Outcomes:
    if not outcomes:
        return Outcomes(np.zeros(0), np.zeros(0))
    return Outcomes(*(np.concatenate(field) for field in zip(*outcomes, strict=True)))


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
