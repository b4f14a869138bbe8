"""Online hard example mining: the RoIs with the largest losses train, the others do not (Shrivastava et al. 2016)."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from object_detection_fpn.ops import matching, nms
from object_detection_fpn.records import Proposals, Targets


@dataclasses.dataclass(frozen=True)
class HardExampleMiner:
    """Chooses the RoIs with the largest losses, of those that overlap much only the worst (Shrivastava et al. 2016).

    Attributes:
        num_examples: RoIs to choose from each image, before negatives are limited; None = all that are left.
        iou_threshold: a RoI that overlaps one with a larger loss by more is dropped.
        localization_weight, classification_weight: of the two losses in their sum, by which RoIs are ranked.
        max_negatives_per_positive: background RoIs for each object among the chosen, the worst ones; None = no limit.
        min_negatives: background RoIs that this limit always leaves.
        static: see `execution.Execution`.
    """

    num_examples: int | None = 64
    iou_threshold: float = 0.7
    localization_weight: float = 1.0
    classification_weight: float = 1.0
    max_negatives_per_positive: float | None = None
    min_negatives: int = 0
    static: bool = False

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
            static=self.static,
        )
        is_chosen = tf.sequence_mask(num_chosen, indices.shape[1])
        if self.max_negatives_per_positive is not None:
            matches = tf.gather(targets.matches, indices, batch_dims=1)
            is_positive = is_chosen & (matches >= 0)
            is_negative = is_chosen & (matches == matching.BACKGROUND)
            num_positives = tf.reduce_sum(tf.cast(is_positive, tf.float32), axis=1, keepdims=True)
            limit = tf.cast(self.max_negatives_per_positive * num_positives, tf.int32)
            rank = tf.cumsum(tf.cast(is_negative, tf.int32), axis=1)  # worst first
            is_chosen = is_positive | (is_negative & (rank <= tf.maximum(limit, self.min_negatives)))
        rows = tf.where(is_chosen, indices, num_rois)  # a row that does not exist
        return tf.reduce_max(tf.one_hot(rows, num_rois), axis=1)
