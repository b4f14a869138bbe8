"""Detects objects in a large image tile by tile, so that small ones are not lost where the whole image is made smaller.

Tiles are slices of the decoded image: beside it, one batch of tiles is in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from object_detection_fpn.ops.pasting import PastedMask
from object_detection_fpn.serving.merging import Found, merge
from object_detection_fpn.serving.predictor import ImagePrediction, Predictor

DEFAULT_OVERLAP = 0.2
MAX_OVERLAP = 0.9  # every pixel is then in about 100 tiles
MIN_SIDE = 16


class Tiling(NamedTuple):
    """How an image is cut into tiles."""

    side: int
    """Height and width of a tile, pixels."""
    overlap: float = DEFAULT_OVERLAP
    """The share of its side that a tile has in common with the next."""
    whole_image: bool = False
    """Look at the whole image too, for objects larger than a tile."""

    def check(self) -> None:
        """Raises:
        ValueError: if a value is not allowed.
        """
        if self.side < MIN_SIDE:
            raise ValueError(f"A tile of side {self.side} is too small. Allowed: {MIN_SIDE} pixels and more.")
        if not 0.0 <= self.overlap <= MAX_OVERLAP:
            raise ValueError(f"An overlap of {self.overlap:g} is not allowed. Allowed: 0 to {MAX_OVERLAP}.")


def tiles(image_size: tuple[int, int], side: int, overlap: float) -> np.ndarray:
    """Cuts an image into tiles of one size that cover it, row by row.

    The last tile of a row or column ends with the image and overlaps the one before by more. An image that is shorter than a
    tile is not cut on that axis, and is not padded either: the model's resizer sees what it would see without tiles.

    Args:
        image_size: height and width.
        side: of a tile.
        overlap: the share of the side that neighbours have in common, at least.

    Returns:
        [T, 4] int (ymin, xmin, ymax, xmax).
    """
    height, width = image_size
    rows, columns = (_begins(length, side, overlap) for length in image_size)
    low = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.concatenate([low, low + [min(side, height), min(side, width)]], axis=1)


def _begins(length: int, side: int, overlap: float) -> list[int]:
    if length <= side:
        return [0]
    step = max(1, int(side * (1.0 - overlap) + 1e-6))  # rounded down: no less overlap than is asked for
    return [*range(0, length - side, step), length - side]


def predict_image(
    predictor: Predictor,
    image: np.ndarray,
    context: np.ndarray | None = None,
    *,
    min_score: float,
) -> Found:
    """Detects objects in a whole image.

    Args:
        predictor: of detections.
        image: [h, w, channels] uint8.
        context: as for `Predictor.predict`.
        min_score: detections below it are left out.
    """
    height, width = image.shape[:2]
    return in_image(predictor, predictor.predict(image, context), (0, 0, height, width), min_score=min_score)


def predict_tiles(
    predictor: Predictor,
    image: np.ndarray,
    tiling: Tiling,
    *,
    min_score: float,
    batch_size: int = 1,
    on_progress: Callable[[int, int], None] = lambda num_done, num_all: None,
) -> Found:
    """Detects objects in the tiles of an image and merges them, see `serving.merging`.

    Args:
        predictor: of detections, of a model that does not look at context.
        image: [h, w, channels] uint8.
        tiling: size and overlap of the tiles.
        min_score: detections below it are left out before merging, so that they change nothing.
        batch_size: tiles that go through the model at once, if it takes more than one.
        on_progress: called after every batch with the number of views done and of all.
    """
    height, width = image.shape[:2]
    windows = tiles((height, width), tiling.side, tiling.overlap)
    if len(windows) == 1:
        return predict_image(predictor, image, min_score=min_score)
    num_views = len(windows) + tiling.whole_image
    parts: list[Found] = []
    for begin in range(0, len(windows), batch_size):
        batch = windows[begin : begin + batch_size]
        predictions = predictor.predict_batch(np.stack([image[y:bottom, x:right] for y, x, bottom, right in batch]))
        parts += [
            in_image(predictor, prediction, tuple(window), min_score=min_score)
            for prediction, window in zip(predictions, batch.tolist(), strict=True)
        ]
        on_progress(len(parts), num_views)
    if tiling.whole_image:
        windows = np.concatenate([windows, [[0, 0, height, width]]])
        parts.append(predict_image(predictor, image, min_score=min_score))
        on_progress(num_views, num_views)
    found = Found(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.class_ids for part in parts]),
        None if parts[0].masks is None else [mask for part in parts for mask in part.masks or ()],
    )
    views = np.repeat(np.arange(len(parts)), [len(part.scores) for part in parts])
    return merge(found, views=views, windows=windows, image_size=(height, width))


def in_image(
    predictor: Predictor, prediction: ImagePrediction, window: tuple[int, int, int, int], *, min_score: float
) -> Found:
    """Moves what was found in a part of an image to where it is in the image.

    Args:
        predictor: knows how masks are pasted.
        prediction: of the part.
        window: the part, (ymin, xmin, ymax, xmax) in pixels.
        min_score: detections below it are left out.
    """
    prediction = prediction.select(prediction.scores >= min_score)
    size = (window[2] - window[0], window[3] - window[1])
    boxes = prediction.boxes_normalized.astype(np.float64) * np.tile(size, 2) + np.tile(window[:2], 2)
    masks = None
    if prediction.masks is not None:
        masks = [_move(mask, window[:2]) for mask in predictor.paste_masks(prediction, size)]
    return Found(boxes, prediction.scores, prediction.class_ids, masks)


def _move(mask: PastedMask, begin: tuple[int, int]) -> PastedMask:
    """Moved, and without empty rows and columns around it: a SavedModel that pastes gives masks as large as the tile."""
    rows, columns = (np.flatnonzero(mask.pixels.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return PastedMask(np.zeros((0, 0), bool), begin)
    part = mask.pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    part = part.T.copy().T  # of its own, so that the tile's mask is not kept; columns lie together, see `PastedMask`
    return PastedMask(part, (begin[0] + mask.begin[0] + int(rows[0]), begin[1] + mask.begin[1] + int(columns[0])))
