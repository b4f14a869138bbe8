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


@pytest.mark.parametrize(
    "library, epsilons", [("torchvision", {"level_epsilon": 1e-6}), ("detectron2", {"side_epsilon": 1e-8})]
)
def test_levels_in_pixels_are_those_of_pytorch(golden_dir, library, epsilons):
    """Among them boxes of exactly 112, 224 and 448 pixels, and those beside."""
    golden = np.load(golden_dir / "pytorch/ops/levels.npz")
    for boxes, expected in ((golden["boxes"], library), (golden["empty_boxes"], f"{library}_empty")):
        levels = crop_ops.assign_levels_in_pixels(
            tf.constant(boxes[None]), min_level=2, max_level=5, canonical_level=4, **epsilons
        )
        np.testing.assert_array_equal(levels[0] + 2, golden[expected])


def test_each_epsilon_moves_the_border_between_levels():
    side = 112 * (1 - 2e-6)
    boxes = tf.constant([[[0.0, 0.0, side, side], [0.0, 0.0, 0.0, 0.0]]])

    def levels(**epsilons):
        found = crop_ops.assign_levels_in_pixels(boxes, min_level=2, max_level=5, canonical_level=4, **epsilons)
        return found.numpy().tolist()

    assert levels() == [[0, 0]]
    assert levels(level_epsilon=1e-5) == [[1, 0]]
    assert levels(side_epsilon=1e-5) == [[1, 0]]
    assert levels(side_epsilon=0.25) == [[1, 0]]


def test_canonical_level_and_size_move_levels():
    boxes = tf.constant([[[0.0, 0.0, side, side] for side in (30, 40, 70, 500)]])
    found = crop_ops.assign_levels_in_pixels(boxes, min_level=3, max_level=5, canonical_level=4, canonical_size=64.0)
    assert found.numpy().tolist() == [[0, 0, 1, 2]]
