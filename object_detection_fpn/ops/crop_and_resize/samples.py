"""Where the samples of a crop lie, and what every crop and RoIAlign comes down to: weighted sums of cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from object_detection_fpn.ops import cells as cell_ops

# Two float32 steps below 1: enough that rounding never carries the last sample of a box that ends on the border beyond it.
_ROUNDING = 2.0**-23


class Interpolation(NamedTuple):
    """Of which T rows and T columns of its level each value of a RoI is the weighted sum; its weights are their products."""

    rows: tf.Tensor  # [B, R, height, T] int32
    row_weights: tf.Tensor  # [B, R, height, T]
    columns: tf.Tensor  # [B, R, width, T] int32
    column_weights: tf.Tensor  # [B, R, width, T]


def as_coordinates(boxes: tf.Tensor) -> tf.Tensor:
    """Boxes [B, R, 4] of any float type -> float32, finite, through which no gradient passes."""
    # float32 even for bfloat16 features: with 8 bits, 0.501 equals 0.5.
    boxes = tf.stop_gradient(tf.cast(boxes, tf.float32))
    return tf.where(tf.reduce_all(tf.math.is_finite(boxes), axis=-1, keepdims=True), boxes, 0.0)


def pull_inside(boxes: tf.Tensor) -> tf.Tensor:
    """Without this, rounding turns the last row or column of up to 3 % of the boxes that end on the border into padding."""
    return tf.where(tf.abs(boxes - 1.0) <= _ROUNDING, 1.0 - _ROUNDING, boxes)


def locate_samples(
    pyramid: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    level_indices: tf.Tensor,
    *,
    crop_size: tuple[int, int],
    fades_beyond_border: bool,
) -> Interpolation:
    """The two rows and columns between which the samples of crops lie."""
    _, size = cell_ops.locate(pyramid, level_indices)
    rows = _locate_along_axis(boxes[..., 0], boxes[..., 2], size[..., 0], crop_size[0], fades_beyond_border)
    columns = _locate_along_axis(boxes[..., 1], boxes[..., 3], size[..., 1], crop_size[1], fades_beyond_border)
    return Interpolation(*rows, *columns)


def surround(inside: tf.Tensor, presence: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The cells between which samples along one axis lie.

    Args:
        inside: [...] float32, positions in [0, size - 1].
        presence: [...] weights of the samples.
        size: int32 cells along the axis, broadcast to the positions.

    Returns:
        Cells (low, high), [..., 2] int32 in [0, size), and their weights, [..., 2]; together `presence`.
    """
    low = tf.floor(inside)
    fraction = inside - low
    low_cell = tf.cast(low, tf.int32)
    high_cell = tf.minimum(low_cell + 1, size - 1)
    weights = tf.stack([presence * (1.0 - fraction), presence * fraction], axis=-1)
    return tf.stack([low_cell, high_cell], axis=-1), weights


def shares_of(num_samples: int) -> np.ndarray:
    """Where samples lie between the ends of a box: [S] float32 from 0 to 1, or 0.5.

    They are those of `tf.linspace`, to the last bit, which adds 70 operations to a graph.
    """
    if num_samples == 1:
        return np.array([0.5], np.float32)
    shares = np.arange(num_samples, dtype=np.float32) * (np.float32(1.0) / np.float32(num_samples - 1))
    shares[-1] = 1.0
    return shares


def _locate_along_axis(
    start: tf.Tensor, stop: tf.Tensor, size: tf.Tensor, num_samples: int, fades_beyond_border: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """The cells, and their weights, between which each sample along one axis lies.

    Args:
        start: [B, R] normalized first end of the boxes.
        stop: [B, R] normalized last end.
        size: [B, R] int32 cells along the axis.
        num_samples: S.
        fades_beyond_border: weights sink from 1 to 0 over one cell beyond the border; otherwise they are 0 there.

    Returns:
        Cells [B, R, S, 2] and weights [B, R, S, 2]; those of a sample are together 1, less beyond the border.
    """
    last = tf.cast(size - 1, tf.float32)[..., tf.newaxis]
    shares = tf.constant(shares_of(num_samples))
    position = (start[..., tf.newaxis] * (1.0 - shares) + stop[..., tf.newaxis] * shares) * last
    inside = tf.clip_by_value(position, 0.0, last)
    if fades_beyond_border:
        presence = tf.maximum(1.0 - tf.abs(position - inside), 0.0)
    else:
        presence = tf.cast(tf.equal(position, inside), tf.float32)
    return surround(inside, presence, size[..., tf.newaxis])
