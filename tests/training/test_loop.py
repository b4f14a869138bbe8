"""The training loop, on a model that takes milliseconds."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.training import loop, optimizers, schedules, step
from object_detection_fpn.training.errors import SettingsError, TrainingError, WriteError
from object_detection_fpn.training.settings import StepSettings
from object_detection_fpn.training.stored import latest_checkpoint

EAGER = pytest.mark.usefixtures("eager")  # where it is not the compiled step that is tested
LOCALIZATION = "Loss/RPNLoss/localization_loss"


def test_loss_falls_and_the_result_tells_where_the_run_ended(make_run, tmp_path):
    run = make_run(tmp_path)
    first = run.train(1)
    last = make_run(tmp_path).train(20)
    assert first.step == 1
    assert last.step == 20
    assert last.losses["Loss/total_loss"] < 0.5 * first.losses["Loss/total_loss"]
    assert last.checkpoint == str(tmp_path / "ckpt-20")
    assert last.steps_per_second > 0


@EAGER
def test_total_loss_is_the_sum_of_the_losses(make_run, tmp_path):
    losses = make_run(tmp_path).train(1).losses
    total = losses.pop("Loss/total_loss")
    assert set(losses) == {LOCALIZATION, "Loss/BoxClassifierLoss/localization_loss", "Loss/regularization_loss"}
    assert total == pytest.approx(sum(losses.values()), rel=1e-6)


@EAGER
def test_regularization_loss_can_be_left_out(make_run, tmp_path):
    losses = make_run(tmp_path).train(1, add_regularization_loss=False).losses
    assert "Loss/regularization_loss" not in losses
    assert losses["Loss/total_loss"] == pytest.approx(1.5 * losses[LOCALIZATION], rel=1e-6)


@pytest.mark.parametrize("steps_per_loop", [1, 4, 100])
def test_the_step_is_traced_once(make_run, tmp_path, steps_per_loop):
    run = make_run(tmp_path)
    run.train(17, steps_per_loop=steps_per_loop, checkpoint_every_n=5)
    assert run.model.num_traces == 1


def test_resumed_run_equals_uninterrupted_run_to_the_bit(make_run, tmp_path):
    whole = make_run(tmp_path / "whole", noise=0.1)
    whole.train(6)
    first = make_run(tmp_path / "parts", noise=0.1)
    first.train(3)
    second = make_run(tmp_path / "parts", noise=0.1)
    second.train(6)
    assert second.model.num_traces == 1
    assert "Resuming from" in second.log
    assert "at step 3" in second.log
    for expected, resumed in zip(whole.state(), second.state(), strict=True):
        np.testing.assert_array_equal(resumed, expected)


def test_steps_in_one_call_equal_steps_in_many(make_run, tmp_path):
    together, apart = make_run(tmp_path / "a", noise=0.1), make_run(tmp_path / "b", noise=0.1)
    together.train(16, steps_per_loop=100)
    apart.train(16, steps_per_loop=1)
    for one, other in zip(together.state(), apart.state(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_seed_decides_what_is_random(make_run, tmp_path):
    same = [make_run(tmp_path / name, noise=0.1).train(2, seed=5).losses for name in "ab"]
    other = make_run(tmp_path / "c", noise=0.1).train(2, seed=6).losses
    assert same[0] == same[1]
    assert same[0] != other


@EAGER
def test_data_seed_moves_on_when_a_run_is_resumed(make_run, make_data, tmp_path):
    seeds = []

    def dataset(context, seed):
        seeds.append(seed)
        return make_data()(context, seed)

    for num_steps in (1, 2, 3):
        make_run(tmp_path).train(num_steps, dataset=dataset, seed=11)
    make_run(tmp_path / "other").train(1, dataset=dataset, seed=11)
    assert seeds[0] == seeds[3] == 11
    assert len(set(seeds[:3])) == 3


@EAGER
@pytest.mark.parametrize(
    "num_steps, every, expected", [(7, 3, {3, 6, 7}), (6, 3, {3, 6}), (2, 1000, {2}), (3, 1, {1, 2, 3})]
)
def test_checkpoints_are_saved_at_the_interval_and_at_the_last_step(make_run, tmp_path, num_steps, every, expected):
    calls = []
    make_run(tmp_path).train(num_steps, checkpoint_every_n=every, on_checkpoint=lambda *call: calls.append(call))
    saved = {int(re.search(r"ckpt-(\d+)\.index", file.name)[1]) for file in tmp_path.glob("*.index")}
    assert saved == expected
    assert calls == [(step, str(tmp_path / f"ckpt-{step}")) for step in sorted(expected)]


@EAGER
def test_finished_run_says_so_and_changes_nothing(make_run, tmp_path):
    make_run(tmp_path).train(3)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    again = make_run(tmp_path)
    result = again.train(2)
    assert result == loop.TrainResult(3, str(tmp_path / "ckpt-3"), {}, None)
    assert "Nothing to train" in again.log
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


@EAGER
def test_initialize_is_called_only_when_there_is_nothing_to_resume(make_run, tmp_path):
    calls = []
    for num_steps in (1, 2):
        make_run(tmp_path).train(num_steps, initialize=lambda: calls.append(1))
    assert calls == [1]


@EAGER
def test_averages_start_at_the_initial_weights(make_run, tmp_path):
    run = make_run(tmp_path)

    def initialize():
        for variable in run.model.trainable_variables:
            variable.assign(tf.ones_like(variable))

    run.train(1, initialize=initialize, variables=run.model.head.trainable_variables)
    kernel = run.model.head.kernel
    # One update: decay (1 + 1) / (10 + 1).
    np.testing.assert_allclose(run.optimizer.get_slot(kernel, "average"), (2 + 9 * kernel.numpy()) / 11, rtol=1e-6)


@EAGER
def test_only_the_chosen_variables_change(make_run, tmp_path):
    run = make_run(tmp_path)
    before = {variable.name: variable.numpy() for variable in run.model.variables}
    run.train(3, variables=run.model.head.trainable_variables)
    changed = {variable.name for variable in run.model.variables if np.any(variable != before[variable.name])}
    assert changed == {run.model.head.kernel.name}


def test_variables_without_influence_on_the_loss_are_refused(make_run, tmp_path):
    run = make_run(tmp_path)
    stray = tf.Variable(1.0)
    with pytest.raises(TrainingError, match="has any influence"):
        run.train(1, variables=[stray])


@EAGER
@pytest.mark.parametrize("limit", [0.01, 1e6])
def test_gradients_are_clipped_by_their_norm_together(make_run, tmp_path, limit):
    free, clipped = make_run(tmp_path / "free"), make_run(tmp_path / "clipped")
    start = free.model.get_weights()
    rate = free.optimizer.learning_rate_at(1)
    assert free.optimizer.learning_rate_at(0) == 0  # so that the second step's update is its gradients times the rate
    free.train(2), clipped.train(2, gradient_clipping_by_norm=limit)

    def norm(run):
        updates = [now - then for now, then in zip(run.model.get_weights(), start, strict=True)]
        return np.sqrt(sum(np.sum(np.square(update)) for update in updates)) / rate

    assert norm(clipped) == pytest.approx(min(norm(free), limit), rel=1e-4)


@pytest.mark.no_cover  # tracing is slow under coverage
def test_two_replicas_train_like_one(make_run, tmp_path, two_cpus):
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two", strategy=two_cpus)
    options = {"gradient_clipping_by_norm": 0.5}
    losses = one.train(5, **options).losses, two.train(5, **options).losses
    assert two.model.num_traces == 2  # once per replica
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for expected, value in zip(one.model.get_weights(), two.model.get_weights(), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.no_cover
def test_replicas_draw_different_random_numbers(make_run, tmp_path, two_cpus):
    one, two = make_run(tmp_path / "one", noise=1.0), make_run(tmp_path / "two", noise=1.0, strategy=two_cpus)
    assert one.train(1).losses[LOCALIZATION] != pytest.approx(two.train(1).losses[LOCALIZATION], rel=1e-3)


@pytest.mark.no_cover
def test_checkpoint_of_one_replica_is_resumed_by_two(make_run, tmp_path, two_cpus):
    make_run(tmp_path).train(3)
    one = make_run(tmp_path)
    two = make_run(tmp_path, strategy=two_cpus)
    one.train(5)
    for number in (4, 5):
        for file in tmp_path.glob(f"ckpt-{number}.*"):
            file.unlink()
    (tmp_path / "checkpoint").unlink()
    two.train(5)
    for expected, value in zip(one.model.get_weights(), two.model.get_weights(), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("on_two", [False, True])
@pytest.mark.no_cover
def test_compiled_step_equals_plain_step(make_run, tmp_path, two_cpus, on_two):
    strategy = two_cpus if on_two else None
    plain = make_run(tmp_path / "plain", strategy=strategy)
    compiled = make_run(tmp_path / "compiled", strategy=strategy)
    plain.train(3), compiled.train(3, jit_compile=True)
    for expected, value in zip(plain.state(), compiled.state(), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)


def test_whole_replica_step_with_its_update_compiles(make_run, make_data, tmp_path):
    run, plain = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    run.optimizer.build(run.model.trainable_variables)
    run.optimizer.start_averages(run.model.trainable_variables)
    trainer = step.Trainer(
        None,
        model=run.model,
        optimizer=run.optimizer,
        variables=run.model.trainable_variables,
        strategy=run.strategy,
        settings=StepSettings(gradient_clipping_by_norm=1.0),
    )
    replica_step = tf.function(trainer.replica_step, jit_compile=True, autograph=False)
    batch = next(iter(make_data()(tf.distribute.InputContext(), 0)))
    for _ in range(3):
        replica_step(batch)
    plain.train(3, gradient_clipping_by_norm=1.0)
    for expected, value in zip(plain.state(), run.state(), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)


def test_bfloat16_model_keeps_float32_variables(make_run, tmp_path):
    run = make_run(tmp_path, dtype="mixed_bfloat16")
    result = run.train(3)
    assert np.isfinite(result.losses["Loss/total_loss"])
    floats = {array.dtype for array in run.state() if array.dtype.kind == "f"}
    assert floats == {np.dtype("float32")}


@pytest.mark.parametrize("steps_per_loop", [1, 100])
def test_nan_loss_stops_the_run_and_names_step_and_loss(make_run, make_data, tmp_path, steps_per_loop):
    run = make_run(tmp_path)
    dataset = make_data(value_of_step=lambda step: tf.where(step == 7, np.nan, 1.0))
    with pytest.raises(TrainingError) as caught:
        run.train(20, dataset=dataset, checkpoint_every_n=4, steps_per_loop=steps_per_loop)
    message = str(caught.value)
    assert message.startswith(f"Step 8: {LOCALIZATION} = nan")
    assert "Loss/regularization_loss" not in message.split(" (")[0]
    assert f"The newest checkpoint is {tmp_path / 'ckpt-4'}." in message
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / "ckpt-4")


def test_gradients_that_are_not_finite_stop_the_run_before_they_are_saved(make_run, break_gradients, tmp_path):
    run = make_run(tmp_path)
    break_gradients(run.model)
    with pytest.raises(TrainingError, match=r"Step 1: gradient_norm = (inf|nan) .*No checkpoint has been saved"):
        run.train(5, checkpoint_every_n=1)
    assert [file.name for file in tmp_path.iterdir()] == ["nonfinite_batch_1.npz"]


def test_data_that_end_are_an_error_that_names_the_step(make_run, make_data, tmp_path):
    with pytest.raises(TrainingError, match=r"data ended after step 4;.*No checkpoint"):
        make_run(tmp_path).train(9, dataset=lambda *arguments: make_data()(*arguments).take(4))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_within_a_call_saves_and_the_resumed_run_equals_an_uninterrupted_one(
    make_run, make_data, tmp_path, signum
):
    def interrupted_at_step_7(context, seed):
        def interrupt(number):
            if number == 6:
                os.kill(os.getpid(), signum)
            return number

        numbers = tf.data.Dataset.counter().map(lambda number: tf.numpy_function(interrupt, [number], tf.int64))
        return tf.data.Dataset.zip(make_data()(context, seed), numbers).map(lambda batch, _: batch)

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    stopped = make_run(tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt) as caught:
        stopped.train(19, dataset=interrupted_at_step_7, checkpoint_every_n=100)
    assert caught.value.exit_code == 128 + signum
    step = int(re.search(r"Stopped at step (\d+) of 19\.", stopped.log)[1])
    assert step < 19  # which one depends on how far ahead the data were drawn
    path = tmp_path / "stopped" / f"ckpt-{step}"
    assert f"The newest checkpoint is {path}. The same command goes on from there." in stopped.log
    assert path.with_suffix(".index").exists()
    assert stopped.log.count("Stopping after the current steps") == 1
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers

    resumed, whole = make_run(tmp_path / "stopped"), make_run(tmp_path / "whole")
    resumed.train(19), whole.train(19)
    for expected, value in zip(whole.state(), resumed.state(), strict=True):
        np.testing.assert_array_equal(value, expected)


@EAGER
def test_signal_between_calls_stops_there(make_run, tmp_path):
    def interrupt(step, path):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(
        loop.TrainingStopped, match=f"Stopped at step 2 of 9. The newest checkpoint is {tmp_path}/ckpt-2"
    ):
        make_run(tmp_path).train(9, checkpoint_every_n=2, on_checkpoint=interrupt)


@EAGER
def test_signal_off_the_interval_saves_what_was_done(make_run, tmp_path):
    run = make_run(tmp_path)

    def draw(batch):
        os.kill(os.getpid(), signal.SIGINT)
        return tf.cast(batch.inputs.images, tf.uint8)

    with pytest.raises(
        loop.TrainingStopped, match=f"Stopped at step 1 of 9. The newest checkpoint is {tmp_path}/ckpt-1"
    ):
        run.train(9, record_summaries=True, draw_batch=draw)
    assert (tmp_path / "ckpt-1.index").exists()


@EAGER
def test_signal_at_the_last_step_does_not_spoil_the_end(make_run, tmp_path):
    run = make_run(tmp_path)
    result = run.train(2, on_checkpoint=lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert result.step == 2


@EAGER
def test_signal_ends_an_evaluation_at_once(make_run, tmp_path):
    run, ends = make_run(tmp_path), []

    def evaluate(step, path):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        ends.append(step)

    start = time.monotonic()
    with pytest.raises(loop.TrainingStopped) as caught:
        run.train(9, checkpoint_every_n=2, on_checkpoint=evaluate)
    assert time.monotonic() - start < 30
    assert caught.value.exit_code == 128 + signal.SIGTERM
    assert not ends
    assert "Stopping after the current steps" not in run.log
    assert "The request to stop ended the evaluation" in run.log
    assert f"The newest checkpoint is {tmp_path}/ckpt-2." in run.log


@EAGER
@pytest.mark.parametrize("rate, is_said", [(0.0, True), (0.1, False)])
def test_a_learning_rate_that_is_0_throughout_is_said(make_run, tmp_path, rate, is_said):
    run = make_run(tmp_path)
    run.optimizer = optimizers.momentum(schedules.ConstantLearningRate(learning_rate=rate))
    run.train(2)
    assert ("The learning rate is 0 at every step from 1 to 2" in run.log) == is_said


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_first_step(make_run, tmp_path):
    (tmp_path / "file").write_text("")
    run = make_run(tmp_path / "file")
    with pytest.raises(SettingsError, match=r"model_dir = .*file: it is a file"):
        run.train(2)
    assert run.model.num_traces == 0


@EAGER
def test_a_checkpoint_that_cannot_be_saved_ends_the_run_with_what_is_left(make_run, tmp_path):
    run = make_run(tmp_path / "run")

    def replace(step, path):
        shutil.rmtree(tmp_path / "run")
        (tmp_path / "run").write_text("a file in place of the folder")

    with pytest.raises(WriteError, match=r"ckpt-4 cannot be written .* The newest checkpoint is .*/run/ckpt-2\."):
        run.train(4, checkpoint_every_n=2, on_checkpoint=replace)


def test_training_works_outside_the_main_thread(make_run, tmp_path):
    run, results = make_run(tmp_path), []
    thread = threading.Thread(target=lambda: results.append(run.train(2)))
    thread.start()
    thread.join()
    assert results[0].step == 2


def test_progress_is_shown_from_the_first_step(make_run, tmp_path):
    run = make_run(tmp_path)
    run.train(40)
    lines = run.log.splitlines()
    assert lines[0].startswith("Compiling the train step")
    assert re.match(r"The first step is done, \d+\.\d s after compiling began\.", lines[1])
    steps = [line for line in lines if line.startswith("step ")]
    assert re.match(r"step 1/40  loss [\d.]+  learning rate 0$", steps[0])
    assert re.match(r"step 2/40  loss [\d.]+  learning rate 0\.167  [\d.e+]+ steps/s  \d+ s left$", steps[1])
    assert [int(line.split("/")[0].split()[1]) for line in steps] == [1, 2, 5, 10, 40]
    assert lines[-1] == f"Saved {tmp_path / 'ckpt-40'}."


def test_summaries_hold_means_learning_rate_and_speed(make_run, read_summaries, tmp_path):
    run = make_run(tmp_path)
    images = []

    def draw(batch):
        images.append(batch.inputs.images.shape)
        return tf.cast(batch.inputs.images, tf.uint8)

    run.train(6, record_summaries=True, summary_every_n=3, draw_batch=draw)
    found = read_summaries(tmp_path / "train")
    assert set(found) == {
        LOCALIZATION,
        "Loss/BoxClassifierLoss/localization_loss",
        "Loss/regularization_loss",
        "Loss/total_loss",
        "gradient_norm",
        "Proposals/recall",
        "learning_rate",
        "steps_per_sec",
        "images_per_sec",
        "train_input_images",
    }
    assert list(found["Loss/total_loss"]) == [1, 3, 6]
    assert found["learning_rate"][6] == pytest.approx(run.optimizer.learning_rate_at(5))
    assert found["images_per_sec"][6] == pytest.approx(4 * found["steps_per_sec"][6], rel=1e-5)
    assert list(found["Proposals/recall"].values()) == [0.5] * 3
    assert images == [(4, 8, 8, 3)]

    make_run(tmp_path / "every").train(6, record_summaries=True, summary_every_n=1)
    every = read_summaries(tmp_path / "every" / "train")["Loss/total_loss"]
    assert found["Loss/total_loss"][6] == pytest.approx(np.mean([every[step] for step in (4, 5, 6)]), rel=1e-5)


@EAGER
def test_no_summaries_are_written_when_not_wanted(make_run, tmp_path):
    make_run(tmp_path).train(2, record_summaries=False)
    assert not (tmp_path / "train").exists()


@pytest.mark.parametrize(
    "option, value", [("num_steps", 0), ("steps_per_loop", 0), ("checkpoint_every_n", -1), ("summary_every_n", 0)]
)
def test_numbers_that_make_no_sense_are_refused(make_run, tmp_path, option, value):
    options = {"num_steps": 3, option: value}
    with pytest.raises(ValueError, match=rf"{option} = {value} is not positive"):
        make_run(tmp_path).train(**options)
    with pytest.raises(ValueError, match=r"gradient_clipping_by_norm = -1 is negative"):
        make_run(tmp_path).train(3, gradient_clipping_by_norm=-1)


@pytest.mark.parametrize(
    "step, most, expected",
    [(0, 100, 1), (1, 100, 2), (2, 100, 5), (10, 4, 14), (10, 100, 30), (30, 100, 50), (50, 100, 60), (95, 100, 97)],
)
def test_host_looks_early_then_at_every_period_and_at_the_end(step, most, expected):
    assert loop._next_stop(step, first_step=0, num_steps=97, periods=[50, 30], most=most) == expected
