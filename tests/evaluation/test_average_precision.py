"""Matching and average precision against cases worked by hand, a brute-force definition and the API's own numbers."""

from __future__ import annotations

import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from object_detection_fpn.evaluation.average_precision import (
    AveragePrecision,
    Outcomes,
    average_precision,
    box_overlaps,
    match_detections,
)
from object_detection_fpn.evaluation.metric import ImageDetections, ImageGroundtruth
from object_detection_fpn.evaluation.open_images import OpenImagesBoxMetrics, OpenImagesChallengeBoxMetrics
from object_detection_fpn.evaluation.pascal import PascalBoxMetrics, PrecisionAtRecallBoxMetrics

A, B = [0, 0, 10, 10], [20, 20, 30, 30]
HALF_OF_A = [0, 0, 5, 10]  # IoU with A is 0.5
LESS_OF_A = [0, 0, 4, 10]  # 0.4
GROUP = [0, 0, 100, 100]
IN_GROUP, ALSO_IN_GROUP = [40, 40, 50, 50], [60, 60, 70, 70]
HALF_IN_GROUP = [95, 0, 105, 10]  # half of its area lies in the group

# Groundtruth boxes, marks "d"ifficult and "g"roup, detections best first -> per detection "t"rue, "f"alse, "-" ignored.
MATCHES = {
    "an overlap of a half is enough": ([A], " ", [HALF_OF_A], "t"),
    "less is not": ([A], " ", [LESS_OF_A], "f"),
    "each object is found once, by the best score": ([A], " ", [HALF_OF_A, A], "tf"),
    "nothing to find": ([], "", [A, B], "ff"),
    "nothing found": ([A], " ", [], ""),
    "a difficult box ignores whatever overlaps it": ([A, B], "d ", [A, HALF_OF_A, B], "--t"),
    "a detection looks at its best overlap only": ([A, [0, 0, 10, 9]], "  ", [A, A], "tf"),
    "what lies in a group is ignored": ([GROUP], "g", [IN_GROUP, HALF_IN_GROUP, [200, 200, 210, 210]], "--f"),
    "an object inside a group is found first": ([GROUP, IN_GROUP], "g ", [IN_GROUP, ALSO_IN_GROUP], "t-"),
    "a second detection of it belongs to the group": ([GROUP, IN_GROUP], "g ", [IN_GROUP, IN_GROUP], "t-"),
}


@pytest.mark.parametrize("case", MATCHES)
def test_match_worked_by_hand(case):
    gt_boxes, marks, boxes, expected = MATCHES[case]
    scores = 0.9 - 0.1 * np.arange(len(boxes))
    is_group_of = np.array([mark == "g" for mark in marks], bool)
    outcomes = match_detections(
        box_overlaps(*(np.reshape(b, (-1, 4)).astype(float) for b in (boxes, gt_boxes)), is_group_of),
        scores,
        is_difficult=np.array([mark == "d" for mark in marks], bool),
        is_group_of=is_group_of,
    )
    values = dict(zip(outcomes.scores.tolist(), outcomes.true_positives.tolist(), strict=True))
    assert "".join({1.0: "t", 0.0: "f", None: "-"}[values.get(score)] for score in scores.tolist()) == expected


def test_a_group_of_weight_counts_once_by_its_best_detection():
    is_group_of = np.array([True])
    outcomes = match_detections(
        box_overlaps(np.array([IN_GROUP, ALSO_IN_GROUP], float), np.array([GROUP], float), is_group_of),
        np.array([0.5, 0.7]),
        is_difficult=np.array([False]),
        is_group_of=is_group_of,
        group_of_weight=0.25,
    )
    assert outcomes.scores.tolist() == [0.7] and outcomes.true_positives.tolist() == [0.25]


# True positives by descending score, how many there are to find -> average precision.
PRECISIONS = {
    "all found, nothing else": ([1, 1], 2, 1.0),
    "half found": ([1], 2, 0.5),
    "a false one first": ([0, 1], 1, 0.5),
    "a false one last costs nothing": ([1, 0], 1, 1.0),
    "nothing found": ([0, 0], 1, 0.0),
    "nothing detected": ([], 3, 0.0),
    # precision 1, 1/2, 2/3: the envelope is 1 up to recall 1/2, then 2/3
    "true, false, true": ([1, 0, 1], 2, 0.5 * 1 + 0.5 * 2 / 3),
    # precision 0, 1/2, 2/3: the envelope is 2/3 everywhere
    "false, true, true": ([0, 1, 1], 2, 2 / 3),
    "a group weighs what it is worth": ([0.5, 0], 1, 0.5),
}


def outcomes_of(true_positives):
    return Outcomes(-np.arange(len(true_positives), dtype=float), np.array(true_positives, float))


@pytest.mark.parametrize("case", PRECISIONS)
def test_average_precision_worked_by_hand(case):
    true_positives, num_groundtruth, expected = PRECISIONS[case]
    assert average_precision(outcomes_of(true_positives), num_groundtruth) == pytest.approx(expected)


def test_nothing_to_find_has_no_average_precision():
    assert np.isnan(average_precision(outcomes_of([0]), 0))


# Recall and precision of true, false, true, true of four: (1/4, 1), (1/4, 1/2), (1/2, 2/3), (3/4, 3/4).
@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0, 1, 0.25 * 1 + 0.25 * 0.75 + 0.25 * 0.75),
        (0, 0.5, 0.25 * 1 + 0.25 * 2 / 3),  # without the last point, the envelope falls to 2/3
        (0.3, 1, 0.75 * 0.75),  # the points left count from recall 0
        (0.8, 1, 0.0),
    ],
)
def test_points_outside_the_range_of_recall_are_left_out(low, high, expected):
    found = average_precision(outcomes_of([1, 0, 1, 1]), 4, recall_range=(low, high))
    assert found == pytest.approx(expected)


@hypothesis.given(st.lists(st.booleans(), max_size=12), st.integers(0, 4))
def test_average_precision_is_the_area_under_the_best_precision_at_each_recall(hits, num_missed):
    num_groundtruth = sum(hits) + num_missed
    hypothesis.assume(num_groundtruth)
    area = 0.0
    for k in range(1, sum(hits) + 1):  # recall k / n is first reached by the k-th hit
        reached = [n for n in range(1, len(hits) + 1) if sum(hits[:n]) >= k]
        area += max(sum(hits[:n]) / n for n in reached) / num_groundtruth
    assert average_precision(outcomes_of(hits), num_groundtruth) == pytest.approx(area)


CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


def test_classes_without_groundtruth_do_not_count_in_the_mean(make_image):
    metric = AveragePrecision(CATEGORIES, prefix="Mine")
    metric.add(*make_image([A], [A, B], classes=[0, 1]))
    results = metric.result()
    assert np.isnan(results.pop("Mine_PerformanceByCategory/AP@0.5IOU/dog"))
    assert results == {"Mine_Precision/mAP@0.5IOU": 1.0, "Mine_PerformanceByCategory/AP@0.5IOU/cat": 1.0}
    assert metric.main_result == "Mine_Precision/mAP@0.5IOU"


def test_images_without_groundtruth_cost_precision_and_without_detections_recall(make_image):
    metric = AveragePrecision(CATEGORIES[:1], prefix="Mine")
    metric.add(*make_image([A], [A], scores=[0.5]))
    metric.add(*make_image([], [B], scores=[0.9]))
    assert metric.result()["Mine_Precision/mAP@0.5IOU"] == pytest.approx(0.5)
    metric.add(*make_image([A], []))
    assert metric.result()["Mine_Precision/mAP@0.5IOU"] == pytest.approx(0.25)


def test_nothing_at_all_to_find_has_no_mean(make_image):
    metric = AveragePrecision(CATEGORIES, prefix="Mine")
    metric.add(*make_image([], [A]))
    assert np.isnan(list(metric.result().values())).all()


def test_detections_that_cannot_be_boxes_are_left_out(make_image):
    metric = AveragePrecision(CATEGORIES, prefix="Mine")
    broken = [[10, 10, 0, 0], [0, 0, 0, 10], [np.nan, 0, 1, 1], A]
    metric.add(*make_image([A], broken, scores=[0.9, 0.8, 0.7, 0.6]))
    assert metric.result()["Mine_Precision/mAP@0.5IOU"] == 1


def test_no_images_are_refused():
    with pytest.raises(ValueError, match=r"no Mine_Precision/mAP@0\.5IOU of no images: the evaluation saw none"):
        AveragePrecision(CATEGORIES, prefix="Mine").result()


@pytest.mark.parametrize("recall_range", [(0.5, 0.4), (-0.1, 1), (0, 1.1)])
def test_impossible_ranges_of_recall_are_refused(recall_range):
    with pytest.raises(ValueError, match="is no part of 0 to 1"):
        AveragePrecision(CATEGORIES, prefix="Mine", recall_range=recall_range)


METRICS = {
    "pascal": PascalBoxMetrics,
    "weighted_pascal": lambda categories: PascalBoxMetrics(categories, weighted=True),
    "precision_at_recall": lambda categories: PrecisionAtRecallBoxMetrics(
        categories, recall_lower_bound=0.2, recall_upper_bound=0.6
    ),
    "precision_at_recall_of_labeled": lambda categories: PrecisionAtRecallBoxMetrics(
        categories, skip_predictions_for_unlabeled_class=True
    ),
    "open_images": OpenImagesBoxMetrics,
    "open_images_challenge": OpenImagesChallengeBoxMetrics,
}


@pytest.fixture(scope="module")
def odapi(golden_dir):
    return json.loads((golden_dir / "odapi_average_precision.json").read_text())


@pytest.mark.parametrize("name", METRICS)
def test_results_are_those_of_the_object_detection_api(odapi, name):
    metric = METRICS[name](odapi["categories"])
    for image in odapi["images"]:
        n, m = len(image["gt_boxes"]), len(image["boxes"])
        groundtruth = ImageGroundtruth(
            source_id="",
            boxes=np.reshape(image["gt_boxes"], (n, 4)),
            classes=np.array(image["gt_classes"], int) - 1,
            is_crowd=np.zeros(n, bool),
            is_difficult=np.array(image["difficult"], bool),
            is_group_of=np.array(image["group_of"], bool),
            labeled_classes=np.isin(np.arange(1, 5), image["labeled"]),
        )
        detections = ImageDetections(
            np.reshape(image["boxes"], (m, 4)), np.array(image["scores"], float), np.array(image["classes"], int) - 1
        )
        metric.update(groundtruth, detections)
    expected = {key: np.nan if value is None else value for key, value in odapi["results"][name].items()}
    assert metric.result() == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert metric.main_result == next(iter(expected))
