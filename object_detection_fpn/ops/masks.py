"""Crops of stored masks, which are what the mask head learns (He et al. 2017, section 3.1).

A stored mask is a grid of cells over its *frame*, a rectangle of the image. A crop is a weighted sum of the grid's rows and
columns, as all ways of sampling here are bilinear and on a grid: two products of matrices, of static shape.

Shape letters beside those of the package: K RoIs, M rows or columns of a stored mask, S rows or columns of a crop, n samples
along an axis of a cell of the crop.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import tensorflow as tf

from object_detection_fpn.ops.dims import dim

_WHOLE = 255.0  # what a stored cell holds that lies in the object altogether
_MIN_SIDE = 1e-6  # pixels, of a frame: padding rows have none


@dataclasses.dataclass(frozen=True)
class MaskCrop:
    """How masks are cropped at RoIs.

    Attributes:
        size: rows and columns of a crop.
        kind: "roi_align" averages samples in each cell (He et al. 2017, section 3); "corners_aligned" takes one for each, of
            which the outermost lie on the border of the RoI, as the Object Detection API does.
        sampling_ratio: n of RoIAlign. 0: adaptive, the side of a cell of the crop in cells of the stored mask, rounded up.
        aligned: of RoIAlign: the value of a pixel lies in its middle. Otherwise it lies on its corner, and a RoI is at least
            one pixel wide and high.

    Raises:
        ValueError: if a number is out of range.
    """

    size: tuple[int, int] = (28, 28)
    kind: Literal["roi_align", "corners_aligned"] = "corners_aligned"
    sampling_ratio: int = 0
    aligned: bool = True

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise ValueError(f"size = {self.size}. Allowed: 1 or more each.")
        if self.sampling_ratio < 0:
            raise ValueError(f"sampling_ratio = {self.sampling_ratio}. Allowed: 0 or more.")


def crop_masks(
    masks: tf.Tensor,
    frames: tf.Tensor,
    boxes: tf.Tensor,
    rows: tf.Tensor,
    *,
    image_size: tf.Tensor,
    crop: MaskCrop,
) -> tf.Tensor:
    """Crops, for each RoI, the mask of one object.

    Where the frame is the whole image and the stored mask has a cell a pixel, the result is that of the library whose way of
    cropping `crop` says. Outside of its frame a mask is zero.

    Args:
        masks: [B, G, M, M] uint8, 0 to 255, rows and columns of any number.
        frames: [B, G, 4] float32, pixels.
        boxes: [B, K, 4] float32, pixels.
        rows: [B, K] int32, the object of each RoI.
        image_size: [2] int32, height and width of the padded image.
        crop: how.

    Returns:
        [B, K, S, S] float32 in [0, 1].
    """
    grid = tf.cast(tf.gather(masks, rows, batch_dims=1), tf.float32) / _WHOLE
    frames = tf.gather(frames, rows, batch_dims=1)
    size = tf.cast(image_size, tf.float32)
    of_rows, of_columns = (
        _weights(boxes[..., axis::2], frames[..., axis::2], dim(masks, 2 + axis), size[axis], crop, axis)
        for axis in range(2)
    )  # [B, K, S, M] each
    return tf.matmul(of_rows, tf.matmul(grid, of_columns, transpose_b=True))


def _weights(
    ends: tf.Tensor, frame_ends: tf.Tensor, num_cells: int | tf.Tensor, image_side: tf.Tensor, crop: MaskCrop, axis: int
) -> tf.Tensor:
    """[B, K, S, M], the share of each stored row (or column) in each of the crop, along one axis.

    Args:
        ends: [B, K, 2] pixels, where RoIs begin and end.
        frame_ends: [B, K, 2] pixels, where the frames of their objects do.
        num_cells: M.
        image_side: pixels.
        crop: how.
        axis: 0 for rows, 1 for columns.
    """
    num_bins = crop.size[axis]
    last = tf.cast(num_cells - 1, tf.float32)
    frame_side = tf.maximum(frame_ends[..., 1] - frame_ends[..., 0], _MIN_SIDE)
    scale = (last + 1.0) / frame_side  # cells a pixel
    if crop.kind == "corners_aligned":
        # The ends of the image lie in the middle of its outermost pixels.
        ends = ends * ((image_side - 1.0) / image_side)
        shares = tf.linspace(0.0, 1.0, num_bins) if num_bins > 1 else tf.constant([0.5])
        position = ends[..., :1] + (ends[..., 1:] - ends[..., :1]) * shares  # [B, K, S]
        position, weight = position[..., tf.newaxis], tf.ones([])
    else:
        position, weight = _sample(ends, scale, num_bins, num_cells, crop)
    # From pixels, counted from the middle of the image's first one, to cells, from the middle of the frame's first one.
    begin, scale = (value[..., tf.newaxis, tf.newaxis] for value in (frame_ends[..., 0], scale))
    cell = (position + 0.5 - begin) * scale - 0.5
    # A mask reaches half a pixel beyond its frame, as RoIAlign lets images do.
    beyond = 0.5 + 0.5 * scale
    weight = tf.where((cell >= -beyond) & (cell <= last + beyond), weight, 0.0)
    cell = tf.clip_by_value(cell, 0.0, last)[..., tf.newaxis]
    near = tf.maximum(1.0 - tf.abs(cell - tf.range(last + 1.0)), 0.0)  # [B, K, S, n, M]
    return tf.reduce_sum(near * weight[..., tf.newaxis], axis=3)


def _sample(
    ends: tf.Tensor, scale: tf.Tensor, num_bins: int, num_cells: int | tf.Tensor, crop: MaskCrop
) -> tuple[tf.Tensor, tf.Tensor]:
    """Positions of RoIAlign's samples, in pixels from the middle of the first one, and weights, [B, K, S, n] both."""
    if crop.aligned:
        ends = ends - 0.5
    start, extent = ends[..., 0], ends[..., 1] - ends[..., 0]
    if not crop.aligned:
        extent = tf.maximum(extent, 1.0)
    start, bin_size = start[..., tf.newaxis, tf.newaxis], (extent / num_bins)[..., tf.newaxis, tf.newaxis]
    first = start + tf.range(float(num_bins))[:, tf.newaxis] * bin_size
    if crop.sampling_ratio:
        shares = (tf.range(float(crop.sampling_ratio)) + 0.5) / crop.sampling_ratio
        position = first + shares * bin_size
        return position, tf.fill(tf.shape(position), 1.0 / crop.sampling_ratio)
    # A RoI that overlaps its object by half is at most twice as long as its frame, and no frame is larger than that.
    most = -(-2 * num_cells // num_bins)
    count = tf.clip_by_value(
        tf.math.ceil(bin_size * scale[..., tf.newaxis, tf.newaxis]), 1.0, tf.cast(most, tf.float32)
    )
    index = tf.range(tf.cast(most, tf.float32))
    position = first + (tf.minimum(index, count - 1.0) + 0.5) * bin_size / count
    return position, tf.broadcast_to(tf.where(index < count, 1.0 / count, 0.0), tf.shape(position))
