"""COCO metrics against cases worked by hand, and the laws they obey."""

from __future__ import annotations

import logging
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from object_detection_fpn.evaluation.coco import CocoBoxMetrics
from object_detection_fpn.evaluation.metric import ImageDetections, ImageGroundtruth

CATEGORIES = [{"id": 1, "name": "circle"}, {"id": 2, "name": "square"}]
KEYS = [
    "DetectionBoxes_Precision/mAP",
    "DetectionBoxes_Precision/mAP@.50IOU",
    "DetectionBoxes_Precision/mAP@.75IOU",
    "DetectionBoxes_Precision/mAP (small)",
    "DetectionBoxes_Precision/mAP (medium)",
    "DetectionBoxes_Precision/mAP (large)",
    "DetectionBoxes_Recall/AR@1",
    "DetectionBoxes_Recall/AR@10",
    "DetectionBoxes_Recall/AR@100",
    "DetectionBoxes_Recall/AR@100 (small)",
    "DetectionBoxes_Recall/AR@100 (medium)",
    "DetectionBoxes_Recall/AR@100 (large)",
]
MAP, AP50, AP75, SMALL, MEDIUM, LARGE, AR1, AR10, AR100, AR_SMALL, AR_MEDIUM, AR_LARGE = KEYS
PER_CLASS = "DetectionBoxes_PerformanceByCategory/mAP/"

UNIT = [10.0, 10.0, 60.0, 60.0]  # 50 x 50: "medium"
FAR = [200.0, 200.0, 250.0, 250.0]


@pytest.fixture(params=["pycocotools", "faster-coco-eval"])
def backend(request):
    if request.param == "faster-coco-eval":
        pytest.importorskip("faster_coco_eval")
    return request.param


def groundtruth(boxes=(), classes=None, *, crowd=None, areas=None, source_id="a"):
    boxes = np.reshape(np.asarray(boxes, np.float32), (-1, 4))
    n = len(boxes)
    return ImageGroundtruth(
        source_id=source_id,
        boxes=boxes,
        classes=np.zeros(n, np.int32) if classes is None else np.asarray(classes, np.int32),
        is_crowd=np.zeros(n, bool) if crowd is None else np.asarray(crowd, bool),
        areas=None if areas is None else np.asarray(areas, np.float32),
    )


def detections(boxes=(), scores=None, classes=None):
    boxes = np.reshape(np.asarray(boxes, np.float32), (-1, 4))
    n = len(boxes)
    return ImageDetections(
        boxes=boxes,
        scores=np.full(n, 0.9, np.float32) if scores is None else np.asarray(scores, np.float32),
        classes=np.zeros(n, np.int32) if classes is None else np.asarray(classes, np.int32),
    )


def measure(*images, backend="pycocotools", **options):
    metrics = CocoBoxMetrics(CATEGORIES, backend=backend, **options)
    for image in images:
        metrics.update(*image)
    return metrics.result()


def test_names_are_those_of_the_object_detection_api(backend):
    assert list(measure((groundtruth([UNIT]), detections([UNIT])), backend=backend)) == KEYS


def test_nothing_is_printed(capsys, backend):
    measure((groundtruth([UNIT]), detections([UNIT])), backend=backend)
    assert capsys.readouterr() == ("", "")


# Each case: images as (groundtruth, detections), then what the metrics must be, worked by hand.
CASES = {
    "a perfect detection": (
        [(groundtruth([UNIT]), detections([UNIT]))],
        {MAP: 1, AP50: 1, AR1: 1, MEDIUM: 1, SMALL: -1},
    ),
    "IoU 0.82 meets 7 of 10 thresholds": (
        [(groundtruth([UNIT]), detections([[10, 10, 60, 51]]))],
        {MAP: 0.7, AP50: 1, AP75: 1, AR100: 0.7},
    ),
    "IoU 0.6 misses AP75": ([(groundtruth([UNIT]), detections([[10, 10, 60, 41]]))], {AP50: 1, AP75: 0, MAP: 0.3}),
    "the wrong class": ([(groundtruth([UNIT], [1]), detections([UNIT], classes=[0]))], {MAP: 0, AR100: 0}),
    "no detections at all": ([(groundtruth([UNIT]), detections())], dict.fromkeys([MAP, AP50, AR1, AR100, MEDIUM], 0)),
    "no groundtruth at all": ([(groundtruth(), detections([UNIT]))], dict.fromkeys(KEYS, -1)),
    "neither": ([(groundtruth(), detections())], dict.fromkeys(KEYS, -1)),
    # The false positive of the empty image outranks the true one: precision 1/2 at every recall.
    "an image without groundtruth costs precision": (
        [(groundtruth([UNIT]), detections([UNIT], [0.8])), (groundtruth(source_id="b"), detections([UNIT], [0.9]))],
        {MAP: 0.5, AR100: 1},
    ),
    # Ranked below, it costs nothing: recall 1 was reached at precision 1.
    "a false positive below every true one is free": (
        [(groundtruth([UNIT]), detections([UNIT], [0.9])), (groundtruth(source_id="b"), detections([UNIT], [0.8]))],
        {MAP: 1},
    ),
    # One of two objects found: precision 1 up to recall 0.5, which are 51 of the 101 points.
    "half of the objects": ([(groundtruth([UNIT, FAR]), detections([UNIT]))], {MAP: 51 / 101, AR100: 0.5, AR1: 0.5}),
    "AR@1 counts one detection an image": (
        [(groundtruth([UNIT, FAR]), detections([UNIT, FAR], [0.9, 0.8]))],
        {AR1: 0.5, AR10: 1, MAP: 1},
    ),
    "a second detection of the same object is false": (
        [(groundtruth([UNIT, FAR]), detections([UNIT, UNIT, FAR], [0.9, 0.8, 0.7]))],
        {MAP: (51 * 1 + 50 * 2 / 3) / 101},
    ),
    "detections in a crowd region are ignored": (
        [
            (
                groundtruth([UNIT, [100, 100, 300, 300]], crowd=[False, True]),
                detections([UNIT, [120, 120, 160, 160], FAR], [0.5, 0.9, 0.8]),
            )
        ],
        {MAP: 1, AR100: 1},
    ),
    "a crowd alone is no groundtruth": ([(groundtruth([UNIT], crowd=[True]), detections())], dict.fromkeys(KEYS, -1)),
    "difficult boxes and groups are boxes like others": (
        [
            (
                groundtruth([UNIT, FAR])._replace(is_difficult=[True, False], is_group_of=[False, True]),
                detections([UNIT]),
            )
        ],
        {AR100: 0.5, MAP: 51 / 101},
    ),
    "a crowd of another class ignores nothing": (
        [(groundtruth([UNIT, FAR], [0, 1], crowd=[False, True]), detections([FAR, UNIT], [0.9, 0.8]))],
        {MAP: 0.5, AR100: 1},
    ),
    "the stored area decides the size": (
        [(groundtruth([UNIT], areas=[31 * 31]), detections([UNIT]))],
        {SMALL: 1, MEDIUM: -1, AR_SMALL: 1},
    ),
    "area 0 stands for the box": ([(groundtruth([UNIT], areas=[0]), detections([UNIT]))], {SMALL: -1, MEDIUM: 1}),
    "just below 32 x 32 is small": ([(groundtruth([[0, 0, 31.9, 31.9]]), detections())], {AR_SMALL: 0, AR_MEDIUM: -1}),
    "above 96 x 96 is large": ([(groundtruth([[0, 0, 97, 97]]), detections())], {AR_LARGE: 0, AR_MEDIUM: -1}),
    "a class of no category is ignored": (
        [(groundtruth([UNIT]), detections([UNIT, UNIT], [0.5, 0.9], [0, 7]))],
        {MAP: 1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_case_worked_by_hand(case, backend):
    images, expected = CASES[case]
    results = measure(*images, backend=backend)
    assert {name: results[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_map_is_the_mean_over_classes_that_have_groundtruth():
    images = [(groundtruth([UNIT, FAR], [0, 1]), detections([UNIT], [0.9], [0]))]
    results = measure(*images, include_metrics_per_category=True)
    assert results[PER_CLASS + "circle"] == pytest.approx(1)
    assert results[PER_CLASS + "square"] == pytest.approx(0)
    assert results[MAP] == pytest.approx(0.5)
    only_circles = measure((groundtruth([UNIT]), detections([UNIT])), include_metrics_per_category=True)
    assert only_circles[PER_CLASS + "square"] == -1
    assert only_circles[MAP] == pytest.approx(1)


def test_all_metrics_of_a_class_have_the_names_of_the_object_detection_api():
    results = measure(
        (groundtruth([UNIT]), detections([UNIT])), include_metrics_per_category=True, all_metrics_per_category=True
    )
    of_circle = [name for name in results if name.endswith("/circle")]
    assert of_circle == [PER_CLASS + "circle"] + [key + " ByCategory/circle" for key in KEYS]
    assert results["DetectionBoxes_Recall/AR@1 ByCategory/circle"] == pytest.approx(1)


SUPER = "DetectionBoxes_PerformanceBySuperCategory/"


def test_super_categories_are_means_over_their_classes_that_have_groundtruth():
    images = [(groundtruth([UNIT, FAR], [0, 1]), detections([UNIT], [0.9], [0]))]
    of_super = {"round": ["circle"], "shapes": ["circle", "square"]}
    options = {"include_metrics_per_category": True, "super_categories": of_super}
    results = measure(*images, **options)
    assert results[SUPER + "round"] == pytest.approx(1)
    assert results[SUPER + "shapes"] == pytest.approx(0.5)
    only_circles = measure((groundtruth([UNIT]), detections([UNIT])), **options)
    assert only_circles[SUPER + "shapes"] == pytest.approx(1)
    only_squares = measure((groundtruth([UNIT], [1]), detections()), **options)
    assert only_squares[SUPER + "round"] == -1
    assert not [name for name in measure(*images, super_categories=of_super) if name.startswith(SUPER)]


def test_all_metrics_of_a_super_category_have_the_names_of_the_object_detection_api():
    results = measure(
        (groundtruth([UNIT]), detections([UNIT])),
        include_metrics_per_category=True,
        all_metrics_per_category=True,
        super_categories={"shapes": ["circle", "square"]},
    )
    of_shapes = [name for name in results if name.endswith("/shapes")]
    assert of_shapes == [SUPER + "shapes"] + [key + " BySuperCategory/shapes" for key in KEYS]
    assert results["DetectionBoxes_Recall/AR@1 BySuperCategory/shapes"] == pytest.approx(1)


@pytest.mark.parametrize("members, words", [([], "no class"), (["circle", "oval"], "the class 'oval', which no cat")])
def test_super_categories_of_unknown_classes_are_refused(members, words):
    with pytest.raises(ValueError, match=f"The super category 'shapes' names {words}"):
        CocoBoxMetrics(CATEGORIES, super_categories={"shapes": members})


def test_predictions_for_unlabeled_classes_can_be_skipped():
    truth = groundtruth([UNIT])._replace(labeled_classes=np.array([False, False]))  # its box labels the circle
    unlabeled = groundtruth(source_id="b")._replace(labeled_classes=np.array([False, True]))
    images = [(truth, detections([UNIT], [0.5])), (unlabeled, detections([UNIT], [0.9]))]
    assert measure(*images)[MAP] == pytest.approx(0.5)
    assert measure(*images, skip_predictions_for_unlabeled_class=True)[MAP] == pytest.approx(1)
    unknown = [images[0], (groundtruth(source_id="b"), detections([UNIT], [0.9]))]
    assert measure(*unknown, skip_predictions_for_unlabeled_class=True)[MAP] == pytest.approx(0.5)


def test_records_that_share_a_source_id_count_apart_and_are_named(caplog):
    found, missed = (groundtruth([UNIT]), detections([UNIT])), (groundtruth([UNIT]), detections())
    with caplog.at_level(logging.WARNING):
        results = measure(found, missed)
    assert results[AR100] == pytest.approx(0.5)
    assert "1 source ids stand on more than one record (the first: 'a' on 2 records)" in caplog.text


def test_records_without_a_source_id_are_not_duplicates(caplog):
    image = (groundtruth([UNIT], source_id=""), detections([UNIT]))
    assert measure(image, image)[MAP] == pytest.approx(1)
    assert not caplog.records


def test_detections_that_are_not_finite_are_left_out_and_counted(caplog):
    broken = detections([UNIT, [np.nan, 0, 1, 1], FAR], [0.5, 0.9, np.inf])
    results = measure((groundtruth([UNIT]), broken))
    assert results[MAP] == pytest.approx(1)
    assert "2 detections have a box or score that is not finite" in caplog.text


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="no images: the evaluation saw none"):
        CocoBoxMetrics(CATEGORIES).result()


@pytest.mark.parametrize(
    "categories, message",
    [
        ([], "at least one category"),
        ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "Two categories share id = 1"),
        ([{"id": 1, "name": "a"}, {"id": 2, "name": "a"}], "Two categories share name = 'a'"),
        ([{"id": 0, "name": "a"}], "id = 0. Allowed: 1 and above"),
    ],
)
def test_unusable_categories_are_refused(categories, message):
    with pytest.raises(ValueError, match=message):
        CocoBoxMetrics(categories)


def test_groundtruth_of_no_category_is_refused():
    with pytest.raises(ValueError, match=r"image 'a' has class id 3, which no category has\. Allowed: 1 to 2"):
        measure((groundtruth([UNIT], [2]), detections()))


def test_fields_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="'boxes': 1, 'scores': 2"):
        measure((groundtruth(), ImageDetections(np.zeros((1, 4)), np.zeros(2), np.zeros(1))))


def test_backend_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ValueError, match="pip install faster-coco-eval"):
        CocoBoxMetrics(CATEGORIES, backend="faster-coco-eval")
    assert CocoBoxMetrics(CATEGORIES)  # falls back to pycocotools
    with pytest.raises(ValueError, match="backend = 'slow' is unknown"):
        CocoBoxMetrics(CATEGORIES, backend="slow")


def random_boxes(rng, n):
    corner, size = rng.uniform(0, 200, (n, 2)), rng.uniform(5, 150, (n, 2))
    return np.concatenate([corner, corner + size], axis=1)


def random_images(seed, n):
    """Images with detections near their groundtruth, scores of few values so that many tie."""
    rng = np.random.default_rng(seed)
    images = []
    for i in range(n):
        num_boxes = int(rng.integers(0, 5))
        boxes, classes = random_boxes(rng, num_boxes), rng.integers(0, 2, num_boxes)
        found = np.concatenate([boxes + rng.normal(0, 4, boxes.shape), random_boxes(rng, 2)])
        scores = rng.integers(1, 5, len(found)) / 5
        truth = groundtruth(boxes, classes, crowd=rng.random(num_boxes) < 0.2, source_id=str(i))
        images.append((truth, detections(found, scores, np.concatenate([classes, rng.integers(0, 2, 2)]))))
    return images


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(seed=st.integers(0, 1000), order=st.permutations(range(6)))
def test_order_of_the_images_changes_nothing(seed, order):
    images = random_images(seed, 6)
    assert measure(*images) == measure(*(images[i] for i in order))


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(seed=st.integers(0, 1000))
def test_detections_that_are_the_groundtruth_have_ap_and_ar_one(seed):
    rng = np.random.default_rng(seed)
    images = []
    for i in range(4):
        boxes, classes = random_boxes(rng, 3), rng.integers(0, 2, 3)
        images.append((groundtruth(boxes, classes, source_id=str(i)), detections(boxes, rng.random(3), classes)))
    results = measure(*images)
    assert [results[name] for name in (MAP, AP50, AP75, AR100)] == pytest.approx([1] * 4)
    of_sizes = [results[name] for name in (SMALL, MEDIUM, LARGE, AR_SMALL, AR_MEDIUM, AR_LARGE)]
    assert [value for value in of_sizes if value != -1] == pytest.approx([1] * (len(of_sizes) - of_sizes.count(-1)))


def test_numbers_are_those_pycocotools_summarizes():
    """The twelve cells picked here are the twelve that `COCOeval.summarize` picks."""
    import contextlib
    import io

    from pycocotools.cocoeval import COCOeval

    summaries = []

    class Summarized(COCOeval):
        def accumulate(self, p=None):
            super().accumulate(p)
            self.summarize()
            summaries.append(self.stats)

    metrics = CocoBoxMetrics(CATEGORIES, backend="pycocotools")
    metrics._evaluator = Summarized
    for image in random_images(seed=3, n=20):
        metrics.update(*image)
    with contextlib.redirect_stdout(io.StringIO()):
        results = metrics.result()
    assert list(results.values()) == pytest.approx(summaries[0].tolist())
    assert len(set(results.values())) > 8  # a case that tells the cells apart


def test_back_ends_agree():
    pytest.importorskip("faster_coco_eval")
    images = random_images(seed=5, n=20)
    assert measure(*images, backend="faster-coco-eval") == pytest.approx(measure(*images, backend="pycocotools"))
