"""Checkpoints of a run: what they are called, what they bring back, and what they refuse."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.training import checkpoints, optimizers, schedules
from object_detection_fpn.training.errors import SettingsError, WriteError
from object_detection_fpn.training.stored import CheckpointError
from object_detection_fpn.training.weights import Restored, restore_model, variables_by_path

BACKBONE = {
    f"backbone/layer_with_weights-{name}"
    for name in ("0/kernel", "0/bias", "1/gamma", "1/beta", "1/moving_mean", "1/moving_variance")
}
PATHS = BACKBONE | {"fpn/a.Sb..c/kernel", "fpn/a.Sb..c/bias", "head/kernel", "head/bias"}


@pytest.mark.parametrize("dtype", [None, "mixed_bfloat16"])
@pytest.mark.parametrize("on_two", [False, True])
def test_paths_are_those_of_the_checkpoint_file(tmp_path, two_cpus, on_two, dtype, detector, save_run):
    strategy = two_cpus if on_two else tf.distribute.get_strategy()
    with strategy.scope():
        model = detector(dtype=dtype)
    _, path = save_run(tmp_path, model=model, strategy=strategy)
    assert set(variables_by_path(model)) == PATHS
    stored = {name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE") for name, _ in tf.train.list_variables(path)}
    assert {f"model/{name}" for name in PATHS} <= stored
    assert "step" in stored
    assert "model/head/kernel/.OPTIMIZER_SLOT/optimizer/momentum" in stored


def test_only_the_newest_are_kept(tmp_path, open_run):
    _, _, run = open_run(tmp_path, max_to_keep=2)
    assert [run.save(step) for step in (1, 5, 9)][-1] == str(tmp_path / "ckpt-9")
    assert sorted(file.name for file in tmp_path.glob("*.index")) == ["ckpt-5.index", "ckpt-9.index"]


def test_resuming_restores_model_optimizer_and_step(tmp_path, weights, open_run, save_run):
    saved, path = save_run(tmp_path, value=3.0, step=5)
    lines = []
    model, optimizer, run = open_run(tmp_path)
    assert run.restore_latest(lines.append) == Restored(path, 5)
    assert lines == [f"Resuming from {path} at step 5: 10 variables of the model and the optimizer's state."]
    assert optimizer.iterations == 5
    for name, value in weights(saved).items():
        np.testing.assert_array_equal(weights(model)[name], value)


def test_empty_folder_has_nothing_to_resume(tmp_path, open_run):
    _, _, run = open_run(tmp_path / "new")
    assert run.restore_latest(pytest.fail) is None
    assert not (tmp_path / "new").exists()


def test_kept_on_saving_after_resuming(tmp_path, open_run, save_run):
    save_run(tmp_path, step=5)
    _, _, run = open_run(tmp_path, max_to_keep=2)
    run.restore_latest(lambda line: None)
    run.save(6), run.save(7)
    assert sorted(file.name for file in tmp_path.glob("*.index")) == ["ckpt-6.index", "ckpt-7.index"]


@pytest.mark.parametrize(
    "options, differences",
    [
        (
            {"num_classes": 7},
            ["2 of 10 variables differ", "head/kernel: [2, 7] in this model, [2, 3] there", "head/bias: [7]"],
        ),
        ({"has_mask": True}, ["2 of 12 variables differ", "mask/kernel: [2, 1] in this model, absent there"]),
    ],
)
def test_checkpoint_of_another_model_is_refused_and_stays(
    tmp_path, options, differences, detector, weights, open_run, save_run
):
    _, path = save_run(tmp_path)
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir()}
    model, _, run = open_run(tmp_path, model=detector(**options))
    initial = weights(model)
    with pytest.raises(CheckpointError) as caught:
        run.restore_latest(pytest.fail)
    message = str(caught.value)
    assert message.startswith(f"{path}: this checkpoint is of another model")
    assert all(difference in message for difference in differences)
    assert "empty model_dir" in message and "fine_tune_checkpoint" in message
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir()} == before
    for name, value in weights(model).items():
        np.testing.assert_array_equal(value, initial[name])


def test_smaller_model_does_not_resume_a_larger_one(tmp_path, detector, open_run, save_run):
    save_run(tmp_path, model=detector(has_mask=True))
    _, _, run = open_run(tmp_path)
    with pytest.raises(CheckpointError, match=r"mask/bias: \[1\] there, absent in this model"):
        run.restore_latest(pytest.fail)


def test_weights_without_a_step_are_no_run(tmp_path, detector, open_run):
    tf.train.Checkpoint(model=detector()).write(str(tmp_path / "ckpt-1"))
    _, _, run = open_run(tmp_path)
    with pytest.raises(CheckpointError, match="step: absent there"):
        run.restore_latest(pytest.fail)


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("how", ["truncated", "garbled"])
def test_damaged_checkpoint_is_refused_by_name(tmp_path, suffix, how, detector, open_run, save_run):
    _, path = save_run(tmp_path)
    file = tmp_path / f"ckpt-5{suffix}"
    content = file.read_bytes()
    file.write_bytes(content[:8] if how == "truncated" else bytes(255 - byte for byte in content))
    _, _, run = open_run(tmp_path)
    with pytest.raises(CheckpointError, match=f"{path}: this checkpoint cannot be read .*move away"):
        run.restore_latest(lambda line: None)
    with pytest.raises(CheckpointError, match=f"{path}: this checkpoint cannot be read"):
        restore_model(str(tmp_path), detector())


def test_state_of_newly_trained_variables_is_reinitialized_and_reported(tmp_path, detector, fill, open_run):
    """A run with a frozen backbone goes on with all variables, and the other way round."""
    model = detector()
    optimizer = optimizers.momentum(schedules.ConstantLearningRate(learning_rate=0.1), moving_average_decay=0.9)
    optimizer.build(model.head.trainable_variables)
    fill(model, 2.0)
    for variable in model.head.trainable_variables:
        optimizer.get_slot(variable, "momentum").assign(tf.fill(variable.shape, 9.0))
    checkpoints.RunCheckpoints(
        str(tmp_path), model=model, optimizer=optimizer, strategy=tf.distribute.get_strategy()
    ).save(4)

    optimizer = optimizers.momentum(schedules.ConstantLearningRate(learning_rate=0.1), moving_average_decay=0.9)
    model, _, run = open_run(tmp_path, optimizer=optimizer)
    lines = []
    assert run.restore_latest(lines.append) is not None
    assert len(lines) == 3
    assert 'no "momentum" of 6 variables; it is reinitialized: backbone/layer_with_weights-0/' in lines[1]
    assert np.all(optimizer.get_slot(model.head.kernel, "momentum") == 9.0)
    kernel = variables_by_path(model)["backbone/layer_with_weights-0/kernel"]
    assert np.all(optimizer.get_slot(kernel, "momentum") == 0.0)
    np.testing.assert_array_equal(optimizer.get_slot(kernel, "average"), kernel)  # an average cannot start at 0


def test_another_optimizer_goes_on_from_the_same_weights(tmp_path, open_run, save_run):
    save_run(tmp_path, value=3.0)
    lines = []
    model, _, run = open_run(tmp_path, optimizer=optimizers.adam(schedules.ConstantLearningRate(learning_rate=0.1)))
    assert run.restore_latest(lines.append).step == 5
    assert [line.split(";")[0] for line in lines[1:]] == [
        f'  The checkpoint has no "{slot}" of 8 variables' for slot in ("m", "v")
    ]
    assert model.variables[0].numpy().flat[0] == 3.0


def test_parts_of_killed_saves_are_removed_at_the_start_and_before_a_save(tmp_path, open_run):
    killed = tmp_path / "ckpt-5_temp"
    _, _, run = open_run(tmp_path)
    for act in (run.remove_stale_saves, lambda: run.save(6)):
        killed.mkdir()
        (killed / "part-00000-of-00001.index").write_bytes(b"x")
        act()
        assert not killed.exists()
    run.close()


def test_only_the_chief_removes_killed_saves(tmp_path, open_run, monkeypatch):
    (tmp_path / "ckpt-5_temp").mkdir()
    _, _, run = open_run(tmp_path)
    monkeypatch.setattr(type(run._strategy.extended), "should_checkpoint", False)
    run.remove_stale_saves()
    assert (tmp_path / "ckpt-5_temp").exists()


def test_a_save_that_fails_leaves_no_parts_and_the_older_checkpoint(tmp_path, open_run, monkeypatch):
    _, _, run = open_run(tmp_path)
    older = run.save(3)

    def write_half(manager, checkpoint_number):
        folder = tmp_path / f"ckpt-{checkpoint_number}_temp"
        folder.mkdir()
        (folder / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"x" * 100)
        raise tf.errors.ResourceExhaustedError(None, None, f"{folder}/part; No space left on device")

    monkeypatch.setattr(tf.train.CheckpointManager, "save", write_half)
    with pytest.raises(WriteError, match=r"^Checkpoint \S+ckpt-7 cannot be written \(.*No space left on device"):
        run.save(7)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint",
        "ckpt-3.data-00000-of-00001",
        "ckpt-3.index",
    ]
    assert open_run(tmp_path)[2].restore_latest(lambda line: None) == Restored(older, 0)


def test_a_checkpoint_that_cannot_be_written_is_an_error_of_one_line(tmp_path, open_run):
    _, _, run = open_run(tmp_path / "run")
    (tmp_path / "run").write_text("a file in place of the folder")
    with pytest.raises(
        WriteError, match=rf"^Checkpoint {tmp_path}/run/ckpt-3 cannot be written \(.+\)\. Check the free"
    ):
        run.save(3)


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for name, message in (
        ("file", "it is a file. Allowed: a folder"),
        ("file/run", f"{tmp_path}/file is a file"),
    ):
        with pytest.raises(SettingsError, match=f"^model_dir = {tmp_path}/{name}: {message}"):
            checkpoints.check_model_dir(str(tmp_path / name))
    with pytest.raises(SettingsError, match="model_dir is empty"):
        checkpoints.check_model_dir("")
    checkpoints.check_model_dir(str(tmp_path / "new" / "run"))
    checkpoints.check_model_dir("gs://bucket/run")  # remote file systems answer when they are written to
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    monkeypatch.setattr(os, "access", lambda place, mode: False)  # root may write anywhere
    with pytest.raises(SettingsError, match=f"this user may not write to {tmp_path}\\. Change"):
        checkpoints.check_model_dir(str(tmp_path / "new" / "run"))
