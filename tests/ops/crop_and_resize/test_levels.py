from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.ops import crop_and_resize as crop_ops


@pytest.mark.parametrize("side, level", [(0, 0), (111, 0), (113, 1), (223, 1), (225, 2), (447, 2), (449, 3), (4000, 3)])
def test_level_follows_box_side(side, level):
    box = tf.constant([[[0.0, 0.0, side / 1000, side / 1000]]])
    levels = crop_ops.assign_levels(box, num_levels=4, unit_level_index=2, size_ratio=1000 / 224)
    np.testing.assert_array_equal(levels, [[level]])


def test_empty_and_inverted_boxes_go_to_the_finest_level():
    boxes = tf.constant([[[0.0] * 4, [0.9, 0.9, 0.1, 0.1], [0.0, 0.0, 0.0, 1.0]]])
    levels = crop_ops.assign_levels(boxes, num_levels=4, unit_level_index=2, size_ratio=4.0)
    np.testing.assert_array_equal(levels, [[0, 0, 0]])


def test_no_levels_are_refused():
    with pytest.raises(ValueError, match=r"num_levels = 0\. Allowed: 1 or more"):
        crop_ops.assign_levels(tf.zeros([1, 1, 4]), num_levels=0, unit_level_index=0, size_ratio=1.0)
