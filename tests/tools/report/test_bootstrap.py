"""Weighted images and intervals."""

from __future__ import annotations

import numpy as np
import pytest

from object_detection_fpn.evaluation.metric import clean_image
from object_detection_fpn.tools.report.bootstrap import class_aps, compare_metrics, draw_images
from object_detection_fpn.tools.report.curves import precisions
from object_detection_fpn.tools.report.matching import THRESHOLDS, gather, match_image

SQUARE = [0, 0, 10, 10]


def gathered(images, num_classes=3):
    cleaned = [clean_image(*image, set(range(1, num_classes + 1)))[:2] for image in images]
    return gather([match_image(*image) for image in cleaned], num_classes=num_classes)


@pytest.mark.parametrize("seed", range(3))
def test_each_image_once_gives_the_metrics_as_they_are(random_images, seed):
    matches = gathered(random_images(seed, 12))
    found = class_aps(matches, np.ones((1, 12), int))[0]
    expected = np.stack([precisions(matches, row).mean(axis=1) for row in range(len(THRESHOLDS))], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_an_image_without_weight_is_not_there(random_images):
    images = random_images(0, 8)
    matches = gathered(images)
    weights = np.array([[1, 1, 0, 1, 0, 1, 1, 1]])
    alone = gathered([image for image, weight in zip(images, weights[0], strict=True) if weight])
    np.testing.assert_allclose(class_aps(matches, weights), class_aps(alone, np.ones((1, 6), int)), atol=1e-12)


def test_an_image_that_is_drawn_twice_counts_twice(make_image):
    # Half of the objects are found; with the image of the found one twice, two of three: recalls 0 to 0.66.
    matches = gathered([make_image([SQUARE], [SQUARE]), make_image([SQUARE], [])], num_classes=1)
    found = class_aps(matches, np.array([[1, 1], [2, 1], [0, 1]]))
    assert found[:, 0, 0] == pytest.approx([51 / 101, 67 / 101, 0.0])


def test_samples_are_as_large_as_the_data_and_follow_the_seed():
    first = draw_images(20, num_samples=50, seed=3)
    assert (first.sum(axis=1) == 20).all()
    np.testing.assert_array_equal(first, draw_images(20, num_samples=50, seed=3))
    assert not np.array_equal(first, draw_images(20, num_samples=50, seed=4))


def test_a_model_does_not_differ_from_itself(random_images):
    matches = gathered(random_images(1, 12))
    of_metrics, of_classes = compare_metrics(matches, matches, num_samples=40, seed=0)
    for compared in (*of_metrics.values(), *of_classes.values()):
        assert compared.difference == pytest.approx((0, 0, 0))
        assert not compared.is_clear
        assert compared.a == compared.b
    assert of_metrics["AP50"].a.low < of_metrics["AP50"].a.value < of_metrics["AP50"].a.high


def test_finding_all_is_clearly_better_than_finding_half(make_image):
    half = gathered([make_image([SQUARE], [SQUARE] * (i % 2)) for i in range(30)], num_classes=1)
    whole = gathered([make_image([SQUARE], [SQUARE])] * 30, num_classes=1)
    of_metrics, of_classes = compare_metrics(half, whole, num_samples=100, seed=0)
    found = of_metrics["AP"]
    assert found.b == pytest.approx((1, 1, 1))
    assert found.difference.value == pytest.approx(1 - found.a.value)
    assert 0 < found.difference.low < found.difference.value < found.difference.high
    assert found.is_clear
    assert of_classes.keys() == {0}


def test_without_objects_nothing_is_defined(make_image):
    matches = gathered([make_image([], [SQUARE])], num_classes=1)
    of_metrics, of_classes = compare_metrics(matches, matches, num_samples=5, seed=0)
    assert of_metrics["AP"].difference == (None, None, None)
    assert not of_metrics["AP"].is_clear
    assert of_classes == {}


def test_intervals_are_as_wide_as_other_images_make_them(make_image):
    """Each image holds an object that is found or not: AP50 is a share, of which the deviation is known."""
    generator = np.random.default_rng(0)
    images = [make_image([SQUARE], [SQUARE] * int(found)) for found in generator.random(400) < 0.5]
    matches = gathered(images, num_classes=1)
    of_metrics, _ = compare_metrics(matches, matches, num_samples=2000, seed=0)
    found = of_metrics["AP50"].a
    deviation = np.sqrt(found.value * (1 - found.value) / 400)
    step = 0.01  # between the recalls at which AP is measured
    assert found.low == pytest.approx(found.value - 1.96 * deviation, abs=step)
    assert found.high == pytest.approx(found.value + 1.96 * deviation, abs=step)


def test_what_is_measured_lies_in_its_interval(random_images):
    matches = gathered(random_images(3, 12))
    of_metrics, of_classes = compare_metrics(matches, matches, num_samples=100, seed=0)
    for compared in (*of_metrics.values(), *of_classes.values()):
        assert 0 <= compared.a.low <= compared.a.value <= compared.a.high <= 1
