"""What training measures beside the losses: whether anchors and proposals reach the objects.

A statistic is [B, 2] float32: of each image a value, and what it counts for. What is shown is the sum of all values, of many
images and steps, divided by the sum of what they count for. No gradient passes, and no loss depends on any of it.
"""

from __future__ import annotations

from typing import TypeAlias

import tensorflow as tf

from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops import matching
from object_detection_fpn.ops.dims import dim
from object_detection_fpn.records import Groundtruth, Proposals, Targets

Statistics: TypeAlias = dict[str, tf.Tensor]
"""Statistics by name, which is their tag in TensorBoard."""

OBJECTS = "Matching/objects"
RECALL = "Proposals/recall@0.5IOU"
_RECALL_IOU = 0.5


def match_names(head: str) -> tuple[str, str]:
    """The names of what `count_matches` counts."""
    return f"Matching/{head}/positives", f"Matching/{head}/negatives"


def unmatched_name(head: str) -> str:
    """The name of what `count_unmatched` counts."""
    return f"Matching/{head}/unmatched_objects"


def count_objects(groundtruth: Groundtruth) -> Statistics:
    """Counts the groundtruth boxes of each image that train: neither crowds nor without weight."""
    return {OBJECTS: _per_image(_are_objects(groundtruth))}


def count_matches(head: str, targets: Targets) -> Statistics:
    """Counts the anchors or RoIs of each image that train a head as objects and as background.

    Args:
        head: as its name begins.
        targets: of those that train; the others are ignored there.
    """
    positives, negatives = match_names(head)
    return {
        positives: _per_image(targets.matches >= 0),
        negatives: _per_image(targets.matches == matching.BACKGROUND),
    }


def count_unmatched(
    head: str, anchors: tf.Tensor, targets: Targets, groundtruth: Groundtruth, *, threshold: float
) -> Statistics:
    """Counts the groundtruth boxes of each image that no anchor overlaps enough, whether one is forced to match or not.

    Args:
        head: as its name begins.
        anchors: [K, 4] pixels.
        targets: with `best`, rows of these anchors.
        groundtruth: of the same images.
        threshold: least IoU of a match.
    """
    assert targets.best is not None
    num_anchors = dim(anchors, 0)
    best = tf.gather(tf.stop_gradient(anchors), tf.minimum(targets.best, num_anchors - 1))  # [B, G, 4]
    overlaps = box_ops.iou(tf.unstack(best, axis=-1), tf.unstack(groundtruth.boxes, axis=-1))
    is_matched = (overlaps >= threshold) & (targets.best < num_anchors)
    return {unmatched_name(head): _per_image(_are_objects(groundtruth) & ~is_matched)}


def measure_recall(proposals: Proposals, groundtruth: Groundtruth) -> Statistics:
    """Measures the share of the groundtruth boxes that some proposal overlaps by an IoU of at least 0.5."""
    overlaps = box_ops.pairwise_iou(tf.stop_gradient(proposals.boxes), groundtruth.boxes)  # [B, R, G]
    is_real = tf.sequence_mask(proposals.num_proposals, dim(overlaps, 1))
    is_covered = tf.reduce_any((overlaps >= _RECALL_IOU) & is_real[..., tf.newaxis], axis=1)
    are_objects = _are_objects(groundtruth)
    num_covered, num_objects = (_count(flags) for flags in (is_covered & are_objects, are_objects))
    return {RECALL: tf.stack([num_covered, num_objects], axis=-1)}


def _are_objects(groundtruth: Groundtruth) -> tf.Tensor:
    """[B, G] bool."""
    in_range = tf.sequence_mask(groundtruth.num_boxes, dim(groundtruth.boxes, 1))
    return in_range & ~groundtruth.is_crowd & (groundtruth.weights > 0.0)


def _count(flags: tf.Tensor) -> tf.Tensor:
    """[B, N] bool -> [B] float32."""
    return tf.reduce_sum(tf.cast(flags, tf.float32), axis=1)


def _per_image(flags: tf.Tensor) -> tf.Tensor:
    """How many are true, a mean over images: [B, N] bool -> [B, 2]."""
    count = _count(flags)
    return tf.stack([count, tf.ones_like(count)], axis=-1)
