"""Floating-point operations of traced functions, against numbers that were worked out by hand."""

from __future__ import annotations

import pytest
import tensorflow as tf

from object_detection_fpn.ops import winograd
from object_detection_fpn.tools.check import arithmetic

IMAGES, KERNEL = tf.TensorSpec([2, 8, 8, 3]), tf.TensorSpec([3, 3, 3, 5])
CONVOLUTION = 2 * (2 * 8 * 8 * 5) * (3 * 3 * 3)


def convolve(images, kernel):
    return tf.nn.conv2d(images, kernel, 1, "SAME")


def with_gradient(images, kernel):
    with tf.GradientTape() as tape:
        tape.watch([images, kernel])
        loss = tf.reduce_sum(convolve(images, kernel) ** 2)
    return tape.gradient(loss, [images, kernel])


def called_twice(images, kernel):
    inner = tf.function(convolve, autograph=False)
    return inner(images, kernel) + inner(images, kernel)


def in_a_loop(images, kernel):
    return tf.while_loop(
        lambda i, _: i < 7, lambda i, x: (i + 1, convolve(x[..., :3], kernel)), (0, convolve(images, kernel))
    )


def in_a_loop_in_a_loop(images, kernel):
    return tf.while_loop(lambda i: i < 2, lambda i: i + tf.cast(in_a_loop(images, kernel)[0], tf.int32) * 0 + 1, [0])


def under_a_condition(images, kernel):
    return tf.cond(
        tf.reduce_sum(kernel) > 0, lambda: convolve(images, kernel), lambda: 2 * images[..., :1] * kernel[0, 0, 0]
    )


@pytest.mark.parametrize(
    "function, turns, number",
    [
        (convolve, 1, CONVOLUTION),
        (with_gradient, 1, 3 * CONVOLUTION),
        (called_twice, 1, 2 * CONVOLUTION),
        (in_a_loop, 7, 2 * CONVOLUTION),  # the outermost loop is that over steps: one turn
        (in_a_loop_in_a_loop, 7, (1 + 7) * CONVOLUTION),
        (under_a_condition, 1, CONVOLUTION),
    ],
)
def test_convolutions_are_counted(function, turns, number):
    graph = tf.function(function, autograph=False).get_concrete_function(IMAGES, KERNEL).graph
    assert arithmetic.count_flops(graph, loop_turns=turns) == number


def test_matrix_products_are_counted():
    def multiply(a, b):
        return tf.matmul(a, b), tf.matmul(a, a, transpose_a=True), tf.matmul(a[None], b[None])

    specs = tf.TensorSpec([6, 4]), tf.TensorSpec([4, 5])
    graph = tf.function(multiply, autograph=False).get_concrete_function(*specs).graph
    assert arithmetic.count_flops(graph) == 2 * (6 * 5 * 4) + 2 * (4 * 4 * 6) + 2 * (6 * 5 * 4)


def test_a_transposed_convolution_is_counted_as_its_gradient():
    def upsample(images):
        return tf.nn.conv2d_transpose(images, tf.ones([2, 2, 5, 3]), [2, 16, 16, 5], 2)

    graph = tf.function(upsample, autograph=False).get_concrete_function(IMAGES).graph
    assert arithmetic.count_flops(graph) == 2 * (2 * 8 * 8 * 3) * (2 * 2 * 5)


def test_rows_that_the_graph_does_not_know_are_as_many_as_is_said():
    specs = tf.TensorSpec([None, 8, 8, 3]), KERNEL
    graph = tf.function(convolve, autograph=False).get_concrete_function(*specs).graph
    assert arithmetic.count_flops(graph, rows=2) == CONVOLUTION


def test_winograds_algorithm_counts_as_the_sums_it_replaces():
    @tf.function(autograph=False)
    def step(images, kernel):
        with tf.GradientTape() as tape:
            tape.watch([images, kernel])
            outputs = winograd.conv2d(images, kernel)
        return tape.gradient(outputs, [images, kernel]), outputs

    graph = step.get_concrete_function(IMAGES, KERNEL).graph
    assert arithmetic.count_flops(graph) == 3 * CONVOLUTION
