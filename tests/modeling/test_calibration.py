"""Calibration functions, worked by hand; their parameters are worked from the formulas of the config language."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.modeling import calibration

SCORES = tf.constant([[[0.0, 0.1, 0.25], [0.5, 0.75, 1.0]]])


def test_piecewise_linear_interpolates_and_is_constant_outside():
    found = calibration.piecewise_linear(SCORES, x=[0.1, 0.5, 0.9], y=[0.2, 0.4, 1.0])
    np.testing.assert_allclose(found, [[[0.2, 0.2, 0.275], [0.4, 0.775, 1.0]]], rtol=1e-6)
    random = np.random.RandomState(0)
    x, y, scores = np.sort(random.uniform(0, 1, 7)), random.uniform(0, 1, 7), random.uniform(-0.5, 1.5, [4, 5, 6])
    found = calibration.piecewise_linear(tf.constant(scores, tf.float32), x=x.tolist(), y=y.tolist())
    np.testing.assert_allclose(found, np.interp(scores, x, y), rtol=1e-4)


def test_one_corner_is_a_constant():
    np.testing.assert_allclose(calibration.piecewise_linear(SCORES, x=[0.5], y=[0.25]), np.full([1, 2, 3], 0.25))


@pytest.mark.parametrize(
    "x, y, message",
    [
        ([], [], "There are 0 x and 0 y"),
        ([0.0, 1.0], [0.5], "There are 2 x and 1 y"),
        ([0.0, 0.5, 0.5], [0, 0, 1], r"x = \[0.0, 0.5, 0.5\] does not ascend"),
    ],
)
def test_corners_that_are_no_function_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        calibration.piecewise_linear(SCORES, x=x, y=y)


def test_sigmoid_is_that_of_platt():
    np.testing.assert_allclose(
        calibration.sigmoid(SCORES, a=-2.0, b=0.5), 1 / (1 + np.exp(-2.0 * SCORES.numpy() + 0.5)), rtol=1e-6
    )


def test_temperature_divides():
    np.testing.assert_allclose(calibration.temperature(SCORES, scaler=4.0), SCORES / 4.0)


def test_each_class_has_a_function_of_its_own_and_others_keep_their_scores():
    found = calibration.of_each_class(SCORES, calibrations={0: lambda s: s + 1.0, 2: lambda s: s * 2.0})
    np.testing.assert_allclose(found, [[[1.0, 0.1, 0.5], [1.5, 0.75, 2.0]]])


def test_a_class_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"Class 3 does not exist. Allowed: 0 \(background\) to 2"):
        calibration.of_each_class(SCORES, calibrations={3: tf.identity})
