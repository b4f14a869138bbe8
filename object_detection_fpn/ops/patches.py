"""The surroundings of some cells of a pyramid, as a convolution sees them; tf.image's patches are those of every cell.

What a convolution says of a few cells needs these alone, and so does its gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from object_detection_fpn.ops import cells as cell_ops
from object_detection_fpn.ops.dims import dim


def gather_patches(
    pyramid: Sequence[tf.Tensor],
    level_indices: tf.Tensor,
    rows: tf.Tensor,
    columns: tf.Tensor,
    *,
    kernel_size: int,
    dilation_rate: int = 1,
) -> tf.Tensor:
    """Cuts out what a convolution of stride 1 and "same" padding is multiplied with at some cells.

    Args:
        pyramid: per level [B, H, W, F] of any float type.
        level_indices: [B, S] int32 in [0, len(pyramid)), the level of each cell.
        rows: [B, S] int32, its row in that level.
        columns: [B, S] int32, its column.
        kernel_size: of the convolution.
        dilation_rate: of the convolution.

    Returns:
        [B, S, kernel_size * kernel_size, F] of the pyramid's type, row by row; zeros beyond the border. Gradients are summed
        in float32.
    """
    first_cell, size = cell_ops.locate(pyramid, level_indices)
    first_cell, size = first_cell[..., tf.newaxis], size[:, :, tf.newaxis]
    # Of an even total the smaller half comes first, as in "same" padding.
    steps = np.arange(kernel_size) * dilation_rate - (kernel_size - 1) * dilation_rate // 2
    rows = rows[..., tf.newaxis] + np.repeat(steps, kernel_size).astype(np.int32)  # [B, S, kernel_size^2]
    columns = columns[..., tf.newaxis] + np.tile(steps, kernel_size).astype(np.int32)
    is_inside = (rows >= 0) & (rows < size[..., 0]) & (columns >= 0) & (columns < size[..., 1])
    cells = tf.where(is_inside, first_cell + rows * size[..., 1] + columns, first_cell)

    @tf.custom_gradient
    def gather(*pyramid: tf.Tensor):
        flat = cell_ops.flatten(pyramid)

        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            upstream = tf.where(is_inside[..., tf.newaxis], upstream, tf.zeros([], flat.dtype))
            if flat.dtype == tf.float32:
                total = tf.tensor_scatter_nd_add(tf.zeros(tf.shape(flat)), cells[..., tf.newaxis], upstream)
            else:
                total = _scatter_sums(flat, cells, upstream)
            return cell_ops.unflatten(total, pyramid)

        return tf.where(is_inside[..., tf.newaxis], tf.gather(flat, cells), tf.zeros([], flat.dtype)), gradient

    return gather(*pyramid)


def _scatter_sums(flat: tf.Tensor, cells: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Sums values [B, S, n, F] that share one of the cells [B, S, n] of their image, into zeros of the shape of `flat`.

    In a type of few bits, in which one value after the other must not be added: products of matrices sum in float32. All
    values of a cell then write the same sum. A float32 buffer of all cells would take a TPU longer than the rest.
    """
    batch, num_filters = dim(cells, 0), values.shape[-1]
    cells = tf.reshape(cells, [batch, -1])
    is_same = tf.cast(cells[:, :, tf.newaxis] == cells[:, tf.newaxis, :], values.dtype)
    sums = tf.matmul(is_same, tf.reshape(values, [batch, -1, num_filters]))
    return tf.tensor_scatter_nd_update(tf.zeros(tf.shape(flat), flat.dtype), cells[..., tf.newaxis], sums)
