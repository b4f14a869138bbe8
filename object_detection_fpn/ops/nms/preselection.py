"""Suppression of very many boxes of many classes: of the few that score best, as long as the others cannot change its result.

Greedy suppression decides on a box by boxes of higher scores alone. So what it says of all scores above a bound follows from
these scores, and if they fill the output, the others have no part in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from object_detection_fpn.ops import selection
from object_detection_fpn.ops.dims import dim
from object_detection_fpn.ops.nms.common import NEVER


class Chosen(NamedTuple):
    """The boxes that take part, n of each image."""

    rows: tf.Tensor
    """[B, n] int32, ascending."""
    scores: tf.Tensor
    """[B, n, C], NEVER where not above `bound`."""
    bound: tf.Tensor
    """[B] no other box has a higher score; NEVER if none can be kept."""


def choose(scores: tf.Tensor, num_boxes: int, *, static: bool) -> Chosen:
    """Chooses the boxes with the best scores of any class.

    Args:
        scores: [B, R, C] float32, NEVER for what cannot be kept.
        num_boxes: n, at most R.
        static: as for `nms.batched_nms`.
    """
    best = tf.reduce_max(scores, axis=-1)  # [B, R]
    top_k: Callable = selection.top_k if static else tf.math.top_k
    # One more, which is the best of the others.
    values, rows = top_k(best, num_boxes + 1)
    bound = values[:, -1]
    rows = tf.sort(rows[:, :num_boxes], axis=-1)  # so that of equals the first still comes first
    of_rows = tf.gather(scores, rows, batch_dims=1)
    return Chosen(rows, tf.where(of_rows > bound[:, tf.newaxis, tf.newaxis], of_rows, NEVER), bound)


def has_all(num_kept: tf.Tensor, last_scores: tf.Tensor, chosen: Chosen, max_outputs: int) -> tf.Tensor:
    """Whether what was kept of the chosen boxes is what would be kept of all: a bool of the whole batch.

    Args:
        num_kept: [B] int32.
        last_scores: [B] float32, the lowest score that was kept, where the output is full.
        chosen: of `choose`.
        max_outputs: the size of the output.
    """
    is_full = (num_kept == max_outputs) & (last_scores > chosen.bound)
    return tf.reduce_all(is_full | (chosen.bound == NEVER))


def best_of_levels(
    scores: tf.Tensor, level_sizes: list[int | tf.Tensor], max_candidates: int, *, static: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """Chooses the best pairs of box and class of each level.

    Args:
        scores: [B, R, C] float32, NEVER for what cannot be kept.
        level_sizes: boxes of each level, one level after the other, R together.
        max_candidates: pairs of a level that are chosen at most.
        static: as for `nms.batched_nms`.

    Returns:
        rows [B, n] int32, and scores [B, n, C] of one class each, NEVER for the others.
    """
    num_classes = scores.shape[2]
    top_k: Callable = selection.top_k if static else tf.math.top_k
    rows, chosen, start = [], [], 0
    for size in level_sizes:
        of_level = scores[:, start : start + size]
        pairs = tf.reshape(of_level, [dim(scores, 0), size * num_classes])
        is_static = isinstance(size, int)
        k = min(size * num_classes, max_candidates) if is_static else tf.minimum(size * num_classes, max_candidates)
        values, places = top_k(pairs, k)
        is_class = tf.one_hot(places % num_classes, num_classes) > 0.0
        chosen.append(tf.where(is_class, values[..., tf.newaxis], NEVER))
        rows.append(start + places // num_classes)
        start += size
    return tf.concat(rows, axis=1), tf.concat(chosen, axis=1)
