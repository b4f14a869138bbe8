"""Losses of single boxes, summed over their code or their classes; which boxes count, and for how much, heads decide."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf

_TINY = 1e-30
_EPSILON = 1e-7  # added to areas and lengths that divide, as torchvision and Detectron2 do

LocalizationLoss = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
"""(deltas [..., 4], target deltas [..., 4], anchors [..., 4] pixels, which both are encoded against) -> [...] float32."""


ClassificationLoss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""(logits [..., C+1], targets [..., C+1]: one-hot, or what the groundtruth says of each class) -> [...]."""


def smooth_l1(deltas: tf.Tensor, targets: tf.Tensor, *, delta: float = 1.0) -> tf.Tensor:
    """Huber loss summed over the box code (Fast R-CNN, equation 3 with `delta` = 1): [..., 4] -> [...]."""
    error = tf.abs(deltas - targets)
    return tf.reduce_sum(tf.where(error < delta, 0.5 * tf.square(error), delta * (error - 0.5 * delta)), axis=-1)


def l1(deltas: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Absolute differences summed over the box code: [..., 4] -> [...]."""
    return tf.reduce_sum(tf.abs(deltas - targets), axis=-1)


def generalized_iou_loss(boxes: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """1 - generalized IoU (Rezatofighi et al. 2019, algorithm 1), from 0 for equal boxes to 2 for boxes far apart.

    Args:
        boxes: [..., 4] float32 (ymin, xmin, ymax, xmax), ymin <= ymax and xmin <= xmax.
        targets: [..., 4] in the same frame.

    Returns:
        [...] float32, with a gradient that is finite for empty boxes too.
    """
    iou, union = _iou_and_union(boxes, targets)
    height, width = tf.unstack(_hull_size(boxes, targets), axis=-1)
    hull = height * width
    return 1.0 - iou + (hull - union) / (hull + _EPSILON)


def distance_iou_loss(boxes: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """1 - distance IoU (Zheng et al. 2020, equation 7); arguments and result as `generalized_iou_loss`."""
    return _distance_iou(boxes, targets)[0]


def complete_iou_loss(boxes: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """1 - complete IoU (Zheng et al. 2020, equations 8 to 11); arguments and result as `generalized_iou_loss`.

    No gradient passes through the weight of the aspect ratio, as in its authors' programs.
    """
    loss, iou = _distance_iou(boxes, targets)
    difference = (4.0 / math.pi**2) * tf.square(_angle(targets) - _angle(boxes))
    weight = tf.stop_gradient(difference / (1.0 - iou + difference + _EPSILON))
    return loss + weight * difference


def _distance_iou(boxes: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The loss and the IoU."""
    iou, _ = _iou_and_union(boxes, targets)
    diagonal = tf.reduce_sum(tf.square(_hull_size(boxes, targets)), axis=-1)  # squared
    shift = (boxes[..., :2] + boxes[..., 2:] - targets[..., :2] - targets[..., 2:]) / 2.0  # between centres
    return 1.0 - iou + tf.reduce_sum(tf.square(shift), axis=-1) / (diagonal + _EPSILON), iou


def _iou_and_union(boxes: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    # Not `ops.boxes.iou`: its maximum with 0 passes a gradient to boxes that only touch, and that of an empty union is NaN.
    size = tf.nn.relu(_minimum(boxes[..., 2:], targets[..., 2:]) - _maximum(boxes[..., :2], targets[..., :2]))
    intersection = size[..., 0] * size[..., 1]
    union = _area(boxes) + _area(targets) - intersection
    return intersection / (union + _EPSILON), union


def _hull_size(boxes: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """[..., 2], height and width of the smallest box around both."""
    return _maximum(boxes[..., 2:], targets[..., 2:]) - _minimum(boxes[..., :2], targets[..., :2])


def _area(boxes: tf.Tensor) -> tf.Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _angle(boxes: tf.Tensor) -> tf.Tensor:
    """Arcus tangent of width / height."""
    height, width = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return tf.atan(width / tf.maximum(height, _EPSILON))


# Of equal numbers each gets half of the gradient, so that a box that is right is left where it is; TensorFlow's minimum and
# maximum give all of it to the first.
def _minimum(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return 0.5 * (tf.minimum(a, b) + tf.minimum(b, a))


def _maximum(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return 0.5 * (tf.maximum(a, b) + tf.maximum(b, a))


@dataclasses.dataclass(frozen=True)
class SmoothL1:
    """`smooth_l1` of box deltas, a `LocalizationLoss`.

    Attributes:
        delta: difference of a delta from its target up to which it is quadratic.
        factor: what it is multiplied with; 1 / `delta` gives it a slope of 1 beyond.
    """

    delta: float = 1.0
    factor: float = 1.0

    def __call__(self, deltas: tf.Tensor, targets: tf.Tensor, anchors: tf.Tensor) -> tf.Tensor:
        loss = smooth_l1(deltas, targets, delta=self.delta)
        return loss if self.factor == 1.0 else self.factor * loss


@dataclasses.dataclass(frozen=True)
class L1:
    """`l1` of box deltas, a `LocalizationLoss`."""

    def __call__(self, deltas: tf.Tensor, targets: tf.Tensor, anchors: tf.Tensor) -> tf.Tensor:
        return l1(deltas, targets)


@dataclasses.dataclass(frozen=True)
class DecodedBoxes:
    """A loss of the boxes that deltas mean, a `LocalizationLoss`.

    Attributes:
        loss: of boxes [..., 4] and boxes [..., 4] -> [...].
        decode: (deltas [..., 4], anchors [..., 4]) -> boxes [..., 4], of the box coder that encoded the targets. Its limit of
            sizes holds for both.
    """

    loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    decode: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

    def __call__(self, deltas: tf.Tensor, targets: tf.Tensor, anchors: tf.Tensor) -> tf.Tensor:
        return self.loss(self.decode(deltas, anchors), self.decode(targets, anchors))


def softmax_cross_entropy(logits: tf.Tensor, targets: tf.Tensor, *, logit_scale: float = 1.0) -> tf.Tensor:
    """Cross-entropy of a softmax over `logits / logit_scale`: [..., C+1] -> [...]."""
    return tf.nn.softmax_cross_entropy_with_logits(labels=targets, logits=logits / logit_scale)


def softmax_cross_entropy_of_logits(
    logits: tf.Tensor, target_logits: tf.Tensor, *, logit_scale: float = 1.0
) -> tf.Tensor:
    """Cross-entropy between two softmaxes, for targets that are logits (of a teacher, say): [..., C+1] -> [...].

    Both are divided by `logit_scale` first (Hinton et al. 2015, section 2). One-hot targets are taken as logits, too.
    """
    return softmax_cross_entropy(logits, tf.nn.softmax(target_logits / logit_scale), logit_scale=logit_scale)


def sigmoid_cross_entropy(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of a sigmoid for each class, background being one of them, summed: [..., C+1] -> [...]."""
    return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits), axis=-1)


def sigmoid_focal_loss(
    logits: tf.Tensor, targets: tf.Tensor, *, gamma: float = 2.0, alpha: float | None = None
) -> tf.Tensor:
    """Sigmoid cross-entropy that fades for what is already right (Lin et al. 2017, RetinaNet, equation 5).

    Args:
        logits: [..., C+1].
        targets: [..., C+1] in [0, 1].
        gamma: the higher, the less easy examples count; 0 is plain cross-entropy.
        alpha: weight of a target of 1, against 1 - alpha of a target of 0; None counts both 1.

    Returns:
        [...], summed over the classes.
    """
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)
    scores = tf.sigmoid(logits)
    wrong = targets * (1.0 - scores) + (1.0 - targets) * scores  # 1 - p_t
    # A power of 0 has no gradient in a power below 1: what is right to the last bit would train with NaN.
    factor = tf.pow(tf.maximum(wrong, _TINY), gamma) if gamma else 1.0
    if alpha is not None:
        factor *= targets * alpha + (1.0 - targets) * (1.0 - alpha)
    return tf.reduce_sum(factor * entropy, axis=-1)
