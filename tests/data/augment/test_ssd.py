"""`data/augment/ssd.py`: one operation of a list, drawn at random; `test_all.py` has the laws that hold for all."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.data.augment import crop, ssd

CROPS = (ssd.ssd_random_crop, ssd.ssd_random_crop_fixed_aspect_ratio)
PADS = (ssd.ssd_random_crop_pad, ssd.ssd_random_crop_pad_fixed_aspect_ratio)


def operation(**settings):
    """One that cuts off something of an image of 40 x 40, unless told otherwise."""
    return {"min_object_covered": 0.0, "max_area": 0.5, "overlap_thresh": 0.0, **settings}


def test_defaults_are_those_of_the_object_detection_api():
    overlaps = [op["min_object_covered"] for op in ssd.CROP_OPERATIONS]
    assert overlaps == [op["overlap_thresh"] for op in ssd.CROP_OPERATIONS] == [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]
    for op in ssd.CROP_OPERATIONS:
        assert (op["min_aspect_ratio"], op["max_aspect_ratio"], op["min_area"], op["max_area"]) == (0.5, 2.0, 0.1, 1.0)
        assert op["random_coef"] == 0.15
    assert [op["min_object_covered"] for op in ssd.CROP_PAD_OPERATIONS] == [0.1, 0.3, 0.5, 0.7, 0.9, 1.0]


@pytest.mark.parametrize("augment", CROPS)
def test_no_operations_mean_the_default_ones(draw_example, augment):
    before = draw_example([(5, 5, 25, 25)], 40, 40)
    for i in range(5):
        a, b = (augment(before, seed=tf.constant([i, 0]), operations=ops) for ops in ((), ssd.CROP_OPERATIONS))
        np.testing.assert_array_equal(a.image, b.image)


def test_every_operation_has_its_turn(draw_example):
    before = draw_example([(0, 0, 40, 40)], 40, 40)
    areas = [(0.1, 0.2), (0.4, 0.5), (0.8, 0.9)]
    operations = [operation(min_area=low, max_area=high) for low, high in areas]
    seen = np.zeros(3)
    for i in range(60):
        image = ssd.ssd_random_crop(before, seed=tf.constant([i, 0]), operations=operations).image
        share = image.shape[0] * image.shape[1] / 40**2
        seen += [low - 0.05 < share < high + 0.05 for low, high in areas]
    assert seen.sum() == 60 and seen.min() > 8


def test_a_single_operation_is_a_crop(draw_example):
    before = draw_example([(5, 5, 25, 25), (20, 20, 38, 38)], 40, 40)
    for i in range(10):
        after = ssd.ssd_random_crop(before, seed=tf.constant([i, 0]), operations=[operation(clip_boxes=False)])
        height, width = after.image.shape[:2]
        assert 0.08 < height * width / 1600 < 0.52
        sides = (after.objects.boxes[:, 2:] - after.objects.boxes[:, :2]) * [height, width]
        np.testing.assert_allclose(
            sides, [[20, 20] if label == 0 else [18, 18] for label in after.objects.classes], rtol=1e-4
        )


@pytest.mark.parametrize("random_coef, low, high", [(0.0, 0, 0), (0.5, 12, 28), (1.0, 40, 40)])
@pytest.mark.no_cover
def test_random_coef_is_the_probability_of_the_whole_image(draw_example, random_coef, low, high):
    before = draw_example([(0, 0, 40, 40)], 40, 40)
    operations = [operation(random_coef=random_coef)]
    num_whole = sum(
        ssd.ssd_random_crop(before, seed=tf.constant([i, 0]), operations=operations).image.shape == before.image.shape
        for i in range(40)
    )
    assert low <= num_whole <= high


def test_padding_belongs_to_the_operation(draw_example):
    before = draw_example([(0, 0, 40, 40)], 40, 40)
    settings = {"min_padded_size_ratio": (2.0, 3.0), "max_padded_size_ratio": (2.0, 3.0), "pad_color": (9.0, 8.0, 7.0)}
    after = ssd.ssd_random_crop_pad(before, seed=tf.constant([1, 2]), operations=[operation(**settings)])
    assert after.image.shape == (80, 120, 3)
    is_padding = (after.image.numpy() == [9, 8, 7]).all(axis=-1)
    assert 0.08 * 1600 < (~is_padding).sum() < 0.52 * 1600


@pytest.mark.parametrize("aspect_ratio", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("augment", [CROPS[1], PADS[1]])
@pytest.mark.no_cover
def test_the_aspect_ratio_is_the_one_asked_for(draw_example, augment, aspect_ratio):
    before = draw_example([(5, 5, 40, 60)], 90, 120)
    for i in range(10):
        image = augment(before, seed=tf.constant([i, 0]), aspect_ratio=aspect_ratio).image
        np.testing.assert_allclose(image.shape[1] / image.shape[0], aspect_ratio, rtol=0.05)


def test_padding_to_an_aspect_ratio_follows_its_ratios(draw_example):
    settings = {"aspect_ratio": 1.0, "min_padded_size_ratio": (3.0, 3.0), "max_padded_size_ratio": (3.0, 3.0)}
    whole = [operation(random_coef=1.0)]
    after = PADS[1](draw_example([], 40, 40), seed=tf.constant([1, 2]), operations=whole, **settings)
    assert after.image.shape[:2] == (120, 120)


def test_operations_name_keywords_of_the_crop(draw_example):
    with pytest.raises(TypeError, match="min_object_coverd"):
        ssd.ssd_random_crop(draw_example([]), seed=tf.constant([1, 2]), operations=[{"min_object_coverd": 1.0}])
    assert {field.name for field in dataclasses.fields(crop.CropConstraints)} >= ssd.CROP_OPERATIONS[0].keys()
