"""Objects of one box become one object of several classes."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from object_detection_fpn.data.example import Objects
from object_detection_fpn.data.merge import merge_equal_boxes

A, B = (0.1, 0.2, 0.5, 0.6), (0.1, 0.2, 0.5, 1.0)


def make_objects(boxes, classes, weights=None):
    n = len(boxes)
    return Objects(
        boxes=tf.reshape(tf.constant(boxes, tf.float32), [n, 4]),
        classes=tf.constant(classes, tf.int32, [n]),
        weights=tf.constant(weights or [1.0] * n, tf.float32, [n]),
        is_crowd=tf.zeros([n], tf.bool),
        is_difficult=tf.zeros([n], tf.bool),
        is_group_of=tf.zeros([n], tf.bool),
        areas=tf.range(n, dtype=tf.float32),
    )


def test_equal_boxes_become_one_with_the_classes_of_all():
    merged = merge_equal_boxes(make_objects([B, A, B, B], [2, 0, 0, 2], [0.25, 0.5, 0.75, 1.0]), num_classes=3)
    np.testing.assert_allclose(merged.boxes, [B, A], rtol=1e-6)
    assert merged.class_scores.numpy().tolist() == [[0, 1, 0, 1], [0, 1, 0, 0]]
    assert merged.classes.numpy().tolist() == [2, 0]  # of the first, as everything else
    assert merged.weights.numpy().tolist() == [0.25, 0.5]
    assert merged.areas.numpy().tolist() == [0, 1]


def test_boxes_that_differ_by_less_than_a_bin_are_equal():
    near, far = (0.10001, *A[1:]), (0.1002, *A[1:])
    assert merge_equal_boxes(make_objects([(0.10003, *A[1:]), near, far], [0, 1, 2]), num_classes=3).classes.shape == 2


def test_images_without_boxes_stay_without():
    merged = merge_equal_boxes(make_objects([], []), num_classes=3)
    assert merged.boxes.shape == (0, 4) and merged.class_scores.shape == (0, 4)


def test_objects_of_weight_0_count_only_for_boxes_without_others():
    merged = merge_equal_boxes(make_objects([A, A, A, B, B], [0, 1, 2, 0, 1], [0.0, 0.5, 1.0, 0.0, 0.0]), num_classes=3)
    assert merged.class_scores.numpy().tolist() == [[0, 0, 1, 1], [0, 1, 1, 0]]
    assert merged.weights.numpy().tolist() == [0.5, 0.0]
    assert merged.classes.numpy().tolist() == [1, 0] and merged.areas.numpy().tolist() == [1, 3]
