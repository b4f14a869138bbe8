"""Losses of single boxes, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from object_detection_fpn.ops import losses

LN2, LN3 = np.log(2.0), np.log(3.0)


@pytest.mark.parametrize(
    "error, delta, expected",
    [
        (0.0, 1.0, 0.0),
        (0.5, 1.0, 0.125),
        (-0.5, 1.0, 0.125),
        (1.0, 1.0, 0.5),
        (3.0, 1.0, 2.5),
        (3.0, 2.0, 4.0),
        (0.1, 0.2, 0.005),
    ],
)
def test_smooth_l1_is_quadratic_up_to_delta_and_linear_beyond(error, delta, expected):
    deltas = tf.constant([[error, 0, 0, 0], [error, -error, 0, error]])
    np.testing.assert_allclose(
        losses.smooth_l1(deltas, tf.zeros([2, 4]), delta=delta), [expected, 3 * expected], rtol=1e-5
    )


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.float32, [3, 4], elements=st.floats(-1000, 1000, width=32)))
def test_smooth_l1_is_symmetric_and_has_a_gradient_of_at_most_one(errors):
    with tf.GradientTape() as tape:
        deltas = tf.Variable(errors)
        loss = tf.reduce_sum(losses.smooth_l1(deltas, tf.zeros([3, 4])))
    np.testing.assert_allclose(losses.smooth_l1(tf.zeros([3, 4]), errors), losses.smooth_l1(errors, tf.zeros([3, 4])))
    np.testing.assert_allclose(tape.gradient(loss, deltas), np.clip(errors, -1, 1), rtol=1e-5, atol=1e-7)


def test_softmax_cross_entropy():
    logits, targets = tf.constant([[0.0, 2 * LN2], [0.0, 2 * LN2]]), tf.constant([[0.0, 1], [1, 0]])
    np.testing.assert_allclose(losses.softmax_cross_entropy(logits, targets), [np.log(5 / 4), np.log(5)], rtol=1e-6)
    scaled = losses.softmax_cross_entropy(logits, targets, logit_scale=2.0)
    np.testing.assert_allclose(scaled, [np.log(3 / 2), LN3], rtol=1e-6)


def test_sigmoid_cross_entropy_sums_over_classes_and_background():
    logits = tf.constant([[LN2, 0.0, -LN3]], tf.float32)  # scores 2/3, 1/2, 1/4
    targets = tf.constant([[1.0, 0.0, 0.0]])
    expected = np.log(3 / 2) + np.log(2) + np.log(4 / 3)
    np.testing.assert_allclose(losses.sigmoid_cross_entropy(logits, targets), [expected], rtol=1e-6)
    several = losses.sigmoid_cross_entropy(logits, tf.constant([[1.0, 1.0, 0.5]]))
    half = (np.log(4 / 3) + np.log(4)) / 2
    np.testing.assert_allclose(several, [np.log(3 / 2) + np.log(2) + half], rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("alpha", [None, 0.0, 0.25])
def test_focal_loss_fades_what_is_right(gamma, alpha):
    logits, targets = tf.constant([[LN2, 0.0, -LN3]], tf.float32), tf.constant([[1.0, 0.0, 0.0]])
    hit, miss = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    expected = (
        hit * (1 / 3) ** gamma * np.log(3 / 2)
        + miss * (1 / 2) ** gamma * np.log(2)
        + miss * (1 / 4) ** gamma * np.log(4 / 3)
    )
    found = losses.sigmoid_focal_loss(logits, targets, gamma=gamma, alpha=alpha)
    np.testing.assert_allclose(found, [expected], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_the_gradient_of_focal_loss_is_finite_where_scores_are_0_or_1(gamma):
    logits = tf.Variable([[200.0, -200.0, -200.0, 200.0]])
    with tf.GradientTape() as tape:
        loss = losses.sigmoid_focal_loss(logits, tf.constant([[1.0, 0.0, 1.0, 0.0]]), gamma=gamma)
    assert np.all(np.isfinite(tape.gradient(loss, logits)))


def test_softmax_against_logits_compares_two_softmaxes():
    logits, targets = tf.constant([[0.0, 2 * LN2]]), tf.constant([[2 * LN3, 0.0]])  # 1/5, 4/5; 9/10, 1/10
    found = losses.softmax_cross_entropy_of_logits(logits, targets)
    np.testing.assert_allclose(found, [0.9 * np.log(5) + 0.1 * np.log(5 / 4)], rtol=1e-6)
    scaled = losses.softmax_cross_entropy_of_logits(logits, targets, logit_scale=2.0)  # 1/3, 2/3; 3/4, 1/4
    np.testing.assert_allclose(scaled, [0.75 * np.log(3) + 0.25 * np.log(3 / 2)], rtol=1e-6)
