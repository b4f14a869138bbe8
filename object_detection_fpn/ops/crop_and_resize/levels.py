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


def assign_levels_in_pixels(
    boxes: tf.Tensor,
    *,
    min_level: int,
    max_level: int,
    canonical_level: int,
    canonical_size: float = 224.0,
    side_epsilon: float = 0.0,
    level_epsilon: float = 0.0,
) -> tf.Tensor:
    """Chooses levels as `assign_levels`, with what PyTorch's libraries add to the equation, and in their arithmetic.

    An epsilon decides over sides that are a power of two times the canonical one, up to the last bits of float32. Therefore
    sides are measured in pixels, and levels bear their own numbers.

    Args:
        boxes: [B, R, 4] float32, pixels. Empty boxes go to `min_level`.
        min_level: finest level to choose from.
        max_level: coarsest level to choose from.
        canonical_level: level of boxes of the canonical size.
        canonical_size: its side in pixels.
        side_epsilon: added to side / `canonical_size` (Detectron2: 1e-8).
        level_epsilon: added to the level before it is rounded down (torchvision: 1e-6).

    Returns:
        [B, R] int32 in [0, `max_level` - `min_level`], 0 = finest.
    """
    ymin, xmin, ymax, xmax = tf.unstack(tf.cast(boxes, tf.float32), axis=-1)
    side = tf.sqrt(tf.maximum(ymax - ymin, 0.0) * tf.maximum(xmax - xmin, 0.0)) / canonical_size + side_epsilon
    level = tf.floor(canonical_level + tf.math.log(side) / math.log(2.0) + level_epsilon)  # -inf for empty boxes
    return tf.cast(tf.clip_by_value(level, float(min_level), float(max_level)), tf.int32) - min_level
