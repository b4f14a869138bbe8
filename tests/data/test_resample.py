"""`data/resample.py`: interpolation with and without half-pixel centers, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from object_detection_fpn.data.resample import Interpolation

PILLOW = {
    "bilinear": Interpolation(half_pixel_centers=True, antialias=True, round_pixels=True),
    "bicubic": Interpolation("bicubic", half_pixel_centers=True, antialias=True, round_pixels=True),
}


@pytest.mark.parametrize(
    "interpolation, expected",
    [
        (Interpolation(), [10, 15, 20, 20]),  # reads at 0, 0.5, 1, 1.5
        (Interpolation(half_pixel_centers=True), [10, 12.5, 17.5, 20]),  # reads at -0.25, 0.25, 0.75, 1.25
        (Interpolation(half_pixel_centers=True, antialias=True), [10, 12.5, 17.5, 20]),
        (Interpolation(half_pixel_centers=True, round_pixels=True), [10, 13, 18, 20]),
        (Interpolation(round_pixels=True), [10, 15, 20, 20]),
    ],
)
def test_centers_decide_where_pixels_are_read(interpolation, expected):
    image = tf.constant([10, 20], tf.uint8)[None, :, None]
    np.testing.assert_allclose(interpolation(image, tf.constant([1, 4]))[0, :, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("antialias, is_seen", [(False, False), (True, True)])
def test_antialias_sees_what_lies_between_samples(antialias, is_seen):
    """Every fourth pixel is bright; samples of a shrunk image lie between two that are dark."""
    image = tf.tile(tf.constant([100.0, 0.0, 0.0, 0.0]), [4])[None, :, None]
    resized = Interpolation(half_pixel_centers=True, antialias=antialias)(image, tf.constant([1, 4]))
    assert np.all(resized > 0) == is_seen
    assert np.any(resized > 0) == is_seen


@pytest.mark.parametrize("method", PILLOW)
@pytest.mark.parametrize("size", [(7, 5), (33, 9), (80, 61), (53, 37), (40, 30), (40, 12)])
def test_rounded_and_filtered_pixels_are_those_of_pillow(method, size):
    """But for ties, which Pillow's whole numbers break otherwise: of 37 columns and 53 rows one in 74 and one in 106."""
    image = np.random.default_rng(0).integers(0, 256, [40, 30, 3], np.uint8)
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], getattr(Image.Resampling, method.upper())))
    resized = PILLOW[method](tf.constant(image), tf.constant(size)).numpy()
    difference = np.abs(resized - expected)
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 1 / 74 + 1 / 106


def test_an_image_of_the_size_stays_as_it_is():
    image = tf.constant(np.random.default_rng(0).uniform(0, 255, [5, 7, 3]).astype(np.float32))
    for settings in ({}, {"half_pixel_centers": True}, {"half_pixel_centers": True, "antialias": True}):
        np.testing.assert_array_equal(Interpolation(**settings)(image, tf.constant([5, 7])), image)
    np.testing.assert_array_equal(PILLOW["bilinear"](image, tf.constant([5, 7])), np.floor(image.numpy() + 0.5))


def test_rounded_pixels_stay_in_their_range():
    image = tf.constant([0, 0, 255, 255, 0, 0], tf.uint8)[None, :, None]
    interpolation = Interpolation("bicubic", half_pixel_centers=True, round_pixels=True)
    resized = interpolation(image, tf.constant([1, 17])).numpy()
    assert resized.min() == 0 and resized.max() == 255  # a cubic overshoots


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"method": "lanczos"}, 'method = "lanczos" is unknown. Allowed: bilinear, nearest, bicubic, area'),
        ({"method": "area", "half_pixel_centers": True}, 'half_pixel_centers does not go with method = "area"'),
        ({"antialias": True}, "antialias = True needs half_pixel_centers = True"),
    ],
)
def test_impossible_interpolations_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Interpolation(**settings)
