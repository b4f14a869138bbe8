"""RoIAlign: where its samples lie, and the mean of them as weights of rows and columns (Mask R-CNN, section 3).

A RoI is divided into S x S bins, each bin is sampled at the centres of n x n equal parts, and its samples are averaged. The
mean of samples on a grid is a product of a mean over rows and one over columns, so that the weights of both are all it takes.

Letters: S bins, n samples along an axis of a bin, T cells of which the mean of a bin is the weighted sum.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from object_detection_fpn.ops import cells as cell_ops
from object_detection_fpn.ops.crop_and_resize.samples import Interpolation, surround
from object_detection_fpn.ops.dims import dim

# Pixels. No RoI is there, and beyond it differences of float32 coordinates could overflow.
_FARTHEST = 1e6

# Adaptive sampling is bounded by so many times the side of the largest level: only RoIs 4 S times as large want more.
_MOST_SAMPLES_PER_CELL = 4.0


@dataclasses.dataclass(frozen=True)
class RoIAlign:
    """How RoIs are sampled.

    Attributes:
        output_size: S, or (height, width) in bins.
        sampling_ratio: n. 0: adaptive, for each RoI and axis the side of a bin in cells, rounded up.
        aligned: the value of a cell lies in its middle, so that coordinates are moved by half a cell. Otherwise it lies on its
            corner, and a RoI is at least one cell wide and high.
        max_static_samples: largest adaptive n where shapes are static.

    Raises:
        ValueError: if a number is out of range.
    """

    output_size: int | tuple[int, int] = 7
    sampling_ratio: int = 2
    aligned: bool = True
    max_static_samples: int = 4

    def __post_init__(self) -> None:
        for name, low in (("sampling_ratio", 0), ("max_static_samples", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} = {getattr(self, name)}. Allowed: {low} or more.")
        if min(self.size) < 1:
            raise ValueError(f"output_size = {self.output_size}. Allowed: 1 or more.")

    @property
    def samples_share_cells(self) -> bool:
        """Whether samples of a bin are so near each other that their cells are worth being merged, natively."""
        return self.sampling_ratio not in (1, 2)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in bins."""
        return (self.output_size, self.output_size) if isinstance(self.output_size, int) else self.output_size


def locate_bins(
    pyramid: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    level_indices: tf.Tensor,
    *,
    strides: Sequence[float],
    roi_align: RoIAlign,
    static: bool,
) -> Interpolation:
    """Of which rows and columns each bin is the weighted sum.

    Args:
        pyramid: per level [B, H, W, F].
        boxes: [B, R, 4] pixels, finite.
        level_indices: [B, R] int32.
        strides: pixels, of each level of `pyramid`.
        roi_align: how RoIs are sampled.
        static: T is 2 n, known before the RoIs are. Otherwise, where samples share cells, it follows from the RoIs, and rows
            and columns of weight 0 may lie beyond the border.
    """
    _, size = cell_ops.locate(pyramid, level_indices)
    start, extent = on_level(boxes, level_indices, strides=strides, aligned=roi_align.aligned)
    limit = roi_align.max_static_samples if static else tf.stack([dim(p, axis) for p in pyramid for axis in (1, 2)])
    found: list[tf.Tensor] = []
    for axis, num_bins in enumerate(roi_align.size):
        num_cells = size[..., axis]
        position, weight = _sample(start[..., axis], extent[..., axis], num_bins, roi_align.sampling_ratio, limit)
        last = tf.cast(num_cells - 1, tf.float32)[..., tf.newaxis, tf.newaxis]
        weight = tf.where((position >= -1.0) & (position <= last + 1.0), weight, 0.0)
        inside = tf.clip_by_value(position, 0.0, last)
        if static or not roi_align.samples_share_cells:
            cells, weights = surround(inside, weight, num_cells[..., tf.newaxis, tf.newaxis])
            shape = [*(dim(cells, i) for i in range(3)), 2 * cells.shape[3]]
            found += [tf.reshape(cells, shape), tf.reshape(weights, shape)]
        else:
            found += _merge(inside, weight)
    return Interpolation(*found)


def on_level(
    boxes: tf.Tensor, level_indices: tf.Tensor, *, strides: Sequence[float], aligned: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """Boxes [B, R, 4] in pixels -> their first corner and their extent, both [B, R, 2] in cells of their level."""
    scales = tf.gather(tf.constant([1.0 / stride for stride in strides]), level_indices)
    boxes = tf.clip_by_value(boxes, -_FARTHEST, _FARTHEST) * scales[..., tf.newaxis]
    if aligned:
        boxes -= 0.5
    extent = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2], extent if aligned else tf.maximum(extent, 1.0)


def _sample(
    start: tf.Tensor, extent: tf.Tensor, num_bins: int, sampling_ratio: int, limit: int | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Samples along one axis.

    Args:
        start: [B, R] cells, where RoIs begin.
        extent: [B, R] cells.
        num_bins: S.
        sampling_ratio: n, or 0.
        limit: largest adaptive n, an int; or the sides of all levels, which bound it where RoIs want more.

    Returns:
        Positions in cells and weights, both [B, R, S, n]. A RoI that needs fewer samples than others repeats its last one with
        weight 0.
    """
    bin_size = (extent / num_bins)[..., tf.newaxis, tf.newaxis]
    first = start[..., tf.newaxis, tf.newaxis] + tf.range(float(num_bins))[:, tf.newaxis] * bin_size
    if sampling_ratio:
        shares = (tf.range(float(sampling_ratio)) + 0.5) / sampling_ratio
        position = first + shares * bin_size
        return position, tf.fill(tf.shape(position), 1.0 / sampling_ratio)
    wanted = tf.math.ceil(bin_size)  # below 1 for RoIs without extent: no sample
    if isinstance(limit, int):
        num_samples: int | tf.Tensor = limit
    else:
        most = _MOST_SAMPLES_PER_CELL * tf.cast(tf.reduce_max(limit), tf.float32)
        num_samples = tf.cast(tf.clip_by_value(tf.reduce_max(wanted), 1.0, most), tf.int32)
    count = tf.clip_by_value(wanted, 1.0, tf.cast(num_samples, tf.float32))
    index = tf.range(tf.cast(num_samples, tf.float32))
    position = first + (tf.minimum(index, count - 1.0) + 0.5) * bin_size / count
    weight = tf.where(index < tf.minimum(wanted, count), 1.0 / count, 0.0)
    return position, tf.broadcast_to(weight, tf.shape(position))


def _merge(inside: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Positions and weights of samples, [B, R, S, n] -> the cells that they reach, one after the other, and their weights.

    Returns:
        Cells [B, R, S, T] int32 and weights [B, R, S, T]; T is what the widest bin needs.
    """
    low = tf.cast(tf.floor(inside), tf.int32)
    first = tf.reduce_min(low, axis=-1, keepdims=True)
    # Without RoIs there is no largest one: T is then 2.
    widest = tf.reduce_max(
        tf.concat([tf.reshape(tf.reduce_max(low, axis=-1, keepdims=True) - first, [-1]), [0]], axis=0)
    )
    cells = first + tf.range(widest + 2)
    near = tf.maximum(1.0 - tf.abs(inside[..., tf.newaxis, :] - tf.cast(cells, tf.float32)[..., tf.newaxis]), 0.0)
    return cells, tf.reduce_sum(near * weight[..., tf.newaxis, :], axis=-1)
