"""Turns detections into the vectors of a memory bank (Context R-CNN, Beery et al. 2020, section 3.2).

The entries and their order are those of generate_embedding_data.py of the Object Detection API: what the box head makes of
the region, U numbers; where it lies, 4; when the image was taken, 5. Its 2048 + 9 = 2057 are the default of
`context_feature_length`; a box head of 1024 units gives 1033.
"""

from __future__ import annotations

import datetime
from typing import NamedTuple

import numpy as np

from object_detection_fpn.serving.predictor import ImagePrediction

NUM_EXTRA_ENTRIES = 9
"""Entries behind those of the box head: centre x, centre y, width, height; year, month, day, hour, minute."""

# The API's ranges: every entry of a date between them lies in [0, 1).
_FIRST_YEAR, _LAST_YEAR = 1990, 2030
_MONTHS, _DAYS, _HOURS, _MINUTES = 12, 31, 24, 60


class FeaturesError(ValueError):
    """A detector whose features cannot be embedded."""


class Embeddings(NamedTuple):
    """What one image adds to its memory bank. Letters: N detections, L = U + 9."""

    features: np.ndarray
    """[N, L] float32."""
    scores: np.ndarray
    """[N] float32, of the detections."""


def embed_time(date: datetime.datetime | None) -> np.ndarray:
    """Year, month, day, hour and minute as [5] float32; zeros for an image without a date."""
    if date is None:
        return np.zeros(5, np.float32)
    return np.array(
        [
            (date.year - _FIRST_YEAR) / (_LAST_YEAR - _FIRST_YEAR),
            (date.month - 1) / _MONTHS,
            (date.day - 1) / _DAYS,
            date.hour / _HOURS,
            date.minute / _MINUTES,
        ],
        np.float32,
    )


def embed_boxes(boxes_normalized: np.ndarray) -> np.ndarray:
    """Centre x, centre y, width, height [N, 4] of boxes [N, 4] (ymin, xmin, ymax, xmax), all normalized to the image."""
    ymin, xmin, ymax, xmax = boxes_normalized.T
    return np.stack([(xmin + xmax) / 2, (ymin + ymax) / 2, xmax - xmin, ymax - ymin], axis=1).astype(np.float32)


def choose_detections(num_detections: int, *, top_k: int, bottom_k: int) -> list[int]:
    """Rows of the detections that are embedded: the best `top_k`, then the worst `bottom_k` from below, each once."""
    top = list(range(min(num_detections, top_k)))
    return top + list(range(num_detections - 1, max(len(top), num_detections - bottom_k) - 1, -1))


def embed_detections(
    prediction: ImagePrediction, date: datetime.datetime | None, *, top_k: int, bottom_k: int
) -> Embeddings:
    """Embeds the detections of one image that its memory bank keeps.

    Args:
        prediction: of the image, best first, with `box_features` [N, S, S, U], of which the mean over the cells is taken.
        date: when the image was taken; None = not known.
        top_k: how many of the best detections are embedded.
        bottom_k: how many of the worst.

    Raises:
        FeaturesError: if the prediction has no features, or some that are not finite.
    """
    if prediction.box_features is None:
        raise FeaturesError("the detector gives no detection_features.")
    rows = choose_detections(len(prediction.scores), top_k=top_k, bottom_k=bottom_k)
    pooled = prediction.box_features[rows].astype(np.float32).mean(axis=(1, 2))  # [N, U]
    if not np.isfinite(pooled).all():
        raise FeaturesError("the detector gives detection_features that are not finite.")
    times = np.broadcast_to(embed_time(date), [len(rows), 5])
    features = np.concatenate([pooled, embed_boxes(prediction.boxes_normalized[rows]), times], axis=1)
    return Embeddings(features, prediction.scores[rows].astype(np.float32))
