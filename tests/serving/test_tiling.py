"""Tiles of large images, and how what is found in them is merged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from object_detection_fpn.ops import nms
from object_detection_fpn.ops.pasting import PastedMask, fill_image
from object_detection_fpn.serving.merging import Found, find_cut, join_masks, merge
from object_detection_fpn.serving.predictor import Predictor
from object_detection_fpn.serving.tiling import Tiling, predict_image, predict_tiles, tiles

# Two tiles side by side: columns 0 to 100 and 80 to 180.
PAIR = np.array([[0, 0, 100, 100], [0, 80, 100, 180]])
PAIR_SIZE = (100, 180)


def merge_boxes(boxes, scores, views, *, classes=None, windows=PAIR, image_size=PAIR_SIZE, masks=None):
    found = Found(
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array([1] * len(scores) if classes is None else classes),
        masks,
    )
    return merge(found, views=np.array(views), windows=windows, image_size=image_size)


@pytest.mark.parametrize(
    "length, side, overlap, begins",
    [
        (100, 100, 0.2, [0]),
        (99, 100, 0.2, [0]),
        (101, 100, 0.2, [0, 1]),
        (180, 100, 0.2, [0, 80]),
        (181, 100, 0.2, [0, 80, 81]),
        (250, 100, 0.0, [0, 100, 150]),
        (200, 100, 0.5, [0, 50, 100]),
    ],
)
def test_the_last_tile_ends_with_the_image(length, side, overlap, begins):
    found = tiles((length, 64), side, overlap)
    assert found.tolist() == [[begin, 0, begin + min(side, length), 64] for begin in begins]
    assert tiles((64, length), side, overlap).tolist() == [[0, b, 64, b + min(side, length)] for b in begins]


@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    side=st.integers(16, 120),
    overlap=st.floats(0.0, 0.9),
)
def test_tiles_cover_the_image_in_one_size_and_overlap_enough(size, side, overlap):
    found = tiles(size, side, overlap)
    covered = np.zeros(size, bool)
    for ymin, xmin, ymax, xmax in found:
        covered[ymin:ymax, xmin:xmax] = True
    assert covered.all() and (found[:, 2:] <= size).all() and (found[:, :2] >= 0).all()
    assert {tuple(each) for each in found[:, 2:] - found[:, :2]} == {(min(side, size[0]), min(side, size[1]))}
    for axis in (0, 1):
        begins = np.unique(found[:, axis])
        assert (np.diff(begins) <= side * (1 - overlap) + 1e-6).all() or np.diff(begins).max() == 1


@pytest.mark.parametrize(
    "tiling, message", [(Tiling(15), "side 15 is too small"), (Tiling(64, 0.95), "0.95 is not allowed. Allowed: 0 to 0.9")]
)
def test_tilings_that_make_no_sense_are_refused(tiling, message):
    with pytest.raises(ValueError, match=message):
        tiling.check()


def test_a_box_is_cut_where_its_tile_ends_and_the_image_does_not():
    boxes = np.array([[0, 0, 50, 50], [40, 60, 90, 100], [40, 60, 90, 97], [50, 82, 70, 99], [0, 100, 100, 180]])
    windows = PAIR[[0, 0, 0, 1, 1]]
    # The third ends 3 pixels before, and is 37 wide, the fourth is in the second tile.
    assert find_cut(boxes.astype(float), windows, PAIR_SIZE).tolist() == [False, True, False, True, False]


def test_what_plain_suppression_would_leave_twice_is_found_once():
    """An object of 60 columns, the first 25 of which the first tile sees: the IoU of part and whole is 0.42."""
    part, whole = [20, 82, 60, 100], [20, 82.5, 60, 125]
    num = nms.batched_nms(
        np.array([[part, whole]], np.float32),
        np.array([[0.95, 0.9]], np.float32),
        max_outputs=2,
        iou_threshold=0.5,
        score_threshold=0.0,
    )[1]
    assert num.numpy().tolist() == [2]
    merged = merge_boxes([part, whole], [0.95, 0.9], [0, 1])
    assert merged.boxes.tolist() == [whole] or find_cut(np.array([whole]), PAIR[[1]], PAIR_SIZE)[0]
