"""Scores in other operations are the same scores."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from object_detection_fpn.ops import scores

LOGITS = tf.constant(
    np.concatenate([np.linspace(-200.0, 200.0, 60), np.linspace(-5.0, 5.0, 60)]).reshape(30, 4), tf.float32
)


def test_sigmoid_is_that_of_tensorflow():
    np.testing.assert_allclose(scores.sigmoid(LOGITS), tf.sigmoid(LOGITS), rtol=1e-6, atol=1e-37)


def test_softmax_is_that_of_tensorflow():
    np.testing.assert_allclose(scores.softmax(LOGITS), tf.nn.softmax(LOGITS), rtol=2e-6, atol=1e-37)
