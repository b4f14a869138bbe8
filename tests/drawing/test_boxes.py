"""Pictures: what is drawn where, in which colour, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest

from object_detection_fpn.drawing import boxes as boxes_module
from object_detection_fpn.drawing.boxes import Boxes, class_color, draw_boxes, to_rgb

NAMES = {0: "circle", 1: "square"}
GREY = 120


def blank(height=100, width=200):
    return np.full((height, width, 3), GREY, np.uint8)


def boxes(*rows, classes=None, scores=None, is_crowd=None):
    classes = np.zeros(len(rows), np.int32) if classes is None else np.asarray(classes)
    return Boxes(np.reshape(np.asarray(rows, np.float32), (-1, 4)), classes, scores, is_crowd)


def changed(picture, original):
    """(ymin, xmin, ymax, xmax) of the pixels that differ, None if none does."""
    rows, columns = np.nonzero((picture != original).any(axis=-1))
    return (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) if len(rows) else None


def test_frame_follows_the_box_to_the_pixel():
    drawn = draw_boxes(blank(), boxes([0.1, 0.2, 0.5, 0.7]), names=NAMES, show_labels=False, show_scores=False)
    assert changed(drawn, blank()) == (10, 40, 50, 140)
    assert tuple(drawn[10, 90]) == class_color(0)
    assert tuple(drawn[30, 90]) == (GREY,) * 3  # the inside stays as it was


def test_groundtruth_alone_takes_the_colour_given():
    options = {"names": NAMES, "show_labels": False, "groundtruth_color": "DarkOrange"}
    assert tuple(draw_boxes(blank(), boxes([0.1, 0.2, 0.5, 0.7]), **options)[10, 90]) == (255, 140, 0)
    found = boxes([0.1, 0.2, 0.5, 0.7], scores=np.array([0.9]))
    assert tuple(draw_boxes(blank(), found, show_scores=False, **options)[10, 90]) == class_color(0)


def test_a_box_around_the_whole_image_stays_in_it():
    drawn = draw_boxes(blank(), boxes([-0.5, 0.0, 1.0, 7.0]), names=NAMES, show_labels=False)
    assert changed(drawn, blank()) == (0, 0, 100, 200)


def test_the_image_given_is_not_drawn_on():
    image = blank()
    draw_boxes(image, boxes([0.1, 0.1, 0.9, 0.9]), names=NAMES)
    assert (image == GREY).all()


@pytest.mark.parametrize(
    "row",
    [[0.5, 0.5, 0.5, 0.9], [0.9, 0.1, 0.2, 0.8], [np.nan, 0, 1, 1], [0.1, 0.1, np.inf, 0.5], [1.2, 1.2, 1.5, 1.5]],
    ids=["no height", "inverted", "nan", "infinite", "outside"],
)
def test_what_is_no_box_is_left_out(row):
    assert changed(draw_boxes(blank(), boxes(row), names=NAMES), blank()) is None


def test_detections_below_the_score_or_beyond_the_number_are_left_out():
    found = boxes([0, 0, 0.4, 0.2], [0.6, 0, 1, 0.2], [0.6, 0.6, 1, 1], scores=np.array([0.6, 0.9, 0.3]))
    options = {"names": NAMES, "show_labels": False, "show_scores": False}
    assert changed(draw_boxes(blank(), found, **options), blank()) == (0, 0, 100, 40)
    assert changed(draw_boxes(blank(), found, max_num_boxes=1, **options), blank()) == (60, 0, 100, 40)
    assert changed(draw_boxes(blank(), found, min_score=0.95, **options), blank()) is None


def test_a_score_that_is_not_a_number_is_left_out():
    found = boxes([0.1, 0.1, 0.9, 0.9], scores=np.array([np.nan]))
    assert changed(draw_boxes(blank(), found, names=NAMES, min_score=0.0), blank()) is None


def test_all_groundtruth_is_drawn():
    rows = [[0.0, x / 40, 1.0, (x + 0.8) / 40] for x in range(40)]
    drawn = draw_boxes(blank(), boxes(*rows), names=NAMES, max_num_boxes=20, show_labels=False)
    assert changed(drawn, blank()) == (0, 0, 100, 199)


def test_the_better_detection_is_on_top():
    found = boxes([0.2, 0.2, 0.8, 0.8], [0.2, 0.2, 0.8, 0.8], classes=[0, 1], scores=np.array([0.6, 0.9]))
    drawn = draw_boxes(blank(), found, names=NAMES, show_labels=False, show_scores=False)
    assert tuple(drawn[20, 100]) == class_color(1)


@pytest.mark.parametrize(
    "row", [[0.0, 0.0, 0.3, 0.1], [0.0, 0.95, 0.3, 1.0], [0.95, 0.95, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
)
def test_labels_stay_in_the_image_and_take_room(row):
    only_frame = draw_boxes(blank(), boxes(row), names=NAMES, show_labels=False)
    labelled = draw_boxes(blank(), boxes(row), names=NAMES)
    top, left, bottom, right = changed(labelled, only_frame)
    assert bottom - top >= 12 and right - left >= 30  # "circle" in letters of 11 pixels


def test_labels_say_name_score_crowd_and_id(monkeypatch):
    written = []
    monkeypatch.setattr(boxes_module, "_draw_label", lambda canvas, label, *rest: written.append(label))
    row = [0.1, 0.1, 0.9, 0.9]
    draw_boxes(blank(), boxes(row, row, classes=[0, 8], scores=np.array([0.912, 1.0])), names=NAMES)
    draw_boxes(blank(), boxes(row, classes=[1], is_crowd=np.array([True])), names=NAMES)
    draw_boxes(blank(), boxes(row, scores=np.array([0.75])), names=NAMES, show_labels=False)
    draw_boxes(blank(), boxes(row, scores=np.array([0.75])), names=NAMES, show_scores=False)
    draw_boxes(blank(), boxes(row, scores=np.array([0.75])), names=NAMES, show_labels=False, show_scores=False)
    assert written == ["circle 91%", "id 9 100%", "square (crowd)", "75%", "circle"]


def test_neighbouring_classes_have_colours_far_apart():
    colors = np.array([class_color(i) for i in range(20)], float)
    distances = np.linalg.norm(colors[1:] - colors[:-1], axis=1)
    assert distances.min() > 100
    assert len({tuple(color) for color in colors}) == 20


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_images_of_other_channels_are_shown(channels):
    image = np.full((4, 5, channels), 300.0, np.float32)
    image[0, 0] = -5
    image[1, 1] = 7.6
    shown = to_rgb(image)
    assert shown.shape == (4, 5, 3) and shown.dtype == np.uint8
    assert shown[0, 0].tolist() == [0] * 3 and shown[1, 1].tolist() == [8] * 3 and shown[2, 2].tolist() == [255] * 3


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 2), (4, 5, 0)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(ValueError, match="cannot be shown"):
        to_rgb(np.zeros(shape))
