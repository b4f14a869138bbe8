"""Images for the tests of metrics."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from object_detection_fpn.evaluation.metric import ImageDetections, ImageGroundtruth


@pytest.fixture(scope="session")
def make_image() -> Callable[..., tuple[ImageGroundtruth, ImageDetections]]:
    """Groundtruth and detections of one image from lists; classes 0 and scores 0.9, 0.8, ... where none are given."""

    def make(
        gt_boxes=(), boxes=(), *, gt_classes=None, classes=None, scores=None, difficult=None, group_of=None, crowd=None,
        labeled=None, source_id="a",
    ):  # fmt: skip
        gt_boxes, boxes = (np.reshape(np.asarray(b, np.float32), (-1, 4)) for b in (gt_boxes, boxes))
        num_gt, num = len(gt_boxes), len(boxes)
        groundtruth = ImageGroundtruth(
            source_id=source_id,
            boxes=gt_boxes,
            classes=np.asarray(gt_classes or [0] * num_gt, np.int32),
            is_crowd=np.asarray(crowd or [False] * num_gt, bool),
            is_difficult=None if difficult is None else np.asarray(difficult, bool),
            is_group_of=None if group_of is None else np.asarray(group_of, bool),
            labeled_classes=None if labeled is None else np.asarray(labeled, bool),
        )
        scores = 0.9 - 0.1 * np.arange(num) if scores is None else scores
        return groundtruth, ImageDetections(
            boxes, np.asarray(scores, float), np.asarray(classes or [0] * num, np.int32)
        )

    return make
