"""The orders in which libraries have the anchors of a cell, for the rows of the layers that predict something of each."""

from __future__ import annotations

import numpy as np

# Doublings of area or shape by which anchors of a cell differ at least; torchvision rounds their corners.
_LEAST_DIFFERENCE = 0.25


def by_size(cell_anchors: np.ndarray) -> np.ndarray:
    """For each anchor of a cell, [A, 4], its number where anchors stand size by size, each size from wide to high."""
    size, shape = _ranks(cell_anchors)
    return np.argsort(np.lexsort((shape, size)))


def by_shape(cell_anchors: np.ndarray) -> np.ndarray:
    """The same where they stand from wide to high, each shape size by size."""
    size, shape = _ranks(cell_anchors)
    return np.argsort(np.lexsort((size, shape)))


def _ranks(cell_anchors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[A] and [A], the place of each anchor's size and shape among those that there are."""
    height, width = (cell_anchors[:, 2:] - cell_anchors[:, :2]).T
    ranks = []
    for values in (np.log2(height * width), np.log2(height / width)):
        order = np.argsort(values)
        is_next = np.diff(values[order], prepend=values[order[0]]) > _LEAST_DIFFERENCE
        rank = np.empty(len(values), np.int64)
        rank[order] = np.cumsum(is_next)
        ranks.append(rank)
    return ranks[0], ranks[1]
