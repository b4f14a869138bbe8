"""Losses of single boxes, summed over their code or their classes; which boxes count, and for how much, heads decide."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

_TINY = 1e-30

ClassificationLoss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""(logits [..., C+1], targets [..., C+1]: one-hot, or what the groundtruth says of each class) -> [...]."""


def smooth_l1(deltas: tf.Tensor, targets: tf.Tensor, *, delta: float = 1.0) -> tf.Tensor:
    """Huber loss summed over the box code (Fast R-CNN, equation 3 with `delta` = 1): [..., 4] -> [...]."""
    error = tf.abs(deltas - targets)
    return tf.reduce_sum(tf.where(error < delta, 0.5 * tf.square(error), delta * (error - 0.5 * delta)), axis=-1)


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
