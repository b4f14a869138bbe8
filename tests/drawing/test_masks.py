"""Masks drawn over images."""

from __future__ import annotations

import numpy as np
import pytest

from object_detection_fpn.drawing.boxes import Boxes, class_color, draw_boxes
from object_detection_fpn.drawing.masks import draw_masks
from object_detection_fpn.drawing.sheets import side_by_side

RED, BLUE = (255, 0, 0), (0, 0, 255)
GREY = np.full((40, 60, 3), 100, np.uint8)
SQUARE = (np.ones((10, 10), bool), (5, 20))


def test_a_mask_lets_the_image_through_within_an_outline():
    drawn = draw_masks(GREY, [SQUARE], [RED], opacity=0.4)
    assert drawn[5, 20].tolist() == drawn[14, 29].tolist() == list(RED)
    assert drawn[8, 25].tolist() == [162, 60, 60]  # 0.6 of 100, 0.4 of the colour
    outside = np.ones((40, 60), bool)
    outside[5:15, 20:30] = False
    assert (drawn[outside] == 100).all()
    assert (GREY == 100).all()  # a copy was drawn on


def test_a_mask_of_the_whole_image_is_drawn_like_its_part():
    whole = np.zeros((40, 60), bool)
    whole[5:15, 20:30] = True
    np.testing.assert_array_equal(draw_masks(GREY, [whole], [RED]), draw_masks(GREY, [SQUARE], [RED]))


def test_later_masks_lie_over_earlier_ones():
    drawn = draw_masks(GREY, [SQUARE, SQUARE], [RED, BLUE], opacity=1.0, outline=False)
    assert drawn[8, 25].tolist() == list(BLUE)


def test_an_empty_mask_changes_nothing():
    empty = (np.zeros((0, 0), bool), (0, 0))
    np.testing.assert_array_equal(draw_masks(GREY, [empty], [RED]), GREY)


@pytest.mark.parametrize("begin", [(35, 0), (0, 55), (-1, 0)])
def test_a_mask_beyond_the_image_is_refused(begin):
    with pytest.raises(ValueError, match=rf"\[10, 10\] pixels from row {begin[0]}, column {begin[1]} reaches beyond"):
        draw_masks(GREY, [(np.ones((10, 10), bool), begin)], [RED])


BOXES = Boxes(
    np.array([[0.0, 0.0, 0.4, 0.4], [0.5, 0.5, 1.0, 1.0]]),
    np.array([0, 1]),
    scores=np.array([0.9, 0.2]),
    masks=[(np.ones((6, 6), bool), (6, 6)), (np.ones((6, 6), bool), (30, 50))],
)


def test_boxes_are_drawn_with_the_masks_of_what_is_drawn():
    plain = {"names": {}, "show_labels": False, "show_scores": False}
    drawn = draw_boxes(GREY, BOXES, **plain)
    differs = (drawn != draw_boxes(GREY, BOXES._replace(masks=None), **plain)).any(axis=-1)
    rows, columns = np.nonzero(differs)
    assert (rows.min(), columns.min(), rows.max(), columns.max()) == (6, 6, 11, 11)  # the other one's score is too low
    assert drawn[6, 6].tolist() == list(class_color(0))
    without = draw_boxes(GREY, BOXES._replace(masks=[None, None]), **plain)
    np.testing.assert_array_equal(without, draw_boxes(GREY, BOXES._replace(masks=None), **plain))


def test_masks_grow_with_a_picture_that_is_enlarged():
    plain = {"names": {}, "show_labels": False, "show_scores": False}
    truth = BOXES._replace(scores=None, masks=None)
    sheet = side_by_side(GREY, detections=BOXES, groundtruth=truth, **plain)
    factor = 8  # 320 / 40
    top = sheet.shape[0] - 40 * factor
    panel = sheet[top:, : 60 * factor]
    color = np.array(class_color(0))
    assert (panel[6 * factor, 6 * factor : 12 * factor] == color).all()
    assert (panel[9 * factor, 9 * factor] == np.rint(0.6 * 100 + 0.4 * color)).all()
