from __future__ import annotations

import numpy as np
import tensorflow as tf

from object_detection_fpn.ops import cells

SIZES = [(4, 6), (2, 3), (1, 1)]


def make_pyramid(dtype=tf.float32):
    """Each value tells its image, level, row and column."""
    levels = []
    for level, (height, width) in enumerate(SIZES):
        image, row, column = np.meshgrid(np.arange(2), np.arange(height), np.arange(width), indexing="ij")
        levels.append(tf.constant(np.stack([image, np.full_like(image, level), row, column], axis=-1), dtype))
    return levels


def test_a_cell_is_found_by_its_level_row_and_column():
    pyramid = make_pyramid()
    flat = cells.flatten(pyramid)
    assert flat.shape == (2 * (24 + 6 + 1), 4)
    levels, rows, columns = np.array([[[0, 1, 2], [1, 0, 0]], [[3, 1, 0], [0, 2, 0]], [[5, 0, 0], [2, 1, 4]]])
    first_cell, size = cells.locate(pyramid, tf.constant(levels, tf.int32))
    np.testing.assert_array_equal(size, np.array(SIZES)[levels])
    found = tf.gather(flat, first_cell + rows * size[..., 1] + columns)
    np.testing.assert_array_equal(found, np.stack([np.array([[0] * 3, [1] * 3]), levels, rows, columns], axis=-1))


def test_unflatten_inverts_flatten():
    pyramid = make_pyramid(tf.bfloat16)
    again = cells.unflatten(tf.cast(cells.flatten(pyramid), tf.float32), pyramid)
    for ours, level in zip(again, pyramid, strict=True):
        assert ours.dtype == tf.bfloat16
        np.testing.assert_array_equal(ours, level)
