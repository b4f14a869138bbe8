"""Laws of all augmentations: boxes stay inside, keep their class, move with their pixels; a seed says everything."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from object_detection_fpn.data.augment import colour, crop, geometry, labels, pad, patches, policies, ssd
from object_detection_fpn.data.example import Example

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

HEIGHT, WIDTH = 60, 80


@st.composite
def pixel_box(draw):
    ymin, xmin = draw(st.integers(0, HEIGHT - 10)), draw(st.integers(0, WIDTH - 10))
    return ymin, xmin, draw(st.integers(ymin + 8, HEIGHT)), draw(st.integers(xmin + 8, WIDTH))


SEEDS = st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
BLACK = {"pad_color": (0.0,)}


def policy(*changes):
    return functools.partial(policies.apply_policy, policy=(changes,))


# Each with the pixels by which interpolation may blur the border of a box.
MOVES = {
    "horizontal flip": (functools.partial(geometry.random_horizontal_flip, probability=1.0), 0),
    "vertical flip": (functools.partial(geometry.random_vertical_flip, probability=1.0), 0),
    "rotation": (functools.partial(geometry.random_rotation90, probability=1.0), 0),
    "sometimes flipped": (geometry.random_horizontal_flip, 0),
    "scale": (geometry.random_image_scale, 2.5),
    "resize": (functools.partial(geometry.resize_image, new_height=70, new_width=50), 2),
    "resize method": (functools.partial(geometry.random_resize_method, target_height=70, target_width=50), 2),
    "downscale": (
        functools.partial(geometry.random_downscale_to_target_pixels, min_target_pixels=500, max_target_pixels=1200),
        2,
    ),
    "crop": (functools.partial(crop.random_crop_image, min_object_covered=0.5), 1),
    "small crop": (
        functools.partial(
            crop.random_crop_image, min_object_covered=0.3, min_area=0.1, max_area=0.3, overlap_thresh=0.1
        ),
        1,
    ),
    "crop to aspect ratio": (functools.partial(crop.random_crop_to_aspect_ratio, aspect_ratio=0.7), 1),
    "square crop": (functools.partial(crop.random_square_crop_by_scale, max_border=16), 1),
    "crop of the scaled": (
        functools.partial(crop.random_scale_crop_and_pad_to_square, output_size=64, scale_min=0.8),
        2.5,
    ),
    "crop and pad": (
        functools.partial(
            crop.random_crop_pad_image, constraints=crop.CropConstraints(min_object_covered=0.5), **BLACK
        ),
        1,
    ),
    "pad": (functools.partial(pad.random_pad_image, **BLACK), 0),
    "absolute pad": (
        functools.partial(pad.random_absolute_pad_image, max_height_padding=30, max_width_padding=9, **BLACK),
        0,
    ),
    "pad to aspect ratio": (functools.partial(pad.random_pad_to_aspect_ratio, aspect_ratio=0.8), 0),
    "ssd crop": (ssd.ssd_random_crop, 1),
    "ssd crop and pad": (
        functools.partial(ssd.ssd_random_crop_pad, operations=[{**op, **BLACK} for op in ssd.CROP_PAD_OPERATIONS]),
        1,
    ),
    "ssd crop to aspect ratio": (ssd.ssd_random_crop_fixed_aspect_ratio, 1),
    "ssd crop and pad to aspect ratio": (ssd.ssd_random_crop_pad_fixed_aspect_ratio, 1),
    "policy translate x": (policy(("TranslateX_BBox", 1.0, 1)), 0),
    "policy translate y": (policy(("TranslateY_BBox", 1.0, 1)), 0),
    "policy shear x": (policy(("ShearX_BBox", 1.0, 10)), 1.5),
    "policy shear y": (policy(("ShearY_BBox", 1.0, 10)), 1.5),
    "policy rotate": (policy(("Rotate_BBox", 1.0, 10)), 1.5),
    "policy twice": (policy(("TranslateX_BBox", 1.0, 1), ("Rotate_BBox", 0.0, 10), ("TranslateY_BBox", 0.5, 1)), 0),
}
SLANTED = {"policy shear x", "policy shear y", "policy rotate"}  # the box around what a border cuts off is not tight

# Changes of pixels alone; each at its strongest where the default is nearly nothing.
COLOURS = {
    "brightness": colour.random_adjust_brightness,
    "contrast": colour.random_adjust_contrast,
    "hue": functools.partial(colour.random_adjust_hue, max_delta=0.3),
    "saturation": colour.random_adjust_saturation,
    "distort 0": colour.random_distort_color,
    "distort 1": functools.partial(colour.random_distort_color, color_ordering=1),
    "pixel value scale": colour.random_pixel_value_scale,
    "sometimes gray": functools.partial(colour.random_rgb_to_gray, probability=0.5),
    "gray": colour.rgb_to_gray,
    "gamma": functools.partial(colour.adjust_gamma, gamma=2.0, gain=1.5),
    "jpeg": colour.random_jpeg_quality,
    "black patches": functools.partial(patches.random_black_patches, size_to_image_ratio=0.3),
    "patch gaussian": functools.partial(patches.random_patch_gaussian, max_patch_size=20),
    **{
        f"policy {name}": policy((name, 1.0, level))
        for name, level in {
            "AutoContrast": 5, "Equalize": 5, "Posterize": 5, "Solarize": 5, "SolarizeAdd": 10, "Color": 9,
            "Contrast": 9, "Brightness": 9, "Sharpness": 9, "Cutout": 1, "BBox_Cutout": 10,
        }.items()
    },
    **{
        f"policy {name} of boxes": functools.partial(
            policies.apply_policy, policy=(tuple((f"{name}_Only_BBoxes", 1.0, 3) for _ in range(3)),)
        )
        for name in ("TranslateX", "TranslateY", "ShearX", "ShearY", "Rotate", "Flip", "Equalize", "Cutout", "Solarize")
    },
}  # fmt: skip
NOT_RANDOM = {"horizontal flip", "vertical flip", "rotation", "resize", "gray", "gamma", "remap labels"} | {
    f"policy {n}"
    for n in (
        *("AutoContrast", "Equalize", "Posterize", "Solarize", "SolarizeAdd"),
        *("Color", "Contrast", "Brightness", "Sharpness"),
    )
}
LABELS = {
    "jitter": functools.partial(labels.random_jitter_boxes, ratio=0.5),
    "drop label": functools.partial(labels.drop_label_probabilistically, label=1, drop_probability=0.5),
    "remap labels": functools.partial(labels.remap_labels, original_labels=[1], new_label=2),
    "self-concatenation": functools.partial(geometry.random_self_concat_image, concat_vertical_probability=0.5),
}
ALL = {**{name: augment for name, (augment, _) in MOVES.items()}, **COLOURS, **LABELS}


@pytest.mark.parametrize("name", MOVES)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(box=pixel_box(), seed=SEEDS)
def test_a_box_moves_with_its_pixels(draw_example, find_box, pixel_boxes, name, box, seed):
    augment, tolerance = MOVES[name]
    before = draw_example([box], HEIGHT, WIDTH)
    after = augment(before, seed=tf.constant(seed))
    boxes = np.asarray(after.objects.boxes)
    assert (boxes >= 0).all() and (boxes <= 1).all()
    if not len(boxes):
        assert "crop" in name or "policy" in name  # the box may have been cut too short
        return
    assert after.objects.classes.numpy().tolist() == [0]
    is_cut = boxes.min() == 0 or boxes.max() == 1
    if name in (*SLANTED, "crop of the scaled") and is_cut and not np.any(after.image[..., 0] > 128):
        return  # of the box around it only an empty corner is left in the image, or a strip of less than half a pixel
    expected, found = pixel_boxes(after)[0], find_box(after)
    if name in SLANTED and is_cut:
        assert (found[:2] >= expected[:2] - tolerance).all() and (found[2:] <= expected[2:] + tolerance).all()
    else:
        np.testing.assert_allclose(expected, found, atol=tolerance + 1e-3)


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("dtype", [tf.uint8, tf.float32])
def test_all_fields_of_an_object_stay_together(draw_example, find_box, name, dtype):
    before = draw_example([(5, 5, 25, 25), (30, 40, 55, 75)], HEIGHT, WIDTH, dtype=dtype, channels=4, with_scores=True)
    augment, tolerance = MOVES[name]
    for seed in ([1, 2], [3, 4], [5, 6]):
        after = augment(before, seed=tf.constant(seed))
        assert after.image.shape[-1] == 4
        rows = after.objects.classes.numpy()
        for field in ("weights", "areas", "is_crowd", "is_difficult", "is_group_of", "class_scores"):
            np.testing.assert_array_equal(getattr(after.objects, field), getattr(before.objects, field).numpy()[rows])
        for row, label in enumerate(rows):
            found = find_box(after, label)
            height, width = after.image.shape[:2]
            expected = after.objects.boxes[row].numpy() * [height, width, height, width]
            if name not in SLANTED:
                np.testing.assert_allclose(found, expected, atol=max(tolerance, 3))


def grown(pixels: np.ndarray, reach: int) -> np.ndarray:
    """[H, W] bool, with all that is this many pixels away."""
    side = 2 * reach + 1
    return np.lib.stride_tricks.sliding_window_view(np.pad(pixels, reach), (side, side)).any(axis=(2, 3))


@pytest.mark.parametrize("name", [*MOVES, "self-concatenation"])
def test_a_mask_moves_with_its_pixels_and_its_box(draw_masked, paste, pixel_boxes, name):
    before = draw_masked([(5, 8, 45, 60), (30, 40, 55, 75)], HEIGHT, WIDTH, side=96)  # cells smaller than a pixel
    augment, tolerance = MOVES[name] if name in MOVES else (LABELS[name], 0)
    reach = 1 + math.ceil(tolerance)
    seen = 0
    for seed in ([1, 2], [3, 4], [5, 6], [7, 8]):
        after = augment(before, seed=tf.constant(seed))
        labels, boxes = after.objects.classes.numpy(), pixel_boxes(after)
        for label in np.unique(labels):
            found = np.asarray(after.image, np.float32)[..., label] > 128
            pasted = np.zeros_like(found)
            for row in np.flatnonzero(labels == label):
                mask = paste(after, row)
                begin, end = np.maximum(np.floor(boxes[row, :2]).astype(int), 0), np.ceil(boxes[row, 2:]).astype(int)
                within = np.zeros_like(found)
                within[begin[0] : end[0], begin[1] : end[1]] = True
                assert not np.any(mask & ~grown(within, reach))
                pasted |= mask
            assert not np.any(pasted & ~grown(found, reach))
            assert not np.any(found & ~grown(pasted, reach))
            seen += np.any(pasted)
    assert seen >= 3


@pytest.fixture(scope="module")
def colourful(draw_example):
    """Values from 20 to 200 with noise, two boxes, and a fourth channel that is no colour."""
    noise = np.random.default_rng(0).integers(0, 60, [32, 40, 4])
    ramp = np.linspace(20, 140, 40)[:, None] * [1.0, 0.5, 0.8, 1.0]
    example = draw_example([(2, 2, 18, 18), (10, 12, 30, 38)], 32, 40, channels=4)
    return example._replace(image=tf.constant((ramp + noise).astype(np.uint8)))


@pytest.mark.parametrize("name", COLOURS)
def test_pixels_change_within_their_range_and_boxes_do_not(colourful, name):
    has_changed = False
    for seed in range(8):
        after = COLOURS[name](colourful, seed=tf.constant([seed, 1]))
        image = np.asarray(after.image, np.float32)
        assert image.shape == colourful.image.shape
        assert image.min() >= 0 and image.max() <= 255
        tf.nest.map_structure(np.testing.assert_array_equal, after.objects, colourful.objects)
        has_changed |= not np.allclose(image, colourful.image, atol=0.5)
    assert has_changed


@pytest.mark.parametrize("name", ALL)
def test_equal_seeds_give_equal_examples_and_others_do_not(colourful, name):
    def results(seed, global_seed):
        tf.random.set_seed(global_seed)  # which says nothing
        after = ALL[name](colourful, seed=tf.constant(seed))
        return [np.asarray(leaf) for leaf in tf.nest.flatten(after) if leaf is not None]

    def is_first(others):
        return all(a.shape == b.shape and np.array_equal(a, b) for a, b in zip(first, others, strict=True))

    first = results((1, 2), 1)
    assert is_first(results((1, 2), 2))
    if name in NOT_RANDOM:
        assert is_first(results((3, 7), 1))
    else:
        assert not all(is_first(results((seed, 7), 1)) for seed in range(12))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [(1, 1), (500, 3)])
def test_images_without_boxes_and_of_extreme_size_pass(draw_example, name, size):
    for dtype in (tf.uint8, tf.float32):
        after = ALL[name](draw_example([], *size, dtype=dtype), seed=tf.constant([1, 2]))
        assert min(after.image.shape[:2]) >= 1
        assert after.objects.boxes.shape == (0, 4)


@pytest.mark.parametrize("name", ALL)
def test_an_image_of_one_pixel_with_a_box_passes(draw_example, name):
    after = ALL[name](draw_example([(0, 0, 1, 1)], 1, 1), seed=tf.constant([1, 2]))
    boxes = after.objects.boxes.numpy()
    assert (boxes >= 0).all() and (boxes <= 1).all()


CHAIN = (
    *(
        "horizontal flip",
        "rotation",
        "scale",
        "resize method",
        "crop",
        "pad",
        "crop to aspect ratio",
        "self-concatenation",
    ),
    *("square crop", "absolute pad", "crop and pad", "pad to aspect ratio", "jitter", "remap labels", "drop label"),
    *("ssd crop", "policy rotate", "policy Flip of boxes", "policy BBox_Cutout", "policy Sharpness"),
    *(
        "distort 1",
        "pixel value scale",
        "sometimes gray",
        "jpeg",
        "black patches",
        "patch gaussian",
        "gamma",
        "downscale",
    ),
    "crop of the scaled",
)


def test_a_chain_runs_in_a_pipeline_of_unknown_shapes_as_it_does_eagerly(draw_example):
    example = draw_example([(5, 5, 25, 25), (30, 40, 55, 75)], HEIGHT, WIDTH)

    def chain(image, boxes):
        current = Example(image, example.objects._replace(boxes=boxes))
        for i, name in enumerate(CHAIN):
            current = ALL[name](current, seed=tf.constant([i, 3]))
            assert current.image.shape[-1] == 3
            assert current.objects.boxes.shape[-1] == 4
        return current.image, current.objects.boxes, current.objects.classes

    spec = (tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([None, 4], tf.float32))
    data = tf.data.Dataset.from_generator(lambda: [(example.image, example.objects.boxes)], output_signature=spec)
    ((image, boxes, classes),) = data.map(tf.autograph.experimental.do_not_convert(chain))
    expected = chain(example.image, example.objects.boxes)
    np.testing.assert_allclose(image, expected[0], atol=2)  # a JPEG may round either way
    np.testing.assert_allclose(boxes, expected[1], atol=1e-4)
    np.testing.assert_array_equal(classes, expected[2])
    assert len(boxes) > 0
