"""Merges what a detector finds in tiles of an image, in NumPy: every object once, and whole where some tile shows it whole.

Two tiles that overlap may both find an object. If both see it whole, suppression by IoU finds the pair. If a tile's border
cuts the object, the box of the part has a low IoU with the whole object's box, and suppression would leave both. So boxes that
are cut are dealt with first:

1. A cut box is dropped if a whole box of another tile covers most of it. It may be of another class if that tile shows all of
   the cut box and more: parts are often taken for something else. A box of the whole image must also score as much.
2. Cut boxes of a class that agree where both their tiles look are pieces of one object and are joined: their hull is the box.
   So is found what is longer than the overlap of the tiles.
3. The first step again, with the joined boxes. Now a box of a larger part, which is not cut on the same side, will do for a
   whole one.
4. Suppression by IoU, class by class. Boxes of one tile do not suppress each other: the model has decided on them.

Shape letters: N detections of all views, V views (tiles, or the whole image).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from object_detection_fpn.ops.pasting import PastedMask

IOU_THRESHOLD = 0.5
"""Above it two boxes of different tiles are one object, and so are two pieces, where both tiles look."""

_COVERED = 0.6  # of a cut box, by a whole one. Slivers are located badly, so this is not near 1
# A detector's box of a cut object ends near the border and seldom on it. A whole box that is taken for a cut one loses nothing:
# it is only dropped for a box that covers it.
_CUT_PIXELS = 2.0
_CUT_SHARE = 0.05  # of the side of the box


class Found(NamedTuple):
    """Detections in the frame of a whole image."""

    boxes: np.ndarray
    """[N, 4] float64 (ymin, xmin, ymax, xmax), pixels."""
    scores: np.ndarray
    """[N] float32."""
    class_ids: np.ndarray
    """[N] int, 1-based."""
    masks: list[PastedMask] | None = None
    """[N], within the image; None = the model has none."""

    def select(self, rows: np.ndarray) -> Found:
        """Returns the rows [n] int, in their order."""
        masks = None if self.masks is None else [self.masks[row] for row in rows]
        return Found(self.boxes[rows], self.scores[rows], self.class_ids[rows], masks)


def merge(found: Found, *, views: np.ndarray, windows: np.ndarray, image_size: tuple[int, int]) -> Found:
    """Merges detections of several views of an image.

    Args:
        found: of all views; each view's own detections are suppressed already.
        views: [N] int, the view that each comes from.
        windows: [V, 4] (ymin, xmin, ymax, xmax), pixels: what each view shows of the image.
        image_size: height and width.

    Returns:
        Objects, best first.
    """
    order = np.argsort(-found.scores, kind="stable")
    found, views = found.select(order), views[order]
    objects = _Objects(found, views, windows[views].astype(np.float64), image_size)
    objects.drop_seen_whole()
    masks = found.masks
    for first, *rest in objects.join_pieces():
        if masks is not None:
            masks[first] = join_masks([masks[row] for row in (first, *rest)])
    objects.drop_seen_whole(after_joining=True)
    objects.suppress()
    return Found(objects.boxes, found.scores, found.class_ids, masks).select(np.flatnonzero(objects.is_alive))


def find_cut(boxes: np.ndarray, windows: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Which sides of boxes lie at a border of their tile where the image goes on.

    Args:
        boxes: [N, 4], pixels of the image.
        windows: [N, 4], the tile of each box.
        image_size: height and width.

    Returns:
        [N, 4] bool, in the order of the coordinates.
    """
    is_inner = np.concatenate([windows[:, :2] > 0, windows[:, 2:] < np.array(image_size)], axis=1)
    tolerance = np.tile(np.maximum(_CUT_PIXELS, _CUT_SHARE * (boxes[:, 2:] - boxes[:, :2])), 2)
    return is_inner & (np.abs(boxes - windows) <= tolerance)


def join_masks(masks: Sequence[PastedMask]) -> PastedMask:
    """The pixels that any of the masks has."""
    parts = [mask for mask in masks if mask.pixels.size]
    if len(parts) < 2:
        return parts[0] if parts else masks[0]
    begins = np.array([mask.begin for mask in parts])
    begin = begins.min(axis=0)
    height, width = (begins + [mask.pixels.shape for mask in parts]).max(axis=0) - begin
    pixels = np.zeros((width, height), bool).T  # columns lie together, see `PastedMask`
    for mask, (row, column) in zip(parts, begins - begin, strict=True):
        pixels[row : row + mask.pixels.shape[0], column : column + mask.pixels.shape[1]] |= mask.pixels
    return PastedMask(pixels, (int(begin[0]), int(begin[1])))


class _Objects:
    """Detections, best first, of which the steps of merging leave fewer."""

    def __init__(self, found: Found, views: np.ndarray, windows: np.ndarray, image_size: tuple[int, int]):
        self.boxes = found.boxes.copy()
        self.is_alive = np.ones(len(views), bool)
        self._scores = found.scores
        self._classes = found.class_ids
        self._views = views.copy()
        self._windows = windows
        self._cuts = find_cut(found.boxes, windows, image_size)
        self._is_tile = (windows != [0, 0, *image_size]).any(axis=1)

    def drop_seen_whole(self, *, after_joining: bool = False) -> None:
        for row in np.flatnonzero(self._cuts.any(axis=1) & self.is_alive).tolist():
            # What could be joined with the box is no reason to drop it before.
            is_cut = (self._cuts & self._cuts[row] if after_joining else self._cuts).any(axis=1)
            is_same = self._classes == self._classes[row]
            others = np.flatnonzero(
                self._of_others(row) & ~is_cut & (is_same | self._looks_closer(row)) & self._may_replace(row)
            )
            area = max(float(_area(self.boxes[row])), 1e-9)
            covered = _area(_intersect(self.boxes[row], self.boxes[others])) / area
            self.is_alive[row] = not (covered >= _COVERED).any()

    def join_pieces(self) -> list[list[int]]:
        """Puts the hull of pieces in the place of the best one; returns the rows of the pieces of each such object."""
        joined = []
        is_open = self._cuts.any(axis=1) & self.is_alive
        for row in np.flatnonzero(is_open).tolist():
            if not is_open[row]:
                continue
            is_open[row] = False
            pieces, views = [row], {int(self._views[row])}
            for piece in pieces:  # grows meanwhile
                for other in self._agreeing(piece, np.flatnonzero(is_open & (self._classes == self._classes[row]))):
                    view = int(self._views[other])
                    if view not in views:  # of one tile, an object has one piece, the best
                        views.add(view)
                        pieces.append(int(other))
                        is_open[other] = False
            if len(pieces) > 1:
                joined.append(pieces)
        for number, pieces in enumerate(joined, start=1):
            first, *rest = pieces
            hull = _hull(self.boxes[pieces])
            # A side is cut if all pieces that reach it are: slivers of a larger object may be joined too.
            is_short = np.abs(self.boxes[pieces] - hull) > _CUT_PIXELS
            self._cuts[first] = (self._cuts[pieces] | is_short).all(axis=0)
            self.boxes[first] = hull
            self.is_alive[rest] = False
            self._views[first] = -number  # of no single tile
        return joined

    def suppress(self) -> None:
        for row in range(len(self.boxes)):
            if self.is_alive[row]:
                is_same = self._classes == self._classes[row]
                others = np.flatnonzero((self._of_others(row) & is_same)[row + 1 :]) + row + 1
                overlap = _iou(self.boxes[row], self.boxes[others])
                self.is_alive[others[overlap > IOU_THRESHOLD]] = False

    def _of_others(self, row: int) -> np.ndarray:
        return self.is_alive & (self._views != self._views[row])

    def _may_replace(self, row: int) -> np.ndarray:
        """Whether boxes may stand for the row's: where the image is made small for the model, it must at least be as sure."""
        return self._is_tile | (self._scores >= self._scores[row])

    def _looks_closer(self, row: int) -> np.ndarray:
        """Whether the tiles of the boxes show all of the row's box; the whole image shows everything, but small."""
        low = self._windows[:, :2] <= self.boxes[row, :2] + _CUT_PIXELS
        high = self._windows[:, 2:] >= self.boxes[row, 2:] - _CUT_PIXELS
        return (low & high).all(axis=1) & self._is_tile

    def _agreeing(self, row: int, candidates: np.ndarray) -> np.ndarray:
        """The candidates [n] that cover the same part of what both their tile and that of the row show."""
        common = _intersect(self._windows[row], self._windows[candidates])
        overlap = _iou(_intersect(self.boxes[row], common), _intersect(self.boxes[candidates], common))
        return candidates[overlap > IOU_THRESHOLD]


def _hull(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


def _intersect(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[..., 4]; of boxes that are apart, one with a negative side."""
    low = np.maximum(one[..., :2], others[..., :2])
    return np.concatenate([low, np.minimum(one[..., 2:], others[..., 2:])], axis=-1)


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0.0), axis=-1)


def _iou(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    shared = _area(_intersect(one, others))
    return shared / np.maximum(_area(one) + _area(others) - shared, 1e-9)
