"""`data/augment/geometry.py`: what each parameter does; `test_all.py` has the laws that hold for all."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.data import resize
from object_detection_fpn.data.augment import geometry

HEIGHT, WIDTH = 60, 80


@pytest.mark.parametrize(
    "flip", [geometry.random_horizontal_flip, geometry.random_vertical_flip, geometry.random_rotation90]
)
@pytest.mark.parametrize("probability, low, high", [(0.0, 0, 0), (0.3, 15, 45), (1.0, 100, 100)])
@pytest.mark.no_cover
def test_probability_is_that_of_a_change(draw_example, flip, probability, low, high):
    before = draw_example([(5, 5, 25, 25)], HEIGHT, WIDTH)
    changed = [
        not np.allclose(
            flip(before, seed=tf.constant([i, 7]), probability=probability).objects.boxes, before.objects.boxes
        )
        for i in range(100)
    ]
    assert low <= sum(changed) <= high


def test_flipping_twice_changes_nothing(draw_example):
    before = draw_example([(5, 5, 25, 25)], HEIGHT, WIDTH)
    for flip in (geometry.random_horizontal_flip, geometry.random_vertical_flip):
        after = before
        for _ in range(2):
            after = flip(after, seed=tf.constant([1, 2]), probability=1.0)
        np.testing.assert_array_equal(after.image, before.image)
        np.testing.assert_allclose(after.objects.boxes, before.objects.boxes, atol=1e-6)


def test_rotation_is_counter_clockwise(draw_example, find_box):
    right_end = draw_example([(0, 60, 10, 80)], HEIGHT, WIDTH)
    turned = geometry.random_rotation90(right_end, seed=tf.constant([1, 2]), probability=1.0)
    assert turned.image.shape[:2] == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(find_box(turned), [0, 0, 20, 10])


def test_scale_stays_within_its_ratios_and_reaches_both_ends(draw_example):
    before = draw_example([(5, 5, 25, 25)], 100, 200)
    heights = []
    for i in range(60):
        image = geometry.random_image_scale(
            before, seed=tf.constant([i, 0]), min_scale_ratio=0.5, max_scale_ratio=2.0
        ).image
        assert abs(image.shape[1] - 2 * image.shape[0]) <= 1
        heights.append(image.shape[0])
    assert 50 <= min(heights) < 65 and 185 < max(heights) <= 200


def test_scale_ratios_that_exclude_each_other_are_refused(draw_example):
    with pytest.raises(ValueError, match=r"min_scale_ratio = 2.0, max_scale_ratio = 1.0"):
        geometry.random_image_scale(
            draw_example([]), seed=tf.constant([1, 2]), min_scale_ratio=2.0, max_scale_ratio=1.0
        )


@pytest.mark.parametrize("method", ["bilinear", "nearest", "bicubic", "area"])
def test_resize_image_is_the_resizer_of_that_method(draw_example, method):
    before = draw_example([(5, 5, 25, 25)], HEIGHT, WIDTH)
    after = geometry.resize_image(before, seed=tf.constant([1, 2]), new_height=31, new_width=17, method=method)
    expected, _ = resize.fixed_shape(height=31, width=17, method=method)(before.image)
    np.testing.assert_array_equal(after.image, expected)
    assert after.objects is before.objects


def test_random_resize_uses_all_four_methods(draw_example):
    pixels = np.random.default_rng(0).integers(0, 256, [HEIGHT, WIDTH, 3], np.uint8)
    before = draw_example([], HEIGHT, WIDTH)._replace(image=tf.constant(pixels))
    options = {"new_height": 31, "new_width": 17, "seed": tf.constant([0, 0])}
    expected = {
        m: geometry.resize_image(before, method=m, **options).image for m in ("bilinear", "nearest", "bicubic", "area")
    }
    seen = set()
    for i in range(40):
        image = geometry.random_resize_method(before, seed=tf.constant([i, 0]), target_height=31, target_width=17).image
        (method,) = (name for name, other in expected.items() if np.array_equal(image, other))
        seen.add(method)
    assert seen == set(expected)


def test_images_are_downscaled_to_between_the_target_pixels(draw_example):
    before = draw_example([(5, 5, 25, 25)], 100, 200)
    numbers = []
    for i in range(40):
        image = geometry.random_downscale_to_target_pixels(
            before, seed=tf.constant([i, 0]), min_target_pixels=1000, max_target_pixels=4000
        ).image
        assert abs(image.shape[1] - 2 * image.shape[0]) <= 1
        numbers.append(image.shape[0] * image.shape[1])
    assert 900 < min(numbers) < 1500 and 3300 < max(numbers) <= 4000


@pytest.mark.parametrize(
    "settings, size",
    [
        ({"min_target_pixels": 800, "max_target_pixels": 800}, (20, 40)),
        ({"min_target_pixels": 800, "max_target_pixels": 800, "random_coef": 1.0}, (100, 200)),
        ({"min_target_pixels": 20000, "max_target_pixels": 20000}, (100, 200)),
        ({}, (100, 200)),  # the image is smaller than the default targets
    ],
)
def test_downscaling_leaves_smaller_images_alone(draw_example, settings, size):
    after = geometry.random_downscale_to_target_pixels(draw_example([], 100, 200), seed=tf.constant([1, 2]), **settings)
    assert after.image.shape[:2] == size


@pytest.mark.parametrize("vertical, horizontal", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_concatenation_repeats_image_and_objects(draw_example, vertical, horizontal):
    boxes = [(5, 5, 25, 25), (30, 40, 55, 75)]
    before = draw_example(boxes, HEIGHT, WIDTH, with_scores=True)
    after = geometry.random_self_concat_image(
        before,
        seed=tf.constant([1, 2]),
        concat_vertical_probability=float(vertical),
        concat_horizontal_probability=float(horizontal),
    )
    rows, columns = 1 + vertical, 1 + horizontal
    np.testing.assert_array_equal(after.image, np.tile(before.image, [rows, columns, 1]))
    expected = [
        np.array(box) + [y * HEIGHT, x * WIDTH, y * HEIGHT, x * WIDTH]
        for y in range(rows)
        for x in range(columns)
        for box in boxes
    ]
    found = np.asarray(after.objects.boxes) * np.tile([rows * HEIGHT, columns * WIDTH], 2)
    np.testing.assert_allclose(
        found[np.lexsort(found.T)], np.array(expected)[np.lexsort(np.array(expected).T)], atol=1e-3
    )
    labels = np.tile([0, 1], rows * columns)
    np.testing.assert_array_equal(after.objects.classes, labels)
    np.testing.assert_array_equal(after.objects.weights, labels)
    np.testing.assert_array_equal(after.objects.is_crowd, labels == 1)
    np.testing.assert_array_equal(after.objects.class_scores, np.eye(3)[labels])
