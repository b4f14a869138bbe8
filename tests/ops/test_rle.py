"""Run lengths of pasted masks are those that pycocotools finds in the whole image."""

from __future__ import annotations

import hypothesis
import numpy as np
import pycocotools.mask
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from object_detection_fpn.ops import rle
from object_detection_fpn.ops.pasting import PastedMask, fill_image


@st.composite
def pasted_masks(draw):
    """A mask of any pixels anywhere in a small image, and the size of the image."""
    size = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    begin = tuple(draw(st.integers(0, side)) for side in size)
    shape = tuple(draw(st.integers(0, side - first)) for side, first in zip(size, begin, strict=True))
    return PastedMask(draw(arrays.arrays(bool, shape)), begin), size


@hypothesis.given(pasted_masks())
def test_a_pasted_mask_is_encoded_as_its_whole_image(case):
    pasted, size = case
    (image,) = fill_image([pasted], size)
    encoded = rle.encode_pasted(pasted, size)
    assert encoded == pycocotools.mask.encode(np.asfortranarray(image, np.uint8)) == rle.encode_mask(image)
    np.testing.assert_array_equal(rle.decode(encoded), image)


def test_runs_that_touch_across_columns_are_one():
    pasted = PastedMask(np.ones((4, 2), bool), (0, 1))  # all rows of the columns 1 and 2 of 4
    assert rle.encode_pasted(pasted, (4, 4)) == pycocotools.mask.frPyObjects(
        {"size": [4, 4], "counts": [4, 8, 4]}, 4, 4
    )


@pytest.mark.parametrize(
    "box, rows, columns",
    [
        ([1, 2, 3, 5], (1, 3), (2, 5)),
        ([1.5, 2.5, 2.5, 4.5], (1, 3), (2, 5)),  # all that it touches
        ([-3, -3, 20, 1], (0, 6), (0, 1)),
        ([2, 2, 2, 4], (2, 2), (2, 4)),
        ([20, 20, 30, 30], (6, 6), (8, 8)),
    ],
)
def test_a_box_is_all_pixels_that_it_touches(box, rows, columns):
    expected = np.zeros((6, 8), bool)
    expected[slice(*rows), slice(*columns)] = True
    np.testing.assert_array_equal(rle.decode(rle.encode_box(np.array(box, float), (6, 8))), expected)
