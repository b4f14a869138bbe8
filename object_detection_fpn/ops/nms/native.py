"""Suppression by TensorFlow's kernel for CPUs and GPUs, one row after the other; the reference of the static one."""

from __future__ import annotations

import tensorflow as tf

from object_detection_fpn.ops.nms.common import Kept


def suppress(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    max_outputs: int,
    iou_threshold: float,
    score_threshold: float,
    soft_nms_sigma: float,
) -> Kept:
    """Suppresses row by row; boxes [B, N, 4], scores [B, N] float32."""

    def one_row(row: tuple[tf.Tensor, tf.Tensor]) -> Kept:
        indices, kept_scores, num = tf.raw_ops.NonMaxSuppressionV5(
            boxes=row[0],
            scores=row[1],
            max_output_size=max_outputs,
            iou_threshold=iou_threshold,
            score_threshold=score_threshold,
            soft_nms_sigma=soft_nms_sigma,
            pad_to_max_output_size=True,
        )
        return Kept(tf.ensure_shape(indices, [max_outputs]), tf.ensure_shape(kept_scores, [max_outputs]), num)

    signature = Kept(
        tf.TensorSpec([max_outputs], tf.int32), tf.TensorSpec([max_outputs], tf.float32), tf.TensorSpec([], tf.int32)
    )
    return tf.map_fn(one_row, (boxes, scores), fn_output_signature=signature)
