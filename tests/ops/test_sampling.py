from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from object_detection_fpn.ops import sampling


def _marks(num: int):
    return st.lists(st.booleans(), min_size=num, max_size=num).map(lambda row: np.array([row]))


@settings(max_examples=60, deadline=None)
@given(
    is_candidate=_marks(12),
    is_positive=_marks(12),
    num_samples=st.integers(1, 20),
    fraction=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    seed=st.none() | st.integers(0, 1000),
)
@pytest.mark.no_cover
def test_sample_obeys_its_laws(is_candidate, is_positive, num_samples, fraction, seed):
    sample = sampling.sample_balanced(
        is_candidate,
        is_positive,
        num_samples=num_samples,
        positive_fraction=fraction,
        seed=None if seed is None else tf.constant([seed, 0]),
    )
    indices, is_sampled = sample.indices.numpy()[0], sample.is_sampled.numpy()[0]
    chosen = indices[is_sampled]
    num_positives = (is_candidate & is_positive).sum()
    num_negatives = (is_candidate & ~is_positive).sum()
    expected_positives = min(num_positives, int(num_samples * fraction))
    assert indices.shape == is_sampled.shape == (num_samples,)
    assert is_candidate[0, chosen].all()
    assert np.all(np.diff(chosen) > 0), "ascending, none twice"
    assert is_positive[0, chosen].sum() == expected_positives
    assert len(chosen) == expected_positives + min(num_negatives, num_samples - expected_positives)
    assert np.all(is_sampled[:-1] >= is_sampled[1:]), "filling comes last"
    assert np.all(indices[~is_sampled] == 0)


def test_every_row_is_chosen_equally_often():
    is_candidate, is_positive = np.ones((4000, 10), bool), np.tile(np.arange(10) < 5, (4000, 1))
    sample = sampling.sample_balanced(
        is_candidate, is_positive, num_samples=4, positive_fraction=0.5, seed=tf.constant([1, 2])
    )
    counts = np.bincount(sample.indices.numpy().ravel(), minlength=10)
    np.testing.assert_allclose(counts, 1600, atol=5 * np.sqrt(1600))


def test_seed_decides_and_images_differ():
    marks = tf.ones([2, 500], tf.bool)

    def run(seed):
        return sampling.sample_balanced(
            marks, marks, num_samples=20, positive_fraction=1.0, seed=tf.constant(seed)
        ).indices.numpy()

    np.testing.assert_array_equal(run([1, 2]), run([1, 2]))
    assert np.any(run([1, 2]) != run([1, 3]))
    assert np.any(run([1, 2])[0] != run([1, 2])[1])


def test_without_seed_the_first_rows_of_each_kind_are_taken():
    is_positive = tf.constant([[False, True, False, True, True, False, False]])
    sample = sampling.sample_balanced(
        tf.ones([1, 7], tf.bool), is_positive, num_samples=4, positive_fraction=0.5, seed=None
    )
    np.testing.assert_array_equal(sample.indices, [[0, 1, 2, 3]])


def test_no_candidates_give_an_empty_sample():
    marks = tf.zeros([2, 6], tf.bool)
    sample = sampling.sample_balanced(marks, marks, num_samples=3, positive_fraction=0.5, seed=tf.constant([0, 0]))
    assert not sample.is_sampled.numpy().any()
    np.testing.assert_array_equal(sample.indices, np.zeros((2, 3)))


def test_xla_and_unknown_shapes_give_the_same_sample():
    rng = np.random.default_rng(0)
    is_candidate, is_positive = rng.random((3, 200)) < 0.8, rng.random((3, 200)) < 0.3

    def run(is_candidate, is_positive):
        return sampling.sample_balanced(
            is_candidate, is_positive, num_samples=32, positive_fraction=0.25, seed=tf.constant([3, 4])
        )

    expected = run(tf.constant(is_candidate), tf.constant(is_positive))
    unknown = tf.function(run, input_signature=[tf.TensorSpec([None, None], tf.bool)] * 2, autograph=False)
    compiled = tf.function(run, jit_compile=True, autograph=False)
    for function in (unknown, compiled):
        sample = function(is_candidate, is_positive)
        np.testing.assert_array_equal(sample.indices, expected.indices)
        np.testing.assert_array_equal(sample.is_sampled, expected.is_sampled)
    assert compiled.get_concrete_function(is_candidate, is_positive).structured_outputs.indices.shape == (3, 32)


@pytest.mark.parametrize("jit", [False, True])
def test_more_samples_than_rows_are_filled_up(jit):
    @tf.function(jit_compile=jit, autograph=False)
    def run(marks):
        return sampling.sample_balanced(marks, marks, num_samples=5, positive_fraction=1.0, seed=tf.constant([0, 0]))

    sample = run(tf.ones([1, 3], tf.bool))
    np.testing.assert_array_equal(sample.indices, [[0, 1, 2, 0, 0]])
    np.testing.assert_array_equal(sample.is_sampled, [[True, True, True, False, False]])


@pytest.mark.parametrize(
    "num_samples, fraction, message",
    [(0, 0.5, "num_samples = 0. Allowed: 1 or more"), (4, 1.5, "positive_fraction = 1.5. Allowed: 0 to 1")],
)
def test_bad_values_are_refused(num_samples, fraction, message):
    marks = tf.ones([1, 3], tf.bool)
    with pytest.raises(ValueError, match=message):
        sampling.sample_balanced(marks, marks, num_samples=num_samples, positive_fraction=fraction, seed=None)
