"""Winograd's algorithm gives what a convolution gives."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.ops import winograd


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def convolve(inputs, kernel):
    """In float64, so that what differs is what is tested."""
    return tf.nn.conv2d(tf.constant(inputs, tf.float64), tf.constant(kernel, tf.float64), 1, "SAME").numpy()


@pytest.mark.parametrize(
    "size", [(1, 1, 1), (1, 4, 4), (2, 8, 12), (3, 5, 7), (2, 3, 17)], ids=lambda size: "x".join(map(str, size))
)
def test_equals_a_convolution_whatever_the_size(size):
    inputs, kernel = draw(*size, 5), draw(3, 3, 5, 6)
    outputs = winograd.conv2d(tf.constant(inputs, tf.float32), tf.constant(kernel, tf.float32))
    expected = convolve(inputs, kernel)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=5e-6 * np.abs(expected).max())


def test_of_many_channels_stays_within_a_few_millionths():
    inputs, kernel = np.maximum(draw(1, 32, 32, 256), 0), draw(3, 3, 256, 64, seed=1)
    expected = convolve(inputs.astype(np.float32), kernel.astype(np.float32))
    outputs = winograd.conv2d(tf.constant(inputs, tf.float32), tf.constant(kernel, tf.float32))
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=5e-6 * np.abs(expected).max())


@pytest.mark.parametrize("batch", [None, 1, 2])
@pytest.mark.parametrize("side", [None, 9])
def test_static_and_unknown_shapes(batch, side):
    kernel = draw(3, 3, 2, 3)
    convolve_some = tf.function(
        lambda inputs: winograd.conv2d(inputs, tf.constant(kernel, tf.float32)),
        input_signature=[tf.TensorSpec([batch, side, side, 2])],
        autograph=False,
    )
    concrete = convolve_some.get_concrete_function()
    assert concrete.outputs[0].shape.as_list() == [batch, side, side, 3]
    for count in [batch] if batch else [1, 3]:
        inputs = draw(count, 9, 9, 2)
        outputs = convolve_some(tf.constant(inputs, tf.float32))
        np.testing.assert_allclose(outputs, convolve(inputs, kernel), rtol=0, atol=1e-4)


@pytest.mark.parametrize("batch", [None, 150])
def test_many_small_images_are_taken_in_groups(batch):
    """Of 7 x 7 pixels 83 are one group, so that the second one is as large as the first, or filled."""
    convolve_some = tf.function(
        lambda inputs, kernel: winograd.conv2d(inputs, kernel),
        input_signature=[tf.TensorSpec([batch, 7, 7, 4]), tf.TensorSpec([3, 3, 4, 5])],
        autograph=False,
    )
    kernel = draw(3, 3, 4, 5)
    for count in [batch] if batch else [0, 1, 83, 151]:
        inputs = draw(count, 7, 7, 4, seed=2)
        outputs = convolve_some(tf.constant(inputs, tf.float32), tf.constant(kernel, tf.float32))
        np.testing.assert_allclose(outputs, convolve(inputs, kernel), rtol=0, atol=1e-4)


def test_a_batch_without_images():
    outputs = winograd.conv2d(tf.zeros([0, 8, 8, 2]), tf.zeros([3, 3, 2, 3]))
    assert outputs.shape == (0, 8, 8, 3)


def test_a_graph_holds_the_algorithm_once():
    """Whatever the sizes: one call for each convolution, and one loop for all of them."""

    @tf.function(autograph=False)
    def convolve_twice():
        once = winograd.conv2d(tf.zeros([2, 9, 9, 2]), tf.zeros([3, 3, 2, 4]))
        return winograd.conv2d(once[:, ::2, ::2], tf.zeros([3, 3, 4, 3]))

    graph = convolve_twice.get_concrete_function().graph
    assert [op.type for op in graph.get_operations()].count("PartitionedCall") == 2
    nodes = [node.op for function in graph.as_graph_def().library.function for node in function.node_def]
    assert sum(op in ("While", "StatelessWhile") for op in nodes) == 1


@pytest.mark.parametrize(
    "size", [(1, 4, 4), (2, 5, 7), (150, 7, 7), (2, 70, 65)], ids=lambda size: "x".join(map(str, size))
)
def test_gradients_are_those_of_a_convolution(size):
    """Of one image, of uneven sides, of groups the last of which is smaller, and of a group for each image."""
    inputs, kernel, gradient = draw(*size, 3), draw(3, 3, 3, 4, seed=1), draw(*size, 4, seed=2)

    def gradients(convolve, dtype):
        arguments = [tf.constant(value, dtype) for value in (inputs, kernel)]
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            outputs = convolve(*arguments)
        return tape.gradient(outputs, arguments, tf.constant(gradient, dtype))

    expected = gradients(lambda *arguments: tf.nn.conv2d(*arguments, 1, "SAME"), tf.float64)
    for given, wanted in zip(gradients(winograd.conv2d, tf.float32), expected, strict=True):
        np.testing.assert_allclose(given, wanted, rtol=0, atol=5e-6 * np.abs(wanted).max())


@pytest.mark.parametrize(
    "shape, filters, settings, expected",
    [
        ((1, 80, 80, 256), 256, {}, True),
        ((1, 80, 80, 64), 64, {}, False),  # few channels: transforming them costs more than it saves
        ((1, 80, 80, 256), 36, {}, False),
        ((1, 20, 20, 256), 256, {}, False),  # few pixels: so does transforming the kernel
        ((8, 20, 20, 256), 256, {}, True),
        ((64, 7, 7, 512), 512, {}, True),
        ((None, 7, 7, 512), 512, {}, True),
        ((None, 20, 20, 512), 512, {}, False),
        ((None, None, None, 256), 256, {}, True),
        ((1, None, None, 256), 256, {"assume_large": False}, False),
        ((0, 7, 7, 512), 512, {}, False),
    ],
)
def test_where_it_is_faster(shape, filters, settings, expected):
    assert winograd.is_faster(tf.TensorShape(shape), filters=filters, **settings) == expected
