"""Which marks PASCAL VOC's metrics use."""

from __future__ import annotations

import pytest

from object_detection_fpn.evaluation.pascal import PascalBoxMetrics, PrecisionAtRecallBoxMetrics

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
A, B, C = [0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]
MEAN = "PascalBoxes_Precision/mAP@0.5IOU"


def measure(metric, *images):
    for image in images:
        metric.update(*image)
    return metric.result()


def test_names_are_those_of_the_object_detection_api(make_image):
    assert list(measure(PascalBoxMetrics(CATEGORIES), make_image([A], [A]))) == [
        "PascalBoxes_Precision/mAP@0.5IOU",
        "PascalBoxes_PerformanceByCategory/AP@0.5IOU/cat",
        "PascalBoxes_PerformanceByCategory/AP@0.5IOU/dog",
    ]


def test_difficult_boxes_are_neither_to_be_found_nor_false(make_image):
    image = {"gt_boxes": [A, B], "difficult": [True, False]}
    assert measure(PascalBoxMetrics(CATEGORIES), make_image(boxes=[A, B], **image))[MEAN] == 1
    assert measure(PascalBoxMetrics(CATEGORIES), make_image(boxes=[B], **image))[MEAN] == 1


def test_groups_and_crowds_are_boxes_like_others(make_image):
    image = make_image([A, B], [A], group_of=[False, True], crowd=[False, True])
    assert measure(PascalBoxMetrics(CATEGORIES), image)[MEAN] == pytest.approx(0.5)


def test_weighted_mean_ranks_all_classes_together(make_image):
    # Cats: 3 of 3 found. The dog is missed by a false detection that outranks the cats: precision 1/2, 2/3, 3/4 of 4.
    image = make_image([A, B, C, A], [C, A, B, C], gt_classes=[0, 0, 0, 1], classes=[1, 0, 0, 0])
    assert measure(PascalBoxMetrics(CATEGORIES), image)[MEAN] == pytest.approx((1 + 0) / 2)
    weighted = measure(PascalBoxMetrics(CATEGORIES, weighted=True), image)
    assert weighted["WeightedPascalBoxes_Precision/mAP@0.5IOU"] == pytest.approx(0.75 * 0.75)
    assert weighted["WeightedPascalBoxes_PerformanceByCategory/AP@0.5IOU/cat"] == 1


def test_bounds_of_recall_stand_in_the_name_of_the_mean_where_they_leave_anything_out(make_image):
    image = make_image([A, B], [A, B])
    metric = PrecisionAtRecallBoxMetrics(CATEGORIES, recall_lower_bound=0.0, recall_upper_bound=0.5)
    results = measure(metric, image)
    assert results["PrecisionAtRecallBoxes_Precision/mAP@0.5IOU@[0.0,0.5]Recall"] == pytest.approx(0.5)
    assert results["PrecisionAtRecallBoxes_PerformanceByCategory/AP@0.5IOU/cat"] == pytest.approx(0.5)
    assert measure(PrecisionAtRecallBoxMetrics(CATEGORIES), image)["PrecisionAtRecallBoxes_Precision/mAP@0.5IOU"] == 1


def test_predictions_for_unlabeled_classes_can_be_skipped(make_image):
    images = [
        make_image([A], [A], scores=[0.5], labeled=[True, False]),
        make_image([], [B], scores=[0.9], labeled=[False, True]),
    ]
    mean = "PrecisionAtRecallBoxes_Precision/mAP@0.5IOU"
    assert measure(PrecisionAtRecallBoxMetrics(CATEGORIES), *images)[mean] == pytest.approx(0.5)
    skipping = {"skip_predictions_for_unlabeled_class": True}
    assert measure(PrecisionAtRecallBoxMetrics(CATEGORIES, **skipping), *images)[mean] == 1
    unknown = [images[0], make_image([], [B], scores=[0.9])]  # nobody knows what was looked for: everything
    assert measure(PrecisionAtRecallBoxMetrics(CATEGORIES, **skipping), *unknown)[mean] == pytest.approx(0.5)


PRECISION_AT_RECALL = PrecisionAtRecallBoxMetrics(CATEGORIES).main_result


@pytest.mark.parametrize(
    "make_metric",
    [PascalBoxMetrics, lambda categories: PascalBoxMetrics(categories, weighted=True), PrecisionAtRecallBoxMetrics],
    ids=["pascal", "weighted", "precision at recall"],
)
def test_difficult_boxes_count_in_none_of_these_metrics(make_image, make_metric):
    metric = make_metric(CATEGORIES)
    # Of the cats, one is difficult; of the dogs, all are, which leaves the class out of the mean.
    image = make_image([A, B, C], [A, B, C], gt_classes=[0, 0, 1], classes=[0, 0, 1], difficult=[True, False, True])
    results = measure(metric, image)
    assert results[metric.main_result] == 1
    of_dogs = [value for name, value in results.items() if name.endswith("/dog")]
    assert of_dogs == pytest.approx([float("nan")], nan_ok=True)


def test_a_difficult_box_does_not_excuse_detections_elsewhere(make_image):
    image = make_image([A, B], [C, B], difficult=[True, False])
    assert measure(PascalBoxMetrics(CATEGORIES), image)[MEAN] == pytest.approx(0.5)


def test_groups_and_crowds_are_boxes_like_others_in_precision_at_recall(make_image):
    image = make_image([A, B], [A], group_of=[False, True], crowd=[False, True])
    assert measure(PrecisionAtRecallBoxMetrics(CATEGORIES), image)[PRECISION_AT_RECALL] == pytest.approx(0.5)
