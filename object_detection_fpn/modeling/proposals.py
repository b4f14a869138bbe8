"""From the outputs of a region proposal network to proposals: decoded anchors, the best that do not overlap."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from object_detection_fpn.ops import box_coder, nms
from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops.dims import dim
from object_detection_fpn.records import Proposals, RpnOutputs


@dataclasses.dataclass(frozen=True)
class ProposalDecoder:
    """Decodes anchors and suppresses what overlaps (Faster R-CNN, section 3.3).

    Attributes:
        max_proposals: R, how many proposals an image keeps.
        iou_threshold: a proposal that overlaps a better one by more is dropped.
        score_threshold: objectness that a proposal must exceed.
        keep_empty: keep the proposals that have no area within the image.
        box_scales: of the box coder.
        static: see `execution.Execution`.
    """

    max_proposals: int = 300
    iou_threshold: float = 0.7
    score_threshold: float = 0.0
    keep_empty: bool = False
    box_scales: box_coder.Scales = box_coder.DEFAULT_SCALES
    static: bool = False

    def __call__(self, outputs: RpnOutputs, true_shapes: tf.Tensor, *, num_anchors: int) -> Proposals:
        """Keeps the best proposals, clipped to the true image; no gradient passes.

        Args:
            outputs: of the RPN.
            true_shapes: [B, 3] int32.
            num_anchors: of a cell.

        Returns:
            Proposals of `max_proposals` rows, best first.
        """
        # Softmax of two logits is the sigmoid of their difference.
        scores = tf.sigmoid(outputs.objectness_logits[..., 1] - outputs.objectness_logits[..., 0])
        scores = tf.where(outputs.is_valid[None], scores, -1.0)
        kept, scores, _, _, num_kept = nms.multiclass_nms(
            self._decode_some(outputs, num_anchors) if self.static else self._decode_all(outputs),
            tf.stop_gradient(scores)[:, :, None],
            nms.Suppression(
                iou_threshold=self.iou_threshold,
                score_threshold=self.score_threshold,
                max_detections_per_class=self.max_proposals,
                max_total_detections=self.max_proposals,
                keep_empty=self.keep_empty,
            ),
            clip_window=box_ops.image_window(true_shapes),
            static=self.static,
        )
        return Proposals(boxes=kept, scores=scores, num_proposals=num_kept)

    def _decode_all(self, outputs: RpnOutputs) -> tf.Tensor:
        """-> [B, K, 1, 4]."""
        boxes = box_coder.decode(outputs.box_deltas, outputs.anchors[None], scales=self.box_scales)
        return tf.stop_gradient(boxes)[:, :, None]

    def _decode_some(self, outputs: RpnOutputs, num_anchors: int) -> nms.BoxLookUp:
        """Decodes what is asked for, out of rows as the convolutions left them: a TPU takes long to lay out rows of four."""
        deltas = outputs.box_deltas
        batch, num_rows = dim(deltas, 0), dim(deltas, 1)
        cells = tf.stop_gradient(tf.reshape(deltas, [batch, num_rows // num_anchors, num_anchors * 4]))

        def decode(rows: tf.Tensor) -> tf.Tensor:
            of_cell = tf.gather(cells, rows // num_anchors, batch_dims=1)
            of_cell = tf.reshape(of_cell, [batch, dim(rows, 1), num_anchors, 4])
            is_anchor = (rows % num_anchors)[..., tf.newaxis] == tf.range(num_anchors)
            deltas = tf.reduce_sum(tf.where(is_anchor[..., tf.newaxis], of_cell, 0.0), axis=2)
            return box_coder.decode(deltas, tf.gather(outputs.anchors, rows), scales=self.box_scales)

        return decode
