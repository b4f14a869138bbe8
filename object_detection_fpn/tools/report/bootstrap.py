"""How far the AP of a model, and its difference to another's, depends on which images it was measured on.

The bootstrap over images (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13): images are drawn anew
with replacement, for both models the same ones, and AP is measured again. An image that is drawn k times counts k times;
the matches of its detections stay as they are.

Shape letters: B samples, I images, C classes, N detections of one class; T = 10 IoU thresholds, R = 101 recalls.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tqdm

from object_detection_fpn.tools.report.curves import RECALLS
from object_detection_fpn.tools.report.matching import AT_50, AT_75, THRESHOLDS, Matches

METRICS = ("AP", "AP50", "AP75")
_TINY = np.spacing(1)
_MAX_CELLS = 4_000_000  # of a table [B, N]: 32 MB


class Interval(NamedTuple):
    """A number, and where it lies with 95 % of the samples."""

    value: float | None
    """As measured on all images; None = undefined."""
    low: float | None
    high: float | None


class Compared(NamedTuple):
    """One metric of two models."""

    a: Interval
    b: Interval
    difference: Interval
    """b - a, of the same images each."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval of the difference leaves out 0."""
        low, high = self.difference.low, self.difference.high
        return low is not None and high is not None and not low <= 0 <= high


def draw_images(num_images: int, *, num_samples: int, seed: int) -> np.ndarray:
    """How often each image is drawn: [B, I] int; each row sums to I."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(num_images, np.full(num_images, 1 / num_images), size=num_samples)


def class_aps(matches: Matches, weights: np.ndarray, *, description: str = "") -> np.ndarray:
    """COCO's AP of each class, where each image counts several times.

    Args:
        matches: of a model.
        weights: [B, I] int, how often each image counts in each sample; all ones give the metrics as they are.
        description: what the progress bar says; none is shown without.

    Returns:
        [B, C, T] float, NaN where there is no groundtruth.
    """
    result = np.full((len(weights), matches.num_classes, len(THRESHOLDS)), np.nan)
    classes = np.unique(matches.gt_classes)
    for class_index in tqdm.tqdm(classes, desc=description, unit="class", disable=not description):
        rows = np.flatnonzero(matches.classes == class_index)
        rows = rows[np.argsort(-matches.scores[rows], kind="stable")]
        gt_images = matches.gt_images[matches.gt_classes == class_index]
        part_size = max(1, _MAX_CELLS // max(1, len(rows)))
        for begin in range(0, len(weights), part_size):
            part = weights[begin : begin + part_size]
            num_groundtruth = part[:, gt_images].sum(axis=1)
            times = part[:, matches.images[rows]]
            for row in range(len(THRESHOLDS)):
                result[begin : begin + part_size, class_index, row] = _average_precisions(
                    times * matches.is_true[row, rows], times * ~matches.is_ignored[row, rows], num_groundtruth
                )
    return result


def _average_precisions(num_true: np.ndarray, num_counted: np.ndarray, num_groundtruth: np.ndarray) -> np.ndarray:
    """[B] of how often each detection [B, N], best first, is true, and counts at all."""
    num_true, num_counted = np.cumsum(num_true, axis=1), np.cumsum(num_counted, axis=1)
    precision = num_true / (num_counted + _TINY)
    envelope = np.zeros((len(precision), precision.shape[1] + 1))  # 0 where a recall is not reached
    envelope[:, :-1] = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = num_true / np.maximum(num_groundtruth, 1)[:, np.newaxis]
    places = np.stack([np.searchsorted(each, RECALLS, side="left") for each in recall])  # [B, R]
    means = np.take_along_axis(envelope, places, axis=1).mean(axis=1)
    return np.where(num_groundtruth > 0, means, np.nan)


def compare_metrics(
    a: Matches, b: Matches, *, num_samples: int, seed: int, description: str = ""
) -> tuple[dict[str, Compared], dict[int, Compared]]:
    """Compares AP, AP50 and AP75, and the AP of each class.

    Args:
        a: of one model.
        b: of another one; images and groundtruth are the same, in the same order.
        num_samples: B.
        seed: the same seed gives the same intervals.
        description: what the progress bars say; none is shown without.

    Returns:
        Metrics by name, and AP by class (those that have groundtruth).
    """
    weights = draw_images(a.num_images, num_samples=num_samples, seed=seed)
    weights = np.concatenate([np.ones((1, a.num_images), weights.dtype), weights])  # first the images as they are
    aps = [
        class_aps(matches, weights, description=description and f"{description} {name}")
        for matches, name in ((a, "A"), (b, "B"))
    ]
    of_metrics = {
        name: _compare(*(_nanmean(values[:, :, rows], axis=(1, 2)) for values in aps))
        for name, rows in zip(METRICS, ([*range(len(THRESHOLDS))], [AT_50], [AT_75]), strict=True)
    }
    means = [_nanmean(values, axis=2) for values in aps]
    return of_metrics, {
        int(index): _compare(means[0][:, index], means[1][:, index]) for index in np.unique(a.gt_classes)
    }


def _nanmean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """The mean of what is defined; NaN if nothing is, without a warning."""
    is_defined = ~np.isnan(values)
    num = is_defined.sum(axis=axis)
    return np.where(num > 0, np.where(is_defined, values, 0.0).sum(axis=axis) / np.maximum(num, 1), np.nan)


def _compare(a: np.ndarray, b: np.ndarray) -> Compared:
    return Compared(_interval(a, low=0.0), _interval(b, low=0.0), _interval(b - a, low=-1.0))


def _interval(values: np.ndarray, *, low: float) -> Interval:
    """Of [1 + B] values, the first as measured; samples in which the metric is undefined are left out.

    The samples' spread around their mean is put around what was measured. As they are, they would lie above it: they hold
    copies of images, which agree with each other, and the fewer different objects, the higher AP's envelope of precision.
    """
    first, samples = values[0], values[1:][~np.isnan(values[1:])]
    if np.isnan(first) or not len(samples):
        return Interval(None if np.isnan(first) else float(first), None, None)
    ends = first + np.percentile(samples, [2.5, 97.5]) - samples.mean()
    return Interval(float(first), *np.clip(ends, low, 1.0).tolist())
