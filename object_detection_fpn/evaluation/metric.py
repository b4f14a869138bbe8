"""What a metric is, and the two records it is fed: one image at a time, NumPy, in pixels of the image as it was stored.

A metric is made for one evaluation, sees every image once through `update`, and is then asked for its numbers. A new one
is a file beside `coco.py` with a class of these two methods.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np


class ImageGroundtruth(NamedTuple):
    """What one image shows. Rows are real boxes only; boxes are `(ymin, xmin, ymax, xmax)`."""

    source_id: str
    """The record's `image/source_id`; empty where it has none. Need not be unique."""
    boxes: np.ndarray
    """[G, 4] float, pixels of the original image."""
    classes: np.ndarray
    """[G] int, 0-based."""
    is_crowd: np.ndarray
    """[G] bool, a region with many objects."""
    areas: np.ndarray | None = None
    """[G] float, area of each object in pixels of the original image; 0 (or the whole field None) = the area of its box."""
    is_difficult: np.ndarray | None = None
    """[G] bool, PASCAL VOC's mark."""
    is_group_of: np.ndarray | None = None
    """[G] bool, Open Images' mark."""


class ImageDetections(NamedTuple):
    """What a model says one image shows. Rows are real detections only, best first."""

    boxes: np.ndarray
    """[D, 4] float, pixels of the original image."""
    scores: np.ndarray
    """[D] float."""
    classes: np.ndarray
    """[D] int, 0-based."""


class Metric(Protocol):
    """Anything that turns groundtruth and detections into named numbers."""

    def update(self, groundtruth: ImageGroundtruth, detections: ImageDetections) -> None:
        """Takes in one image."""

    def result(self) -> dict[str, float]:
        """The numbers over all images taken in so far."""
