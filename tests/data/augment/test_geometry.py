"""`data/augment/geometry.py`: boxes stay inside, keep their class, and move with their pixels."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from object_detection_fpn.data.augment import geometry
from object_detection_fpn.data.decoder import Example

HEIGHT, WIDTH = 60, 80


@st.composite
def pixel_box(draw):
    ymin, xmin = draw(st.integers(0, HEIGHT - 10)), draw(st.integers(0, WIDTH - 10))
    return ymin, xmin, draw(st.integers(ymin + 8, HEIGHT)), draw(st.integers(xmin + 8, WIDTH))


SEEDS = st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))

# Each with the pixels by which interpolation may blur the border of a box.
ALWAYS = {
    "horizontal flip": (functools.partial(geometry.random_horizontal_flip, probability=1.0), 0),
    "vertical flip": (functools.partial(geometry.random_vertical_flip, probability=1.0), 0),
    "rotation": (functools.partial(geometry.random_rotation90, probability=1.0), 0),
    "sometimes flipped": (geometry.random_horizontal_flip, 0),
    "scale": (geometry.random_image_scale, 2.5),
    "crop": (functools.partial(geometry.random_crop_image, min_object_covered=0.5), 1),
    "small crop": (
        functools.partial(
            geometry.random_crop_image, min_object_covered=0.3, area_range=(0.1, 0.3), overlap_thresh=0.1
        ),
        1,
    ),
}


@pytest.mark.parametrize("name", ALWAYS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(box=pixel_box(), seed=SEEDS)
def test_a_box_moves_with_its_pixels(draw_example, find_box, pixel_boxes, name, box, seed):
    augment, tolerance = ALWAYS[name]
    before = draw_example([box], HEIGHT, WIDTH)
    after = augment(before, seed=tf.constant(seed))
    boxes = np.asarray(after.objects.boxes)
    assert (boxes >= 0).all() and (boxes <= 1).all()
    if "crop" in name and not len(boxes):
        return  # the box may have been cut too short
    assert after.objects.classes.numpy().tolist() == [0]
    np.testing.assert_allclose(pixel_boxes(after)[0], find_box(after), atol=tolerance + 1e-3)


@pytest.mark.parametrize("name", ALWAYS)
@pytest.mark.parametrize("dtype", [tf.uint8, tf.float32])
def test_all_fields_stay_aligned_and_equal_seeds_give_equal_results(draw_example, find_box, name, dtype):
    before = draw_example([(5, 5, 25, 25), (30, 40, 55, 75)], HEIGHT, WIDTH, dtype=dtype, channels=4, with_scores=True)
    augment, _ = ALWAYS[name]
    for seed in ([1, 2], [3, 4], [5, 6]):
        after, again = (augment(before, seed=tf.constant(seed)) for _ in range(2))
        for a, b in zip(tf.nest.flatten(after), tf.nest.flatten(again), strict=True):
            np.testing.assert_array_equal(a, b)
        assert after.image.shape[-1] == 4
        rows = after.objects.classes.numpy().tolist()
        assert after.objects.weights.numpy().tolist() == rows
        np.testing.assert_array_equal(after.objects.class_scores, np.eye(3)[rows])
        for row, label in enumerate(rows):
            found = find_box(after, label)
            height, width = after.image.shape[:2]
            expected = after.objects.boxes[row].numpy() * [height, width, height, width]
            np.testing.assert_allclose(found, expected, atol=3)


@pytest.mark.parametrize("name", ALWAYS)
@pytest.mark.parametrize("size", [(1, 1), (500, 3)])
def test_images_without_boxes_and_of_extreme_size_pass(draw_example, name, size):
    after = ALWAYS[name][0](draw_example([], *size), seed=tf.constant([1, 2]))
    assert min(after.image.shape[:2]) >= 1
    assert after.objects.boxes.shape == (0, 4)


@pytest.mark.parametrize("name", ALWAYS)
def test_augmentations_run_in_a_graph_of_unknown_shapes(draw_example, name):
    example = draw_example([(5, 5, 25, 25), (30, 40, 55, 75)], HEIGHT, WIDTH)
    augment = functools.partial(ALWAYS[name][0], seed=tf.constant([1, 2]))

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([None, 4], tf.float32)])
    def run(image, boxes):
        after = augment(Example(image, example.objects._replace(boxes=boxes)))
        assert after.image.shape.as_list() == [None, None, 3]
        return after.image, after.objects.boxes

    image, boxes = run(example.image, example.objects.boxes)
    expected = augment(example)
    np.testing.assert_allclose(image, expected.image, atol=1e-3)
    np.testing.assert_allclose(boxes, expected.objects.boxes, rtol=1e-6)


@pytest.mark.parametrize(
    "flip", [geometry.random_horizontal_flip, geometry.random_vertical_flip, geometry.random_rotation90]
)
@pytest.mark.parametrize("probability, low, high", [(0.0, 0, 0), (0.3, 15, 45), (1.0, 100, 100)])
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


def test_crops_stay_within_area_and_aspect_ratio(draw_example):
    before = draw_example([(20, 20, 40, 40)], 200, 200)
    areas = []
    for i in range(60):
        image = geometry.random_crop_image(
            before,
            seed=tf.constant([i, 0]),
            min_object_covered=0.0,
            aspect_ratio_range=(0.5, 2.0),
            area_range=(0.25, 0.75),
        ).image
        height, width = image.shape[:2]
        areas.append(height * width / 200**2)
        assert 0.45 < width / height < 2.2
    assert 0.22 < min(areas) < 0.4 and 0.6 < max(areas) < 0.78


def test_boxes_cut_below_the_overlap_threshold_are_dropped(draw_example, find_box, pixel_boxes):
    box = (20, 20, 60, 60)
    before = draw_example([box], 80, 80)
    seen = set()
    for i in range(60):
        crop = functools.partial(
            geometry.random_crop_image, before, seed=tf.constant([i, 0]), min_object_covered=0.0, area_range=(0.1, 0.4)
        )
        everything, strict = crop(overlap_thresh=0.0), crop(overlap_thresh=0.5)
        np.testing.assert_array_equal(everything.image, strict.image)
        num_visible = float(np.sum(everything.image.numpy()[..., 0] == 255))
        assert len(everything.objects.boxes) == (num_visible > 0)
        share = num_visible / 40**2
        if abs(share - 0.5) > 0.05:
            assert len(strict.objects.boxes) == (share > 0.5)
            seen.add(share > 0.5)
    assert seen == {True, False}


def test_unclipped_boxes_keep_their_size(draw_example, pixel_boxes):
    before = draw_example([(20, 20, 60, 60)], 80, 80)
    for i in range(20):
        after = geometry.random_crop_image(
            before, seed=tf.constant([i, 0]), min_object_covered=0.0, overlap_thresh=0.0, clip_boxes=False
        )
        for box in pixel_boxes(after):
            np.testing.assert_allclose([box[2] - box[0], box[3] - box[1]], [40, 40], rtol=0.05)


@pytest.mark.parametrize("random_coef, low, high", [(0.0, 0, 0), (0.5, 30, 70), (1.0, 100, 100)])
def test_random_coef_is_the_probability_of_the_whole_image(draw_example, random_coef, low, high):
    before = draw_example([(20, 20, 40, 40)], HEIGHT, WIDTH)
    num_whole = 0
    for i in range(100):
        after = geometry.random_crop_image(
            before, seed=tf.constant([i, 3]), min_object_covered=0.1, area_range=(0.1, 0.6), random_coef=random_coef
        )
        num_whole += after.image.shape == before.image.shape
    assert low <= num_whole <= high
