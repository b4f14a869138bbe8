"""Merges objects that share a box into one with several classes, for data sets that label a box more than once."""

from __future__ import annotations

import tensorflow as tf

from object_detection_fpn.data.example import Objects

_NUM_BINS = 10000  # of a coordinate, as in the Object Detection API: boxes of equal bins are the same box


def merge_equal_boxes(objects: Objects, *, num_classes: int) -> Objects:
    """Keeps the first object of each box and collects the classes of all of them in `class_scores`.

    Args:
        objects: N rows, boxes normalized.
        num_classes: C.

    Returns:
        Up to N rows in the order of their first objects, whose other fields they have; `class_scores` is [N, C+1], 1 for
        each class of the box, not divided by their number, and 0 for the background, which comes first.
    """
    bins = tf.cast(objects.boxes * (_NUM_BINS - 1), tf.int64)
    keys = tf.reduce_sum(bins * tf.constant([_NUM_BINS**power for power in range(4)], tf.int64), axis=-1)
    unique, box_of_object = tf.unique(keys)
    num_boxes = tf.shape(unique)[0]
    first = tf.math.unsorted_segment_min(tf.range(tf.shape(keys)[0]), box_of_object, num_boxes)
    scores = tf.math.unsorted_segment_max(tf.one_hot(objects.classes + 1, num_classes + 1), box_of_object, num_boxes)
    merged = objects.select_rows(first)
    return merged._replace(class_scores=tf.ensure_shape(scores, [None, num_classes + 1]))
