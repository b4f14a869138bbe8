"""Layers made by a specification: batch normalization that can keep its statistics, biases, activations, dtypes."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import layers

FEATURES = np.random.RandomState(0).normal(5.0, 3.0, [4, 3, 3, 2]).astype(np.float32)
NORM = layers.BatchNormSpec(momentum=0.9, epsilon=0.01, scale=True)


def make_norm(norm=NORM, *, num_filters=2, **kwargs):
    layer = layers.LayerSpec(norm=norm, **kwargs).make_norm(name="norm")
    layers.build(layer, (None, None, None, num_filters))
    return layer


def channels_last(array):
    return array.transpose(0, 2, 3, 1)


def local_names(variables):
    return sorted(variable.name.split("/")[-1] for variable in variables)


def test_batch_norm_uses_and_follows_the_statistics_of_the_batch():
    norm = make_norm()
    mean, variance = FEATURES.mean((0, 1, 2)), FEATURES.var((0, 1, 2))
    np.testing.assert_allclose(norm(FEATURES, training=True), (FEATURES - mean) / np.sqrt(variance + 0.01), atol=1e-5)
    np.testing.assert_allclose(norm.moving_mean, 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, 0.9 + 0.1 * variance, rtol=0.05)  # Bessel's correction at most
    assert np.abs(norm(FEATURES, training=False) - norm(FEATURES, training=True)).max() > 1.0


@pytest.mark.parametrize("by_norm", [True, False])
def test_frozen_statistics_are_used_and_kept_while_scale_and_offset_train(by_norm):
    norm = make_norm(layers.BatchNormSpec(scale=True, freeze_statistics=by_norm), freeze_statistics=not by_norm)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(norm(FEATURES, training=True) ** 2)
    assert local_names(norm.trainable_variables) == ["beta:0", "gamma:0"]
    assert all(np.abs(gradient).min() > 0 for gradient in tape.gradient(loss, norm.trainable_variables))
    np.testing.assert_array_equal(norm(FEATURES, training=True), norm(FEATURES, training=False))
    np.testing.assert_array_equal(norm.moving_mean, [0, 0])
    np.testing.assert_array_equal(norm.moving_variance, [1, 1])


FROZEN = layers.BatchNormSpec(momentum=0.9, epsilon=0.01, scale=True, trainable=False)


@pytest.mark.parametrize("library", ["torchvision", "detectron2"])
@pytest.mark.parametrize("epsilon", ["0", "1e-05", "0.001"])
def test_a_frozen_norm_agrees_with_the_pytorch_libraries(golden_dir, library, epsilon):
    golden = np.load(golden_dir / "pytorch" / "frozen_norm.npz")
    norm = make_norm(dataclasses.replace(FROZEN, epsilon=float(epsilon)), num_filters=8)
    for variable in norm.variables:
        name = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
        variable.assign(golden[name[local_names([variable])[0].removesuffix(":0")]])
    expected = channels_last(golden[f"{library}_eps{epsilon}"])
    found = norm(channels_last(golden["x"]), training=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_nothing_of_a_frozen_norm_trains_but_gradients_go_through_it(dtype):
    norm = make_norm(FROZEN, execution=Execution(dtype=dtype))
    assert norm.trainable_variables == []
    assert local_names(norm.variables) == ["beta:0", "gamma:0", "moving_mean:0", "moving_variance:0"]
    norm.moving_variance.assign([3.99, 8.99])
    features = tf.constant(FEATURES, norm.compute_dtype)
    with tf.GradientTape() as tape:
        tape.watch(features)
        outputs = norm(features, training=True)
    assert outputs.dtype == norm.compute_dtype
    tolerance = 1e-5 if dtype == "float32" else 1e-2
    np.testing.assert_allclose(tf.cast(outputs, tf.float32), FEATURES / [2, 3], rtol=tolerance)
    gradient = tf.cast(tape.gradient(outputs, features), tf.float32)
    np.testing.assert_allclose(gradient, np.broadcast_to([1 / 2, 1 / 3], FEATURES.shape), rtol=tolerance)
    np.testing.assert_allclose(norm.moving_mean, [0, 0])
    np.testing.assert_allclose(norm.moving_variance, [3.99, 8.99])


@pytest.mark.parametrize("statistics", ["of the batch", "frozen", "all frozen"])
@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
def test_no_epsilon_is_too_small(statistics, epsilon):
    features = 1e-3 * FEATURES
    mean, variance = features.mean((0, 1, 2)), features.var((0, 1, 2))
    spec = layers.BatchNormSpec(
        epsilon=epsilon, freeze_statistics=statistics == "frozen", trainable=statistics != "all frozen"
    )
    norm = make_norm(spec)
    norm.moving_mean.assign(mean)
    norm.moving_variance.assign(variance)
    expected = (features - mean) / np.sqrt(variance + epsilon)
    np.testing.assert_allclose(norm(features, training=True), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "center, scale, names",
    [(True, True, ["beta:0", "gamma:0"]), (True, False, ["beta:0"]), (False, True, ["gamma:0"]), (False, False, [])],
)
def test_batch_norm_has_the_variables_it_is_asked_for(center, scale, names):
    norm = make_norm(layers.BatchNormSpec(center=center, scale=scale))
    assert local_names(norm.trainable_variables) == names


def test_batch_norm_values_arrive():
    norm = make_norm(layers.BatchNormSpec(momentum=0.5, epsilon=0.25, synchronized=True))
    assert (norm.momentum, norm.epsilon, norm.synchronized) == (0.5, 0.25, True)


def test_synchronized_batch_norm_equals_that_of_the_joined_batch(two_cpus):
    spec = layers.BatchNormSpec(momentum=0.9, epsilon=0.01, scale=True)
    # The halves differ much: their own statistics would give another result.
    joined = np.concatenate([FEATURES[:2], 3.0 * FEATURES[2:] + 20.0])
    weights = tf.random.stateless_normal(joined.shape, [1, 2])

    def step(norm, features, weights):
        with tf.GradientTape() as tape:
            tape.watch(features)
            outputs = norm(features, training=True)
            loss = tf.reduce_sum(weights * outputs**2)
        return outputs, *tape.gradient(loss, [features, norm.gamma, norm.beta])

    one = make_norm(spec)
    outputs, input_grad, *grads = step(one, tf.constant(joined), weights)
    with two_cpus.scope():
        two = make_norm(dataclasses.replace(spec, synchronized=True))

    def part(context):
        i = context.replica_id_in_sync_group
        return tf.constant(joined[2 * i : 2 * i + 2]), weights[2 * i : 2 * i + 2]

    parts = [two_cpus.experimental_distribute_values_from_function(lambda c, k=k: part(c)[k]) for k in (0, 1)]
    results = tf.function(lambda *args: two_cpus.run(step, args=(two, *args)), autograph=False)(*parts)
    values = [two_cpus.experimental_local_results(result) for result in results]
    np.testing.assert_allclose(np.concatenate(values[0]), outputs, rtol=1e-4, atol=1e-5)
    scale = np.abs(input_grad).max()
    np.testing.assert_allclose(np.concatenate(values[1]), input_grad, rtol=1e-4, atol=1e-5 * scale)
    for halves, expected in zip(values[2:], grads, strict=True):
        np.testing.assert_allclose(sum(halves), expected, rtol=1e-4)
    np.testing.assert_allclose(two.moving_mean, one.moving_mean, rtol=1e-5)
    np.testing.assert_allclose(two.moving_variance, one.moving_variance, rtol=0.05)  # Bessel's correction at most


@pytest.mark.parametrize("shape", [(2, 5, 5, 64), (7, 64)], ids=["convolution", "dense"])
def test_group_norm_normalizes_each_example_in_32_groups(shape):
    norm = layers.LayerSpec(norm=layers.GroupNormSpec()).make_norm(name="norm")
    layers.build(norm, (None, *shape[1:]))
    features = np.random.RandomState(1).normal(3.0, 2.0, shape).astype(np.float32)
    groups = features.reshape([shape[0], -1, 32, 2])
    mean, variance = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    expected = (groups - mean) / np.sqrt(variance + norm.epsilon)
    np.testing.assert_allclose(norm(features, training=True), expected.reshape(shape), atol=1e-4)


def test_no_normalization_is_an_identity_without_variables():
    norm = make_norm(None)
    assert norm.variables == []
    np.testing.assert_array_equal(norm(FEATURES, training=True), FEATURES)


@pytest.mark.parametrize(
    "norm, force, has_bias", [(None, False, True), (NORM, False, False), (NORM, True, True), (None, True, True)]
)
def test_only_convolutions_without_normalization_have_a_bias_unless_forced(norm, force, has_bias):
    spec = layers.LayerSpec(norm=norm, force_use_bias=force)
    assert spec.use_bias == has_bias
    assert spec.make_conv(4, 3, name="conv").use_bias == has_bias
    assert spec.make_conv(4, 3, name="conv", use_bias=not has_bias).use_bias != has_bias


@pytest.mark.parametrize(
    "settings, is_winograd",
    [
        ({}, True),
        ({"strides": 2}, False),
        ({"dilation_rate": 2}, False),
        ({"padding": "valid"}, False),
        ({"dtype": "mixed_bfloat16"}, False),
        ({"kernel_size": 1}, False),
        ({"make": layers.SpaceToDepthConv}, False),
    ],
    ids=str,
)
def test_only_convolutions_that_winograds_algorithm_computes_become_its(settings, is_winograd):
    arguments = {"filters": 4, "kernel_size": 3, "name": "conv"} | settings
    conv = layers.LayerSpec(execution=Execution(winograd=True)).make_conv(**arguments)
    assert isinstance(conv, layers.WinogradConv) == is_winograd
    assert not isinstance(layers.LayerSpec().make_conv(**arguments), layers.WinogradConv)


@pytest.mark.parametrize("use_bias", [False, True])
def test_a_convolution_by_winograds_algorithm_is_a_convolution(use_bias):
    plain, fast = (
        layers.LayerSpec(execution=Execution(winograd=winograd)).make_conv(4, 3, use_bias=use_bias, name="conv")
        for winograd in (False, True)
    )
    features = tf.random.stateless_normal([2, 6, 7, 3], [1, 2])
    for conv in (plain, fast):
        layers.build(conv, (None, None, None, 3))
    fast.set_weights([np.random.default_rng(i).normal(size=w.shape) for i, w in enumerate(fast.get_weights())])
    plain.set_weights(fast.get_weights())
    np.testing.assert_allclose(fast(features), plain(features), atol=1e-4)


@pytest.mark.parametrize("has_large_maps", [False, True])
@pytest.mark.parametrize("size, is_called", [((80, 80), True), ((8, 8), False), ((None, None), None)])
def test_winograds_algorithm_is_called_where_it_is_faster(monkeypatch, has_large_maps, size, is_called):
    calls = []
    monkeypatch.setattr(layers.winograd, "conv2d", lambda *arguments: calls.append(arguments) or arguments[0])
    spec = layers.LayerSpec(has_large_maps=has_large_maps, execution=Execution(winograd=True))
    conv = spec.make_conv(256, 3, use_bias=False, name="conv")
    tf.function(conv, autograph=False).get_concrete_function(tf.TensorSpec([1, *size, 256]))
    assert bool(calls) == (has_large_maps if is_called is None else is_called)


@pytest.mark.parametrize(
    "activation, expected",
    [
        ("linear", [-1.0, 3.0, 8.0]),
        ("relu", [0.0, 3.0, 8.0]),
        ("relu6", [0.0, 3.0, 6.0]),
        ("swish", [-0.26894142, 2.8577224, 7.9973173]),
    ],
)
def test_activations(activation, expected):
    layer = layers.LayerSpec(activation=activation).make_activation(name="activation")
    np.testing.assert_allclose(layer(tf.constant([-1.0, 3.0, 8.0])), expected, rtol=1e-6)


def test_every_activation_is_tested():
    table = next(mark for mark in test_activations.pytestmark if mark.name == "parametrize").args[1]
    assert {name for name, _ in table} == set(layers.ACTIVATIONS)


def test_each_layer_draws_its_own_first_values():
    spec = layers.LayerSpec(initializer=lambda: tf_keras.initializers.TruncatedNormal(stddev=0.03))
    convs = [spec.make_conv(4, 3, name=f"conv{i}") for i in range(3)]
    for conv in convs:
        layers.build(conv, (None, None, None, 2))
    for a, b in itertools.combinations(convs, 2):
        assert np.abs(a.kernel - b.kernel).max() > 0.01


def test_kernels_are_regularized_and_biases_are_not():
    spec = layers.LayerSpec(regularizer=tf_keras.regularizers.L2(0.5), initializer=tf_keras.initializers.Ones)
    conv = spec.make_conv(4, 3, name="conv")
    layers.build(conv, (None, None, None, 2))
    conv.bias.assign([1.0] * 4)
    assert [float(loss) for loss in conv.losses] == [0.5 * 3 * 3 * 2 * 4]


def test_building_creates_named_variables_from_a_shape_alone():
    conv = layers.LayerSpec().make_conv(4, 3, name="lateral")
    layers.build(conv, (None, None, None, 2))
    assert conv.built
    assert [variable.name for variable in conv.variables] == ["lateral/kernel:0", "lateral/bias:0"]


@pytest.mark.parametrize("strides, size", [(1, (7, 9)), (2, (4, 5))])
def test_conv_norm_activation_keeps_its_order_and_halves_odd_sizes_upwards(strides, size):
    spec = layers.LayerSpec(norm=NORM, activation="relu6")
    layer = layers.ConvNormActivation(16, 3, spec=spec, strides=strides, name="layer")
    layers.build(layer, (None, None, None, 2))
    features = 100.0 * np.random.RandomState(0).normal(size=[2, 7, 9, 2]).astype(np.float32)
    result = layer(features, training=False)
    assert result.shape == (2, *size, 16)
    expected = tf.clip_by_value(layer.norm(layer.conv(features), training=False), 0.0, 6.0)
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert len(layer.variables) == 5  # no bias


def test_bfloat16_layers_compute_in_bfloat16_and_keep_their_variables_in_float32():
    spec = layers.LayerSpec(norm=NORM, execution=Execution(dtype="mixed_bfloat16"))
    layer = layers.ConvNormActivation(4, 3, spec=spec, name="layer")
    layers.build(layer, (None, None, None, 2))
    assert layer(FEATURES, training=True).dtype == tf.bfloat16
    assert {variable.dtype for variable in layer.variables} == {tf.float32}


def test_dtype_policy_is_restored_even_after_an_error():
    before = tf_keras.mixed_precision.global_policy().name
    with layers.dtype_policy("mixed_bfloat16"):
        assert tf_keras.layers.Dense(1).compute_dtype == "bfloat16"
    with pytest.raises(RuntimeError), layers.dtype_policy("mixed_bfloat16"):
        raise RuntimeError
    assert tf_keras.mixed_precision.global_policy().name == before


@pytest.mark.parametrize("kernel_size, size", [(7, (14, 12)), (3, (9, 8)), (7, (13, 15))])
def test_folded_convolution_is_the_convolution(kernel_size, size):
    images = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    spec = layers.LayerSpec(initializer=lambda: tf_keras.initializers.GlorotUniform(seed=0))
    settings = {"strides": 2, "padding": "valid", "name": "conv"}
    plain, folded = (
        spec.make_conv(5, kernel_size, **settings),
        spec.make_conv(5, kernel_size, **settings, make=layers.SpaceToDepthConv),
    )
    np.testing.assert_allclose(folded(images), plain(images), rtol=1e-4, atol=1e-5)


# Padding as in PyTorch ------------------------------------------------------------------------------------------------

STEM_SIZES = ("17x22", "32x40", "33x31")


@pytest.fixture(params=STEM_SIZES)
def stem(request, golden_dir):
    """Given a name: the array of the golden stem, channels last; kernels as [height, width, in, out]."""
    golden = np.load(golden_dir / "pytorch" / "stem.npz")

    def get(name):
        array = golden[f"{request.param}_{name}"]
        return array.transpose(2, 3, 1, 0) if name.startswith("w") else channels_last(array)

    return get


def convolve(features, kernel, **settings):
    conv = layers.LayerSpec().make_conv(
        kernel.shape[3], kernel.shape[0], strides=2, use_bias=False, name="conv", **settings
    )
    layers.build(conv, (None, None, None, kernel.shape[2]))
    conv.kernel.assign(kernel)
    outputs = conv(features)
    assert outputs.shape == conv.compute_output_shape(features.shape)
    return outputs


@pytest.mark.parametrize("make", [None, layers.SpaceToDepthConv])
def test_the_stem_is_that_of_pytorch(stem, make):
    padded = tf.pad(stem("x"), [[0, 0], [3, 3], [3, 3], [0, 0]])
    found = convolve(padded, stem("w7"), padding="valid", make=make)
    np.testing.assert_allclose(found, stem("conv7"), atol=1e-4)


def test_strided_convolutions_are_those_of_pytorch(stem):
    found = convolve(stem("pool"), stem("w3"), make=layers.SymmetricConv)
    np.testing.assert_allclose(found, stem("conv3_stride2"), atol=1e-4)
    found = convolve(stem("pool"), stem("w1"), padding="valid")
    np.testing.assert_allclose(found, stem("conv1_stride2"), atol=1e-4)
    found = convolve(stem("x"), stem("w7"), make=layers.SymmetricConv)
    np.testing.assert_allclose(found, stem("conv7"), atol=1e-4)


def test_symmetric_pooling_is_that_of_pytorch_for_numbers_of_every_sign(stem):
    pool = layers.SymmetricMaxPool(3, strides=2, padding="same")
    features = stem("conv7")
    np.testing.assert_array_equal(pool(tf.nn.relu(features)), stem("pool"))
    np.testing.assert_array_equal(pool(features), stem("pool_minus"))
    assert pool(features).shape == pool.compute_output_shape(features.shape)
    low = tf.fill([1, 4, 4, 1], tf.constant(-1e30, tf.bfloat16))
    np.testing.assert_array_equal(pool(tf.cast(low, tf.float32)), tf.cast(low, tf.float32)[:, :2, :2])
    half = layers.SymmetricMaxPool(3, strides=2, padding="same", dtype="mixed_bfloat16")
    np.testing.assert_array_equal(tf.cast(half(low), tf.float32), tf.cast(low, tf.float32)[:, :2, :2])


def test_symmetric_padding_compiles_with_its_gradient():
    features = tf.random.stateless_normal([1, 8, 9, 3], [1, 2])
    conv = layers.LayerSpec().make_conv(4, 3, strides=2, make=layers.SymmetricConv, name="conv")
    pool = layers.SymmetricMaxPool(3, strides=2, padding="same")
    layers.build(conv, (None, None, None, 3))

    def step(features):
        with tf.GradientTape() as tape:
            tape.watch(features)
            outputs = pool(conv(features))
            loss = tf.reduce_sum(outputs**2)
        return outputs, tape.gradient(loss, features)

    compiled = tf.function(step, jit_compile=True, autograph=False)(features)
    for found, expected in zip(compiled, step(features), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
