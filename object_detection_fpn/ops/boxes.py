"""Box geometry and every conversion between frames; official.vision.ops.box_ops lacks the frames and costs 1 s to import.

`boxes` are float32 (ymin, xmin, ymax, xmax). The frames of this package: normalized to the original image (records on disk),
pixels of the resized and padded image (`Batch` and the whole model), normalized to the padded image (just before
crop-and-resize), normalized to the resized image without its padding (`Detections`). Boxes without height or width, or with
swapped corners, are empty: area 0, IoU 0 with everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import tensorflow as tf

Size: TypeAlias = "tf.Tensor | tuple[float, float]"
"""(height, width) as two numbers, or a tensor [..., 2] of any number type whose leading dimensions are those of the boxes."""
Corners: TypeAlias = Sequence[tf.Tensor]
"""Boxes as four tensors of one shape: ymin, xmin, ymax, xmax."""


def area(boxes: tf.Tensor) -> tf.Tensor:
    """Returns the area of each box, [..., N, 4] -> [..., N], in squared units of the boxes' frame; 0 for empty boxes."""
    return _area(tf.unstack(boxes, axis=-1))


def clip(boxes: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Moves every corner that lies outside the window onto its border.

    Args:
        boxes: [..., N, 4] float32.
        window: [..., 4] float32 in the frame of the boxes: [4] for all boxes alike, or [B, 4] for boxes [B, N, 4].

    Returns:
        [..., N, 4] float32; boxes that do not meet the window become empty and lie on its border.
    """
    window = tf.expand_dims(tf.cast(window, boxes.dtype), -2)  # not [..., newaxis, :], which tf2onnx misreads for [4]
    low = tf.concat([window[..., :2], window[..., :2]], axis=-1)
    high = tf.concat([window[..., 2:], window[..., 2:]], axis=-1)
    return tf.minimum(tf.maximum(boxes, low), high)


def image_window(true_shapes: tf.Tensor) -> tf.Tensor:
    """Returns the window (0, 0, height, width) in pixels that each image fills, [B, 2 or 3] -> [B, 4] float32."""
    size = tf.cast(true_shapes[..., :2], tf.float32)
    return tf.concat([tf.zeros_like(size), size], axis=-1)


def iou(a: Corners, b: Corners) -> tf.Tensor:
    """Intersection over union of boxes with boxes, in [0, 1]; 0 where a box is empty. Corners of `a` and `b` broadcast."""
    intersection = _intersection(a, b)
    return tf.math.divide_no_nan(intersection, _area(a) + _area(b) - intersection)


def ioa(a: Corners, b: Corners) -> tf.Tensor:
    """Share of each `a` that lies in `b`, in [0, 1]; 0 where `a` is empty. Corners of `a` and `b` broadcast."""
    return tf.math.divide_no_nan(_intersection(a, b), _area(a))


def pairwise_iou(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Intersection over union of every pair, [..., N, 4] and [..., M, 4] -> [..., N, M] in [0, 1]; 0 where a box is empty."""
    return iou(*_pairs(a, b))


def pairwise_ioa(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Share of each `a` that lies in each `b`, [..., N, 4] and [..., M, 4] -> [..., N, M] in [0, 1]; 0 where `a` is empty."""
    return ioa(*_pairs(a, b))


def _pairs(a: tf.Tensor, b: tf.Tensor) -> tuple[Corners, Corners]:
    rows = [corner[..., :, tf.newaxis] for corner in tf.unstack(a, axis=-1)]  # each [..., N, 1]
    columns = [corner[..., tf.newaxis, :] for corner in tf.unstack(b, axis=-1)]  # each [..., 1, M]
    return rows, columns


def _area(corners: Corners) -> tf.Tensor:
    ymin, xmin, ymax, xmax = corners
    return tf.maximum(ymax - ymin, 0.0) * tf.maximum(xmax - xmin, 0.0)


def _intersection(a: Corners, b: Corners) -> tf.Tensor:
    ymin_a, xmin_a, ymax_a, xmax_a = a
    ymin_b, xmin_b, ymax_b, xmax_b = b
    height = tf.maximum(tf.minimum(ymax_a, ymax_b) - tf.maximum(ymin_a, ymin_b), 0.0)
    width = tf.maximum(tf.minimum(xmax_a, xmax_b) - tf.maximum(xmin_a, xmin_b), 0.0)
    return height * width


def _per_coordinate(size: Size, boxes: tf.Tensor) -> tf.Tensor:
    """(height, width) -> (height, width, height, width), shaped to broadcast against boxes [..., N, 4]."""
    size = tf.cast(tf.stack(size, axis=-1) if isinstance(size, (tuple, list)) else size, boxes.dtype)
    size = tf.concat([size, size], axis=-1)
    return size if size.shape.rank == 1 else size[..., tf.newaxis, :]


def scale(boxes: tf.Tensor, factors: Size) -> tf.Tensor:
    """Multiplies boxes [..., N, 4] by (vertical, horizontal) factors: two numbers, or [B, 2] for boxes [B, N, 4]."""
    return boxes * _per_coordinate(factors, boxes)


def normalize(boxes: tf.Tensor, size: Size) -> tf.Tensor:
    """Converts boxes [..., N, 4] from pixels to shares of an image of `size` (height, width)."""
    return boxes / _per_coordinate(size, boxes)


def denormalize(boxes: tf.Tensor, size: Size) -> tf.Tensor:
    """Converts boxes [..., N, 4] from shares of an image of `size` (height, width) to its pixels."""
    return scale(boxes, size)


def to_detection_frame(boxes: tf.Tensor, true_shapes: tf.Tensor) -> tf.Tensor:
    """Converts model boxes to the frame of `Detections`: clipped to the image without its padding and normalized to it.

    Args:
        boxes: [B, N, 4] float32, pixels of the padded image.
        true_shapes: [B, 3] int32, (height, width, channels) of each image without its padding.

    Returns:
        [B, N, 4] float32 in [0, 1]; zero rows stay zero.
    """
    return normalize(clip(boxes, image_window(true_shapes)), true_shapes[..., :2])


def change_frame(boxes: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Expresses boxes as shares of a window that lies in the same frame; does not clip.

    Args:
        boxes: [..., N, 4] float32.
        window: [..., 4] float32 with positive height and width: [4], or [B, 4] for boxes [B, N, 4].

    Returns:
        [..., N, 4] float32, (0, 0, 1, 1) for a box that equals the window.
    """
    window = tf.cast(window, boxes.dtype)
    origin = tf.concat([window[..., :2], window[..., :2]], axis=-1)[..., tf.newaxis, :]
    return normalize(boxes - origin, window[..., 2:] - window[..., :2])


def flip_left_right(boxes_normalized: tf.Tensor) -> tf.Tensor:
    """Mirrors normalized boxes [..., 4] as `tf.image.flip_left_right` mirrors their image."""
    ymin, xmin, ymax, xmax = tf.unstack(boxes_normalized, axis=-1)
    return tf.stack([ymin, 1.0 - xmax, ymax, 1.0 - xmin], axis=-1)


def flip_up_down(boxes_normalized: tf.Tensor) -> tf.Tensor:
    """Mirrors normalized boxes [..., 4] as `tf.image.flip_up_down` mirrors their image."""
    ymin, xmin, ymax, xmax = tf.unstack(boxes_normalized, axis=-1)
    return tf.stack([1.0 - ymax, xmin, 1.0 - ymin, xmax], axis=-1)
