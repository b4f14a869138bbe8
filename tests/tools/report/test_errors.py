"""Each kind of error by one drawn case, which kind goes first where two fit, and what mending them gains."""

from __future__ import annotations

import numpy as np
import pytest

from object_detection_fpn.tools.report.errors import (
    BACKGROUND,
    BOTH,
    CLASSIFICATION,
    DUPLICATE,
    IGNORED,
    KINDS,
    LOCALIZATION,
    MISSED,
    TRUE,
    classify_errors,
    costs,
)

SQUARE = [0, 0, 10, 10]
FAR = [100, 100, 110, 110]
SHIFTED = [0, 5, 10, 15]  # overlaps SQUARE by 1/3
TOUCHING = [0, 9, 10, 19]  # overlaps SQUARE by 1/19, below 0.1


# Groundtruth (box, class), detections (box, class) best first, kinds of detections, which objects are missed.
CASES = {
    "true": ([(SQUARE, 0)], [(SQUARE, 0)], [TRUE], [False]),
    "wrong class": ([(SQUARE, 0)], [(SQUARE, 1)], [CLASSIFICATION], [False]),
    "bad place": ([(SQUARE, 0)], [(SHIFTED, 0)], [LOCALIZATION], [False]),
    "wrong class and bad place": ([(SQUARE, 0)], [(SHIFTED, 1)], [BOTH], [True]),
    "found twice": ([(SQUARE, 0)], [(SQUARE, 0), (SQUARE, 0)], [TRUE, DUPLICATE], [False]),
    "nothing there": ([(SQUARE, 0)], [(FAR, 0)], [BACKGROUND], [True]),
    "hardly anything there": ([(SQUARE, 0)], [(TOUCHING, 0)], [BACKGROUND], [True]),
    "not found": ([(SQUARE, 0)], [], [], [True]),
    "an image without objects": ([], [(SQUARE, 0)], [BACKGROUND], []),
    # Where two kinds fit. A bad place beside its own class goes before a wrong class on another object.
    "localization before classification": (
        [(SQUARE, 0), (SHIFTED, 1)],
        [(SHIFTED, 0)],
        [LOCALIZATION],
        [False, True],
    ),
    # On a found object of its class and on one of another class: the wrong class goes before the duplicate.
    "classification before duplicate": (
        [(SQUARE, 0), (SQUARE, 1)],
        [(SQUARE, 0), (SQUARE, 0)],
        [TRUE, CLASSIFICATION],
        [False, False],
    ),
    # Beside an object of another class, and on a found one of its own.
    "duplicate before both": (
        [(SQUARE, 0), (SHIFTED, 1)],
        [(SQUARE, 0), (SQUARE, 0)],
        [TRUE, DUPLICATE],
        [False, True],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_kind_of_each_error(match, name):
    truth, found, kinds, is_missed = CASES[name]
    errors = classify_errors(
        match(
            [box for box, _ in truth],
            [box for box, _ in found],
            gt_classes=[index for _, index in truth],
            classes=[index for _, index in found],
        )
    )
    assert errors.kinds.tolist() == kinds
    assert errors.is_missed.tolist() == is_missed


def test_crowds_are_no_objects(match):
    errors = classify_errors(match([[0, 0, 100, 100]], [SQUARE, SQUARE, FAR], crowd=[True], classes=[0, 1, 0]))
    assert errors.kinds.tolist() == [IGNORED, BACKGROUND, BACKGROUND]
    assert errors.is_missed.tolist() == [False]


def cost_of(*images, num_classes=2):
    return costs(images, [classify_errors(image) for image in images], num_classes=num_classes)


def test_a_perfect_detector_has_nothing_to_gain(match):
    found = cost_of(match([SQUARE, FAR], [SQUARE, FAR], gt_classes=[0, 1], classes=[0, 1]), match([], []))
    assert found.ap50 == pytest.approx(1)
    assert found.gains == dict.fromkeys(KINDS, 0)
    assert (found.gain_of_false, found.gain_of_missed) == (0, 0)


def test_a_detector_that_finds_nothing_gains_all_by_missing_nothing(match):
    found = cost_of(match([SQUARE, FAR], [], gt_classes=[0, 1]))
    assert found.ap50 == 0
    assert found.gains == {**dict.fromkeys(KINDS, 0), MISSED: 1}
    assert (found.gain_of_false, found.gain_of_missed) == (0, 1)


def test_without_objects_nothing_is_defined(match):
    found = cost_of(match([], [SQUARE]))
    assert np.isnan([found.ap50, *found.gains.values(), found.gain_of_false, found.gain_of_missed]).all()


# One class, two objects, of which FAR is found with 0.8; the false detection has 0.9: precision 1/2 up to recall 1/2.
# 51 of 101 recalls are reached.
BASE = 51 / 101 / 2
ONE_FOUND = 51 / 101


def test_gains_worked_by_hand(match):
    def gains(box, class_index, **settings):
        found = cost_of(match([SQUARE, FAR], [box, FAR], classes=[class_index, 0], **settings), num_classes=2)
        return found.ap50, found.gains

    ap50, gained = gains(SHIFTED, 0)
    assert ap50 == pytest.approx(BASE)
    assert gained[LOCALIZATION] == pytest.approx(1 - BASE)  # both objects are found, nothing is false
    assert sum(value for kind, value in gained.items() if kind != LOCALIZATION) == 0

    ap50, gained = gains(SQUARE, 1)
    assert ap50 == pytest.approx(ONE_FOUND)  # what is false is of a class without objects
    assert gained[CLASSIFICATION] == pytest.approx(1 - ONE_FOUND)

    ap50, gained = gains([200, 200, 210, 210], 0)
    assert gained[BACKGROUND] == pytest.approx(ONE_FOUND - BASE)
    assert gained[MISSED] == pytest.approx(0.5 - BASE)  # one object alone, at precision 1/2


def test_of_mended_detections_of_an_object_the_best_alone_stays(match):
    found = cost_of(match([SQUARE], [SHIFTED, [0, 0, 10, 9], [5, 0, 15, 10]], scores=[0.9, 0.8, 0.7]), num_classes=1)
    # Before: false, true, false. The first becomes the true one; the second, which was, and the third go.
    assert found.ap50 == pytest.approx(0.5)
    assert found.gains[LOCALIZATION] == pytest.approx(0.5)


def test_a_duplicate_is_removed(match):
    found = cost_of(match([SQUARE, FAR], [SQUARE, SQUARE, FAR], scores=[0.9, 0.8, 0.7]), num_classes=1)
    expected = (51 + 50 * 2 / 3) / 101
    assert found.ap50 == pytest.approx(expected)
    assert found.gains[DUPLICATE] == pytest.approx(1 - expected)
    assert found.gain_of_false == pytest.approx(1 - expected)


def test_both_wrong_is_removed(match):
    found = cost_of(match([SQUARE, FAR], [SHIFTED, FAR], gt_classes=[0, 1], classes=[1, 1]), num_classes=2)
    assert found.ap50 == pytest.approx(0.25)
    assert found.gains[BOTH] == pytest.approx(0.25)
