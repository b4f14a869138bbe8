"""`data/augment/colour.py`: what each parameter does; `test_all.py` has the laws that hold for all."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.data.augment import colour


@pytest.fixture(scope="module")
def example(draw_example):
    """Random colours, and a fourth channel that is no colour."""
    pixels = np.random.default_rng(0).integers(0, 256, [12, 10, 4], np.uint8)
    return draw_example([(2, 2, 8, 8)], 12, 10, channels=4)._replace(image=tf.constant(pixels))


def apply(augment, example, seed=(1, 2)):
    return augment(example, seed=tf.constant(seed))


@pytest.mark.parametrize(
    "augment",
    [
        colour.random_adjust_brightness,
        colour.random_adjust_contrast,
        functools.partial(colour.random_adjust_hue, max_delta=0.3),
        colour.random_adjust_saturation,
        colour.random_distort_color,
        functools.partial(colour.random_distort_color, color_ordering=1),
        functools.partial(colour.random_rgb_to_gray, probability=1.0),
        colour.rgb_to_gray,
        functools.partial(colour.adjust_gamma, gamma=2.0),
        colour.random_jpeg_quality,
    ],
)
def test_additional_channels_are_no_colours(example, augment):
    after = apply(augment, example)
    assert after.image.dtype == tf.float32
    np.testing.assert_array_equal(after.image[..., 3], example.image[..., 3])
    assert not np.allclose(after.image[..., :3], example.image[..., :3], atol=0.5)
    assert after.objects is example.objects


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


def test_pixel_values_are_scaled_one_by_one_in_all_channels(example):
    image = tf.fill([4, 4, 4], 100.0)
    assert np.ptp(apply(colour.random_pixel_value_scale, example._replace(image=image)).image[..., 3]) > 5
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


def test_gray_images_keep_three_equal_channels(example):
    image = apply(colour.rgb_to_gray, example).image.numpy()
    luma = np.asarray(example.image[..., :3], np.float32) @ [0.2989, 0.587, 0.114]
    np.testing.assert_allclose(image[..., :3], np.repeat(luma[..., None], 3, axis=-1), atol=0.05)


@pytest.mark.parametrize(
    "gamma, gain, expected", [(1, 1, 100), (2, 1, 255 * (100 / 255) ** 2), (1, 0.5, 50), (1, 3, 255), (0, 1, 255)]
)
def test_gamma_is_a_power_of_the_share_of_the_range(example, gamma, gain, expected):
    augment = functools.partial(colour.adjust_gamma, gamma=float(gamma), gain=float(gain))
    np.testing.assert_allclose(apply(augment, example._replace(image=uniform(100))).image, expected, rtol=1e-4)


@pytest.mark.parametrize("quality", [0, 40, 100])
def test_jpeg_quality_is_that_of_the_encoder(example, quality):
    augment = functools.partial(colour.random_jpeg_quality, min_jpeg_quality=quality, max_jpeg_quality=quality)
    expected = tf.image.adjust_jpeg_quality(example.image[..., :3], quality)
    np.testing.assert_allclose(apply(augment, example).image[..., :3], expected, atol=1e-3)


def test_jpeg_qualities_come_from_their_range(example):
    settings = {"min_jpeg_quality": 30, "max_jpeg_quality": 33}
    expected = [tf.image.adjust_jpeg_quality(example.image[..., :3], quality).numpy() for quality in range(30, 33)]
    seen = set()
    for i in range(30):
        image = apply(functools.partial(colour.random_jpeg_quality, **settings), example, (i, 0)).image[..., :3]
        (row,) = (row for row, other in enumerate(expected) if np.allclose(image, other, atol=1e-3))
        seen.add(row)
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("random_coef, low, high", [(0.0, 0, 0), (0.5, 30, 70), (1.0, 100, 100)])
def test_random_coef_is_the_probability_of_no_compression(example, random_coef, low, high):
    augment = functools.partial(colour.random_jpeg_quality, random_coef=random_coef, max_jpeg_quality=20)
    same = [np.allclose(apply(augment, example, (i, 0)).image, example.image, atol=1e-3) for i in range(100)]
    assert low <= sum(same) <= high


def test_normalized_values_lie_in_the_target_range(example):
    augment = functools.partial(colour.normalize_image, original_minval=100, original_maxval=200)
    np.testing.assert_allclose(apply(augment, example._replace(image=uniform(150))).image, 0.5)
    other = functools.partial(augment, target_minval=-1.0, target_maxval=3.0)
    np.testing.assert_allclose(apply(other, example._replace(image=uniform(150))).image, 1.0)
    np.testing.assert_allclose(apply(other, example._replace(image=uniform(250))).image, 5.0)  # not clipped


def test_channel_means_are_subtracted(example):
    after = apply(functools.partial(colour.subtract_channel_mean, means=(1.0, 2.0, 3.0, 4.0)), example)
    np.testing.assert_allclose(after.image, np.asarray(example.image, np.float32) - [1, 2, 3, 4])
    with pytest.raises(ValueError, match=r"means has 3 values; the image has 4 channels"):
        colour.subtract_channel_mean(example, seed=tf.constant([1, 2]), means=(1.0, 2.0, 3.0))
