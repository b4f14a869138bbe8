"""Who is taken for whom, in drawn cases. Two classes; the last row and column are background."""

from __future__ import annotations

import numpy as np
import pytest

from object_detection_fpn.tools.report.confusion import confusion_matrix

SQUARE = [0, 0, 10, 10]
FAR = [100, 100, 110, 110]


@pytest.mark.parametrize(
    "gt_classes, classes, cells",
    [
        ([0], [0], {(0, 0): 1}),
        ([0], [1], {(0, 1): 1}),
        # The object goes to its own class, although the other one scores higher and is then false.
        ([0], [1, 0], {(0, 0): 1, (2, 1): 1}),
        ([0], [0, 0], {(0, 0): 1, (2, 0): 1}),
        ([0], [], {(0, 2): 1}),
        ([], [1], {(2, 1): 1}),
        ([], [], {}),
        ([0, 1], [0, 1], {(0, 0): 1, (1, 1): 1}),
    ],
)
def test_objects_at_one_place(match, gt_classes, classes, cells):
    image = match([SQUARE] * len(gt_classes), [SQUARE] * len(classes), gt_classes=gt_classes, classes=classes)
    matrix = confusion_matrix([image], np.zeros(2))
    assert {tuple(cell): matrix[tuple(cell)] for cell in np.argwhere(matrix).tolist()} == cells


def test_each_class_has_its_own_threshold(match):
    image = match([SQUARE, FAR], [SQUARE, FAR], gt_classes=[0, 1], classes=[0, 1], scores=[0.5, 0.5])
    assert confusion_matrix([image], np.array([0.5, 0.6])).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_what_lies_in_a_crowd_is_left_out(match):
    image = match([[0, 0, 100, 100]], [SQUARE], crowd=[True])
    assert not confusion_matrix([image], np.zeros(1)).any()
