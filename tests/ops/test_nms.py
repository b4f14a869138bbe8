from __future__ import annotations

import re

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops import nms

_MODES = [("native", False), ("xla", False), ("xla", True)]  # implementation, compiled


@pytest.fixture(params=_MODES, ids=["native", "xla", "xla compiled"])
def mode(request):
    return request.param


def _run(function, *args, mode, **kwargs):
    implementation, compiled = mode
    run = tf.function(
        lambda *a: function(*a, implementation=implementation, **kwargs), jit_compile=compiled, autograph=False
    )
    return run(*args)


def _random_boxes(rng, shape, side=100.0):
    corner, size = rng.uniform(-side, 5 * side, (*shape, 2)), rng.uniform(0.0, side, (*shape, 2))
    return np.concatenate([corner, corner + size], axis=-1).astype(np.float32)


def _reference(boxes, scores, max_outputs, iou_threshold, score_threshold):
    """One row, in plain loops."""
    iou = box_ops.pairwise_iou(boxes, boxes).numpy()
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if scores[i] > score_threshold and len(kept) < max_outputs and not any(iou[i, j] > iou_threshold for j in kept):
            kept.append(i)
    return kept


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), threshold=st.sampled_from([0.0, 0.3, 0.7, 1.0]), num=st.sampled_from([1, 30, 120]))
def test_is_greedy_with_ties_to_the_lowest_index(seed, threshold, num):
    rng = np.random.default_rng(seed)
    boxes, scores = _random_boxes(rng, (2, num), side=200.0), np.round(rng.random((2, num)), 1).astype(np.float32)
    boxes[:, num // 2 :] = boxes[:, : num - num // 2]  # duplicates
    for implementation in nms.IMPLEMENTATIONS:
        indices, num_kept = nms.batched_nms(
            boxes,
            scores,
            max_outputs=40,
            iou_threshold=threshold,
            score_threshold=0.2,
            implementation=implementation,
        )
        for image in range(2):
            expected = _reference(boxes[image], scores[image], 40, threshold, np.float32(0.2))
            assert indices[image].numpy().tolist() == expected + [0] * (40 - len(expected))
            assert num_kept[image] == len(expected)


@pytest.mark.parametrize("compiled", [False, True])
def test_long_rows_of_many_tiles_agree_with_the_kernel(compiled):
    rng = np.random.default_rng(0)
    boxes, scores = _random_boxes(rng, (2, 6000)), rng.random((2, 6000)).astype(np.float32)
    settings_ = {"max_outputs": 900, "iou_threshold": 0.2, "score_threshold": 0.05}
    expected = _run(nms.batched_nms, boxes, scores, mode=("native", False), **settings_)
    kept = _run(nms.batched_nms, boxes, scores, mode=("xla", compiled), **settings_)
    np.testing.assert_array_equal(kept[1], expected[1])
    np.testing.assert_array_equal(kept[0], expected[0])


def test_chain_of_overlaps_is_settled_in_order(mode):
    # Each box overlaps only its neighbours, so greedy suppression keeps every other one.
    starts = np.arange(0.0, 60.0)
    boxes = np.stack([np.zeros(60), starts, np.ones(60), starts + 1.8], axis=-1).astype(np.float32)[np.newaxis]
    scores = np.linspace(1.0, 0.5, 60, dtype=np.float32)[np.newaxis]
    indices, num = _run(
        nms.batched_nms, boxes, scores, mode=mode, max_outputs=60, iou_threshold=0.2, score_threshold=0.0
    )
    assert num[0] == 30
    np.testing.assert_array_equal(indices[0, :30], np.arange(0, 60, 2))


@pytest.mark.parametrize("scores", [[0.1, 0.1, 0.1], [np.nan, -np.inf, 0.3]])
def test_nothing_above_the_threshold_keeps_nothing(mode, scores):
    boxes = tf.constant([[[0.0, 0.0, 1.0, 1.0]] * 3])
    indices, num = _run(
        nms.batched_nms, boxes, tf.constant([scores]), mode=mode, max_outputs=5, iou_threshold=0.5, score_threshold=0.3
    )
    np.testing.assert_array_equal(indices, [[0] * 5])
    np.testing.assert_array_equal(num, [0])


def test_empty_boxes_suppress_nothing(mode):
    boxes, scores = tf.zeros([1, 4, 4]), tf.constant([[0.5, 0.9, 0.1, 0.7]])
    indices, num = _run(
        nms.batched_nms, boxes, scores, mode=mode, max_outputs=6, iou_threshold=0.0, score_threshold=0.0
    )
    np.testing.assert_array_equal(indices, [[1, 3, 0, 2, 0, 0]])
    np.testing.assert_array_equal(num, [4])


@pytest.mark.parametrize("implementation", nms.IMPLEMENTATIONS)
def test_unknown_shapes_are_taken(implementation):
    def run(boxes, scores):
        return nms.batched_nms(
            boxes, scores, max_outputs=20, iou_threshold=0.5, score_threshold=0.0, implementation=implementation
        )

    rng = np.random.default_rng(0)
    boxes, scores = _random_boxes(rng, (2, 50)), rng.random((2, 50)).astype(np.float32)
    unknown = tf.function(run, input_signature=[tf.TensorSpec([None, None, 4]), tf.TensorSpec([None, None])])
    np.testing.assert_array_equal(unknown(boxes, scores)[0], run(boxes, scores)[0])


def test_program_does_not_grow_with_the_batch():
    def num_lines(batch):
        def run(boxes, scores):
            return nms.batched_nms(
                boxes, scores, max_outputs=20, iou_threshold=0.5, score_threshold=0.0, implementation="xla"
            )

        run = tf.function(run, jit_compile=True)
        program = run.experimental_get_compiler_ir(tf.zeros([batch, 90, 4]), tf.zeros([batch, 90]))(stage="hlo")
        return len(program.splitlines())

    assert num_lines(2) == num_lines(7)


def test_large_rows_are_not_sorted_whole():
    def run(boxes, scores):
        return nms.batched_nms(
            boxes, scores, max_outputs=300, iou_threshold=0.7, score_threshold=0.0, implementation="xla"
        )

    run = tf.function(run, jit_compile=True)
    program = run.experimental_get_compiler_ir(tf.zeros([1, 20000, 4]), tf.zeros([1, 20000]))(stage="hlo")
    sorts = re.findall(r" = \(f32\[([\d,]+)\]\S*, .*\) sort\(", program)
    assert set(sorts) == {"1,4096"}


_SETTINGS = {
    "max_detections_per_class": 10,
    "max_total_detections": 12,
    "iou_threshold": 0.5,
    "score_threshold": 0.1,
}


def _multiclass(boxes, scores, windows, *, mode, **changes):
    def function(boxes, scores, windows, **kwargs):
        return nms.multiclass_nms(boxes, scores, clip_window=windows, **kwargs)

    return _run(function, boxes, scores, windows, mode=mode, **{**_SETTINGS, **changes})


def _reference_multiclass(boxes, scores, window):
    """One image with the settings above, in plain loops: (score, class, RoI, box), best first."""
    found = []
    for c in range(scores.shape[1]):
        class_boxes = boxes[:, min(c, boxes.shape[1] - 1)]
        for roi in _reference(class_boxes, scores[:, c], 10, 0.5, np.float32(0.1)):
            box = box_ops.clip(class_boxes[roi][np.newaxis], window).numpy()[0]
            if box_ops.area(box) > 0.0:
                found.append((scores[roi, c], c, roi, box))
    return sorted(found, key=lambda row: -row[0])[:12]


@pytest.mark.parametrize("num_box_classes", [1, 3])
def test_multiclass_suppresses_clips_drops_and_merges(mode, num_box_classes):
    rng = np.random.default_rng(1)
    boxes = _random_boxes(rng, (2, 70, num_box_classes))
    scores = rng.random((2, 70, 3)).astype(np.float32)
    windows = np.array([[0, 0, 300, 300], [100, 100, 300, 300]], np.float32)  # the second misses many boxes
    detections = _multiclass(boxes, scores, windows, mode=mode)
    assert [x.shape.as_list() for x in detections] == [[2, 12, 4], [2, 12], [2, 12], [2, 12], [2]]
    for image in range(2):
        expected = _reference_multiclass(boxes[image], scores[image], windows[image])
        num = len(expected)
        assert detections.num[image] == num > 0
        for field, position in (("scores", 0), ("classes", 1), ("roi_indices", 2), ("boxes", 3)):
            values = getattr(detections, field)[image].numpy()
            np.testing.assert_array_equal(values[:num], np.array([row[position] for row in expected]))
            np.testing.assert_array_equal(values[num:], np.zeros_like(values[num:]))


def test_rois_beyond_the_valid_ones_take_no_part(mode):
    rng = np.random.default_rng(2)
    boxes, scores = _random_boxes(rng, (2, 20, 1)), rng.uniform(0.2, 1.0, (2, 20, 3)).astype(np.float32)
    windows = np.array([[-500.0, -500.0, 900.0, 900.0]] * 2, np.float32)
    detections = _multiclass(boxes, scores, windows, mode=mode, num_valid=tf.constant([2, 0]))
    assert detections.num.numpy().tolist()[1] == 0
    assert detections.num[0] > 0
    assert detections.roi_indices.numpy().max() <= 1


def test_more_detections_asked_than_candidates_are_padding(mode):
    boxes, scores = tf.constant([[[[0.0, 0.0, 5.0, 5.0]]]]), tf.constant([[[0.9]]])
    detections = _multiclass(boxes, scores, tf.constant([[0.0, 0.0, 9.0, 9.0]]), mode=mode, max_detections_per_class=2)
    np.testing.assert_array_equal(detections.num, [1])
    np.testing.assert_allclose(detections.scores, [[0.9] + [0.0] * 11])
    assert detections.boxes.shape == (1, 12, 4)


def test_class_agnostic_lets_each_roi_speak_once(mode):
    boxes = tf.constant([[[[0.0, 0, 10, 10]], [[0.0, 0, 10, 9]], [[20.0, 20, 30, 30]]]])
    scores = tf.constant([[[0.5, 0.6], [0.7, 0.2], [0.3, 0.05]]])
    window = tf.constant([[0.0, 0.0, 50.0, 50.0]])
    one = _multiclass(boxes, scores, window, mode=mode, class_agnostic=True)
    assert one.num == [2]
    np.testing.assert_array_equal(one.roi_indices[0, :2], [1, 2])
    np.testing.assert_array_equal(one.classes[0, :2], [0, 0])
    two = _multiclass(boxes, scores, window, mode=mode, class_agnostic=True, max_classes_per_detection=2)
    assert two.num == [3]
    np.testing.assert_allclose(two.scores[0, :3], [0.7, 0.3, 0.2])  # 0.05 is below the threshold
    np.testing.assert_array_equal(two.classes[0, :3], [0, 0, 1])
    np.testing.assert_array_equal(two.roi_indices[0, :3], [1, 2, 1])


def test_class_agnostic_takes_the_box_of_the_best_class(mode):
    boxes = tf.constant([[[[0.0, 0, 1, 1], [0, 0, 2, 2]]]])
    detections = _multiclass(
        boxes, tf.constant([[[0.2, 0.8]]]), tf.constant([[0.0, 0.0, 9.0, 9.0]]), mode=mode, class_agnostic=True
    )
    np.testing.assert_array_equal(detections.boxes[0, 0], [0, 0, 2, 2])


def test_soft_nms_decays_scores_as_the_kernel_does():
    rng = np.random.default_rng(3)
    boxes, scores = _random_boxes(rng, (2, 40, 2), side=300.0), rng.random((2, 40, 2)).astype(np.float32)
    windows = np.array([[0, 0, 900, 900]] * 2, np.float32)
    expected = _multiclass(boxes, scores, windows, mode=("native", False), soft_nms_sigma=0.3)
    hard = _multiclass(boxes, scores, windows, mode=("native", False))
    assert np.any(expected.scores.numpy() != hard.scores.numpy())
    for compiled in (False, True):
        detections = _multiclass(boxes, scores, windows, mode=("xla", compiled), soft_nms_sigma=0.3)
        np.testing.assert_array_equal(detections.num, expected.num)
        np.testing.assert_array_equal(detections.classes, expected.classes)
        np.testing.assert_array_equal(detections.roi_indices, expected.roi_indices)
        np.testing.assert_allclose(detections.scores, expected.scores, rtol=1e-5)


def test_soft_nms_worked_case(mode):
    boxes = tf.constant([[[[0.0, 0, 10, 10]], [[0.0, 0, 10, 5]]]])  # IoU 0.5
    scores = tf.constant([[[0.8], [0.6]]])
    detections = _multiclass(
        boxes, scores, tf.constant([[0.0, 0.0, 20.0, 20.0]]), mode=mode, soft_nms_sigma=0.5, iou_threshold=0.9
    )
    np.testing.assert_allclose(detections.scores[0, :2], [0.8, 0.6 * np.exp(-0.25)], rtol=1e-6)


def test_no_gradient_passes(mode):
    boxes, scores = tf.constant([[[[0.0, 0, 10, 10]], [[20.0, 20, 30, 30]]]]), tf.constant([[[0.8], [0.6]]])
    implementation, _ = mode
    with tf.GradientTape() as tape:
        tape.watch(scores)
        detections = nms.multiclass_nms(
            boxes, scores, clip_window=tf.constant([[0.0, 0, 50, 50]]), implementation=implementation, **_SETTINGS
        )
        total = tf.reduce_sum(detections.scores)
    assert tape.gradient(total, scores) is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"implementation": "fast"}, "implementation = 'fast'. Allowed: native, xla"),
        ({"max_outputs": 0}, "max_outputs = 0. Allowed: 1 or more"),
    ],
)
def test_bad_values_are_refused(change, message):
    values = {
        "max_outputs": 3,
        "iou_threshold": 0.5,
        "score_threshold": 0.0,
        "implementation": "native",
    }
    with pytest.raises(ValueError, match=message):
        nms.batched_nms(tf.zeros([1, 2, 4]), tf.zeros([1, 2]), **{**values, **change})


def test_keeping_empty_boxes_is_what_combined_suppression_does(mode):
    rng = np.random.default_rng(4)
    boxes = _random_boxes(rng, (2, 40, 3), side=80.0)
    scores = rng.random((2, 40, 3)).astype(np.float32)
    windows = np.array([[0, 0, 150, 150], [0, 0, 90, 200]], np.float32)
    found = _multiclass(boxes, scores, windows, mode=mode, keep_empty=True, max_total_detections=25)
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
    dropped = _multiclass(boxes, scores, windows, mode=mode, max_total_detections=25)
    assert np.all(box_ops.area(dropped.boxes).numpy()[0, : dropped.num[0]] > 0)
