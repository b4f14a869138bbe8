"""Crops as a product with the sparse matrix of interpolation weights, for CPUs."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from object_detection_fpn.ops import cells as cell_ops
from object_detection_fpn.ops.crop_and_resize.samples import locate_samples, pull_inside


def crop(
    pyramid: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    level_indices: tf.Tensor,
    crop_size: tuple[int, int],
    extrapolation_value: float,
) -> tf.Tensor:
    """-> [B * R * height * width, F] float32.

    Row i of the matrix holds the weights of the four cells that sample i lies between. On a CPU the product is many times
    faster than TensorFlow's kernel, and the transposed product gives the gradient, which that kernel gets wrong there: its
    threads add to the same cells without excluding each other, and lose up to 10 % of it.
    """
    first_cell, size = cell_ops.locate(pyramid, level_indices)
    between = locate_samples(pyramid, pull_inside(boxes), level_indices, crop_size=crop_size, fades_beyond_border=False)
    top, bottom = (first_cell[..., tf.newaxis] + rows * size[..., 1, tf.newaxis] for rows in between.rows)
    left, right = between.columns
    # An entry of the matrix is (sample, cell), and those of a sample lie beside each other. Both numbers are the sum of one of
    # the sample's row and one of its column, so that a single addition is of the size of all entries.
    y = tf.reshape(tf.range(tf.size(top)) * crop_size[1], tf.shape(top))
    x = tf.broadcast_to(tf.range(crop_size[1]), tf.shape(left))
    by_row = tf.cast(tf.stack([y, top, y, top, y, bottom, y, bottom], axis=-1), tf.int64)
    by_column = tf.cast(tf.stack([x, left, x, right, x, left, x, right], axis=-1), tf.int64)
    indices = by_row[..., tf.newaxis, :] + by_column[..., tf.newaxis, :, :]
    (top, bottom), (left, right) = between.row_weights, between.column_weights
    by_row, by_column = tf.stack([top, top, bottom, bottom], axis=-1), tf.stack([left, right, left, right], axis=-1)
    weights = tf.reshape(by_row[..., tf.newaxis, :] * by_column[..., tf.newaxis, :, :], [-1, 4])
    num_samples = tf.shape(weights)[0]
    make_matrix = tf.raw_ops.SparseTensorToCSRSparseMatrix
    is_never_empty = bool(weights.shape.num_elements())
    # TensorFlow's product of a matrix without rows ends the process: without RoIs there is one row, of no weights.
    num_rows = num_samples if is_never_empty else tf.maximum(num_samples, 1)
    num_cells = tf.add_n([tf.reduce_prod(tf.shape(features)[:3]) for features in pyramid])
    entries = {
        "indices": tf.reshape(indices, [-1, 2]),
        "values": tf.reshape(weights, [-1]),
        "dense_shape": tf.cast(tf.stack([num_rows, num_cells]), tf.int64),
    }

    @tf.custom_gradient
    def interpolate(*pyramid: tf.Tensor):
        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            # Made anew, which costs little: a tape outside of a `tf.function` cannot hold a sparse matrix. Transposed by
            # itself: the product that transposes would sum in a copy of the pyramid for each thread.
            transposed = tf.raw_ops.SparseMatrixTranspose(input=make_matrix(**entries), type=tf.float32)
            return cell_ops.unflatten(tf.raw_ops.SparseMatrixMatMul(a=transposed, b=upstream), pyramid)

        flat = tf.cast(cell_ops.flatten(pyramid), tf.float32)
        return tf.raw_ops.SparseMatrixMatMul(a=make_matrix(**entries), b=flat), gradient

    crops = interpolate(*pyramid)
    if not is_never_empty:
        crops = crops[:num_samples]
    if extrapolation_value:
        crops += extrapolation_value * (1.0 - tf.reduce_sum(weights, axis=1, keepdims=True))
    return crops
