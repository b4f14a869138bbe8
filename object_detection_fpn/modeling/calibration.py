"""Calibration: monotonic functions that make detection scores mean probabilities, fitted after training.

Scores are [..., C+1] with background first; every function keeps the shape. Classes are counted with background, so that class
0 is background and class c + 1 is class c of the records.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

Calibration = Callable[[tf.Tensor], tf.Tensor]


def piecewise_linear(scores: tf.Tensor, *, x: Sequence[float], y: Sequence[float]) -> tf.Tensor:
    """Interpolates between the corners (x, y); constant before the first and after the last.

    Args:
        scores: any shape.
        x: of the corners, ascending, at least one.
        y: of the corners, as many.

    Raises:
        ValueError: if `x` and `y` differ in length, are empty, or `x` does not ascend.
    """
    if not x or len(x) != len(y):
        raise ValueError(f"There are {len(x)} x and {len(y)} y. Allowed: as many of both, at least 1.")
    if any(after <= before for before, after in itertools.pairwise(x)):
        raise ValueError(f"x = {list(x)} does not ascend.")
    result = tf.fill(tf.shape(scores), float(y[0]))
    # Every piece adds what it has risen up to the score; a gather by the piece's index would be slow on accelerators.
    for (x_low, y_low), (x_high, y_high) in itertools.pairwise(zip(x, y, strict=True)):
        result += (y_high - y_low) * tf.clip_by_value((scores - x_low) / (x_high - x_low), 0.0, 1.0)
    return result


def sigmoid(scores: tf.Tensor, *, a: float, b: float) -> tf.Tensor:
    """Returns 1 / (1 + exp(a * scores + b)) (Platt 1999, equation 5); `a` is negative where order shall stay."""
    return tf.sigmoid(-(a * scores + b))


def temperature(scores: tf.Tensor, *, scaler: float) -> tf.Tensor:
    """Returns scores / scaler."""
    return scores / scaler


def of_each_class(scores: tf.Tensor, *, calibrations: Mapping[int, Calibration]) -> tf.Tensor:
    """Applies a function of its own to each class named in `calibrations`, 0 = background; others keep their scores.

    Raises:
        ValueError: if there is no such class.
    """
    num_classes = scores.shape[-1]
    unknown = [index for index in calibrations if not 0 <= index < num_classes]
    if unknown:
        raise ValueError(f"Class {unknown[0]} does not exist. Allowed: 0 (background) to {num_classes - 1}.")
    columns = tf.unstack(scores, axis=-1)
    return tf.stack([calibrations.get(i, tf.identity)(column) for i, column in enumerate(columns)], axis=-1)
