"""Crops and RoIAlign by TensorFlow's kernel, level by level, for GPUs: on a CPU its gradient is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from object_detection_fpn.ops import cells as cell_ops
from object_detection_fpn.ops.crop_and_resize.align import RoIAlign, on_level
from object_detection_fpn.ops.crop_and_resize.samples import pull_inside
from object_detection_fpn.ops.dims import dim


def crop(
    pyramid: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    level_indices: tf.Tensor,
    crop_size: tuple[int, int],
    extrapolation_value: float,
) -> tf.Tensor:
    """See `Crop`: [B * R, height, width, F]."""
    return _crop(pyramid, pull_inside(boxes), level_indices, crop_size, extrapolation_value)


def align(
    pyramid: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    level_indices: tf.Tensor,
    *,
    strides: Sequence[float],
    roi_align: RoIAlign,
) -> tf.Tensor:
    """See `Align`: [B * R, height, width, F]; not for adaptive sampling, which the kernel lacks.

    Samples up to one cell beyond the border have the border's value, and those further away 0: that is a crop from a level
    that repeats its border once. Rounding decides which of both is a sample exactly one cell beyond it.
    """
    height, width = roi_align.size
    n = roi_align.sampling_ratio
    num_samples = height * n, width * n
    start, extent = on_level(boxes, level_indices, strides=strides, aligned=roi_align.aligned)
    # The first and last sample lie half a part within the RoI: as the corners of a smaller box, all come to their places.
    inset = extent * tf.constant([0.5 / num_samples[0], 0.5 / num_samples[1]])
    _, size = cell_ops.locate(pyramid, level_indices)
    last = tf.cast(size + 1, tf.float32)  # of a level and its repeated border
    corners = tf.concat([(start + inset + 1.0) / last, (start + extent - inset + 1.0) / last], axis=-1)
    bordered = [tf.pad(features, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC") for features in pyramid]
    samples = _crop(bordered, corners, level_indices, num_samples, 0.0)
    return samples if n == 1 else tf.nn.avg_pool2d(samples, n, n, "VALID")


def _crop(
    pyramid: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    level_indices: tf.Tensor,
    crop_size: tuple[int, int],
    extrapolation_value: float,
) -> tf.Tensor:
    batch, num_rois = dim(level_indices, 0), dim(level_indices, 1)
    boxes = tf.reshape(boxes, [-1, 4])
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
