from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from object_detection_fpn.ops import nms

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), threshold=st.sampled_from([0.0, 0.3, 0.7, 1.0]), num=st.sampled_from([1, 30, 120]))
def test_is_greedy_with_ties_to_the_lowest_index(seed, threshold, num, random_boxes, reference):
    rng = np.random.default_rng(seed)
    boxes, scores = random_boxes(rng, (2, num), side=200.0), np.round(rng.random((2, num)), 1).astype(np.float32)
    boxes[:, num // 2 :] = boxes[:, : num - num // 2]  # duplicates
    for static in (False, True):
        indices, num_kept = nms.batched_nms(
            boxes,
            scores,
            max_outputs=40,
            iou_threshold=threshold,
            score_threshold=0.2,
            static=static,
        )
        for image in range(2):
            expected = reference(boxes[image], scores[image], 40, threshold, np.float32(0.2))
            assert indices[image].numpy().tolist() == expected + [0] * (40 - len(expected))
            assert num_kept[image] == len(expected)


def test_chain_of_overlaps_is_settled_in_order(mode, run):
    # Each box overlaps only its neighbours, so greedy suppression keeps every other one.
    starts = np.arange(0.0, 60.0)
    boxes = np.stack([np.zeros(60), starts, np.ones(60), starts + 1.8], axis=-1).astype(np.float32)[np.newaxis]
    scores = np.linspace(1.0, 0.5, 60, dtype=np.float32)[np.newaxis]
    indices, num = run(
        nms.batched_nms, boxes, scores, mode=mode, max_outputs=60, iou_threshold=0.2, score_threshold=0.0
    )
    assert num[0] == 30
    np.testing.assert_array_equal(indices[0, :30], np.arange(0, 60, 2))


@pytest.mark.parametrize("scores", [[0.1, 0.1, 0.1], [np.nan, -np.inf, 0.3]])
def test_nothing_above_the_threshold_keeps_nothing(mode, scores, run):
    boxes = tf.constant([[[0.0, 0.0, 1.0, 1.0]] * 3])
    indices, num = run(
        nms.batched_nms, boxes, tf.constant([scores]), mode=mode, max_outputs=5, iou_threshold=0.5, score_threshold=0.3
    )
    np.testing.assert_array_equal(indices, [[0] * 5])
    np.testing.assert_array_equal(num, [0])


def test_empty_boxes_suppress_nothing(mode, run):
    boxes, scores = tf.zeros([1, 4, 4]), tf.constant([[0.5, 0.9, 0.1, 0.7]])
    indices, num = run(nms.batched_nms, boxes, scores, mode=mode, max_outputs=6, iou_threshold=0.0, score_threshold=0.0)
    np.testing.assert_array_equal(indices, [[1, 3, 0, 2, 0, 0]])
    np.testing.assert_array_equal(num, [4])


@pytest.mark.parametrize("static", [False, True])
def test_unknown_shapes_are_taken(static, random_boxes):
    def suppress(boxes, scores):
        return nms.batched_nms(boxes, scores, max_outputs=20, iou_threshold=0.5, score_threshold=0.0, static=static)

    rng = np.random.default_rng(0)
    boxes, scores = random_boxes(rng, (2, 50)), rng.random((2, 50)).astype(np.float32)
    unknown = tf.function(
        suppress, input_signature=[tf.TensorSpec([None, None, 4]), tf.TensorSpec([None, None])], autograph=False
    )
    np.testing.assert_array_equal(unknown(boxes, scores)[0], suppress(boxes, scores)[0])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"max_outputs": 0}, "max_outputs = 0. Allowed: 1 or more"),
    ],
)
def test_bad_values_are_refused(change, message):
    values = {
        "max_outputs": 3,
        "iou_threshold": 0.5,
        "score_threshold": 0.0,
    }
    with pytest.raises(ValueError, match=message):
        nms.batched_nms(tf.zeros([1, 2, 4]), tf.zeros([1, 2]), **{**values, **change})
