from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.ops import patches

SIZES = [(7, 9), (3, 4)]


def make_case(num_filters=3, num_cells=40):
    rng = np.random.default_rng(0)
    pyramid = [tf.constant(rng.normal(size=(2, *size, num_filters)), tf.float32) for size in SIZES]
    levels = rng.integers(0, 2, (2, num_cells)).astype(np.int32)
    rows, columns = (rng.integers(0, np.array(SIZES)[levels, axis]).astype(np.int32) for axis in (0, 1))
    return pyramid, levels, rows, columns


@pytest.mark.parametrize("kernel_size, dilation_rate", [(1, 1), (3, 1), (2, 1), (3, 2), (5, 1)])
def test_a_kernel_says_of_patches_what_a_convolution_says_of_their_cells(kernel_size, dilation_rate):
    pyramid, levels, rows, columns = make_case()
    kernel = np.random.default_rng(1).normal(size=(kernel_size, kernel_size, 3, 4)).astype(np.float32)
    around = patches.gather_patches(
        pyramid, levels, rows, columns, kernel_size=kernel_size, dilation_rate=dilation_rate
    )
    assert around.shape == (2, 40, kernel_size**2, 3)
    outputs = [tf.nn.conv2d(features, kernel, 1, "SAME", dilations=dilation_rate).numpy() for features in pyramid]
    expected = [[outputs[levels[b, i]][b, rows[b, i], columns[b, i]] for i in range(40)] for b in range(2)]
    np.testing.assert_allclose(tf.einsum("bskf,kfo->bso", around, kernel.reshape(-1, 3, 4)), expected, atol=1e-4)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_gradient_is_the_transpose(compiled):
    pyramid, levels, rows, columns = make_case()  # 40 patches of 75 cells: many overlap, many reach beyond the border
    rng = np.random.default_rng(1)
    upstream = rng.normal(size=(2, 40, 9, 3)).astype(np.float32)

    @tf.function(jit_compile=compiled, autograph=False)
    def run(pyramid):
        with tf.GradientTape() as tape:
            tape.watch(pyramid)
            around = patches.gather_patches(pyramid, levels, rows, columns, kernel_size=3)
        return tape.gradient(around, pyramid, output_gradients=upstream)

    step = [tf.constant(rng.normal(size=features.shape), tf.float32) for features in pyramid]
    change = patches.gather_patches(step, levels, rows, columns, kernel_size=3)
    slope = sum(np.sum(gradient * change) for gradient, change in zip(run(pyramid), step, strict=True))
    np.testing.assert_allclose(slope, np.sum(change * upstream), rtol=1e-4)


def test_gradients_of_bfloat16_are_summed_in_float32():
    # 300 patches of one cell: in bfloat16 the sum would stay at 256.
    pyramid = [tf.ones([1, 3, 3, 1], tf.bfloat16)]
    place = np.ones((1, 300), np.int32)
    with tf.GradientTape() as tape:
        tape.watch(pyramid)
        around = patches.gather_patches(pyramid, 0 * place, place, place, kernel_size=1)
    assert around.dtype == tf.bfloat16
    gradient = tape.gradient(around, pyramid)[0]
    assert gradient.dtype == tf.bfloat16
    assert gradient[0, 1, 1, 0] == 300
