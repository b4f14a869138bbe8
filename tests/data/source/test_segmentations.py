"""Pixels as pycocotools has them, each fault in words, and PNG files that decode to the same."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image
from pycocotools import mask as coco_mask

from object_detection_fpn.data.source import segmentations
from object_detection_fpn.data.source.coco import CocoAnnotation
from object_detection_fpn.data.source.segmentations import BrokenMask, Fault, Notice

WIDTH, HEIGHT = 8, 6
SQUARE = [2, 1, 6, 1, 6, 4, 2, 4]


def make(segmentation, *, bbox=(0, 0, WIDTH, HEIGHT), width=WIDTH, height=HEIGHT):
    annotation = CocoAnnotation(7, 1, 1, bbox, None, False, segmentation)
    return segmentations.make_mask(annotation, width, height)


def rows(pixels):
    return ["".join(".#"[value] for value in row) for row in pixels.tolist()]


WORKED = {
    "square": ([SQUARE], ["........", "..####..", "..####..", "..####..", "........", "........"]),
    "two parts": (
        [SQUARE, [0, 4, 2, 4, 2, 6, 0, 6]],
        ["........", "..####..", "..####..", "..####..", "##......", "##......"],
    ),
    "overlapping parts": (
        [SQUARE, [4, 2, 8, 2, 8, 6, 4, 6]],
        ["........", "..####..", "..######", "..######", "....####", "....####"],
    ),
    "clipped": (
        [[-3, -2, 2, -2, 2, 1, -3, 1], [6, 4, 12, 4, 12, 9, 6, 9]],
        ["##......", "........", "........", "........", "......##", "......##"],
    ),
    "part without corners": ([[1, 2], SQUARE], ["........", "..####..", "..####..", "..####..", "........", "........"]),
    "run lengths": (
        {"size": [6, 8], "counts": [1, 4, 2, 3, 38]},
        ["........", "##......", "##......", "##......", "#.......", "........"],
    ),
    "inside first": ({"size": [6.0, 8], "counts": [0, 6, 42.0]}, ["#......."] * 6),
}  # fmt: skip


@pytest.mark.parametrize("segmentation, expected", WORKED.values(), ids=WORKED)
def test_worked_segmentations(segmentation, expected):
    assert rows(make(segmentation).pixels) == expected


coordinates = st.floats(-4, 24, width=32) | st.integers(-20, 120).map(lambda tenths: tenths / 5)


@settings(max_examples=100, deadline=None)
@given(parts=st.lists(st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=9), min_size=1, max_size=3))
def test_polygons_become_the_pixels_of_pycocotools(parts):
    polygons = [[value for corner in part for value in corner] for part in parts]
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 15, 20)))
    try:
        np.testing.assert_array_equal(make(polygons, width=20, height=15).pixels, expected)
    except BrokenMask as broken:
        assert not expected.any() and broken.fault in (Fault.EMPTY, Fault.OUTSIDE)


@settings(max_examples=100, deadline=None)
@given(
    pixels=st_numpy.arrays(
        np.uint8, st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 1)
    )
)
@example(pixels=np.ones([1, 40], np.uint8))
@example(pixels=np.kron(np.eye(9, dtype=np.uint8), np.ones([70, 9], np.uint8)))
def test_run_lengths_of_both_forms_become_their_pixels(pixels):
    runs = coco_mask.encode(np.asfortranarray(pixels))
    column_by_column = pixels.T.ravel()
    changes = np.flatnonzero(np.diff(column_by_column, prepend=0)).tolist()
    counts = np.diff([0, *changes, column_by_column.size]).tolist()
    for written in (runs["counts"].decode(), counts):
        try:
            mask = make({"size": list(pixels.shape), "counts": written}, width=pixels.shape[1], height=pixels.shape[0])
            np.testing.assert_array_equal(mask.pixels, pixels)
        except BrokenMask as broken:
            assert broken.fault is Fault.EMPTY and not pixels.any()


@pytest.mark.parametrize(
    "segmentation, fault, message",
    [
        ("polygon", Fault.FORM, 'its segmentation is "polygon". Allowed: a list of polygons, or run lengths with size'),
        ({"size": [6, 8]}, Fault.FORM, 'its segmentation is {"size": [6, 8]}. Allowed'),
        (SQUARE, Fault.FORM, "its segmentation holds 2. Allowed: polygons, each a list x, y, x, y, ... of numbers"),
        ([[]], Fault.FEW_CORNERS, "polygon [] has 0 corners. Allowed: 3 and more"),
        ([[1, 2, 3, 4]], Fault.FEW_CORNERS, "polygon [1, 2, 3, 4] has 2 corners"),
        ([[1, 2], [3]], Fault.FEW_CORNERS, "polygon [1, 2] has 1 corners"),
        ([[1, 2, 3, 4, 5, 6, 7]], Fault.ODD_COORDINATES, "has 7 coordinates. Allowed: x, y, x, y, ..."),
        ([[1, 2, math.nan, 4, 5, 6]], Fault.NO_NUMBER, "polygon [1, 2, NaN, 4, 5, 6] holds NaN. Allowed: finite numbers"),
        ([[1, 2, None, 4, 5, 6]], Fault.NO_NUMBER, "holds null"),
        ([[1, 2, "3", 4, 5, 6]], Fault.NO_NUMBER, 'holds "3"'),
        ([[[1, 2], [3, 4], [5, 6]]], Fault.NO_NUMBER, "holds [1, 2]"),
        ([[9, 1, 12, 1, 12, 4]], Fault.OUTSIDE, "lies outside of the image, 8 x 6 pixels"),
        ([[1, -9, 4, -9, 4, -1]], Fault.OUTSIDE, "lies outside of the image"),
        ([[1, 1, 10**400, 1, 4, 4]], Fault.OUTSIDE, "has a corner far outside of the image"),
        ([[2, 2, 2, 2, 2, 2]], Fault.EMPTY, "its mask has no pixel"),
        ({"size": [8, 6], "counts": [48]}, Fault.SIZE, "of size [8, 6]. Allowed: [height, width] = [6, 8]"),
        ({"size": None, "counts": [48]}, Fault.SIZE, "of size null"),
        ({"size": [6, 8], "counts": [10, 37]}, Fault.COUNTS, "its counts add up to 47. Allowed: 6 x 8 = 48 pixels"),
        ({"size": [6, 8], "counts": []}, Fault.COUNTS, "its counts add up to 0"),
        ({"size": [6, 8], "counts": [50, -2]}, Fault.COUNTS, "its counts are [50, -2]. Allowed: whole numbers, 0 and above"),
        ({"size": [6, 8], "counts": [47.5, 0.5]}, Fault.COUNTS, "its counts are [47.5, 0.5]"),
        ({"size": [6, 8], "counts": [2**64, 48 - 2**64]}, Fault.COUNTS, "its counts are [18446744073709551616"),
        ({"size": [6, 8], "counts": "P1"}, Fault.COUNTS, "its counts add up to 32"),
        ({"size": [6, 8], "counts": "PPPPPPPPPP1"}, Fault.COUNTS, 'its counts are "PPPPPPPPPP1"'),
        ({"size": [6, 8], "counts": "1P"}, Fault.COUNTS, 'its counts are "1P"'),  # a digit is missing
        ({"size": [6, 8], "counts": ""}, Fault.COUNTS, 'its counts are ""'),
        ({"size": [6, 8], "counts": "1 2"}, Fault.COUNTS, 'its counts are "1 2"'),
        ({"size": [6, 8], "counts": "1ü"}, Fault.COUNTS, 'its counts are "1ü"'),
        ({"size": [6, 8], "counts": None}, Fault.COUNTS, "its counts are null"),
        ({"size": [6, 8], "counts": [48]}, Fault.EMPTY, "its mask has no pixel"),
    ],
)  # fmt: skip
def test_a_segmentation_without_a_mask_is_named(segmentation, fault, message):
    with pytest.raises(BrokenMask) as caught:
        make(segmentation)
    assert caught.value.fault is fault and message in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "segmentation, bbox, notices",
    [
        ([SQUARE], (2, 1, 4, 3), []),
        ([SQUARE], (2.9, 1.9, 2.2, 1.2), []),
        ([SQUARE], (3.1, 1, 4, 3), [Notice.BEYOND_BOX]),
        ([SQUARE], (2, 1, 4, 1.9), [Notice.BEYOND_BOX]),
        ([[-2, *SQUARE[1:]]], (0, 1, 8, 3), [Notice.BEYOND_IMAGE]),
        ([[2, 1, 9.5, 1, 9.5, 4, 2, 4]], (2, 1, 8, 3), [Notice.BEYOND_IMAGE]),
        ([SQUARE, [1]], (2, 1, 4, 3), [Notice.PART_LEFT_OUT]),
        ({"size": [6, 8], "counts": [0, 48]}, (2, 1, 4, 3), [Notice.BEYOND_BOX]),
    ],
)
def test_what_is_odd_about_a_mask_is_noted(segmentation, bbox, notices):
    assert make(segmentation, bbox=bbox).notices == notices


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5) | st.just(10**350),
    lambda children: (
        st.lists(children, max_size=9)
        | st.fixed_dictionaries({"size": st.just([HEIGHT, WIDTH]), "counts": children})
        | st.lists(st.floats(-20, 20), max_size=9)
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(segmentation=ANY_JSON | st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=12).map(
    lambda counts: {"size": [HEIGHT, WIDTH], "counts": counts}
))  # fmt: skip
def test_anything_is_a_mask_or_broken(segmentation):
    try:
        mask = make(segmentation)
    except BrokenMask as error:
        str(error).encode()
        return
    assert mask.pixels.shape == (HEIGHT, WIDTH) and mask.pixels.any() and mask.pixels.max() == 1


@pytest.mark.parametrize("width", [1, 7, 8, 9, 33])
def test_png_files_hold_the_mask_in_one_bit_a_pixel(width):
    random = (np.random.default_rng(width).random([5, width]) < 0.2).astype(np.uint8)
    for pixels in (random, np.asfortranarray(random), random.astype(bool), np.zeros_like(random), np.ones_like(random)):
        encoded = segmentations.encode_png(pixels)
        np.testing.assert_array_equal(tf.io.decode_png(encoded, channels=1)[..., 0].numpy() > 0, pixels > 0)
        with Image.open(io.BytesIO(encoded)) as image:
            assert image.mode == "1"
            np.testing.assert_array_equal(np.asarray(image), pixels > 0)
