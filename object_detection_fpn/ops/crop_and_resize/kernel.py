"""Crops by TensorFlow's kernel, level by level, for GPUs: on a CPU its gradient is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from object_detection_fpn.ops.crop_and_resize.samples import pull_inside
from object_detection_fpn.ops.dims import dim


def crop(
    pyramid: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    level_indices: tf.Tensor,
    crop_size: tuple[int, int],
    extrapolation_value: float,
) -> tf.Tensor:
    """-> [B * R, height, width, F] float32."""
    batch, num_rois = dim(level_indices, 0), dim(level_indices, 1)
    boxes = tf.reshape(pull_inside(boxes), [-1, 4])
    images = tf.repeat(tf.range(batch), num_rois)
    level_indices = tf.reshape(level_indices, [-1])
    rows = [tf.cast(tf.where(level_indices == level)[:, 0], tf.int32) for level in range(len(pyramid))]
    crops = [
        tf.image.crop_and_resize(
            tf.cast(features, tf.float32),
            tf.gather(boxes, level_rows),
            tf.gather(images, level_rows),
            crop_size,
            extrapolation_value=extrapolation_value,
        )
        for features, level_rows in zip(pyramid, rows, strict=True)
    ]
    return tf.dynamic_stitch(rows, crops)
