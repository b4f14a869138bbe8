"""Curves of few detections, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from object_detection_fpn.tools.report.curves import best_f1, calibration, histogram, precision_at_recalls, precisions
from object_detection_fpn.tools.report.matching import AT_50, gather


def test_precision_is_the_highest_at_this_recall_or_beyond():
    # True, false, true of three objects: precision 1 up to 1/3, 2/3 up to 2/3, nothing beyond.
    found = precision_at_recalls(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 3)
    assert found == pytest.approx([1.0] * 34 + [2 / 3] * 33 + [0.0] * 34)


def test_precision_of_nothing_is_zero():
    assert not precision_at_recalls(np.zeros(0), np.zeros(0, bool), 2).any()


def test_classes_without_objects_have_no_curve(match):
    matches = gather([match([[0, 0, 9, 9]], [[0, 0, 9, 9]], classes=[1])], num_classes=2)
    found = precisions(matches, AT_50)
    assert not found[0].any()
    assert np.isnan(found[1]).all()


def test_best_f1_keeps_all_detections_of_its_score():
    scores, is_true = np.array([0.9, 0.6, 0.6, 0.3]), np.array([True, True, False, False])
    found = best_f1(scores, is_true, 2)
    # 0.9: 2 * 1 / (1 + 2); 0.6: 2 * 2 / (3 + 2); 0.3: 2 * 2 / (4 + 2). The true one of 0.6 cannot be had alone.
    assert found == pytest.approx((0.6, 2 / 3, 1.0, 0.8))


def test_of_equal_f1_the_highest_threshold_is_taken():
    # 0.9: 2 * 1 / (1 + 3); 0.2: 2 * 2 / (5 + 3).
    found = best_f1(np.array([0.9, 0.5, 0.4, 0.3, 0.2]), np.array([True, False, False, False, True]), 3)
    assert found.threshold == 0.9


def test_without_a_true_detection_there_is_no_threshold():
    assert best_f1(np.array([0.9]), np.array([False]), 3) is None
    assert best_f1(np.zeros(0), np.zeros(0, bool), 0) is None


def test_calibration_compares_scores_with_what_is_right():
    found = calibration(np.array([0.81, 0.83, 0.86, 0.82, 0.1]), np.array([True, True, False, True, True]))
    assert found.num.tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 4, 0]
    assert found.mean_score[8] == pytest.approx(0.83)
    assert found.precision[8] == 0.75
    assert np.isnan(found.precision[0])
    assert found.expected_error == pytest.approx((4 * 0.08 + 0.9) / 5)
    assert np.isnan(calibration(np.zeros(0), np.zeros(0, bool)).expected_error)


def test_histogram_counts_true_and_false():
    true, false = histogram(np.array([0.0, 0.049, 1.0, 0.5]), np.array([True, False, True, False]))
    assert np.flatnonzero(true).tolist() == [0, 19]
    assert np.flatnonzero(false).tolist() == [0, 10]
