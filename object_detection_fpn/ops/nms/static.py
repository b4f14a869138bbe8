"""Suppression in static shapes, which XLA compiles: all rows at once."""

from __future__ import annotations

import tensorflow as tf

from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops import selection
from object_detection_fpn.ops.dims import dim
from object_detection_fpn.ops.nms.common import NEVER, BoxLookUp, Kept, as_look_up

# Boxes that `_tiled` decides on at a time: many in the one long row of an RPN, few in each of the many short rows of classes,
# most of whose boxes score too little to take part. The work of a tile grows with its square.
_LARGE_TILE = 512
_SMALL_TILE = 64
_MANY_BOXES = 4096
_BLOCK = _MANY_BOXES  # of the best boxes of a long row, which are sorted; 300 proposals need about half as many


def suppress(
    boxes: tf.Tensor | BoxLookUp,
    scores: tf.Tensor,
    max_outputs: int,
    iou_threshold: float,
    score_threshold: float,
    soft_nms_sigma: float,
) -> Kept:
    """Suppresses all rows; boxes [B, N, 4] or, where suppression is not soft, a function of rows; scores [B, N] float32."""
    scores = tf.where(scores > score_threshold, scores, NEVER)
    if soft_nms_sigma > 0.0:
        return _soft(boxes, scores, max_outputs, score_threshold, soft_nms_sigma)
    return _tiled(as_look_up(boxes), scores, max_outputs, iou_threshold)


def _tiled(look_up: BoxLookUp, scores: tf.Tensor, max_outputs: int, iou_threshold: float) -> Kept:
    """Greedy suppression, a tile of the best boxes left at a time: against the boxes kept so far, then within the tile.

    Tiles are cut from a sorted block. Of long rows a block holds only the best: the first one nearly always fills the output.
    """
    batch, num_boxes = dim(scores, 0), dim(scores, 1)
    is_long = not isinstance(num_boxes, int) or num_boxes > _MANY_BOXES
    tile = _LARGE_TILE if is_long else min(_SMALL_TILE, num_boxes)
    missing = tf.maximum(_BLOCK - num_boxes, 0) if is_long else -num_boxes % tile
    scores = tf.pad(scores, [[0, 0], [0, missing]], constant_values=NEVER)
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
        alive = (tile_scores > NEVER) & ~tf.reduce_any(overlaps_kept, axis=1)
        is_earlier = places[:, tf.newaxis] < places  # [j, i]: j comes before i
        overlaps = (box_ops.pairwise_iou(tile_boxes, tile_boxes) > iou_threshold) & is_earlier
        alive = _greedy(alive, overlaps)
        slot = num[:, tf.newaxis] + tf.cumsum(tf.cast(alive, tf.int32), axis=1, exclusive=True)
        slot = tf.where(alive, tf.minimum(slot, max_outputs), max_outputs)  # the last slot takes what is not kept
        where = tf.stack([images, slot], axis=-1)
        kept = tf.tensor_scatter_nd_update(kept, where, rows)
        kept_boxes = tf.tensor_scatter_nd_update(kept_boxes, where, tf.where(alive[..., tf.newaxis], tile_boxes, 0.0))
        num = tf.minimum(num + tf.math.count_nonzero(alive, axis=1, dtype=tf.int32), max_outputs)
        is_full = tile_scores[:, -1] > NEVER
        is_more = tf.reduce_any(is_full & (num < max_outputs)) & (start + tile < block)
        return is_more, start + tile, kept, kept_boxes, num, block_scores, block_rows

    def decide_block(_, left, kept, kept_boxes, num):
        if is_long:
            is_best = selection.mark_largest(left, tf.fill([batch], block))
            best = selection.find_marked(is_best, block)
            left_after = tf.where(is_best, NEVER, left)
            block_scores, order = tf.math.top_k(tf.gather(left, best, batch_dims=1), k=block)
            block_rows = tf.gather(best, order, batch_dims=1)
        else:
            left_after = left
            block_scores, block_rows = tf.math.top_k(left, k=block)
        state = (tf.constant(True), tf.constant(0), kept, kept_boxes, num, block_scores, block_rows)
        _, _, kept, kept_boxes, num, _, _ = tf.while_loop(more, decide_tile, state)
        is_full = block_scores[:, -1] > NEVER
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
    return Kept(indices, tf.where(is_real, tf.gather(scores, indices, batch_dims=1), 0.0), num)


def _greedy(alive: tf.Tensor, overlaps: tf.Tensor) -> tf.Tensor:
    """Drops every box that overlaps an earlier one which itself is not dropped; overlaps [B, j, i] only for j before i.

    Each round decides at least one more box of every chain of overlaps, so few rounds reach the unique fixed point.
    """

    def undecided(_, __, changed):
        return changed

    def decide(now, first, _):
        dropped = tf.reduce_any(tf.logical_and(overlaps, now[:, :, tf.newaxis]), axis=1)
        after = tf.logical_and(first, tf.logical_not(dropped))
        return after, first, tf.reduce_any(tf.not_equal(after, now))

    return tf.while_loop(undecided, decide, (alive, alive, tf.constant(True)))[0]


def _soft(boxes: tf.Tensor, scores: tf.Tensor, max_outputs: int, score_threshold: float, sigma: float) -> Kept:
    """Soft-NMS: takes the best box, decays its neighbours' scores by exp(-IoU^2 / (2 sigma)), and starts again."""
    batch, num_boxes = dim(boxes, 0), dim(boxes, 1)

    def take_best(state, _):
        remaining = state[0]
        best = tf.argmax(remaining, axis=1, output_type=tf.int32)
        score = tf.gather(remaining, best, batch_dims=1)
        iou = box_ops.pairwise_iou(tf.gather(boxes, best, batch_dims=1)[:, tf.newaxis], boxes)[:, 0]
        remaining = remaining * tf.exp(-0.5 / sigma * iou * iou)  # NaN where -inf meets a decay to 0
        stays = (remaining > score_threshold) & (tf.range(num_boxes) != best[:, tf.newaxis])
        return tf.where(stays, remaining, NEVER), best, score

    initial = (scores, tf.zeros([batch], tf.int32), tf.zeros([batch]))
    _, indices, kept_scores = tf.scan(take_best, tf.range(max_outputs), initial)
    indices, kept_scores = tf.transpose(indices), tf.transpose(kept_scores)
    is_real = kept_scores > NEVER
    num = tf.math.count_nonzero(is_real, axis=1, dtype=tf.int32)
    return Kept(tf.where(is_real, indices, 0), tf.where(is_real, kept_scores, 0.0), num)
