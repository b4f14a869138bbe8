"""Arrays, boxes and masks beside those of the reference."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def assert_relative(ours, theirs, tolerance: float, name: str) -> None:
    """Each number to within a share of itself, and what is near 0 to within that share of 1."""
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * 1e-3, err_msg=name)


def assert_same_pixels(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Masks are equal but for one in a thousand of the pixels inside, which is stricter than of all pixels."""
    different, inside = np.sum(ours != theirs), np.sum(theirs)
    assert different <= 0.001 * inside, f"{different} pixels of {inside} inside"


def assert_close(ours: np.ndarray, theirs: np.ndarray, tolerance: float, name: str) -> None:
    difference = np.abs(ours - theirs).max()
    assert difference <= tolerance, f"{name}: {difference}"


def assert_paired(
    ours: np.ndarray, theirs: np.ndarray, *, within: float, our_labels=None, their_labels=None
) -> np.ndarray:
    """The pairs, if at most 1 % of either side have no partner."""
    paired = pairs(ours, theirs, our_labels=our_labels, their_labels=their_labels, within=within)
    assert len(paired) >= 0.99 * max(len(ours), len(theirs)), f"{len(paired)} pairs of {len(ours)} and {len(theirs)}"
    return paired


def by_level(values: tf.Tensor, pyramid: tuple[tf.Tensor, ...], num_anchors: int) -> list[np.ndarray]:
    """What an RPN says of all anchors of an image, [1, K, n], as maps [1, num_anchors * n, H, W] of each level."""
    values, maps, first = values.numpy()[0], [], 0
    for features in pyramid:
        height, width = features.shape[1:3]
        rows = values[first : first + height * width * num_anchors]
        maps.append(rows.reshape(1, height, width, -1).transpose(0, 3, 1, 2))
        first += len(rows)
    assert first == len(values)
    return maps


def like_stored(ours: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Those channels and cells of a map that the reference keeps: every n-th, n being a power of two."""
    steps = []
    for axis in range(1, 4):
        step = 1
        while -(-ours.shape[axis] // step) > stored.shape[axis]:
            step *= 2
        steps.append(slice(None, None, step))
    return ours[(slice(None), *steps)]


def pairs(
    ours: np.ndarray, theirs: np.ndarray, *, our_labels=None, their_labels=None, within: float = 1.0
) -> np.ndarray:
    """Rows (ours, theirs) of boxes [n, 4] of equal label that are nearest to each other, with no coordinate `within` apart."""
    distance = np.abs(ours[:, np.newaxis] - theirs).max(axis=-1)
    if our_labels is not None:
        distance[np.asarray(our_labels)[:, np.newaxis] != np.asarray(their_labels)] = np.inf
    nearest, back = distance.argmin(axis=1), distance.argmin(axis=0)
    rows = np.arange(len(ours))
    is_pair = (back[nearest] == rows) & (distance[rows, nearest] < within)
    return np.stack([rows[is_pair], nearest[is_pair]], axis=1)
