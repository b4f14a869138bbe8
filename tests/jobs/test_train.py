"""Training as a job: on several devices, in other number formats, from other weights."""

from __future__ import annotations

import inspect
import json
import re

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn import builder
from object_detection_fpn.cli import main as cli
from object_detection_fpn.cli import odapi
from object_detection_fpn.config import pipeline as config_lib
from object_detection_fpn.config import recipes
from object_detection_fpn.evaluation import loop as evaluation_loop
from object_detection_fpn.jobs import evaluate as evaluate_job
from object_detection_fpn.jobs import export as export_job
from object_detection_fpn.jobs import strategies
from object_detection_fpn.jobs import train as train_job
from object_detection_fpn.protos import train_pb2
from object_detection_fpn.training import step
from object_detection_fpn.training.stored import latest_checkpoint

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time


def _flags(tmp_path, small_overrides, **others):
    from types import SimpleNamespace

    values = {
        "pipeline_config_path": recipes.recipe_path("faster_rcnn_resnet18_fpn_shapes_160x160"),
        "model_dir": str(tmp_path),
        "config_override": [*small_overrides, "train_config.use_bfloat16=true"],
        "num_train_steps": 5,
        "num_workers": 1,
        "checkpoint_dir": None,
        "checkpoint_every_n": 1000,
        "eval_timeout": 1,
        "train_and_eval": False,
        "eval_on_train_data": False,
        "sample_1_of_n_eval_examples": None,
        "sample_1_of_n_eval_on_train_examples": 5,
        "record_summaries": False,
        "jit_compile": True,  # is the TPU's own affair
        "seed": 0,
        "use_tpu": True,
        "tpu_name": "my-tpu",
    }
    names = re.findall(r"flags\.(\w+)", inspect.getsource(odapi.run_model_main))
    return SimpleNamespace(**dict.fromkeys(names) | values | others)


@pytest.mark.usefixtures("tiny_resnet18")
def test_commands_for_a_tpu_up_to_its_strategy(monkeypatch, small_overrides, two_cpus, untraced, tmp_path):
    addresses, connected, batches, options, models, calls = [], [], [], [], [], []

    class FakeResolver:
        def __init__(self, tpu):
            addresses.append(tpu)

    tpu = strategies.distribute_utils.tf
    monkeypatch.setattr(tpu.distribute.cluster_resolver, "TPUClusterResolver", FakeResolver)
    monkeypatch.setattr(tpu.config, "experimental_connect_to_cluster", connected.append)
    monkeypatch.setattr(tpu.tpu.experimental, "initialize_tpu_system", connected.append)
    monkeypatch.delattr(tpu.tpu.experimental, "HardwareFeature", raising=False)
    monkeypatch.delattr(tpu.tpu.experimental, "HardWareFeature", raising=False)
    monkeypatch.setattr(tpu.distribute, "TPUStrategy", lambda resolver, **_: two_cpus)
    monkeypatch.setattr(strategies, "is_tpu", lambda strategy: strategy is two_cpus)
    real_train, real_build = train_job.training_loop.train, builder.build_model
    real_evaluate, real_run = evaluation_loop.evaluate, step.Trainer.run

    def run_steps(trainer, num_steps):
        calls.append(num_steps)
        return real_run(trainer, num_steps)

    def train(*, dataset, **others):
        def note(context, seed):
            data = dataset(context, seed)
            batches.append((context.num_replicas_in_sync, data.element_spec.inputs.images.shape))
            return data

        options.append(others)
        return real_train(dataset=note, **others)

    def build_model(message, **others):
        models.append(others | {"strategy": tf.distribute.get_strategy()})
        return real_build(message, **others)

    def evaluate(**others):
        options.append(others)
        return real_evaluate(**others)

    monkeypatch.setattr(train_job.training_loop, "train", train)
    monkeypatch.setattr(train_job.training_loop, "_SECONDS_PER_CALL", 1e9)
    monkeypatch.setattr(step.Trainer, "run", run_steps)
    monkeypatch.setattr(builder.model, "build_model", build_model)
    monkeypatch.setattr(evaluation_loop, "evaluate", evaluate)
    assert odapi.run_model_main(_flags(tmp_path, small_overrides)) == 0
    assert odapi.run_model_main(_flags(tmp_path, small_overrides, checkpoint_dir=str(tmp_path))) == 0
    recipe = recipes.recipe_path("faster_rcnn_resnet18_fpn_shapes_160x160")
    overrides = [word for override in small_overrides for word in ("--config_override", override)]
    command = ["eval", "--config", recipe, "--checkpoint", str(tmp_path), "--use_tpu", "--tpu_name", "my-tpu"]
    with untraced():
        assert cli.main([*command, *overrides]) == 0
    assert addresses == ["my-tpu"] * 3
    assert len(connected) == 6  # the cluster and the TPU system, of each command
    assert batches == [(2, [1, 64, 64, 3])]  # half of the batch each
    assert calls == [1, 1, 3]  # the first steps are shown, the others stay on the device
    training, *evaluations = options
    assert not training["settings"].jit_compile  # a TPU compiles in any case
    assert training["settings"].steps_per_loop == 100  # that is, many in a call: no host between the steps
    assert all(option["strategy"] is two_cpus for option in options)
    assert len(evaluations) == 2
    for evaluation in evaluations:
        assert evaluation["dataset"].element_spec.inputs.images.shape == [4, 64, 64, 3]  # is split among the replicas
    assert [(model["execution"].dtype, model["execution"].static) for model in models] == [
        ("mixed_bfloat16", True),
        *[("float32", True)] * 2,
    ]
    assert all(model["strategy"] is two_cpus for model in models)
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / "ckpt-5")
    lines = (tmp_path / "eval" / "held_out" / "metrics.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert second == pytest.approx(first, rel=1e-6)
    assert (first["step"], first["num_images"]) == (5, 6)


def test_tpu_refuses_a_config_that_is_not_static_before_anything_is_built(
    monkeypatch, small_config, two_cpus, tmp_path
):
    monkeypatch.setattr(strategies, "is_tpu", lambda strategy: strategy is two_cpus)
    message = type(small_config)()
    message.CopyFrom(small_config)
    message.train_config.batch_size = 3
    resizer = message.model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer
    resizer.pad_to_max_dimension = False
    with pytest.raises(config_lib.ConfigError, match=r"pad_to_max_dimension = false leaves") as caught:
        train_job.train(message, model_dir=str(tmp_path), strategy=two_cpus, num_steps=1)
    assert "train_config.batch_size = 3 cannot be divided evenly among 2 replicas" in str(caught.value)
    with pytest.raises(config_lib.ConfigError, match="pad_to_max_dimension"):
        evaluate_job.evaluate(message, checkpoint=str(tmp_path), output_dir=str(tmp_path), strategy=two_cpus)


@pytest.mark.usefixtures("tiny_resnet18")
def test_a_model_trained_in_float16_is_evaluated_and_exported_in_float32(small_config, untraced, tmp_path):
    message = type(small_config)()
    message.CopyFrom(small_config)
    settings = message.train_config
    settings.precision = train_pb2.FLOAT16
    settings.accumulate_gradients, settings.recompute_backbone = 2, True
    result = train_job.train(message, model_dir=str(tmp_path), num_steps=2, summary_every_n=None)
    assert np.isfinite(result.losses["Loss/total_loss"])
    reader = tf.train.load_checkpoint(result.checkpoint)
    stored = {dtype for name, dtype in reader.get_variable_to_dtype_map().items() if dtype.is_floating}
    assert stored == {tf.float32}
    with untraced():
        metrics = evaluate_job.evaluate(
            message, checkpoint=str(tmp_path), output_dir=str(tmp_path), sample_1_of_n_eval_examples=3
        )
    assert np.isfinite(metrics["Loss/total_loss"])
    served = tf.saved_model.load(export_job.export(message, checkpoint=str(tmp_path), output_dir=str(tmp_path / "out")))
    outputs = served.signatures["serving_default"](tf.zeros([1, 64, 64, 3], tf.uint8))
    assert {value.dtype for value in outputs.values()} == {tf.float32}


@pytest.mark.usefixtures("tiny_resnet18")
def test_two_replicas_train_and_have_the_metrics_of_one(small_config, two_cpus, untraced, tmp_path):
    message = type(small_config)()
    message.CopyFrom(small_config)
    # Of weights that know nothing yet: many low boxes, some of which lie right.
    suppression = message.model.faster_rcnn.second_stage_post_processing.batch_non_max_suppression
    suppression.score_threshold, suppression.max_total_detections = 0.0, 100
    suppression.max_detections_per_class = 50
    with untraced():  # the compiled steps of two replicas are those of the test above
        assert train_job.train(message, model_dir=str(tmp_path), strategy=two_cpus, num_steps=2).step == 2
    results = []
    # Two images at a time on each device, so that not even rounding tells the order of nearly equal scores apart.
    for name, strategy, batch_size in (("one", None, 2), ("two", two_cpus, 4)):
        message.eval_config.batch_size = batch_size
        settings = {"checkpoint": str(tmp_path), "output_dir": str(tmp_path / name), "strategy": strategy}
        with untraced():
            results.append(evaluate_job.evaluate(message, **settings))
        line = json.loads((tmp_path / name / "eval" / "held_out" / "metrics.jsonl").read_text())
        assert line["num_images"] == 6  # in batches of 4 the last one is filled up, and its filling not counted
    one, two = results
    assert one.keys() == two.keys()
    assert np.isfinite(one["Loss/total_loss"])
    assert 0 < one["DetectionBoxes_Recall/AR@100"] < 1
    for name, value in one.items():
        is_loss = name.startswith("Loss/")
        assert two[name] == pytest.approx(value, rel=1e-5 if is_loss else 0, abs=0 if is_loss else 1e-9), name


@pytest.mark.usefixtures("tiny_resnet18")
def test_training_starts_from_the_fine_tune_checkpoint(small_config, untraced, tmp_path, capfd):
    with untraced():
        train_job.train(small_config, model_dir=str(tmp_path / "first"), num_steps=1)
    message = type(small_config)()
    message.CopyFrom(small_config)
    message.train_config.fine_tune_checkpoint = latest_checkpoint(str(tmp_path / "first"))
    message.train_config.fine_tune_checkpoint_type = "detection"
    message.train_config.restore_classes_by_name = True  # the predictors as well
    message.train_config.optimizer.momentum_optimizer.learning_rate.constant_learning_rate.learning_rate = 0.0
    with untraced():
        train_job.train(message, model_dir=str(tmp_path / "second"), num_steps=1)
    output = capfd.readouterr().out
    assert "restored" in output and "3 of 3 classes kept by name: " in output
    key = "model/box_head/class_predictor/kernel/.ATTRIBUTES/VARIABLE_VALUE"
    kernels = [
        tf.train.load_checkpoint(latest_checkpoint(str(tmp_path / name))).get_tensor(key)
        for name in ("first", "second")
    ]
    np.testing.assert_array_equal(*kernels)
