"""Pasting against the libraries whose ways it has, pixel by pixel, and the boxes that give an empty mask."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from object_detection_fpn.ops.pasting import PastedMask, fill_image, paste_masks

PASTINGS = ("CORNERS_ALIGNED", "PIXEL_CENTERS", "ZERO_BORDER")
LIBRARIES = {"detectron2": "PIXEL_CENTERS", "torchvision": "ZERO_BORDER"}


def paste(masks, boxes, image_size, pasting):
    return fill_image(paste_masks(masks, boxes, image_size, pasting=pasting), image_size)


@pytest.fixture(scope="module")
def odapi(golden_dir):
    return np.load(golden_dir / "masks" / "mask_paste.npz")


@pytest.fixture(scope="module")
def pytorch(golden_dir):
    return np.load(golden_dir / "pytorch" / "mask_paste.npz")


@pytest.mark.parametrize("height, width", [(40, 60), (23, 31)])
def test_corners_aligned_is_the_object_detection_api(odapi, height, width):
    boxes = odapi["boxes"] * np.tile(np.array([height, width], np.float32), 2)
    inside = paste(odapi["masks"], boxes, (height, width), "CORNERS_ALIGNED")
    np.testing.assert_array_equal(inside, odapi[f"inside_{height}x{width}"])


def test_corners_aligned_is_what_the_object_detection_api_evaluates(odapi):
    for i, size in enumerate(odapi["evaluation_image_shapes"]):
        boxes = odapi["evaluation_boxes"][i] * np.tile(size, 2).astype(np.float32)
        inside = paste(odapi["evaluation_masks"][i], boxes, tuple(size), "CORNERS_ALIGNED")
        np.testing.assert_array_equal(inside, odapi["evaluation_inside"][i, :, : size[0], : size[1]])


@pytest.mark.parametrize("library", LIBRARIES)
def test_pasting_is_that_of_the_library(pytorch, library):
    size = tuple(pytorch["image_size"])
    inside = paste(pytorch["masks"], pytorch["boxes"][:, [1, 0, 3, 2]], size, LIBRARIES[library])
    np.testing.assert_array_equal(inside, pytorch[library])


@pytest.mark.parametrize("library", LIBRARIES)
def test_masks_of_a_model_are_pasted_as_by_its_library(pytorch, library):
    logits, boxes, pasted = (pytorch[f"{library}_model/{name}"] for name in ("logits", "boxes", "pasted"))
    inside = paste(1 / (1 + np.exp(-logits)), boxes[:, [1, 0, 3, 2]], pasted.shape[1:], LIBRARIES[library])
    np.testing.assert_array_equal(inside, pasted)


EMPTY_BOXES = {
    "no height": [5, 5, 5, 15],
    "no width": [5, 5, 15, 5],
    "inverted": [15, 15, 5, 5],
    "not a number": [np.nan, 5, 15, 15],
    "infinite": [5, 5, np.inf, 15],
    "below": [50, 5, 60, 15],
    "left": [5, -30, 15, -20],
    "far away": [1e30, 1e30, 3e38, 3e38],
}


@pytest.mark.parametrize("pasting", PASTINGS)
def test_boxes_that_show_nothing_give_an_empty_mask_and_no_warning(pasting):
    boxes = np.array([*EMPTY_BOXES.values(), [-3e38, -3e38, 3e38, 3e38], [5, 5, 15, 15]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inside = paste(np.ones((len(boxes), 4, 4)), boxes, (20, 30), pasting)
    assert inside.any(axis=(1, 2)).tolist()[-1] and not inside[: len(EMPTY_BOXES)].any()


@pytest.mark.parametrize("pasting", PASTINGS)
def test_rows_and_columns_of_a_mask_may_differ_in_number(pasting):
    mask = np.zeros((1, 4, 8))
    mask[:, :, :4] = 1  # the left half
    inside = paste(mask, np.array([[10, 20, 50, 100]]), (60, 120), pasting)[0]
    rows, columns = np.nonzero(inside)
    # One pixel, where the border of the library's box lies.
    assert abs(rows.min() - 10) <= 1 and abs(rows.max() - 49) <= 1
    assert abs(columns.min() - 20) <= 1 and abs(columns.max() - 59) <= 1


@pytest.mark.parametrize("pasting", PASTINGS)
@pytest.mark.parametrize("image_size", [(1, 1), (1, 7), (7, 1)])
def test_images_of_one_pixel_a_side_are_pasted_into(pasting, image_size):
    boxes = np.array([[0, 0, *image_size]])
    assert paste(np.ones((1, 5, 5)), boxes, image_size, pasting).all()


def test_only_the_pixels_that_a_mask_may_touch_are_kept():
    (pasted,) = paste_masks(np.ones((1, 28, 28)), np.array([[10, 20, 30, 60]]), (640, 640), pasting="PIXEL_CENTERS")
    assert isinstance(pasted, PastedMask)
    assert pasted.pixels.shape == (20, 42) and pasted.begin == (10, 19)  # a pixel of width 40 / 28 lies half beyond


def test_no_masks_give_none():
    assert paste_masks(np.zeros((0, 28, 28)), np.zeros((0, 4)), (20, 30), pasting="ZERO_BORDER") == []
    assert fill_image([], (20, 30)).shape == (0, 20, 30)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"shape \[2, 28, 28\] and boxes of shape \[1, 4\] do not belong together"):
        paste_masks(np.zeros((2, 28, 28)), np.zeros((1, 4)), (20, 30), pasting="ZERO_BORDER")
    with pytest.raises(ValueError, match=r"pasting = 'NEAREST' is unknown\. Allowed: CORNERS_ALIGNED, PIXEL_CENTERS"):
        paste_masks(np.zeros((1, 28, 28)), np.zeros((1, 4)), (20, 30), pasting="NEAREST")
