"""Non-maximum suppression of batches; tf.image's batched versions lack indices, or XLA, or speed on 200,000 anchors.

Both implementations are greedy and exact: boxes in order of falling score, ties by lowest index, and a box is dropped when its
IoU with a box kept before exceeds the threshold. "native" runs TensorFlow's CPU and GPU kernel row by row; "xla" has static
shapes and works on all rows at once. N counts the boxes of a row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import tensorflow as tf

from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops import selection
from object_detection_fpn.ops.dims import dim

IMPLEMENTATIONS = ("native", "xla")

# Boxes that "xla" decides on at a time: many in the one long row of an RPN, few in each of the many short rows of classes,
# most of whose boxes score too little to take part. The work of a tile grows with its square.
_LARGE_TILE = 512
_SMALL_TILE = 64
_MANY_BOXES = 4096
_BLOCK = _MANY_BOXES  # of the best boxes of a long row, which are sorted; 300 proposals need about half as many

_NEVER = float("-inf")  # score of what cannot be kept

BoxLookUp: TypeAlias = Callable[[tf.Tensor], tf.Tensor]
"""Rows [B, n] int32 -> their boxes [B, n, 4] float32, through which no gradient passes."""


class NmsDetections(NamedTuple):
    """What survives of each image, best first; padding rows are zero."""

    boxes: tf.Tensor
    """[B, D, 4] float32, clipped to the window."""
    scores: tf.Tensor
    """[B, D] float32."""
    classes: tf.Tensor
    """[B, D] int32, 0-based."""
    roi_indices: tf.Tensor
    """[B, D] int32, row of the RoI the detection comes from."""
    num: tf.Tensor
    """[B] int32, real rows."""


def batched_nms(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    *,
    max_outputs: int,
    iou_threshold: float,
    score_threshold: float,
    implementation: str,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Keeps the best boxes of each row that do not overlap a better one.

    Args:
        boxes: [B, N, 4] float32 in any one frame, N at least 1, ymin <= ymax and xmin <= xmax.
        scores: [B, N] float32. NaN counts as below the threshold.
        max_outputs: number of boxes to keep; may exceed N.
        iou_threshold: IoU above which the worse box of a pair is dropped.
        score_threshold: only boxes that score more take part; -inf admits all.
        implementation: "native" or "xla".

    Returns:
        indices: [B, max_outputs] int32, best first; 0 in padding rows.
        num: [B] int32, how many are real.

    Raises:
        ValueError: if `implementation` is unknown or a number of outputs is below 1.
    """
    kept = _suppress(
        boxes,
        scores,
        max_outputs=max_outputs,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        soft_nms_sigma=0.0,
        implementation=implementation,
    )
    return kept.indices, kept.num


def multiclass_nms(
    boxes: tf.Tensor | BoxLookUp,
    scores: tf.Tensor,
    *,
    clip_window: tf.Tensor,
    max_detections_per_class: int,
    max_total_detections: int,
    iou_threshold: float,
    score_threshold: float,
    implementation: str,
    class_agnostic: bool = False,
    num_valid: tf.Tensor | None = None,
    soft_nms_sigma: float = 0.0,
    max_classes_per_detection: int = 1,
    keep_empty: bool = False,
) -> NmsDetections:
    """Turns scored boxes of all classes into detections, in the order of steps of the Object Detection API.

    Suppression looks at the boxes before they are clipped; its survivors are clipped to the window, those left without area
    are dropped, and the best of all classes are kept.

    Args:
        boxes: [B, R, C, 4] float32, or [B, R, 1, 4] if all classes share a box; R at least 1. Where C is 1 and suppression
            is "xla" and not soft, a function of rows too: few of many boxes are looked at.
        scores: [B, R, C] float32, without background; NaN counts as below the threshold.
        clip_window: [B, 4] float32 in the frame of the boxes.
        max_detections_per_class: boxes to keep of each class.
        max_total_detections: D, detections to keep of each image.
        iou_threshold: IoU above which the worse box of a pair is dropped.
        score_threshold: only scores above it take part.
        implementation: "native" or "xla".
        class_agnostic: suppress across classes: each RoI takes part once, with its best class.
        num_valid: [B] int32, RoIs that are real, the first ones; None means all.
        soft_nms_sigma: 0 drops overlapping boxes; above 0, they decay too (Soft-NMS, Bodla et al. 2017, Gaussian).
        max_classes_per_detection: with `class_agnostic`, how many of its best classes each kept RoI is detected as.
        keep_empty: keep the boxes that clipping leaves without area, as `tf.image.combined_non_max_suppression` does.

    Returns:
        The detections.

    Raises:
        ValueError: if `implementation` is unknown or a number of outputs is below 1.
    """
    if num_valid is not None:
        is_valid = tf.range(dim(scores, 1)) < num_valid[:, tf.newaxis]
        scores = tf.where(is_valid[:, :, tf.newaxis], scores, _NEVER)
    scores = tf.where(scores > score_threshold, scores, _NEVER)
    suppress = functools.partial(
        _suppress,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        soft_nms_sigma=soft_nms_sigma,
        implementation=implementation,
    )
    if class_agnostic:
        num_top_classes = min(max_classes_per_detection, scores.shape[2])
        candidates = _suppress_across_classes(boxes, scores, max_total_detections, num_top_classes, suppress)
    else:
        candidates = _suppress_within_classes(boxes, scores, max_detections_per_class, suppress)

    clipped = box_ops.clip(candidates.boxes, clip_window)
    candidates = candidates._replace(boxes=clipped)
    if not keep_empty:
        candidates = candidates._replace(scores=tf.where(box_ops.area(clipped) > 0.0, candidates.scores, _NEVER))
    missing = max(max_total_detections - candidates.scores.shape[1], 0)
    best_scores, best = tf.math.top_k(
        tf.pad(candidates.scores, [[0, 0], [0, missing]], constant_values=_NEVER), k=max_total_detections
    )
    is_real = best_scores > _NEVER
    best = tf.where(is_real, best, 0)
    return NmsDetections(
        boxes=tf.where(is_real[..., tf.newaxis], tf.gather(candidates.boxes, best, batch_dims=1), 0.0),
        scores=tf.where(is_real, best_scores, 0.0),
        classes=tf.where(is_real, tf.gather(candidates.classes, best, batch_dims=1), 0),
        roi_indices=tf.where(is_real, tf.gather(candidates.roi_indices, best, batch_dims=1), 0),
        num=tf.math.count_nonzero(is_real, axis=1, dtype=tf.int32),
    )


class _Candidates(NamedTuple):
    """What suppression leaves of each image, n rows in no order."""

    boxes: tf.Tensor  # [B, n, 4]
    scores: tf.Tensor  # [B, n], _NEVER in rows that are not real
    classes: tf.Tensor  # [B, n]
    roi_indices: tf.Tensor  # [B, n]


def _suppress_within_classes(
    boxes: tf.Tensor | BoxLookUp, scores: tf.Tensor, max_per_class: int, suppress: Callable[..., _Kept]
) -> _Candidates:
    batch, num_rois, num_classes = dim(scores, 0), dim(scores, 1), scores.shape[2]
    if not callable(boxes):
        boxes = tf.transpose(tf.broadcast_to(boxes, [batch, num_rois, num_classes, 4]), [0, 2, 1, 3])
        boxes = tf.reshape(boxes, [batch * num_classes, num_rois, 4])  # a row for each class of each image
    scores = tf.reshape(tf.transpose(scores, [0, 2, 1]), [batch * num_classes, num_rois])
    kept = suppress(boxes, scores, max_outputs=max_per_class)
    is_real = tf.range(max_per_class) < kept.num[:, tf.newaxis]
    num_candidates = num_classes * max_per_class
    return _Candidates(
        boxes=tf.reshape(_as_look_up(boxes)(kept.indices), [batch, num_candidates, 4]),
        scores=tf.reshape(tf.where(is_real, kept.scores, _NEVER), [batch, num_candidates]),
        classes=tf.broadcast_to(tf.repeat(tf.range(num_classes), max_per_class), [batch, num_candidates]),
        roi_indices=tf.reshape(kept.indices, [batch, num_candidates]),
    )


def _suppress_across_classes(
    boxes: tf.Tensor, scores: tf.Tensor, max_rois: int, num_top_classes: int, suppress: Callable[..., _Kept]
) -> _Candidates:
    batch = dim(scores, 0)
    top_scores, top_classes = tf.math.top_k(scores, k=num_top_classes)  # [B, R, T]
    boxes = boxes[:, :, 0] if boxes.shape[2] == 1 else tf.gather(boxes, top_classes[:, :, 0], batch_dims=2)
    kept = suppress(boxes, top_scores[:, :, 0], max_outputs=max_rois)
    is_real = tf.range(max_rois) < kept.num[:, tf.newaxis]
    other_scores = tf.gather(top_scores[:, :, 1:], kept.indices, batch_dims=1)
    scores = tf.concat([kept.scores[..., tf.newaxis], other_scores], axis=-1)
    num_candidates = max_rois * num_top_classes
    return _Candidates(
        boxes=tf.repeat(tf.gather(boxes, kept.indices, batch_dims=1), num_top_classes, axis=1),
        scores=tf.reshape(tf.where(is_real[..., tf.newaxis], scores, _NEVER), [batch, num_candidates]),
        classes=tf.reshape(tf.gather(top_classes, kept.indices, batch_dims=1), [batch, num_candidates]),
        roi_indices=tf.repeat(kept.indices, num_top_classes, axis=1),
    )


class _Kept(NamedTuple):
    """What suppression keeps of each row, best first, zeros in padding rows."""

    indices: tf.Tensor  # [B, max_outputs] int32
    scores: tf.Tensor  # [B, max_outputs], decayed by Soft-NMS
    num: tf.Tensor  # [B] int32


def _as_look_up(boxes: tf.Tensor | BoxLookUp) -> BoxLookUp:
    return boxes if callable(boxes) else lambda rows: tf.gather(boxes, rows, batch_dims=1)


def _suppress(
    boxes: tf.Tensor | BoxLookUp,
    scores: tf.Tensor,
    *,
    max_outputs: int,
    iou_threshold: float,
    score_threshold: float,
    soft_nms_sigma: float,
    implementation: str,
) -> _Kept:
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation = {implementation!r}. Allowed: {', '.join(IMPLEMENTATIONS)}.")
    if max_outputs < 1:
        raise ValueError(f"max_outputs = {max_outputs}. Allowed: 1 or more.")
    scores = tf.stop_gradient(tf.cast(scores, tf.float32))
    if not callable(boxes):
        boxes = tf.stop_gradient(tf.cast(boxes, tf.float32))
    if implementation == "native":
        return _native(boxes, scores, max_outputs, iou_threshold, score_threshold, soft_nms_sigma)
    scores = tf.where(scores > score_threshold, scores, _NEVER)
    if soft_nms_sigma > 0.0:
        return _soft(boxes, scores, max_outputs, iou_threshold, score_threshold, soft_nms_sigma)
    return _tiled(_as_look_up(boxes), scores, max_outputs, iou_threshold)


def _native(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    max_outputs: int,
    iou_threshold: float,
    score_threshold: float,
    soft_nms_sigma: float,
) -> _Kept:
    def one_row(row: tuple[tf.Tensor, tf.Tensor]) -> _Kept:
        indices, kept_scores, num = tf.raw_ops.NonMaxSuppressionV5(
            boxes=row[0],
            scores=row[1],
            max_output_size=max_outputs,
            iou_threshold=iou_threshold,
            score_threshold=score_threshold,
            soft_nms_sigma=soft_nms_sigma,
            pad_to_max_output_size=True,
        )
        return _Kept(tf.ensure_shape(indices, [max_outputs]), tf.ensure_shape(kept_scores, [max_outputs]), num)

    signature = _Kept(
        tf.TensorSpec([max_outputs], tf.int32), tf.TensorSpec([max_outputs], tf.float32), tf.TensorSpec([], tf.int32)
    )
    return tf.map_fn(one_row, (boxes, scores), fn_output_signature=signature)


def _tiled(look_up: BoxLookUp, scores: tf.Tensor, max_outputs: int, iou_threshold: float) -> _Kept:
    """Greedy suppression, a tile of the best boxes left at a time: against the boxes kept so far, then within the tile.

    Tiles are cut from a sorted block. Of long rows a block holds only the best: the first one nearly always fills the output.
    """
    batch, num_boxes = dim(scores, 0), dim(scores, 1)
    is_long = not isinstance(num_boxes, int) or num_boxes > _MANY_BOXES
    tile = _LARGE_TILE if is_long else min(_SMALL_TILE, num_boxes)
    missing = tf.maximum(_BLOCK - num_boxes, 0) if is_long else -num_boxes % tile
    scores = tf.pad(scores, [[0, 0], [0, missing]], constant_values=_NEVER)
    block = _BLOCK if is_long else dim(scores, 1)
    places = tf.range(tile)
    images = tf.broadcast_to(tf.range(batch)[:, tf.newaxis], [batch, tile])

    def more(is_more, *_):
        return is_more

    def decide_tile(_, start, kept, kept_boxes, num, block_scores, block_rows):
        tile_scores = tf.slice(block_scores, [0, start], [batch, tile])
        rows = tf.slice(block_rows, [0, start], [batch, tile])
        tile_boxes = look_up(tf.minimum(rows, num_boxes - 1))
        overlaps_kept = box_ops.pairwise_iou(kept_boxes, tile_boxes) > iou_threshold  # unfilled rows are empty: IoU 0
        alive = (tile_scores > _NEVER) & ~tf.reduce_any(overlaps_kept, axis=1)
        is_earlier = places[:, tf.newaxis] < places  # [j, i]: j comes before i
        overlaps = (box_ops.pairwise_iou(tile_boxes, tile_boxes) > iou_threshold) & is_earlier
        alive = _greedy(alive, overlaps)
        slot = num[:, tf.newaxis] + tf.cumsum(tf.cast(alive, tf.int32), axis=1, exclusive=True)
        slot = tf.where(alive, tf.minimum(slot, max_outputs), max_outputs)  # the last slot takes what is not kept
        where = tf.stack([images, slot], axis=-1)
        kept = tf.tensor_scatter_nd_update(kept, where, rows)
        kept_boxes = tf.tensor_scatter_nd_update(kept_boxes, where, tf.where(alive[..., tf.newaxis], tile_boxes, 0.0))
        num = tf.minimum(num + tf.math.count_nonzero(alive, axis=1, dtype=tf.int32), max_outputs)
        is_full = tile_scores[:, -1] > _NEVER
        is_more = tf.reduce_any(is_full & (num < max_outputs)) & (start + tile < block)
        return is_more, start + tile, kept, kept_boxes, num, block_scores, block_rows

    def decide_block(_, left, kept, kept_boxes, num):
        if is_long:
            is_best = selection.mark_largest(left, tf.fill([batch], block))
            best = selection.find_marked(is_best, block)
            left_after = tf.where(is_best, _NEVER, left)
            block_scores, order = tf.math.top_k(tf.gather(left, best, batch_dims=1), k=block)
            block_rows = tf.gather(best, order, batch_dims=1)
        else:
            left_after = left
            block_scores, block_rows = tf.math.top_k(left, k=block)
        state = (tf.constant(True), tf.constant(0), kept, kept_boxes, num, block_scores, block_rows)
        _, _, kept, kept_boxes, num, _, _ = tf.while_loop(more, decide_tile, state)
        is_full = block_scores[:, -1] > _NEVER
        return tf.reduce_any(is_full & (num < max_outputs)), left_after, kept, kept_boxes, num

    state = (
        tf.constant(True),
        scores,
        tf.zeros([batch, max_outputs + 1], tf.int32),
        tf.zeros([batch, max_outputs + 1, 4]),
        tf.zeros([batch], tf.int32),
    )
    _, _, kept, _, num = tf.while_loop(more, decide_block, state) if is_long else decide_block(*state)
    is_real = tf.range(max_outputs) < num[:, tf.newaxis]
    indices = tf.where(is_real, kept[:, :max_outputs], 0)
    return _Kept(indices, tf.where(is_real, tf.gather(scores, indices, batch_dims=1), 0.0), num)


def _greedy(alive: tf.Tensor, overlaps: tf.Tensor) -> tf.Tensor:
    """Drops every box that overlaps an earlier one which itself is not dropped; overlaps [B, j, i] only for j before i.

    Each round settles at least one more box of every chain of overlaps, so few rounds reach the fixed point, which is unique.
    """

    def unsettled(_, __, changed):
        return changed

    def settle(now, first, _):
        dropped = tf.reduce_any(tf.logical_and(overlaps, now[:, :, tf.newaxis]), axis=1)
        after = tf.logical_and(first, tf.logical_not(dropped))
        return after, first, tf.reduce_any(tf.not_equal(after, now))

    return tf.while_loop(unsettled, settle, (alive, alive, tf.constant(True)))[0]


def _soft(
    boxes: tf.Tensor, scores: tf.Tensor, max_outputs: int, iou_threshold: float, score_threshold: float, sigma: float
) -> _Kept:
    """Soft-NMS: takes the best box, decays its neighbours' scores by exp(-IoU^2 / (2 sigma)), and starts again."""
    batch, num_boxes = dim(boxes, 0), dim(boxes, 1)

    def take_best(state, _):
        remaining = state[0]
        best = tf.argmax(remaining, axis=1, output_type=tf.int32)
        score = tf.gather(remaining, best, batch_dims=1)
        iou = box_ops.pairwise_iou(tf.gather(boxes, best, batch_dims=1)[:, tf.newaxis], boxes)[:, 0]
        remaining = remaining * tf.exp(-0.5 / sigma * iou * iou)
        gone = (iou > iou_threshold) | (remaining <= score_threshold) | (tf.range(num_boxes) == best[:, tf.newaxis])
        return tf.where(gone, _NEVER, remaining), best, score

    initial = (scores, tf.zeros([batch], tf.int32), tf.zeros([batch]))
    _, indices, kept_scores = tf.scan(take_best, tf.range(max_outputs), initial)
    indices, kept_scores = tf.transpose(indices), tf.transpose(kept_scores)
    is_real = kept_scores > _NEVER
    num = tf.math.count_nonzero(is_real, axis=1, dtype=tf.int32)
    return _Kept(tf.where(is_real, indices, 0), tf.where(is_real, kept_scores, 0.0), num)
