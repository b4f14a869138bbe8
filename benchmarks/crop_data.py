"""The pyramid and RoIs of `crop_and_resize.py` and of its peer, and how both are timed; needs nothing of this package."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable

import numpy as np

LEVELS, NUM_FILTERS, NUM_REPEATS = range(2, 7), 256, 9


def draw(side: int, batch_size: int, num_rois: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Pyramid, per level [B, H, W, F], finest first; normalized boxes [B, R, 4]; level indices [B, R]."""
    rng = np.random.default_rng(0)
    sides = [-(-side // 2**level) for level in LEVELS]
    pyramid = [rng.standard_normal((batch_size, n, n, NUM_FILTERS), np.float32) for n in sides]
    corners = rng.uniform(0, 0.6, (batch_size, num_rois, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.02, 0.4, corners.shape)], -1).astype(np.float32)
    return pyramid, boxes, rng.integers(0, len(LEVELS), (batch_size, num_rois)).astype(np.int32)


def measure(forward: Callable[[], object], forward_backward: Callable[[], object]) -> dict[str, float]:
    """Medians in seconds without the first calls, which trace, and the growth of the process in GB.

    Args:
        forward: ends once the crops are there.
        forward_backward: ends once the gradients are there.
    """
    before = _gigabytes()
    values = {"forward": _seconds(forward)}
    values["extra_forward_gb"] = round(_peak_gigabytes() - before, 3)
    values["forward_backward"] = _seconds(forward_backward)
    values["extra_gb"] = round(_peak_gigabytes() - before, 3)
    return values


def _seconds(call: Callable[[], object]) -> float:
    call()
    seconds = []
    for _ in range(NUM_REPEATS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return round(statistics.median(seconds), 4)


def _gigabytes() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e9


def _peak_gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
