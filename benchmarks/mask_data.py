"""The masks of `paste_masks.py` and of its peer, and how both are timed; needs nothing of this package."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

NUM_REPEATS, SMALLEST_BOX = 15, 12


def draw(side: int, num_masks: int, mask_side: int) -> tuple[np.ndarray, np.ndarray]:
    """Blobs with smooth edges, [N, M, M] float32 in [0, 1], and boxes [N, 4] of all sizes, pixels, some over the border."""
    rng = np.random.default_rng(0)
    angles = np.arctan2(*np.mgrid[-1 : 1 : mask_side * 1j, -1 : 1 : mask_side * 1j])
    radii = np.hypot(*np.mgrid[-1 : 1 : mask_side * 1j, -1 : 1 : mask_side * 1j])
    waves = np.arange(1, 6)
    sizes = rng.uniform(0, 0.3, (num_masks, 5)) / waves
    phases = rng.uniform(0, 2 * np.pi, (num_masks, 5))
    outlines = 0.8 + np.einsum("nk,nkyx->nyx", sizes, np.cos(waves[:, None, None] * angles + phases[..., None, None]))
    masks = 1 / (1 + np.exp(-12 * (outlines - radii)))
    sides = np.exp(rng.uniform(np.log(SMALLEST_BOX), np.log(0.9 * side), (num_masks, 2)))
    centers = rng.uniform(0.05 * side, 0.95 * side, (num_masks, 2))
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], axis=1)
    return masks.astype(np.float32), boxes.astype(np.float32)


def measure(paste: Callable[[], list[dict]]) -> dict[str, float]:
    """The median of its seconds, and how many pixels are inside."""
    import pycocotools.mask

    encoded = paste()
    seconds = []
    for _ in range(NUM_REPEATS):
        start = time.perf_counter()
        paste()
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds), "num_inside": int(pycocotools.mask.area(encoded).sum())}
