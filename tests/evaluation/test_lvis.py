"""LVIS metrics: COCO's where all classes were looked for, and what they make of those that were not."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from object_detection_fpn.evaluation.coco import CocoMaskMetrics
from object_detection_fpn.evaluation.lvis import LvisMaskMetrics
from object_detection_fpn.evaluation.metric import EvaluationError

CATEGORIES = [
    {"id": 1, "name": "a", "frequency": "f"},
    {"id": 2, "name": "b", "frequency": "r"},
    {"id": 4, "name": "c", "frequency": "f"},
]
NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR@300", "ARs@300", "ARm@300", "ARl@300"]
A, B, C = [0, 0, 40, 40], [50, 50, 90, 90], [100, 100, 140, 140]


def measure(*images, make_metric=LvisMaskMetrics):
    metric = make_metric(CATEGORIES)
    for image in images:
        metric.update(*image)
    return {name.removeprefix("DetectionMasks_"): value for name, value in metric.result().items()}


def test_names_are_those_of_the_object_detection_api_and_nothing_is_printed(make_image, capfd):
    assert list(measure(make_image([A], [A]))) == NAMES
    assert LvisMaskMetrics(CATEGORIES).main_result == "DetectionMasks_AP"
    assert capfd.readouterr() == ("", "")


def test_numbers_are_cocos_where_all_classes_were_looked_for(make_image):
    rng = np.random.default_rng(0)
    images = []
    for i in range(12):
        boxes = np.concatenate([corner := rng.uniform(0, 150, (4, 2)), corner + rng.uniform(10, 140, (4, 2))], axis=1)
        found = np.concatenate([boxes + rng.normal(0, 5, boxes.shape), boxes[:2] + 20])
        classes = rng.choice([0, 1, 3], 4).tolist()
        images.append(
            make_image(
                boxes, found, gt_classes=classes, classes=[*classes, 0, 1], scores=rng.permutation(6) / 6 + 0.01 * i,
                crowd=(rng.random(4) < 0.2).tolist(), source_id=str(i),
            )
        )  # fmt: skip
    lvis, coco = measure(*images), measure(*images, make_metric=CocoMaskMetrics)
    for name, of_coco in {
        "AP": "Precision/mAP",
        "AP50": "Precision/mAP@.50IOU",
        "AP75": "Precision/mAP@.75IOU",
        "APm": "Precision/mAP (medium)",
        "AR@300": "Recall/AR@100",
        "ARl@300": "Recall/AR@100 (large)",
    }.items():
        assert lvis[name] == pytest.approx(coco[of_coco], abs=1e-9), name
    assert 0 < lvis["APr"] < 1 and 0 < lvis["APf"] < 1 and lvis["APc"] == -1


def test_a_class_counts_where_it_is_shown_or_was_looked_for(make_image):
    found = make_image([A], [A], scores=[0.5], labeled=[True, False, False, False], source_id="1")
    # In the second image nobody looked for the class: what is detected there is neither right nor wrong.
    elsewhere = make_image([], [B], scores=[0.9], labeled=[False, True, False, False], source_id="2")
    assert measure(found, elsewhere)["AP"] == pytest.approx(1)
    looked_for = make_image([], [B], scores=[0.9], labeled=[True, False, False, False], source_id="2")
    assert measure(found, looked_for)["AP"] == pytest.approx(0.5)
    unknown = make_image([], [B], scores=[0.9], source_id="2")  # all classes were looked for
    assert measure(found, unknown)["AP"] == pytest.approx(0.5)


def test_what_is_not_marked_is_ignored_where_not_all_objects_are(make_image):
    image = {"gt_boxes": [A], "boxes": [B, A], "labeled": [True, False, False, False]}
    assert measure(make_image(**image))["AP"] == pytest.approx(0.5)
    assert measure(make_image(**image, not_exhaustive=[True, False, False, False]))["AP"] == pytest.approx(1)


def test_means_are_taken_over_classes_of_one_frequency(make_image):
    # "b" is rare and found; of "a" and "c", both frequent, one is.
    image = make_image([A, B, C], [A, B], gt_classes=[0, 1, 3], classes=[0, 1])
    results = measure(image)
    assert [results[name] for name in ("APr", "APc", "APf")] == pytest.approx([1, -1, 0.5])
    assert results["AP"] == pytest.approx(2 / 3)


def test_without_frequencies_there_are_no_such_means(make_image):
    metric = LvisMaskMetrics([{"id": 1, "name": "a"}])
    metric.update(*make_image([A], [A]))
    results = metric.result()
    assert results["DetectionMasks_AP"] == pytest.approx(1)
    assert [results[f"DetectionMasks_AP{of}"] for of in "rcf"] == [-1, -1, -1]


def test_an_object_without_a_mask_is_a_region_that_is_ignored(make_image):
    image = make_image([A, B], [B, A])
    without = (image[0]._replace(masks=[image[0].masks[0], None]), image[1])
    assert measure(without)["AP"] == pytest.approx(1)


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="no LVIS metric of no images"):
        LvisMaskMetrics(CATEGORIES).result()


def test_without_its_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(
        EvaluationError, match=r"hotcoco, which is not installed. Install it with: pip install .*\[lvis\]"
    ):
        LvisMaskMetrics(CATEGORIES)
