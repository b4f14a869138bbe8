"""A step that is not finite: what the error says of its batch, and what is left on disk."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.training import loop, optimizers, schedules
from object_detection_fpn.training.errors import TrainingError

EAGER = pytest.mark.usefixtures("eager")
SURROUNDINGS = loop.Surroundings(name_records=lambda keys: [f"record {key}" for key in keys])
LOCALIZATION = "Loss/RPNLoss/localization_loss"


def nan_at(batch):
    return lambda step: tf.where(step == batch, np.nan, 1.0)


def fail(run, **options):
    with pytest.raises(TrainingError) as caught:
        run.train(20, surroundings=SURROUNDINGS, **options)
    return str(caught.value)


@pytest.mark.parametrize("steps_per_loop", [1, 100])
def test_the_records_of_the_batch_are_named_and_the_batch_is_written(make_run, make_data, tmp_path, steps_per_loop):
    dataset = make_data(value_of_step=nan_at(7))
    message = fail(make_run(tmp_path), dataset=dataset, checkpoint_every_n=4, steps_per_loop=steps_per_loop)
    path = tmp_path / "nonfinite_batch_8.npz"
    assert message.startswith(f"Step 8: {LOCALIZATION} = nan")
    fault = "[its image has values that are not finite]"
    assert f"Its batch: record 0 {fault}; record 1 {fault}; record 2 {fault}; record 3 {fault}." in message
    assert f"The batch is in {path}. The newest checkpoint is {tmp_path / 'ckpt-4'}." in message
    with np.load(path) as batch:
        assert batch["step"] == 8
        assert batch["records"].tolist() == [f"record {i}" for i in range(4)]
        assert batch["record_keys"].tolist() == [0, 1, 2, 3]
        assert batch["images"].shape == (4, 8, 8, 3) and np.isnan(batch["images"]).all()
        assert batch["boxes"].shape == (4, 2, 4) and batch["boxes"].all()
        assert batch["classes"].shape == batch["weights"].shape == (4, 2)
        losses = dict(zip(batch["loss_names"].tolist(), batch["losses"][0], strict=True))
    assert np.isnan(losses[LOCALIZATION]) and np.isfinite(losses["Loss/regularization_loss"])


@pytest.mark.no_cover
def test_of_two_replicas_the_one_that_failed_is_named(make_run, make_data, tmp_path, two_cpus):
    # Step 8 has the batches 14 and 15, one for each replica.
    message = fail(make_run(tmp_path, strategy=two_cpus), dataset=make_data(value_of_step=nan_at(15)))
    assert message.startswith("Step 8: ")
    assert "Its batch: record 2 [its image has values that are not finite]; record 3 [" in message
    assert "record 0" not in message
    with np.load(tmp_path / "nonfinite_batch_8.npz") as batch:
        assert batch["record_keys"].tolist() == [0, 1, 2, 3]
        assert np.isnan(batch["losses"]).any(axis=1).tolist() == [False, True]
        assert np.isnan(batch["images"]).any(axis=(1, 2, 3)).tolist() == [False, False, True, True]


@EAGER
def test_gradients_that_are_not_finite_name_the_batch_too(make_run, break_gradients, tmp_path):
    run = make_run(tmp_path)
    break_gradients(run.model)
    message = fail(run)
    assert message.startswith("Step 1: gradient_norm = ")
    assert "Its batch: record 0; record 1; record 2; record 3." in message


@EAGER
def test_a_batch_that_cannot_be_written_does_not_hide_the_failure(make_run, make_data, tmp_path):
    (tmp_path / "nonfinite_batch_1.npz").mkdir()
    message = fail(make_run(tmp_path), dataset=make_data(value_of_step=nan_at(0)))
    assert message.startswith(f"Step 1: {LOCALIZATION} = nan")
    assert "Its batch: record 0 [its image has values that are not finite]; " in message
    assert f"The batch {tmp_path / 'nonfinite_batch_1.npz'} cannot be written (" in message


@EAGER
def test_without_keys_the_batch_is_written_only(make_run, make_data, tmp_path):
    def dataset(context, seed):
        return make_data(value_of_step=nan_at(0))(context, seed).map(lambda batch: batch._replace(record_keys=None))

    message = fail(make_run(tmp_path), dataset=dataset)
    assert "Its batch" not in message
    assert (tmp_path / "nonfinite_batch_1.npz").exists()


@EAGER
def test_weights_that_an_update_made_infinite_are_not_saved(make_run, make_data, tmp_path):
    run = make_run(tmp_path)
    run.optimizer = optimizers.momentum(schedules.ConstantLearningRate(learning_rate=3e38))
    with pytest.raises(
        TrainingError, match=r"After step 1, \d of 3 variables are not finite, .*No checkpoint has been"
    ):
        run.train(9, checkpoint_every_n=1, dataset=make_data(value_of_step=lambda _: tf.constant(1e4)))
    assert not list(tmp_path.iterdir())
