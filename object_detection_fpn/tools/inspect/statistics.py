"""What the boxes of a data set are like; functions on arrays alone.

Letters: I images, N boxes, C classes. Boxes are pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from object_detection_fpn.tools.inspect.anchors import share

COCO_SIZES = ("small", "medium", "large")
_COCO_AREAS = (32**2, 96**2)  # pixels; where COCO's medium and large begin
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

RARE = 20
"""A class with fewer boxes is worth a look: its AP says little, and it is hardly learned."""
_SAME_PLACE = 0.9  # IoU from which two boxes stand around one object
_ONE_PIXEL = 1.01  # of a side; coordinates are rounded


@dataclasses.dataclass(frozen=True)
class ClassStatistics:
    """One class; crowd regions are counted apart and have no size."""

    id: int
    """1-based, as in the label map."""
    name: str
    num_boxes: int
    num_images: int
    """That show it, crowds too."""
    num_crowds: int
    coco_sizes: tuple[float, float, float]
    """Share of its boxes that is small, medium and large at the stored size; zeros without boxes."""
    median_side: float | None
    """Median of the square root of the area at the training size, pixels."""
    median_aspect_ratio: float | None
    """Median of width / height at the training size."""


@dataclasses.dataclass(frozen=True)
class Spread:
    """How numbers are spread: their quantiles (`QUANTILES`) and a histogram."""

    quantiles: tuple[float, ...]
    """Empty where there is no number."""
    edges: tuple[float, ...]
    """Of the bars, one more than these."""
    counts: tuple[int, ...]


def class_statistics(
    names: dict[int, str],
    *,
    images: np.ndarray,
    classes: np.ndarray,
    is_crowd: np.ndarray,
    boxes: np.ndarray,
    training_boxes: np.ndarray,
) -> list[ClassStatistics]:
    """One entry for each class of the label map, and for others that occur.

    Args:
        names: 0-based class -> name.
        images: [N], image of each box.
        classes: [N], 0-based.
        is_crowd: [N] bool.
        boxes: [N, 4] in the stored images.
        training_boxes: [N, 4] at the training size.
    """
    found = []
    for class_index in sorted({*names, *np.unique(classes).tolist()}):
        of_class = classes == class_index
        objects = of_class & ~is_crowd
        has_any = bool(objects.any())
        small, medium, large = coco_size_shares(boxes[objects])
        found.append(
            ClassStatistics(
                id=class_index + 1,
                name=names.get(class_index, f"id {class_index + 1}"),
                num_boxes=int(objects.sum()),
                num_images=len(np.unique(images[of_class])),
                num_crowds=int((of_class & is_crowd).sum()),
                coco_sizes=(small, medium, large),
                median_side=float(np.median(sides(training_boxes[objects]))) if has_any else None,
                median_aspect_ratio=float(np.median(aspect_ratios(training_boxes[objects]))) if has_any else None,
            )
        )
    return found


def sides(boxes: np.ndarray) -> np.ndarray:
    """[N], square roots of the areas of boxes [N, 4]."""
    return np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))


def aspect_ratios(boxes: np.ndarray) -> np.ndarray:
    """[N], width / height of boxes [N, 4] that have an area."""
    return (boxes[:, 3] - boxes[:, 1]) / (boxes[:, 2] - boxes[:, 0])


def coco_size_shares(boxes: np.ndarray) -> tuple[float, float, float]:
    """Shares of boxes [N, 4] that are small, medium and large in COCO's sense, by the area of the box; zeros without boxes."""
    places = np.searchsorted(_COCO_AREAS, sides(boxes) ** 2, side="right")
    small, medium, large = (share(places == place) for place in range(len(COCO_SIZES)))
    return small, medium, large


def spread(values: np.ndarray, *, log: bool = False, num_bars: int = 24) -> Spread:
    """How values are spread, over bars of equal width, or with `log` of equal ratio.

    Whole numbers that are few get a bar each.
    """
    if not len(values):
        return Spread((), (), ())
    quantiles = tuple(float(value) for value in np.quantile(values, QUANTILES))
    low, high = float(values.min()), float(values.max())
    if np.issubdtype(values.dtype, np.integer) and high - low < 2 * num_bars:
        edges = np.arange(low - 0.5, high + 1.0)
    elif low == high:
        edges = np.array([low * 0.9, low * 1.1]) if low > 0 else np.array([low - 0.5, low + 0.5])
    elif log and low > 0:
        edges = np.geomspace(low, high, num_bars + 1)
        edges[0], edges[-1] = low, high  # not a last bit inside
    else:
        edges = np.linspace(low, high, num_bars + 1)
    counts, _ = np.histogram(values, edges)
    return Spread(quantiles, tuple(edges.tolist()), tuple(counts.tolist()))


def pixel_moments(means: np.ndarray, variances: np.ndarray, sizes: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over all pixels, from those of images: [I, F], [I, F], [I, 2]."""
    if not len(means):
        return [], []
    shares = np.prod(sizes.astype(np.float64), axis=1, keepdims=True)
    shares /= shares.sum()
    mean = (means * shares).sum(axis=0)
    variance = ((variances + (means - mean) ** 2) * shares).sum(axis=0)
    return mean.tolist(), np.sqrt(variance).tolist()


@dataclasses.dataclass(frozen=True)
class Suspect:
    """A box that is worth a look."""

    image: str
    """Its source id, or the number of the record."""
    box: tuple[float, ...]
    """(ymin, xmin, ymax, xmax), pixels of the stored image."""
    classes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Boxes of one image around one object, (row, row) each."""

    two_classes: list[tuple[int, int]]
    """Of different classes."""
    one_class: list[tuple[int, int]]
    """Of the same class: the object is marked twice."""


def find_pairs(images: np.ndarray, boxes: np.ndarray, classes: np.ndarray, is_crowd: np.ndarray) -> Pairs:
    """Pairs of boxes [N, 4] of an image whose IoU is 0.9 or more; crowds are left out."""
    pairs = Pairs([], [])
    rows = np.flatnonzero(~is_crowd)
    rows = rows[np.argsort(images[rows], kind="stable")]
    for of_image in np.split(rows, np.flatnonzero(np.diff(images[rows])) + 1):
        for first, second in np.argwhere(np.triu(ious(boxes[of_image]) >= _SAME_PLACE, 1)):
            a, b = int(of_image[first]), int(of_image[second])
            (pairs.one_class if classes[a] == classes[b] else pairs.two_classes).append((a, b))
    return pairs


def ious(boxes: np.ndarray) -> np.ndarray:
    """[N, N], of boxes [N, 4] with each other."""
    corners = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    intersections = np.prod(np.maximum(corners[1] - corners[0], 0.0), axis=-1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return intersections / np.maximum(areas[:, None] + areas[None] - intersections, 1e-12)


def find_one_pixel(boxes: np.ndarray) -> np.ndarray:
    """Rows of boxes [N, 4] one of whose sides is at most a pixel of the stored image."""
    return np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) <= _ONE_PIXEL)


def suspects(
    rows: Sequence[Sequence[int]], *, images: np.ndarray, boxes: np.ndarray, classes: Sequence[str], ids: Sequence[str]
) -> list[Suspect]:
    """Suspects of rows (several for one place: the box is that of the first).

    Args:
        rows: of boxes.
        images: [N].
        boxes: [N, 4].
        classes: name of each box's class.
        ids: name of each image.
    """
    return [
        Suspect(
            image=ids[int(images[of_one[0]])],
            box=tuple(round(float(value), 1) for value in boxes[of_one[0]]),
            classes=tuple(classes[row] for row in of_one),
        )
        for of_one in rows
    ]
