"""`data/augment/colour.py`: values change as asked and stay in range; boxes and additional channels do not change."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.data.augment import colour

AUGMENTATIONS = {
    "brightness": colour.random_adjust_brightness,
    "contrast": colour.random_adjust_contrast,
    "hue": functools.partial(colour.random_adjust_hue, max_delta=0.3),
    "saturation": colour.random_adjust_saturation,
    "distort 0": colour.random_distort_color,
    "distort 1": functools.partial(colour.random_distort_color, color_ordering=1),
    "pixel value scale": colour.random_pixel_value_scale,
    "gray": functools.partial(colour.random_rgb_to_gray, probability=1.0),
}


@pytest.fixture(scope="module")
def example(draw_example):
    """Random colours, and a fourth channel that is no colour."""
    pixels = np.random.default_rng(0).integers(0, 256, [12, 10, 4], np.uint8)
    return draw_example([(2, 2, 8, 8)], 12, 10, channels=4)._replace(image=tf.constant(pixels))


def apply(augment, example, seed=(1, 2)):
    return augment(example, seed=tf.constant(seed))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_colours_change_within_their_range_and_nothing_else_does(example, name):
    after = apply(AUGMENTATIONS[name], example)
    image = after.image.numpy()
    assert image.dtype == np.float32
    assert image.min() >= 0 and image.max() <= 255
    assert not np.allclose(image[..., :3], example.image[..., :3], atol=0.5)
    np.testing.assert_array_equal(image[..., 3], example.image[..., 3])
    assert after.objects is example.objects


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_equal_seeds_give_equal_colours_and_others_do_not(example, name):
    first, again, other = (apply(AUGMENTATIONS[name], example, seed).image for seed in ((1, 2), (1, 2), (5, 6)))
    np.testing.assert_array_equal(first, again)
    if name != "gray":
        assert not np.allclose(first, other)


def uniform(value):
    return tf.zeros([4, 4, 3], tf.uint8) + tf.constant(value, tf.uint8)


def test_brightness_moves_all_values_alike_by_at_most_max_delta(example):
    deltas = []
    for i in range(50):
        after = apply(
            functools.partial(colour.random_adjust_brightness, max_delta=0.2),
            example._replace(image=uniform(100)),
            (i, 0),
        )
        delta = after.image.numpy() - 100
        np.testing.assert_allclose(delta, delta[0, 0, 0], atol=1e-3)
        deltas.append(delta[0, 0, 0] / 255)
    assert -0.2 <= min(deltas) < -0.15 and 0.15 < max(deltas) <= 0.2


def test_contrast_of_a_uniform_image_is_nothing_to_change(example):
    after = apply(colour.random_adjust_contrast, example._replace(image=uniform(100)))
    np.testing.assert_allclose(after.image, 100, atol=1e-3)


def test_contrast_keeps_the_mean_and_scales_the_spread(example):
    image = tf.constant(np.array([[90] * 3, [110] * 3], np.uint8)[None])
    factors = []
    for i in range(50):
        after = apply(colour.random_adjust_contrast, example._replace(image=image), (i, 0)).image.numpy()
        np.testing.assert_allclose(after.mean(), 100, atol=1e-3)
        factors.append((after[0, 1, 0] - after[0, 0, 0]) / 20)
    assert 0.8 <= min(factors) + 1e-4 < 0.9 and 1.15 < max(factors) <= 1.25 + 1e-4


def test_hue_and_saturation_leave_gray_gray(example):
    for augment in (colour.random_adjust_hue, colour.random_adjust_saturation):
        np.testing.assert_allclose(apply(augment, example._replace(image=uniform(80))).image, 80, atol=1e-2)


def test_pixel_values_are_scaled_one_by_one(example):
    factors = apply(colour.random_pixel_value_scale, example._replace(image=uniform(100))).image.numpy() / 100
    assert factors.std() > 0.02
    assert factors.min() >= 0.9 - 1e-5 and factors.max() <= 1.1 + 1e-5


@pytest.mark.parametrize("probability, low, high", [(0.0, 0, 0), (0.4, 20, 60), (1.0, 100, 100)])
def test_gray_images_are_as_frequent_as_asked(example, probability, low, high):
    gray = 0
    for i in range(100):
        image = apply(
            functools.partial(colour.random_rgb_to_gray, probability=probability), example, (i, 0)
        ).image.numpy()
        gray += np.ptp(image[..., :3], axis=-1).max() < 1e-3
    assert low <= gray <= high


def test_an_unknown_color_ordering_is_refused(example):
    with pytest.raises(ValueError, match=r"color_ordering = 2 is unknown. Allowed: 0, 1"):
        colour.random_distort_color(example, seed=tf.constant([1, 2]), color_ordering=2)
