"""Crops and RoIAlign as gathers from one flat buffer of all levels, and their gradient as products of matrices, for TPUs.

XLA compiles both. Beyond the border of a level a crop fades to the extrapolation value over one cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from object_detection_fpn.ops import cells as cell_ops
from object_detection_fpn.ops.crop_and_resize.align import RoIAlign, locate_bins
from object_detection_fpn.ops.crop_and_resize.samples import Interpolation, locate_samples
from object_detection_fpn.ops.dims import dim


def crop(
    pyramid: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    level_indices: tf.Tensor,
    crop_size: tuple[int, int],
    extrapolation_value: float,
) -> tf.Tensor:
    """See `Crop`: [B, R, height, width, F]."""
    between = locate_samples(pyramid, boxes, level_indices, crop_size=crop_size, fades_beyond_border=True)
    crops, weights = _interpolate(pyramid, level_indices, between)
    if extrapolation_value:
        crops += extrapolation_value * (1.0 - tf.reduce_sum(weights, axis=0))[..., tf.newaxis]
    return crops


def align(
    pyramid: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    level_indices: tf.Tensor,
    *,
    strides: Sequence[float],
    roi_align: RoIAlign,
) -> tf.Tensor:
    """See `Align`: [B, R, height, width, F]."""
    between = locate_bins(pyramid, boxes, level_indices, strides=strides, roi_align=roi_align, static=True)
    return _interpolate(pyramid, level_indices, between)[0]


def _interpolate(
    pyramid: Sequence[tf.Tensor], level_indices: tf.Tensor, between: Interpolation
) -> tuple[tf.Tensor, tf.Tensor]:
    """Values [B, R, height, width, F] float32, and the weights of their cells, [T * T, B, R, height, width]."""
    cells, weights = _cells(pyramid, level_indices, between)

    @tf.custom_gradient
    def interpolate(*pyramid: tf.Tensor):
        flat = cell_ops.flatten(pyramid)
        num_parts = cells.shape[0]
        parts = [tf.cast(tf.gather(flat, cells[i]), tf.float32) * weights[i][..., tf.newaxis] for i in range(num_parts)]
        return tf.add_n(parts), lambda upstream: _static_gradient(pyramid, level_indices, between, upstream)

    return interpolate(*pyramid), weights


def _static_gradient(
    pyramid: Sequence[tf.Tensor], level_indices: tf.Tensor, between: Interpolation, upstream: tf.Tensor
) -> list[tf.Tensor]:
    """Spreads the gradient of the crops over the rows and columns of their levels by products of matrices.

    Adding it to the cells sample by sample takes a TPU longer, and several times the memory. Images come one after the
    other: what lies between the products, [R, height, widest level, F], is the size of many crops. The second product gives
    all levels, one below the other: cutting its factor to the width of each took longer than both products.
    """
    dtype = pyramid[0].dtype
    heights, widths = ([dim(features, axis) for features in pyramid] for axis in (1, 2))
    widest = max(widths) if all(isinstance(width, int) for width in widths) else tf.reduce_max(tf.stack(widths))
    tops = tf.cumsum(tf.stack(heights), exclusive=True)
    first_rows = tf.gather(tops, level_indices)[..., tf.newaxis, tf.newaxis]  # of the level of each RoI

    def one_image(image: tuple[tf.Tensor, Interpolation, tf.Tensor]) -> list[tf.Tensor]:
        first_rows, between, upstream = image
        row_matrix = tf.cast(_as_matrix(between.rows + first_rows, between.row_weights, sum(heights)), dtype)
        # Every RoI in as many columns as the widest level has, although it fills those of its own level only.
        column_matrix = tf.cast(_as_matrix(between.columns, between.column_weights, widest), dtype)
        spread = tf.einsum("rxw,yrxf->rywf", column_matrix, upstream)
        levels = tf.split(tf.einsum("ryh,rywf->hwf", row_matrix, spread), heights)
        return [level[:, :width] for level, width in zip(levels, widths, strict=True)]

    # Rows first, as the products want them: a TPU lays them out once so, and not anew for each image.
    upstream = tf.transpose(tf.cast(upstream, dtype), [0, 2, 1, 3, 4])
    signature = [tf.TensorSpec(features.shape[1:], dtype) for features in pyramid]
    return tf.map_fn(one_image, (first_rows, between, upstream), fn_output_signature=signature, parallel_iterations=1)


def _as_matrix(cells: tf.Tensor, weights: tf.Tensor, num_cells: int | tf.Tensor) -> tf.Tensor:
    """Cells and weights [R, S, T] along one axis -> [R, S, num_cells], the weight that each cell has in each value."""
    place = tf.range(num_cells)
    return tf.add_n(
        [
            tf.where(cell[..., tf.newaxis] == place, weight[..., tf.newaxis], 0.0)
            for cell, weight in zip(tf.unstack(cells, axis=-1), tf.unstack(weights, axis=-1), strict=True)
        ]
    )


def _cells(
    pyramid: Sequence[tf.Tensor], level_indices: tf.Tensor, between: Interpolation
) -> tuple[tf.Tensor, tf.Tensor]:
    """The cells that values are interpolated from.

    Returns:
        The rows of `cells.flatten` of which each value is made, [T * T, B, R, height, width] int32, and their weights, of the
        same shape.
    """
    first_cell, size = cell_ops.locate(pyramid, level_indices)
    first_cell = first_cell[..., tf.newaxis, tf.newaxis]
    width = size[..., 1, tf.newaxis, tf.newaxis]
    rows, row_weights, columns, column_weights = (tf.unstack(part, axis=-1) for part in between)

    pairs = [(y, x) for y in range(len(rows)) for x in range(len(columns))]
    cells = tf.stack(
        [first_cell + rows[y][..., :, tf.newaxis] * width + columns[x][..., tf.newaxis, :] for y, x in pairs]
    )
    weights = tf.stack([row_weights[y][..., :, tf.newaxis] * column_weights[x][..., tf.newaxis, :] for y, x in pairs])
    return cells, weights
