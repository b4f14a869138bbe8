"""Which RoIs train masks, and what they learn."""

from __future__ import annotations

import numpy as np
import pytest
import support
import tensorflow as tf

from object_detection_fpn.modeling.mask_targets import MaskSampler
from object_detection_fpn.modeling.targets import RoISampler
from object_detection_fpn.ops.masks import MaskCrop
from object_detection_fpn.records import MaskOutputs, Proposals

GROUNDTRUTH = support.make_groundtruth(
    [{"box": (0, 0, 16, 16), "class": 2}, {"box": (20, 20, 40, 40), "class": 0, "weight": 0.5}],
    [{"box": (0, 0, 16, 16), "class": 1, "crowd": True}],
)
ROIS = Proposals(
    boxes=tf.constant(
        [
            [[40.0, 0, 60, 20], [20, 20, 40, 40], [0, 0, 16, 14], [0, 0, 15, 16]],
            [[0, 0, 16, 16], [40, 40, 50, 50], [0, 0, 0, 0], [0, 0, 0, 0]],
        ]
    ),
    scores=tf.zeros([2, 4]),
    num_proposals=tf.constant([4, 2]),
)
TARGETS = RoISampler().targets(ROIS, GROUNDTRUTH)


@pytest.mark.parametrize(
    "settings, rows",
    [
        ({}, [[1, 2, 3], []]),  # objects only, no crowd, in the order of the RoIs
        ({"num_samples": 2}, [[1, 2], []]),
        ({"static": True, "num_samples": 5}, [[1, 2, 3], []]),
        ({"classes_with_masks": (2,)}, [[2, 3], []]),
        ({"classes_with_masks": (1,)}, [[], []]),
    ],
)
def test_rois_of_objects_with_masks_train(settings, rows):
    sampler = MaskSampler(**settings)
    boxes, matches = sampler.choose(ROIS.boxes, TARGETS)
    num = settings["num_samples"] if settings.get("static") else max(1, *map(len, rows))
    assert boxes.shape == (2, num, 4)
    for image, expected in enumerate(rows):
        is_real = matches.numpy()[image] >= 0
        assert is_real.tolist() == [True] * len(expected) + [False] * (num - len(expected))
        np.testing.assert_array_equal(boxes.numpy()[image][is_real], ROIS.boxes.numpy()[image][expected])
        np.testing.assert_array_equal(boxes.numpy()[image][~is_real], 0.0)
    classes = sampler.classes(matches, GROUNDTRUTH).numpy()[0]
    assert classes[: len(rows[0])].tolist() == [[2, 0][m] for m in matches.numpy()[0][: len(rows[0])]]


def targets_of(sampler, box, masks):
    """The targets of one RoI that matches the first object of the first image."""
    groundtruth = GROUNDTRUTH._replace(masks=tf.constant(masks), mask_frames=GROUNDTRUTH.boxes)
    outputs = MaskOutputs(tf.zeros([2, 1, 4, 4]), tf.constant([[box], [[0.0] * 4]]), tf.constant([[0], [-2]]))
    shares, weights = sampler.targets(outputs, groundtruth, tf.constant([64, 64]))
    return shares.numpy()[0, 0], weights.numpy()


CROP = MaskCrop(size=(4, 4), kind="roi_align")
LEFT_HALF = np.zeros([2, 2, 8, 8], np.uint8)
LEFT_HALF[..., :4] = 255


def test_the_mask_of_the_object_is_cropped_at_the_roi():
    shares, weights = targets_of(MaskSampler(crop=CROP), [0.0, 0, 16, 16], LEFT_HALF)
    np.testing.assert_allclose(shares, np.tile([1.0, 1, 0, 0], [4, 1]), atol=0.13)
    np.testing.assert_array_equal(weights, [[1.0], [0.0]])
    of_the_left, _ = targets_of(MaskSampler(crop=CROP), [0.0, 0, 16, 8], LEFT_HALF)
    assert of_the_left.min() > 0.8


def test_a_threshold_gives_zeros_and_ones_and_counts_half_as_inside():
    shares, _ = targets_of(MaskSampler(crop=CROP, threshold=0.5), [0.0, 0, 16, 16], LEFT_HALF)
    np.testing.assert_array_equal(shares, np.tile([1.0, 1, 0, 0], [4, 1]))
    half = np.full_like(LEFT_HALF, 255)
    half[..., ::2] = 0  # every other column: each cell is half an object
    shares, _ = targets_of(MaskSampler(crop=CROP, threshold=0.5), [0.0, 0, 16, 16], half)
    np.testing.assert_array_equal(shares, 1.0)


def test_objects_count_by_their_weight():
    groundtruth = GROUNDTRUTH._replace(masks=tf.constant(LEFT_HALF), mask_frames=GROUNDTRUTH.boxes)
    outputs = MaskOutputs(tf.zeros([2, 1, 4, 4]), tf.zeros([2, 1, 4]), tf.constant([[1], [-2]]))
    _, weights = MaskSampler(crop=CROP).targets(outputs, groundtruth, tf.constant([64, 64]))
    np.testing.assert_array_equal(weights, [[0.5], [0.0]])


def test_groundtruth_without_masks_is_refused():
    outputs = MaskOutputs(tf.zeros([2, 1, 4, 4]), tf.zeros([2, 1, 4]), tf.zeros([2, 1], tf.int32))
    with pytest.raises(ValueError, match="has no masks"):
        MaskSampler().targets(outputs, GROUNDTRUTH, tf.constant([64, 64]))
