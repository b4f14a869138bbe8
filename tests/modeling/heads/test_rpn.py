"""The RPN: order of its outputs, which anchors take part, which proposals follow."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import layers
from object_detection_fpn.modeling.heads import rpn
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
    return rpn.RPNHead(in_filters=1, num_levels=2, num_anchors=3, num_filters=num_filters, spec=spec)


def make_rpn(*, clip_anchors=False, static=False, **settings):
    decoder = ProposalDecoder(**{"max_proposals": 20, "static": static, **settings})
    return rpn.RPN(
        head=make_head(),
        generate_anchors=generate_anchors,
        clip_anchors=clip_anchors,
        decoder=decoder,
        execution=Execution(static=static),
    )


def make_counting_head():
    """Passes a cell's feature through; its anchor a gets logits (0, a + 1), deltas (a, a + .1, a + .2, a + .3) times it."""
    head = make_head()
    center = np.zeros([3, 3, 1, 1], np.float32)
    center[1, 1] = 1.0
    head.conv.kernel.assign(center)
    logits = np.stack([np.zeros(3), np.arange(3) + 1.0], -1).reshape(1, 1, 1, 6)
    deltas = (np.arange(3)[:, None] + np.arange(4) / 10).reshape(1, 1, 1, 12)
    for level in range(2):
        head.objectness[level].kernel.assign(logits)
        head.deltas[level].kernel.assign(deltas)
    return head


def make_pyramid(seed=0, sizes=SIZES, batch=2):
    random = np.random.RandomState(seed)
    return tuple(tf.constant(random.uniform(0, 5, [batch, *size, 1]), tf.float32) for size in sizes)


@pytest.mark.parametrize(
    "level, row, column", [(0, 0, 0), (0, 0, 5), (0, 2, 3), (0, 3, 5), (1, 0, 0), (1, 1, 0), (1, 1, 2)]
)
def test_outputs_are_in_the_order_of_the_anchors(level, row, column):
    pyramid = [np.zeros([1, *size, 1], np.float32) for size in SIZES]
    pyramid[level][0, row, column] = 1.0
    logits, deltas = make_counting_head()([tf.constant(features) for features in pyramid], training=False)
    assert logits.shape == (1, NUM_ANCHORS, 2)
    assert deltas.shape == (1, NUM_ANCHORS, 4)

    signalled = np.nonzero(logits[0, :, 1])[0]
    np.testing.assert_allclose(logits.numpy()[0, signalled], [[0, 1], [0, 2], [0, 3]])  # background, object
    np.testing.assert_allclose(
        deltas.numpy()[0, signalled], [[0, 0.1, 0.2, 0.3], [1, 1.1, 1.2, 1.3], [2, 2.1, 2.2, 2.3]], rtol=1e-6
    )
    stride = 8 << level
    boxes = generate_anchors(SIZES).numpy()[signalled]
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    np.testing.assert_allclose(centers, [[(row + 0.5) * stride, (column + 0.5) * stride]] * 3, rtol=1e-6)
    height, width = (boxes[:, 2:] - boxes[:, :2]).T
    np.testing.assert_allclose(width / height, ASPECT_RATIOS, rtol=1e-6)


def test_one_convolution_serves_all_levels_and_each_level_has_its_predictors():
    head = make_head(num_filters=5)
    shapes = [tuple(v.shape) for v in head.trainable_variables]
    assert sorted(shapes) == sorted([(3, 3, 1, 5), (5,)] + 2 * [(1, 1, 5, 6), (6,), (1, 1, 5, 12), (12,)])
    head.objectness[1].bias.assign([0, 9] * 3)
    logits, _ = head([tf.zeros([1, *size, 1]) for size in SIZES], training=False)
    np.testing.assert_array_equal(logits[0, :, 1], [0] * (3 * 24) + [9] * (3 * 6))


@pytest.mark.parametrize("activation", ["linear", "relu", "swish"])
def test_the_convolution_is_always_activated_by_relu6(activation):
    head = make_head(layers.LayerSpec(activation=activation))
    head.conv.bias.assign([100.0])
    head.objectness[0].kernel.assign(np.ones([1, 1, 1, 6]))
    logits, _ = head([tf.zeros([1, *size, 1]) for size in SIZES], training=False)
    assert logits[0, 0, 0] == 6.0


def test_kernel_size_and_dilation_widen_what_a_cell_sees():
    def num_cells_seen(**settings):
        head = rpn.RPNHead(
            in_filters=1, num_levels=1, num_anchors=1, num_filters=1, spec=layers.LayerSpec(), **settings
        )
        head.conv.kernel.assign(tf.ones_like(head.conv.kernel))
        head.objectness[0].kernel.assign(np.ones([1, 1, 1, 2]))
        features = np.zeros([1, 11, 11, 1], np.float32)
        features[0, 5, 5] = 1.0
        rows, _ = np.nonzero(head([tf.constant(features)], training=False)[0].numpy().reshape(11, 11, 2)[..., 0])
        return rows.min(), rows.max(), len(rows)

    assert num_cells_seen() == (4, 6, 9)
    assert num_cells_seen(kernel_size=5) == (3, 7, 25)
    assert num_cells_seen(dilation_rate=3) == (2, 8, 9)


def test_a_pyramid_of_other_levels_is_refused():
    with pytest.raises(ValueError, match=r"The pyramid has 1 levels; this head was built for 2\."):
        make_head()(make_pyramid()[:1], training=False)


def test_outputs_are_float32_under_bfloat16():
    head = make_head(layers.LayerSpec(execution=Execution(dtype="mixed_bfloat16")))
    logits, deltas = head(make_pyramid(), training=True)
    assert (logits.dtype, deltas.dtype) == (tf.float32, tf.float32)
    assert {v.dtype for v in head.variables} == {tf.float32}


# Some anchors alone ----------------------------------------------------------------------------------------------------


def make_trained_head(**settings):
    spec = layers.LayerSpec(**settings, initializer=lambda: tf_keras.initializers.RandomNormal(stddev=0.5))
    head = rpn.RPNHead(in_filters=2, num_levels=2, num_anchors=3, num_filters=5, spec=spec)
    for i, variable in enumerate(head.trainable_variables):
        if "bias" in variable.name:
            variable.assign(np.random.RandomState(i).normal(0, 1, variable.shape))
    return head


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("mixed_bfloat16", 0.05)])
def test_some_anchors_alone_have_the_outputs_and_gradients_of_all(dtype, tolerance):
    head = make_trained_head(execution=Execution(dtype=dtype))
    random = np.random.RandomState(0)
    pyramid = [tf.constant(random.normal(0, 1, [2, *size, 2]), head.compute_dtype) for size in SIZES]
    indices = tf.constant(random.randint(0, NUM_ANCHORS, [2, 30]), tf.int32)
    weights = [random.normal(0, 1, [2, 30, size]) for size in (2, 4)]
    found = []
    for run in (
        lambda: [tf.gather(values, indices, batch_dims=1) for values in head(pyramid, training=True)],
        lambda: head.predict_at(pyramid, indices),
    ):
        with tf.GradientTape() as tape:
            tape.watch(pyramid)
            outputs = run()
            loss = sum(tf.reduce_sum(values * weight) for values, weight in zip(outputs, weights, strict=True))
        assert all(values.dtype == tf.float32 for values in outputs)
        found.append([*outputs, *tape.gradient(loss, [*pyramid, *head.trainable_variables])])
    for of_all, alone in zip(*found, strict=True):
        of_all, alone = (tf.cast(values, tf.float32).numpy() for values in (of_all, alone))
        assert np.any(of_all != 0)
        assert np.linalg.norm(alone - of_all) <= tolerance * np.linalg.norm(of_all)


@pytest.mark.parametrize("kernel_size, dilation", [(3, 1), (3, 2), (1, 1), (2, 1), (5, 1)])
def test_sampled_anchors_have_the_values_and_gradients_of_all(kernel_size, dilation):
    random = np.random.RandomState(0)
    head = rpn.RPNHead(
        in_filters=4, num_levels=2, num_anchors=3, num_filters=5, kernel_size=kernel_size, dilation_rate=dilation,
        spec=layers.LayerSpec(),
    )  # fmt: skip
    for variable in head.trainable_variables:
        variable.assign(random.normal(0, 0.5, variable.shape))
    pyramid = [tf.constant(random.normal(0, 1, [2, *size, 4]), tf.float32) for size in SIZES]
    indices = np.stack([random.permutation(NUM_ANCHORS), random.randint(0, 9, NUM_ANCHORS)])  # each once; some often
    weights = [tf.constant(random.normal(0, 1, [2, NUM_ANCHORS, size]), tf.float32) for size in (2, 4)]
    sources = [*pyramid, *head.trainable_variables]

    def differentiate(predict):
        @tf.function(autograph=False)
        def run(*pyramid):
            with tf.GradientTape() as tape:
                tape.watch(pyramid)
                outputs = predict(pyramid)
                loss = tf.add_n([tf.reduce_sum(o * w) for o, w in zip(outputs, weights, strict=True)])
            return outputs, tape.gradient(loss, [*pyramid, *head.trainable_variables])

        return run(*pyramid)

    def of_all(pyramid):
        return [tf.gather(outputs, indices, batch_dims=1) for outputs in head(pyramid, training=True)]

    outputs, gradients = differentiate(lambda pyramid: head.predict_at(pyramid, tf.constant(indices, tf.int32)))
    expected_outputs, expected_gradients = differentiate(of_all)
    for actual, expected in zip(outputs, expected_outputs, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    for source, actual, expected in zip(sources, gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(
            tf.convert_to_tensor(actual), expected, rtol=1e-4, atol=1e-4, err_msg=str(source.shape)
        )


@pytest.mark.parametrize("norm", [layers.BatchNormSpec(), layers.GroupNormSpec()])
def test_a_head_with_normalization_is_differentiated_whole(norm):
    head = rpn.RPNHead(in_filters=4, num_levels=2, num_anchors=3, num_filters=32, spec=layers.LayerSpec(norm=norm))
    part = rpn.RPN(head=head, generate_anchors=generate_anchors)
    pyramid = [tf.ones([1, *size, 4]) for size in SIZES]
    outputs = part(pyramid, tf.constant([32, 48]), training=True)
    logits, deltas = part.look_up(outputs, pyramid, tf.constant([[3, 80]]))
    np.testing.assert_array_equal(logits, tf.gather(outputs.objectness_logits, [3, 80], axis=1))
    np.testing.assert_array_equal(deltas, tf.gather(outputs.box_deltas, [3, 80], axis=1))


def test_few_anchors_are_computed_alone_and_many_or_normalized_ones_are_not():
    pyramid, head = make_pyramid(), make_head()
    assert head.is_local(pyramid, 3)  # of 9 cells each, of 30
    assert not head.is_local(pyramid, 4)
    assert not head.is_local(pyramid, None)
    assert not make_head(layers.LayerSpec(norm=layers.BatchNormSpec())).is_local(pyramid, 3)


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
    proposals = network.propose(random_outputs(seed), TRUE_SHAPES)
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
        native, xla = (make_rpn(static=static).propose(random_outputs(seed), TRUE_SHAPES) for static in (False, True))
        np.testing.assert_allclose(native.boxes, xla.boxes, atol=1e-5)
        np.testing.assert_allclose(native.scores, xla.scores, atol=1e-5)
        np.testing.assert_array_equal(native.num_proposals, xla.num_proposals)


def test_anchors_that_take_no_part_never_propose():
    is_valid = np.arange(NUM_ANCHORS) % 3 == 0
    outputs = random_outputs(0, is_valid)
    favoured = tf.where(outputs.is_valid[None, :, None], outputs.objectness_logits, [-50.0, 50.0])
    proposals = make_rpn(max_proposals=NUM_ANCHORS).propose(outputs._replace(objectness_logits=favoured), TRUE_SHAPES)
    of_valid = tf.sigmoid(favoured[..., 1] - favoured[..., 0]).numpy()[:, is_valid]
    for i in range(2):
        found = proposals.scores.numpy()[i, : int(proposals.num_proposals[i])]
        assert len(found) > 5
        assert np.all(np.isin(found, of_valid[i]))


def test_without_anchors_that_take_part_there_are_no_proposals():
    proposals = make_rpn().propose(random_outputs(0, np.zeros(NUM_ANCHORS, bool)), TRUE_SHAPES)
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
        return make_rpn(max_proposals=4, **settings).propose(outputs, shapes)

    everything = propose(iou_threshold=0.4)
    np.testing.assert_allclose(everything.boxes[0, :3], [anchors[0], anchors[1], moved], atol=1e-4)  # IoU is 1/3
    np.testing.assert_allclose(everything.scores[0], [*scores, 0], rtol=1e-5)
    np.testing.assert_allclose(propose(iou_threshold=0.3).scores[0], [scores[0], scores[2], 0, 0], rtol=1e-5)
    np.testing.assert_allclose(propose(score_threshold=0.1).scores[0], [scores[0], scores[1], 0, 0], rtol=1e-5)


def test_no_gradient_passes_through_proposals():
    outputs = random_outputs(0)
    with tf.GradientTape() as tape:
        tape.watch([outputs.objectness_logits, outputs.box_deltas])
        proposals = make_rpn().propose(outputs, TRUE_SHAPES)
        loss = tf.reduce_sum(proposals.boxes) + tf.reduce_sum(proposals.scores)
    assert tape.gradient(loss, [outputs.objectness_logits, outputs.box_deltas]) == [None, None]


def test_the_gradient_of_the_outputs_reaches_every_weight():
    network = make_rpn()
    with tf.GradientTape() as tape:
        outputs = network(make_pyramid(), tf.constant([32, 48]), training=True)
        loss = tf.reduce_sum(outputs.objectness_logits[..., 1] ** 2) + tf.reduce_sum(outputs.box_deltas**2)
    assert all(gradient is not None for gradient in tape.gradient(loss, network.trainable_variables))
