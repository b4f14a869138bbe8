"""COCO metrics of boxes and of masks under the Object Detection API's names, computed by pycocotools
or, where it is installed, faster-coco-eval.

COCO's definition: https://cocodataset.org/#detection-eval. AP is the mean over IoU thresholds 0.50, 0.55 ... 0.95 of the
precision at 101 recalls; "small" is an area below 32 x 32 pixels of the original image, "large" one above 96 x 96.
"""

from __future__ import annotations

import collections
import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from object_detection_fpn.evaluation import coco_format
from object_detection_fpn.evaluation.metric import (
    ImageDetections,
    ImageGroundtruth,
    check_categories,
    clean_image,
    take_rows,
)

_LOGGER = logging.getLogger(__name__)

# Positions on the axes of COCOeval's `precision` [threshold, recall, class, area, limit] and `recall` (the same without
# the recall axis), with the default parameters that the metrics are defined by.
_AREAS = {"all": 0, "small": 1, "medium": 2, "large": 3}
_LIMITS = {1: 0, 10: 1, 100: 2}  # most detections counted in an image, per class
_THRESHOLDS = {0.50: 0, 0.75: 5}


class _Summary(NamedTuple):
    """One of the twelve numbers, as a cell of COCOeval's arrays."""

    name: str
    is_precision: bool
    threshold: float | None = None
    """None averages over all IoU thresholds."""
    area: str = "all"
    limit: int = 100


_SUMMARIES = (
    _Summary("Precision/mAP", is_precision=True),
    _Summary("Precision/mAP@.50IOU", is_precision=True, threshold=0.50),
    _Summary("Precision/mAP@.75IOU", is_precision=True, threshold=0.75),
    _Summary("Precision/mAP (small)", is_precision=True, area="small"),
    _Summary("Precision/mAP (medium)", is_precision=True, area="medium"),
    _Summary("Precision/mAP (large)", is_precision=True, area="large"),
    _Summary("Recall/AR@1", is_precision=False, limit=1),
    _Summary("Recall/AR@10", is_precision=False, limit=10),
    _Summary("Recall/AR@100", is_precision=False),
    _Summary("Recall/AR@100 (small)", is_precision=False, area="small"),
    _Summary("Recall/AR@100 (medium)", is_precision=False, area="medium"),
    _Summary("Recall/AR@100 (large)", is_precision=False, area="large"),
)


class CocoBoxMetrics:
    """The twelve COCO numbers of box detection, and on request those of each class.

    Every `update` is an image of its own, whatever its source id: records that share one are evaluated apart, and their
    number is logged, since duplicates in an evaluation set are most often a mistake. Ties between equal scores of
    different images are broken by source id, so the order of the images changes nothing. Detections whose box or score
    is not finite cannot match anything; they are left out and their number is logged.
    """

    needs_masks = False
    _prefix = "DetectionBoxes_"
    _iou_type = "bbox"

    def __init__(
        self,
        categories: Sequence[Mapping[str, Any]],
        *,
        include_metrics_per_category: bool = False,
        all_metrics_per_category: bool = False,
        super_categories: Mapping[str, Sequence[str]] | None = None,
        skip_predictions_for_unlabeled_class: bool = False,
        backend: str | None = None,
    ):
        """Args:
            categories: one mapping a class with `id` (1-based; class c of the records is id c + 1) and `name`. Detections of
                a class that is not listed (a gap in the label map) are ignored, as COCO does.
            include_metrics_per_category: adds `DetectionBoxes_PerformanceByCategory/mAP/<name>`.
            all_metrics_per_category: adds all twelve numbers of each class (`DetectionBoxes_Precision/mAP ByCategory/<name>`
                and so on); implies nothing without `include_metrics_per_category`, as in the Object Detection API.
            super_categories: name -> names of classes; with `include_metrics_per_category` adds the mean over those of
                them that have groundtruth, `DetectionBoxes_PerformanceBySuperCategory/<name>`, and with
                `all_metrics_per_category` the means of all twelve numbers (`... BySuperCategory/<name>`).
            skip_predictions_for_unlabeled_class: leave out detections of classes that an image was not labelled for:
                neither among its `labeled_classes`, where these are known, nor of any of its boxes.
            backend: "pycocotools", "faster-coco-eval", or None for the faster one where it is installed.

        Raises:
            ValueError: if there is no category, or two share an id or a name, or an id is below 1, or a super category
                names no class or one that is not there, or the back end is unknown.
        """
        names = check_categories(categories)
        self._categories: list[dict[str, Any]] = [{"id": class_id, "name": name} for class_id, name in names.items()]
        self._ids = frozenset(names)
        self.main_result = self._prefix + _SUMMARIES[0].name
        self._include_metrics_per_category = include_metrics_per_category
        self._all_metrics_per_category = all_metrics_per_category
        self._super_categories = dict(super_categories or {})
        for super_category, members in self._super_categories.items():
            unknown = sorted(set(members) - set(names.values()))
            if unknown or not members:
                what = f"the class {unknown[0]!r}, which no category is called" if unknown else "no class"
                raise ValueError(f"The super category {super_category!r} names {what}.")
        self._skip_predictions_for_unlabeled_class = skip_predictions_for_unlabeled_class
        self._coco, self._evaluator = _load_backend(backend)
        self._groundtruth: list[ImageGroundtruth] = []
        self._detections: list[ImageDetections] = []
        self._num_not_finite = 0

    def update(self, groundtruth: ImageGroundtruth, detections: ImageDetections) -> None:
        """Takes in one image; both records hold real rows only, boxes in pixels of the original image.

        An image without groundtruth counts: everything detected there is a false positive.

        Raises:
            ValueError: if the lengths of a record's fields differ, a groundtruth class is not among the categories, or masks
                are measured and there are none, or some of another size than the image.
        """
        groundtruth, detections, num_not_finite = clean_image(groundtruth, detections, self._ids)
        self._num_not_finite += num_not_finite
        if self.needs_masks:
            groundtruth = coco_format.with_regions(groundtruth, detections)
        if self._skip_predictions_for_unlabeled_class and groundtruth.labeled_classes is not None:
            labeled = np.concatenate([np.flatnonzero(groundtruth.labeled_classes), groundtruth.classes])
            is_kept = np.isin(detections.classes, labeled)
            detections = take_rows(detections, is_kept)
        self._groundtruth.append(groundtruth)
        self._detections.append(detections)

    def result(self) -> dict[str, float]:
        """The metrics over all images so far; -1 where there is no groundtruth to measure (as in pycocotools).

        Returns:
            `DetectionBoxes_Precision/mAP`, `.../mAP@.50IOU`, `.../mAP@.75IOU`, `.../mAP (small)`, `(medium)`, `(large)`,
            `DetectionBoxes_Recall/AR@1`, `AR@10`, `AR@100`, `AR@100 (small)`, `(medium)`, `(large)`, then those of each class.

        Raises:
            ValueError: if there was no image.
        """
        if not self._groundtruth:
            raise ValueError(
                "There is no COCO metric of no images: the evaluation saw none. Does its input hold any records?"
            )
        log_oddities(self._groundtruth, self._num_not_finite)
        precision, recall = self._evaluate()
        metrics = {self._prefix + summary.name: _mean(summary, precision, recall) for summary in _SUMMARIES}
        if self._include_metrics_per_category:
            metrics |= self._metrics_of_categories(precision, recall)
        return metrics

    def _metrics_of_categories(self, precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
        """The metrics of each class, then those of each super category."""
        summaries = _SUMMARIES if self._all_metrics_per_category else _SUMMARIES[:1]
        of_classes = {
            category["name"]: {
                summary.name: _mean(summary, precision[:, :, k : k + 1], recall[:, k : k + 1]) for summary in summaries
            }
            for k, category in enumerate(self._categories)
        }
        of_super_categories = {
            name: {
                summary.name: _mean_of_defined([of_classes[member][summary.name] for member in members])
                for summary in summaries
            }
            for name, members in self._super_categories.items()
        }
        metrics = {}
        for prefix, kind, of_names in (
            (self._prefix + "PerformanceByCategory/mAP/", "ByCategory", of_classes),
            (self._prefix + "PerformanceBySuperCategory/", "BySuperCategory", of_super_categories),
        ):
            for name, values in of_names.items():
                metrics[prefix + name] = values[_SUMMARIES[0].name]
                if self._all_metrics_per_category:
                    metrics |= {f"{self._prefix}{summary} {kind}/{name}": value for summary, value in values.items()}
        return metrics

    def _evaluate(self) -> tuple[np.ndarray, np.ndarray]:
        """COCOeval's `precision` [10, 101, C, 4, 3] and `recall` [10, C, 4, 3], -1 where undefined."""
        images, groundtruth, detections = [], [], []
        for image_id, (truth, found) in enumerate(coco_format.in_order(self._groundtruth, self._detections), start=1):
            height, width = truth.image_size or (0, 0)
            images.append({"id": image_id, "height": height, "width": width})
            of_truth, of_found = self._annotations(image_id, truth, found)
            groundtruth += of_truth
            detections += of_found
        with contextlib.redirect_stdout(io.StringIO()):  # both libraries report their progress with print
            coco = self._index(images, groundtruth), self._index(images, detections)
            evaluator = self._evaluator(*coco, self._iou_type)
            evaluator.evaluate()
            evaluator.accumulate()
        return np.asarray(evaluator.eval["precision"]), np.asarray(evaluator.eval["recall"])

    def _annotations(
        self, image_id: int, groundtruth: ImageGroundtruth, detections: ImageDetections
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        return coco_format.box_annotations(image_id, groundtruth, detections)

    def _index(self, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> Any:
        """A `COCO` object; its own `loadRes` refuses an empty list of detections."""
        for annotation_id, annotation in enumerate(annotations, start=1):  # COCOeval takes a match to id 0 for no match
            annotation["id"] = annotation_id
        coco = self._coco()
        coco.dataset = {
            "info": {},
            "images": images,
            "annotations": annotations,
            "categories": self._categories,
        }
        coco.createIndex()
        return coco


class CocoMaskMetrics(CocoBoxMetrics):
    """As `CocoBoxMetrics`, with the overlap of masks: `DetectionMasks_Precision/mAP` and so on.

    What lies in a crowd, or in the box of an object without a mask, is ignored. Where the record has no area of an object,
    its size is that of its mask. Detections have the size of their masks.
    """

    needs_masks = True
    _prefix = "DetectionMasks_"
    _iou_type = "segm"

    def _annotations(
        self, image_id: int, groundtruth: ImageGroundtruth, detections: ImageDetections
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        return coco_format.mask_annotations(image_id, groundtruth, detections)


def log_oddities(groundtruth: Sequence[ImageGroundtruth], num_not_finite: int) -> None:
    """Logs what a whole evaluation has of repeated source ids, and of detections that were left out."""
    times = collections.Counter(truth.source_id for truth in groundtruth if truth.source_id)
    repeated = {source_id: n for source_id, n in times.items() if n > 1}
    if repeated:
        first = next(iter(repeated))
        _LOGGER.warning(
            "%d source ids stand on more than one record (the first: %r on %d records); each record counts as an image of "
            "its own.", len(repeated), first, repeated[first],
        )  # fmt: skip
    if num_not_finite:
        _LOGGER.warning(
            "%d detections have a box or score that is not finite and were left out of the COCO metrics.",
            num_not_finite,
        )


def _load_backend(backend: str | None) -> tuple[type, type]:
    if backend in (None, "faster-coco-eval"):
        try:
            from faster_coco_eval import COCO, COCOeval_faster

            return COCO, COCOeval_faster
        except ImportError as error:
            if backend is not None:
                raise ValueError(
                    "backend = 'faster-coco-eval' is not installed. Install it with: pip install faster-coco-eval"
                ) from error
    if backend in (None, "pycocotools"):
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    raise ValueError(f"backend = {backend!r} is unknown. Allowed: 'pycocotools', 'faster-coco-eval', None.")


def _mean(summary: _Summary, precision: np.ndarray, recall: np.ndarray) -> float:
    """The mean over thresholds, recalls and classes of the cells that are defined; -1 if none is."""
    cells = precision if summary.is_precision else recall
    cells = cells[..., _AREAS[summary.area], _LIMITS[summary.limit]]
    if summary.threshold is not None:
        cells = cells[_THRESHOLDS[summary.threshold]]
    is_defined = cells > -1
    return float(np.mean(cells[is_defined])) if is_defined.any() else -1.0


def _mean_of_defined(values: Sequence[float]) -> float:
    """The mean of those that are not -1; -1 if there are none."""
    defined = [value for value in values if value != -1]
    return float(np.mean(defined)) if defined else -1.0
