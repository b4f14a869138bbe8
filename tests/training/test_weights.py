"""A model given weights of a checkpoint or of any origin, by path."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from object_detection_fpn.training import optimizers, schedules
from object_detection_fpn.training.stored import CheckpointError
from object_detection_fpn.training.weights import Restored, assign_weights, restore_for_fine_tuning, restore_model

BACKBONE = {
    f"backbone/layer_with_weights-{name}"
    for name in ("0/kernel", "0/bias", "1/gamma", "1/beta", "1/moving_mean", "1/moving_variance")
}
PATHS = BACKBONE | {"fpn/a.Sb..c/kernel", "fpn/a.Sb..c/bias", "head/kernel", "head/bias"}


def test_model_alone_is_restored_to_be_evaluated(tmp_path, detector, weights, save_run):
    saved, path = save_run(tmp_path, value=4.0, step=12)
    model = detector()
    assert restore_model(str(tmp_path), model) == Restored(path, 12)
    for name, value in weights(saved).items():
        np.testing.assert_array_equal(weights(model)[name], value)


def test_model_alone_is_restored_with_averages(tmp_path, detector, fill, weights, open_run):
    optimizer = optimizers.momentum(schedules.ConstantLearningRate(learning_rate=0.1), moving_average_decay=0.9)
    model, _, run = open_run(tmp_path, optimizer=optimizer)
    fill(model, 1.0)
    for variable in model.trainable_variables:
        optimizer.get_slot(variable, "average").assign(tf.fill(variable.shape, 77.0))
    run.save(3)
    averaged, last = detector(), detector()
    restore_model(str(tmp_path), averaged, use_averages=True)
    restore_model(str(tmp_path), last)
    assert np.all(averaged.head.kernel == 77.0)
    assert not np.any(last.head.kernel == 77.0)
    name = "backbone/layer_with_weights-1/moving_mean"  # not trained by gradients: no average but its own
    np.testing.assert_array_equal(weights(averaged)[name], weights(last)[name])


def test_averages_that_are_not_there_are_refused(tmp_path, detector, save_run):
    save_run(tmp_path)
    with pytest.raises(CheckpointError, match="no moving averages in this checkpoint"):
        restore_model(str(tmp_path), detector(), use_averages=True)


def test_model_alone_refuses_another_models_checkpoint(tmp_path, detector, weights, save_run):
    save_run(tmp_path)
    model = detector(num_classes=7)
    initial = weights(model)
    with pytest.raises(CheckpointError, match=r"lacks 2 of the model's 10 variables: head/kernel \[2, 7\]"):
        restore_model(str(tmp_path), model)
    for name, value in weights(model).items():
        np.testing.assert_array_equal(value, initial[name])


def test_fine_tuning_takes_what_fits_and_reports_the_rest(tmp_path, detector, weights, save_run):
    saved, _ = save_run(tmp_path, value=5.0)
    model = detector(num_classes=7, has_mask=True)
    report = restore_for_fine_tuning(str(tmp_path), model)
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


def test_fine_tuning_can_be_of_parts(tmp_path, detector, save_run):
    save_run(tmp_path, value=5.0)
    model = detector()
    head = model.head.kernel.numpy()
    report = restore_for_fine_tuning(str(tmp_path), model, parts=["backbone"])
    assert set(report.restored) == BACKBONE
    assert set(report.unused) == PATHS - BACKBONE
    np.testing.assert_array_equal(model.head.kernel, head)
    with pytest.raises(CheckpointError, match=r'"back" is no part of the model\. Allowed: backbone, fpn, head'):
        restore_for_fine_tuning(str(tmp_path), model, parts=["back"])


def test_fine_tuning_with_nothing_that_fits_is_an_error(tmp_path, save_run):
    save_run(tmp_path)
    other = tf_keras.layers.Dense(3)
    other.build([None, 2])
    with pytest.raises(CheckpointError, match=r"ckpt-5: nothing in it fits this model\.\n.* restored +0"):
        restore_for_fine_tuning(str(tmp_path), other)


def test_checkpoint_of_another_package_is_not_fine_tuned_from_here(tmp_path, detector):
    path = tf.train.Checkpoint(net=tf.Variable(1.0)).write(str(tmp_path / "other"))
    with pytest.raises(CheckpointError, match="not a checkpoint of this package"):
        restore_for_fine_tuning(path, detector())


@pytest.mark.parametrize("on_two", [False, True])
def test_weights_of_any_origin_are_assigned_by_path(two_cpus, on_two, detector):
    with two_cpus.scope() if on_two else tf.distribute.get_strategy().scope():
        model = detector()
    report = assign_weights(model, {"head/bias": np.arange(3.0), "body/bias": np.zeros(1)}, source="x.pth")
    assert report.restored == ["head/bias"]
    assert report.unused == ["body/bias"]
    for bias in two_cpus.experimental_local_results(model.head.bias):
        np.testing.assert_array_equal(bias, [0.0, 1.0, 2.0])
    with pytest.raises(CheckpointError, match=r"x\.pth: nothing in it fits"):
        assign_weights(model, {"body/bias": np.zeros(1)}, source="x.pth")
