"""Matches are COCO's, and so is what follows from them."""

from __future__ import annotations

import numpy as np
import pytest

from object_detection_fpn.evaluation.coco import CocoBoxMetrics, CocoMaskMetrics
from object_detection_fpn.evaluation.metric import clean_image
from object_detection_fpn.tools.report.curves import precisions
from object_detection_fpn.tools.report.matching import AT_50, AT_75, MAX_DETECTIONS, THRESHOLDS, gather, match_image

CATEGORIES = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 3, "name": "c"}]


def test_each_object_is_found_once_by_the_best_detection(match):
    found = match([[0, 0, 10, 10]], [[0, 0, 10, 8], [0, 0, 10, 10]], scores=[0.9, 0.8])
    # The first overlaps by 0.8, the second entirely: from IoU 0.85 on the second one has it.
    assert found.is_true[:, 0].tolist() == (THRESHOLDS <= 0.8).tolist()
    assert found.is_true[:, 1].tolist() == (THRESHOLDS > 0.8).tolist()
    assert found.matched.tolist() == [0, -1]


def test_detections_are_put_in_order_and_keep_their_rows(match):
    found = match([[0, 0, 10, 10]], [[50, 50, 60, 60], [0, 0, 10, 10]], scores=[0.3, 0.6])
    assert found.scores.tolist() == [0.6, 0.3]
    assert found.rows.tolist() == [1, 0]
    assert found.overlaps[:, 0].tolist() == [1.0, 0.0]
    assert found.matched.tolist() == [0, -1]


def test_what_lies_in_a_crowd_is_ignored_by_its_own_class_alone(match):
    found = match(
        [[0, 0, 100, 100]], [[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]], crowd=[True], classes=[0, 0, 1]
    )
    assert found.is_ignored[AT_50].tolist() == [True, True, False]
    assert not found.is_true.any()


def test_an_object_goes_before_the_crowd_around_it(match):
    found = match([[0, 0, 100, 100], [0, 0, 10, 10]], [[0, 0, 10, 10]], crowd=[True, False])
    assert found.is_true.all()
    assert not found.is_ignored.any()


def test_only_the_best_hundred_detections_of_a_class_count(match):
    boxes = np.tile([0, 0, 10, 10], (MAX_DETECTIONS + 5, 1))
    scores = np.linspace(0, 1, MAX_DETECTIONS + 5)
    classes = [0] * (MAX_DETECTIONS + 4) + [1]
    found = match([], boxes, scores=scores, classes=classes)
    assert np.sum(found.classes == 0) == MAX_DETECTIONS
    assert np.sum(found.classes == 1) == 1
    assert found.scores.min() == scores[4]


def test_no_objects_and_no_detections(match):
    assert not match([], [[0, 0, 10, 10]]).is_true.any()
    assert match([[0, 0, 10, 10]], []).overlaps.shape == (0, 1)
    assert gather([match([], [])], num_classes=2).num_images == 1
    assert gather([], num_classes=2).is_true.shape == (len(THRESHOLDS), 0)


def test_masks_are_matched_by_their_pixels(match):
    square = [[0, 0, 20, 20]]
    found = match(square, square, use_masks=True)
    assert found.is_true.all()
    without = match(square, square, use_masks=True, gt_masks=[None])
    assert without.is_crowd.tolist() == [True]
    assert without.is_ignored.all()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("region, kind", [("boxes", CocoBoxMetrics), ("masks", CocoMaskMetrics)])
def test_average_precision_is_that_of_pycocotools(random_images, region, kind, seed):
    metric = kind(CATEGORIES, include_metrics_per_category=True, all_metrics_per_category=True, backend="pycocotools")
    images = [clean_image(*image, {1, 2, 3})[:2] for image in random_images(seed, 12)]
    for image in images:
        metric.update(*image)
    matches = gather([match_image(*image, use_masks=region == "masks") for image in images], num_classes=3)
    prefix = f"Detection{region.capitalize()}_Precision/"
    expected = metric.result()
    for row, name in ((AT_50, "mAP@.50IOU"), (AT_75, "mAP@.75IOU")):
        of_classes = precisions(matches, row).mean(axis=1)
        for index, category in enumerate(CATEGORIES):
            wanted = expected[f"{prefix}{name} ByCategory/{category['name']}"]
            np.testing.assert_allclose(of_classes[index], np.nan if wanted == -1 else wanted, atol=1e-12)
        np.testing.assert_allclose(np.nanmean(of_classes), expected[prefix + name], atol=1e-12)
