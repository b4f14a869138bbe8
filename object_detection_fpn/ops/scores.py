"""Scores of logits in operations that LiteRT never rounds.

Its converter gives the results of its own sigmoid and softmax 256 steps wherever a graph computes in int8 in any place; 256
scores leave most detections ties.
"""

from __future__ import annotations

import tensorflow as tf


def sigmoid(logits: tf.Tensor) -> tf.Tensor:
    """As `tf.sigmoid` of float32, up to rounding."""
    # Not 1 / (1 + exp(-x)), which the converter would take for a sigmoid.
    power = tf.exp(-tf.abs(logits))
    return tf.where(logits >= 0.0, 1.0, power) / (1.0 + power)


def softmax(logits: tf.Tensor) -> tf.Tensor:
    """As `tf.nn.softmax` of float32, up to rounding."""
    powers = tf.exp(logits - tf.reduce_max(logits, axis=-1, keepdims=True))
    # Not by a division, which the converter would take for a softmax.
    return powers * (1.0 / tf.reduce_sum(powers, axis=-1, keepdims=True))
