"""Pools RoIs from the pyramid level that fits their size (FPN, section 4.2); tf.image knows one level and no XLA.

A crop of side S samples S x S points of a box bilinearly, corners aligned: the first point lies on the box's corner, the last
on the opposite one, and a normalized coordinate y is row y * (H - 1) of a level with H rows. RoIAlign samples the insides of
S x S cells instead and averages over each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import tensorflow as tf

from object_detection_fpn.ops import cells as cell_ops
from object_detection_fpn.ops.dims import dim

IMPLEMENTATIONS = ("native", "sparse", "kernel", "static")

# Two float32 steps below 1: enough that rounding never carries the last sample of a box that ends on the border beyond it.
_ROUNDING = 2.0**-23


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


def multilevel_crop_and_resize(
    pyramid: Sequence[tf.Tensor],
    boxes_normalized: tf.Tensor,
    level_indices: tf.Tensor,
    *,
    crop_size: int | tuple[int, int],
    implementation: str,
    extrapolation_value: float = 0.0,
) -> tf.Tensor:
    """Crops each RoI from its own pyramid level; no other level is touched for it.

    "sparse" is a product with the sparse matrix of interpolation weights, made for CPUs. "kernel" is TensorFlow's kernel,
    level by level, made for GPUs: on a CPU its gradient is wrong. "native" is the one of the two that suits this machine;
    they give the same and take any shapes. "static" is gathers from one flat buffer of all levels, and for the gradient
    products of matrices: made for TPUs, it compiles under XLA. It differs only beyond the border of a level: there the others
    return `extrapolation_value`, and "static" fades to it over one cell, as the Object Detection API's two implementations do.

    Args:
        pyramid: per level [B, H, W, F] of any float type, finest first.
        boxes_normalized: [B, R, 4] float32, shares of the padded image; may reach beyond it. Boxes that are not finite are
            taken as the image's first corner. No gradient passes to them.
        level_indices: [B, R] int32 in [0, len(pyramid)).
        crop_size: S, or (height, width) of crops that are not square.
        implementation: one of `IMPLEMENTATIONS`.
        extrapolation_value: what lies around each level.

    Returns:
        [B, R, S, S, F] of the pyramid's type, interpolated in float32.

    Raises:
        ValueError: if `implementation` is unknown or `crop_size` below 1.
    """
    height, width = _as_size(crop_size)
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation = {implementation!r}. Allowed: {', '.join(IMPLEMENTATIONS)}.")
    # float32 even for bfloat16 features: with 8 bits, 0.501 equals 0.5.
    boxes = tf.stop_gradient(tf.cast(boxes_normalized, tf.float32))
    boxes = tf.where(tf.reduce_all(tf.math.is_finite(boxes), axis=-1, keepdims=True), boxes, 0.0)
    if implementation == "native":
        implementation = "kernel" if tf.config.list_physical_devices("GPU") else "sparse"
    crop = {"sparse": _sparse_crop, "kernel": _kernel_crop, "static": _static_crop}[implementation]
    crops = crop(pyramid, boxes, level_indices, (height, width), extrapolation_value)
    batch, num_rois, num_filters = dim(level_indices, 0), dim(level_indices, 1), pyramid[0].shape[-1]
    return tf.reshape(tf.cast(crops, pyramid[0].dtype), [batch, num_rois, height, width, num_filters])


def multilevel_roi_align(
    pyramid: Sequence[tf.Tensor],
    boxes_normalized: tf.Tensor,
    level_indices: tf.Tensor,
    *,
    crop_size: int | tuple[int, int],
    samples_per_cell: int,
    implementation: str,
    extrapolation_value: float = 0.0,
) -> tf.Tensor:
    """Pools each RoI from its own pyramid level by RoIAlign (Mask R-CNN, section 3).

    A RoI is divided into S x S cells, each cell is sampled bilinearly at the centres of n x n equal parts, and the samples
    of a cell are averaged. A normalized coordinate y is row y * (H - 1), as for `multilevel_crop_and_resize`.

    Args:
        pyramid: as for `multilevel_crop_and_resize`, like all arguments that are not here.
        boxes_normalized: [B, R, 4] float32, shares of the padded image.
        level_indices: [B, R] int32 in [0, len(pyramid)).
        crop_size: S, or (height, width) in cells.
        samples_per_cell: n.
        implementation: one of `IMPLEMENTATIONS`.
        extrapolation_value: what lies around each level.

    Returns:
        [B, R, S, S, F] of the pyramid's type, interpolated and averaged in float32.

    Raises:
        ValueError: if `implementation` is unknown, or `crop_size` or `samples_per_cell` below 1.
    """
    if samples_per_cell < 1:
        raise ValueError(f"samples_per_cell = {samples_per_cell}. Allowed: 1 or more.")
    height, width = _as_size(crop_size)
    num_rows, num_columns = height * samples_per_cell, width * samples_per_cell
    boxes = tf.cast(boxes_normalized, tf.float32)
    # The first and last sample lie half a part inside the box: as the corners of a smaller box, all come to their places.
    size = boxes[..., 2:] - boxes[..., :2]
    inset = size * tf.constant([0.5 / num_rows, 0.5 / num_columns])
    samples = multilevel_crop_and_resize(
        [tf.cast(features, tf.float32) for features in pyramid],
        tf.concat([boxes[..., :2] + inset, boxes[..., 2:] - inset], axis=-1),
        level_indices,
        crop_size=(num_rows, num_columns),
        implementation=implementation,
        extrapolation_value=extrapolation_value,
    )
    batch, num_rois, num_filters = dim(level_indices, 0), dim(level_indices, 1), pyramid[0].shape[-1]
    cells = [batch, num_rois, height, samples_per_cell, width, samples_per_cell, num_filters]
    return tf.cast(tf.reduce_mean(tf.reshape(samples, cells), axis=[3, 5]), pyramid[0].dtype)


def _as_size(crop_size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
    if min(height, width) < 1:
        raise ValueError(f"crop_size = {crop_size}. Allowed: 1 or more.")
    return height, width


def _kernel_crop(
    pyramid: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    level_indices: tf.Tensor,
    crop_size: tuple[int, int],
    extrapolation_value: float,
) -> tf.Tensor:
    """-> [B * R, height, width, F] float32."""
    batch, num_rois = dim(level_indices, 0), dim(level_indices, 1)
    boxes = tf.reshape(_pull_inside(boxes), [-1, 4])
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


def _sparse_crop(
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
    between = _locate_samples(
        pyramid, _pull_inside(boxes), level_indices, crop_size=crop_size, fades_beyond_border=False
    )
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


def _static_crop(
    pyramid: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    level_indices: tf.Tensor,
    crop_size: tuple[int, int],
    extrapolation_value: float,
) -> tf.Tensor:
    """-> [B, R, height, width, F] float32."""
    samples = _locate_samples(pyramid, boxes, level_indices, crop_size=crop_size, fades_beyond_border=True)
    cells, weights = _interpolation(pyramid, level_indices, samples)

    @tf.custom_gradient
    def interpolate(*pyramid: tf.Tensor):
        flat = cell_ops.flatten(pyramid)
        parts = [tf.cast(tf.gather(flat, cells[i]), tf.float32) * weights[i][..., tf.newaxis] for i in range(4)]
        return tf.add_n(parts), lambda upstream: _static_gradient(pyramid, level_indices, samples, upstream)

    crops = interpolate(*pyramid)
    if extrapolation_value:
        crops += extrapolation_value * (1.0 - tf.reduce_sum(weights, axis=0))[..., tf.newaxis]
    return crops


def _static_gradient(
    pyramid: Sequence[tf.Tensor], level_indices: tf.Tensor, samples: _Samples, upstream: tf.Tensor
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
    first_rows = tf.gather(tops, level_indices)[..., tf.newaxis]  # of the level of each RoI

    def one_image(image: tuple[tf.Tensor, _Samples, tf.Tensor]) -> list[tf.Tensor]:
        first_rows, samples, upstream = image
        rows = tuple(cells + first_rows for cells in samples.rows)
        row_matrix = tf.cast(_as_matrix(rows, samples.row_weights, sum(heights)), dtype)
        # Every RoI in as many columns as the widest level has, although it fills those of its own level only.
        column_matrix = tf.cast(_as_matrix(samples.columns, samples.column_weights, widest), dtype)
        spread = tf.einsum("rxw,yrxf->rywf", column_matrix, upstream)
        levels = tf.split(tf.einsum("ryh,rywf->hwf", row_matrix, spread), heights)
        return [level[:, :width] for level, width in zip(levels, widths, strict=True)]

    # Rows first, as the products want them: a TPU lays them out once so, and not anew for each image.
    upstream = tf.transpose(tf.cast(upstream, dtype), [0, 2, 1, 3, 4])
    signature = [tf.TensorSpec(features.shape[1:], dtype) for features in pyramid]
    return tf.map_fn(one_image, (first_rows, samples, upstream), fn_output_signature=signature, parallel_iterations=1)


def _as_matrix(cells: _Pair, weights: _Pair, num_cells: int | tf.Tensor) -> tf.Tensor:
    """Cells and weights [R, S] of samples along one axis -> [R, S, num_cells], the weight that each cell has in each sample."""
    place = tf.range(num_cells)
    return tf.add_n(
        [
            tf.where(cell[..., tf.newaxis] == place, weight[..., tf.newaxis], 0.0)
            for cell, weight in zip(cells, weights, strict=True)
        ]
    )


_Pair: TypeAlias = tuple[tf.Tensor, tf.Tensor]


class _Samples(NamedTuple):
    """Between which (low, high) cells samples lie, within their level, and the weights of these."""

    rows: _Pair  # [B, R, height] int32
    row_weights: _Pair  # [B, R, height]
    columns: _Pair  # [B, R, width] int32
    column_weights: _Pair  # [B, R, width]


def _locate_samples(
    pyramid: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    level_indices: tf.Tensor,
    *,
    crop_size: tuple[int, int],
    fades_beyond_border: bool,
) -> _Samples:
    _, size = cell_ops.locate(pyramid, level_indices)
    rows, row_weights = _samples(boxes[..., 0], boxes[..., 2], size[..., 0], crop_size[0], fades_beyond_border)
    columns, column_weights = _samples(boxes[..., 1], boxes[..., 3], size[..., 1], crop_size[1], fades_beyond_border)
    return _Samples(rows, row_weights, columns, column_weights)


def _interpolation(
    pyramid: Sequence[tf.Tensor], level_indices: tf.Tensor, samples: _Samples
) -> tuple[tf.Tensor, tf.Tensor]:
    """The cells that samples are interpolated from.

    Returns:
        The rows of `cells.flatten` which each sample lies between, [4, B, R, height, width] int32, and their weights, of the
        same shape.
    """
    rows, row_weights, columns, column_weights = samples
    first_cell, size = cell_ops.locate(pyramid, level_indices)
    first_cell = first_cell[..., tf.newaxis, tf.newaxis]
    width = size[..., 1, tf.newaxis, tf.newaxis]

    corners = [(y, x) for y in range(2) for x in range(2)]
    cells = tf.stack(
        [first_cell + rows[y][..., :, tf.newaxis] * width + columns[x][..., tf.newaxis, :] for y, x in corners]
    )
    weights = tf.stack([row_weights[y][..., :, tf.newaxis] * column_weights[x][..., tf.newaxis, :] for y, x in corners])
    return cells, weights


def _pull_inside(boxes: tf.Tensor) -> tf.Tensor:
    """Without this, rounding turns the last row or column of up to 3 % of the boxes that end on the border into padding."""
    return tf.where(tf.abs(boxes - 1.0) <= _ROUNDING, 1.0 - _ROUNDING, boxes)


def _samples(
    start: tf.Tensor, stop: tf.Tensor, size: tf.Tensor, num_samples: int, fades_beyond_border: bool
) -> tuple[tuple[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """The cells, and their weights, between which each sample along one axis lies.

    Args:
        start: [B, R] normalized first end of the boxes.
        stop: [B, R] normalized last end.
        size: [B, R] int32 cells along the axis.
        num_samples: S.
        fades_beyond_border: weights sink from 1 to 0 over one cell beyond the border; otherwise they are 0 there.

    Returns:
        Cells (low, high), [B, R, S] int32 in [0, size), and weights (low, high), [B, R, S]; together 1, less beyond the border.
    """
    last = tf.cast(size - 1, tf.float32)[..., tf.newaxis]
    shares = tf.linspace(0.0, 1.0, num_samples) if num_samples > 1 else tf.constant([0.5])
    position = (start[..., tf.newaxis] * (1.0 - shares) + stop[..., tf.newaxis] * shares) * last
    inside = tf.clip_by_value(position, 0.0, last)
    if fades_beyond_border:
        presence = tf.maximum(1.0 - tf.abs(position - inside), 0.0)
    else:
        presence = tf.cast(tf.equal(position, inside), tf.float32)
    low = tf.floor(inside)
    fraction = inside - low
    low_cell = tf.cast(low, tf.int32)
    high_cell = tf.minimum(low_cell + 1, size[..., tf.newaxis] - 1)
    return (low_cell, high_cell), (presence * (1.0 - fraction), presence * fraction)
