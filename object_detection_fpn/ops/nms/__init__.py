"""Non-maximum suppression of batches; tf.image's batched versions lack indices, or XLA, or speed on 200,000 anchors.

Both implementations are greedy and exact: boxes in order of falling score, ties by lowest index, and a box is dropped when its
IoU with a box kept before exceeds the threshold; Soft-NMS decays its score instead. `native` runs TensorFlow's CPU and GPU
kernel row by row; `static` has static shapes and works on all rows at once. N counts the boxes of a row.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import tensorflow as tf

from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops.dims import dim
from object_detection_fpn.ops.nms import multiclass, preselection
from object_detection_fpn.ops.nms.common import NEVER, BoxLookUp, Kept, Suppression
from object_detection_fpn.ops.nms.native import suppress as suppress_native
from object_detection_fpn.ops.nms.static import suppress as suppress_static

__all__ = [
    "BoxLookUp",
    "NmsDetections",
    "Suppression",
    "batched_nms",
    "multiclass_nms",
    "multiclass_nms_of_levels",
    "multiclass_nms_of_many",
]


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
    static: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Keeps the best boxes of each row that do not overlap a better one.

    Args:
        boxes: [B, N, 4] float32 in any one frame, N at least 1, ymin <= ymax and xmin <= xmax.
        scores: [B, N] float32. NaN counts as below the threshold.
        max_outputs: number of boxes to keep; may exceed N.
        iou_threshold: IoU above which the worse box of a pair is dropped.
        score_threshold: only boxes that score more take part; -inf admits all.
        static: in static shapes, which XLA compiles, instead of by TensorFlow's kernel; the results are the same.

    Returns:
        indices: [B, max_outputs] int32, best first; 0 in padding rows.
        num: [B] int32, how many are real.

    Raises:
        ValueError: if `max_outputs` is below 1.
    """
    kept = _suppress(
        boxes,
        scores,
        max_outputs=max_outputs,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
        soft_nms_sigma=0.0,
        static=static,
    )
    return kept.indices, kept.num


def multiclass_nms(
    boxes: tf.Tensor | BoxLookUp,
    scores: tf.Tensor,
    suppression: Suppression,
    *,
    clip_window: tf.Tensor,
    num_valid: tf.Tensor | None = None,
    static: bool = False,
) -> NmsDetections:
    """Turns scored boxes of all classes into detections, in the order of steps of the Object Detection API.

    Suppression looks at the boxes before they are clipped, unless its settings say otherwise; its survivors are clipped to the
    window, those left without area are dropped, and the best of all classes are kept.

    Args:
        boxes: [B, R, C, 4] float32, or [B, R, 1, 4] if all classes share a box; R at least 1. Where suppression is `static`,
            not soft, not across classes, and C is 1 or nothing is clipped before, a function of rows [B * C, n] too: few of
            many boxes are looked at.
        scores: [B, R, C] float32, without background; NaN counts as below the threshold.
        suppression: thresholds and numbers of detections.
        clip_window: [B, 4] float32 in the frame of the boxes.
        num_valid: [B] int32, RoIs that are real, the first ones; None means all.
        static: as for `batched_nms`.

    Returns:
        The detections.
    """
    with tf.name_scope("suppression"):
        return _multiclass_nms(boxes, scores, suppression, clip_window, num_valid, static)


def multiclass_nms_of_many(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    suppression: Suppression,
    *,
    clip_window: tf.Tensor,
    num_first: int,
    static: bool = False,
) -> NmsDetections:
    """As `multiclass_nms` of boxes [B, R, 4] that all classes share, but looks at the best of them first.

    The results are the same: only if the best boxes do not fill the output, all are looked at.

    Args:
        boxes: [B, R, 4] float32.
        scores: [B, R, C] float32.
        suppression: thresholds and numbers of detections.
        clip_window: [B, 4].
        num_first: boxes of each image that are looked at first.
        static: as for `batched_nms`.
    """
    num_boxes = dim(boxes, 1)

    def suppress_all() -> NmsDetections:
        of_all = boxes[:, :, tf.newaxis]
        plain = not (suppression.class_agnostic or suppression.soft_nms_sigma or suppression.clip_before_suppression)
        if static and plain:  # few of them are looked at, once for each class
            of_all = multiclass.look_up_of_classes(boxes, scores.shape[2])
        return multiclass_nms(of_all, scores, suppression, clip_window=clip_window, static=static)

    def suppress_first() -> NmsDetections:
        open_scores = tf.where(scores > suppression.score_threshold, scores, NEVER)
        chosen = preselection.choose(open_scores, num_first, static=static)
        kept = _of_rows(boxes, chosen.rows, chosen.scores, suppression, clip_window, static)
        is_same = preselection.has_all(kept.num, kept.scores[:, -1], chosen, suppression.max_total_detections)
        return tf.cond(is_same, lambda: kept, suppress_all)

    with tf.name_scope("suppression"):
        if isinstance(num_boxes, int):
            return suppress_first() if num_boxes > num_first else suppress_all()
        return tf.cond(num_boxes > num_first, suppress_first, suppress_all)


def multiclass_nms_of_levels(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    suppression: Suppression,
    *,
    clip_window: tf.Tensor,
    level_sizes: list[int | tf.Tensor],
    max_candidates: int,
    static: bool = False,
) -> NmsDetections:
    """As `multiclass_nms`, but only the best pairs of box and class of each level take part (torchvision, Detectron2).

    Args:
        boxes: [B, R, 4] float32.
        scores: [B, R, C] float32.
        suppression: thresholds and numbers of detections.
        clip_window: [B, 4].
        level_sizes: boxes of each level, one level after the other, R together.
        max_candidates: pairs of a level that take part at most.
        static: as for `batched_nms`.
    """
    with tf.name_scope("suppression"):
        open_scores = tf.where(scores > suppression.score_threshold, scores, NEVER)
        rows, chosen = preselection.best_of_levels(open_scores, level_sizes, max_candidates, static=static)
        return _of_rows(boxes, rows, chosen, suppression, clip_window, static)


def _of_rows(
    boxes: tf.Tensor,
    rows: tf.Tensor,
    scores: tf.Tensor,
    suppression: Suppression,
    clip_window: tf.Tensor,
    static: bool,
) -> NmsDetections:
    """Suppression of some boxes, [B, n] rows, of scores [B, n, C]."""
    chosen = tf.gather(boxes, rows, batch_dims=1)[:, :, tf.newaxis]
    kept = multiclass_nms(chosen, scores, suppression, clip_window=clip_window, static=static)
    is_real = tf.sequence_mask(kept.num, dim(kept.boxes, 1))
    indices = tf.gather(rows, kept.roi_indices, batch_dims=1)
    return kept._replace(roi_indices=tf.where(is_real, indices, 0))


def _multiclass_nms(
    boxes: tf.Tensor | BoxLookUp,
    scores: tf.Tensor,
    suppression: Suppression,
    clip_window: tf.Tensor,
    num_valid: tf.Tensor | None,
    static: bool,
) -> NmsDetections:
    if num_valid is not None:
        is_valid = tf.range(dim(scores, 1)) < num_valid[:, tf.newaxis]
        scores = tf.where(is_valid[:, :, tf.newaxis], scores, NEVER)
    scores = tf.where(scores > suppression.score_threshold, scores, NEVER)
    if suppression.clip_before_suppression:
        boxes = _clip_before(boxes, clip_window)
    if suppression.min_box_side:
        assert not callable(boxes)
        side = tf.reduce_min(boxes[..., 2:] - boxes[..., :2], axis=-1)  # [B, R, C or 1]
        scores = tf.where(side >= suppression.min_box_side, scores, NEVER)
    suppress = functools.partial(
        _suppress,
        iou_threshold=suppression.iou_threshold,
        score_threshold=suppression.score_threshold,
        soft_nms_sigma=suppression.soft_nms_sigma,
        static=static,
    )
    if suppression.class_agnostic:
        num_top_classes = min(suppression.max_classes_per_detection, scores.shape[2])
        candidates = multiclass.suppress_across_classes(
            boxes, scores, suppression.max_total_detections, num_top_classes, suppress
        )
    else:
        candidates = multiclass.suppress_within_classes(boxes, scores, suppression.max_detections_per_class, suppress)

    clipped = box_ops.clip(candidates.boxes, clip_window)
    candidates = candidates._replace(boxes=clipped)
    if not suppression.keep_empty:
        candidates = candidates._replace(scores=tf.where(box_ops.area(clipped) > 0.0, candidates.scores, NEVER))
    missing = max(suppression.max_total_detections - candidates.scores.shape[1], 0)
    best_scores, best = tf.math.top_k(
        tf.pad(candidates.scores, [[0, 0], [0, missing]], constant_values=NEVER), k=suppression.max_total_detections
    )
    is_real = best_scores > NEVER
    best = tf.where(is_real, best, 0)
    return NmsDetections(
        boxes=tf.where(is_real[..., tf.newaxis], tf.gather(candidates.boxes, best, batch_dims=1), 0.0),
        scores=tf.where(is_real, best_scores, 0.0),
        classes=tf.where(is_real, tf.gather(candidates.classes, best, batch_dims=1), 0),
        roi_indices=tf.where(is_real, tf.gather(candidates.roi_indices, best, batch_dims=1), 0),
        num=tf.math.count_nonzero(is_real, axis=1, dtype=tf.int32),
    )


def _clip_before(boxes: tf.Tensor | BoxLookUp, window: tf.Tensor) -> tf.Tensor | BoxLookUp:
    if callable(boxes):
        return lambda rows: box_ops.clip(boxes(rows), window)
    return box_ops.clip(boxes, window[:, tf.newaxis])


def _suppress(
    boxes: tf.Tensor | BoxLookUp,
    scores: tf.Tensor,
    *,
    max_outputs: int,
    iou_threshold: float,
    score_threshold: float,
    soft_nms_sigma: float,
    static: bool,
) -> Kept:
    if max_outputs < 1:
        raise ValueError(f"max_outputs = {max_outputs}. Allowed: 1 or more.")
    scores = tf.stop_gradient(tf.cast(scores, tf.float32))
    if not callable(boxes):
        boxes = tf.stop_gradient(tf.cast(boxes, tf.float32))
    suppress = suppress_static if static else suppress_native
    return suppress(boxes, scores, max_outputs, iou_threshold, score_threshold, soft_nms_sigma)
