"""Merges objects that share a box into one with several classes, for data sets that label a box more than once."""

from __future__ import annotations

import tensorflow as tf

from object_detection_fpn.data.example import Objects

_NUM_BINS = 10000  # of a coordinate, as in the Object Detection API: boxes of equal bins are the same box


def merge_equal_boxes(objects: Objects, *, num_classes: int) -> Objects:
    """Keeps the first object of each box and collects the classes of all of them in `class_scores`.

    Objects of weight 0, which are to be ignored, count only for boxes that have no others.

    Args:
        objects: N rows, boxes normalized.
        num_classes: C.

    Returns:
        Up to N rows in the order in which boxes first occur, with the fields of the first object of the box that counts;
        `class_scores` is [N, C+1], 1 for each class of the box, not divided by their number, and 0 for the background, which
        comes first.
    """
    bins = tf.cast(objects.boxes * (_NUM_BINS - 1), tf.int64)
    keys = tf.reduce_sum(bins * tf.constant([_NUM_BINS**power for power in range(4)], tf.int64), axis=-1)
    unique, box_of_object = tf.unique(keys)
    num, num_boxes = tf.shape(keys)[0], tf.shape(unique)[0]
    largest_weights = tf.math.unsorted_segment_max(objects.weights, box_of_object, num_boxes)
    counts = (objects.weights > 0) | (tf.gather(largest_weights, box_of_object) <= 0)  # [N]
    first = tf.math.unsorted_segment_min(tf.where(counts, tf.range(num), num), box_of_object, num_boxes)
    of_objects = tf.one_hot(objects.classes + 1, num_classes + 1) * tf.cast(counts, tf.float32)[:, tf.newaxis]
    scores = tf.math.unsorted_segment_max(of_objects, box_of_object, num_boxes)
    return objects.select_rows(first)._replace(class_scores=tf.ensure_shape(scores, [None, num_classes + 1]))
