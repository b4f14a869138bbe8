"""The RPN: which anchors take part, which proposals follow, what both cost."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import layers
from object_detection_fpn.modeling.heads import rpn, rpn_head
from object_detection_fpn.modeling.proposals import ProposalDecoder
from object_detection_fpn.ops import anchors as anchor_ops
from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.records import RpnOutputs

ASPECT_RATIOS = (1.0, 2.0, 0.5)
SIZES = [(4, 6), (2, 3)]  # of levels 3 and 4
NUM_ANCHORS = 3 * (4 * 6 + 2 * 3)

generate_anchors = functools.partial(
    anchor_ops.multiscale_anchors, min_level=3, anchor_scale=2.0, aspect_ratios=ASPECT_RATIOS, scales_per_octave=1
)


def make_head(spec=layers.LayerSpec(), num_filters=1):
    return rpn_head.RPNHead(in_filters=1, num_levels=2, num_anchors=3, num_filters=num_filters, spec=spec)


def make_rpn(*, clip_anchors=False, static=False, **settings):
    decoder = ProposalDecoder(**{"max_proposals": 20, "static": static, **settings})
    return rpn.RPN(
        head=make_head(),
        generate_anchors=generate_anchors,
        clip_anchors=clip_anchors,
        decoder=decoder,
        execution=Execution(static=static),
    )


def make_pyramid(seed=0, sizes=SIZES, batch=2):
    random = np.random.RandomState(seed)
    return tuple(tf.constant(random.uniform(0, 5, [batch, *size, 1]), tf.float32) for size in sizes)


@pytest.mark.parametrize("norm", [layers.BatchNormSpec(), layers.GroupNormSpec()])
def test_a_head_with_normalization_is_differentiated_whole(norm):
    head = rpn_head.RPNHead(in_filters=4, num_levels=2, num_anchors=3, num_filters=32, spec=layers.LayerSpec(norm=norm))
    part = rpn.RPN(head=head, generate_anchors=generate_anchors)
    pyramid = [tf.ones([1, *size, 4]) for size in SIZES]
    outputs = part(pyramid, tf.constant([32, 48]), training=True)
    logits, deltas = part.look_up(outputs, pyramid, tf.constant([[3, 80]]))
    np.testing.assert_array_equal(logits, tf.gather(outputs.objectness_logits, [3, 80], axis=1))
    np.testing.assert_array_equal(deltas, tf.gather(outputs.box_deltas, [3, 80], axis=1))


def test_anchors_are_looked_up_in_the_outputs_if_there_is_no_pyramid():
    outputs, indices = random_outputs(0), tf.constant([[5, 2], [0, 80]])
    logits, deltas = make_rpn().look_up(outputs, None, indices)
    np.testing.assert_array_equal(logits[1, 1], outputs.objectness_logits[1, 80])
    np.testing.assert_array_equal(deltas[0, 0], outputs.box_deltas[0, 5])


# Which anchors take part -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_size", [(32, 48), (20, 30)], ids=["whole cells", "padded"])
@pytest.mark.parametrize(
    "clip_anchors, training, crossing_take_part",
    [(False, True, False), (False, False, True), (True, True, True), (True, False, True)],
)
def test_anchors_across_the_border_take_part_only_if_clipped(clip_anchors, training, crossing_take_part, image_size):
    outputs = make_rpn(clip_anchors=clip_anchors)(make_pyramid(), tf.constant(image_size), training=training)
    whole = generate_anchors(SIZES).numpy()
    height, width = image_size
    inside = (whole[:, 0] >= 0) & (whole[:, 1] >= 0) & (whole[:, 2] <= height) & (whole[:, 3] <= width)
    clipped = np.clip(whole, 0, [height, width, height, width])
    touching = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    assert 0 < inside.sum() < touching.sum()
    assert (touching.sum() < NUM_ANCHORS) == (image_size == (20, 30))  # the padding has anchors of its own
    np.testing.assert_array_equal(outputs.is_valid, touching if crossing_take_part else inside)
    taking_part = outputs.is_valid.numpy()
    np.testing.assert_array_equal(outputs.anchors.numpy()[taking_part], clipped[taking_part])


def random_outputs(seed, is_valid=None, batch=2):
    random = np.random.RandomState(seed)
    return RpnOutputs(
        objectness_logits=tf.constant(random.normal(0, 3, [batch, NUM_ANCHORS, 2]), tf.float32),
        box_deltas=tf.constant(random.normal(0, 3, [batch, NUM_ANCHORS, 4]), tf.float32),
        anchors=generate_anchors(SIZES),
        is_valid=tf.constant(np.ones(NUM_ANCHORS, bool) if is_valid is None else is_valid),
    )


TRUE_SHAPES = tf.constant([[32, 48, 3], [20, 30, 3]])


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("seed, max_proposals", [(0, 20), (1, 20), (2, 5), (3, 200)])
def test_proposals_are_sorted_padded_separate_and_inside_the_true_image(static, seed, max_proposals):
    network = make_rpn(max_proposals=max_proposals, iou_threshold=0.5, static=static)
    proposals = network.propose(random_outputs(seed), make_pyramid(), TRUE_SHAPES, training=False)
    assert proposals.boxes.shape == (2, max_proposals, 4)
    assert proposals.scores.shape == (2, max_proposals)
    boxes, scores = proposals.boxes.numpy(), proposals.scores.numpy()
    for i, (height, width, _) in enumerate(TRUE_SHAPES.numpy()):
        num = int(proposals.num_proposals[i])
        assert 0 < num <= max_proposals
        assert np.all(np.diff(scores[i, :num]) <= 0)
        assert np.all(scores[i, :num] > 0)
        assert np.all(boxes[i] >= 0)
        assert np.all(boxes[i] <= [height, width, height, width])
        assert np.all(box_ops.area(boxes[i, :num]) > 0)
        assert not np.any(boxes[i, num:])
        assert not np.any(scores[i, num:])


def test_both_implementations_propose_the_same():
    for seed in range(3):
        native, xla = (
            make_rpn(static=static).propose(random_outputs(seed), make_pyramid(), TRUE_SHAPES, training=False)
            for static in (False, True)
        )
        np.testing.assert_allclose(native.boxes, xla.boxes, atol=1e-5)
        np.testing.assert_allclose(native.scores, xla.scores, atol=1e-5)
        np.testing.assert_array_equal(native.num_proposals, xla.num_proposals)


def test_anchors_that_take_no_part_never_propose():
    is_valid = np.arange(NUM_ANCHORS) % 3 == 0
    outputs = random_outputs(0, is_valid)
    favoured = tf.where(outputs.is_valid[None, :, None], outputs.objectness_logits, [-50.0, 50.0])
    outputs = outputs._replace(objectness_logits=favoured)
    network = make_rpn(max_proposals=NUM_ANCHORS)
    proposals = network.propose(outputs, make_pyramid(), TRUE_SHAPES, training=False)
    of_valid = tf.sigmoid(favoured[..., 1] - favoured[..., 0]).numpy()[:, is_valid]
    for i in range(2):
        found = proposals.scores.numpy()[i, : int(proposals.num_proposals[i])]
        assert len(found) > 5
        assert np.all(np.isin(found, of_valid[i]))


def test_without_anchors_that_take_part_there_are_no_proposals():
    outputs = random_outputs(0, np.zeros(NUM_ANCHORS, bool))
    proposals = make_rpn().propose(outputs, make_pyramid(), TRUE_SHAPES, training=False)
    assert not any(np.any(values) for values in proposals)


def test_scores_and_boxes_worked_by_hand():
    """Three of the anchors, two of which overlap by half, one delta each of which moves a box by a whole anchor."""
    anchors = tf.constant([[0.0, 0, 10, 10], [0, 5, 10, 15], [20, 20, 30, 40]])
    outputs = RpnOutputs(
        objectness_logits=tf.constant([[[0.0, 2.0], [1.0, 2.0], [3.0, 0.0]]]),
        box_deltas=tf.constant(
            [[[0.0] * 4, [0.0] * 4, [-10.0, 0, 0, 5 * np.log(2)]]]
        ),  # up by its height, twice as wide
        anchors=anchors,
        is_valid=tf.ones([3], tf.bool),
    )
    shapes = tf.constant([[50, 45, 3]])
    scores = [0.8807971, 0.7310586, 0.0474259]
    moved = [10, 10, 20, 45]  # 50 wide, clipped

    def propose(**settings):
        network = make_rpn(max_proposals=4, **settings)
        return network.propose(outputs, [tf.zeros([1, 1, 1, 1])], shapes, training=False)

    everything = propose(iou_threshold=0.4)
    np.testing.assert_allclose(everything.boxes[0, :3], [anchors[0], anchors[1], moved], atol=1e-4)  # IoU is 1/3
    np.testing.assert_allclose(everything.scores[0], [*scores, 0], rtol=1e-5)
    np.testing.assert_allclose(propose(iou_threshold=0.3).scores[0], [scores[0], scores[2], 0, 0], rtol=1e-5)
    np.testing.assert_allclose(propose(score_threshold=0.1).scores[0], [scores[0], scores[1], 0, 0], rtol=1e-5)


def test_no_gradient_passes_through_proposals():
    outputs = random_outputs(0)
    with tf.GradientTape() as tape:
        tape.watch([outputs.objectness_logits, outputs.box_deltas])
        proposals = make_rpn().propose(outputs, make_pyramid(), TRUE_SHAPES, training=False)
        loss = tf.reduce_sum(proposals.boxes) + tf.reduce_sum(proposals.scores)
    assert tape.gradient(loss, [outputs.objectness_logits, outputs.box_deltas]) == [None, None]


def test_the_gradient_of_the_outputs_reaches_every_weight():
    network = make_rpn()
    with tf.GradientTape() as tape:
        outputs = network(make_pyramid(), tf.constant([32, 48]), training=True)
        loss = tf.reduce_sum(outputs.objectness_logits[..., 1] ** 2) + tf.reduce_sum(outputs.box_deltas**2)
    assert all(gradient is not None for gradient in tape.gradient(loss, network.trainable_variables))
