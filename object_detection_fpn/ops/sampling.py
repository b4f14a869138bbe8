"""Random minibatches of positives and negatives (Faster R-CNN, section 3.1.3); the library's need one-hot matrices."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from object_detection_fpn.ops import selection
from object_detection_fpn.ops.dims import dim


class Sample(NamedTuple):
    """Rows chosen from each image."""

    indices: tf.Tensor
    """[B, num_samples] int32 in [0, K), ascending; 0 in the rows that fill up, which come last."""
    is_sampled: tf.Tensor
    """[B, num_samples] bool, False in the rows that fill up."""


def sample_balanced(
    is_candidate: tf.Tensor,
    is_positive: tf.Tensor,
    *,
    num_samples: int,
    positive_fraction: float,
    seed: tf.Tensor | None,
    is_alike: bool = False,
) -> Sample:
    """Chooses at most int(num_samples * positive_fraction) positives and fills up with negatives.

    Args:
        is_candidate: [B, K] bool, rows that may be chosen.
        is_positive: [B, K] bool, candidates that are positive; the other candidates are negative.
        num_samples: rows to choose from each image.
        positive_fraction: largest share of positives, in [0, 1].
        seed: [2] int32, chooses uniformly at random, the same for the same seed; None takes the first rows of each kind.
        is_alike: all images draw the same numbers, those of a batch of one.

    Returns:
        The chosen rows; fewer than `num_samples` where negatives run out.

    Raises:
        ValueError: if `num_samples` is below 1 or `positive_fraction` outside [0, 1].
    """
    if num_samples < 1:
        raise ValueError(f"num_samples = {num_samples}. Allowed: 1 or more.")
    if not 0.0 <= positive_fraction <= 1.0:
        raise ValueError(f"positive_fraction = {positive_fraction}. Allowed: 0 to 1.")

    with tf.name_scope("sampling"):
        shape, num_rows = tf.shape(is_candidate), dim(is_candidate, 1)
        if seed is None:  # falls with the row, and is exact in float32 up to 16.7 million rows
            priority = tf.broadcast_to(tf.cast(num_rows - tf.range(num_rows), tf.float32), shape)
        elif is_alike:
            priority = tf.broadcast_to(tf.random.stateless_uniform([1, num_rows], seed, alg="philox"), shape)
        else:
            priority = tf.random.stateless_uniform(shape, seed, alg="philox")  # the same with and without XLA
        return _choose(is_candidate, is_positive, priority, num_samples, int(num_samples * positive_fraction))


def _choose(
    is_candidate: tf.Tensor, is_positive: tf.Tensor, priority: tf.Tensor, num_samples: int, max_positives: int
) -> Sample:
    """The rows of highest priority [B, K], none of which is negative."""
    num_rows = dim(is_candidate, 1)
    is_positive = tf.logical_and(is_candidate, is_positive)
    is_negative = tf.logical_and(is_candidate, tf.logical_not(is_positive))
    num_positives = tf.minimum(_count(is_positive), max_positives)
    num_negatives = tf.minimum(_count(is_negative), num_samples - num_positives)
    # Priorities are never negative. Both kinds at once, as twice as many rows.
    kinds = tf.concat([is_positive, is_negative], axis=0)
    priority = tf.where(kinds, tf.tile(priority, [2, 1]), -1.0)
    chosen = selection.mark_largest(priority, tf.concat([num_positives, num_negatives], axis=0))
    chosen = tf.reduce_any(tf.reshape(chosen, [2, -1, num_rows]), axis=0)
    indices = selection.find_marked(chosen, num_samples)
    is_sampled = indices < num_rows
    return Sample(indices=tf.where(is_sampled, indices, 0), is_sampled=is_sampled)


def _count(marks: tf.Tensor) -> tf.Tensor:
    return tf.math.count_nonzero(marks, axis=1, dtype=tf.int32)
