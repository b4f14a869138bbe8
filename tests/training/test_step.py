"""The ways to take a train step: in parts, with scaled losses, with gradients that travel in few bits."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.training import step
from object_detection_fpn.training.errors import TrainingError
from object_detection_fpn.training.settings import StepSettings

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

EAGER = pytest.mark.usefixtures("eager")  # where it is not the compiled step that is tested
NORM = "gradient_norm"


def assert_same_state(run, other, rtol=1e-5):
    for expected, value in zip(run.state(), other.state(), strict=True):
        np.testing.assert_allclose(value, expected, rtol=rtol, atol=1e-6)


@tf.custom_gradient
def overflow_in_float16(value):
    """Passes a value on; its gradient is infinite where it leaves the range of float16."""
    return tf.identity(value), lambda grad: tf.cast(tf.cast(grad, tf.float16), grad.dtype)


def with_float16_gradients(run):
    predict = run.model.predict
    run.model.predict = lambda *args, **named: tf.nest.map_structure(overflow_in_float16, predict(*args, **named))
    return run


@pytest.mark.parametrize("on_two", [False, True])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_batch_in_parts_equals_batch_in_one(make_run, tmp_path, two_cpus, on_two, jit_compile):
    strategy = two_cpus if on_two else None
    options = {"gradient_clipping_by_norm": 0.5, "jit_compile": jit_compile}
    whole, parts = make_run(tmp_path / "whole"), make_run(tmp_path / "parts", strategy=strategy)
    losses = whole.train(3, **options).losses, parts.train(3, accumulate_gradients=2, **options).losses
    assert parts.model.num_traces == (2 if on_two else 1)  # not once a part
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert_same_state(whole, parts, rtol=1e-4 if on_two else 1e-5)


@EAGER
def test_variables_without_influence_stay_untouched_in_parts_too(make_run, tmp_path):
    run = make_run(tmp_path)
    stray = tf.Variable(1.0)
    run.train(2, variables=[*run.model.head.trainable_variables, stray], accumulate_gradients=2)
    assert stray.numpy() == 1.0
    with pytest.raises(TrainingError, match="has any influence"):
        make_run(tmp_path / "other").train(1, variables=[stray], accumulate_gradients=2)


@EAGER
def test_parts_draw_different_random_numbers(make_run, tmp_path):
    run = make_run(tmp_path)
    predict, seeds = run.model.predict, []

    def note(seed):
        seeds.append(tuple(seed))
        return seed

    def predict_noting(inputs, *, training, groundtruth, seed):
        noted = tf.ensure_shape(tf.numpy_function(note, [seed], tf.int32), [2])
        return predict(inputs, training=training, groundtruth=groundtruth, seed=noted)

    run.model.predict = predict_noting
    run.train(3, accumulate_gradients=2)
    assert len(seeds) == len(set(seeds)) == 6


@EAGER
def test_parts_of_different_sizes_are_refused(make_run, tmp_path):
    with pytest.raises(ValueError, match="4 images of a replica cannot be computed in 3 parts"):
        make_run(tmp_path).train(1, accumulate_gradients=3)
    with pytest.raises(ValueError, match="accumulate_gradients = 0 is not positive"):
        make_run(tmp_path).train(1, accumulate_gradients=0)


def test_scaled_loss_changes_nothing_but_the_scale(make_run, tmp_path, two_cpus):
    plain = make_run(tmp_path / "plain")
    plain.train(4, gradient_clipping_by_norm=0.5)
    for name, options in {
        "scaled": {},
        "compiled": {"jit_compile": True},
        "parts": {"accumulate_gradients": 2},
    }.items():
        scaled = make_run(tmp_path / name)
        result = scaled.train(4, gradient_clipping_by_norm=0.5, scale_loss=True, **options)
        assert result.num_skipped == 0
        assert_same_state(plain, scaled)
    on_two = make_run(tmp_path / "two", strategy=two_cpus)
    on_two.train(4, gradient_clipping_by_norm=0.5, scale_loss=True)
    assert_same_state(plain, on_two, rtol=1e-4)


@pytest.mark.parametrize("on_two", [False, True])
def test_steps_with_overflown_gradients_are_skipped_counted_and_shown(
    make_run, make_data, read_summaries, tmp_path, two_cpus, on_two
):
    strategy = two_cpus if on_two else None
    # Large images, for large gradients: the first scale is too high for float16, some power of 2 below it is not. Small
    # steps, so that the gradients stay as they are.
    dataset = make_data(value_of_step=lambda _: tf.constant(30.0))
    run = with_float16_gradients(make_run(tmp_path, strategy=strategy))
    before = run.model.get_weights()
    seen = []

    def look(number, _):
        seen.append((number, run.model.get_weights()))

    result = run.train(
        12,
        dataset=dataset,
        scale_loss=True,
        gradient_clipping_by_norm=1e-3,
        checkpoint_every_n=1,
        on_checkpoint=look,
        record_summaries=True,
    )
    assert 0 < result.num_skipped < 12
    for number, weights in seen:
        is_same = all(np.array_equal(a, b) for a, b in zip(weights, before, strict=True))
        # The first learning rate is 0, so step 1 would change nothing in any case.
        assert is_same == (number <= max(result.num_skipped, 1))
    assert run.optimizer.iterations.numpy() == 12
    scale = 2.0**15 / 2**result.num_skipped
    assert f"The loss scale is {scale:g} now; {result.num_skipped} steps of this run were skipped so far." in run.log
    assert np.isfinite(list(result.losses.values())).all()
    found = read_summaries(tmp_path / "train")
    assert found["loss_scale"][12] == scale
    assert found["skipped_steps"][12] == result.num_skipped
    assert np.isfinite(found[NORM][12])


@EAGER
def test_gradients_that_no_scale_mends_stop_the_run(make_run, tmp_path):
    run = make_run(tmp_path)
    predict = run.model.predict

    @tf.custom_gradient
    def breaks_backwards(value):
        return tf.identity(value), lambda grad: grad * np.inf

    run.model.predict = lambda *args, **named: tf.nest.map_structure(breaks_backwards, predict(*args, **named))
    with pytest.raises(TrainingError, match=r"Step 30: gradient_norm = (inf|nan) .*30 steps in a row.*BFLOAT16"):
        run.train(40, scale_loss=True)


@EAGER
def test_loss_that_is_not_finite_stops_the_run_whatever_the_scale(make_run, make_data, tmp_path):
    dataset = make_data(value_of_step=lambda number: tf.where(number == 3, np.nan, 1.0))
    with pytest.raises(TrainingError, match=r"Step 4: Loss/RPNLoss/localization_loss = nan, .*lower learning rate"):
        make_run(tmp_path).train(9, dataset=dataset, scale_loss=True)


@EAGER
def test_loss_scale_is_saved_and_restored(make_run, make_data, tmp_path):
    dataset = make_data(value_of_step=lambda _: tf.constant(30.0))
    first, second, whole = (with_float16_gradients(make_run(tmp_path / name)) for name in ("a", "a", "b"))
    options = {"dataset": dataset, "scale_loss": True, "gradient_clipping_by_norm": 1e-3}
    assert first.train(12, **options).num_skipped > 0
    assert second.train(16, **options).num_skipped == 0
    whole.train(16, **options)
    assert_same_state(whole, second)


@EAGER
@pytest.mark.parametrize("scaled_first", [False, True])
def test_loss_scaling_can_begin_and_end_with_any_checkpoint(make_run, tmp_path, scaled_first):
    make_run(tmp_path / "a").train(3, scale_loss=scaled_first)
    resumed, whole = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    resumed.train(6, scale_loss=not scaled_first)
    whole.train(6)
    assert_same_state(whole, resumed)


def test_gradients_travel_in_the_precision_asked_for(make_run, tmp_path, two_cpus, monkeypatch):
    seen = []
    context = tf.distribute.ReplicaContext
    all_reduce = context.all_reduce

    def note(self, op, value, *args, **named):
        seen.extend(tensor.dtype for tensor in tf.nest.flatten(value))
        return all_reduce(self, op, value, *args, **named)

    monkeypatch.setattr(context, "all_reduce", note)
    exact, short = make_run(tmp_path / "a", strategy=two_cpus), make_run(tmp_path / "b", strategy=two_cpus)
    exact.train(3)
    assert set(seen) == {tf.float32}
    seen.clear()
    short.train(3, all_reduce_dtype=tf.bfloat16)
    assert set(seen) == {tf.bfloat16}
    differences = []
    for one, other in zip(exact.model.get_weights(), short.model.get_weights(), strict=True):
        assert other.dtype == np.float32
        np.testing.assert_allclose(other, one, rtol=0.02, atol=2e-3)  # 8 bits
        differences.append(np.max(np.abs(one - other)))
    assert max(differences) > 0


def test_loop_of_parts_is_not_unrolled(make_run, make_data):
    """The graph of 4 parts is that of 2."""
    sizes = []
    for num_parts in (2, 4):
        run = make_run("unused")
        run.optimizer.build(run.model.trainable_variables)
        trainer = step.Trainer(
            None,
            model=run.model,
            optimizer=run.optimizer,
            variables=run.model.trainable_variables,
            strategy=run.strategy,
            settings=StepSettings(accumulate_gradients=num_parts),
        )
        batch = next(iter(make_data()(tf.distribute.InputContext(), 0)))
        differentiate = tf.function(functools.partial(trainer._differentiate, batch), autograph=False)
        graph = differentiate.get_concrete_function(tf.constant([1, 2])).graph.as_graph_def()
        sizes.append(len(graph.node) + sum(len(function.node_def) for function in graph.library.function))
    assert sizes[0] == sizes[1]
