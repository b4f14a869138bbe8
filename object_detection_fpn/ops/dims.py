"""Dimensions as static as they can be."""

from __future__ import annotations

import tensorflow as tf


def dim(tensor: tf.Tensor, axis: int) -> int | tf.Tensor:
    """Returns the size of an axis: an int where it is known, so that shapes stay static for XLA, else a scalar int32 tensor."""
    size = tensor.shape[axis]
    return tf.shape(tensor)[axis] if size is None else size
