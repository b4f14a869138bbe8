"""The pyramid level that each RoI is pooled from (FPN, section 4.2)."""

from __future__ import annotations

import math

import tensorflow as tf


def assign_levels(
    boxes_normalized: tf.Tensor, *, num_levels: int, unit_level_index: int, size_ratio: float | tf.Tensor
) -> tf.Tensor:
    """Chooses the pyramid level each RoI is pooled from (FPN, section 4.2, equation 1).

    Args:
        boxes_normalized: [B, R, 4] float32, shares of the padded image. Empty boxes go to level 0.
        num_levels: number of levels to choose from.
        unit_level_index: index of the level for boxes of the canonical size, 224 x 224 pixels in the paper.
        size_ratio: sqrt(height * width) of the padded image over the canonical side, usually sqrt(height * width) / 224.

    Returns:
        [B, R] int32 in [0, num_levels), 0 = finest.

    Raises:
        ValueError: if `num_levels` is below 1.
    """
    if num_levels < 1:
        raise ValueError(f"num_levels = {num_levels}. Allowed: 1 or more.")
    ymin, xmin, ymax, xmax = tf.unstack(tf.cast(boxes_normalized, tf.float32), axis=-1)
    side = tf.sqrt(tf.maximum(ymax - ymin, 0.0) * tf.maximum(xmax - xmin, 0.0)) * size_ratio
    level = tf.floor(tf.math.log(side) / math.log(2.0) + unit_level_index)  # -inf for empty boxes
    return tf.cast(tf.clip_by_value(level, 0.0, num_levels - 1.0), tf.int32)
