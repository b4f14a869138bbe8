"""Attention to context: who looks at what, padding, precision, statistics."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling.heads.context import ContextAttention
from object_detection_fpn.records import Context

RANDOM = np.random.RandomState(0)
REGIONS = RANDOM.normal(size=[2, 5, 6]).astype(np.float32)
NUM_REGIONS = np.array([5, 3], np.int32)
FEATURES = RANDOM.normal(size=[2, 4, 7]).astype(np.float32)
CONTEXT = Context(tf.constant(FEATURES), tf.constant([4, 2]))
EPSILON = 0.001


def make_attention(**settings):
    attention = ContextAttention(**{"in_units": 6, "context_length": 7, "num_units": 8, "temperature": 0.2} | settings)
    random = np.random.RandomState(1)
    for variable in attention.variables:
        name = variable.name.rpartition("/")[2]
        low = 0.5 if name.startswith(("moving_variance", "gamma")) else -1.0
        variable.assign(random.uniform(low, 1.5, variable.shape))
    return attention


def project(layer, inputs):
    """What a projection is by definition, with moving statistics."""
    kernel, bias = (v.numpy() for v in layer.dense.variables)
    gamma, beta, mean, variance = (v.numpy() for v in layer.norm.variables)
    hidden = (inputs @ kernel + bias - mean) / np.sqrt(variance + EPSILON) * gamma + beta
    return np.clip(hidden, 0, 6)


def unit(values):
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-6)


def expected(attention, regions, image, num_features, temperature=0.2):
    """What regions [R, U] of an image find: weights and features."""
    context = FEATURES[image, :num_features]
    queries, keys, values = (
        unit(project(layer, inputs))
        for layer, inputs in ((attention.query, regions), (attention.key, context), (attention.value, context))
    )
    weights = np.exp(queries @ keys.T / temperature)
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights, project(attention.output_projection, weights @ values)


@pytest.mark.parametrize("temperature", [0.01, 0.2])
def test_regions_find_what_the_paper_says(temperature):
    attention = make_attention(temperature=temperature)
    found = attention(REGIONS, NUM_REGIONS, CONTEXT, training=False)
    for image, num_features in enumerate([4, 2]):
        regions = slice(0, NUM_REGIONS[image])
        weights, features = expected(attention, REGIONS[image, regions], image, num_features, temperature)
        np.testing.assert_allclose(found.weights[image, regions, :num_features], weights, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found.features[image, regions], features, rtol=1e-3, atol=1e-4)
        assert np.all(found.weights[image, :, num_features:] == 0)


def test_cells_ask_by_their_mean():
    attention = make_attention()
    cells = np.random.RandomState(2).normal(size=[2, 5, 3, 3, 6]).astype(np.float32)
    found = attention(cells, NUM_REGIONS, CONTEXT, training=False)
    by_mean = attention(cells.mean(axis=(2, 3)), NUM_REGIONS, CONTEXT, training=False)
    np.testing.assert_allclose(found.features, by_mean.features, atol=1e-5)
    assert found.features.shape == (2, 5, 6)


def test_padding_rows_of_context_have_no_influence():
    attention = make_attention()
    other = FEATURES.copy()
    other[1, 2:] = 100.0
    found = attention(REGIONS, NUM_REGIONS, CONTEXT, training=False)
    with_others = attention(REGIONS, NUM_REGIONS, Context(other, CONTEXT.num_features), training=False)
    np.testing.assert_array_equal(found.features, with_others.features)
    more_rows = Context(np.pad(FEATURES, [[0, 0], [0, 9], [0, 0]]), CONTEXT.num_features)
    padded = attention(REGIONS, NUM_REGIONS, more_rows, training=False)
    np.testing.assert_allclose(found.features, padded.features, atol=1e-6)


def test_without_context_all_regions_find_the_same():
    attention = make_attention()
    found = attention(REGIONS, NUM_REGIONS, CONTEXT._replace(num_features=tf.constant([0, 0])), training=False)
    nothing = project(attention.output_projection, np.zeros([8], np.float32))
    assert np.all(found.values == 0)
    np.testing.assert_allclose(found.features, np.broadcast_to(nothing, [2, 5, 6]), atol=1e-5)


def test_training_uses_and_follows_the_statistics_of_the_batch():
    attention = make_attention()
    before = [v.numpy() for v in attention.key.norm.variables]
    attention(REGIONS, NUM_REGIONS, CONTEXT, training=True)
    gamma, beta, mean, variance = attention.key.norm.variables
    hidden = FEATURES.reshape(8, 7) @ attention.key.dense.kernel.numpy() + attention.key.dense.bias.numpy()
    np.testing.assert_allclose(mean, 0.97 * before[2] + 0.03 * hidden.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variance, 0.97 * before[3] + 0.03 * hidden.var(0), rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(gamma, before[0])
    np.testing.assert_array_equal(beta, before[1])


def test_training_has_finite_gradients_for_every_weight():
    attention = make_attention(temperature=0.01)
    for num_features in ([4, 2], [0, 0]):
        context = CONTEXT._replace(num_features=tf.constant(num_features))
        with tf.GradientTape() as tape:
            found = attention(REGIONS, NUM_REGIONS, context, training=True)
            total = tf.reduce_sum(found.features**2)
        gradients = tape.gradient(total, attention.trainable_variables)
        assert len(gradients) == 16
        assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def test_bfloat16_stays_near_float32_with_a_low_temperature():
    exact = make_attention(temperature=0.05)
    mixed = make_attention(temperature=0.05, execution=Execution(dtype="mixed_bfloat16"))
    found, rounded = (a(REGIONS, NUM_REGIONS, CONTEXT, training=False) for a in (exact, mixed))
    assert (rounded.weights.dtype, rounded.features.dtype) == (tf.float32, tf.bfloat16)
    np.testing.assert_allclose(rounded.weights, found.weights, atol=0.1)


def test_layers_are_those_of_the_object_detection_api():
    """Four projections with a bias, each with a normalization of momentum 0.97 and epsilon 0.001, and no regularizer."""
    attention = ContextAttention(in_units=64, context_length=33, num_units=16)
    shapes = {
        name: tuple(getattr(attention, name).dense.kernel.shape)
        for name in ("query", "key", "value", "output_projection")
    }
    assert shapes == {"query": (64, 16), "key": (33, 16), "value": (33, 16), "output_projection": (16, 64)}
    for name in shapes:
        norm = getattr(attention, name).norm
        assert (norm.momentum, norm.epsilon, norm.scale, norm.center) == (0.97, 0.001, True, True)
    assert attention.losses == []


def test_the_compiled_attention_is_the_same():
    attention = make_attention()
    found = attention(REGIONS, NUM_REGIONS, CONTEXT, training=False)
    compiled = tf.function(attention, jit_compile=True, autograph=False)
    outputs = compiled(tf.constant(REGIONS), tf.constant(NUM_REGIONS), CONTEXT, training=False)
    for a, b in zip(outputs, found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
