"""The losses of all anchors, worked by hand: two images of three anchors, one class."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.modeling import loss_normalization
from object_detection_fpn.modeling.heads import dense
from object_detection_fpn.ops import losses
from object_detection_fpn.ops.matching import BACKGROUND, IGNORED
from object_detection_fpn.records import DenseOutputs, Targets

ENTROPY = math.log(2.0)  # of a logit of 0, whatever its target

OUTPUTS = DenseOutputs(class_logits=tf.zeros([2, 3, 1]), box_deltas=tf.zeros([2, 3, 4]), anchors=tf.zeros([3, 4]))

# Image 0 has two objects whose boxes are 1 and 2 off, and background; image 1 an object whose box is 4 off, background, and an
# anchor that is neither.
TARGETS = Targets(
    matches=tf.constant([[0, 1, BACKGROUND], [0, BACKGROUND, IGNORED]]),
    classes=tf.constant([[1, 1, 0], [1, 0, 0]]),
    class_weights=tf.constant([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]),
    box_deltas=tf.constant([[[1.0, 0, 0, 0], [0, 2.0, 0, 0], [9.0] * 4], [[1.0] * 4, [9.0] * 4, [9.0] * 4]]),
    box_weights=tf.constant([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]),
)
WITHOUT_OBJECTS = TARGETS._replace(
    matches=tf.constant([[0, 1, BACKGROUND], [BACKGROUND, BACKGROUND, IGNORED]]),
    classes=tf.constant([[1, 1, 0], [0, 0, 0]]),
    box_weights=tf.constant([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]),
)


def compute(normalization, targets=TARGETS, *, outputs=OUTPUTS, is_batch=True, average=None, **settings):
    """The localization and the classification loss of each image."""
    loss = dense.DenseLoss(
        localization_loss=losses.L1(),
        classification_loss=losses.sigmoid_cross_entropy,
        normalization=normalization,
        **{"has_background": False, **settings},
    )
    of_images = loss(outputs, targets, is_batch=is_batch, average=average)
    return of_images[dense.LOCALIZATION_LOSS].numpy(), of_images[dense.CLASSIFICATION_LOSS].numpy()


def mean(normalization, targets=TARGETS, **settings):
    """The two losses of the batch, the second in multiples of `ENTROPY`."""
    localization, classification = compute(normalization, targets, **settings)
    return localization.mean(), classification.mean() / ENTROPY


@pytest.mark.parametrize(
    "normalization, localization, classification",
    [
        ("NUM_MATCHES", (1 + 2 + 4) / 3, (3 + 2) / 3),  # three matches in the batch
        ("PER_IMAGE", (3 / 2 + 4 / 1) / 2, (3 / 2 + 2 / 1) / 2),
        ("NONE", 1 + 2 + 4, 3 + 2),
    ],
)
def test_sums_of_losses_are_divided_by_matches(normalization, localization, classification):
    np.testing.assert_allclose(mean(normalization), [localization, classification], rtol=1e-6)


def test_an_image_without_objects_is_divided_by_one():
    np.testing.assert_allclose(mean("PER_IMAGE", WITHOUT_OBJECTS), [3 / 2 / 2, (3 / 2 + 2 / 1) / 2], rtol=1e-6)
    np.testing.assert_allclose(mean("NUM_MATCHES", WITHOUT_OBJECTS), [3 / 2, (3 + 2) / 2], rtol=1e-6)


def test_the_average_of_matches_keeps_nine_tenths_in_each_step():
    average = tf.Variable(loss_normalization.FIRST_AVERAGE)
    for expected in (0.9 * 100 + 0.1 * 3, 0.9 * 90.3 + 0.1 * 3):
        found = mean("MOVING_AVERAGE", average=average)
        np.testing.assert_allclose(found, [7 / expected, 5 / expected], rtol=1e-6)
        np.testing.assert_allclose(average, expected, rtol=1e-6)
    # A batch without objects counts as one match.
    empty = TARGETS._replace(matches=tf.fill([2, 3], BACKGROUND), box_weights=tf.zeros([2, 3]))
    mean("MOVING_AVERAGE", empty, average=average)
    np.testing.assert_allclose(average, 0.9 * 81.57 + 0.1 * 1, rtol=1e-6)


def test_images_that_do_not_train_together_count_alone_and_leave_the_average():
    localization, classification = compute("NUM_MATCHES", is_batch=False)
    np.testing.assert_allclose(localization, [3 / 2, 4 / 1])
    np.testing.assert_allclose(classification, [3 * ENTROPY / 2, 2 * ENTROPY / 1], rtol=1e-6)
    average = tf.Variable(50.0)
    localization, _ = compute("MOVING_AVERAGE", is_batch=False, average=average)
    np.testing.assert_allclose(localization, [3 / 50, 4 / 50], rtol=1e-6)
    assert float(average) == 50.0


def test_an_average_needs_its_variable():
    with pytest.raises(ValueError, match="MOVING_AVERAGE needs average"):
        compute("MOVING_AVERAGE")


def test_factors_multiply_their_loss():
    localization, classification = mean("NONE", localization_weight=3.0, classification_weight=0.5, code_size=4.0)
    np.testing.assert_allclose([localization, classification], [3 * 7 / 4, 5 / 2], rtol=1e-6)
    # Two anchors are background.
    np.testing.assert_allclose(mean("NONE", background_weight=0.25)[1], 3 + 2 / 4, rtol=1e-6)


@pytest.mark.parametrize(
    "has_background, background_is_zero, targets",
    [
        (False, True, [[1.0], [1.0], [0.0]]),
        (True, True, [[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]]),
        (True, False, [[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]),
    ],
)
def test_background_has_a_column_and_a_target_of_its_own_if_asked_for(has_background, background_is_zero, targets):
    """Logits of 5 cost log(1 + e^-5) where the target is 1, and 5 more where it is 0."""
    targets = np.array(targets)
    outputs = OUTPUTS._replace(class_logits=tf.fill([2, *targets.shape], 5.0))
    _, classification = compute(
        "NONE",
        outputs=outputs,
        is_batch=False,
        has_background=has_background,
        background_is_zero=background_is_zero,
    )
    expected = targets.size * math.log1p(math.exp(-5.0)) + 5.0 * np.sum(targets == 0.0)
    np.testing.assert_allclose(classification[0], expected, rtol=1e-6)
