"""The losses of both heads and hard example mining, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.modeling import hard_examples
from object_detection_fpn.modeling.heads import box, rpn
from object_detection_fpn.ops import box_coder, losses
from object_detection_fpn.ops import boxes as box_ops
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


RPN_ANCHORS = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def rpn_loss(
    loss=rpn.RpnLoss(), is_sampled=((True, True, True), (True, False, False)), num_logits=2, is_batch=True, **kwargs
):
    """Image 0: an object off by (1, 0, 0, 2), two background anchors; image 1: an object that is right, two padding rows."""
    targets = make_targets([[1, 0, 0], [1, 1, 0]], **kwargs)
    logits = tf.constant([[[0.0, LN2]] * 3, [[0.0, 0.0]] * 3])[..., 2 - num_logits :]  # object 2/3; 1/2
    deltas = tf.constant([[[1.0, 0, 0, 2]] * 3, [[0.0] * 4, [9.0] * 4, [9.0] * 4]])
    values = loss(logits, deltas, targets, tf.constant(is_sampled), anchors=tf.constant(RPN_ANCHORS), is_batch=is_batch)
    assert list(values) == ["Loss/RPNLoss/localization_loss", "Loss/RPNLoss/objectness_loss"]
    assert all(value.shape == [2] for value in values.values())
    return [float(tf.reduce_mean(value)) for value in values.values()]


OBJECTNESS = ((np.log(3 / 2) + 2 * LN3) / 3 + LN2) / 2
LOCALIZATION = ((0.5 + 1.5) / 3 + 0.0) / 2


def test_rpn_losses_are_means_over_images_of_sums_over_samples():
    np.testing.assert_allclose(rpn_loss(), [LOCALIZATION, OBJECTNESS], rtol=1e-6)


def test_one_logit_costs_what_two_of_the_same_difference_cost():
    np.testing.assert_allclose(rpn_loss(num_logits=1), [LOCALIZATION, OBJECTNESS], rtol=1e-6)


@pytest.mark.parametrize(
    "normalization, is_batch, localization, objectness",
    [
        ("PER_IMAGE", True, LOCALIZATION, OBJECTNESS),
        ("BATCH", True, 2 / 4, (np.log(3 / 2) + 2 * LN3 + LN2) / 4),  # four samples
        ("BATCH", False, LOCALIZATION, OBJECTNESS),
        ("CONFIGURED", True, 2 / 16, (np.log(3 / 2) + 2 * LN3 + LN2) / 16),
        ("CONFIGURED", False, 2 / 16, (np.log(3 / 2) + 2 * LN3 + LN2) / 16),
    ],
)
def test_rpn_losses_are_divided_by_a_number_of_samples(normalization, is_batch, localization, objectness):
    loss = rpn.RpnLoss(normalization=normalization, num_configured=8)
    np.testing.assert_allclose(rpn_loss(loss, is_batch=is_batch), [localization, objectness], rtol=1e-6)
    assert np.all(np.isfinite(rpn_loss(loss, is_sampled=[[False] * 3] * 2, is_batch=is_batch)))


def test_the_rpn_box_loss_sees_deltas_targets_and_anchors():
    def localization_loss(deltas, targets, anchors):
        np.testing.assert_array_equal(anchors, RPN_ANCHORS)
        return tf.reduce_sum(tf.abs(deltas - targets), axis=-1)

    expected = [3.0 / 3 / 2, OBJECTNESS]
    np.testing.assert_allclose(rpn_loss(rpn.RpnLoss(localization_loss=localization_loss)), expected, rtol=1e-6)


def test_rpn_losses_have_weights():
    weighted = rpn.RpnLoss(localization_weight=2.0, objectness_weight=0.5)
    np.testing.assert_allclose(rpn_loss(weighted), [2 * LOCALIZATION, 0.5 * OBJECTNESS], rtol=1e-6)


def test_rpn_boxes_of_groundtruth_of_half_weight_count_half():
    values = rpn_loss(box_weights=[[0.5, 0, 0], [0.5, 1, 0]])
    np.testing.assert_allclose(values, [LOCALIZATION / 2, OBJECTNESS], rtol=1e-6)


def test_an_image_without_sampled_anchors_adds_nothing():
    image = (np.log(3 / 2) + 2 * LN3) / 3 / 2
    values = rpn_loss(is_sampled=[[True] * 3, [False] * 3])
    np.testing.assert_allclose(values, [LOCALIZATION, image], rtol=1e-6)
    assert rpn_loss(is_sampled=[[False] * 3] * 2) == [0.0, 0.0]


def box_loss(loss=box.BoxLoss(), num_rois=(2, 1), deltas=None, classes=((2, 0), (1, 0)), is_batch=True, **kwargs):
    """Two classes. Image 0: class 1 (target 2) off by (1, 0, 0, 2), and background; image 1: class 0 off by 0.5; padding."""
    kwargs = {"class_weights": [[1, 1], [1, 0]], **kwargs}
    logits = tf.constant([[[0.0, 0.0, LN2]] * 2, [[0.0, 0.0, 0.0]] * 2])
    if deltas is None:
        deltas = np.full([2, 2, 2, 4], 7.0)  # what other classes say does not matter
        deltas[0, 0, 1], deltas[1, 0, 0] = [1, 0, 0, 2], [0, 0.5, 0, 0]
    values = loss(
        logits, tf.constant(deltas, tf.float32), make_targets(classes, **kwargs), make_rois(num_rois), is_batch=is_batch
    )
    assert list(values) == ["Loss/BoxClassifierLoss/localization_loss", "Loss/BoxClassifierLoss/classification_loss"]
    assert all(value.shape == [2] for value in values.values())
    return [float(tf.reduce_mean(value)) for value in values.values()]


BOX_LOCALIZATION = ((0.5 + 1.5) / 2 + 0.125) / 2
CLASSIFICATION = ((LN2 + 2 * LN2) / 2 + LN3) / 2


def test_box_losses_are_means_over_images_of_sums_over_rois_and_see_the_box_of_the_class():
    np.testing.assert_allclose(box_loss(), [BOX_LOCALIZATION, CLASSIFICATION], rtol=1e-6)


def test_box_losses_have_weights():
    weighted = box.BoxLoss(localization_weight=3.0, classification_weight=0.25)
    np.testing.assert_allclose(box_loss(weighted), [3 * BOX_LOCALIZATION, 0.25 * CLASSIFICATION], rtol=1e-6)


def test_a_box_shared_by_all_classes():
    deltas = np.full([2, 2, 1, 4], 7.0)
    deltas[0, 0], deltas[1, 0] = [1, 0, 0, 2], [0, 0.5, 0, 0]
    np.testing.assert_allclose(box_loss(deltas=deltas), [BOX_LOCALIZATION, CLASSIFICATION], rtol=1e-6)


def test_a_single_class_with_a_box_of_its_own_is_a_shared_box():
    logits, deltas = tf.zeros([1, 2, 2]), tf.constant([[[[1.0, 0, 0, 2]], [[7.0] * 4]]])
    values = box.BoxLoss()(logits, deltas, make_targets([[1, 0]]), make_rois([2]), is_batch=True)
    np.testing.assert_allclose([float(v[0]) for v in values.values()], [1.0, LN2], rtol=1e-6)


def test_zero_weights_give_zero():
    assert box_loss(class_weights=np.zeros([2, 2]), box_weights=np.zeros([2, 2])) == [0.0, 0.0]


def test_an_image_without_rois_adds_nothing():
    none = {"class_weights": np.zeros([2, 2]), "box_weights": np.zeros([2, 2])}
    assert box_loss(num_rois=(0, 0), **none) == [0.0, 0.0]


def test_another_classification_loss_can_be_given():
    loss = box.BoxLoss(classification_loss=lambda logits, targets: tf.reduce_sum(targets * [10.0, 20.0, 30.0], axis=-1))
    assert box_loss(loss)[1] == ((30 + 10) / 2 + 20) / 2


def test_the_gradient_touches_the_box_of_the_class_alone():
    deltas = tf.Variable(np.full([1, 2, 3, 4], 2.0), dtype=tf.float32)
    with tf.GradientTape() as tape:
        values = box.BoxLoss()(tf.zeros([1, 2, 4]), deltas, make_targets([[2, 0]]), make_rois([2]), is_batch=True)
        loss = tf.reduce_mean(values[box.LOCALIZATION_LOSS])
    expected = np.zeros([1, 2, 3, 4])
    expected[0, 0, 1] = 0.5
    np.testing.assert_array_equal(tape.gradient(loss, deltas), expected)


def test_soft_targets_take_the_place_of_the_class():
    soft = np.zeros([2, 2, 3], np.float32)
    soft[..., 0] = 1.0
    soft[0, 0] = [0.0, 0.25, 0.75]
    targets = make_targets([[2, 0], [0, 0]], class_weights=[[1, 1], [0, 0]])
    logits = tf.constant([[[0.0, 0.0, LN2]] * 2] * 2)  # 1/4, 1/4, 1/2
    values = box.BoxLoss()(
        logits,
        tf.zeros([2, 2, 2, 4]),
        targets._replace(class_targets=tf.constant(soft)),
        make_rois([2, 0]),
        is_batch=True,
    )
    expected = (0.25 * 2 * LN2 + 0.75 * LN2 + 2 * LN2) / 2
    np.testing.assert_allclose(values[box.CLASSIFICATION_LOSS], [expected, 0.0], rtol=1e-6)


@pytest.mark.parametrize(
    "normalization, is_batch, localization, classification",
    [
        ("PER_IMAGE", True, BOX_LOCALIZATION, CLASSIFICATION),
        ("BATCH", True, (0.5 + 1.5 + 0.125) / 3, (LN2 + 2 * LN2 + LN3) / 3),
        ("BATCH", False, BOX_LOCALIZATION, CLASSIFICATION),
        ("CONFIGURED", True, (0.5 + 1.5 + 0.125) / 8 / 2, (LN2 + 2 * LN2 + LN3) / 8 / 2),
        ("CONFIGURED", False, (0.5 + 1.5 + 0.125) / 8 / 2, (LN2 + 2 * LN2 + LN3) / 8 / 2),
    ],
)
def test_losses_of_rois_are_normalized(normalization, is_batch, localization, classification):
    """Image 0 has two RoIs and image 1 one."""
    loss = box.BoxLoss(normalization=normalization, num_configured=8)
    np.testing.assert_allclose(box_loss(loss, is_batch=is_batch), [localization, classification], rtol=1e-6)


@pytest.mark.parametrize("normalization", ["PER_IMAGE", "BATCH", "CONFIGURED"])
def test_a_batch_without_rois_adds_nothing(normalization):
    none = {"class_weights": np.zeros([2, 2]), "box_weights": np.zeros([2, 2])}
    assert box_loss(box.BoxLoss(normalization=normalization), num_rois=(0, 0), **none) == [0.0, 0.0]


@pytest.mark.parametrize(
    "loss", [losses.softmax_cross_entropy, losses.sigmoid_cross_entropy, losses.sigmoid_focal_loss]
)
def test_class_weights_multiply_the_loss_of_rois_of_their_class(loss):
    def of_one(logits, row):
        return float(loss(tf.constant([logits]), tf.one_hot([row], 3))[0])

    found = box_loss(box.BoxLoss(classification_loss=loss, class_weights=(0.5, 2.0, 3.0)))
    expected = (3 * of_one([0, 0, LN2], 2) + 0.5 * of_one([0, 0, LN2], 0)) / 2 + 2 * of_one([0, 0, 0.0], 1)
    np.testing.assert_allclose(found, [BOX_LOCALIZATION, expected / 2], rtol=1e-6)


@pytest.mark.parametrize(
    "loss", [losses.softmax_cross_entropy, losses.sigmoid_cross_entropy, losses.sigmoid_focal_loss]
)
def test_label_smoothing_spreads_a_share_of_each_target_over_all_classes(loss):
    def of_one(logits, targets):
        return float(loss(tf.constant([logits]), tf.constant([targets]))[0])

    found = box_loss(box.BoxLoss(classification_loss=loss, label_smoothing=0.3))
    first = of_one([0, 0, LN2], [0.1, 0.1, 0.8]) + of_one([0, 0, LN2], [0.8, 0.1, 0.1])
    np.testing.assert_allclose(found[1], (first / 2 + of_one([0, 0, 0.0], [0.1, 0.8, 0.1])) / 2, rtol=1e-6)


def test_the_localization_loss_sees_deltas_targets_and_rois():
    seen = []

    def loss(deltas, targets, anchors):
        seen.extend((deltas, targets, anchors))
        return tf.constant([[4.0, 100.0], [8.0, 100.0]])  # of what is no object

    assert box_loss(box.BoxLoss(localization_loss=loss))[0] == (4 / 2 + 8) / 2
    np.testing.assert_array_equal(seen[0], [[[1, 0, 0, 2], [0] * 4], [[0, 0.5, 0, 0], [0] * 4]])
    assert [value.shape for value in seen] == [(2, 2, 4)] * 3


@pytest.mark.parametrize("of_boxes", [losses.generalized_iou_loss, losses.distance_iou_loss, losses.complete_iou_loss])
def test_losses_of_boxes_train_and_padding_rows_have_no_gradient(of_boxes):
    """An object whose box is right, one whose is too small, background, and a padding row whose RoI is empty."""
    rois = make_rois([3], [[[0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 9, 9], [0, 0, 0, 0]]])
    targets = make_targets([[1, 1, 0, 0]], class_weights=[[1, 1, 1, 0]])
    deltas = tf.constant([[[[0.0] * 4], [[0.0, 0, -1, -1]], [[1.0] * 4], [[1.0] * 4]]])
    loss = box.BoxLoss(localization_loss=losses.DecodedBoxes(of_boxes, box_coder.decode))
    with tf.GradientTape() as tape:
        tape.watch(deltas)
        value = loss(tf.zeros([1, 4, 2]), deltas, targets, rois, is_batch=True)[box.LOCALIZATION_LOSS]
    np.testing.assert_allclose(value, [(1 - np.exp(-0.4)) / 3], rtol=1e-5)  # the same aspect, the same centre
    gradient = tape.gradient(value, deltas)
    np.testing.assert_allclose(gradient[0, 0], np.zeros([1, 4]), atol=1e-6)
    assert np.all(gradient[0, 1, 0, 2:] < 0)
    np.testing.assert_array_equal(gradient[0, 2:], np.zeros([2, 1, 4]))


@pytest.mark.parametrize(
    "library, background, localization_loss",
    [("torchvision", 0, losses.SmoothL1(delta=1 / 9, factor=9.0)), ("detectron2", 5, losses.L1())],
)
def test_losses_of_rois_agree_with_the_pytorch_libraries(golden_dir, library, background, localization_loss):
    """One batch of two images with 406 RoIs each, of which few are objects."""
    golden = np.load(golden_dir / "pytorch" / f"box_losses_{library}.npz")
    labels = np.stack([golden[f"roi_labels{i}"] for i in range(2)])
    logits = golden["class_logits"].reshape(2, 406, -1)
    deltas = golden["box_deltas"].reshape(2, 406, -1, 4)[..., [1, 0, 3, 2]]  # from (x, y, w, h)
    if background:  # last, and without a box
        logits, labels = np.roll(logits, 1, axis=-1), (labels + 1) % (background + 1)
    else:
        deltas = deltas[:, :, 1:]
    wanted = np.zeros([2, 406, 4], np.float32)
    for i in range(2):
        wanted[i, golden[f"roi_positive{i}"]] = golden[f"roi_positive_targets{i}"][:, [1, 0, 3, 2]]
    loss = box.BoxLoss(localization_loss=localization_loss, normalization="BATCH")
    rois = make_rois([406, 406], np.zeros([2, 406, 4]))
    values = loss(tf.constant(logits), tf.constant(deltas), make_targets(labels, deltas=wanted), rois, is_batch=True)
    found = [float(tf.reduce_mean(values[name])) for name in (box.CLASSIFICATION_LOSS, box.LOCALIZATION_LOSS)]
    np.testing.assert_allclose(found, golden["losses"], rtol=1e-5)


@pytest.mark.parametrize("with_miner", [False, True])
def test_the_losses_of_rois_compile(with_miner):
    random = np.random.RandomState(0)
    corners = random.uniform(0, 50, [2, 6, 2])
    rois = make_rois([6, 4], np.concatenate([corners, corners + random.uniform(5, 30, [2, 6, 2])], axis=-1))
    classes = [[1, 2, 0, 0, 1, 0], [2, 0, 0, 1, 0, 0]]
    targets = make_targets(
        classes,
        class_weights=[[1] * 6, [1] * 4 + [0] * 2],
        deltas=random.normal(size=[2, 6, 4]) * (np.array(classes) > 0)[..., None],
    )
    loss = box.BoxLoss(
        localization_loss=losses.DecodedBoxes(losses.complete_iou_loss, box_coder.decode),
        normalization="BATCH",
        class_weights=(0.5, 1.0, 2.0),
        label_smoothing=0.1,
        miner=hard_examples.HardExampleMiner(num_examples=3, static=True) if with_miner else None,
    )

    def values_and_gradients(logits, deltas):
        with tf.GradientTape() as tape:
            tape.watch((logits, deltas))
            values = loss(logits, deltas, targets, rois, is_batch=True)
            total = tf.add_n(list(values.values()))
        return [*values.values(), *tape.gradient(total, (logits, deltas))]

    inputs = [tf.constant(random.normal(size=shape), tf.float32) for shape in ([2, 6, 3], [2, 6, 2, 4])]
    compiled = tf.function(values_and_gradients, jit_compile=True, autograph=False)(*inputs)
    for found, expected in zip(compiled, values_and_gradients(*inputs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        assert np.any(expected)


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


@pytest.mark.parametrize("static", [False, True])
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
def test_the_miner_agrees_with_plain_loops_on_every_image(static, settings):
    random = np.random.RandomState(0)
    corners = random.randint(0, 12, [3, 20, 2])
    boxes = np.concatenate([corners, corners + random.randint(4, 12, [3, 20, 2])], -1).astype(np.float32)
    localization, classification = random.exponential(size=[2, 3, 20]).astype(np.float32)
    matches = random.choice([-2, -1, -1, 0, 1], [3, 20])
    num_rois = [20, 9, 0]
    miner = hard_examples.HardExampleMiner(static=static, **settings)
    targets = make_targets(np.maximum(matches, -1) + 1)._replace(matches=tf.constant(matches, tf.int32))
    found = miner(tf.constant(localization), tf.constant(classification), targets, make_rois(num_rois, boxes))
    loss = miner.localization_weight * localization + miner.classification_weight * classification
    names = ("num_examples", "iou_threshold", "max_negatives_per_positive", "min_negatives")
    values = {name: getattr(miner, name) for name in names}
    for i, num_real in enumerate(num_rois):
        expected = reference_mining(boxes[i], loss[i], matches[i], num_real, **values)
        np.testing.assert_array_equal(found[i], expected)


def test_mined_losses_are_sums_over_hard_rois_divided_by_all_rois():
    """Image 0: two RoIs far apart, the first one harder; image 1: one RoI."""
    boxes = [[[0, 0, 10, 10], [50, 50, 60, 60]], [[0, 0, 10, 10], [0, 0, 0, 0]]]
    deltas = np.full([2, 2, 2, 4], 7.0)
    deltas[0, 0, 1], deltas[1, 0, 0] = [1, 0, 0, 2], [0, 0.5, 0, 0]
    logits = tf.constant([[[0.0, 0.0, LN2]] * 2, [[0.0, 0.0, 0.0]] * 2])
    loss = box.BoxLoss(miner=hard_examples.HardExampleMiner(num_examples=1), localization_weight=2.0)
    targets = make_targets([[2, 0], [1, 0]], class_weights=[[1, 1], [1, 0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        values = loss(logits, tf.constant(deltas, tf.float32), targets, make_rois([2, 1], boxes), is_batch=True)
    # By both losses, 2 + ln 2 against 2 ln 2, the first RoI of image 0 is the hard one.
    np.testing.assert_allclose(values[box.LOCALIZATION_LOSS], [2 * 2.0 / 2, 2 * 0.125], rtol=1e-6)
    np.testing.assert_allclose(values[box.CLASSIFICATION_LOSS], [LN2 / 2, LN3], rtol=1e-6)
    gradient = tape.gradient(values[box.CLASSIFICATION_LOSS], logits)
    assert np.any(gradient[0, 0] != 0) and not np.any(gradient[0, 1])


def test_class_weights_decide_which_rois_are_hard():
    """Two RoIs far apart, of which the background one is easier, and counts tenfold."""
    boxes, logits = [[[0, 0, 10, 10], [50, 50, 60, 60]]], tf.constant([[[0.0, 0.0], [LN3, 0.0]]])
    for weights, expected in (((), LN2 / 2), ((10.0, 1.0), 10 * np.log(4 / 3) / 2)):
        loss = box.BoxLoss(miner=hard_examples.HardExampleMiner(num_examples=1), class_weights=weights)
        values = loss(logits, tf.zeros([1, 2, 1, 4]), make_targets([[1, 0]]), make_rois([2], boxes), is_batch=True)
        np.testing.assert_allclose(values[box.CLASSIFICATION_LOSS], [expected], rtol=1e-6)
