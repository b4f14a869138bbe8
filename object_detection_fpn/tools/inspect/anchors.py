"""How well anchors cover boxes: the best IoU of each box on each level, without laying out every anchor.

The anchors of one shape stand on a grid. IoU with a box depends on row and column apart from each other, so that the best of
them is among a few rows and a few columns. Letters: N boxes, L levels, S shapes of a level's anchors, k candidates of an axis.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_CHUNK = 20_000  # boxes; the arrays of a shape take 4 MB each
_ROUNDING = 1e-4  # pixels; anchors are float32


class Grid(NamedTuple):
    """Where the anchors of a level stand in the image of each box; (down, right) in pixels."""

    first: np.ndarray
    """[N, 2], centre of the first anchor."""
    stride: np.ndarray
    """[N, 2], from one anchor to the next; above 0."""
    num: np.ndarray
    """[N, 2], rows and columns."""

    def rows(self, chosen: np.ndarray | slice) -> Grid:
        return Grid(self.first[chosen], self.stride[chosen], self.num[chosen])


@dataclasses.dataclass(frozen=True)
class Borders:
    """What training does with anchors that cross the border of the image."""

    clip: bool = False
    """They are clipped to it."""
    max_straddle: float = math.inf
    """Those that reach further beyond it do not train, in pixels; 0 for all that cross it."""


def best_ious(
    boxes: np.ndarray, image_sizes: np.ndarray, grids: Sequence[Grid], shapes: Sequence[np.ndarray], borders: Borders
) -> np.ndarray:
    """The greatest IoU of each box with an anchor of each level.

    Args:
        boxes: [N, 4] pixels, inside their images.
        image_sizes: [N, 2], (height, width) of each box's padded image.
        grids: of each level.
        shapes: of each level [S, 2], (height, width) of its anchors in pixels.
        borders: of anchors at the border.

    Returns:
        [N, L] float64; 0 where a level has no anchor that trains or overlaps.
    """
    boxes, image_sizes = np.asarray(boxes, np.float64), np.asarray(image_sizes, np.float64)
    best = np.zeros([len(boxes), len(grids)])
    for begin in range(0, len(boxes), _CHUNK):
        chunk = slice(begin, begin + _CHUNK)
        for level, (grid, of_level) in enumerate(zip(grids, shapes, strict=True)):
            for shape in of_level:
                ious = shape_ious(boxes[chunk], image_sizes[chunk], grid.rows(chunk), shape, borders)
                np.maximum(best[chunk, level], ious, out=best[chunk, level])
    return best


def shape_ious(
    boxes: np.ndarray, image_sizes: np.ndarray, grid: Grid, shape: np.ndarray, borders: Borders
) -> np.ndarray:
    """The greatest IoU of each box with an anchor of one shape, (height, width): [N]."""
    overlaps, extents = zip(
        *(
            _along_axis(
                boxes[:, axis], boxes[:, axis + 2], image_sizes[:, axis], Grid(*(field[:, axis] for field in grid)),
                float(shape[axis]), borders,
            )
            for axis in (0, 1)
        ),
        strict=True,
    )  # fmt: skip
    intersections = overlaps[0][:, :, None] * overlaps[1][:, None, :]  # [N, k, k]
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)[:, None, None]
    unions = areas + extents[0][:, :, None] * extents[1][:, None, :] - intersections
    return np.max(intersections / np.maximum(unions, _ROUNDING), axis=(1, 2), initial=0.0)


def _along_axis(
    low: np.ndarray, high: np.ndarray, size: np.ndarray, grid: Grid, side: float, borders: Borders
) -> tuple[np.ndarray, np.ndarray]:
    """Overlap and length of the anchors among which the best one is, [N, k] each; overlap 0 where none trains.

    Without clipping that is the anchor with the nearest centre. A clipped anchor is shorter: one whose end lies next to that of
    the box may then be better.
    """
    centres = [np.rint(((low + high) / 2 - grid.first) / grid.stride)]
    if borders.clip:
        for end in (high - side / 2, low + side / 2):
            place = (end - grid.first) / grid.stride
            centres += [np.floor(place), np.ceil(place)]
    indices = np.stack(centres, axis=1)  # [N, k]
    least, most = np.zeros_like(low), grid.num - 1.0
    if math.isfinite(borders.max_straddle):
        reach = side / 2 - borders.max_straddle - _ROUNDING
        least = np.maximum(least, np.ceil((reach - grid.first) / grid.stride))
        most = np.minimum(most, np.floor((size - reach - grid.first) / grid.stride))
    indices = np.clip(indices, least[:, None], np.maximum(most, least)[:, None])
    middle = grid.first[:, None] + indices * grid.stride[:, None]
    begin, end = middle - side / 2, middle + side / 2
    if borders.clip:
        begin, end = np.maximum(begin, 0.0), np.minimum(end, size[:, None])
    overlap = np.minimum(end, high[:, None]) - np.maximum(begin, low[:, None])
    has_any = (most >= least)[:, None]
    return np.where(has_any, np.maximum(overlap, 0.0), 0.0), np.maximum(end - begin, 0.0)


@dataclasses.dataclass(frozen=True)
class LevelCoverage:
    """What the anchors of one level do."""

    level: int
    min_side: float
    """Square root of the area of its smallest anchor, pixels."""
    max_side: float
    num_best: int
    """Boxes whose best anchor is on this level."""
    covered_50: float
    """Share of all boxes that an anchor of this level covers at IoU 0.5."""
    covered_70: float


@dataclasses.dataclass(frozen=True)
class Coverage:
    """Which boxes have an anchor that overlaps them well."""

    num_boxes: int
    covered_50: float
    """Share of boxes of IoU 0.5 or more with some anchor; 0 without boxes."""
    covered_70: float
    mean_iou: float
    levels: tuple[LevelCoverage, ...]


def summarize(ious: np.ndarray, shapes: Sequence[np.ndarray], *, min_level: int) -> Coverage:
    """What `best_ious` [N, L] say, level by level and over all."""
    num_boxes = len(ious)
    best = ious.max(axis=1) if num_boxes else np.zeros([0])
    winners = ious.argmax(axis=1) if num_boxes else np.zeros([0], int)
    levels = []
    for index, of_level in enumerate(shapes):
        sides = np.sqrt(np.prod(np.asarray(of_level, np.float64), axis=1))
        levels.append(
            LevelCoverage(
                level=min_level + index,
                min_side=float(sides.min()),
                max_side=float(sides.max()),
                num_best=int(np.sum((winners == index) & (best > 0))),
                covered_50=share(ious[:, index] >= 0.5),
                covered_70=share(ious[:, index] >= 0.7),
            )
        )
    return Coverage(
        num_boxes=num_boxes,
        covered_50=share(best >= 0.5),
        covered_70=share(best >= 0.7),
        mean_iou=float(best.mean()) if num_boxes else 0.0,
        levels=tuple(levels),
    )


def share(flags: np.ndarray) -> float:
    """The share of True among flags; 0 where there are none."""
    return float(np.mean(flags)) if len(flags) else 0.0
