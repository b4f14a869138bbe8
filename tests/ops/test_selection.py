from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.ops import selection


@pytest.mark.parametrize("num_columns", [1, 7, 128, 300])
def test_the_largest_are_marked_and_of_equals_the_first(num_columns):
    rng = np.random.default_rng(num_columns)
    values = np.round(rng.normal(size=(9, num_columns)), 1).astype(np.float32)  # many equal
    values[0], values[1], values[2] = 0.5, -np.inf, np.where(np.arange(num_columns) % 2, 0.0, -0.0)
    values[3, ::3] = np.inf
    count = rng.integers(0, num_columns + 1, 9).astype(np.int32)
    count[-2:] = [0, num_columns]
    marks = selection.mark_largest(tf.constant(values), tf.constant(count)).numpy()
    for row in range(9):
        expected = np.sort(np.argsort(-values[row], kind="stable")[: count[row]])
        np.testing.assert_array_equal(np.nonzero(marks[row])[0], expected)


@pytest.mark.parametrize("num_columns, size", [(1, 3), (128, 128), (300, 20), (300, 400)])
def test_marked_places_are_listed_in_order(num_columns, size):
    rng = np.random.default_rng(num_columns)
    marks = rng.random((5, num_columns)) < np.array([[0.0], [0.02], [0.2], [0.9], [1.0]])
    places = selection.find_marked(tf.constant(marks), size).numpy()
    assert places.shape == (5, size)
    for row in range(5):
        expected = np.nonzero(marks[row])[0][:size]
        np.testing.assert_array_equal(
            places[row], np.pad(expected, (0, size - len(expected)), constant_values=num_columns)
        )


def test_compiled_and_of_unknown_shape_the_same_are_selected():
    def run(values, count):
        marks = selection.mark_largest(values, count)
        return selection.find_marked(marks, 40)

    values, count = np.random.default_rng(0).normal(size=(3, 1000)).astype(np.float32), np.array([0, 17, 40], np.int32)
    compiled = tf.function(run, jit_compile=True, autograph=False)
    unknown = tf.function(
        run, input_signature=[tf.TensorSpec([None, None]), tf.TensorSpec([None], tf.int32)], autograph=False
    )
    expected = np.full((3, 40), 1000)
    for row, num in enumerate(count):
        expected[row, :num] = np.sort(np.argsort(-values[row])[:num])
    for function in (compiled, unknown):
        np.testing.assert_array_equal(function(values, count), expected)
    assert "sort" not in compiled.experimental_get_compiler_ir(values, count)(stage="hlo")


@pytest.mark.parametrize("k", [1, 5, 130])
@pytest.mark.parametrize("jit", [False, True])
def test_top_k_is_that_of_tensorflow(k, jit):
    random = np.random.RandomState(k)
    values = random.randint(-20, 20, [3, 300]).astype(np.float32)  # with ties
    values[1, random.rand(300) < 0.9] = -np.inf
    found = tf.function(selection.top_k, jit_compile=jit, autograph=False)(tf.constant(values), k)
    for value, expected in zip(found, tf.math.top_k(values, k), strict=True):
        np.testing.assert_array_equal(value, expected)
