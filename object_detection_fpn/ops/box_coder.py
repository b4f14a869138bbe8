"""Boxes as offsets from anchors (Faster R-CNN, section 3.1.2); the library lacks the API's epsilon and order of scales.

Deltas are (dy, dx, dh, dw), each times its scale: `dy = (y - y_anchor) / h_anchor` between centres, `dh = log(h / h_anchor)`.
"""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf

Scales = tuple[float, float, float, float]

# 1 / (0.1, 0.1, 0.2, 0.2), the standard deviations of the deltas.
DEFAULT_SCALES: Scales = (10.0, 10.0, 5.0, 5.0)
_EPSILON = 1e-8  # added to every side while encoding, as the Object Detection API does; makes empty boxes encodable
# A trained model never asks for a box 62 times as large as its anchor; without a limit, an untrained one overflows to infinity.
DEFAULT_MAX_SIZE_RATIO = 1000.0 / 16.0


def _center_size(boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2.0, tf.maximum(high - low, 0.0)


def encode(boxes: tf.Tensor, anchors: tf.Tensor, *, scales: Scales = DEFAULT_SCALES) -> tf.Tensor:
    """Expresses boxes as deltas from anchors.

    Args:
        boxes: [..., 4] float32 (ymin, xmin, ymax, xmax).
        anchors: [..., 4] float32 in the same frame; broadcast against `boxes`.
        scales: what dy, dx, dh, dw are multiplied with.

    Returns:
        [..., 4] float32, finite for empty boxes and anchors too.
    """
    center, size = _center_size(boxes)
    anchor_center, anchor_size = _center_size(anchors)
    size, anchor_size = size + _EPSILON, anchor_size + _EPSILON
    shift = (center - anchor_center) / anchor_size
    log_size = tf.math.log(size / anchor_size)
    return tf.concat([shift, log_size], axis=-1) * tf.constant(scales, boxes.dtype)


def decode(
    deltas: tf.Tensor,
    anchors: tf.Tensor,
    *,
    scales: Scales = DEFAULT_SCALES,
    max_size_ratio: float = DEFAULT_MAX_SIZE_RATIO,
) -> tf.Tensor:
    """Turns deltas back into boxes; inverts `encode` for boxes up to `max_size_ratio` times as large as their anchor.

    Args:
        deltas: [..., 4] float32 (dy, dx, dh, dw).
        anchors: [..., 4] float32; broadcast against `deltas`.
        scales: what dy, dx, dh, dw were multiplied with.
        max_size_ratio: a box is at most this many times as high and as wide as its anchor.

    Returns:
        [..., 4] float32 boxes in the frame of the anchors, not clipped.
    """
    deltas = deltas / tf.constant(scales, deltas.dtype)
    anchor_center, anchor_size = _center_size(anchors)
    center = anchor_center + deltas[..., :2] * anchor_size
    half_size = tf.exp(tf.minimum(deltas[..., 2:], math.log(max_size_ratio))) * anchor_size / 2.0
    return tf.concat([center - half_size, center + half_size], axis=-1)


@dataclasses.dataclass(frozen=True)
class BoxCoder:
    """`encode` and `decode` of one stage of a detector.

    Attributes:
        scales: what dy, dx, dh, dw are multiplied with.
        max_size_ratio: a decoded box is at most this many times as high and as wide as its anchor.
    """

    scales: Scales = DEFAULT_SCALES
    max_size_ratio: float = DEFAULT_MAX_SIZE_RATIO

    def encode(self, boxes: tf.Tensor, anchors: tf.Tensor) -> tf.Tensor:
        """Boxes and anchors [..., 4] -> deltas [..., 4], as `encode`."""
        return encode(boxes, anchors, scales=self.scales)

    def decode(self, deltas: tf.Tensor, anchors: tf.Tensor) -> tf.Tensor:
        """Deltas and anchors [..., 4] -> boxes [..., 4], as `decode`."""
        return decode(deltas, anchors, scales=self.scales, max_size_ratio=self.max_size_ratio)
