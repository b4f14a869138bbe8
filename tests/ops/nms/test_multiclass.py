from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops import nms


def _reference_multiclass(boxes, scores, window, reference):
    """One image with the settings above, in plain loops: (score, class, RoI, box), best first."""
    found = []
    for c in range(scores.shape[1]):
        class_boxes = boxes[:, min(c, boxes.shape[1] - 1)]
        for roi in reference(class_boxes, scores[:, c], 10, 0.5, np.float32(0.1)):
            box = box_ops.clip(class_boxes[roi][np.newaxis], window).numpy()[0]
            if box_ops.area(box) > 0.0:
                found.append((scores[roi, c], c, roi, box))
    return sorted(found, key=lambda row: -row[0])[:12]


@pytest.mark.parametrize("num_box_classes", [1, 3])
def test_multiclass_suppresses_clips_drops_and_merges(mode, num_box_classes, multiclass, random_boxes, reference):
    rng = np.random.default_rng(1)
    boxes = random_boxes(rng, (2, 70, num_box_classes))
    scores = rng.random((2, 70, 3)).astype(np.float32)
    windows = np.array([[0, 0, 300, 300], [100, 100, 300, 300]], np.float32)  # the second misses many boxes
    detections = multiclass(boxes, scores, windows, mode=mode)
    assert [x.shape.as_list() for x in detections] == [[2, 12, 4], [2, 12], [2, 12], [2, 12], [2]]
    for image in range(2):
        expected = _reference_multiclass(boxes[image], scores[image], windows[image], reference)
        num = len(expected)
        assert detections.num[image] == num > 0
        for field, position in (("scores", 0), ("classes", 1), ("roi_indices", 2), ("boxes", 3)):
            values = getattr(detections, field)[image].numpy()
            np.testing.assert_array_equal(values[:num], np.array([row[position] for row in expected]))
            np.testing.assert_array_equal(values[num:], np.zeros_like(values[num:]))


@pytest.mark.no_cover
def test_rois_beyond_the_valid_ones_take_no_part(mode, multiclass, random_boxes):
    rng = np.random.default_rng(2)
    boxes, scores = random_boxes(rng, (2, 20, 1)), rng.uniform(0.2, 1.0, (2, 20, 3)).astype(np.float32)
    windows = np.array([[-500.0, -500.0, 900.0, 900.0]] * 2, np.float32)
    detections = multiclass(boxes, scores, windows, mode=mode, num_valid=tf.constant([2, 0]))
    assert detections.num.numpy().tolist()[1] == 0
    assert detections.num[0] > 0
    assert detections.roi_indices.numpy().max() <= 1


def test_more_detections_asked_than_candidates_are_padding(mode, multiclass):
    boxes, scores = tf.constant([[[[0.0, 0.0, 5.0, 5.0]]]]), tf.constant([[[0.9]]])
    detections = multiclass(boxes, scores, tf.constant([[0.0, 0.0, 9.0, 9.0]]), mode=mode, max_detections_per_class=2)
    np.testing.assert_array_equal(detections.num, [1])
    np.testing.assert_allclose(detections.scores, [[0.9] + [0.0] * 11])
    assert detections.boxes.shape == (1, 12, 4)


@pytest.mark.no_cover
def test_class_agnostic_lets_each_roi_speak_once(mode, multiclass):
    boxes = tf.constant([[[[0.0, 0, 10, 10]], [[0.0, 0, 10, 9]], [[20.0, 20, 30, 30]]]])
    scores = tf.constant([[[0.5, 0.6], [0.7, 0.2], [0.3, 0.05]]])
    window = tf.constant([[0.0, 0.0, 50.0, 50.0]])
    one = multiclass(boxes, scores, window, mode=mode, class_agnostic=True)
    assert one.num == [2]
    np.testing.assert_array_equal(one.roi_indices[0, :2], [1, 2])
    np.testing.assert_array_equal(one.classes[0, :2], [0, 0])
    two = multiclass(boxes, scores, window, mode=mode, class_agnostic=True, max_classes_per_detection=2)
    assert two.num == [3]
    np.testing.assert_allclose(two.scores[0, :3], [0.7, 0.3, 0.2])  # 0.05 is below the threshold
    np.testing.assert_array_equal(two.classes[0, :3], [0, 0, 1])
    np.testing.assert_array_equal(two.roi_indices[0, :3], [1, 2, 1])


def test_class_agnostic_takes_the_box_of_the_best_class(mode, multiclass):
    boxes = tf.constant([[[[0.0, 0, 1, 1], [0, 0, 2, 2]]]])
    detections = multiclass(
        boxes, tf.constant([[[0.2, 0.8]]]), tf.constant([[0.0, 0.0, 9.0, 9.0]]), mode=mode, class_agnostic=True
    )
    np.testing.assert_array_equal(detections.boxes[0, 0], [0, 0, 2, 2])


@pytest.mark.no_cover
def test_soft_nms_decays_scores_as_the_kernel_does(multiclass, random_boxes):
    rng = np.random.default_rng(3)
    boxes, scores = random_boxes(rng, (2, 40, 2), side=300.0), rng.random((2, 40, 2)).astype(np.float32)
    windows = np.array([[0, 0, 900, 900]] * 2, np.float32)
    expected = multiclass(boxes, scores, windows, mode=(False, False), soft_nms_sigma=0.3)
    hard = multiclass(boxes, scores, windows, mode=(False, False))
    assert np.any(expected.scores.numpy() != hard.scores.numpy())
    for compiled in (False, True):
        detections = multiclass(boxes, scores, windows, mode=(True, compiled), soft_nms_sigma=0.3)
        np.testing.assert_array_equal(detections.num, expected.num)
        np.testing.assert_array_equal(detections.classes, expected.classes)
        np.testing.assert_array_equal(detections.roi_indices, expected.roi_indices)
        np.testing.assert_allclose(detections.scores, expected.scores, rtol=1e-5)


def test_soft_nms_worked_case(mode, multiclass):
    boxes = tf.constant([[[[0.0, 0, 10, 10]], [[0.0, 0, 10, 5]]]])  # IoU 0.5
    scores = tf.constant([[[0.8], [0.6]]])
    detections = multiclass(
        boxes, scores, tf.constant([[0.0, 0.0, 20.0, 20.0]]), mode=mode, soft_nms_sigma=0.5, iou_threshold=0.9
    )
    np.testing.assert_allclose(detections.scores[0, :2], [0.8, 0.6 * np.exp(-0.25)], rtol=1e-6)


def test_no_gradient_passes(mode):
    boxes, scores = tf.constant([[[[0.0, 0, 10, 10]], [[20.0, 20, 30, 30]]]]), tf.constant([[[0.8], [0.6]]])
    with tf.GradientTape() as tape:
        tape.watch(scores)
        detections = nms.multiclass_nms(
            boxes, scores, nms.Suppression(), clip_window=tf.constant([[0.0, 0, 50, 50]]), static=mode[0]
        )
        total = tf.reduce_sum(detections.scores)
    assert tape.gradient(total, scores) is None


def test_keeping_empty_boxes_is_what_combined_suppression_does(mode, multiclass, random_boxes):
    rng = np.random.default_rng(4)
    boxes = random_boxes(rng, (2, 40, 3), side=80.0)
    scores = rng.random((2, 40, 3)).astype(np.float32)
    windows = np.array([[0, 0, 150, 150], [0, 0, 90, 200]], np.float32)
    found = multiclass(boxes, scores, windows, mode=mode, keep_empty=True, max_total_detections=25)
    combined = tf.image.combined_non_max_suppression(
        boxes,
        scores,
        max_output_size_per_class=10,
        max_total_size=25,
        iou_threshold=0.4,
        score_threshold=0.1,
        clip_boxes=False,
    )
    np.testing.assert_array_equal(found.num, combined.valid_detections)
    np.testing.assert_allclose(found.scores, combined.nmsed_scores)
    np.testing.assert_allclose(found.classes, combined.nmsed_classes)
    clipped = box_ops.clip(combined.nmsed_boxes, windows)
    np.testing.assert_allclose(found.boxes, clipped, atol=1e-4)
    assert np.any(box_ops.area(found.boxes).numpy()[0, : found.num[0]] == 0)
    dropped = multiclass(boxes, scores, windows, mode=mode, max_total_detections=25)
    assert np.all(box_ops.area(dropped.boxes).numpy()[0, : dropped.num[0]] > 0)


# Each row changes what the settings of `multiclass` give for the boxes below.
_CHANGES = [
    {"iou_threshold": 0.0},
    {"iou_threshold": 1.0},
    {"score_threshold": 0.6},
    {"score_threshold": float("-inf"), "max_detections_per_class": 30, "max_total_detections": 99},
    {"max_detections_per_class": 2},
    {"max_total_detections": 3},
    {"max_detections_per_class": 30, "max_total_detections": 99},  # more than there are
    {"keep_empty": True},
    {"class_agnostic": True},
    {"class_agnostic": True, "max_classes_per_detection": 2},
    {"class_agnostic": True, "max_classes_per_detection": 9, "soft_nms_sigma": 0.4},
    {"soft_nms_sigma": 0.4},
    {"soft_nms_sigma": 1e-4},  # decays to 0
    {"soft_nms_sigma": 0.4, "score_threshold": float("-inf"), "keep_empty": True},
    {"soft_nms_sigma": 0.4, "max_detections_per_class": 30, "max_total_detections": 4},
    {"clip_before_suppression": True, "iou_threshold": 0.2},
    {"clip_before_suppression": True, "min_box_side": 3.0},
    {"clip_before_suppression": True, "min_box_side": 3.0, "class_agnostic": True},
    {"clip_before_suppression": True, "soft_nms_sigma": 0.4},
]


@pytest.fixture(scope="module")
def integer_case():
    """Boxes of whole sides, so that ties and IoUs of exactly the threshold happen; some are empty or outside the window."""
    rng = np.random.default_rng(0)
    corner, size = rng.integers(-4, 8, (4, 14, 3, 2)), rng.integers(0, 10, (4, 14, 3, 2))
    boxes = np.concatenate([corner, corner + size], axis=-1).astype(np.float32)
    boxes[:, 7:10] = boxes[:, :3]
    scores = np.round(rng.random((4, 14, 3)), 1).astype(np.float32)
    scores[0, 0, 0] = np.nan
    windows = np.array([[0, 0, 12, 12], [0, 0, 6, 20], [-4, -4, 9, 9], [0, 0, 9, 9]], np.float32)
    return boxes, scores, windows, np.array([14, 11, 1, 0], np.int32)


@pytest.fixture(scope="module")
def base(integer_case, multiclass):
    *case, num_valid = integer_case
    return multiclass(*case, mode=(False, False), num_valid=num_valid)


@pytest.mark.parametrize("changes", _CHANGES, ids=lambda changes: ", ".join(f"{k}={v}" for k, v in changes.items()))
@pytest.mark.no_cover
def test_every_setting_means_the_same_in_both_implementations(changes, integer_case, base, multiclass):
    *case, num_valid = integer_case
    expected, found = (
        multiclass(*case, mode=mode, num_valid=num_valid, **changes) for mode in [(False, False), (True, True)]
    )
    for values, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(values, wanted, rtol=1e-6)
    bites = any(a.shape != b.shape or not np.allclose(a, b) for a, b in zip(expected, base, strict=True))
    assert bites, "the setting changes nothing"


def test_soft_nms_keeps_boxes_above_the_iou_threshold(mode, multiclass):
    boxes = tf.constant([[[[6.0, 4, 13, 8]], [[2.0, 4, 13, 8]]]])  # IoU 7/11
    window = tf.constant([[0.0, 0.0, 20.0, 20.0]])
    found = multiclass(boxes, tf.constant([[[0.72], [0.64]]]), window, mode=mode, soft_nms_sigma=0.5, iou_threshold=0.5)
    np.testing.assert_array_equal(found.num, [2])
    np.testing.assert_allclose(found.scores[0, :2], [0.72, 0.64 * np.exp(-((7 / 11) ** 2))], rtol=1e-6)


@pytest.mark.parametrize("name", ["max_detections_per_class", "max_total_detections", "max_classes_per_detection"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} = 0. Allowed: 1 or more"):
        nms.Suppression(**{name: 0})


def test_clipped_boxes_may_overlap_more(mode, multiclass):
    boxes = tf.constant([[[[0.0, 0, 10, 10]], [[0.0, 0, 10, 40]]]])  # IoU 1/4; within the window equal
    scores, window = tf.constant([[[0.8], [0.6]]]), tf.constant([[0.0, 0.0, 10.0, 10.0]])
    assert multiclass(boxes, scores, window, mode=mode).num == [2]
    assert multiclass(boxes, scores, window, mode=mode, clip_before_suppression=True).num == [1]


@pytest.mark.no_cover
def test_boxes_with_a_short_side_suppress_nothing(mode, multiclass):
    """The best box is 2 wide within the window, and would suppress the second."""
    boxes = tf.constant([[[[0.0, -8, 10, 2]], [[0.0, 0, 10, 3]], [[0.0, 20, 2, 25]]]])
    scores, window = tf.constant([[[0.8], [0.6], [0.4]]]), tf.constant([[0.0, 0.0, 30.0, 30.0]])
    for side, rows in ((0.0, [0, 2]), (2.0, [0, 2]), (2.5, [1]), (3.0, [1]), (3.5, [])):
        found = multiclass(boxes, scores, window, mode=mode, clip_before_suppression=True, min_box_side=side)
        assert found.roi_indices[0, : found.num[0]].numpy().tolist() == rows


def test_a_shortest_side_without_clipping_is_refused():
    with pytest.raises(ValueError, match="min_box_side = 3 needs clip_before_suppression = True"):
        nms.Suppression(min_box_side=3.0)


@pytest.mark.parametrize(
    "case, threshold",
    [*((name, t) for name in ("small", "large", "one_class") for t in (0.3, 0.5, 0.7)), ("edge", 0.5)],
)
def test_agrees_with_the_pytorch_libraries(golden_dir, mode, multiclass, case, threshold):
    golden = np.load(golden_dir / "pytorch" / "batched_nms.npz")
    boxes, scores, classes = (golden[f"{case}_{name}"] for name in ("boxes", "scores", "classes"))
    num, expected = len(boxes), golden[f"{case}_keep_{threshold}"]
    of_classes = np.where(classes[:, None] == np.arange(classes.max() + 1), scores[:, None], -np.inf)
    found = multiclass(
        boxes[None, :, None, [1, 0, 3, 2]],  # from (x, y)
        of_classes[None].astype(np.float32),
        np.array([[-1e6, -1e6, 1e6, 1e6]], np.float32),
        mode=mode,
        iou_threshold=threshold,
        score_threshold=float("-inf"),
        max_detections_per_class=num,
        max_total_detections=num,
        keep_empty=True,  # two boxes of "edge" are
    )
    assert found.num == [len(expected)]
    np.testing.assert_array_equal(found.roi_indices[0, : len(expected)], expected)
    np.testing.assert_array_equal(found.classes[0, : len(expected)], classes[expected])
