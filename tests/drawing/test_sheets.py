"""Sheets: panels beside each other."""

from __future__ import annotations

import numpy as np
import pytest

from object_detection_fpn.drawing.boxes import Boxes
from object_detection_fpn.drawing.sheets import side_by_side

NAMES = {0: "circle", 1: "square"}
GREY = 120


def blank(height=100, width=200):
    return np.full((height, width, 3), GREY, np.uint8)


def boxes(*rows, classes=None, scores=None, is_crowd=None):
    classes = np.zeros(len(rows), np.int32) if classes is None else np.asarray(classes)
    return Boxes(np.reshape(np.asarray(rows, np.float32), (-1, 4)), classes, scores, is_crowd)


@pytest.mark.parametrize(
    "height, width, factor",
    [(400, 500, 1), (160, 160, 2), (100, 200, 4), (90, 1500, 1), (1, 1, 320), (1000, 2000, 1)],
)
def test_side_by_side_shows_two_panels_of_one_size(height, width, factor):
    truth = boxes([0.1, 0.1, 0.9, 0.9])
    found = truth._replace(scores=np.array([0.8]))
    sheet = side_by_side(blank(height, width), detections=found, groundtruth=truth, names=NAMES)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1:] == (2 * factor * width + 8, 3)
    caption = sheet.shape[0] - factor * height
    assert 15 <= caption <= 60
    assert (sheet[caption:, factor * width : factor * width + 8] == 255).all()  # the strip between them


def test_side_by_side_has_detections_on_the_left():
    only_left = side_by_side(
        blank(400, 400),
        detections=boxes([0.2, 0.2, 0.8, 0.8], scores=np.array([0.9])),
        groundtruth=boxes(),
        names=NAMES,
    )
    right = only_left[-400:, 408:]
    assert (right == GREY).all()
    assert not (only_left[-400:, :400] == GREY).all()
