"""Draws masks over images: translucent, with an outline, so that what lies beneath is seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_OUTLINE_SHARE = 1 / 300  # of the image's shorter side


def draw_masks(
    image: np.ndarray,
    masks: Sequence[tuple[np.ndarray, tuple[int, int]] | np.ndarray],
    colors: Sequence[tuple[int, int, int]],
    *,
    opacity: float = 0.4,
    outline: bool = True,
) -> np.ndarray:
    """Draws masks on a copy of an image, later ones over earlier ones.

    Args:
        image: [H, W, 3] uint8.
        masks: [N] masks in the image: [H, W] bool, or a part of it, [h, w] bool, with row and column of its first pixel
            (`ops.pasting.PastedMask`).
        colors: [N] red, green, blue.
        opacity: the share of the colour within a mask.
        outline: draw the pixels at the edge of a mask in the full colour.

    Returns:
        [H, W, 3] uint8.

    Raises:
        ValueError: if a mask reaches beyond the image.
    """
    drawn = np.array(image)
    thickness = max(1, round(min(drawn.shape[:2]) * _OUTLINE_SHARE))
    for mask, color in zip(masks, colors, strict=True):
        pixels, (row, column) = (mask, (0, 0)) if isinstance(mask, np.ndarray) else mask
        part = drawn[row : row + pixels.shape[0], column : column + pixels.shape[1]]
        if part.shape[:2] != pixels.shape or min(row, column) < 0:
            raise ValueError(
                f"A mask of {list(pixels.shape)} pixels from row {row}, column {column} reaches beyond the image of "
                f"{list(drawn.shape[:2])}."
            )
        part[pixels] = np.rint((1 - opacity) * part[pixels] + opacity * np.asarray(color)).astype(np.uint8)
        if outline:
            part[pixels & ~_erode(pixels, thickness)] = color
    return drawn


def enlarge(mask: tuple[np.ndarray, tuple[int, int]], factor: int) -> tuple[np.ndarray, tuple[int, int]]:
    """A mask in an image enlarged by a whole factor."""
    pixels, (row, column) = mask
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1), (row * factor, column * factor)


def _erode(pixels: np.ndarray, times: int) -> np.ndarray:
    """Takes away the pixels beside what is outside of a mask; beyond the array is outside."""
    for _ in range(times):
        padded = np.pad(pixels, 1)
        pixels = pixels & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return pixels
