"""The losses, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops import losses
from object_detection_fpn.records import Proposals, Targets

LN2, LN3 = np.log(2.0), np.log(3.0)


def make_rois(num_rois, boxes=None):
    """Two RoIs an image unless `boxes` says more."""
    boxes = np.zeros([len(num_rois), 2, 4]) if boxes is None else np.asarray(boxes)
    return Proposals(tf.constant(boxes, tf.float32), tf.zeros(boxes.shape[:2]), tf.constant(num_rois))


def make_targets(classes, *, class_weights=None, box_weights=None, deltas=None):
    classes = np.asarray(classes, np.int32)
    ones = np.ones(classes.shape, np.float32)
    return Targets(
        classes=tf.constant(classes),
        class_weights=tf.constant(ones if class_weights is None else class_weights, tf.float32),
        box_deltas=tf.constant(np.zeros([*classes.shape, 4]) if deltas is None else deltas, tf.float32),
        box_weights=tf.constant((classes > 0) * ones if box_weights is None else box_weights, tf.float32),
        matches=tf.constant(classes - 1),
    )


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


def rpn_loss(loss=losses.RpnLoss(), is_sampled=((True, True, True), (True, False, False)), **kwargs):
    """Image 0: an object off by (1, 0, 0, 2), two background anchors; image 1: an object that is right, two padding rows."""
    targets = make_targets([[1, 0, 0], [1, 1, 0]], **kwargs)
    logits = tf.constant([[[0.0, LN2]] * 3, [[0.0, 0.0]] * 3])  # object 2/3; 1/2
    deltas = tf.constant([[[1.0, 0, 0, 2]] * 3, [[0.0] * 4, [9.0] * 4, [9.0] * 4]])
    values = loss(logits, deltas, targets, tf.constant(is_sampled))
    assert list(values) == ["Loss/RPNLoss/localization_loss", "Loss/RPNLoss/objectness_loss"]
    return [float(value) for value in values.values()]


OBJECTNESS = ((np.log(3 / 2) + 2 * LN3) / 3 + LN2) / 2
LOCALIZATION = ((0.5 + 1.5) / 3 + 0.0) / 2


def test_rpn_losses_are_means_over_images_of_sums_over_samples():
    np.testing.assert_allclose(rpn_loss(), [LOCALIZATION, OBJECTNESS], rtol=1e-6)


def test_rpn_losses_have_weights():
    weighted = losses.RpnLoss(localization_weight=2.0, objectness_weight=0.5)
    np.testing.assert_allclose(rpn_loss(weighted), [2 * LOCALIZATION, 0.5 * OBJECTNESS], rtol=1e-6)


def test_rpn_boxes_of_groundtruth_of_half_weight_count_half():
    values = rpn_loss(box_weights=[[0.5, 0, 0], [0.5, 1, 0]])
    np.testing.assert_allclose(values, [LOCALIZATION / 2, OBJECTNESS], rtol=1e-6)


def test_an_image_without_sampled_anchors_adds_nothing():
    image = (np.log(3 / 2) + 2 * LN3) / 3 / 2
    values = rpn_loss(is_sampled=[[True] * 3, [False] * 3])
    np.testing.assert_allclose(values, [LOCALIZATION, image], rtol=1e-6)
    assert rpn_loss(is_sampled=[[False] * 3] * 2) == [0.0, 0.0]


def box_loss(loss=losses.BoxLoss(), num_rois=(2, 1), deltas=None, classes=((2, 0), (1, 0)), **kwargs):
    """Two classes. Image 0: class 1 (target 2) off by (1, 0, 0, 2), and background; image 1: class 0 off by 0.5; padding."""
    kwargs = {"class_weights": [[1, 1], [1, 0]], **kwargs}
    logits = tf.constant([[[0.0, 0.0, LN2]] * 2, [[0.0, 0.0, 0.0]] * 2])
    if deltas is None:
        deltas = np.full([2, 2, 2, 4], 7.0)  # what other classes say does not matter
        deltas[0, 0, 1], deltas[1, 0, 0] = [1, 0, 0, 2], [0, 0.5, 0, 0]
    values = loss(logits, tf.constant(deltas, tf.float32), make_targets(classes, **kwargs), make_rois(num_rois))
    assert list(values) == ["Loss/BoxClassifierLoss/localization_loss", "Loss/BoxClassifierLoss/classification_loss"]
    return [float(value) for value in values.values()]


BOX_LOCALIZATION = ((0.5 + 1.5) / 2 + 0.125) / 2
CLASSIFICATION = ((LN2 + 2 * LN2) / 2 + LN3) / 2


def test_box_losses_are_means_over_images_of_sums_over_rois_and_see_the_box_of_the_class():
    np.testing.assert_allclose(box_loss(), [BOX_LOCALIZATION, CLASSIFICATION], rtol=1e-6)


def test_box_losses_have_weights():
    weighted = losses.BoxLoss(localization_weight=3.0, classification_weight=0.25)
    np.testing.assert_allclose(box_loss(weighted), [3 * BOX_LOCALIZATION, 0.25 * CLASSIFICATION], rtol=1e-6)


def test_a_box_shared_by_all_classes():
    deltas = np.full([2, 2, 1, 4], 7.0)
    deltas[0, 0], deltas[1, 0] = [1, 0, 0, 2], [0, 0.5, 0, 0]
    np.testing.assert_allclose(box_loss(deltas=deltas), [BOX_LOCALIZATION, CLASSIFICATION], rtol=1e-6)


def test_a_single_class_with_a_box_of_its_own_is_a_shared_box():
    logits, deltas = tf.zeros([1, 2, 2]), tf.constant([[[[1.0, 0, 0, 2]], [[7.0] * 4]]])
    values = losses.BoxLoss()(logits, deltas, make_targets([[1, 0]]), make_rois([2]))
    np.testing.assert_allclose([float(v) for v in values.values()], [1.0, LN2], rtol=1e-6)


def test_zero_weights_give_zero():
    assert box_loss(class_weights=np.zeros([2, 2]), box_weights=np.zeros([2, 2])) == [0.0, 0.0]


def test_an_image_without_rois_adds_nothing():
    none = {"class_weights": np.zeros([2, 2]), "box_weights": np.zeros([2, 2])}
    assert box_loss(num_rois=(0, 0), **none) == [0.0, 0.0]


def test_another_classification_loss_can_be_given():
    loss = losses.BoxLoss(
        classification_loss=lambda logits, targets: tf.reduce_sum(targets * [10.0, 20.0, 30.0], axis=-1)
    )
    assert box_loss(loss)[1] == ((30 + 10) / 2 + 20) / 2


def test_the_gradient_touches_the_box_of_the_class_alone():
    deltas = tf.Variable(np.full([1, 2, 3, 4], 2.0), dtype=tf.float32)
    with tf.GradientTape() as tape:
        values = losses.BoxLoss()(tf.zeros([1, 2, 4]), deltas, make_targets([[2, 0]]), make_rois([2]))
        loss = values[losses.BOX_LOCALIZATION]
    expected = np.zeros([1, 2, 3, 4])
    expected[0, 0, 1] = 0.5
    np.testing.assert_array_equal(tape.gradient(loss, deltas), expected)


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


def test_soft_targets_take_the_place_of_the_class():
    soft = np.zeros([2, 2, 3], np.float32)
    soft[..., 0] = 1.0
    soft[0, 0] = [0.0, 0.25, 0.75]
    targets = make_targets([[2, 0], [0, 0]], class_weights=[[1, 1], [0, 0]])
    logits = tf.constant([[[0.0, 0.0, LN2]] * 2] * 2)  # 1/4, 1/4, 1/2
    values = losses.BoxLoss()(
        logits, tf.zeros([2, 2, 2, 4]), targets._replace(class_targets=tf.constant(soft)), make_rois([2, 0])
    )
    expected = (0.25 * 2 * LN2 + 0.75 * LN2 + 2 * LN2) / 2 / 2
    np.testing.assert_allclose(values[losses.BOX_CLASSIFICATION], expected, rtol=1e-6)


# Hard examples --------------------------------------------------------------------------------------------------------


def reference_mining(
    boxes, loss, matches, num_real, *, num_examples, iou_threshold, max_negatives_per_positive, min_negatives
):
    """One image, in plain loops: greedy suppression by loss, then the limit of negatives."""
    order = sorted(range(num_real), key=lambda row: (-loss[row], row))
    kept = []
    for row in order:
        overlaps = [float(box_ops.pairwise_iou(boxes[None, row], boxes[None, other])[0, 0]) for other in kept]
        if len(kept) < (num_examples or num_real) and all(overlap <= np.float32(iou_threshold) for overlap in overlaps):
            kept.append(row)
    if max_negatives_per_positive is not None:
        positives = [row for row in kept if matches[row] >= 0]
        limit = max(min_negatives, int(max_negatives_per_positive * len(positives)))
        kept = positives + [row for row in kept if matches[row] == -1][:limit]
    return np.isin(np.arange(len(boxes)), kept).astype(np.float32)


@pytest.mark.parametrize("implementation", ["native", "xla"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_examples": 5},
        {"num_examples": None, "iou_threshold": 0.3},
        {"iou_threshold": 1.0, "max_negatives_per_positive": 1.0},
        {"num_examples": 12, "max_negatives_per_positive": 0.5, "min_negatives": 3},
        {"localization_weight": 0.0},
        {"classification_weight": 0.0},
    ],
)
def test_the_miner_agrees_with_plain_loops_on_every_image(implementation, settings):
    random = np.random.RandomState(0)
    corners = random.randint(0, 12, [3, 20, 2])
    boxes = np.concatenate([corners, corners + random.randint(4, 12, [3, 20, 2])], -1).astype(np.float32)
    localization, classification = random.exponential(size=[2, 3, 20]).astype(np.float32)
    matches = random.choice([-2, -1, -1, 0, 1], [3, 20])
    num_rois = [20, 9, 0]
    miner = losses.HardExampleMiner(implementation=implementation, **settings)
    targets = make_targets(np.maximum(matches, -1) + 1)._replace(matches=tf.constant(matches, tf.int32))
    found = miner(tf.constant(localization), tf.constant(classification), targets, make_rois(num_rois, boxes))
    loss = miner.localization_weight * localization + miner.classification_weight * classification
    names = ("num_examples", "iou_threshold", "max_negatives_per_positive", "min_negatives")
    values = {name: getattr(miner, name) for name in names}
    for i, num_real in enumerate(num_rois):
        expected = reference_mining(boxes[i], loss[i], matches[i], num_real, **values)
        np.testing.assert_array_equal(found[i], expected)


@pytest.mark.parametrize(
    "weight, min_negatives, expected", [(1.0, 0, [1, 1, 0]), (0.0, 0, [0, 0, 0]), (0.0, 1, [0, 1, 0])]
)
def test_an_object_without_weight_allows_no_background(weight, min_negatives, expected):
    rois = make_rois([3], [[[0, 0, 10, 10], [50, 50, 60, 60], [0, 50, 10, 60]]])
    targets = make_targets([[1, 0, 0]], class_weights=[[weight, 1, 1]])
    miner = losses.HardExampleMiner(max_negatives_per_positive=1.0, min_negatives=min_negatives)
    is_hard = miner(tf.zeros([1, 3]), tf.constant([[3.0 * weight, 2.0, 1.0]]), targets, rois)
    np.testing.assert_array_equal(is_hard, [expected])


def test_mined_losses_are_sums_over_hard_rois_divided_by_all_rois():
    """Image 0: two RoIs far apart, the first one harder; image 1: one RoI."""
    boxes = [[[0, 0, 10, 10], [50, 50, 60, 60]], [[0, 0, 10, 10], [0, 0, 0, 0]]]
    deltas = np.full([2, 2, 2, 4], 7.0)
    deltas[0, 0, 1], deltas[1, 0, 0] = [1, 0, 0, 2], [0, 0.5, 0, 0]
    logits = tf.constant([[[0.0, 0.0, LN2]] * 2, [[0.0, 0.0, 0.0]] * 2])
    loss = losses.BoxLoss(miner=losses.HardExampleMiner(num_examples=1), localization_weight=2.0)
    targets = make_targets([[2, 0], [1, 0]], class_weights=[[1, 1], [1, 0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        values = loss(logits, tf.constant(deltas, tf.float32), targets, make_rois([2, 1], boxes))
    # By both losses, 2 + ln 2 against 2 ln 2, the first RoI of image 0 is the hard one.
    np.testing.assert_allclose(values[losses.BOX_LOCALIZATION], 2 * (2.0 / 2 + 0.125) / 2, rtol=1e-6)
    np.testing.assert_allclose(values[losses.BOX_CLASSIFICATION], (LN2 / 2 + LN3) / 2, rtol=1e-6)
    gradient = tape.gradient(values[losses.BOX_CLASSIFICATION], logits)
    assert np.any(gradient[0, 0] != 0) and not np.any(gradient[0, 1])
