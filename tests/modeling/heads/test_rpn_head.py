"""The layers of the RPN: order of their outputs, what each cell sees, the gradient of some anchors alone."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import layers
from object_detection_fpn.modeling.heads import rpn_head
from object_detection_fpn.ops import anchors as anchor_ops

ASPECT_RATIOS = (1.0, 2.0, 0.5)
SIZES = [(4, 6), (2, 3)]  # of levels 3 and 4
NUM_ANCHORS = 3 * (4 * 6 + 2 * 3)

generate_anchors = functools.partial(
    anchor_ops.multiscale_anchors, min_level=3, anchor_scale=2.0, aspect_ratios=ASPECT_RATIOS, scales_per_octave=1
)


def make_head(spec=layers.LayerSpec(), num_filters=1, **settings):
    return rpn_head.RPNHead(in_filters=1, num_levels=2, num_anchors=3, num_filters=num_filters, spec=spec, **settings)


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


def test_one_predictor_serves_all_levels_if_it_is_shared():
    head = make_head(num_filters=5, share_predictors=True, num_logits=1)
    shapes = [tuple(v.shape) for v in head.trainable_variables]
    assert sorted(shapes) == sorted([(3, 3, 1, 5), (5,), (1, 1, 5, 3), (3,), (1, 1, 5, 12), (12,)])
    assert [head.objectness[0].name, head.deltas[0].name] == ["objectness", "deltas"]
    head.objectness[0].bias.assign([1, 2, 3])
    head.deltas[0].bias.assign(np.arange(12))
    logits, deltas = head([tf.zeros([1, *size, 1]) for size in SIZES], training=False)
    np.testing.assert_array_equal(logits[0], np.tile([[1], [2], [3]], [30, 1]))
    np.testing.assert_array_equal(deltas[0], np.tile(np.arange(12).reshape(3, 4), [30, 1]))


def test_further_convolutions_are_activated_and_widen_what_a_cell_sees():
    head = make_head(num_convs=3, activation="relu")
    for variable in head.trainable_variables:
        variable.assign(tf.fill(variable.shape, 0.0 if "bias" in variable.name else 1.0))
    features = np.zeros([1, 11, 11, 1], np.float32)
    features[0, 5, 5] = 1.0
    logits, _ = head([tf.constant(features), tf.zeros([1, 2, 2, 1])], training=False)
    rows, columns = np.nonzero(logits.numpy()[0, : 11 * 11 * 3].reshape(11, 11, 6)[..., 0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 8, 2, 8)
    logits, _ = head([tf.constant(-features), tf.zeros([1, 2, 2, 1])], training=False)
    assert not np.any(logits)


def test_a_number_of_logits_that_no_loss_knows_is_refused():
    with pytest.raises(ValueError, match=r"num_logits = 3\. Allowed: 1, 2\."):
        make_head(num_logits=3)


@pytest.mark.parametrize("activation", ["linear", "relu", "swish"])
def test_the_convolution_is_activated_by_relu6_whatever_the_specification_says(activation):
    head = make_head(layers.LayerSpec(activation=activation))
    head.conv.bias.assign([100.0])
    head.objectness[0].kernel.assign(np.ones([1, 1, 1, 6]))
    logits, _ = head([tf.zeros([1, *size, 1]) for size in SIZES], training=False)
    assert logits[0, 0, 0] == 6.0


def test_kernel_size_and_dilation_widen_what_a_cell_sees():
    def num_cells_seen(**settings):
        head = rpn_head.RPNHead(
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


def make_trained_head(execution=Execution(), **settings):
    spec = layers.LayerSpec(execution=execution, initializer=lambda: tf_keras.initializers.RandomNormal(stddev=0.5))
    head = rpn_head.RPNHead(in_filters=2, num_levels=2, num_anchors=3, num_filters=5, spec=spec, **settings)
    for i, variable in enumerate(head.trainable_variables):
        if "bias" in variable.name:
            variable.assign(np.random.RandomState(i).normal(0, 1, variable.shape))
    return head


@pytest.mark.parametrize("settings", [{}, {"share_predictors": True, "num_logits": 1, "activation": "relu"}])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("mixed_bfloat16", 0.05)])
def test_some_anchors_alone_have_the_outputs_and_gradients_of_all(dtype, tolerance, settings):
    head = make_trained_head(execution=Execution(dtype=dtype), **settings)
    random = np.random.RandomState(0)
    pyramid = [tf.constant(random.normal(0, 1, [2, *size, 2]), head.compute_dtype) for size in SIZES]
    indices = tf.constant(random.randint(0, NUM_ANCHORS, [2, 30]), tf.int32)
    weights = [random.normal(0, 1, [2, 30, size]) for size in (head.num_logits, 4)]
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
    head = rpn_head.RPNHead(
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


def test_few_anchors_are_computed_alone_and_many_or_normalized_ones_are_not():
    pyramid, head = make_pyramid(), make_head()
    assert head.is_local(pyramid, 3)  # of 9 cells each, of 30
    assert not head.is_local(pyramid, 4)
    assert not head.is_local(pyramid, None)
    assert not make_head(layers.LayerSpec(norm=layers.BatchNormSpec())).is_local(pyramid, 3)
    assert make_head(share_predictors=True, num_logits=1).is_local(pyramid, 3)
    assert not make_head(num_convs=2).is_local(pyramid, 3)
