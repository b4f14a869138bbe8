"""The losses of both stages, under the Object Detection API's names.

Each is the mean over the images of a batch of a sum over anchors or RoIs, divided by how many of the image's anchors or RoIs
train (Faster R-CNN, section 3.1.2); with hard examples, only these are summed, and the divisor stays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from object_detection_fpn.ops import matching, nms
from object_detection_fpn.records import Proposals, Targets

RPN_LOCALIZATION = "Loss/RPNLoss/localization_loss"
RPN_OBJECTNESS = "Loss/RPNLoss/objectness_loss"
BOX_LOCALIZATION = "Loss/BoxClassifierLoss/localization_loss"
BOX_CLASSIFICATION = "Loss/BoxClassifierLoss/classification_loss"
REGULARIZATION = "Loss/regularization_loss"
TOTAL = "Loss/total_loss"

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
class HardExampleMiner:
    """Chooses the RoIs with the largest losses, of those that overlap much only the worst (Shrivastava et al. 2016).

    Attributes:
        num_examples: RoIs to choose from each image, before negatives are limited; None = all that are left.
        iou_threshold: a RoI that overlaps one with a larger loss by more is dropped.
        localization_weight, classification_weight: of the two losses in their sum, by which RoIs are ranked.
        max_negatives_per_positive: background RoIs for each object among the chosen, the worst ones; None = no limit.
        min_negatives: background RoIs that this limit always leaves.
        implementation: "native" or "xla", see `ops.nms`.
    """

    num_examples: int | None = 64
    iou_threshold: float = 0.7
    localization_weight: float = 1.0
    classification_weight: float = 1.0
    max_negatives_per_positive: float | None = None
    min_negatives: int = 0
    implementation: str = "native"

    def __call__(
        self, localization: tf.Tensor, classification: tf.Tensor, targets: Targets, rois: Proposals
    ) -> tf.Tensor:
        """Chooses; no gradient passes.

        Args:
            localization: [B, R], loss of each RoI.
            classification: [B, R].
            targets: of the RoIs.
            rois: R of them.

        Returns:
            [B, R] float32, 1 for the chosen and 0 for the others.
        """
        loss = self.localization_weight * localization + self.classification_weight * classification
        num_rois = rois.boxes.shape[1]
        is_real = tf.sequence_mask(rois.num_proposals, num_rois)
        indices, num_chosen = nms.batched_nms(
            rois.boxes,
            tf.where(is_real, tf.stop_gradient(loss), float("-inf")),
            max_outputs=num_rois if self.num_examples is None else min(self.num_examples, num_rois),
            iou_threshold=self.iou_threshold,
            score_threshold=float("-inf"),
            static=self.implementation == "xla",
        )
        is_chosen = tf.sequence_mask(num_chosen, indices.shape[1])
        if self.max_negatives_per_positive is not None:
            matches = tf.gather(targets.matches, indices, batch_dims=1)
            # What is matched to groundtruth without weight does not train, and so allows no background either.
            has_weight = tf.gather(targets.class_weights, indices, batch_dims=1) > 0.0
            is_positive = is_chosen & (matches >= 0) & has_weight
            is_negative = is_chosen & (matches == matching.BACKGROUND)
            num_positives = tf.reduce_sum(tf.cast(is_positive, tf.float32), axis=1, keepdims=True)
            limit = tf.cast(self.max_negatives_per_positive * num_positives, tf.int32)
            rank = tf.cumsum(tf.cast(is_negative, tf.int32), axis=1)  # worst first
            is_chosen = is_positive | (is_negative & (rank <= tf.maximum(limit, self.min_negatives)))
        rows = tf.where(is_chosen, indices, num_rois)  # a row that does not exist
        return tf.reduce_max(tf.one_hot(rows, num_rois), axis=1)


@dataclasses.dataclass(frozen=True)
class BoxLoss:
    """Classification and localization of the RoIs that the box head saw, or, with `miner`, of the hardest of them."""

    localization_weight: float = 1.0
    classification_weight: float = 1.0
    classification_loss: ClassificationLoss = softmax_cross_entropy
    miner: HardExampleMiner | None = None

    def __call__(
        self, class_logits: tf.Tensor, box_deltas: tf.Tensor, targets: Targets, rois: Proposals
    ) -> dict[str, tf.Tensor]:
        """Sums over the RoIs.

        Args:
            class_logits: [B, R, C+1].
            box_deltas: [B, R, C or 1, 4].
            targets: of the same R RoIs; padding rows have weight 0.
            rois: the RoIs.
        """
        num_classes = class_logits.shape[-1] - 1
        num_rois = tf.maximum(tf.cast(rois.num_proposals, tf.float32), 1.0)
        one_hot = tf.one_hot(targets.classes, num_classes + 1)
        class_targets = one_hot if targets.class_targets is None else targets.class_targets
        classification = self.classification_loss(class_logits, class_targets) * targets.class_weights
        # A masked sum and not a gather, whose gradient would be a scatter.
        is_class = one_hot[..., 1:, None] if box_deltas.shape[2] > 1 else 1.0
        deltas = tf.reduce_sum(box_deltas * is_class, axis=2)
        localization = smooth_l1(deltas, targets.box_deltas) * targets.box_weights
        if self.miner is not None:
            is_hard = self.miner(localization, classification, targets, rois)
            localization, classification = localization * is_hard, classification * is_hard
        return {
            BOX_LOCALIZATION: self.localization_weight * _mean_over_images(localization, num_rois),
            BOX_CLASSIFICATION: self.classification_weight * _mean_over_images(classification, num_rois),
        }


def _mean_over_images(values: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """[B, N] summed over N, divided by [B], averaged over B."""
    return tf.reduce_mean(tf.reduce_sum(values, axis=1) / counts)
