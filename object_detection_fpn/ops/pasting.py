"""Pastes masks from their boxes into images, in NumPy: what evaluation, drawing and export do with masks on the host.

Each of the three ways samples a mask linearly along rows and along columns, so the pasted mask is (weights of rows) x mask x
(weights of columns), and only the pixels that the mask may touch are computed.

Shape letters: N masks, M mask side (rows and columns may differ in number), h w size of the touched part of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

MaskPasting = Literal["CORNERS_ALIGNED", "PIXEL_CENTERS", "ZERO_BORDER"]

_THRESHOLD = 0.5  # of all three libraries
_MIN_SIDE = 1e-4  # of a normalized box, in the Object Detection API's `reframe_box_masks_to_image_masks`


class PastedMask(NamedTuple):
    """A mask in an image, of which all beyond `pixels` is empty."""

    pixels: np.ndarray
    """[h, w] bool, the part of the image that the mask may touch; columns lie together in memory, as RLE reads them."""
    begin: tuple[int, int]
    """Row and column of its first pixel."""


def paste_masks(
    masks: np.ndarray, boxes: np.ndarray, image_size: tuple[int, int], *, pasting: MaskPasting
) -> list[PastedMask]:
    """Stretches masks over their boxes and decides which pixels are inside.

    Args:
        masks: [N, M, M] float in [0, 1].
        boxes: [N, 4] float, pixels of the image. A box that is not finite, has no area or lies outside of the image gives an
            empty mask.
        image_size: height and width of the image.
        pasting: "CORNERS_ALIGNED" (the Object Detection API): pixel i of H lies at i / (H - 1) of the height, and the corner
            cells of the mask at the corners of the box; nothing outside of the box; above 0.5 is inside.
            "PIXEL_CENTERS" (Detectron2): sampled at the middle of each pixel, zeros around the mask; from 0.5 on is inside.
            "ZERO_BORDER" (torchvision): the mask gets a border of zeros, for which the box grows, and is resized to whole
            pixels; above 0.5 is inside.

    Returns:
        One mask a row.

    Raises:
        ValueError: if the shapes do not fit, or there is no such pasting.
    """
    masks = np.asarray(masks, np.float32)
    boxes = np.asarray(boxes, np.float32)
    if masks.ndim != 3 or boxes.shape != (len(masks), 4):
        raise ValueError(
            f"Masks of shape {list(masks.shape)} and boxes of shape {list(boxes.shape)} do not belong together. "
            "Allowed: [N, M, M] and [N, 4]."
        )
    if pasting not in _POSITIONS:
        raise ValueError(f"pasting = {pasting!r} is unknown. Allowed: {', '.join(_POSITIONS)}.")
    with np.errstate(all="ignore"):  # boxes without area, or as large as numbers get, have positions that no pixel has
        is_box = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        rows = _Axis.of(boxes[:, 0], boxes[:, 2], image_size[0], masks.shape[1], pasting)
        columns = _Axis.of(boxes[:, 1], boxes[:, 3], image_size[1], masks.shape[2], pasting)
    pasted = []
    for i, mask in enumerate(masks):
        if not is_box[i] or not rows.lengths[i] or not columns.lengths[i]:
            pasted.append(PastedMask(np.zeros((0, 0), bool), (0, 0)))
            continue
        values = columns.weights(i) @ (mask.T @ rows.weights(i).T)  # [w, h], so that columns lie together
        is_inside = values >= _THRESHOLD if pasting == "PIXEL_CENTERS" else values > _THRESHOLD
        pasted.append(PastedMask(is_inside.T, (int(rows.begins[i]), int(columns.begins[i]))))
    return pasted


def fill_image(pasted: Sequence[PastedMask], image_size: tuple[int, int]) -> np.ndarray:
    """The masks in whole images, [N, H, W] bool."""
    images = np.zeros((len(pasted), *image_size), bool)
    for image, (pixels, (row, column)) in zip(images, pasted, strict=True):
        image[row : row + pixels.shape[0], column : column + pixels.shape[1]] = pixels
    return images


class _Axis(NamedTuple):
    """Where the pixels of one axis sample the masks."""

    positions: np.ndarray
    """[N, H] float32, in cells of the mask; cell i is at i."""
    begins: np.ndarray
    """[N] int, the first pixel that may be touched."""
    lengths: np.ndarray
    """[N] int, how many there are."""
    num_cells: int

    @classmethod
    def of(cls, low: np.ndarray, high: np.ndarray, size: int, num_cells: int, pasting: MaskPasting) -> _Axis:
        positions = _POSITIONS[pasting](low, high, size, num_cells)
        if pasting == "CORNERS_ALIGNED":
            is_touched = (positions >= 0) & (positions <= num_cells - 1)
        else:
            is_touched = (positions > -1) & (positions < num_cells)
        if not size:
            return cls(positions, np.zeros(len(low), int), np.zeros(len(low), int), num_cells)
        return cls(positions, np.argmax(is_touched, axis=1), np.sum(is_touched, axis=1), num_cells)

    def weights(self, row: int) -> np.ndarray:
        """[h, M] float32, the share of each cell in each touched pixel: linear between cells, zero beyond the last."""
        begin = self.begins[row]
        positions = self.positions[row, begin : begin + self.lengths[row]]
        return np.maximum(1 - np.abs(positions[:, None] - np.arange(self.num_cells, dtype=np.float32)), np.float32(0))


def _corners_aligned(low: np.ndarray, high: np.ndarray, size: int, num_cells: int) -> np.ndarray:
    """`tf.image.crop_and_resize` of the mask at the image's frame, relative to the box; float32 in the same order."""
    low, high = low / np.float32(size), high / np.float32(size)
    side = np.maximum(high - low, np.float32(_MIN_SIDE))
    begin, end = (0 - low) / side, (1 - low) / side  # of the image, relative to the box
    last = np.float32(num_cells - 1)
    if size == 1:
        return (np.float32(0.5) * (begin + end) * last)[:, None]
    step = (end - begin) * last / np.float32(size - 1)
    return (begin * last)[:, None] + _pixels(size) * step[:, None]


def _pixel_centers(low: np.ndarray, high: np.ndarray, size: int, num_cells: int) -> np.ndarray:
    """Detectron2's `paste_masks_in_image`: `grid_sample` without aligned corners."""
    share = (_pixels(size) + np.float32(0.5) - low[:, None]) / (high - low)[:, None] * 2 - 1  # -1 to 1 in the box
    return ((share + 1) * num_cells - 1) / 2


def _zero_border(low: np.ndarray, high: np.ndarray, size: int, num_cells: int) -> np.ndarray:
    """As torchvision's `paste_masks_in_image`; a position in the border is below 0 or above the last cell."""
    half, center = (high - low) * np.float32(0.5), (high + low) * np.float32(0.5)
    half = half * np.float32((num_cells + 2) / num_cells)
    first, last = np.trunc(center - half), np.trunc(center + half)
    num_pixels = np.maximum(last - first + 1, np.float32(1))
    step = np.float32(num_cells + 2) / num_pixels
    return (_pixels(size) - first[:, None] + np.float32(0.5)) * step[:, None] - np.float32(1.5)


def _pixels(size: int) -> np.ndarray:
    return np.arange(size, dtype=np.float32)


_POSITIONS = {"CORNERS_ALIGNED": _corners_aligned, "PIXEL_CENTERS": _pixel_centers, "ZERO_BORDER": _zero_border}
