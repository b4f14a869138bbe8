"""Statistics of training: worked cases, and that no loss depends on them."""

from __future__ import annotations

import numpy as np
import pytest
import support
import tensorflow as tf

from object_detection_fpn.modeling import statistics, targets
from object_detection_fpn.modeling.detector import mean_losses
from object_detection_fpn.records import Inputs, Proposals

GROUNDTRUTH = support.make_groundtruth(
    [{"box": (0, 0, 10, 10)}, {"box": (20, 20, 30, 30)}, {"box": (0, 0, 60, 60), "crowd": True}],
    [{"box": (0, 0, 10, 10), "weight": 0.0}],
    [],
)
INPUTS = Inputs(
    tf.constant(np.random.RandomState(0).uniform(0, 255, [3, 64, 64, 3]), tf.float32), tf.constant([[64, 64, 3]] * 3)
)


def values(found, name):
    return found[name].numpy().tolist()


def test_objects_are_neither_crowds_nor_without_weight():
    assert values(statistics.count_objects(GROUNDTRUTH), statistics.OBJECTS) == [[2, 1], [0, 1], [0, 1]]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_matches_and_boxes_that_no_anchor_reaches_are_counted(jit_compile):
    # Of the second box a quarter is covered; the match that is forced does not hide it.
    anchors = tf.constant([(0, 0, 10, 9), (20, 20, 25, 25), (40, 40, 50, 50)], tf.float32)
    matcher = targets.AnchorMatcher(force_match=True, static=jit_compile)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def count(groundtruth):
        found = matcher(anchors, groundtruth)
        return statistics.count_matches("DenseHead", found) | statistics.count_unmatched(
            "DenseHead", anchors, found, groundtruth, threshold=0.5
        )

    found = count(GROUNDTRUTH)
    assert values(found, "Matching/DenseHead/positives") == [[2, 1], [1, 1], [0, 1]]
    # In the crowd the third anchor is neither.
    assert values(found, "Matching/DenseHead/negatives") == [[0, 1], [2, 1], [3, 1]]
    assert values(found, "Matching/DenseHead/unmatched_objects") == [[1, 1], [0, 1], [0, 1]]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_recall_is_the_share_of_objects_that_a_proposal_covers(jit_compile):
    # The second image's proposal is padding.
    boxes = tf.constant(
        [[(0, 0, 10, 5), (21, 21, 25, 25)], [(0, 0, 10, 10), (0, 0, 0, 0)], [(0, 0, 9, 9)] * 2], tf.float32
    )
    proposals = Proposals(boxes, tf.ones([3, 2]), tf.constant([2, 0, 2]))
    measure = tf.function(statistics.measure_recall, jit_compile=jit_compile, autograph=False)
    assert values(measure(proposals, GROUNDTRUTH), statistics.RECALL) == [[1, 2], [0, 0], [0, 0]]


def test_a_detector_measures_what_it_names_and_its_losses_stay(make_model):
    model = make_model()
    predictions = model.predict(
        model.preprocess(INPUTS), training=True, groundtruth=GROUNDTRUTH, seed=tf.constant([1, 2])
    )
    measured: dict[str, tf.Tensor] = {}
    losses = mean_losses(model, predictions, GROUNDTRUTH, measured)
    assert set(measured) == set(model.statistic_names)
    assert {tuple(value.shape) for value in measured.values()} == {(3, 2)}
    plain = mean_losses(model, predictions, GROUNDTRUTH)
    assert {name: loss.numpy() for name, loss in losses.items()} == {name: loss.numpy() for name, loss in plain.items()}
    rois = measured["Matching/BoxHead/positives"][:, 0] + measured["Matching/BoxHead/negatives"][:, 0]
    np.testing.assert_array_less(rois, 13)  # of 12 sampled
    anchors = measured["Matching/RPN/positives"][:, 0] + measured["Matching/RPN/negatives"][:, 0]
    np.testing.assert_array_equal(anchors[1:], [32, 32])
    assert 0 < anchors[0] < 32  # most anchors of the first image lie in its crowd
    assert predictions.proposals.boxes.shape[1] == 24  # before sampling


def test_a_dense_detector_measures_what_it_names(tiny_retinanet):
    predictions = tiny_retinanet.predict(tiny_retinanet.preprocess(INPUTS), training=True)
    measured: dict[str, tf.Tensor] = {}
    mean_losses(tiny_retinanet, predictions, GROUNDTRUTH, measured)
    assert set(measured) == set(tiny_retinanet.statistic_names)
    num_anchors = predictions.dense.anchors.shape[0]
    assert measured["Matching/DenseHead/negatives"][2].numpy().tolist() == [num_anchors, 1]


@pytest.fixture
def tiny_retinanet(monkeypatch):
    from object_detection_fpn import builder

    support.put_backbone(monkeypatch, support.SSD_RESNET18, is_residual=True)
    return builder.build_model(support.retinanet_message())
