"""`data/augment/policies.py`: what each change does; `test_all.py` has the laws that hold for all."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from official.vision.ops import augment as library

from object_detection_fpn.data.augment import policies


def apply(example, *changes, seed=0):
    return policies.apply_policy(example, (changes,), seed=tf.constant([seed, 3]))


@pytest.fixture(scope="module")
def noise(draw_example):
    pixels = np.random.default_rng(0).integers(30, 190, [40, 50, 3], np.uint8)
    return draw_example([(5, 5, 25, 25), (20, 30, 38, 48)], 40, 50)._replace(image=tf.constant(pixels))


def test_policy_v0_is_that_of_the_library():
    expected = library.AutoAugment.detection_policy_v0()
    assert [list(changes) for changes in policies.POLICIES["v0"]] == expected


def test_policies_have_as_many_sequences_as_in_the_object_detection_api():
    assert {name: len(p) for name, p in policies.POLICIES.items()} == {"v0": 5, "v1": 20, "v2": 15, "v3": 15, "test": 1}


@pytest.mark.parametrize("name", sorted(policies.POLICIES))
def test_every_sequence_of_a_policy_runs(noise, name):
    for row, changes in enumerate(policies.POLICIES[name]):
        after = apply(
            noise, *((change, min(probability * 3, 1.0), level) for change, probability, level in changes), seed=row
        )
        assert after.image.dtype == tf.uint8
        assert after.image.shape == noise.image.shape
        boxes = after.objects.boxes.numpy()
        assert (boxes >= 0).all() and (boxes <= 1).all()
        assert len(boxes) == len(after.objects.classes)


def test_every_sequence_has_its_turn(noise):
    policy = tuple(((("Brightness", 1.0, level)),) for level in (0, 3, 6))
    expected = [apply(noise, *changes).image.numpy() for changes in policy]
    seen = set()
    for seed in range(30):
        image = policies.apply_policy(noise, policy, seed=tf.constant([seed, 0])).image
        (row,) = (row for row, other in enumerate(expected) if np.array_equal(image, other))
        seen.add(row)
    assert seen == {0, 1, 2}


@pytest.mark.parametrize(
    "name, level, function",
    [
        ("AutoContrast", 3, library.autocontrast),
        ("Equalize", 3, library.equalize),
        ("Posterize", 8, lambda image: library.posterize(image, 3)),
        ("Solarize", 5, lambda image: library.solarize(image, 128)),
        ("SolarizeAdd", 10, lambda image: library.solarize_add(image, 110)),
        ("Color", 10, lambda image: library.color(image, 1.9)),
        ("Brightness", 5, lambda image: library.brightness(image, 1.0)),
        ("Sharpness", 0, lambda image: library.sharpness(image, 0.1)),
    ],
)
def test_levels_mean_what_they_mean_in_the_object_detection_api(noise, name, level, function):
    np.testing.assert_array_equal(apply(noise, (name, 1.0, level)).image, function(noise.image))


@pytest.mark.parametrize("size, gray", [((40, 50), 7), ((300, 300), 255)])
def test_contrast_moves_values_away_from_the_gray_that_the_policies_were_learned_with(draw_example, size, gray):
    before = draw_example([], *size)._replace(image=tf.fill([*size, 3], tf.constant(100, tf.uint8)))
    after = apply(before, ("Contrast", 1.0, 5)).image  # factor 1
    np.testing.assert_array_equal(after, before.image)
    after = apply(before, ("Contrast", 1.0, 0)).image  # factor 0.1
    np.testing.assert_allclose(after, gray + 0.1 * (100 - gray), atol=1)


@pytest.mark.parametrize("name, axis", [("TranslateX_BBox", 1), ("TranslateY_BBox", 0)])
def test_translation_goes_either_way_and_fills_with_gray(draw_example, find_box, name, axis):
    before = draw_example([(120, 130, 140, 160)], 260, 280)
    shifts = set()
    for seed in range(8):
        after = apply(before, (name, 1.0, 4), seed=seed)
        shift = find_box(after) - [120, 130, 140, 160]
        np.testing.assert_array_equal(shift[1 - axis :: 2], 0)
        shifts.add(int(shift[axis]))
        assert np.sum((after.image.numpy() == 128).all(axis=-1)) == 100 * before.image.shape[1 - axis]
    assert shifts == {-100, 100}


def test_rotation_turns_by_30_degrees_about_the_middle(draw_example):
    before = draw_example([(48, 80, 53, 100)], 101, 101)  # a bar to the right of the middle
    seen = set()
    for seed in range(8):
        image = apply(before, ("Rotate_BBox", 1.0, 10), seed=seed).image.numpy()[..., 0] > 128
        ys, xs = np.nonzero(image)
        angle = np.degrees(np.arctan2(50 - ys.mean(), xs.mean() - 50))
        np.testing.assert_allclose(abs(angle), 30, atol=1.5)
        seen.add(angle > 0)
    assert seen == {True, False}


def test_objects_that_leave_the_image_are_dropped(draw_example):
    before = draw_example([(0, 0, 10, 10), (0, 70, 10, 80)], 40, 80)
    for seed in range(6):
        after = apply(before, ("TranslateX_BBox", 1.0, 1), seed=seed)  # 25 pixels
        ((label, box),) = zip(
            after.objects.classes.numpy(), after.objects.boxes.numpy() * [40, 80, 40, 80], strict=True
        )
        np.testing.assert_allclose(box, [0, 25, 10, 35] if label == 0 else [0, 45, 10, 55], atol=1e-3)
        assert after.objects.weights.numpy().tolist() == [label]


def test_probability_is_that_of_a_change(noise):
    num_changed = sum(
        not np.array_equal(apply(noise, ("Solarize", 0.3, 0), seed=s).image, noise.image) for s in range(100)
    )
    assert 15 <= num_changed <= 45


def test_changes_of_boxes_stay_inside_them_and_are_rarer(noise):
    inside = np.zeros([40, 50], bool)
    inside[5:25, 5:25] = inside[20:38, 30:48] = True
    num_changed = 0
    for seed in range(60):
        changed = (apply(noise, ("Solarize_Only_BBoxes", 0.9, 0), seed=seed).image != noise.image).numpy().any(axis=-1)
        assert not changed[~inside].any()
        num_changed += changed[10, 10] + changed[30, 40]
    assert 20 < num_changed < 55  # 120 * 0.3


def test_flipped_boxes_hold_their_mirrored_content(noise):
    for seed in range(20):
        image = apply(noise, ("Flip_Only_BBoxes", 1.0, 0), seed=seed).image.numpy()
        if not np.array_equal(image, noise.image):
            break
    for ymin, xmin, ymax, xmax in ((5, 5, 25, 25), (20, 30, 38, 48)):
        content, before = (np.asarray(i)[ymin:ymax, xmin:xmax] for i in (image, noise.image))
        assert np.array_equal(content, before) or np.array_equal(content, before[:, ::-1])
    assert not np.array_equal(image, noise.image)


@pytest.mark.parametrize("name, level, num_pixels", [("Cutout", 1, 20 * 20), ("BBox_Cutout", 10, 14 * 14)])
def test_cutouts_are_gray_rectangles(noise, name, level, num_pixels):
    largest = 0
    for seed in range(20):
        gray = (apply(noise, (name, 1.0, level), seed=seed).image.numpy() == 128).all(axis=-1)
        rows, columns = np.flatnonzero(gray.any(axis=1)), np.flatnonzero(gray.any(axis=0))
        assert gray[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        largest = max(largest, gray.sum())
    assert 0.9 * num_pixels <= largest <= num_pixels


def test_additional_channels_move_but_keep_their_values(draw_example):
    pixels = np.random.default_rng(0).integers(0, 256, [40, 50, 5], np.uint8)
    before = draw_example([(5, 5, 25, 25)], 40, 50)._replace(image=tf.constant(pixels))
    colours = apply(before, ("Color", 1.0, 10), ("Equalize", 1.0, 1)).image
    np.testing.assert_array_equal(colours[..., 3:], pixels[..., 3:])
    moved = apply(before, ("TranslateX_BBox", 1.0, 1)).image.numpy()
    left, right = moved[:, 25:], moved[:, :25]
    assert np.array_equal(left, pixels[:, :25]) or np.array_equal(right, pixels[:, 25:])


def test_an_unknown_policy_is_refused(noise):
    with pytest.raises(ValueError, match=r'policy_name = "v9" is unknown. Allowed: test, v0, v1, v2, v3'):
        policies.autoaugment_image(noise, seed=tf.constant([1, 2]), policy_name="v9")
