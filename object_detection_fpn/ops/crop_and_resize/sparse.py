"""Crops and RoIAlign as a product with the sparse matrix of interpolation weights, for CPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import tensorflow as tf

from object_detection_fpn.ops import cells as cell_ops
from object_detection_fpn.ops.crop_and_resize.align import RoIAlign, locate_bins
from object_detection_fpn.ops.crop_and_resize.samples import Interpolation, locate_samples, pull_inside
from object_detection_fpn.ops.dims import dim

Entries: TypeAlias = "tuple[tf.Tensor, tf.Tensor]"
"""Of a matrix: (row, column) [N, 2] int64 and values [N], row after row."""


def crop(
    pyramid: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    level_indices: tf.Tensor,
    crop_size: tuple[int, int],
    extrapolation_value: float,
) -> tf.Tensor:
    """See `Crop`: [B * R * height * width, F]."""
    between = locate_samples(pyramid, pull_inside(boxes), level_indices, crop_size=crop_size, fades_beyond_border=False)
    entries = _all_entries(pyramid, level_indices, between)
    crops = _multiply(pyramid, entries, _num_values(between))
    if extrapolation_value:
        weights = tf.reshape(entries[1], [-1, 4])
        crops += extrapolation_value * (1.0 - tf.reduce_sum(weights, axis=1, keepdims=True))
    return crops


def align(
    pyramid: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    level_indices: tf.Tensor,
    *,
    strides: Sequence[float],
    roi_align: RoIAlign,
) -> tf.Tensor:
    """See `Align`: [B * R * height * width, F]."""
    between = locate_bins(pyramid, boxes, level_indices, strides=strides, roi_align=roi_align, static=False)
    # Of two samples, leaving out entries of weight 0 takes longer than multiplying with them.
    find_entries = _nonzero_entries if roi_align.samples_share_cells else _all_entries
    entries = find_entries(pyramid, level_indices, between)
    return _multiply(pyramid, entries, _num_values(between))


def _num_values(between: Interpolation) -> int | tf.Tensor:
    return dim(between.rows, 0) * dim(between.rows, 1) * dim(between.rows, 2) * dim(between.columns, 2)


def _multiply(pyramid: Sequence[tf.Tensor], entries: Entries, num_values: int | tf.Tensor) -> tf.Tensor:
    """Multiplies a matrix of weights, values x cells, with the cells: [values, F] float32.

    Row i of the matrix holds the weights of the cells that value i is made of. On a CPU the product is many times faster than
    TensorFlow's kernel, and the transposed product gives the gradient, which that kernel gets wrong there: its threads add to
    the same cells without excluding each other, and lose up to 10 % of it.
    """
    make_matrix = tf.raw_ops.SparseTensorToCSRSparseMatrix
    is_never_empty = isinstance(num_values, int) and num_values > 0
    # TensorFlow's product of a matrix without rows ends the process: without RoIs there is one row, of no weights.
    num_rows = num_values if is_never_empty else tf.maximum(num_values, 1)
    num_cells = tf.add_n([tf.reduce_prod(tf.shape(features)[:3]) for features in pyramid])
    matrix = {
        "indices": entries[0],
        "values": entries[1],
        "dense_shape": tf.cast(tf.stack([num_rows, num_cells]), tf.int64),
    }

    @tf.custom_gradient
    def interpolate(*pyramid: tf.Tensor):
        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            # Made anew, which costs little: a tape outside of a `tf.function` cannot hold a sparse matrix. Transposed by
            # itself: the product that transposes would sum in a copy of the pyramid for each thread.
            transposed = tf.raw_ops.SparseMatrixTranspose(input=make_matrix(**matrix), type=tf.float32)
            return cell_ops.unflatten(tf.raw_ops.SparseMatrixMatMul(a=transposed, b=upstream), pyramid)

        flat = tf.cast(cell_ops.flatten(pyramid), tf.float32)
        return tf.raw_ops.SparseMatrixMatMul(a=make_matrix(**matrix), b=flat), gradient

    values = interpolate(*pyramid)
    return values if is_never_empty else values[:num_values]


def _all_entries(pyramid: Sequence[tf.Tensor], level_indices: tf.Tensor, between: Interpolation) -> Entries:
    """T x T entries for each value, also those of weight 0; T is static."""
    first_cell, size = cell_ops.locate(pyramid, level_indices)
    rows, row_weights, columns, column_weights = between
    num_columns, taps = columns.shape[2], range(columns.shape[3])
    # An entry of the matrix is (value, cell), and those of a value lie beside each other. Both numbers are the sum of one of
    # the value's row and one of its column, so that a single addition is of the size of all entries.
    first_of_row = first_cell[..., tf.newaxis, tf.newaxis] + rows * size[..., 1, tf.newaxis, tf.newaxis]
    y = tf.reshape(tf.range(tf.size(rows[..., 0])) * num_columns, tf.shape(rows)[:3])
    x = tf.broadcast_to(tf.range(num_columns), tf.shape(columns)[:3])
    pairs = [(row, column) for row in taps for column in taps]
    by_row = tf.stack([part for row, _ in pairs for part in (y, first_of_row[..., row])], axis=-1)
    by_column = tf.stack([part for _, column in pairs for part in (x, columns[..., column])], axis=-1)
    by_row, by_column = tf.cast(by_row, tf.int64), tf.cast(by_column, tf.int64)
    indices = by_row[..., tf.newaxis, :] + by_column[..., tf.newaxis, :, :]
    by_row = tf.stack([row_weights[..., row] for row, _ in pairs], axis=-1)
    by_column = tf.stack([column_weights[..., column] for _, column in pairs], axis=-1)
    weights = by_row[..., tf.newaxis, :] * by_column[..., tf.newaxis, :, :]
    return tf.reshape(indices, [-1, 2]), tf.reshape(weights, [-1])


def _nonzero_entries(pyramid: Sequence[tf.Tensor], level_indices: tf.Tensor, between: Interpolation) -> Entries:
    """Entries of weight 0 left out, in two steps, so that there are never T x T numbers for each value; T may be any."""
    first_cell, size = cell_ops.locate(pyramid, level_indices)
    rows, row_weights, columns, column_weights = between
    height, width = rows.shape[2], columns.shape[2]
    row_taps, column_taps = dim(rows, 3), dim(columns, 3)
    first_of_row = first_cell[..., tf.newaxis, tf.newaxis] + rows * size[..., 1, tf.newaxis, tf.newaxis]
    # First the rows that each value has, as places in [B, R, height, width, T].
    is_row = tf.repeat((row_weights != 0.0)[:, :, :, tf.newaxis], width, axis=3)
    place = tf.cast(tf.where(tf.reshape(is_row, [-1]))[:, 0], tf.int32)
    value = place // row_taps
    row = value // width * row_taps + place % row_taps  # in [B, R, height, T]
    column = value // (height * width) * width + value % width  # in [B, R, width]

    def per_row(of_rows: tf.Tensor) -> tf.Tensor:
        return tf.gather(tf.reshape(of_rows, [-1]), row)[:, tf.newaxis]

    def per_column(of_columns: tf.Tensor) -> tf.Tensor:
        return tf.gather(tf.reshape(of_columns, [-1, column_taps]), column)

    cells = per_row(first_of_row) + per_column(columns)
    weights = tf.reshape(per_row(row_weights) * per_column(column_weights), [-1])
    kept = tf.cast(tf.where(weights != 0.0)[:, 0], tf.int32)
    indices = tf.stack([tf.gather(value, kept // column_taps), tf.gather(tf.reshape(cells, [-1]), kept)], axis=-1)
    return tf.cast(indices, tf.int64), tf.gather(weights, kept)
