"""From the box head's outputs to detections: scores, decoded boxes, non-maximum suppression for each class."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from object_detection_fpn.ops import box_coder, nms
from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops import scores as score_ops
from object_detection_fpn.records import BoxOutputs, Detections, Proposals, RpnOutputs

ScoreConverter = Callable[[tf.Tensor], tf.Tensor]

SCORE_CONVERTERS: dict[str, ScoreConverter] = {
    "IDENTITY": tf.identity,
    "SIGMOID": tf.sigmoid,
    "SOFTMAX": tf.nn.softmax,
}

PORTABLE_CONVERTERS: dict[str, ScoreConverter] = {
    **SCORE_CONVERTERS,
    "SIGMOID": score_ops.sigmoid,
    "SOFTMAX": score_ops.softmax,
}
"""Those of `Execution.portable`."""


@dataclasses.dataclass(frozen=True)
class Postprocessor:
    """Decodes, scores and suppresses.

    Attributes:
        score_converter: class logits [B, R, C+1] -> scores of the same shape, calibrated if they are to be.
        suppression: thresholds and numbers of detections.
        static: see `execution.Execution`.
        coder: of the deltas.
    """

    score_converter: ScoreConverter = tf.nn.softmax
    suppression: nms.Suppression = nms.Suppression()
    static: bool = False
    coder: box_coder.BoxCoder = box_coder.BoxCoder()

    def decode(self, outputs: BoxOutputs, rois: Proposals) -> tf.Tensor:
        """[B, R, C or 1, 4], the refined box of each RoI (and class) in pixels, not clipped."""
        return self.coder.decode(outputs.box_deltas, rois.boxes[:, :, None])

    def __call__(self, outputs: BoxOutputs, rois: Proposals, true_shapes: tf.Tensor) -> Detections:
        """Returns the detections of what the box head says of RoIs; `true_shapes` is [B, 3] int32."""
        all_scores = self.score_converter(outputs.class_logits)  # [B, R, C+1]
        class_scores = all_scores[..., 1:]
        boxes = self.decode(outputs, rois)
        kept, scores, classes, roi_indices, num_kept = nms.multiclass_nms(
            boxes,
            class_scores,
            self.suppression,
            clip_window=box_ops.image_window(true_shapes),
            num_valid=rois.num_proposals,
            static=self.static,
        )
        is_real = tf.sequence_mask(num_kept, tf.shape(kept)[1])
        kept_scores = tf.gather(all_scores, roi_indices, batch_dims=1)
        return Detections(
            boxes=box_ops.to_detection_frame(kept, true_shapes),
            scores=scores,
            classes=classes,
            num_detections=num_kept,
            class_scores=tf.where(is_real[..., None], kept_scores, 0.0),
            roi_indices=roi_indices,
            raw_boxes=box_ops.to_detection_frame(_best_class_box(boxes, class_scores), true_shapes),
            raw_class_scores=all_scores,
        )


def proposals_as_detections(
    rpn: RpnOutputs, proposals: Proposals, true_shapes: tf.Tensor, *, coder: box_coder.BoxCoder = box_coder.BoxCoder()
) -> Detections:
    """What a model of one stage detects: its proposals, all of class 0, out of its anchors as `coder` decodes them."""
    scores = tf.stack([1.0 - proposals.scores, proposals.scores], axis=-1)
    is_real = tf.sequence_mask(proposals.num_proposals, tf.shape(proposals.scores)[1])
    anchors = coder.decode(rpn.box_deltas, rpn.anchors[None])
    return Detections(
        boxes=box_ops.to_detection_frame(proposals.boxes, true_shapes),
        scores=proposals.scores,
        classes=tf.zeros_like(proposals.scores, tf.int32),
        num_detections=proposals.num_proposals,
        class_scores=tf.where(is_real[..., None], scores, 0.0),
        raw_boxes=box_ops.to_detection_frame(anchors, true_shapes),
        raw_class_scores=_objectness_scores(rpn.objectness_logits),
    )


def _objectness_scores(logits: tf.Tensor) -> tf.Tensor:
    """[B, K, 2 or 1] -> [B, K, 2] (background, object)."""
    if logits.shape[-1] == 1:
        return tf.concat([tf.sigmoid(-logits), tf.sigmoid(logits)], axis=-1)
    return tf.nn.softmax(logits)


def _best_class_box(boxes: tf.Tensor, class_scores: tf.Tensor) -> tf.Tensor:
    """[B, R, C or 1, 4] -> [B, R, 4], the box of each RoI's best class."""
    if boxes.shape[2] == 1:
        return boxes[:, :, 0]
    return tf.gather(boxes, tf.argmax(class_scores, axis=-1, output_type=tf.int32), batch_dims=2)
