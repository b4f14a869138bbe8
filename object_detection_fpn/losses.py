"""The losses of both stages, under the Object Detection API's names.

Each is the mean over the images of a batch of a sum over anchors or RoIs, divided by how many of the image's anchors or RoIs
train (Faster R-CNN, section 3.1.2).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from object_detection_fpn.records import Targets

RPN_LOCALIZATION = "Loss/RPNLoss/localization_loss"
RPN_OBJECTNESS = "Loss/RPNLoss/objectness_loss"
BOX_LOCALIZATION = "Loss/BoxClassifierLoss/localization_loss"
BOX_CLASSIFICATION = "Loss/BoxClassifierLoss/classification_loss"
REGULARIZATION = "Loss/regularization_loss"
TOTAL = "Loss/total_loss"

ClassificationLoss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""(logits [..., C+1], one-hot targets [..., C+1]) -> [...]."""


def smooth_l1(deltas: tf.Tensor, targets: tf.Tensor, *, delta: float = 1.0) -> tf.Tensor:
    """Huber loss summed over the box code (Fast R-CNN, equation 3 with `delta` = 1): [..., 4] -> [...]."""
    error = tf.abs(deltas - targets)
    return tf.reduce_sum(tf.where(error < delta, 0.5 * tf.square(error), delta * (error - 0.5 * delta)), axis=-1)


def softmax_cross_entropy(logits: tf.Tensor, targets: tf.Tensor, *, logit_scale: float = 1.0) -> tf.Tensor:
    """Cross-entropy of a softmax over `logits / logit_scale`: [..., C+1] -> [...]."""
    return tf.nn.softmax_cross_entropy_with_logits(labels=targets, logits=logits / logit_scale)


@dataclasses.dataclass(frozen=True)
class RpnLoss:
    """Objectness and localization of the sampled anchors."""

    localization_weight: float = 1.0
    objectness_weight: float = 1.0

    def __call__(
        self, objectness_logits: tf.Tensor, box_deltas: tf.Tensor, targets: Targets, is_sampled: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Sums over the sampled anchors.

        Args:
            objectness_logits: [B, S, 2].
            box_deltas: [B, S, 4].
            targets: of the same S anchors.
            is_sampled: [B, S] bool, False in padding rows.
        """
        sampled = tf.cast(is_sampled, tf.float32)
        num_sampled = tf.maximum(tf.reduce_sum(sampled, axis=1), 1.0)  # [B]
        objectness = softmax_cross_entropy(objectness_logits, tf.one_hot(targets.classes, 2)) * sampled
        localization = smooth_l1(box_deltas, targets.box_deltas) * targets.box_weights * sampled
        return {
            RPN_LOCALIZATION: self.localization_weight * _mean_over_images(localization, num_sampled),
            RPN_OBJECTNESS: self.objectness_weight * _mean_over_images(objectness, num_sampled),
        }


@dataclasses.dataclass(frozen=True)
class BoxLoss:
    """Classification and localization of the RoIs that the box head saw."""

    localization_weight: float = 1.0
    classification_weight: float = 1.0
    classification_loss: ClassificationLoss = softmax_cross_entropy

    def __call__(
        self, class_logits: tf.Tensor, box_deltas: tf.Tensor, targets: Targets, num_rois: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Sums over the RoIs.

        Args:
            class_logits: [B, R, C+1].
            box_deltas: [B, R, C or 1, 4].
            targets: of the same R RoIs; padding rows have weight 0.
            num_rois: [B] int32.
        """
        num_classes = class_logits.shape[-1] - 1
        num_rois = tf.maximum(tf.cast(num_rois, tf.float32), 1.0)
        one_hot = tf.one_hot(targets.classes, num_classes + 1)
        classification = self.classification_loss(class_logits, one_hot) * targets.class_weights
        # A masked sum and not a gather, whose gradient would be a scatter.
        is_class = one_hot[..., 1:, None] if box_deltas.shape[2] > 1 else 1.0
        deltas = tf.reduce_sum(box_deltas * is_class, axis=2)
        localization = smooth_l1(deltas, targets.box_deltas) * targets.box_weights
        return {
            BOX_LOCALIZATION: self.localization_weight * _mean_over_images(localization, num_rois),
            BOX_CLASSIFICATION: self.classification_weight * _mean_over_images(classification, num_rois),
        }


def _mean_over_images(values: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """[B, N] summed over N, divided by [B], averaged over B."""
    return tf.reduce_mean(tf.reduce_sum(values, axis=1) / counts)
