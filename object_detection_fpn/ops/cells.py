"""All cells of all levels and images of a pyramid as the rows of one matrix, so that one gather serves them all.

N cells: level by level, image by image, row by row, so that levels are taken apart without a copy. One index a cell: XLA
gathers several times faster than with two.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from object_detection_fpn.ops.dims import dim


def flatten(pyramid: Sequence[tf.Tensor]) -> tf.Tensor:
    """Per level [B, H, W, F] -> [N, F]."""
    return tf.concat([tf.reshape(features, [-1, features.shape[-1]]) for features in pyramid], axis=0)


def unflatten(flat: tf.Tensor, pyramid: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """[N, F] -> per level, of the shape and type of `pyramid`."""
    batch = dim(pyramid[0], 0)
    levels = tf.split(flat, [batch * cells for cells in _num_cells(pyramid)])
    # The type last: a pass over each level and not one over everything before.
    return [
        tf.cast(tf.reshape(values, tf.shape(level)), level.dtype) for values, level in zip(levels, pyramid, strict=True)
    ]


def locate(pyramid: Sequence[tf.Tensor], level_indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where levels begin.

    Args:
        pyramid: per level [B, H, W, F].
        level_indices: [B, S] int32 in [0, len(pyramid)).

    Returns:
        The row of the first cell of each chosen level of its image, [B, S] int32, and (height, width) of that level,
        [B, S, 2] int32.
    """
    sizes = [(dim(features, 1), dim(features, 2)) for features in pyramid]
    batch = dim(level_indices, 0)
    num_cells = tf.stack(_num_cells(pyramid))
    # [B, levels]
    first_cells = tf.cumsum(batch * num_cells, exclusive=True) + tf.range(batch)[:, tf.newaxis] * num_cells
    first_cell = tf.gather(first_cells, level_indices, batch_dims=1)
    return first_cell, tf.gather(tf.stack([tf.stack(size) for size in sizes]), level_indices)


def _num_cells(pyramid: Sequence[tf.Tensor]) -> list[int | tf.Tensor]:
    return [dim(features, 1) * dim(features, 2) for features in pyramid]
