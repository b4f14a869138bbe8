"""From the outputs of a region proposal network to proposals: decoded anchors, the best that do not overlap."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from object_detection_fpn.ops import box_coder, nms, selection
from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops.dims import dim
from object_detection_fpn.records import Proposals, RpnOutputs

_NEVER = float("-inf")  # logit of what cannot become a proposal

# Where the boxes of each level are moved so that they do not meet those of others, in heights and widths of the image. Around
# the origin, since coordinates that do not grow keep their precision; the large boxes of coarse levels need it least.
_PLACES = ((0, 0), (-1, 0), (0, -1), (-1, -1), (0, 1), (-1, 1))


def object_logits(objectness_logits: tf.Tensor) -> tf.Tensor:
    """The logits of the scores of anchors: [B, K, 2] (background, object) or [B, K, 1] (object) -> [B, K]."""
    if objectness_logits.shape[-1] == 1:
        return objectness_logits[..., 0]
    # Softmax of two logits is the sigmoid of their difference.
    return objectness_logits[..., 1] - objectness_logits[..., 0]


@dataclasses.dataclass(frozen=True)
class ProposalDecoder:
    """Decodes anchors and suppresses what overlaps (Faster R-CNN, section 3.3).

    Attributes:
        max_proposals: R, how many proposals an image keeps.
        max_candidates_per_level: anchors of each level, those with the largest logits, that take part; None = all.
        iou_threshold: a proposal that overlaps a better one by more is dropped.
        score_threshold: objectness that a proposal must exceed.
        within_levels: proposals are dropped only for better ones of their level.
        clip_first: proposals are clipped, and dropped if they have no area, before suppression and not after it.
        min_side: with `clip_first`, proposals with a shorter side are dropped too, in pixels.
        keep_empty: keep the proposals that have no area within the image; not with `clip_first`.
        coder: of the deltas.
        static: see `execution.Execution`.
        sigmoid: `tf.sigmoid` or `ops.scores.sigmoid`.
    """

    max_proposals: int = 300
    max_candidates_per_level: int | None = None
    iou_threshold: float = 0.7
    score_threshold: float = 0.0
    within_levels: bool = False
    clip_first: bool = False
    min_side: float = 0.0
    keep_empty: bool = False
    coder: box_coder.BoxCoder = box_coder.BoxCoder()
    static: bool = False
    sigmoid: Callable[[tf.Tensor], tf.Tensor] = tf.sigmoid

    def __call__(
        self,
        outputs: RpnOutputs,
        true_shapes: tf.Tensor,
        *,
        num_anchors: int,
        level_sizes: Sequence[int | tf.Tensor],
    ) -> Proposals:
        """Keeps the best proposals, clipped to the true image; no gradient passes.

        Args:
            outputs: of the RPN.
            true_shapes: [B, 3] int32.
            num_anchors: of a cell.
            level_sizes: anchors of each level, finest first, K together.

        Returns:
            Proposals of `max_proposals` rows, best first.
        """
        window = box_ops.image_window(true_shapes)
        logits = tf.stop_gradient(object_logits(outputs.objectness_logits))
        if self.max_candidates_per_level is None and not self.within_levels and not self.clip_first:
            # By score and not by logit, as in the Object Detection API: scores that round to 1 are equal.
            scores = tf.where(outputs.is_valid[None], self.sigmoid(logits), -1.0)
            boxes = self._look_up(outputs, num_anchors) if self.static else self.decode(outputs)[:, :, None]
            return _proposals(self._suppress(boxes, scores[:, :, None], self.score_threshold, window))
        is_candidate = outputs.is_valid[None] & (logits > _logit(self.score_threshold))
        logits = tf.where(is_candidate, logits, _NEVER)
        boxes, logits, level_sizes = self._choose(outputs, logits, num_anchors, level_sizes)
        if self.clip_first:
            boxes = box_ops.clip(boxes, window)
            logits = tf.where(_has_size(boxes, self.min_side), logits, _NEVER)
        proposals = _proposals(self._suppress_candidates(boxes, logits, level_sizes, window))
        is_real = tf.sequence_mask(proposals.num_proposals, self.max_proposals)
        return proposals._replace(scores=tf.where(is_real, self.sigmoid(proposals.scores), 0.0))

    def decode(self, outputs: RpnOutputs) -> tf.Tensor:
        """[B, K, 4], the refined box of every anchor, not clipped; no gradient passes."""
        return tf.stop_gradient(self.coder.decode(outputs.box_deltas, outputs.anchors[None]))

    def _suppress_candidates(
        self, boxes: tf.Tensor, logits: tf.Tensor, level_sizes: Sequence[int | tf.Tensor], window: tf.Tensor
    ) -> nms.NmsDetections:
        """Boxes [B, n, 4], logits [B, n], of levels one after the other."""
        if not self.within_levels:
            return self._suppress(boxes[:, :, None], logits[:, :, None], _NEVER, window)
        if self.clip_first and len(level_sizes) <= len(_PLACES):
            # In one row, which ends as soon as there are enough of all levels.
            size = window[:, 2:]
            apart = boxes + _shifts(level_sizes, size)
            all_places = tf.concat([-size, 2.0 * size], axis=-1)
            kept = self._suppress(apart[:, :, None], logits[:, :, None], _NEVER, all_places)
            is_real = tf.sequence_mask(kept.num, self.max_proposals)
            there = tf.gather(boxes, kept.roi_indices, batch_dims=1)
            return kept._replace(boxes=tf.where(is_real[..., tf.newaxis], there, 0.0))
        # A column for each level, as suppression has one for each class: boxes of any size cannot be moved apart.
        stacked = _stack_levels(boxes, level_sizes), _stack_levels(logits, level_sizes, _NEVER)
        return self._suppress(*stacked, _NEVER, window)

    def _suppress(
        self, boxes: tf.Tensor | nms.BoxLookUp, scores: tf.Tensor, score_threshold: float, window: tf.Tensor
    ) -> nms.NmsDetections:
        """Boxes [B, n, L or 1, 4], scores [B, n, L], window [B, 4]."""
        suppression = nms.Suppression(
            iou_threshold=self.iou_threshold,
            score_threshold=score_threshold,
            max_detections_per_class=self.max_proposals,
            max_total_detections=self.max_proposals,
            keep_empty=self.keep_empty,
        )
        return nms.multiclass_nms(boxes, scores, suppression, clip_window=window, static=self.static)

    def _choose(
        self, outputs: RpnOutputs, logits: tf.Tensor, num_anchors: int, level_sizes: Sequence[int | tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor, list[int | tf.Tensor]]:
        """Boxes [B, n, 4] and logits [B, n] of the candidates, and how many each level has."""
        limit = self.max_candidates_per_level
        if limit is None:
            return self.decode(outputs), logits, list(level_sizes)
        top_k = selection.top_k if self.static else tf.math.top_k  # which XLA compiles to sorting everything
        chosen_logits, chosen_rows, sizes = [], [], []
        for start, size in zip(_starts(level_sizes), level_sizes, strict=True):
            k = min(size, limit) if isinstance(size, int) else tf.minimum(size, limit)
            of_level, rows = top_k(logits[:, start : start + size], k)
            chosen_logits.append(of_level)
            chosen_rows.append(rows + start)
            sizes.append(k)
        boxes = self._look_up(outputs, num_anchors)(tf.concat(chosen_rows, axis=1))
        return boxes, tf.concat(chosen_logits, axis=1), sizes

    def _look_up(self, outputs: RpnOutputs, num_anchors: int) -> nms.BoxLookUp:
        """Decodes what is asked for, out of rows as the convolutions left them: a TPU takes long to lay out rows of four."""
        deltas = outputs.box_deltas
        batch, num_rows = dim(deltas, 0), dim(deltas, 1)
        cells = tf.stop_gradient(tf.reshape(deltas, [batch, num_rows // num_anchors, num_anchors * 4]))

        def decode(rows: tf.Tensor) -> tf.Tensor:
            of_cell = tf.gather(cells, rows // num_anchors, batch_dims=1)
            of_cell = tf.reshape(of_cell, [batch, dim(rows, 1), num_anchors, 4])
            is_anchor = (rows % num_anchors)[..., tf.newaxis] == tf.range(num_anchors)
            deltas = tf.reduce_sum(tf.where(is_anchor[..., tf.newaxis], of_cell, 0.0), axis=2)
            return self.coder.decode(deltas, tf.gather(outputs.anchors, rows))

        return decode


def _proposals(kept: nms.NmsDetections) -> Proposals:
    return Proposals(boxes=kept.boxes, scores=kept.scores, num_proposals=kept.num)


def _logit(score: float) -> float:
    if score <= 0.0:
        return _NEVER
    return math.log(score / (1.0 - score)) if score < 1.0 else float("inf")


def _has_size(boxes: tf.Tensor, min_side: float) -> tf.Tensor:
    """[B, n] bool."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return tf.reduce_all((sides > 0.0) & (sides >= min_side), axis=-1)


def _starts(sizes: Sequence[int | tf.Tensor]) -> list[int | tf.Tensor]:
    return [0, *itertools.accumulate(sizes)][:-1]


def _shifts(level_sizes: Sequence[int | tf.Tensor], image_size: tf.Tensor) -> tf.Tensor:
    """[B, n, 4], by how much the boxes of each level are moved; `image_size` is [B, 2]."""
    places = [tf.constant([place + place], tf.float32) for place in _PLACES[: len(level_sizes)]]
    of_rows = [tf.broadcast_to(place, [size, 4]) for place, size in zip(places, level_sizes, strict=True)]
    return tf.concat(of_rows, axis=0) * tf.concat([image_size, image_size], axis=-1)[:, tf.newaxis]


def _stack_levels(values: tf.Tensor, sizes: Sequence[int | tf.Tensor], padding: float = 0.0) -> tf.Tensor:
    """[B, n, ...], one level after the other -> [B, largest level, L, ...]."""
    is_static = all(isinstance(size, int) for size in sizes)
    largest = max(sizes) if is_static else tf.reduce_max(tf.stack(sizes))
    rest = [[0, 0]] * (values.shape.rank - 2)
    levels = [
        tf.pad(values[:, start : start + size], [[0, 0], [0, largest - size], *rest], constant_values=padding)
        for start, size in zip(_starts(sizes), sizes, strict=True)
    ]
    return tf.stack(levels, axis=2)
