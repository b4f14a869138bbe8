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


def loss_and_gradient(loss, values):
    with tf.GradientTape() as tape:
        values = tf.Variable(values)
        found = loss(values)
        total = tf.reduce_sum(found)
    return found, tape.gradient(total, values)


@pytest.mark.parametrize("library", ["fvcore", "torch"])
@pytest.mark.parametrize("beta", [0.0, 1 / 9, 1.0])
def test_smooth_l1_agrees_with_the_pytorch_libraries(golden_dir, library, beta):
    golden = np.load(golden_dir / "pytorch" / "smooth_l1.npz")
    loss = losses.SmoothL1(delta=beta, factor=1 / beta) if beta else losses.L1()
    found, gradient = loss_and_gradient(lambda x: loss(x, golden["target"][:, None], None), golden["pred"][:, None])
    np.testing.assert_allclose(found, golden[f"{library}_beta{beta:.3f}"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient[:, 0], golden[f"{library}_beta{beta:.3f}_grad"], rtol=1e-4, atol=1e-5)


IOU_LOSSES = {
    "torchvision_giou": losses.generalized_iou_loss,
    "fvcore_giou": losses.generalized_iou_loss,
    "torchvision_diou": losses.distance_iou_loss,
    "detectron2_diou": losses.distance_iou_loss,
    "torchvision_ciou": losses.complete_iou_loss,
    "detectron2_ciou": losses.complete_iou_loss,
}


@pytest.mark.parametrize("name", IOU_LOSSES)
def test_losses_of_boxes_agree_with_the_pytorch_libraries(golden_dir, name):
    golden = np.load(golden_dir / "pytorch" / "iou_losses.npz")
    targets = golden["target"][:, YX]
    found, gradient = loss_and_gradient(lambda boxes: IOU_LOSSES[name](boxes, targets), golden["pred"][:, YX])
    np.testing.assert_allclose(found, golden[name], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient, golden[f"{name}_grad"][:, YX], rtol=1e-4, atol=1e-5)


YX = [1, 0, 3, 2]  # from (x, y) to (y, x)
UNIT = [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "box, generalized, distance, complete",
    [
        (UNIT, 0.0, 0.0, 0.0),
        # The upper half: IoU 1/2, the hull is the union, centres 1/4 apart along a diagonal of sqrt(2), twice as wide as high.
        ([0.0, 0.0, 0.5, 1.0], 0.5, 0.5 + 1 / 32, None),
        # Beside it: no overlap, the hull is the union.
        ([0.0, 1.0, 1.0, 2.0], 1.0, 1.0 + 1 / 5, 1.0 + 1 / 5),
        # One apart: a third of the hull is neither.
        ([0.0, 2.0, 1.0, 3.0], 1.0 + 1 / 3, 1.0 + 4 / 10, 1.0 + 4 / 10),
    ],
)
def test_losses_of_boxes_worked_by_hand(box, generalized, distance, complete):
    if complete is None:
        aspect = 4 / np.pi**2 * (np.pi / 4 - np.arctan(2.0)) ** 2
        complete = distance + aspect**2 / (0.5 + aspect)
    found = [loss(tf.constant([box]), tf.constant([UNIT]))[0] for loss in dict.fromkeys(IOU_LOSSES.values())]
    np.testing.assert_allclose(found, [generalized, distance, complete], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", dict.fromkeys(IOU_LOSSES.values()))
@pytest.mark.parametrize("box, target", [([0.0] * 4, [0.0] * 4), ([0.0] * 4, UNIT), (UNIT, [0.0] * 4)])
def test_losses_of_empty_boxes_are_finite(loss, box, target):
    """Padding rows of RoIs are empty; a NaN times their weight of 0 would be NaN."""
    found, gradient = loss_and_gradient(lambda boxes: loss(boxes, tf.constant([target])), [box])
    assert np.all(np.isfinite(found)) and np.all(np.isfinite(gradient))


def test_losses_of_boxes_see_what_the_deltas_mean():
    def decode(deltas, anchors):
        return anchors + deltas

    loss = losses.DecodedBoxes(losses.generalized_iou_loss, decode)
    half = tf.constant([[[0.0, 0.0, -0.5, 0.0]]])
    np.testing.assert_allclose(loss(half, tf.zeros([1, 1, 4]), tf.constant([[UNIT]])), [[0.5]], rtol=1e-5)


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


@pytest.mark.parametrize("gamma", [0, 1.5, 2])
@pytest.mark.parametrize("alpha", [0.25, -1])
def test_focal_loss_agrees_with_the_pytorch_libraries(golden_dir, alpha, gamma):
    golden = np.load(golden_dir / "pytorch" / "focal_loss.npz")
    found, gradient = loss_and_gradient(
        lambda logits: losses.sigmoid_focal_loss(
            logits, golden["targets"][:, None], gamma=gamma, alpha=alpha if alpha >= 0 else None
        ),
        golden["logits"][:, None],
    )
    name = f"torchvision_alpha{alpha}_gamma{gamma}"
    np.testing.assert_allclose(found, golden[name], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient[:, 0], golden[f"{name}_grad"], rtol=1e-4, atol=1e-5)


def test_softmax_against_logits_compares_two_softmaxes():
    logits, targets = tf.constant([[0.0, 2 * LN2]]), tf.constant([[2 * LN3, 0.0]])  # 1/5, 4/5; 9/10, 1/10
    found = losses.softmax_cross_entropy_of_logits(logits, targets)
    np.testing.assert_allclose(found, [0.9 * np.log(5) + 0.1 * np.log(5 / 4)], rtol=1e-6)
    scaled = losses.softmax_cross_entropy_of_logits(logits, targets, logit_scale=2.0)  # 1/3, 2/3; 3/4, 1/4
    np.testing.assert_allclose(scaled, [0.75 * np.log(3) + 0.25 * np.log(3 / 2)], rtol=1e-6)
