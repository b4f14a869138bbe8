"""Anchors on every cell of every pyramid level (FPN, section 4.1) or of one feature map (Faster R-CNN, section 3.1.1).

The library lacks the API's order of a cell's anchors. K counts the anchors of an image: levels from fine to coarse, then rows,
columns, and the anchors of a cell by aspect ratio, then scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from object_detection_fpn.ops import boxes as box_ops

_ROUNDING = 1e-6  # pixels; a power of two to a fraction of an octave may come out a last bit too small


def num_anchors_per_cell(*, aspect_ratios: Sequence[float], scales_per_octave: int) -> int:
    """Returns how many anchors `multiscale_anchors` puts on each cell, the same on all levels."""
    return len(aspect_ratios) * scales_per_octave


def multiscale_anchors(
    feature_sizes: Sequence[tuple[int | tf.Tensor, int | tf.Tensor]],
    *,
    min_level: int,
    anchor_scale: float,
    aspect_ratios: Sequence[float],
    scales_per_octave: int,
    image_size: box_ops.Size | None = None,
    origin: float | tf.Tensor = 0.0,
    offset: float | Sequence[tuple[float, float]] = 0.5,
    round_corners: bool = False,
    stride_of_image: bool = False,
    whole_scales: bool = False,
    scales_first: bool = False,
) -> tf.Tensor:
    """Lays anchors over a pyramid whose level l has cells of 2^l pixels.

    The anchors of level l are centred on its cells, or at another `offset` within them. Their areas are
    (2^l * anchor_scale * 2^(s / scales_per_octave))^2 for s = 0 .. scales_per_octave - 1, their shapes width / height = aspect
    ratio.

    Args:
        feature_sizes: (height, width) in cells of each level, finest first; Python ints give a static K.
        min_level: level of the first entry.
        anchor_scale: side of the smallest square anchor in cells.
        aspect_ratios: width / height, each positive.
        scales_per_octave: number of sizes between one level and the next.
        image_size: (height, width) in pixels to normalize the anchors to; None leaves them in pixels.
        origin: pixel, on both axes, where the pyramid begins. A tensor whose value only a step tells keeps a compiler from
            writing all anchors into its program.
        offset: place of an anchor's centre within its cell on both axes, 0 (the first corner) to 1; or that on each axis, of
            each level.
        round_corners: rounds the corners, relative to the centre, to whole pixels, half to even, as torchvision does.
        stride_of_image: anchors of a level are as far apart as the pixels of the finest level divided by the cells of the
            level, rounded down, as in torchvision, instead of 2^l pixels. Both are equal where the cells of the finest level
            can be halved down to the level.
        whole_scales: cuts the side of each square anchor to whole pixels, as torchvision does, before aspect ratios.
        scales_first: the anchors of a cell come scale by scale, then by aspect ratio, as in Detectron2.

    Returns:
        [K, 4] float32, not clipped to the image.

    Raises:
        ValueError: if there is no level, aspect ratio or scale, or a ratio or scale is not positive.
    """
    if not feature_sizes:
        raise ValueError("feature_sizes is empty. Allowed: one (height, width) for each pyramid level.")
    if not aspect_ratios or min(aspect_ratios) <= 0:
        raise ValueError(f"aspect_ratios = {list(aspect_ratios)}. Allowed: one or more positive numbers.")
    if scales_per_octave < 1:
        raise ValueError(f"scales_per_octave = {scales_per_octave}. Allowed: 1 or more.")
    if anchor_scale <= 0:
        raise ValueError(f"anchor_scale = {anchor_scale}. Allowed: positive numbers.")

    octave = anchor_scale * 2.0 ** (np.arange(scales_per_octave) / scales_per_octave)
    root = np.sqrt(np.asarray(aspect_ratios, np.float64))[:, np.newaxis]
    offsets = [(offset, offset)] * len(feature_sizes) if isinstance(offset, float | int) else offset

    levels = []
    for index, (height, width) in enumerate(feature_sizes):
        stride = 2.0 ** (min_level + index)
        row_stride = column_stride = stride
        if stride_of_image:
            row_stride, column_stride = (
                _whole_stride(finest * 2**min_level, cells)
                for finest, cells in zip(feature_sizes[0], (height, width), strict=True)
            )
        row_offset, column_offset = offsets[index]
        rows = (tf.range(height, dtype=tf.float32) + row_offset) * row_stride + origin
        columns = (tf.range(width, dtype=tf.float32) + column_offset) * column_stride + origin
        centers = tf.stack(tf.meshgrid(rows, columns, indexing="ij"), axis=-1)[:, :, tf.newaxis, :]  # [H, W, 1, 2]
        side = octave * stride
        if whole_scales:
            side = np.floor(side + _ROUNDING)
        sides = np.stack([side / root, side * root], axis=-1)  # [aspect ratios, scales, (height, width)] in pixels
        half_sides = (sides.swapaxes(0, 1) if scales_first else sides).reshape(-1, 2) / 2.0  # [A, 2]
        half_sides = tf.constant(np.round(half_sides) if round_corners else half_sides, tf.float32)
        corners = tf.concat([centers - half_sides, centers + half_sides], axis=-1)  # [H, W, A, 4]
        levels.append(tf.reshape(corners, [-1, 4]))
    anchors = tf.concat(levels, axis=0)
    return anchors if image_size is None else box_ops.normalize(anchors, image_size)


def offsets_by_size(
    image_size: tuple[int | None, int | None], *, min_level: int, num_levels: int
) -> list[tuple[float, float]]:
    """Where the Object Detection API puts the anchors of its single-stage detectors in their cells, on each axis of each level.

    In the middle, but at the first corner on an axis whose size 2^level does not divide. Without a fixed size of images, always
    in the middle.

    Args:
        image_size: (height, width) in pixels of all images; None where images differ.
        min_level: finest level.
        num_levels: how many there are.
    """
    height, width = image_size
    if height is None or width is None:
        return [(0.5, 0.5)] * num_levels
    strides = [2 ** (min_level + index) for index in range(num_levels)]
    return [(0.0 if height % stride else 0.5, 0.0 if width % stride else 0.5) for stride in strides]


def grid_anchors(
    feature_sizes: Sequence[tuple[int | tf.Tensor, int | tf.Tensor]],
    *,
    scales: Sequence[float],
    aspect_ratios: Sequence[float],
    base_size: tuple[float, float] = (256.0, 256.0),
    stride: tuple[float, float] = (16.0, 16.0),
    offset: tuple[float, float] = (0.0, 0.0),
    origin: float | tf.Tensor = 0.0,
) -> tf.Tensor:
    """Lays anchors over one feature map, as the Object Detection API does.

    An anchor is scale * height / sqrt(aspect ratio) high and scale * width * sqrt(aspect ratio) wide.

    Args:
        feature_sizes: (height, width) of the map in cells; Python ints give a static K.
        scales: factors of the base size, each positive.
        aspect_ratios: width / height where the base size is a square, each positive.
        base_size: (height, width) in pixels of an anchor of scale and aspect ratio 1.
        stride: pixels from row to row and from column to column.
        offset: pixels from the image's upper left corner to the centre of the first anchors, down and to the right.
        origin: as for `multiscale_anchors`.

    Returns:
        [K, 4] float32, pixels, not clipped to the image.

    Raises:
        ValueError: if there is not one map, no scale or no aspect ratio, or one of them is not positive.
    """
    if len(feature_sizes) != 1:
        raise ValueError(
            f"feature_sizes has {len(feature_sizes)} entries. Allowed: 1, a grid of anchors serves one map."
        )
    for name, values in (("scales", scales), ("aspect_ratios", aspect_ratios)):
        if not values or min(values) <= 0:
            raise ValueError(f"{name} = {list(values)}. Allowed: one or more positive numbers.")
    root = np.sqrt(np.asarray(aspect_ratios, np.float64))[:, np.newaxis]
    factors = np.asarray(scales, np.float64)
    sides = np.stack([factors / root * base_size[0], factors * root * base_size[1]], axis=-1).reshape(-1, 2)
    half_sides = tf.constant(sides / 2.0, tf.float32)  # [A, (height, width)]
    rows, columns = (
        tf.range(num_cells, dtype=tf.float32) * stride[axis] + offset[axis] + origin
        for axis, num_cells in enumerate(feature_sizes[0])
    )
    centers = tf.stack(tf.meshgrid(rows, columns, indexing="ij"), axis=-1)[:, :, tf.newaxis, :]  # [H, W, 1, 2]
    return tf.reshape(tf.concat([centers - half_sides, centers + half_sides], axis=-1), [-1, 4])


def runtime_zero(values: tf.Tensor) -> tf.Tensor:
    """0.0, which depends on the values for all that a compiler can see before it runs: an `origin` of anchors."""
    first = tf.reshape(tf.stop_gradient(values), [-1])[0]
    # Of the bits, since not every number times 0 is 0.
    return tf.cast(tf.bitwise.bitwise_and(tf.bitcast(tf.cast(first, tf.float32), tf.int32), 0), tf.float32)


def _whole_stride(side: int | tf.Tensor, cells: int | tf.Tensor) -> float | tf.Tensor:
    if isinstance(side, int) and isinstance(cells, int):
        return float(side // max(cells, 1))
    return tf.cast(side // tf.maximum(cells, 1), tf.float32)
