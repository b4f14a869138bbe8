"""All cells of all levels and images of a pyramid as the rows of one matrix, so that one gather serves them all.

N cells: image by image, level by level, row by row. One index a cell: XLA gathers several times faster than with two.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from object_detection_fpn.ops.dims import dim


def flatten(pyramid: Sequence[tf.Tensor]) -> tf.Tensor:
    """Per level [B, H, W, F] -> [N, F]."""
    batch, num_filters = dim(pyramid[0], 0), pyramid[0].shape[-1]
    levels = [
        tf.reshape(features, [batch, cells, num_filters])
        for features, cells in zip(pyramid, _num_cells(pyramid), strict=True)
    ]
    return tf.reshape(tf.concat(levels, axis=1), [-1, num_filters])


def unflatten(flat: tf.Tensor, pyramid: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """[N, F] -> per level, of the shape and type of `pyramid`."""
    num_cells = _num_cells(pyramid)
    images = tf.reshape(flat, [-1, sum(num_cells), pyramid[0].shape[-1]])
    levels = tf.split(images, num_cells, axis=1)
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
    num_cells = _num_cells(pyramid)
    first_cells = tf.cumsum(tf.stack(num_cells), exclusive=True)
    first_cell = tf.range(dim(level_indices, 0))[:, tf.newaxis] * sum(num_cells) + tf.gather(first_cells, level_indices)
    return first_cell, tf.gather(tf.stack([tf.stack(size) for size in sizes]), level_indices)


def _num_cells(pyramid: Sequence[tf.Tensor]) -> list[int | tf.Tensor]:
    return [dim(features, 1) * dim(features, 2) for features in pyramid]
