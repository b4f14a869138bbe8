"""Assigns groundtruth to anchors (Faster R-CNN, section 3.1.2); the library's matchers lack padding and the API's ties.

Matches are int32: a row of the groundtruth, BACKGROUND, or IGNORED.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops.dims import dim

BACKGROUND = -1
IGNORED = -2

_NONE = -1.0  # similarity to what cannot match; real similarities are never negative

# Groundtruth rows that a turn of the loop compares with all anchors. Each is as many operations again to trace and to prepare,
# which takes longer than a CPU's or a GPU's turns do; XLA's, of which each reads and writes what is best so far, cost more.
_ROWS_OF_A_TURN, _ROWS_OF_A_STATIC_TURN = 2, 8


class Matching(NamedTuple):
    """Who is whose."""

    matches: tf.Tensor
    """[B, K] int32, the groundtruth row of each anchor, BACKGROUND or IGNORED."""
    best: tf.Tensor
    """[B, G] int32, the anchor with which each real groundtruth box has the largest IoU, however low; K where none may be."""


def match_boxes(boxes: tf.Tensor, gt_boxes: tf.Tensor, **settings: Any) -> tf.Tensor:
    """`Matching.matches` of `match_both_ways`, which takes the same."""
    return match_both_ways(boxes, gt_boxes, **settings).matches


def match_both_ways(
    boxes: tf.Tensor,
    gt_boxes: tf.Tensor,
    *,
    gt_is_real: tf.Tensor,
    matched_threshold: float,
    unmatched_threshold: float,
    force_match: bool,
    match_ties: bool = False,
    min_background_iou: float = 0.0,
    may_force: tf.Tensor | None = None,
    is_valid: tf.Tensor | None = None,
    static: bool = False,
) -> Matching:
    """Matches each anchor to the groundtruth box with which it has the largest IoU.

    An anchor is background below `unmatched_threshold`, ignored from there to below `matched_threshold`, and matched from
    `matched_threshold` on. With `force_match` each real groundtruth box also gets the anchor with which it has the largest IoU,
    however low that is; if several ask for one anchor, the first gets it. Ties go to the lowest index. With `match_ties` it
    gets all anchors with which it has the largest IoU, if that is not 0, and each of them is matched to the groundtruth
    box with which it has the largest IoU itself, which may be another (torchvision and Detectron2).

    Args:
        boxes: [B or 1, K, 4] float32, the anchors, in the frame of `gt_boxes`.
        gt_boxes: [B, G, 4] float32, G at least 1.
        gt_is_real: [B, G] bool, False for rows that must not match, such as padding; first rows that are real cost least.
        matched_threshold: least IoU of a match.
        unmatched_threshold: IoU below which an anchor is background.
        force_match: whether each real groundtruth box gets an anchor.
        match_ties: with `force_match`, gives it all that overlap it most.
        min_background_iou: anchors of a lower IoU are ignored instead of background (Fast R-CNN, section 2.3).
        may_force: [B, G] bool, real rows that `force_match` gives an anchor to; the others match what they overlap only. None
            admits all.
        is_valid: [B or 1, K] bool, anchors that may match; the others are ignored. None admits all.
        static: in turns that are fast where XLA compiles them; the results are the same.

    Returns:
        The matches; all are background where no groundtruth is real.

    Raises:
        ValueError: if `unmatched_threshold` exceeds `matched_threshold`.
    """
    _check(matched_threshold, unmatched_threshold)
    with tf.name_scope("matching"):
        may_match_ties = None
        if force_match and match_ties:
            may_match_ties = tf.ones_like(gt_is_real) if may_force is None else may_force
        overlaps = _best_overlaps(boxes, gt_boxes, gt_is_real, is_valid, box_ops.iou, _num_rows(static), may_match_ties)
        matches = _decide(overlaps, matched_threshold, unmatched_threshold, min_background_iou)
        if overlaps.is_top is not None:
            matches = tf.where(overlaps.is_top, overlaps.row, matches)
        elif force_match:
            forced = overlaps.anchor if may_force is None else tf.where(may_force, overlaps.anchor, dim(boxes, 1))
            matches = _force(matches, forced)
        if is_valid is not None:
            matches = tf.where(is_valid, matches, IGNORED)
        return Matching(matches, overlaps.anchor)


def covered_share(boxes: tf.Tensor, regions: tf.Tensor, *, is_real: tf.Tensor, static: bool = False) -> tf.Tensor:
    """Measures how far each box lies within one of the regions, such as crowds.

    Args:
        boxes: [B or 1, K, 4] float32, in the frame of `regions`.
        regions: [B, G, 4] float32.
        is_real: [B, G] bool, regions that count.
        static: as for `match_both_ways`.

    Returns:
        [B, K] float32, the largest share of the box's area that lies in one real region; 0 without any.
    """

    def ioa(regions: box_ops.Corners, boxes: box_ops.Corners) -> tf.Tensor:
        return box_ops.ioa(boxes, regions)

    with tf.name_scope("matching"):
        overlaps = _best_overlaps(boxes, regions, is_real, None, ioa, _num_rows(static))
        return tf.maximum(overlaps.similarity, 0.0)


def _num_rows(static: bool) -> int:
    return _ROWS_OF_A_STATIC_TURN if static else _ROWS_OF_A_TURN


class _Overlaps(NamedTuple):
    """The best partner of every anchor and of every groundtruth box, the first of equals."""

    similarity: tf.Tensor  # [B, K] of each anchor to its best real groundtruth box; _NONE where there is none
    row: tf.Tensor  # [B, K] int32, that groundtruth box; anything where there is none
    anchor: tf.Tensor  # [B, G] int32, the anchor most similar to each groundtruth box; K where none may match
    is_top: tf.Tensor | None  # [B, K] bool, anchors whose similarity to a groundtruth box is the largest and not 0


def _best_overlaps(
    boxes: tf.Tensor,
    gt_boxes: tf.Tensor,
    gt_is_real: tf.Tensor,
    is_valid: tf.Tensor | None,
    measure: Callable[[box_ops.Corners, box_ops.Corners], tf.Tensor],
    num_rows: int,
    may_match_ties: tf.Tensor | None = None,
) -> _Overlaps:
    """Finds the best partners without ever holding all K x G overlaps; time grows with the last real row, not with G.

    `measure` takes corners [B, 1] and [B, K] to [B, K], not negative; `num_rows` are compared in a turn. `may_match_ties` is
    [B, G] bool, groundtruth boxes whose anchors `is_top` marks; None marks none. No gradient passes.
    """
    boxes, gt_boxes = tf.stop_gradient(boxes), tf.stop_gradient(gt_boxes)
    batch, num_anchors, num_groundtruth = dim(gt_boxes, 0), dim(boxes, 1), dim(gt_boxes, 1)
    num_turns = -(-num_groundtruth // num_rows)
    padding = num_turns * num_rows - num_groundtruth
    gt_corners = tf.transpose(tf.pad(gt_boxes, [[0, 0], [0, padding], [0, 0]]), [1, 2, 0])[..., tf.newaxis]
    is_real = tf.transpose(tf.pad(gt_is_real, [[0, 0], [0, padding]]))[..., tf.newaxis]  # [G, B, 1]
    may_match = None
    if may_match_ties is not None:
        may_match = tf.transpose(tf.pad(may_match_ties, [[0, 0], [0, padding]]))[..., tf.newaxis]
    num_needed = tf.reduce_max(tf.where(is_real[..., 0], tf.range(num_turns * num_rows)[:, tf.newaxis] + 1, 0))
    # For each image, although all may have the same: a TPU's compiler would lay them out anew in every turn of the loop.
    corners = [tf.broadcast_to(corner, [batch, num_anchors]) for corner in tf.unstack(boxes, axis=-1)]

    def unseen(start: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
        return start < num_needed

    def compare(
        start: tf.Tensor, best: tf.Tensor, row: tf.Tensor, anchor: tf.Tensor, *is_top: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        row_corners = tf.unstack(tf.slice(gt_corners, [start, 0, 0, 0], [num_rows, 4, batch, 1]))
        row_is_real = tf.unstack(tf.slice(is_real, [start, 0, 0], [num_rows, batch, 1]))
        if may_match is not None:
            row_may_match = tf.unstack(tf.slice(may_match, [start, 0, 0], [num_rows, batch, 1]))
        anchors_of_rows = []
        # One by one: what is kept of each needs no second look at the overlaps of all.
        for i in range(num_rows):
            overlap = measure(tf.unstack(row_corners[i]), corners)
            overlap = tf.where(row_is_real[i], overlap, _NONE)
            if is_valid is not None:
                overlap = tf.where(is_valid, overlap, _NONE)
            row = tf.where(overlap > best, start + i, row)  # of equals, the one that came first stays
            best = tf.maximum(best, overlap)
            first = tf.argmax(overlap, axis=1, output_type=tf.int32)
            anchors_of_rows.append(first)
            if may_match is not None:
                top = tf.reduce_max(overlap, axis=1, keepdims=True)
                # The first even where a compiler computes the overlaps twice, and not to the last bit alike.
                is_equal = tf.equal(overlap, top) | tf.equal(tf.range(num_anchors), first[:, tf.newaxis])
                is_top = (is_top[0] | (is_equal & (top > 0.0) & row_may_match[i]),)
        columns = (start + tf.range(num_rows))[:, tf.newaxis]
        anchor = tf.tensor_scatter_nd_update(anchor, columns, tf.stack(anchors_of_rows))
        return (start + num_rows, best, row, anchor, *is_top)

    _, best, row, anchor, *is_top = tf.while_loop(
        unseen,
        compare,
        (
            tf.constant(0),
            tf.fill([batch, num_anchors], _NONE),
            tf.zeros([batch, num_anchors], tf.int32),
            tf.zeros([num_turns * num_rows, batch], tf.int32),
            *([] if may_match is None else [tf.zeros([batch, num_anchors], tf.bool)]),
        ),
        maximum_iterations=num_turns,
    )
    can_match = gt_is_real if is_valid is None else gt_is_real & tf.reduce_any(is_valid, axis=1, keepdims=True)
    anchor = tf.where(can_match, tf.transpose(anchor)[:, :num_groundtruth], num_anchors)
    return _Overlaps(similarity=best, row=row, anchor=anchor, is_top=is_top[0] if is_top else None)


def _check(matched_threshold: float, unmatched_threshold: float) -> None:
    if unmatched_threshold > matched_threshold:
        raise ValueError(
            f"unmatched_threshold = {unmatched_threshold} exceeds matched_threshold = {matched_threshold}."
        )


def _decide(
    overlaps: _Overlaps, matched_threshold: float, unmatched_threshold: float, min_background_iou: float
) -> tf.Tensor:
    """[B, K] by the thresholds alone."""
    is_background = overlaps.similarity < unmatched_threshold
    if min_background_iou > 0.0:
        is_background &= overlaps.similarity >= min_background_iou
    unmatched = tf.where(is_background, BACKGROUND, IGNORED)
    return tf.where(overlaps.similarity >= matched_threshold, overlaps.row, unmatched)


def _force(matches: tf.Tensor, anchor: tf.Tensor) -> tf.Tensor:
    """Matches [B, K], changed at the anchor [B, G] of each groundtruth box, K for none."""
    batch, num_anchors = tf.unstack(tf.shape(matches))
    num_groundtruth = tf.shape(anchor)[1]
    images = tf.broadcast_to(tf.range(batch)[:, tf.newaxis], tf.shape(anchor))
    rows = tf.broadcast_to(tf.range(num_groundtruth), tf.shape(anchor))
    first = tf.fill([batch, num_anchors + 1], num_groundtruth)  # the last column takes rows without an anchor
    first = tf.tensor_scatter_nd_min(first, tf.stack([images, anchor], axis=-1), rows)[:, :num_anchors]
    return tf.where(first < num_groundtruth, first, matches)
