"""Masks of records and detections as run lengths, the metrics that measure them, and the threads that make them."""

from __future__ import annotations

import io
import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

from object_detection_fpn.evaluation import masks as mask_lib
from object_detection_fpn.evaluation.coco import CocoBoxMetrics, CocoMaskMetrics
from object_detection_fpn.evaluation.metric import EvaluationError, ImageDetections, ImageGroundtruth
from object_detection_fpn.evaluation.pascal import PascalBoxMetrics, PascalMaskMetrics
from object_detection_fpn.ops import rle

CATEGORIES = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
MAP, AP50, SMALL = (f"DetectionMasks_Precision/mAP{ending}" for ending in ("", "@.50IOU", " (small)"))
PASCAL = "PascalMasks_Precision/mAP@0.5IOU"
BACKENDS = ("pycocotools", "faster-coco-eval")
METRICS = {
    "coco_box": lambda backend: CocoBoxMetrics(CATEGORIES, backend=backend),
    "coco_mask": lambda backend: CocoMaskMetrics(CATEGORIES, backend=backend),
    "pascal_box": lambda backend: PascalBoxMetrics(CATEGORIES),
    "pascal_mask": lambda backend: PascalMaskMetrics(CATEGORIES),
}
LEFT, RIGHT = [0, 0, 40, 20], [0, 20, 40, 40]  # the halves of WHOLE
WHOLE, FAR = [0, 0, 40, 40], [100, 100, 140, 140]


@pytest.fixture(scope="session")
def odapi_images(golden_dir):
    """(groundtruth, detections) of four images with masks; the crowds are COCO's, the difficult box PASCAL VOC's."""
    arrays = np.load(golden_dir / "odapi_metrics.npz")

    def image(i):
        def of(name):
            return arrays[f"{name}_{i}"]

        groundtruth = ImageGroundtruth(
            source_id=str(i),
            boxes=of("groundtruth_boxes"),
            classes=of("groundtruth_classes") - 1,
            is_crowd=of("groundtruth_is_crowd").astype(bool),
            is_difficult=of("groundtruth_difficult"),
            masks=[rle.encode_mask(mask) for mask in of("groundtruth_masks")],
            image_size=of("groundtruth_masks").shape[1:],
        )
        found = [rle.encode_mask(mask) for mask in of("detection_masks")]
        classes = of("detection_classes") - 1
        return groundtruth, ImageDetections(of("detection_boxes"), of("detection_scores"), classes, found)

    return [image(i) for i in range(4)]


def measure(metric, *images):
    for image in images:
        metric.update(*image)
    return metric.result()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", METRICS)
def test_results_are_those_of_the_object_detection_api(golden_dir, odapi_images, name, backend):
    if backend == "faster-coco-eval":
        pytest.importorskip("faster_coco_eval")
    expected = json.loads((golden_dir / "odapi_metrics.json").read_text())[name]
    results = measure(METRICS[name](backend), *odapi_images)
    assert list(results) == list(expected)
    assert results == pytest.approx(expected, abs=1e-12)


def test_metrics_of_classes_carry_the_prefix_of_masks(make_image):
    metric = CocoMaskMetrics(CATEGORIES, include_metrics_per_category=True, all_metrics_per_category=True)
    results = measure(metric, make_image([WHOLE], [WHOLE]))
    assert results["DetectionMasks_PerformanceByCategory/mAP/a"] == pytest.approx(1)
    assert results["DetectionMasks_Precision/mAP ByCategory/a"] == pytest.approx(1)
    assert all(name.startswith("DetectionMasks_") for name in results)


def encode(*boxes):
    return [rle.encode_box(np.array(box), (300, 300)) for box in boxes]


@pytest.mark.parametrize(
    "make_metric, name, expected",
    [(CocoMaskMetrics, AP50, 51 / 101), (PascalMaskMetrics, PASCAL, 0.5)],
    ids=["coco", "pascal"],
)
def test_masks_count_and_not_boxes(make_image, make_metric, name, expected):
    # Boxes are equal, but of the first object another half is found.
    image = make_image(
        [WHOLE, FAR], [WHOLE, FAR], scores=[0.8, 0.9], gt_masks=encode(LEFT, FAR), masks=encode(RIGHT, FAR)
    )
    assert measure(make_metric(CATEGORIES), image)[name] == pytest.approx(expected)


def test_the_size_of_an_object_is_that_of_its_mask_unless_the_record_says_it(make_image):
    truth, found = make_image([FAR], [FAR], gt_masks=encode([100, 100, 130, 130]), masks=encode([100, 100, 130, 130]))
    assert measure(CocoMaskMetrics(CATEGORIES), (truth, found))[SMALL] == pytest.approx(1)  # the box is 40 x 40
    assert measure(CocoMaskMetrics(CATEGORIES), (truth._replace(areas=np.array([1600.0])), found))[SMALL] == -1


@pytest.mark.parametrize("make_metric, name", [(CocoMaskMetrics, MAP), (PascalMaskMetrics, PASCAL)])
def test_an_object_without_a_mask_is_a_region_that_is_ignored(make_image, make_metric, name):
    # What lies in its box is no false detection, and it is nothing to find.
    inside = [105, 105, 115, 115]
    truth, found = make_image([WHOLE, FAR], [inside, FAR, WHOLE], gt_masks=[*encode(WHOLE), None])
    assert measure(make_metric(CATEGORIES), (truth, found))[name] == pytest.approx(1)
    alone, missed = make_image([WHOLE, FAR], [WHOLE], gt_masks=[*encode(WHOLE), None])
    assert measure(make_metric(CATEGORIES), (alone, missed))[name] == pytest.approx(1)
    with_masks, found = make_image([WHOLE, FAR], [inside, FAR, WHOLE])
    assert measure(make_metric(CATEGORIES), (with_masks, found))[name] < 1


def test_difficult_objects_are_ignored_by_their_masks(make_image):
    image = make_image([WHOLE, FAR], [WHOLE, FAR], difficult=[True, False], gt_masks=encode(LEFT, FAR))
    assert measure(PascalMaskMetrics(CATEGORIES), image)[PASCAL] == 1  # half of the difficult one is found
    image = make_image([WHOLE, FAR], [WHOLE, FAR], difficult=[True, False], gt_masks=encode([0, 0, 5, 5], FAR))
    assert measure(PascalMaskMetrics(CATEGORIES), image)[PASCAL] == 0.5


@pytest.mark.parametrize("make_metric", [CocoMaskMetrics, PascalMaskMetrics])
def test_images_without_objects_or_detections_are_measured(make_image, make_metric):
    metric = make_metric(CATEGORIES)
    results = measure(metric, make_image([WHOLE], []), make_image([], [WHOLE]), make_image([], []))
    assert results[metric.main_result] == 0


@pytest.mark.parametrize("make_metric", [CocoMaskMetrics, PascalMaskMetrics])
def test_records_without_masks_are_refused(make_image, make_metric):
    truth, found = make_image([WHOLE], [WHOLE])
    for images in ((truth._replace(masks=None), found), (truth, found._replace(masks=None))):
        with pytest.raises(ValueError, match="needs the masks and the size of image 'a'; they are None"):
            make_metric(CATEGORIES).update(*images)
    other = [rle.encode_mask(np.ones((20, 30), bool))]
    with pytest.raises(ValueError, match=r"A mask of image 'a' has the size \[20, 30\]. Allowed: .* \[300, 300\]"):
        make_metric(CATEGORIES).update(truth._replace(masks=other), found)
    with pytest.raises(ValueError, match="'masks': 0"):
        make_metric(CATEGORIES).update(truth._replace(masks=[]), found)


def png(mask):
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return file.getvalue()


def test_masks_of_a_record_are_all_but_zero():
    mask = np.zeros((6, 8), np.uint8)
    mask[1:3, 2:5], mask[4, 4] = 255, 1
    first, none = mask_lib.encode_record([png(mask), b""], (6, 8), "7")
    assert none is None
    np.testing.assert_array_equal(rle.decode(first), mask > 0)


def test_a_mask_that_is_none_or_of_another_size_is_refused():
    with pytest.raises(
        EvaluationError, match=r"record '7': mask 1 of image/object/mask has the size \[8, 6\]. Allowed: .*\[6, 8\]"
    ):
        mask_lib.encode_record([b"", png(np.zeros((8, 6), np.uint8))], (6, 8), "7")
    with pytest.raises(EvaluationError, match="record '7': mask 0 of image/object/mask is no PNG file"):
        mask_lib.encode_record([b"no png"], (6, 8), "7")


def test_masks_are_resized_for_pictures():
    (resized, none) = mask_lib.resize_masks([rle.encode_box(np.array([0, 0, 2, 4]), (4, 4)), None], (8, 2))
    assert none is None and resized.begin == (0, 0)
    np.testing.assert_array_equal(resized.pixels, np.arange(8)[:, None] < [4, 4])


def test_results_of_threads_come_in_order_and_items_are_taken_ahead():
    names, taken = set(), []

    def items():
        for i in range(12):
            taken.append(i)
            yield i

    def slow_first(i):
        names.add(threading.current_thread().name)
        time.sleep(0.05 if i == 0 else 0)
        return i, len(taken)

    results = list(mask_lib.map_in_threads(slow_first, items(), num_threads=2))
    assert [i for i, _ in results] == list(range(12))
    assert results[0][1] > 1 and max(n - i for i, n in results) <= 6  # the first item, and two for each thread ahead
    assert threading.current_thread().name not in names


def test_an_error_in_a_thread_is_raised_and_ends_it():
    def fail(i):
        raise EvaluationError(f"item {i}")

    with pytest.raises(EvaluationError, match="item 0"):
        list(mask_lib.map_in_threads(fail, range(100), num_threads=2))
