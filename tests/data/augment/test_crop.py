"""`data/augment/crop.py`: what each parameter does; `test_all.py` has the laws that hold for all."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.data import resize
from object_detection_fpn.data.augment import crop
from object_detection_fpn.data.resample import Interpolation

HEIGHT, WIDTH = 60, 80


def test_crops_stay_within_area_and_aspect_ratio(draw_example):
    before = draw_example([(20, 20, 40, 40)], 200, 200)
    areas = []
    for i in range(60):
        image = crop.random_crop_image(
            before,
            seed=tf.constant([i, 0]),
            min_object_covered=0.0,
            min_aspect_ratio=0.5,
            max_aspect_ratio=2.0,
            min_area=0.25,
            max_area=0.75,
        ).image
        height, width = image.shape[:2]
        areas.append(height * width / 200**2)
        assert 0.45 < width / height < 2.2
    assert 0.22 < min(areas) < 0.4 and 0.6 < max(areas) < 0.78


@pytest.mark.no_cover
def test_boxes_cut_below_the_overlap_threshold_are_dropped(draw_example, find_box, pixel_boxes):
    box = (20, 20, 60, 60)
    before = draw_example([box], 80, 80)
    seen = set()
    for i in range(60):
        cut = functools.partial(
            crop.random_crop_image, before, seed=tf.constant([i, 0]), min_object_covered=0.0, min_area=0.1, max_area=0.4
        )
        everything, strict = cut(overlap_thresh=0.0), cut(overlap_thresh=0.5)
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
        after = crop.random_crop_image(
            before, seed=tf.constant([i, 0]), min_object_covered=0.0, overlap_thresh=0.0, clip_boxes=False
        )
        for box in pixel_boxes(after):
            np.testing.assert_allclose([box[2] - box[0], box[3] - box[1]], [40, 40], rtol=0.05)


@pytest.mark.parametrize("random_coef, low, high", [(0.0, 0, 0), (0.5, 30, 70), (1.0, 100, 100)])
@pytest.mark.no_cover
def test_random_coef_is_the_probability_of_the_whole_image(draw_example, random_coef, low, high):
    before = draw_example([(20, 20, 40, 40)], HEIGHT, WIDTH)
    num_whole = 0
    for i in range(100):
        after = crop.random_crop_image(
            before,
            seed=tf.constant([i, 3]),
            min_object_covered=0.1,
            min_area=0.1,
            max_area=0.6,
            random_coef=random_coef,
        )
        num_whole += after.image.shape == before.image.shape
    assert low <= num_whole <= high


def test_crop_and_pad_gives_sizes_between_the_ratios_of_the_whole_image(draw_example):
    before = draw_example([(20, 20, 40, 40)], 60, 80)
    sizes = []
    for i in range(40):
        after = crop.random_crop_pad_image(
            before,
            seed=tf.constant([i, 0]),
            constraints=crop.CropConstraints(max_area=0.5),
            min_padded_size_ratio=(1.5, 1.25),
            max_padded_size_ratio=(2.0, 3.0),
        )
        sizes.append(after.image.shape[:2])
    heights, widths = np.transpose(sizes)
    assert 90 <= heights.min() < 97 and 112 < heights.max() < 120
    assert 100 <= widths.min() < 120 and 220 < widths.max() < 240


def test_crop_and_pad_leaves_out_only_the_crop(draw_example):
    before = draw_example([(20, 20, 40, 40)], 60, 80)
    constraints = crop.CropConstraints(random_coef=1.0)
    settings = {"constraints": constraints, "min_padded_size_ratio": (2.0, 2.0), "max_padded_size_ratio": (2.0, 2.0)}
    after = crop.random_crop_pad_image(before, seed=tf.constant([1, 2]), pad_color=(0,), **settings)
    assert after.image.shape[:2] == (120, 160)
    assert np.sum(after.image.numpy()[..., 0] == 255) == 20 * 20


@pytest.mark.parametrize("aspect_ratio, size", [(1.0, (60, 60)), (2.0, (40, 80)), (4 / 3, (60, 80)), (0.5, (60, 30))])
@pytest.mark.no_cover
def test_crop_to_aspect_ratio_is_as_large_as_possible_anywhere(draw_example, aspect_ratio, size):
    pixels = np.arange(60 * 80, dtype=np.float32).reshape(60, 80, 1)
    before = draw_example([], 60, 80)._replace(image=tf.constant(np.repeat(pixels, 3, axis=-1)))
    corners = set()
    for i in range(40):
        image = crop.random_crop_to_aspect_ratio(before, seed=tf.constant([i, 0]), aspect_ratio=aspect_ratio).image
        assert image.shape[:2] == size
        y, x = divmod(int(image[0, 0, 0]), 80)
        np.testing.assert_array_equal(image, before.image[y : y + size[0], x : x + size[1]])
        corners.add((y, x))
    room = 60 - size[0] + 80 - size[1]
    assert len(corners) > 10 if room else corners == {(0, 0)}
    assert max(y + x for y, x in corners) >= 0.8 * room


def test_crop_to_aspect_ratio_drops_and_clips_as_asked(draw_example):
    before = draw_example([(0, 0, 60, 40), (0, 40, 60, 80)], 60, 80)  # left and right half, of which 60 columns stay
    for i in range(20):
        settings = {"seed": tf.constant([i, 0])}
        clipped = crop.random_crop_to_aspect_ratio(before, **settings, overlap_thresh=0.4).objects
        strict = crop.random_crop_to_aspect_ratio(before, **settings, overlap_thresh=0.9).objects
        whole = crop.random_crop_to_aspect_ratio(before, **settings, overlap_thresh=0.4, clip_boxes=False).objects
        assert len(clipped.boxes) == 2
        widths = clipped.boxes[:, 3] - clipped.boxes[:, 1]
        np.testing.assert_allclose(np.sum(widths), 1, atol=1e-5)
        np.testing.assert_array_equal(strict.classes, np.flatnonzero(np.asarray(widths) >= 0.9 * 40 / 60 - 1e-6))
        np.testing.assert_allclose(whole.boxes[:, 3] - whole.boxes[:, 1], 40 / 60, rtol=1e-5)


def test_square_crops_have_the_sides_asked_for_and_black_outside(draw_example):
    before = draw_example([], 50, 100)._replace(image=tf.fill([50, 100, 3], 200.0))
    sides = set()
    for i in range(60):
        image = crop.random_square_crop_by_scale(
            before, seed=tf.constant([i, 0]), max_border=16, scale_min=0.6, scale_max=1.2, num_scales=3
        ).image.numpy()
        sides.add(image.shape[:2])
        assert set(np.unique(image)) <= {0.0, 200.0}
        assert np.any(image == 200)
    assert sides == {(60, 60), (90, 90), (120, 120)}


@pytest.mark.parametrize("max_border, border", [(0, 0), (8, 8), (25, 25), (26, 13), (128, 16)])
@pytest.mark.no_cover
def test_square_crops_keep_their_centre_away_from_the_border(draw_example, max_border, border):
    """Halved until it is at most half of the side, 50 pixels."""
    pixels = np.arange(50 * 50, dtype=np.float32).reshape(50, 50, 1)
    before = draw_example([], 50, 50)._replace(image=tf.constant(np.repeat(pixels, 3, axis=-1)))
    centres = []
    for i in range(60):
        image = crop.random_square_crop_by_scale(
            before, seed=tf.constant([i, 0]), max_border=max_border, scale_min=0.02, scale_max=0.02
        ).image
        assert image.shape[:2] == (1, 1)
        centres.extend(divmod(int(image[0, 0, 0]), 50))
    assert border <= min(centres) <= border + 4
    assert max(centres) <= min(50 - border, 49) and max(centres) >= 49 - border - 4


def test_scaled_squares_have_one_size_and_pad_or_cut(draw_example):
    before = draw_example([], 50, 100)._replace(image=tf.fill([50, 100, 3], 200.0))
    shares = []
    for i in range(60):
        image = crop.random_scale_crop_and_pad_to_square(
            before, seed=tf.constant([i, 0]), output_size=64, scale_min=0.25, scale_max=1.5
        ).image.numpy()
        assert image.shape == (64, 64, 3)
        visible = image[..., 0] > 0
        rows, columns = visible.any(axis=1).sum(), visible.any(axis=0).sum()
        assert visible[:rows, :columns].all()
        shares.append(columns / 64 if columns < 64 else rows / 32)
    assert 0.25 - 1 / 64 <= min(shares) < 0.32 and 1.4 < max(shares) <= 1.5


@pytest.fixture(scope="module")
def jitter(golden_dir):
    return dict(np.load(golden_dir / "pytorch" / "large_scale_jitter.npz"))


def test_scaled_squares_have_the_sizes_of_large_scale_jitter(jitter, draw_example):
    """As torchvision's ScaleJitter; Detectron2 rounds where this cuts off."""
    example = draw_example([])
    for row, expected, rounded in zip(
        jitter["rows64"], jitter["torchvision_scale_jitter"], jitter["detectron2"], strict=True
    ):
        height, width, side, scale, _ = row
        pixels = tf.zeros([int(height), int(width), 3], tf.uint8)
        warp = crop.random_scale_crop_and_pad_to_square.draw(
            example._replace(image=pixels),
            seed=tf.constant([1, 2]),
            output_size=int(side),
            scale_min=scale,
            scale_max=scale,
        )
        np.testing.assert_array_equal(warp.size, expected)
        assert np.all(np.abs(warp.size - rounded[:2]) <= 1)
        assert np.all(warp.window.begin >= 0) and np.all(warp.window.begin <= np.maximum(expected - int(side), 0))


@pytest.mark.parametrize("scale", [0.6, 1.7])
def test_scaled_squares_move_and_clip_boxes_and_drop_those_cut_away(jitter, draw_example, scale):
    example = draw_example([tuple(map(int, box)) for box in jitter["boxes"]])
    numbers = set()
    for i in range(8):
        settings = {"seed": tf.constant([i, 0]), "output_size": 64, "scale_min": scale, "scale_max": scale}
        warp = crop.random_scale_crop_and_pad_to_square.draw(example, **settings)
        moved = crop.random_scale_crop_and_pad_to_square(example, **settings)
        factors, begin = warp.size.numpy() / [60, 80], warp.window.begin.numpy()
        expected = np.clip(jitter["boxes"] * np.tile(factors, 2) - np.tile(begin, 2), 0, 64)
        is_inside = np.all(expected[:, 2:] > expected[:, :2], axis=1)
        np.testing.assert_allclose(moved.objects.boxes * 64, expected[is_inside], atol=1e-4)
        np.testing.assert_array_equal(moved.objects.classes, np.flatnonzero(is_inside))
        numbers.add(int(is_inside.sum()))
    assert numbers == {3} if scale < 1 else len(numbers) > 1


def test_after_a_scaled_square_a_resizer_of_its_side_changes_nothing(draw_example):
    pixels = tf.constant(np.random.default_rng(0).integers(0, 256, [50, 70, 3], np.uint8))
    example = draw_example([])._replace(image=pixels)
    square = crop.random_scale_crop_and_pad_to_square(example, seed=tf.constant([3, 0]), output_size=48)
    assert square.objects.boxes.shape == (0, 4)
    for resizer in (
        resize.fixed_shape(height=48, width=48),
        resize.keep_aspect_ratio(min_dimension=48, max_dimension=48, pad_to_max_dimension=True),
        resize.keep_aspect_ratio(
            min_dimension=48,
            max_dimension=48,
            interpolation=Interpolation(half_pixel_centers=True, antialias=True),
            size_rounding="round",
        ),
    ):
        np.testing.assert_array_equal(resizer(square.image)[0], square.image)
