from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from object_detection_fpn.ops import boxes as box_ops

_coordinate = st.floats(-100.0, 100.0, width=32)


def _some_boxes(num: int):
    """Any corners, so some boxes are empty or inverted."""
    return st.lists(st.tuples(*[_coordinate] * 4), min_size=num, max_size=num).map(
        lambda rows: np.array(rows, np.float32)
    )


@pytest.mark.parametrize(
    "a, b, iou",
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1.0),
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7),
        ((0, 0, 2, 2), (0, 0, 2, 1), 0.5),
        ((0, 0, 2, 2), (2, 0, 4, 2), 0.0),  # touch
        ((0, 0, 2, 2), (5, 5, 6, 6), 0.0),
        ((0, 0, 0, 0), (0, 0, 0, 0), 0.0),  # empty
        ((1, 1, 1, 5), (0, 0, 9, 9), 0.0),  # a line
        ((2, 2, 0, 0), (0, 0, 2, 2), 0.0),  # inverted
        ((-4, -4, -2, -2), (-4, -4, -2, -3), 0.5),
    ],
)
def test_iou_of_worked_cases(a, b, iou):
    a, b = tf.constant([a], tf.float32), tf.constant([b], tf.float32)
    np.testing.assert_allclose(box_ops.pairwise_iou(a, b), [[iou]], rtol=1e-6)
    np.testing.assert_allclose(box_ops.pairwise_iou(b, a), [[iou]], rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(a=_some_boxes(3), b=_some_boxes(4))
def test_iou_and_ioa_are_shares_without_nan(a, b):
    for measure in (box_ops.pairwise_iou, box_ops.pairwise_ioa):
        values = measure(a, b).numpy()
        assert np.all(values >= 0.0)
        assert np.all(values <= 1.0 + 1e-5)
    np.testing.assert_array_equal(box_ops.pairwise_iou(a, b), np.transpose(box_ops.pairwise_iou(b, a)))


def test_ioa_divides_by_the_area_of_the_first():
    a, b = tf.constant([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]]), tf.constant([[0.0, 0.0, 1.0, 10.0]])
    np.testing.assert_allclose(box_ops.pairwise_ioa(a, b), [[0.5], [0.0]])


def test_batched_iou_equals_that_of_each_image_and_broadcasts():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 9, (1, 5, 4)).astype("f"), rng.uniform(0, 9, (3, 6, 4)).astype("f")
    batched = box_ops.pairwise_iou(a, b)
    assert batched.shape == (3, 5, 6)
    for image in range(3):
        np.testing.assert_array_equal(batched[image], box_ops.pairwise_iou(a[0], b[image]))


def test_area_of_empty_and_inverted_boxes_is_zero():
    boxes = tf.constant([[0.0, 0.0, 2.0, 3.0], [1.0, 1.0, 1.0, 5.0], [3.0, 3.0, 1.0, 1.0]])
    np.testing.assert_array_equal(box_ops.area(boxes), [6.0, 0.0, 0.0])


def test_clip_keeps_boxes_inside_each_images_window():
    boxes = tf.constant([[[-5.0, -5.0, 50.0, 50.0], [90.0, 90.0, 95.0, 95.0]]] * 2)
    windows = tf.constant([[0, 0, 10, 20], [1, 2, 60, 60]])
    clipped = box_ops.clip(boxes, windows)
    np.testing.assert_array_equal(clipped[0], [[0, 0, 10, 20], [10, 20, 10, 20]])
    np.testing.assert_array_equal(clipped[1], [[1, 2, 50, 50], [60, 60, 60, 60]])
    np.testing.assert_array_equal(box_ops.clip(boxes[0], windows[0]), clipped[0])  # one window for all


@settings(max_examples=40, deadline=None)
@given(boxes=_some_boxes(5))
def test_clip_is_idempotent_and_stays_in_the_window(boxes):
    window = tf.constant([-10.0, 0.0, 20.0, 30.0])
    clipped = box_ops.clip(boxes, window)
    assert np.all(clipped[:, :2] >= window[:2]) and np.all(clipped[:, 2:] <= window[2:])
    np.testing.assert_array_equal(box_ops.clip(clipped, window), clipped)


@pytest.mark.parametrize("size", [(20, 40), (20.0, 40.0), np.array([20, 40], np.int32)])
def test_normalize_divides_rows_by_height_and_columns_by_width(size):
    boxes = tf.constant([[2.0, 4.0, 10.0, 40.0]])
    normalized = box_ops.normalize(boxes, tf.constant(size) if isinstance(size, np.ndarray) else size)
    np.testing.assert_allclose(normalized, [[0.1, 0.1, 0.5, 1.0]])
    np.testing.assert_allclose(box_ops.denormalize(normalized, size), boxes)


def test_normalize_takes_one_size_for_each_image():
    boxes = tf.ones([2, 3, 4]) * 10.0
    normalized = box_ops.normalize(boxes, tf.constant([[10, 20], [100, 40]]))
    np.testing.assert_allclose(normalized[0], [[1, 0.5, 1, 0.5]] * 3)
    np.testing.assert_allclose(normalized[1], [[0.1, 0.25, 0.1, 0.25]] * 3)


def test_sizes_may_be_pairs_of_scalar_tensors():
    boxes = tf.constant([[2.0, 4.0, 10.0, 40.0]])
    size = (tf.constant(20), tf.constant(40))
    np.testing.assert_allclose(box_ops.normalize(boxes, size), [[0.1, 0.1, 0.5, 1.0]])


def test_detection_frame_is_the_image_without_its_padding():
    boxes = tf.constant([[[0.0, 0.0, 64.0, 128.0], [32.0, 64.0, 96.0, 160.0], [0.0, 0.0, 0.0, 0.0]]])
    np.testing.assert_allclose(
        box_ops.to_detection_frame(boxes, tf.constant([[64, 128, 3]])), [[[0, 0, 1, 1], [0.5, 0.5, 1, 1], [0, 0, 0, 0]]]
    )


def test_change_frame_makes_the_window_the_unit_box():
    windows = tf.constant([[2.0, 4.0, 6.0, 12.0], [0.0, 0.0, 2.0, 2.0]])
    boxes = tf.stack([windows[:1], tf.constant([[1.0, 1.0, 3.0, 4.0]])])
    np.testing.assert_allclose(box_ops.change_frame(boxes, windows), [[[0, 0, 1, 1]], [[0.5, 0.5, 1.5, 2.0]]])
    np.testing.assert_allclose(box_ops.change_frame(boxes[0], windows[0]), [[0, 0, 1, 1]])


@pytest.mark.parametrize(
    "flip_boxes, flip_image",
    [
        (box_ops.flip_left_right, tf.image.flip_left_right),
        (box_ops.flip_up_down, tf.image.flip_up_down),
    ],
)
def test_flipped_box_covers_what_it_covered(flip_boxes, flip_image):
    image = np.zeros((10, 20, 1), np.float32)
    image[2:5, 6:16] = 1.0
    top, left, bottom, right = np.round(
        flip_boxes(tf.constant([0.2, 0.3, 0.5, 0.8])).numpy() * [10, 20, 10, 20]
    ).astype(int)
    flipped = flip_image(image).numpy()
    assert flipped[top:bottom, left:right].sum() == image.sum() == (bottom - top) * (right - left)


def test_scale_multiplies_rows_and_columns():
    np.testing.assert_array_equal(box_ops.scale(tf.ones([1, 4]), (2.0, 3.0)), [[2, 3, 2, 3]])
