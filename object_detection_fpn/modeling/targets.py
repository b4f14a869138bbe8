"""Training targets: which groundtruth box each anchor or RoI answers for, and which of them train (Faster R-CNN, section 3.1).

Groundtruth marked as crowd is never an object to find, and what lies inside it is not background either: such anchors and
RoIs are ignored, as the COCO evaluation ignores detections there.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from object_detection_fpn.ops import box_coder, matching, sampling, selection
from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops.dims import dim
from object_detection_fpn.records import Groundtruth, Proposals, RpnOutputs, Targets

# Share of a box that has to lie in a crowd region to be ignored; the COCO evaluation's IoU threshold of 0.5 for regions.
_CROWD_OVERLAP = 0.5


def match(boxes: tf.Tensor, groundtruth: Groundtruth, **settings: Any) -> tf.Tensor:
    """`Matching.matches` of `match_both_ways`, which takes the same."""
    return match_both_ways(boxes, groundtruth, **settings).matches


def match_both_ways(
    boxes: tf.Tensor,
    groundtruth: Groundtruth,
    *,
    matched_threshold: float,
    unmatched_threshold: float,
    force_match: bool,
    match_ties: bool = False,
    min_background_iou: float = 0.0,
    is_valid: tf.Tensor | None = None,
    static: bool = False,
) -> matching.Matching:
    """Matches each box to the groundtruth box that it overlaps most.

    Args:
        boxes: [B or 1, K, 4] pixels.
        groundtruth: of B images.
        matched_threshold: least IoU of a match.
        unmatched_threshold: below it a box is background; between the two it is ignored.
        force_match: each groundtruth box that has weight also gets the box that overlaps it most.
        match_ties: see `matching.match_both_ways`.
        min_background_iou: below it a box is ignored, too.
        is_valid: [B or 1, K] bool; others are ignored and not forced.
        static: see `execution.Execution`.

    Returns:
        Of each box the row of the groundtruth, -1 background, -2 ignored; of each groundtruth box the box that overlaps it
        most.
    """
    in_range = tf.sequence_mask(groundtruth.num_boxes, tf.shape(groundtruth.boxes)[1])  # [B, G]
    matched = matching.match_both_ways(
        boxes,
        groundtruth.boxes,
        gt_is_real=in_range & ~groundtruth.is_crowd,
        matched_threshold=matched_threshold,
        unmatched_threshold=unmatched_threshold,
        force_match=force_match,
        match_ties=match_ties,
        min_background_iou=min_background_iou,
        # Groundtruth without weight still keeps what it overlaps from being background.
        may_force=groundtruth.weights > 0.0,
        is_valid=is_valid,
        static=static,
    )
    crowd_share = matching.covered_share(
        boxes, groundtruth.boxes, is_real=groundtruth.is_crowd & in_range, static=static
    )
    is_in_crowd = (crowd_share >= _CROWD_OVERLAP) & (matched.matches == matching.BACKGROUND)
    return matched._replace(matches=tf.where(is_in_crowd, matching.IGNORED, matched.matches))


def _can_train(matches: tf.Tensor, groundtruth: Groundtruth) -> tf.Tensor:
    """[B, K] bool: background, or matched to a groundtruth box that has weight."""
    in_range = tf.sequence_mask(groundtruth.num_boxes, tf.shape(groundtruth.boxes)[1])
    has_weight = groundtruth.weights > 0.0

    def look_up() -> tf.Tensor:
        return tf.gather(has_weight, tf.maximum(matches, 0), batch_dims=1)

    # Nearly always all have weight, and a look-up for each of many anchors takes long on a TPU.
    is_matched_with_weight = tf.cond(
        tf.reduce_all(has_weight | ~in_range), lambda: tf.ones_like(matches, tf.bool), look_up
    )
    return (matches == matching.BACKGROUND) | ((matches >= 0) & is_matched_with_weight)


def encode(
    boxes: tf.Tensor,
    matches: tf.Tensor,
    groundtruth: Groundtruth,
    *,
    class_agnostic: bool,
    coder: box_coder.BoxCoder = box_coder.BoxCoder(),
) -> Targets:
    """Turns matches into what each box should say.

    Args:
        boxes: [B or 1, K, 4] pixels.
        matches: [B, K] int32 of `match`.
        groundtruth: of B images.
        class_agnostic: every object is class 1, as the RPN wants it. Otherwise `groundtruth.class_scores`, where they are
            there, decide over its classes.
        coder: of the deltas.
    """
    with tf.name_scope("matching"):
        is_matched = matches >= 0
        rows = tf.maximum(matches, 0)
        gt_weights = tf.gather(groundtruth.weights, rows, batch_dims=1)
        box_weights = tf.where(is_matched, gt_weights, 0.0)
        class_weights = tf.where(is_matched, gt_weights, tf.cast(matches == matching.BACKGROUND, tf.float32))
        classes = tf.cast(is_matched, tf.int32)
        class_targets = None
        if not class_agnostic:
            classes *= tf.gather(object_classes(groundtruth), rows, batch_dims=1)
            class_targets = _class_targets(is_matched, rows, groundtruth)
        gt_boxes = tf.gather(groundtruth.boxes, rows, batch_dims=1)  # [B, K, 4]
        deltas = tf.where(is_matched[..., None], coder.encode(gt_boxes, boxes), 0.0)
        return Targets(
            classes=classes,
            class_weights=class_weights,
            box_deltas=deltas,
            box_weights=box_weights,
            matches=matches,
            class_targets=class_targets,
        )


def object_classes(groundtruth: Groundtruth) -> tf.Tensor:
    """[B, G] int32: the class of each object, 0 = background; of several the one that counts most, the first of equals."""
    if groundtruth.class_scores is None:
        return groundtruth.classes + 1
    return tf.argmax(groundtruth.class_scores, axis=-1, output_type=tf.int32)


def _class_targets(is_matched: tf.Tensor, rows: tf.Tensor, groundtruth: Groundtruth) -> tf.Tensor | None:
    if groundtruth.class_scores is None:
        return None
    scores = tf.gather(groundtruth.class_scores, rows, batch_dims=1)  # [B, K, C+1]
    background = tf.one_hot(0, scores.shape[-1])
    return tf.where(is_matched[..., None], scores, background)


@dataclasses.dataclass(frozen=True)
class AnchorSampler:
    """Chooses the anchors that train the RPN: a fixed number an image, at most a share of them objects.

    Attributes:
        num_samples: S.
        positive_fraction: greatest share of objects.
        matched_threshold, unmatched_threshold: IoU of objects and of background (Faster R-CNN, section 3.1.2).
        force_match, match_ties: which anchors are objects below that IoU, see `matching.match_both_ways`.
        coder: of the deltas.
        static: see `execution.Execution`.
    """

    num_samples: int = 256
    positive_fraction: float = 0.5
    matched_threshold: float = 0.7
    unmatched_threshold: float = 0.3
    force_match: bool = True
    match_ties: bool = False
    coder: box_coder.BoxCoder = box_coder.BoxCoder()
    static: bool = False

    def __call__(
        self, outputs: RpnOutputs, groundtruth: Groundtruth, seed: tf.Tensor | None
    ) -> tuple[sampling.Sample, Targets]:
        """Returns the sample, rows of the anchors, and the targets of its rows ([B, S] each).

        Without a seed all images draw alike, each as if it were a batch of one.
        """
        is_valid = outputs.is_valid if outputs.is_trained is None else outputs.is_valid & outputs.is_trained
        matches, best = match_both_ways(
            outputs.anchors[None],
            groundtruth,
            matched_threshold=self.matched_threshold,
            unmatched_threshold=self.unmatched_threshold,
            force_match=self.force_match,
            match_ties=self.match_ties,
            is_valid=is_valid[None],
            static=self.static,
        )
        num_anchors = outputs.anchors.shape[0]
        num_samples = self.num_samples if num_anchors is None else min(self.num_samples, num_anchors)
        sample = sampling.sample_balanced(
            _can_train(matches, groundtruth),
            matches >= 0,
            num_samples=num_samples,
            positive_fraction=self.positive_fraction,
            seed=tf.zeros([2], tf.int32) if seed is None else seed,
            is_alike=seed is None,
        )
        anchors = tf.gather(outputs.anchors, sample.indices)  # [B, S, 4]
        sampled_matches = tf.where(
            sample.is_sampled, tf.gather(matches, sample.indices, batch_dims=1), matching.IGNORED
        )
        of_sample = encode(anchors, sampled_matches, groundtruth, class_agnostic=True, coder=self.coder)
        return sample, of_sample._replace(best=best)


@dataclasses.dataclass(frozen=True)
class AnchorMatcher:
    """Gives all anchors their targets: single-stage detectors train on all (RetinaNet, Lin et al. 2017, section 4.1).

    Attributes:
        matched_threshold, unmatched_threshold: IoU of objects and of background; what lies between is ignored.
        background_between: what lies between is background, and what lies below is ignored.
        force_match, match_ties: which anchors are objects below that IoU, see `matching.match_both_ways`.
        coder: of the deltas.
        static: see `execution.Execution`.
    """

    matched_threshold: float = 0.5
    unmatched_threshold: float = 0.5
    background_between: bool = False
    force_match: bool = False
    match_ties: bool = False
    coder: box_coder.BoxCoder = box_coder.BoxCoder()
    static: bool = False

    def __call__(self, anchors: tf.Tensor, groundtruth: Groundtruth) -> Targets:
        """Returns the targets of anchors [K, 4], pixels."""
        matches, best = match_both_ways(
            anchors[tf.newaxis],
            groundtruth,
            matched_threshold=self.matched_threshold,
            unmatched_threshold=self.matched_threshold if self.background_between else self.unmatched_threshold,
            min_background_iou=self.unmatched_threshold if self.background_between else 0.0,
            force_match=self.force_match,
            match_ties=self.match_ties,
            static=self.static,
        )
        of_anchors = encode(anchors[tf.newaxis], matches, groundtruth, class_agnostic=False, coder=self.coder)
        return of_anchors._replace(best=best)


@dataclasses.dataclass(frozen=True)
class RoISampler:
    """Chooses the proposals that train the box head (Fast R-CNN, section 2.3: 25 % objects).

    Attributes:
        num_samples: RoIs an image. None takes every proposal, for a loss that chooses
            itself (`hard_examples.HardExampleMiner`).
        positive_fraction: greatest share of objects.
        threshold: least IoU of an object; all others are background.
        min_background_iou: those of a lower IoU do not train.
        add_groundtruth: the groundtruth boxes that train are candidates too, with score 1.
        coder: of the deltas.
        static: see `execution.Execution`.
    """

    num_samples: int | None = 64
    positive_fraction: float = 0.25
    threshold: float = 0.5
    min_background_iou: float = 0.0
    add_groundtruth: bool = False
    coder: box_coder.BoxCoder = box_coder.BoxCoder()
    static: bool = False

    def match(self, boxes: tf.Tensor, groundtruth: Groundtruth) -> tf.Tensor:
        """[B, R] int32, as `match`."""
        return match(
            boxes,
            groundtruth,
            matched_threshold=self.threshold,
            unmatched_threshold=self.threshold,
            force_match=False,
            min_background_iou=self.min_background_iou,
            static=self.static,
        )

    def __call__(self, proposals: Proposals, groundtruth: Groundtruth, seed: tf.Tensor) -> Proposals:
        """Returns `num_samples` of the proposals, best first, padded with zeros."""
        if self.add_groundtruth:
            proposals = _add_groundtruth(proposals, groundtruth)
        if self.num_samples is None:
            return proposals
        matches = self.match(proposals.boxes, groundtruth)
        num_proposals = tf.shape(proposals.boxes)[1]
        is_real = tf.sequence_mask(proposals.num_proposals, num_proposals)
        sample = sampling.sample_balanced(
            is_real & _can_train(matches, groundtruth),
            # An object whose scores say background is one.
            (matches >= 0) & (tf.gather(object_classes(groundtruth), tf.maximum(matches, 0), batch_dims=1) > 0),
            num_samples=self.num_samples,
            positive_fraction=self.positive_fraction,
            seed=seed,
        )
        boxes = tf.gather(proposals.boxes, sample.indices, batch_dims=1)
        scores = tf.gather(proposals.scores, sample.indices, batch_dims=1)
        return Proposals(
            boxes=tf.where(sample.is_sampled[..., None], boxes, 0.0),
            scores=tf.where(sample.is_sampled, scores, 0.0),
            num_proposals=tf.reduce_sum(tf.cast(sample.is_sampled, tf.int32), axis=1),
            matches=tf.gather(matches, sample.indices, batch_dims=1),
        )

    def targets(self, rois: Proposals, groundtruth: Groundtruth) -> Targets:
        """Targets of RoIs, sampled by this groundtruth or not at all; padding rows are ignored."""
        matches = self.match(rois.boxes, groundtruth) if rois.matches is None else rois.matches
        is_real = tf.sequence_mask(rois.num_proposals, tf.shape(rois.boxes)[1])
        matches = tf.where(is_real, matches, matching.IGNORED)
        return encode(rois.boxes, matches, groundtruth, class_agnostic=False, coder=self.coder)


def _add_groundtruth(proposals: Proposals, groundtruth: Groundtruth) -> Proposals:
    """The groundtruth boxes that train, of score 1, and the proposals after them: R + G rows."""
    num_groundtruth, num_proposals = dim(groundtruth.boxes, 1), dim(proposals.boxes, 1)
    is_object = tf.sequence_mask(groundtruth.num_boxes, num_groundtruth) & ~groundtruth.is_crowd
    is_object &= (groundtruth.weights > 0.0) & (box_ops.area(groundtruth.boxes) > 0.0)
    is_real = tf.concat([is_object, tf.sequence_mask(proposals.num_proposals, num_proposals)], axis=1)
    num_rows = num_groundtruth + num_proposals
    rows = selection.find_marked(is_real, num_rows)  # the real rows first
    is_filled = rows < num_rows
    rows = tf.minimum(rows, num_rows - 1)
    boxes = tf.concat([groundtruth.boxes, proposals.boxes], axis=1)
    scores = tf.concat([tf.ones_like(groundtruth.weights), proposals.scores], axis=1)
    return Proposals(
        boxes=tf.where(is_filled[..., None], tf.gather(boxes, rows, batch_dims=1), 0.0),
        scores=tf.where(is_filled, tf.gather(scores, rows, batch_dims=1), 0.0),
        num_proposals=tf.math.count_nonzero(is_real, axis=1, dtype=tf.int32),
    )
