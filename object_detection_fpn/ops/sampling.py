"""Random minibatches of positives and negatives (Faster R-CNN, section 3.1.3); the library's need one-hot matrices."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

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
) -> Sample:
    """Chooses at most int(num_samples * positive_fraction) positives and fills up with negatives.

    Args:
        is_candidate: [B, K] bool, rows that may be chosen.
        is_positive: [B, K] bool, candidates that are positive; the other candidates are negative.
        num_samples: rows to choose from each image.
        positive_fraction: largest share of positives, in [0, 1].
        seed: [2] int32, chooses uniformly at random, the same for the same seed; None takes the first rows of each kind.

    Returns:
        The chosen rows; fewer than `num_samples` where negatives run out.

    Raises:
        ValueError: if `num_samples` is below 1 or `positive_fraction` outside [0, 1].
    """
    if num_samples < 1:
        raise ValueError(f"num_samples = {num_samples}. Allowed: 1 or more.")
    if not 0.0 <= positive_fraction <= 1.0:
        raise ValueError(f"positive_fraction = {positive_fraction}. Allowed: 0 to 1.")

    shape, num_rows = tf.shape(is_candidate), dim(is_candidate, 1)
    if seed is None:  # falls with the row, and is exact in float32 up to 16.7 million rows
        priority = tf.broadcast_to(tf.cast(num_rows - tf.range(num_rows), tf.float32), shape)
    else:
        priority = tf.random.stateless_uniform(shape, seed, alg="philox")  # the same numbers with and without XLA

    is_positive = tf.logical_and(is_candidate, is_positive)
    is_negative = tf.logical_and(is_candidate, tf.logical_not(is_positive))
    positives, num_positives = _first(is_positive, priority, int(num_samples * positive_fraction))
    negatives, num_negatives = _first(is_negative, priority, num_samples)
    num_negatives = tf.minimum(num_negatives, num_samples - num_positives)

    # Unchosen rows sort last; what is left of them in the first num_samples is the filling.
    chosen = tf.sort(
        tf.concat([_keep(positives, num_positives, num_rows), _keep(negatives, num_negatives, num_rows)], axis=1),
        axis=1,
    )
    chosen = tf.pad(chosen, [[0, 0], [0, num_samples]], constant_values=num_rows)[:, :num_samples]
    is_sampled = chosen < num_rows
    return Sample(indices=tf.where(is_sampled, chosen, 0), is_sampled=is_sampled)


def _first(mask: tf.Tensor, priority: tf.Tensor, limit: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the `limit` rows of highest priority, marked ones first ([B, <= limit] int32), and how many are marked ([B])."""
    num_rows = dim(mask, 1)
    size = min(limit, num_rows) if isinstance(num_rows, int) else tf.minimum(limit, num_rows)
    _, rows = tf.math.top_k(tf.where(mask, priority, -1.0), k=size)  # priorities are never negative
    return rows, tf.minimum(tf.math.count_nonzero(mask, axis=1, dtype=tf.int32), limit)


def _keep(rows: tf.Tensor, count: tf.Tensor, num_rows: int | tf.Tensor) -> tf.Tensor:
    """Replaces all but the first `count` [B] of `rows` [B, n] by `num_rows`, a row that does not exist."""
    return tf.where(tf.range(tf.shape(rows)[1]) < count[:, tf.newaxis], rows, num_rows)
