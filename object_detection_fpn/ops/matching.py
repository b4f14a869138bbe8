"""Assigns groundtruth to anchors (Faster R-CNN, section 3.1.2); the library's matchers lack padding and the API's ties.

Matches are int32: a row of the groundtruth, BACKGROUND, or IGNORED.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops.dims import dim

BACKGROUND = -1
IGNORED = -2

_NONE = -1.0  # similarity to what cannot match; real similarities are never negative

# Groundtruth rows compared with all anchors at a time. Few, so that the comparison stays in the cache and a batch with few
# objects is done early; more than one, so that loop overhead does not show. Measured with 7 and 100 boxes, 204,600 anchors.
_CHUNK = 4


def match_boxes(
    boxes: tf.Tensor,
    gt_boxes: tf.Tensor,
    *,
    gt_is_real: tf.Tensor,
    matched_threshold: float,
    unmatched_threshold: float,
    force_match: bool,
    is_valid: tf.Tensor | None = None,
) -> tf.Tensor:
    """Matches each anchor to the groundtruth box with which it has the largest IoU.

    An anchor is background below `unmatched_threshold`, ignored from there to below `matched_threshold`, and matched from
    `matched_threshold` on. With `force_match` each real groundtruth box also gets the anchor with which it has the largest IoU,
    however low that is; if several ask for one anchor, the first gets it. Ties go to the lowest index.

    Args:
        boxes: [B or 1, K, 4] float32, the anchors, in the frame of `gt_boxes`.
        gt_boxes: [B, G, 4] float32, G at least 1.
        gt_is_real: [B, G] bool, False for rows that must not match, such as padding; first rows that are real cost least.
        matched_threshold: least IoU of a match.
        unmatched_threshold: IoU below which an anchor is background.
        force_match: whether each real groundtruth box gets an anchor.
        is_valid: [B or 1, K] bool, anchors that may match; the others are ignored. None admits all.

    Returns:
        [B, K] int32; all background where no groundtruth is real.

    Raises:
        ValueError: if `unmatched_threshold` exceeds `matched_threshold`.
    """
    _check(matched_threshold, unmatched_threshold)
    overlaps = _best_overlaps(boxes, gt_boxes, gt_is_real, is_valid, box_ops.pairwise_iou)
    return _decide(overlaps, matched_threshold, unmatched_threshold, force_match, is_valid)


def covered_share(boxes: tf.Tensor, regions: tf.Tensor, *, is_real: tf.Tensor) -> tf.Tensor:
    """Measures how far each box lies within one of the regions, such as crowds.

    Args:
        boxes: [B or 1, K, 4] float32, in the frame of `regions`.
        regions: [B, G, 4] float32.
        is_real: [B, G] bool, regions that count.

    Returns:
        [B, K] float32, the largest share of the box's area that lies in one real region; 0 without any.
    """

    def ioa(regions: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
        return tf.linalg.matrix_transpose(box_ops.pairwise_ioa(boxes, regions))

    return tf.maximum(_best_overlaps(boxes, regions, is_real, None, ioa).similarity, 0.0)


class _Overlaps(NamedTuple):
    """The best partner of every anchor and of every groundtruth box, the first of equals."""

    similarity: tf.Tensor  # [B, K] of each anchor to its best real groundtruth box; _NONE where there is none
    row: tf.Tensor  # [B, K] int32, that groundtruth box; anything where there is none
    anchor: tf.Tensor  # [B, G] int32, the anchor most similar to each groundtruth box; K where none may match


def _best_overlaps(
    boxes: tf.Tensor,
    gt_boxes: tf.Tensor,
    gt_is_real: tf.Tensor,
    is_valid: tf.Tensor | None,
    measure: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
) -> _Overlaps:
    """Finds the best partners without ever holding all K x G overlaps; time grows with the last real row, not with G.

    `measure` takes [B, G, 4] and [B or 1, K, 4] to [B, G, K], not negative. No gradient passes.
    """
    boxes, gt_boxes = tf.stop_gradient(boxes), tf.stop_gradient(gt_boxes)
    batch, num_anchors, num_groundtruth = dim(gt_boxes, 0), dim(boxes, 1), dim(gt_boxes, 1)
    num_chunks = -(-num_groundtruth // _CHUNK)
    padding = num_chunks * _CHUNK - num_groundtruth
    gt_boxes = tf.pad(gt_boxes, [[0, 0], [0, padding], [0, 0]])
    is_real = tf.pad(gt_is_real, [[0, 0], [0, padding]])
    num_needed = tf.reduce_max(tf.where(is_real, tf.range(num_chunks * _CHUNK) + 1, 0))

    def unseen(start: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
        return start < num_needed

    def compare(start: tf.Tensor, best: tf.Tensor, row: tf.Tensor, anchor: tf.Tensor) -> tuple[tf.Tensor, ...]:
        overlap = measure(tf.slice(gt_boxes, [0, start, 0], [batch, _CHUNK, 4]), boxes)  # [B, chunk, K]
        overlap = tf.where(tf.slice(is_real, [0, start], [batch, _CHUNK])[:, :, tf.newaxis], overlap, _NONE)
        if is_valid is not None:
            overlap = tf.where(is_valid[:, tf.newaxis, :], overlap, _NONE)
        chunk_best = tf.reduce_max(overlap, axis=1)
        chunk_row = start + tf.argmax(overlap, axis=1, output_type=tf.int32)
        row = tf.where(chunk_best > best, chunk_row, row)  # of equals, the one that came first stays
        chunk_anchor = tf.argmax(overlap, axis=2, output_type=tf.int32)
        can_match = tf.gather(overlap, chunk_anchor, batch_dims=2) > _NONE
        chunk_anchor = tf.where(can_match, chunk_anchor, num_anchors)
        columns = (start + tf.range(_CHUNK))[:, tf.newaxis]
        anchor = tf.tensor_scatter_nd_update(anchor, columns, tf.transpose(chunk_anchor))
        return start + _CHUNK, tf.maximum(best, chunk_best), row, anchor

    _, best, row, anchor = tf.while_loop(
        unseen,
        compare,
        (
            tf.constant(0),
            tf.fill([batch, num_anchors], _NONE),
            tf.zeros([batch, num_anchors], tf.int32),
            tf.fill([num_chunks * _CHUNK, batch], num_anchors),
        ),
        maximum_iterations=num_chunks,
    )
    return _Overlaps(similarity=best, row=row, anchor=tf.transpose(anchor)[:, :num_groundtruth])


def _check(matched_threshold: float, unmatched_threshold: float) -> None:
    if unmatched_threshold > matched_threshold:
        raise ValueError(
            f"unmatched_threshold = {unmatched_threshold} exceeds matched_threshold = {matched_threshold}."
        )


def _decide(
    overlaps: _Overlaps,
    matched_threshold: float,
    unmatched_threshold: float,
    force_match: bool,
    is_valid: tf.Tensor | None,
) -> tf.Tensor:
    unmatched = tf.where(overlaps.similarity < unmatched_threshold, BACKGROUND, IGNORED)
    matches = tf.where(overlaps.similarity >= matched_threshold, overlaps.row, unmatched)
    if force_match:
        batch, num_anchors = tf.unstack(tf.shape(matches))
        num_groundtruth = tf.shape(overlaps.anchor)[1]
        images = tf.broadcast_to(tf.range(batch)[:, tf.newaxis], tf.shape(overlaps.anchor))
        rows = tf.broadcast_to(tf.range(num_groundtruth), tf.shape(overlaps.anchor))
        first = tf.fill([batch, num_anchors + 1], num_groundtruth)  # the last column takes rows without an anchor
        first = tf.tensor_scatter_nd_min(first, tf.stack([images, overlaps.anchor], axis=-1), rows)[:, :num_anchors]
        matches = tf.where(first < num_groundtruth, first, matches)
    return matches if is_valid is None else tf.where(is_valid, matches, IGNORED)
