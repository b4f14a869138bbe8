"""The box metrics of Open Images at IoU 0.5 under the Object Detection API's names.

https://storage.googleapis.com/openimages/web/evaluation.html. Boxes around a group of objects are no objects to find one
by one, and difficult boxes are boxes like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from object_detection_fpn.evaluation.average_precision import AveragePrecision
from object_detection_fpn.evaluation.metric import ImageDetections, ImageGroundtruth


class OpenImagesBoxMetrics(AveragePrecision):
    """The metric of Open Images V2: what is detected in a group is ignored, and finding the group is worth nothing."""

    def __init__(self, categories: Sequence[Mapping[str, Any]]):
        """Starts without images; for `categories` see `AveragePrecision`."""
        super().__init__(categories, prefix="OpenImagesV2")

    def update(self, groundtruth: ImageGroundtruth, detections: ImageDetections) -> None:
        """Takes in one image; see `AveragePrecision.add`."""
        self.add(groundtruth, detections, match_groups=True)


class OpenImagesChallengeBoxMetrics(AveragePrecision):
    """The metric of the Open Images Challenge: a group found counts as one object, a group missed as one missed.

    Detections of classes that nobody verified in an image, by a label of the image or by a box, are left out.
    """

    def __init__(self, categories: Sequence[Mapping[str, Any]]):
        """Starts without images; for `categories` see `AveragePrecision`."""
        super().__init__(categories, prefix="OpenImagesDetectionChallenge", group_of_weight=1.0)

    def update(self, groundtruth: ImageGroundtruth, detections: ImageDetections) -> None:
        """Takes in one image; see `AveragePrecision.add`."""
        self.add(groundtruth, detections, match_groups=True, only_labeled_classes=True)
