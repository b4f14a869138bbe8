"""`data/augment/warp.py`: what each part of a warp does to pixels and boxes, alone and after the others."""

from __future__ import annotations

import functools
import inspect

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.data import resample
from object_detection_fpn.data.augment import warp
from object_detection_fpn.data.augment.warp import Canvas, Warp, make_window
from object_detection_fpn.data.example import Example

TRUE, FALSE = tf.constant(True), tf.constant(False)
NEAREST = functools.partial(resample.resample, method="nearest")
BLACK = tf.constant([0.0, 0.0, 0.0])
BOX = (10, 20, 30, 60)  # of an image of 40 x 80


def window(begin, size, **options):
    return make_window(tf.constant(begin), tf.constant(size), **options)


PARTS = {
    "nothing": (Warp(), (40, 80), BOX),
    "size": (Warp(tf.constant([80, 40]), NEAREST), (80, 40), (20, 10, 60, 30)),
    "mirrored": (Warp(is_mirrored=TRUE), (40, 80), (10, 20, 30, 60)),
    "not mirrored": (Warp(is_mirrored=FALSE, is_flipped=FALSE, is_turned=FALSE), (40, 80), BOX),
    "flipped": (Warp(is_flipped=TRUE), (40, 80), (10, 20, 30, 60)),
    "turned": (Warp(is_turned=TRUE), (80, 40), (20, 10, 60, 30)),
    "window": (Warp(window=window([5, 10], [30, 40])), (30, 40), (5, 10, 25, 40)),
    "window beyond": (Warp(window=window([-10, 30], [60, 60], exceeds=True)), (60, 60), (20, 0, 40, 30)),
    "canvas": (Warp(canvas=Canvas(tf.constant([7, 3]), tf.constant([50, 90]), BLACK)), (50, 90), (17, 23, 37, 63)),
    "mirrored and turned": (Warp(is_mirrored=TRUE, is_turned=TRUE), (80, 40), (20, 10, 60, 30)),
    "turned, cut and put on a canvas": (
        Warp(
            is_turned=TRUE,
            window=window([10, 0], [60, 40]),
            canvas=Canvas(tf.constant([1, 2]), tf.constant([70, 60]), BLACK),
        ),
        (70, 60),
        (11, 12, 51, 32),
    ),
    "doubled and cut": (
        Warp(tf.constant([80, 160]), NEAREST, window=window([30, 50], [40, 60])), (40, 60), (0, 0, 30, 60)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_pixels_and_boxes_move_together(draw_example, find_box, pixel_boxes, name):
    part, size, box = PARTS[name]
    after = warp.apply(part, draw_example([BOX], 40, 80))
    assert tuple(after.image.shape[:2]) == size
    np.testing.assert_allclose(pixel_boxes(after), [box], atol=1e-4)
    np.testing.assert_array_equal(find_box(after), box)


def test_an_asymmetric_box_is_mirrored_flipped_and_turned(draw_example, pixel_boxes, find_box):
    before = draw_example([(1, 2, 4, 9)], 10, 20)
    for part, box in (
        (Warp(is_mirrored=TRUE), (1, 11, 4, 18)),
        (Warp(is_flipped=TRUE), (6, 2, 9, 9)),
        (Warp(is_turned=TRUE), (11, 1, 18, 4)),
    ):
        after = warp.apply(part, before)
        np.testing.assert_allclose(pixel_boxes(after), [box], atol=1e-5)
        np.testing.assert_array_equal(find_box(after), box)


def test_copies_are_objects_of_their_own(draw_example, pixel_boxes):
    before = draw_example([(1, 2, 4, 9), (5, 5, 10, 10)], 10, 20)
    after = warp.apply(Warp(is_repeated=(TRUE, TRUE)), before)
    assert tuple(after.image.shape) == (20, 40, 3)
    expected = [
        [y + top, x + left, b + top, r + left]
        for left in (0, 20)
        for top in (0, 10)
        for y, x, b, r in ((1, 2, 4, 9), (5, 5, 10, 10))
    ]
    np.testing.assert_allclose(pixel_boxes(after), expected, atol=1e-5)
    assert after.objects.classes.numpy().tolist() == [0, 1] * 4
    once = warp.apply(Warp(is_repeated=(FALSE, FALSE)), before)
    tf.nest.map_structure(np.testing.assert_array_equal, once.objects[:-1], before.objects[:-1])


@pytest.mark.parametrize(
    "options, rows, boxes",
    [
        ({}, [0, 1], [(0, 0, 1, 0.5), (0, 0, 1, 1)]),
        ({"overlap_thresh": 0.5}, [0], [(0, 0, 1, 0.5)]),
        ({"clip_boxes": False}, [0, 1], [(0, 0, 1, 0.5), (-1, -1, 2, 3)]),
        ({"is_cut": False}, [0, 1, 2], [(0.25, 0.25, 0.5, 0.375), (0, 0, 0.75, 1), (0.5, 0.5, 1, 1)]),
    ],
)  # fmt: skip
def test_a_window_drops_and_clips_as_it_says(draw_example, options, rows, boxes):
    before = draw_example([(10, 10, 20, 15), (0, 0, 30, 40), (20, 20, 40, 40)], 40, 40)
    after = warp.move_objects(Warp(window=window([10, 10], [10, 10], **options)), before.objects, tf.constant([40, 40]))
    assert after.classes.numpy().tolist() == rows
    np.testing.assert_allclose(after.boxes, boxes, atol=1e-6)


def test_a_canvas_has_a_value_or_the_mean_of_a_channel(draw_example):
    before = draw_example([(0, 0, 5, 10)], 10, 10)
    canvas = Canvas(tf.constant([0, 0]), tf.constant([10, 12]), tf.constant([float("nan"), 7.0, float("nan")]))
    image = warp.apply(Warp(canvas=canvas), before).image
    assert image.dtype == tf.float32
    np.testing.assert_array_equal(image[3, 11], [127.5, 7.0, 0.0])


def test_a_matrix_drops_objects_that_leave_the_image_and_fills_with_gray(draw_example):
    before = draw_example([(1, 1, 5, 5), (1, 12, 5, 18)], 10, 20)
    shift = tf.constant([[1.0, 0.0, 10.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # shows what lies 10 to the right
    after = warp.apply(Warp(matrix=shift), before)
    assert after.objects.classes.numpy().tolist() == [1]
    np.testing.assert_allclose(after.objects.boxes, [[0.1, 0.1, 0.5, 0.4]], atol=1e-6)
    assert np.all(after.image[:, 10:] == warp.GRAY)


def _emptied(mask, num_rows, num_columns):
    mask[:num_rows], mask[:, :num_columns] = 0, 0
    return mask


@pytest.mark.parametrize(
    "part, turn, frame",
    [
        (Warp(is_mirrored=TRUE), np.fliplr, (1, 11, 4, 18)),
        (Warp(is_flipped=TRUE), np.flipud, (6, 2, 9, 9)),
        (Warp(is_turned=TRUE), np.rot90, (11, 1, 18, 4)),
        (Warp(is_mirrored=FALSE, is_flipped=FALSE, is_turned=FALSE), np.array, (1, 2, 4, 9)),
        (Warp(window=window([2, 4], [5, 5])), lambda mask: _emptied(mask, 2, 1), (-1, -2, 2, 5)),
        (Warp(window=window([0, 0], [10, 20], is_cut=False)), np.array, (1, 2, 4, 9)),
        (Warp(canvas=Canvas(tf.constant([3, 1]), tf.constant([20, 40]), BLACK)), np.array, (4, 3, 7, 10)),
        (Warp(tf.constant([20, 10]), NEAREST), np.array, (2, 1, 8, 4.5)),
        (Warp(matrix=tf.constant([[1.0, 0, -3], [0, 1, -2], [0, 0, 1]])), np.array, (3, 5, 6, 12)),
        (Warp(matrix=tf.constant([[-1.0, 0, 19], [0, 1, 0], [0, 0, 1]])), np.fliplr, (1, 11, 4, 18)),
        (Warp(matrix=tf.constant([[0.0, -1, 9], [1, 0, 0], [0, 0, 1]])), np.rot90, None),
    ],
)
def test_masks_turn_and_their_frames_move_without_being_clipped(draw_masked, part, turn, frame):
    before = draw_masked([(1, 2, 4, 9)], 10, 20, side=6)
    after = warp.apply(part, before)
    np.testing.assert_array_equal(after.objects.masks[0], turn(before.objects.masks[0].numpy()))
    if frame:
        height, width = after.image.shape[:2]
        np.testing.assert_allclose(after.objects.mask_frames * [height, width, height, width], [frame], atol=1e-4)


def test_a_window_and_copies_keep_masks_with_their_objects(draw_masked):
    before = draw_masked([(1, 2, 4, 9), (5, 5, 10, 10)], 10, 20, side=6)
    cut = warp.apply(Warp(window=window([5, 4], [5, 8])), before).objects
    assert cut.classes.numpy().tolist() == [1]
    np.testing.assert_array_equal(cut.masks, before.objects.masks[1:])
    twice = warp.apply(Warp(is_repeated=(TRUE, FALSE)), before).objects
    np.testing.assert_array_equal(twice.masks, np.tile(before.objects.masks, [2, 1, 1]))
    np.testing.assert_allclose(twice.mask_frames, twice.boxes, atol=1e-6)


@pytest.mark.parametrize("part", [Warp(is_turned=TRUE), Warp(matrix=tf.eye(3)), Warp(window=window([0, 0], [2, 2]))])
def test_masks_of_images_without_objects_stay_none_of_their_shape(draw_masked, part):
    objects = warp.apply(part, draw_masked([], 10, 20, side=6)).objects
    assert objects.masks.shape == (0, 6, 6) and objects.mask_frames.shape == (0, 4)


def test_what_else_an_example_holds_stays(draw_example):
    before = draw_example([BOX], 40, 80)._replace(labeled_classes=tf.constant([True, False]))
    assert warp.apply(Warp(is_turned=TRUE), before).labeled_classes is before.labeled_classes


def test_an_augmentation_keeps_name_and_keywords_of_what_draws_it(draw_example):
    def mirror(example: Example, *, seed: tf.Tensor, probability: float = 0.5) -> Warp:
        """Mirrors."""
        return Warp(is_mirrored=TRUE)

    augmentation = warp.applied(mirror)
    assert (augmentation.__name__, augmentation.__doc__) == ("mirror", "Mirrors.")
    assert inspect.getfullargspec(augmentation).kwonlyargs == ["seed", "probability"]
    assert warp.drawing(augmentation) is mirror
    assert not hasattr(augmentation, "__wrapped__")  # TensorFlow would call it
    after = augmentation(draw_example([(1, 2, 4, 9)], 10, 20), seed=tf.constant([0, 0]))
    np.testing.assert_allclose(after.objects.boxes, [[0.1, 0.55, 0.4, 0.9]], atol=1e-6)
