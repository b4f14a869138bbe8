"""What a metric is, and the two records it takes: one image at a time, NumPy, in pixels of the image as it was stored.

A metric is made for one evaluation, sees every image once through `update`, and is then asked for its numbers. A new one
is a file beside `coco.py` with a class of these two methods, which `check_categories` and `clean_image` help to write.
"""

from __future__ import annotations

import collections
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from object_detection_fpn.ops.rle import Rle

_Record = TypeVar("_Record", "ImageGroundtruth", "ImageDetections")


class EvaluationError(ValueError):
    """An evaluation cannot be made. The message says why, and what would do."""


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
    labeled_classes: np.ndarray | None = None
    """[C] bool, the classes that annotators looked for in the image, present or not; None = unknown."""
    not_exhaustive_classes: np.ndarray | None = None
    """[C] bool, the classes of which annotators marked some objects of the image only (LVIS); None = there is none."""
    masks: Sequence[Rle | None] | None = None
    """[G] run lengths in the original image, None for an object without a mask; the field None = no masks are evaluated."""
    image_size: tuple[int, int] | None = None
    """Height and width of the original image; beside `masks`."""


class ImageDetections(NamedTuple):
    """What a model detects in one image. Rows are real detections only, best first."""

    boxes: np.ndarray
    """[D, 4] float, pixels of the original image."""
    scores: np.ndarray
    """[D] float."""
    classes: np.ndarray
    """[D] int, 0-based."""
    masks: Sequence[Rle] | None = None
    """[D] run lengths in the original image; None = no masks are evaluated."""


_PER_BOX = frozenset(
    ("boxes", "classes", "is_crowd", "areas", "is_difficult", "is_group_of", "masks", "scores")  # of both records
)


class Metric(Protocol):
    """Anything that turns groundtruth and detections into named numbers."""

    main_result: str
    """The name of the number by which checkpoints are compared; more is better."""
    needs_masks: bool
    """Whether `masks` are given; others see None there."""

    def update(self, groundtruth: ImageGroundtruth, detections: ImageDetections) -> None:
        """Takes in one image."""

    def result(self) -> dict[str, float]:
        """The numbers over all images taken in so far."""


def check_categories(categories: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """The names of classes by their 1-based ids, in ascending order of id.

    Raises:
        ValueError: if there is no category, two share an id or a name, or an id is below 1.
    """
    if not categories:
        raise ValueError("A metric needs at least one category, each {'id': ..., 'name': ...}; there is none.")
    for key in ("id", "name"):
        repeated = [value for value, n in collections.Counter(c[key] for c in categories).items() if n > 1]
        if repeated:
            raise ValueError(f"Two categories share {key} = {repeated[0]!r}; every {key} must occur once.")
    names = {int(category["id"]): str(category["name"]) for category in categories}
    if min(names) < 1:
        raise ValueError(f"A category has id = {min(names)}. Allowed: 1 and above, 0 is the background.")
    return dict(sorted(names.items()))


def take_rows(record: _Record, is_kept: np.ndarray) -> _Record:
    """The record of some of its boxes.

    Args:
        record: of one image.
        is_kept: [G] or [D] bool.
    """
    if is_kept.all():
        return record
    kept = {name: _take(getattr(record, name), is_kept) for name in record._fields if name in _PER_BOX}
    return record._replace(**kept)


def _take(values: Any, is_kept: np.ndarray) -> Any:
    if values is None or isinstance(values, np.ndarray):
        return None if values is None else values[is_kept]
    return [value for value, kept in zip(values, is_kept, strict=True) if kept]


def clean_image(
    groundtruth: ImageGroundtruth, detections: ImageDetections, ids: Collection[int]
) -> tuple[ImageGroundtruth, ImageDetections, int]:
    """Checks one image's records and brings them to the types that metrics compute with.

    Args:
        groundtruth: real rows only.
        detections: real rows only. Those of a class that is not listed (a gap in the label map) are dropped, and so are
            those whose box or score is not finite, since they cannot match anything.
        ids: 1-based ids of the classes.

    Returns:
        Both records, boxes, scores and areas as float64, classes as int64, marks as bool, and how many detections were
        not finite.

    Raises:
        ValueError: if the lengths of a record's fields differ, or a groundtruth class is not among the categories.
    """
    groundtruth = groundtruth._replace(
        boxes=np.asarray(groundtruth.boxes, np.float64).reshape(-1, 4),
        classes=np.asarray(groundtruth.classes, np.int64),
        is_crowd=np.asarray(groundtruth.is_crowd, bool),
        areas=_optional(groundtruth.areas, np.float64),
        is_difficult=_optional(groundtruth.is_difficult, bool),
        is_group_of=_optional(groundtruth.is_group_of, bool),
        labeled_classes=_optional(groundtruth.labeled_classes, bool),
        not_exhaustive_classes=_optional(groundtruth.not_exhaustive_classes, bool),
    )
    detections = ImageDetections(
        boxes=np.asarray(detections.boxes, np.float64).reshape(-1, 4),
        scores=np.asarray(detections.scores, np.float64),
        classes=np.asarray(detections.classes, np.int64),
        masks=detections.masks,
    )
    of_image = f"image {groundtruth.source_id!r}"
    _check_lengths(f"groundtruth of {of_image}", groundtruth)
    _check_lengths(f"detections of {of_image}", detections)
    unknown = set((groundtruth.classes + 1).tolist()) - set(ids)
    if unknown:
        raise ValueError(
            f"Groundtruth of {of_image} has class id {min(unknown)}, which no category has. Allowed: {_listed(ids)}."
        )
    is_finite = np.isfinite(detections.boxes).all(axis=1) & np.isfinite(detections.scores)
    is_kept = is_finite & np.isin(detections.classes + 1, list(ids))
    return groundtruth, take_rows(detections, is_kept), int(np.sum(~is_finite))


def _optional(values: np.ndarray | None, dtype: type) -> np.ndarray | None:
    return None if values is None else np.asarray(values, dtype)


def _check_lengths(what: str, record: Any) -> None:
    values = {field: getattr(record, field) for field in record._fields if field in _PER_BOX}
    lengths = {field: len(value) for field, value in values.items() if value is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"The fields of the {what} must have one row a box, but their lengths differ: {lengths}.")


def _listed(ids: Collection[int]) -> str:
    ordered = sorted(ids)
    if ordered == list(range(1, len(ordered) + 1)):
        return f"1 to {len(ordered)}"
    return ", ".join(map(str, ordered))
