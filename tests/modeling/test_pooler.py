"""Pooling of RoIs: the level of each, sizes, max pooling, precision."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import pooler as roi

BOTH = pytest.mark.parametrize("execution", [Execution(), Execution(static=True)], ids=["native", "static"])


def constant_pyramid(size=512, num_levels=5, dtype=tf.float32):
    """Level i holds i."""
    sides = [size >> (2 + i) for i in range(num_levels)]
    return [tf.fill([1, side, side, 1], tf.cast(i, dtype)) for i, side in enumerate(sides)]


def random_pyramid(batch=2, size=64, filters=3):
    random = np.random.RandomState(0)
    return [tf.constant(random.normal(size=[batch, size >> s, size >> s, filters]), tf.float32) for s in (2, 3, 4)]


BOXES = tf.constant(
    [[[0.0, 0, 60, 60], [10, 5, 30, 44], [7, 7, 15, 12]], [[30.0, 2, 31, 60], [0, 0, 0, 0], [50, 50, 64, 64]]]
)


@BOTH
@pytest.mark.parametrize(
    "height, width, level",
    [
        (0, 0, 0),
        (10, 10, 0),
        (55, 55, 0),
        (56.1, 56.1, 1),
        (111, 111, 1),
        (112.1, 112.1, 2),
        (223, 223, 2),
        (224.1, 224.1, 3),  # the last level but one, as in the Object Detection API
        (112.1, 448.1, 3),  # the side is that of a square of equal area
        (447, 447, 3),
        (448.1, 448.1, 4),
        (512, 512, 4),
    ],
)
def test_level_follows_the_side_of_a_roi(execution, height, width, level):
    pooler = roi.RoIPooler(crop_size=2, pool_size=1, pool_stride=1, execution=execution)
    features = pooler(constant_pyramid(), tf.constant([[[0.0, 0.0, height, width]]]), tf.constant([512, 512]))
    np.testing.assert_array_equal(features, np.full([1, 1, 2, 2, 1], level))


@pytest.mark.parametrize("num_levels, level", [(2, 0), (3, 1), (4, 2)])
def test_the_level_of_224_pixels_is_the_last_but_one_of_any_pyramid(num_levels, level):
    pooler = roi.RoIPooler(crop_size=2)
    boxes = tf.constant([[[0.0, 0.0, 225.0, 225.0]]])
    assert np.unique(pooler(constant_pyramid(num_levels=num_levels), boxes, tf.constant([512, 512]))) == level


@BOTH
@pytest.mark.parametrize(
    "crop_size, pool_size, pool_stride, output_size",
    [(14, 2, 2, 7), (7, 1, 1, 7), (6, 2, 2, 3), (7, 3, 1, 5), (7, 2, 2, 3), (5, 1, 2, 3)],
)
def test_output_size(execution, crop_size, pool_size, pool_stride, output_size):
    pooler = roi.RoIPooler(crop_size=crop_size, pool_size=pool_size, pool_stride=pool_stride, execution=execution)
    assert pooler.output_size == output_size
    features = pooler(random_pyramid(), BOXES, tf.constant([64, 64]))
    assert features.shape == (2, 3, output_size, output_size, 3)
    assert np.all(np.isfinite(features))


@pytest.mark.parametrize("height, width", [(512, 512), (128, 1024), (1024, 128)])
def test_level_is_the_same_in_images_of_any_shape(height, width):
    pyramid = [tf.fill([1, height >> s, width >> s, 1], float(s - 2)) for s in (2, 3, 4, 5, 6)]
    boxes = tf.constant([[[0.0, 0, 60, 60], [10, 10, 120, 120], [0, 0, 113, 113]]])
    features = roi.RoIPooler(crop_size=2)(pyramid, boxes, tf.constant([height, width]))
    assert features[0, :, 0, 0, 0].numpy().tolist() == [1, 1, 2]


def test_pooling_takes_the_maximum_of_the_crop():
    size = tf.constant([64, 64])
    crops = roi.RoIPooler(crop_size=6, pool_size=1, pool_stride=1)(random_pyramid(), BOXES, size).numpy()
    pooled = roi.RoIPooler(crop_size=6, pool_size=2, pool_stride=2)(random_pyramid(), BOXES, size)
    np.testing.assert_array_equal(pooled, crops.reshape(2, 3, 3, 2, 3, 2, 3).max((3, 5)))
    assert np.any(crops != 0)


def test_both_implementations_agree():
    native, static = (
        roi.RoIPooler(crop_size=6, execution=Execution(static=static))(random_pyramid(), BOXES, tf.constant([64, 64]))
        for static in (False, True)
    )
    np.testing.assert_allclose(native, static, atol=1e-5)


def test_rectangular_images_are_measured_on_both_sides():
    """A box on the last quarter of each side sees features of the last quarter of each side."""
    rows, columns = tf.meshgrid(tf.range(17.0), tf.range(33.0), indexing="ij")
    features = tf.stack([rows, columns], axis=-1)[None]
    pooler = roi.RoIPooler(crop_size=2, pool_size=1, pool_stride=1)
    crops = pooler([features], tf.constant([[[48.0, 96.0, 64.0, 128.0]]]), tf.constant([64, 128]))
    np.testing.assert_allclose(crops[0, 0, 0, 0], [12.0, 24.0], atol=1e-4)
    np.testing.assert_allclose(crops[0, 0, 1, 1], [16.0, 32.0], atol=1e-4)


@BOTH
def test_coordinates_are_exact_under_bfloat16(execution):
    """In bfloat16, pixel 513 equals 512 and the crop of the second box would equal that of the first."""
    ramp = tf.reshape(tf.range(257.0), [1, 257, 1, 1]) * tf.ones([1, 1, 257, 1])
    pooler = roi.RoIPooler(
        crop_size=2, execution=dataclasses.replace(execution, dtype="mixed_bfloat16"), pool_size=1, pool_stride=1
    )
    boxes = tf.constant([[[512.0, 0, 520, 8], [513.0, 0, 521, 8]]])
    crops = pooler([tf.cast(ramp / 64.0, tf.bfloat16)], boxes, tf.constant([1024, 1024]))
    assert crops.dtype == tf.bfloat16
    in_float32 = roi.RoIPooler(crop_size=2, execution=execution, pool_size=1, pool_stride=1)(
        [tf.cast(tf.cast(ramp / 64.0, tf.bfloat16), tf.float32)], boxes, tf.constant([1024, 1024])
    )
    np.testing.assert_array_equal(crops, tf.cast(in_float32, tf.bfloat16))
    assert in_float32[0, 0, 0, 0, 0] < in_float32[0, 1, 0, 0, 0]


@BOTH
def test_the_gradient_reaches_the_features_of_the_rois_level_alone(execution):
    pyramid = random_pyramid(batch=1)
    pooler = roi.RoIPooler(crop_size=4, execution=execution)
    with tf.GradientTape() as tape:
        tape.watch(pyramid)
        loss = tf.reduce_sum(pooler(pyramid, tf.constant([[[3.0, 3, 60, 60]]]), tf.constant([64, 64])))
    gradients = tape.gradient(loss, pyramid)
    # of 57 pixels: two octaves below 224, and so below the finest of these three levels
    assert [g is not None and bool(np.any(tf.convert_to_tensor(g) != 0)) for g in gradients] == [True, False, False]


def test_a_window_wider_than_the_crop_is_refused():
    with pytest.raises(ValueError, match=r"pool_size = 8 exceeds crop_size = 7\."):
        roi.RoIPooler(crop_size=7, pool_size=8)
