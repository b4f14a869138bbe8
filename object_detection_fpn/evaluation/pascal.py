"""The metrics of PASCAL VOC at IoU 0.5 under the Object Detection API's names, of boxes and of masks, and a relative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from object_detection_fpn.evaluation.average_precision import AveragePrecision
from object_detection_fpn.evaluation.metric import ImageDetections, ImageGroundtruth


class PascalBoxMetrics(AveragePrecision):
    """The mean of the classes' average precisions; difficult boxes are ignored, groups and crowds count like any box."""

    def __init__(self, categories: Sequence[Mapping[str, Any]], *, weighted: bool = False):
        """Args:
        categories: see `AveragePrecision`.
        weighted: rank the detections of all classes together, so that a class weighs as much as it has objects, and
            name the results "WeightedPascalBoxes".
        """
        super().__init__(categories, prefix="WeightedPascalBoxes" if weighted else "PascalBoxes", pool_classes=weighted)

    def update(self, groundtruth: ImageGroundtruth, detections: ImageDetections) -> None:
        """Takes in one image; see `AveragePrecision.add`."""
        self.add(groundtruth, detections, ignore_difficult=True)


class PascalMaskMetrics(AveragePrecision):
    """As `PascalBoxMetrics`, with the overlap of masks; what lies in the box of an object without a mask is ignored."""

    def __init__(self, categories: Sequence[Mapping[str, Any]], *, weighted: bool = False):
        """Args:
        categories: see `AveragePrecision`.
        weighted: see `PascalBoxMetrics`; the results are named "WeightedPascalMasks".
        """
        prefix = "WeightedPascalMasks" if weighted else "PascalMasks"
        super().__init__(categories, prefix=prefix, pool_classes=weighted, needs_masks=True)

    def update(self, groundtruth: ImageGroundtruth, detections: ImageDetections) -> None:
        """Takes in one image; see `AveragePrecision.add`."""
        self.add(groundtruth, detections, ignore_difficult=True)


class PrecisionAtRecallBoxMetrics(AveragePrecision):
    """PASCAL VOC's average precision over a range of recalls only."""

    def __init__(
        self,
        categories: Sequence[Mapping[str, Any]],
        *,
        recall_lower_bound: float = 0.0,
        recall_upper_bound: float = 1.0,
        skip_predictions_for_unlabeled_class: bool = False,
    ):
        """Args:
        categories: see `AveragePrecision`.
        recall_lower_bound: points of lower recall are left out.
        recall_upper_bound: points of higher recall are left out.
        skip_predictions_for_unlabeled_class: leave out detections of classes that an image was not labelled for.
        """
        recall_range = (recall_lower_bound, recall_upper_bound)
        super().__init__(categories, prefix="PrecisionAtRecallBoxes", recall_range=recall_range)
        self._only_labeled_classes = skip_predictions_for_unlabeled_class

    def update(self, groundtruth: ImageGroundtruth, detections: ImageDetections) -> None:
        """Takes in one image; see `AveragePrecision.add`."""
        self.add(groundtruth, detections, ignore_difficult=True, only_labeled_classes=self._only_labeled_classes)
