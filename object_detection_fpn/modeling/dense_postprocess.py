"""From the outputs for all anchors of a pyramid to detections: scores, decoded boxes, suppression for each class."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from object_detection_fpn.modeling import postprocess
from object_detection_fpn.ops import box_coder, nms
from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops.dims import dim
from object_detection_fpn.records import DenseOutputs, Detections

# Anchors that suppression looks at first. An object has tens of anchors around it, and a hundred detections are wanted.
_NUM_FIRST = 4096


@dataclasses.dataclass(frozen=True)
class DensePostprocessor:
    """Decodes, scores and suppresses.

    Attributes:
        score_converter: class logits [B, K, C+1] -> scores of the same shape, calibrated if they are to be.
        suppression: thresholds and numbers of detections.
        coder: of the deltas.
        max_candidates_per_level: pairs of anchor and class of each level, those with the best scores, that suppression sees;
            None = all.
        has_background: whether the logits begin with a column of the background, which is no detection.
        background_competes: the background is suppressed and counted among the detections as a class is, and left out at last.
        num_first: anchors that are looked at before all are; the results are the same.
        static: see `execution.Execution`.
    """

    score_converter: postprocess.ScoreConverter = tf.sigmoid
    suppression: nms.Suppression = nms.Suppression()
    coder: box_coder.BoxCoder = box_coder.BoxCoder()
    max_candidates_per_level: int | None = None
    has_background: bool = True
    background_competes: bool = False
    num_first: int = _NUM_FIRST
    static: bool = False

    def __call__(
        self,
        outputs: DenseOutputs,
        true_shapes: tf.Tensor,
        *,
        image_size: tf.Tensor,
        level_sizes: list[int | tf.Tensor],
    ) -> Detections:
        """Returns the detections.

        Args:
            outputs: of the head.
            true_shapes: [B, 3] int32.
            image_size: [2] int32 (height, width) of the padded image.
            level_sizes: anchors of each level, finest first, K together.
        """
        scores = self.score_converter(outputs.class_logits)
        if not self.has_background:
            scores = tf.pad(scores, [[0, 0], [0, 0], [1, 0]])
        boxes = tf.stop_gradient(self.coder.decode(outputs.box_deltas, outputs.anchors[tf.newaxis]))  # [B, K, 4]
        window = box_ops.image_window(true_shapes)
        if self.background_competes:
            kept = _without_background(self._suppress(boxes, scores, window, level_sizes))
        else:
            kept = self._suppress(boxes, scores[..., 1:], window, level_sizes)
        is_real = tf.sequence_mask(kept.num, tf.shape(kept.boxes)[1])
        return Detections(
            boxes=box_ops.to_detection_frame(kept.boxes, true_shapes),
            scores=kept.scores,
            classes=kept.classes,
            num_detections=kept.num,
            class_scores=tf.where(is_real[..., None], tf.gather(scores, kept.roi_indices, batch_dims=1), 0.0),
            roi_indices=kept.roi_indices,
            raw_boxes=box_ops.normalize(boxes, tf.cast(image_size, tf.float32)),
            raw_class_scores=scores,
        )

    def _suppress(
        self, boxes: tf.Tensor, scores: tf.Tensor, window: tf.Tensor, level_sizes: list[int | tf.Tensor]
    ) -> nms.NmsDetections:
        """Boxes [B, K, 4], scores [B, K, C], window [B, 4]."""
        if self.max_candidates_per_level is None:
            return nms.multiclass_nms_of_many(
                boxes, scores, self.suppression, clip_window=window, num_first=self.num_first, static=self.static
            )
        return nms.multiclass_nms_of_levels(
            boxes,
            scores,
            self.suppression,
            clip_window=window,
            level_sizes=level_sizes,
            max_candidates=self.max_candidates_per_level,
            static=self.static,
        )


def _without_background(kept: nms.NmsDetections) -> nms.NmsDetections:
    """Detections of the background, class 0, and of classes that count from 1: those of the classes, which count from 0."""
    is_object = tf.sequence_mask(kept.num, dim(kept.scores, 1)) & (kept.classes > 0)
    order = tf.argsort(tf.cast(is_object, tf.int32), axis=-1, direction="DESCENDING", stable=True)
    is_object = tf.gather(is_object, order, batch_dims=1)

    def take(values: tf.Tensor) -> tf.Tensor:
        values = tf.gather(values, order, batch_dims=1)
        is_kept = is_object[..., tf.newaxis] if values.shape.rank == 3 else is_object
        return tf.where(is_kept, values, tf.zeros_like(values))

    return nms.NmsDetections(
        boxes=take(kept.boxes),
        scores=take(kept.scores),
        classes=take(kept.classes - 1),
        roi_indices=take(kept.roi_indices),
        num=tf.math.count_nonzero(is_object, axis=1, dtype=tf.int32),
    )


def level_sizes(pyramid: tuple[tf.Tensor, ...], num_anchors: int) -> list[int | tf.Tensor]:
    """Anchors of each level of a pyramid of [B, H_l, W_l, F], `num_anchors` of a cell."""
    return [dim(features, 1) * dim(features, 2) * num_anchors for features in pyramid]
