"""The rows that suppression works on, one for each class or one for all, and what it leaves of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from object_detection_fpn.ops.dims import dim
from object_detection_fpn.ops.nms.common import NEVER, BoxLookUp, Kept, as_look_up


class Candidates(NamedTuple):
    """What suppression leaves of each image, n rows in no order."""

    boxes: tf.Tensor  # [B, n, 4]
    scores: tf.Tensor  # [B, n], NEVER in rows that are not real
    classes: tf.Tensor  # [B, n]
    roi_indices: tf.Tensor  # [B, n]


def look_up_of_classes(boxes: tf.Tensor, num_classes: int) -> BoxLookUp:
    """The boxes [B, R, 4] that all classes share, as a function of the rows [B * C, n] that `suppress_within_classes` makes."""

    def look_up(rows: tf.Tensor) -> tf.Tensor:
        num_rows = dim(rows, 1)
        of_images = tf.gather(boxes, tf.reshape(rows, [dim(boxes, 0), num_classes * num_rows]), batch_dims=1)
        return tf.reshape(of_images, [dim(boxes, 0) * num_classes, num_rows, 4])

    return look_up


def suppress_within_classes(
    boxes: tf.Tensor | BoxLookUp, scores: tf.Tensor, max_per_class: int, suppress: Callable[..., Kept]
) -> Candidates:
    batch, num_rois, num_classes = dim(scores, 0), dim(scores, 1), scores.shape[2]
    if not callable(boxes):
        boxes = tf.transpose(tf.broadcast_to(boxes, [batch, num_rois, num_classes, 4]), [0, 2, 1, 3])
        boxes = tf.reshape(boxes, [batch * num_classes, num_rois, 4])  # a row for each class of each image
    scores = tf.reshape(tf.transpose(scores, [0, 2, 1]), [batch * num_classes, num_rois])
    kept = suppress(boxes, scores, max_outputs=max_per_class)
    is_real = tf.range(max_per_class) < kept.num[:, tf.newaxis]
    num_candidates = num_classes * max_per_class
    return Candidates(
        boxes=tf.reshape(as_look_up(boxes)(kept.indices), [batch, num_candidates, 4]),
        scores=tf.reshape(tf.where(is_real, kept.scores, NEVER), [batch, num_candidates]),
        classes=tf.broadcast_to(tf.repeat(tf.range(num_classes), max_per_class), [batch, num_candidates]),
        roi_indices=tf.reshape(kept.indices, [batch, num_candidates]),
    )


def suppress_across_classes(
    boxes: tf.Tensor, scores: tf.Tensor, max_rois: int, num_top_classes: int, suppress: Callable[..., Kept]
) -> Candidates:
    batch = dim(scores, 0)
    top_scores, top_classes = tf.math.top_k(scores, k=num_top_classes)  # [B, R, T]
    boxes = boxes[:, :, 0] if boxes.shape[2] == 1 else tf.gather(boxes, top_classes[:, :, 0], batch_dims=2)
    kept = suppress(boxes, top_scores[:, :, 0], max_outputs=max_rois)
    is_real = tf.range(max_rois) < kept.num[:, tf.newaxis]
    other_scores = tf.gather(top_scores[:, :, 1:], kept.indices, batch_dims=1)
    scores = tf.concat([kept.scores[..., tf.newaxis], other_scores], axis=-1)
    num_candidates = max_rois * num_top_classes
    return Candidates(
        boxes=tf.repeat(tf.gather(boxes, kept.indices, batch_dims=1), num_top_classes, axis=1),
        scores=tf.reshape(tf.where(is_real[..., tf.newaxis], scores, NEVER), [batch, num_candidates]),
        classes=tf.reshape(tf.gather(top_classes, kept.indices, batch_dims=1), [batch, num_candidates]),
        roi_indices=tf.repeat(kept.indices, num_top_classes, axis=1),
    )
