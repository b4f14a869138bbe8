"""Pooling of RoIs: the level of each, sizes, max pooling, RoIAlign, precision."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import pooler as roi
from object_detection_fpn.ops.crop_and_resize import RoIAlign

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
    with pytest.raises(ValueError, match=r"pool_size = 8 exceeds crop_size = 7\. Allowed: 1 to 7\."):
        roi.RoIPooler(crop_size=7, pool_size=8)


# Levels and RoIAlign ---------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    "library, levels, roi_align",
    [
        ("torchvision", {"level_epsilon": 1e-6}, RoIAlign(sampling_ratio=2, aligned=False)),
        ("detectron2", {"side_epsilon": 1e-8}, RoIAlign(sampling_ratio=0, aligned=True)),
    ],
)
def test_pools_from_the_pyramid_as_pytorch(golden_dir, execution, library, levels, roi_align):
    """From P2..P5; P6, which is not pooled from, and P1 lie beside them."""
    golden = np.load(golden_dir / "pytorch/ops/multiscale_roi_align.npz")
    pyramid = [tf.constant(golden[f"P{level}"].transpose(0, 2, 3, 1)) for level in (2, 3, 4, 5)]
    pyramid = [tf.fill([1, 256, 288, 1], np.nan), *pyramid, tf.fill([1, 8, 9, 1], np.nan)]
    levels = roi.RoILevels(first_level=1, min_level=2, max_level=5, canonical_level=4, **levels)
    pooler = roi.RoIPooler(levels=levels, roi_align=roi_align, execution=execution)
    boxes = golden["boxes"][None][..., [1, 0, 3, 2]]
    pooled = pooler(pyramid, tf.constant(boxes), tf.constant([512, 576]))
    assert pooler.output_size == 7
    expected = golden[f"{library}_out7"].transpose(0, 2, 3, 1)[None]
    if execution.static and not roi_align.sampling_ratio:  # exact up to its bound
        strides = 2.0 ** (1 + pooler.level_indices(6, tf.constant(boxes), tf.constant([512, 576])).numpy())
        exact = (boxes[..., 2:] - boxes[..., :2]).max(-1) / strides / 7 <= roi_align.max_static_samples
        assert 15 < exact.sum() < exact.size
        pooled, expected = pooled[exact], expected[exact]
    np.testing.assert_allclose(pooled, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, [0, 1, 2, 3]),  # P5, the last but one, for 224 pixels
        ({"min_level": 4}, [2, 2, 2, 3]),
        ({"max_level": 5}, [0, 0, 1, 2]),  # P4: the last but one of those that are pooled from
        ({"min_level": 3, "max_level": 3}, [1, 1, 1, 1]),
        ({"canonical_level": 4}, [0, 0, 1, 2]),
        ({"canonical_level": 4, "canonical_size": 56.0}, [0, 2, 3, 4]),
        ({"canonical_level": 7}, [0, 3, 4, 4]),
    ],
)
def test_levels_pooled_from_are_entries_of_the_whole_pyramid(settings, expected, epsilon):
    levels = roi.RoILevels(**{"first_level": 2, "min_level": 2, "max_level": 6, "level_epsilon": epsilon, **settings})
    pooler = roi.RoIPooler(levels=levels, crop_size=2, pool_size=1, pool_stride=1)
    boxes, size = tf.constant([[[0.0, 0.0, side, side] for side in (10, 60, 120, 230)]]), tf.constant([512, 512])
    assert pooler.level_indices(5, boxes, size).numpy().tolist() == [expected]
    features = pooler(constant_pyramid(), boxes, size)
    assert features[0, :, 0, 0, 0].numpy().tolist() == expected


def test_levels_that_are_not_set_give_what_the_object_detection_api_gives():
    """To the last bit: also for RoIs whose side is a power of two times the canonical one."""
    random = np.random.RandomState(0)
    sides = np.concatenate([224.0 * 2.0 ** random.randint(-3, 2, [300, 2]), random.uniform(0, 500, [300, 2])])
    corners = random.uniform(0, 300, [600, 2])
    boxes = tf.constant(np.concatenate([corners, corners + sides], -1)[None], tf.float32)
    levels = roi.RoILevels(first_level=2, min_level=2, max_level=6)
    found = roi.RoIPooler(levels=levels).level_indices(5, boxes, tf.constant([800, 1333]))
    np.testing.assert_array_equal(found, roi.RoIPooler().level_indices(5, boxes, tf.constant([800, 1333])))


@BOTH
def test_roi_align_trains_the_levels_pooled_from_alone(execution):
    pyramid = random_pyramid()
    levels = roi.RoILevels(first_level=2, min_level=2, max_level=3, canonical_size=20.0)
    pooler = roi.RoIPooler(levels=levels, roi_align=RoIAlign(output_size=3), execution=execution)
    with tf.GradientTape() as tape:
        tape.watch(pyramid)
        pooled = pooler(pyramid, BOXES, tf.constant([64, 64]))
    assert pooled.shape == (2, 3, 3, 3, 3)
    gradients = tape.gradient(pooled, pyramid)
    assert [g is not None and bool(np.any(g != 0)) for g in gradients] == [True, True, False]


def test_roi_align_needs_levels():
    with pytest.raises(ValueError, match=r"roi_align is given without levels"):
        roi.RoIPooler(roi_align=RoIAlign())


@pytest.mark.parametrize("first, low, high", [(3, 2, 5), (2, 4, 3)])
def test_levels_out_of_order_are_refused(first, low, high):
    with pytest.raises(ValueError, match=rf"first_level = {first}, min_level = {low}, max_level = {high}\. Allowed:"):
        roi.RoILevels(first_level=first, min_level=low, max_level=high)


def test_levels_that_the_pyramid_lacks_are_refused():
    pooler = roi.RoIPooler(levels=roi.RoILevels(first_level=2, min_level=2, max_level=5))
    with pytest.raises(ValueError, match=r"max_level = 5 is above the pyramid, which ends with level 4\."):
        pooler(random_pyramid(), BOXES, tf.constant([64, 64]))
