"""`data/augment/masks.py`: what an affine transformation and the border of an image make of masks."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from object_detection_fpn.data.augment import masks


def bilinear(mask: np.ndarray, y: float, x: float) -> float:
    """Of a place in cells, counted from the middle of the first one; 0 outside."""
    total = 0.0
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * mask[row, column]
    return total


def test_a_matrix_samples_each_mask_where_it_leads():
    rng = np.random.default_rng(0)
    before = rng.integers(0, 256, [3, 7, 7]).astype(np.uint8)
    frames = np.array([[10, 20, 31, 50], [5.5, -3.0, 12.0, 90.0], [0.0, 0.0, 60.0, 80.0]], np.float32)
    new_frames = np.array([[8, 15, 40, 55], [-2.0, 1.5, 18.0, 88.0], [0.0, 0.0, 60.0, 80.0]], np.float32)
    matrix = np.array([[0.9, -0.2, 4.0], [0.25, 1.1, -3.5], [0, 0, 1]], np.float32)
    after = masks.transform_masks(*map(tf.constant, (before, frames, new_frames, matrix)))
    assert after.dtype == tf.uint8 and after.shape == before.shape
    for mask, result, old, new in zip(before, after.numpy(), frames, new_frames, strict=True):
        for row in range(7):
            for column in range(7):
                y = new[0] + (row + 0.5) * (new[2] - new[0]) / 7 - 0.5
                x = new[1] + (column + 0.5) * (new[3] - new[1]) / 7 - 0.5
                x, y, _ = matrix @ [x, y, 1]
                y = (y + 0.5 - old[0]) * 7 / (old[2] - old[0]) - 0.5
                x = (x + 0.5 - old[1]) * 7 / (old[3] - old[1]) - 0.5
                assert abs(result[row, column] - bilinear(mask, y, x)) < 0.51


def test_cells_that_an_image_shares_stay():
    full = tf.fill([3, 4, 4], tf.constant(9, tf.uint8))
    frames = tf.constant([[0.0, 0.0, 1.0, 1.0], [-0.3, -0.5, 0.7, 0.5], [0.8, 0.6, 1.2, 1.4]])
    cut = masks.cut_masks(full, frames).numpy()
    assert np.all(cut[0] == 9)
    expected = np.full([4, 4], 9)
    expected[:1] = expected[:, :2] = 0  # the second row begins at -0.05, the third column at 0
    np.testing.assert_array_equal(cut[1], expected)
    expected = np.full([4, 4], 9)
    expected[2:] = expected[:, 2:] = 0
    np.testing.assert_array_equal(cut[2], expected)
