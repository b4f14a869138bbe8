"""Masks of objects under geometry, where moving their frames is not enough.

Shape letters: N objects, M mask side.
"""

from __future__ import annotations

import tensorflow as tf

_ROUNDING = 1e-3  # share of a cell that does not count as a part of it


def transform_masks(masks: tf.Tensor, frames: tf.Tensor, new_frames: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """Shows masks of an image that an affine transformation moved, in other frames; bilinear, zero outside of the old ones.

    Args:
        masks: [N, M, M] uint8.
        frames: [N, 4] float32, pixels of the image before, of positive area.
        new_frames: [N, 4] float32, pixels of the image afterwards, likewise.
        matrix: [3, 3] float32, from (x, y, 1) in the result to the pixel in the image that it shows, counted from the middle of
            the first pixel.

    Returns:
        [N, M, M] uint8.
    """
    to_pixels, _ = _cells_and_pixels(new_frames, masks.shape)
    _, to_cells = _cells_and_pixels(frames, masks.shape)
    # From cells of the result to those of the mask, [N, 3, 3].
    matrices = tf.matmul(tf.matmul(to_cells, matrix), to_pixels)
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(masks, tf.float32)[..., tf.newaxis],
        transforms=tf.reshape(matrices, [-1, 9])[:, :8],
        output_shape=masks.shape[1:],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
    return tf.ensure_shape(tf.cast(tf.round(moved[..., 0]), masks.dtype), masks.shape)


def cut_masks(masks: tf.Tensor, frames_normalized: tf.Tensor) -> tf.Tensor:
    """Empties the cells outside of the image, of which a window left nothing; what is put around it later is no object.

    Args:
        masks: [N, M, M] uint8.
        frames_normalized: [N, 4] float32.

    Returns:
        [N, M, M] uint8.
    """
    is_inside = []
    for axis in range(2):
        side = masks.shape[1 + axis]
        begin, end = (frames_normalized[:, axis + low, tf.newaxis] for low in (0, 2))
        edges = begin + (end - begin) * tf.linspace(0.0, 1.0, side + 1)  # [N, M + 1]
        rounding = _ROUNDING * (end - begin) / side
        is_inside.append((edges[:, 1:] > rounding) & (edges[:, :-1] < 1.0 - rounding))
    rows, columns = is_inside
    return tf.where(rows[:, :, tf.newaxis] & columns[:, tf.newaxis, :], masks, tf.constant(0, masks.dtype))


def _cells_and_pixels(frames: tf.Tensor, shape: tf.TensorShape) -> tuple[tf.Tensor, tf.Tensor]:
    """[N, 3, 3] each: from (x, y, 1) in cells of masks in frames [N, 4] to pixels, and back; from the middle of the first."""
    begin, end = frames[:, 1::-1], frames[:, :1:-1]  # x before y
    step = (end - begin) / tf.constant([shape[2], shape[1]], tf.float32)
    shift = begin + 0.5 * step - 0.5
    return _scale_and_shift(step, shift), _scale_and_shift(1.0 / step, -shift / step)


def _scale_and_shift(scale: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    """[N, 3, 3] of factors and sums of x and y, [N, 2] each."""
    diagonal = tf.linalg.diag(tf.pad(scale, [[0, 0], [0, 1]], constant_values=1.0))
    return diagonal + tf.pad(shift[..., tf.newaxis], [[0, 0], [0, 1], [2, 0]])
