"""Checkpoints: what they are called, what they bring back, and what they refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from object_detection_fpn.training import checkpoints, optimizers


class Detector(tf_keras.layers.Layer):
    """A functional backbone, which has several paths to each variable, a dictionary with an awkward key, and a head."""

    def __init__(self, num_classes: int = 3, has_mask: bool = False, dtype: str | None = None):
        super().__init__(dtype=dtype)
        image = tf_keras.Input([8, 8, 3])
        features = tf_keras.layers.Conv2D(4, 3, dtype=dtype)(image)
        self.backbone = tf_keras.Model(image, tf_keras.layers.BatchNormalization(dtype=dtype)(features))
        self.fpn = {"a/b.c": tf_keras.layers.Dense(2, dtype=dtype)}
        self.head = tf_keras.layers.Dense(num_classes, dtype=dtype)
        self.fpn["a/b.c"].build([None, 4])
        self.head.build([None, 2])
        if has_mask:
            self.mask = tf_keras.layers.Dense(1, dtype=dtype)
            self.mask.build([None, 2])


BACKBONE = {
    f"backbone/layer_with_weights-{name}"
    for name in ("0/kernel", "0/bias", "1/gamma", "1/beta", "1/moving_mean", "1/moving_variance")
}
PATHS = BACKBONE | {"fpn/a.Sb..c/kernel", "fpn/a.Sb..c/bias", "head/kernel", "head/bias"}


def fill(model, value):
    for number, variable in enumerate(model.variables):
        variable.assign(tf.fill(variable.shape, float(value + number)))


def weights(model):
    return {path: variable.numpy() for path, variable in checkpoints.variables_by_path(model).items()}


def open_run(model_dir, model=None, optimizer=None, strategy=None, **options):
    """A model with its run's checkpoints, as training opens them."""
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        model = model or Detector()
        optimizer = optimizer or optimizers.momentum(optimizers.ConstantLearningRate(learning_rate=0.1))
        optimizer.build(model.trainable_variables)
    run = checkpoints.RunCheckpoints(str(model_dir), model=model, optimizer=optimizer, strategy=strategy, **options)
    return model, optimizer, run


def save_run(model_dir, value=1.0, step=5, **options):
    model, optimizer, run = open_run(model_dir, **options)
    fill(model, value)
    optimizer.start_averages(model.trainable_variables)
    optimizer.iterations.assign(step)
    return model, run.save(step)


@pytest.mark.parametrize("dtype", [None, "mixed_bfloat16"])
@pytest.mark.parametrize("on_two", [False, True])
def test_paths_are_those_of_the_checkpoint_file(tmp_path, two_cpus, on_two, dtype):
    strategy = two_cpus if on_two else tf.distribute.get_strategy()
    with strategy.scope():
        model = Detector(dtype=dtype)
    _, path = save_run(tmp_path, model=model, strategy=strategy)
    assert set(checkpoints.variables_by_path(model)) == PATHS
    stored = {name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE") for name, _ in tf.train.list_variables(path)}
    assert {f"model/{name}" for name in PATHS} <= stored
    assert "step" in stored
    assert "model/head/kernel/.OPTIMIZER_SLOT/optimizer/momentum" in stored


def test_only_the_newest_are_kept(tmp_path):
    _, _, run = open_run(tmp_path, max_to_keep=2)
    assert [run.save(step) for step in (1, 5, 9)][-1] == str(tmp_path / "ckpt-9")
    assert sorted(file.name for file in tmp_path.glob("*.index")) == ["ckpt-5.index", "ckpt-9.index"]


def test_resuming_restores_model_optimizer_and_step(tmp_path):
    saved, path = save_run(tmp_path, value=3.0, step=5)
    lines = []
    model, optimizer, run = open_run(tmp_path)
    assert run.restore_latest(lines.append) == checkpoints.Restored(path, 5)
    assert lines == [f"Resuming from {path} at step 5: 10 variables of the model and the optimizer's state."]
    assert optimizer.iterations == 5
    for name, value in weights(saved).items():
        np.testing.assert_array_equal(weights(model)[name], value)


def test_empty_folder_has_nothing_to_resume(tmp_path):
    _, _, run = open_run(tmp_path / "new")
    assert run.restore_latest(pytest.fail) is None
    assert not (tmp_path / "new").exists()


def test_kept_on_saving_after_resuming(tmp_path):
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
def test_checkpoint_of_another_model_is_refused_and_stays(tmp_path, options, differences):
    _, path = save_run(tmp_path)
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir()}
    model, _, run = open_run(tmp_path, model=Detector(**options))
    initial = weights(model)
    with pytest.raises(checkpoints.CheckpointError) as caught:
        run.restore_latest(pytest.fail)
    message = str(caught.value)
    assert message.startswith(f"{path}: this checkpoint is of another model")
    assert all(difference in message for difference in differences)
    assert "empty model_dir" in message and "fine_tune_checkpoint" in message
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in tmp_path.iterdir()} == before
    for name, value in weights(model).items():
        np.testing.assert_array_equal(value, initial[name])


def test_smaller_model_does_not_resume_a_larger_one(tmp_path):
    save_run(tmp_path, model=Detector(has_mask=True))
    _, _, run = open_run(tmp_path)
    with pytest.raises(checkpoints.CheckpointError, match=r"mask/bias: \[1\] there, absent in this model"):
        run.restore_latest(pytest.fail)


def test_weights_without_a_step_are_no_run(tmp_path):
    tf.train.Checkpoint(model=Detector()).write(str(tmp_path / "ckpt-1"))
    _, _, run = open_run(tmp_path)
    with pytest.raises(checkpoints.CheckpointError, match="step: absent there"):
        run.restore_latest(pytest.fail)


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
@pytest.mark.parametrize("how", ["truncated", "garbled"])
def test_damaged_checkpoint_is_refused_by_name(tmp_path, suffix, how):
    _, path = save_run(tmp_path)
    file = tmp_path / f"ckpt-5{suffix}"
    content = file.read_bytes()
    file.write_bytes(content[:8] if how == "truncated" else bytes(255 - byte for byte in content))
    _, _, run = open_run(tmp_path)
    with pytest.raises(checkpoints.CheckpointError, match=f"{path}: this checkpoint cannot be read .*move away"):
        run.restore_latest(lambda line: None)
    with pytest.raises(checkpoints.CheckpointError, match=f"{path}: this checkpoint cannot be read"):
        checkpoints.restore_model(str(tmp_path), Detector())


def test_state_of_newly_trained_variables_starts_afresh_and_is_reported(tmp_path):
    """A run with a frozen backbone goes on with all variables, and the other way round."""
    model = Detector()
    optimizer = optimizers.momentum(optimizers.ConstantLearningRate(learning_rate=0.1), moving_average_decay=0.9)
    optimizer.build(model.head.trainable_variables)
    fill(model, 2.0)
    for variable in model.head.trainable_variables:
        optimizer.get_slot(variable, "momentum").assign(tf.fill(variable.shape, 9.0))
    checkpoints.RunCheckpoints(
        str(tmp_path), model=model, optimizer=optimizer, strategy=tf.distribute.get_strategy()
    ).save(4)

    optimizer = optimizers.momentum(optimizers.ConstantLearningRate(learning_rate=0.1), moving_average_decay=0.9)
    model, _, run = open_run(tmp_path, optimizer=optimizer)
    lines = []
    assert run.restore_latest(lines.append) is not None
    assert len(lines) == 3
    assert 'no "momentum" of 6 variables, theirs starts afresh: backbone/layer_with_weights-0/' in lines[1]
    assert np.all(optimizer.get_slot(model.head.kernel, "momentum") == 9.0)
    kernel = checkpoints.variables_by_path(model)["backbone/layer_with_weights-0/kernel"]
    assert np.all(optimizer.get_slot(kernel, "momentum") == 0.0)
    np.testing.assert_array_equal(optimizer.get_slot(kernel, "average"), kernel)  # an average cannot start at 0


def test_another_optimizer_goes_on_from_the_same_weights(tmp_path):
    save_run(tmp_path, value=3.0)
    lines = []
    model, _, run = open_run(tmp_path, optimizer=optimizers.adam(optimizers.ConstantLearningRate(learning_rate=0.1)))
    assert run.restore_latest(lines.append).step == 5
    assert [line.split(",")[0] for line in lines[1:]] == [
        f'  The checkpoint has no "{slot}" of 8 variables' for slot in ("m", "v")
    ]
    assert model.variables[0].numpy().flat[0] == 3.0


def test_model_alone_is_restored_to_be_evaluated(tmp_path):
    saved, path = save_run(tmp_path, value=4.0, step=12)
    model = Detector()
    assert checkpoints.restore_model(str(tmp_path), model) == checkpoints.Restored(path, 12)
    for name, value in weights(saved).items():
        np.testing.assert_array_equal(weights(model)[name], value)


def test_model_alone_is_restored_with_averages(tmp_path):
    optimizer = optimizers.momentum(optimizers.ConstantLearningRate(learning_rate=0.1), moving_average_decay=0.9)
    model, _, run = open_run(tmp_path, optimizer=optimizer)
    fill(model, 1.0)
    for variable in model.trainable_variables:
        optimizer.get_slot(variable, "average").assign(tf.fill(variable.shape, 77.0))
    run.save(3)
    averaged, last = Detector(), Detector()
    checkpoints.restore_model(str(tmp_path), averaged, use_averages=True)
    checkpoints.restore_model(str(tmp_path), last)
    assert np.all(averaged.head.kernel == 77.0)
    assert not np.any(last.head.kernel == 77.0)
    name = "backbone/layer_with_weights-1/moving_mean"  # not trained by gradients: no average but its own
    np.testing.assert_array_equal(weights(averaged)[name], weights(last)[name])


def test_averages_that_are_not_there_are_refused(tmp_path):
    save_run(tmp_path)
    with pytest.raises(checkpoints.CheckpointError, match="no moving averages in this checkpoint"):
        checkpoints.restore_model(str(tmp_path), Detector(), use_averages=True)


def test_model_alone_refuses_another_models_checkpoint(tmp_path):
    save_run(tmp_path)
    model = Detector(num_classes=7)
    initial = weights(model)
    with pytest.raises(checkpoints.CheckpointError, match=r"lacks 2 of the model's 10 variables: head/kernel \[2, 7\]"):
        checkpoints.restore_model(str(tmp_path), model)
    for name, value in weights(model).items():
        np.testing.assert_array_equal(value, initial[name])


def test_fine_tuning_takes_what_fits_and_reports_the_rest(tmp_path):
    saved, _ = save_run(tmp_path, value=5.0)
    model = Detector(num_classes=7, has_mask=True)
    report = checkpoints.restore_for_fine_tuning(str(tmp_path), model)
    assert set(report.restored) == BACKBONE | {"fpn/a.Sb..c/kernel", "fpn/a.Sb..c/bias"}
    assert set(report.other_shape) == {("head/kernel", (2, 7), (2, 3)), ("head/bias", (7,), (3,))}
    assert set(report.missing) == {"mask/kernel", "mask/bias"}
    assert report.unused == []
    np.testing.assert_array_equal(weights(model)["fpn/a.Sb..c/kernel"], weights(saved)["fpn/a.Sb..c/kernel"])
    assert report.table("Weights:").splitlines() == [
        "Weights:",
        "  restored                    8",
        f"  left alone, other shape     2  {report.other_shape[0][0]} {list(report.other_shape[0][1])} <- "
        f"{list(report.other_shape[0][2])}, {report.other_shape[1][0]} {list(report.other_shape[1][1])} <- "
        f"{list(report.other_shape[1][2])}",
        f"  left alone, not there       2  {', '.join(report.missing)}",
    ]


def test_fine_tuning_can_be_of_parts(tmp_path):
    save_run(tmp_path, value=5.0)
    model = Detector()
    head = model.head.kernel.numpy()
    report = checkpoints.restore_for_fine_tuning(str(tmp_path), model, parts=["backbone"])
    assert set(report.restored) == BACKBONE
    assert set(report.unused) == PATHS - BACKBONE
    np.testing.assert_array_equal(model.head.kernel, head)
    with pytest.raises(
        checkpoints.CheckpointError, match=r'"back" is no part of the model\. Allowed: backbone, fpn, head'
    ):
        checkpoints.restore_for_fine_tuning(str(tmp_path), model, parts=["back"])


def test_fine_tuning_with_nothing_that_fits_is_an_error(tmp_path):
    save_run(tmp_path)
    other = tf_keras.layers.Dense(3)
    other.build([None, 2])
    with pytest.raises(checkpoints.CheckpointError, match=r"ckpt-5: nothing in it fits this model\.\n.* restored +0"):
        checkpoints.restore_for_fine_tuning(str(tmp_path), other)


def test_checkpoint_of_another_package_is_not_fine_tuned_from_here(tmp_path):
    path = tf.train.Checkpoint(net=tf.Variable(1.0)).write(str(tmp_path / "other"))
    with pytest.raises(checkpoints.CheckpointError, match="not a checkpoint of this package"):
        checkpoints.restore_for_fine_tuning(path, Detector())


@pytest.mark.parametrize("on_two", [False, True])
def test_weights_of_any_origin_are_assigned_by_path(two_cpus, on_two):
    with two_cpus.scope() if on_two else tf.distribute.get_strategy().scope():
        model = Detector()
    report = checkpoints.assign_weights(model, {"head/bias": np.arange(3.0), "body/bias": np.zeros(1)}, source="x.pth")
    assert report.restored == ["head/bias"]
    assert report.unused == ["body/bias"]
    for bias in two_cpus.experimental_local_results(model.head.bias):
        np.testing.assert_array_equal(bias, [0.0, 1.0, 2.0])
    with pytest.raises(checkpoints.CheckpointError, match=r"x\.pth: nothing in it fits"):
        checkpoints.assign_weights(model, {"body/bias": np.zeros(1)}, source="x.pth")


def test_best_checkpoint_is_kept_and_stays_the_one_to_beat(tmp_path):
    model, _, run = open_run(tmp_path, max_to_keep=1)
    best = checkpoints.BestCheckpoint(str(tmp_path), metric="mAP")
    taken = []
    for step, value in ((1, float("nan")), (2, 0.3), (3, 0.5), (4, 0.5), (5, 0.4)):
        fill(model, step)
        taken.append(best.offer(run.save(step), step, {"mAP": value, "AR": 0.1}))
    assert taken == [False, True, True, False, False]
    folder = tmp_path / "best"
    assert sorted(file.name for file in folder.iterdir()) == [
        "best.json",
        "checkpoint",
        "ckpt-3.data-00000-of-00001",
        "ckpt-3.index",
    ]
    assert json.loads((folder / "best.json").read_text()) == {
        "metric": "mAP",
        "value": 0.5,
        "step": 3,
        "checkpoint": "ckpt-3",
        "metrics": {"AR": 0.1, "mAP": 0.5},
    }
    assert tf.train.latest_checkpoint(str(folder)) == str(folder / "ckpt-3")
    restored = Detector()
    checkpoints.restore_model(str(folder), restored)
    assert restored.variables[0].numpy().flat[0] == 3.0

    resumed = checkpoints.BestCheckpoint(str(tmp_path), metric="mAP")
    assert resumed.value == 0.5
    assert not resumed.offer(run.save(6), 6, {"mAP": 0.45})
    assert resumed.offer(run.save(7), 7, {"mAP": 0.55})


def test_best_loss_is_the_lowest(tmp_path):
    _, _, run = open_run(tmp_path)
    best = checkpoints.BestCheckpoint(str(tmp_path), metric="loss", higher_is_better=False)
    assert [best.offer(run.save(step), step, {"loss": loss}) for step, loss in ((1, 2.0), (2, 3.0), (3, 1.0))] == [
        True,
        False,
        True,
    ]


def test_best_checkpoint_refuses_what_it_cannot_compare(tmp_path):
    _, _, run = open_run(tmp_path)
    best = checkpoints.BestCheckpoint(str(tmp_path), metric="mAP")
    with pytest.raises(checkpoints.CheckpointError, match=r'No metric is named "mAP"\. Allowed: AP50, AR'):
        best.offer(run.save(1), 1, {"AR": 0.1, "AP50": 0.2})
    best.offer(run.save(2), 2, {"mAP": 0.2})
    with pytest.raises(checkpoints.CheckpointError, match='chosen by "mAP", now "AP50" is to choose'):
        checkpoints.BestCheckpoint(str(tmp_path), metric="AP50")
    (tmp_path / "best" / "best.json").write_text("{")
    with pytest.raises(checkpoints.CheckpointError, match=r"best\.json: not a record of a best checkpoint"):
        checkpoints.BestCheckpoint(str(tmp_path), metric="mAP")
