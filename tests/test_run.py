"""Runs on other strategies, and the choice of strategy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn import run
from object_detection_fpn.training import checkpoints


def test_one_device_is_the_default_strategy():
    assert run.make_strategy() is tf.distribute.get_strategy()


def test_several_workers_need_tf_config(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match="--num_workers = 2 needs the environment variable TF_CONFIG"):
        run.make_strategy(num_workers=2)


def test_tpu_and_several_workers_exclude_each_other():
    with pytest.raises(ValueError, match="--use_tpu and --num_workers = 4 exclude each other"):
        run.make_strategy(use_tpu=True, num_workers=4)


def test_tpu_flags_reach_the_library(monkeypatch):
    calls = []

    def fake(*arguments, **keywords):
        calls.append((arguments, keywords))
        return tf.distribute.get_strategy()

    monkeypatch.setattr(run.distribute_utils, "get_distribution_strategy", fake)
    run.make_strategy(use_tpu=True, tpu_name="my-tpu")
    assert calls == [(("tpu",), {"tpu_address": "my-tpu"})]


def test_two_replicas_train_and_evaluate(small_config, two_cpus, tmp_path):
    result = run.train(small_config, model_dir=str(tmp_path), strategy=two_cpus, num_steps=2)
    assert result.step == 2
    metrics = run.evaluate(
        small_config,
        checkpoint=str(tmp_path),
        output_dir=str(tmp_path),
        strategy=two_cpus,
        sample_1_of_n_eval_examples=2,
    )
    assert np.isfinite(metrics["Loss/total_loss"])


def test_training_starts_from_the_fine_tune_checkpoint(small_config, tmp_path, capfd):
    run.train(small_config, model_dir=str(tmp_path / "first"), num_steps=1)
    message = type(small_config)()
    message.CopyFrom(small_config)
    message.train_config.fine_tune_checkpoint = checkpoints.latest_checkpoint(str(tmp_path / "first"))
    message.train_config.fine_tune_checkpoint_type = "full"
    message.train_config.optimizer.momentum_optimizer.learning_rate.constant_learning_rate.learning_rate = 0.0
    run.train(message, model_dir=str(tmp_path / "second"), num_steps=1)
    assert "restored" in capfd.readouterr().out
    key = "model/box_head/class_predictor/kernel/.ATTRIBUTES/VARIABLE_VALUE"
    kernels = [
        tf.train.load_checkpoint(checkpoints.latest_checkpoint(str(tmp_path / name))).get_tensor(key)
        for name in ("first", "second")
    ]
    np.testing.assert_array_equal(*kernels)


def test_averages_are_what_is_exported(small_config, tmp_path):
    message = type(small_config)()
    message.CopyFrom(small_config)
    message.train_config.optimizer.use_moving_average = True
    message.train_config.optimizer.moving_average_decay = 0.5
    run.train(message, model_dir=str(tmp_path / "model"), num_steps=2)
    message.eval_config.use_moving_averages = True
    run.export(message, checkpoint=str(tmp_path / "model"), output_dir=str(tmp_path / "exported"))
    name = "model/box_head/class_predictor/kernel"
    trained = tf.train.load_checkpoint(checkpoints.latest_checkpoint(str(tmp_path / "model")))
    average = trained.get_tensor(f"{name}/.OPTIMIZER_SLOT/optimizer/average/.ATTRIBUTES/VARIABLE_VALUE")
    assert np.any(average != trained.get_tensor(f"{name}/.ATTRIBUTES/VARIABLE_VALUE"))
    exported = tf.train.load_checkpoint(str(tmp_path / "exported" / "checkpoint"))
    np.testing.assert_array_equal(exported.get_tensor(f"{name}/.ATTRIBUTES/VARIABLE_VALUE"), average)
