"""Curves over the score: precision and recall, the threshold of the best F1, calibration, histogram.

All take detections of all images in one table; those that are ignored must be left out before.

Shape letters: N detections, C classes, R = 101 recalls.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from object_detection_fpn.tools.report.matching import Matches

RECALLS = np.linspace(0.0, 1.0, 101)  # at which COCO takes the precision
NUM_HISTOGRAM_BINS = 20
NUM_CALIBRATION_BINS = 10
_TINY = np.spacing(1)


class BestF1(NamedTuple):
    """The score from which on detections are best kept."""

    threshold: float
    precision: float
    recall: float
    f1: float


class Calibration(NamedTuple):
    """How often detections of a score are right, by bins of equal width."""

    num: np.ndarray
    """[bins] int, detections."""
    mean_score: np.ndarray
    """[bins] float, NaN in an empty bin."""
    precision: np.ndarray
    """[bins] float, the share that is true; NaN in an empty bin."""
    expected_error: float
    """The mean difference of score and precision, each bin counted by its detections (Guo et al. 2017); NaN without any."""


def precision_at_recalls(scores: np.ndarray, is_true: np.ndarray, num_groundtruth: int) -> np.ndarray:
    """COCO's precision of one class: the highest at this recall or beyond, 0 where the recall is not reached.

    Args:
        scores: [N] float; equal ones keep their order.
        is_true: [N] bool.
        num_groundtruth: objects to find, at least 1.

    Returns:
        [R] float.
    """
    order = np.argsort(-scores, kind="stable")
    num_true = np.cumsum(is_true[order])
    precision = num_true / (np.arange(len(order)) + 1 + _TINY)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return envelope[np.searchsorted(num_true / num_groundtruth, RECALLS, side="left")]


def precisions(matches: Matches, threshold_row: int) -> np.ndarray:
    """`precision_at_recalls` of each class at one IoU threshold, [C, R]; NaN for classes without groundtruth."""
    num_groundtruth = matches.num_groundtruth()
    is_kept = ~matches.is_ignored[threshold_row]
    result = np.full((matches.num_classes, len(RECALLS)), np.nan)
    for class_index in np.flatnonzero(num_groundtruth):
        rows = is_kept & (matches.classes == class_index)
        result[class_index] = precision_at_recalls(
            matches.scores[rows], matches.is_true[threshold_row, rows], int(num_groundtruth[class_index])
        )
    return result


def best_f1(scores: np.ndarray, is_true: np.ndarray, num_groundtruth: int) -> BestF1 | None:
    """The threshold of the highest F1; of equal ones the highest threshold. None if nothing true is found.

    Args:
        scores: [N] float.
        is_true: [N] bool.
        num_groundtruth: objects to find.
    """
    if not is_true.any():
        return None
    order = np.argsort(-scores, kind="stable")
    scores, num_true = scores[order], np.cumsum(is_true[order])
    num_kept = np.arange(len(order)) + 1
    f1 = 2 * num_true / (num_kept + num_groundtruth)
    # A threshold keeps all detections of its score.
    is_last = np.append(scores[1:] != scores[:-1], True)
    best = int(np.argmax(np.where(is_last, f1, -1.0)))
    return BestF1(
        float(scores[best]),
        float(num_true[best] / num_kept[best]),
        float(num_true[best] / num_groundtruth),
        float(f1[best]),
    )


def calibration(scores: np.ndarray, is_true: np.ndarray) -> Calibration:
    """The share of true detections by score.

    Args:
        scores: [N] float in [0, 1].
        is_true: [N] bool.
    """
    bins = _bins(scores, NUM_CALIBRATION_BINS)
    num = np.bincount(bins, minlength=NUM_CALIBRATION_BINS)
    with np.errstate(invalid="ignore"):
        mean_score = np.bincount(bins, scores, NUM_CALIBRATION_BINS) / num
        precision = np.bincount(bins, is_true, NUM_CALIBRATION_BINS) / num
    differences = np.abs(mean_score - precision)[num > 0]
    error = float(np.sum(differences * num[num > 0]) / len(scores)) if len(scores) else float("nan")
    return Calibration(num, mean_score, precision, error)


def histogram(scores: np.ndarray, is_true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True and false detections by score, each [bins] int."""
    bins = _bins(scores, NUM_HISTOGRAM_BINS)
    true = np.bincount(bins[is_true], minlength=NUM_HISTOGRAM_BINS)
    return true, np.bincount(bins[~is_true], minlength=NUM_HISTOGRAM_BINS)


def _bins(scores: np.ndarray, num_bins: int) -> np.ndarray:
    return np.clip(np.floor(scores * num_bins), 0, num_bins - 1).astype(int)
