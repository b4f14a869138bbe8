"""`odfpn check` on drawn records, and `--batch_size` of `odfpn train`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn import builder
from object_detection_fpn.cli import main as cli
from object_detection_fpn.config import recipes
from object_detection_fpn.jobs import train as train_job
from object_detection_fpn.tools.check import process, trial
from object_detection_fpn.training.weights import variables_by_path

RECIPE = "faster_rcnn_resnet18_fpn_shapes_160x160"


def override_arguments(overrides):
    return [word for override in overrides for word in ("--config_override", override)]


@pytest.fixture
def in_process(monkeypatch, tiny_resnet18):
    """Tries configs out in this process, with the tiny backbone."""

    def run_trial(request, on_event):
        trial.run(request, lambda event: on_event(json.loads(json.dumps(event))))

    monkeypatch.setattr(process, "run_trial", run_trial)


@pytest.fixture
def check(small_overrides, tmp_path, capfd):
    """Runs the command on the small config; returns status, output, the lines of standard error, and JSON."""

    def call(*overrides, arguments=()):
        path = tmp_path / "found.json"
        words = override_arguments([*small_overrides, *overrides])
        status = cli.main(["check", RECIPE, *words, "--json", str(path), *arguments])
        printed = capfd.readouterr()
        assert "Traceback" not in printed.err
        return status, printed.out, printed.err.splitlines(), json.loads(path.read_text()) if path.exists() else None

    return call


def test_a_process_on_real_files(small_overrides, tmp_path):
    """The whole ResNet-18; nothing but the JSON is written."""
    folder = tmp_path / "work"
    folder.mkdir()
    command = [sys.executable, "-m", "object_detection_fpn.cli", "check", RECIPE, "--json", "found.json"]
    words = override_arguments([*small_overrides, "train_config.batch_size=1", "model.faster_rcnn.number_of_stages=1"])
    done = subprocess.run(
        [*command, *words], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Training would work." in done.stdout
    assert [path.name for path in folder.iterdir()] == ["found.json"]
    found = json.loads((folder / "found.json").read_text())
    assert found["works"]
    step = found["measured"][0]
    assert step["images"] == [1, 64, 64, 3]
    assert all(np.isfinite(value) for value in step["losses"].values())
    assert step["gradient_norm"] > 0
    assert found["model"]["num_parameters"] > 11e6  # a ResNet-18 has as many
    assert [part["name"] for part in found["model"]["parts"]][:4] == [
        f"backbone, to C{level}" for level in (2, 3, 4, 5)
    ]
    if sys.platform == "linux":
        assert 2**28 < step["peak_bytes"] < found["device"]["total_bytes"]


@pytest.mark.usefixtures("in_process")
def test_what_is_found_adds_up(check, small_config, monkeypatch):
    monkeypatch.setattr(trial.Trial, "measure_second", lambda *_, **__: None)
    status, output, messages, found = check("train_config.freeze_variables=['rpn']", "train_config.batch_size=1")
    assert status == 0
    assert output.rstrip().endswith("Training would work.")
    assert messages[-1].startswith("Wrote ")
    model = builder.build_detector(
        small_config, small_config.train_input_reader, execution=builder.training_execution(small_config)
    )
    sizes = {path: int(np.prod(variable.shape)) for path, variable in variables_by_path(model).items()}
    model = found["model"]
    assert model["num_parameters"] == sum(sizes.values())
    assert {path for path, _, _ in model["variables"]} == set(sizes)
    frozen = {reason["reason"]: reason for reason in model["frozen"]}
    of_rpn = [path for path in sizes if path.startswith("rpn/") and "moving_" not in path]
    by_pattern = frozen['train_config.freeze_variables: "rpn"']
    assert sorted(by_pattern["paths"]) == sorted(of_rpn)
    assert by_pattern["num_parameters"] == sum(sizes[path] for path in of_rpn)
    assert model["num_trained"] + sum(reason["num_parameters"] for reason in model["frozen"]) == sum(sizes.values())
    assert 0 < model["inference_flops"] < found["measured"][0]["flops"]
    assert [step["batch_size"] for step in found["measured"]][:1] == [1]
    assert found["schedule"]["num_steps"] == small_config.train_config.num_steps
    assert "Random: train_config.fine_tune_checkpoint is not set." in output


@pytest.mark.usefixtures("in_process")
def test_a_loss_that_is_not_finite_ends_with_its_name(check):
    status, output, messages, found = check(
        "model.faster_rcnn.first_stage_objectness_loss_weight=3e38", "train_config.batch_size=1"
    )
    assert status == 1
    assert messages[-1].startswith(f"error: {RECIPE}: Step 1: gradient_norm = inf")
    assert "Training would fail:" in output
    assert not found["works"]


@pytest.mark.usefixtures("in_process")
def test_failures_come_with_their_reason(check, tmp_path, monkeypatch):
    monkeypatch.setattr(trial.Trial, "measure", lambda *_, **__: None)  # what is found before the steps
    path = tf.train.Checkpoint(other=tf.Variable(1.0)).write(str(tmp_path / "other"))
    rate = "train_config.optimizer={momentum_optimizer {learning_rate {constant_learning_rate {learning_rate: 0}}}}"
    for change, reason in (
        (rate, "The learning rate is 0 at every step from 1 to"),
        (f'train_config.fine_tune_checkpoint="{path}"', f"{path}: this checkpoint holds no detector"),
        ("model.faster_rcnn.num_classes=2", "model.faster_rcnn.num_classes = 2 is below the largest id of"),
    ):
        status, _, messages, found = check(change)
        assert status == 1, change
        assert messages[-1].startswith(f"error: {RECIPE}: {reason}")
        assert found["problems"][0].startswith(reason)


def test_what_is_wrong_with_the_config_ends_with_its_field(check):
    for change, reason in (
        ('train_input_reader.tf_record_input_reader.input_path=["/nowhere/*.tfrecord"]', "/nowhere/*.tfrecord"),
        ('train_input_reader.label_map_path="/nowhere.pbtxt"', "train_input_reader.label_map_path"),
        ("train_config.num_steps=0", "train_config.num_steps"),
    ):
        status, _, messages, found = check(change)
        assert (status, found) == (2, None)
        assert reason in messages[-1]


def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path, capfd):
    for path, reason in ((str(tmp_path), "is no path of a file"), ("", "is no path of a file")):
        assert cli.main(["check", RECIPE, "--json", path]) == 2
        assert reason in capfd.readouterr().err
    own = tmp_path / "my.config"
    own.write_text("")
    assert cli.main(["check", str(own), "--json", str(own)]) == 2
    assert "would be overwritten" in capfd.readouterr().err


DEVICE = {"event": "device", "device": "CPU", "num_replicas": 1, "available_bytes": 2**32, "unit": 1, "margin": 0.15}


def measured(batch_size):
    return {"event": "measured", "batch_size": batch_size, "peak_bytes": (1 + batch_size) * 2**28}


def stage(batch_size):
    return {"event": "stage", "what": "a step", "batch_size": batch_size}


@pytest.fixture
def train(small_overrides, monkeypatch, tmp_path, capfd):
    """`odfpn train` up to the job; a trial tells the given events. Returns status, config and standard error."""

    def call(*arguments, events=(), overrides=()):
        configs = []
        monkeypatch.setattr(train_job, "train", lambda config, **_: configs.append(config))
        monkeypatch.setattr(process, "run_trial", lambda request, tell: [tell(event) for event in events])
        words = override_arguments([*small_overrides, *overrides])
        status = cli.main(["train", "--config", RECIPE, "--model_dir", str(tmp_path / "model"), *words, *arguments])
        return status, configs[0].train_config if configs else None, capfd.readouterr().err

    return call


def test_a_batch_of_the_command_line_replaces_that_of_the_config(train):
    status, settings, _ = train("--batch_size", "6")
    assert (status, settings.batch_size, settings.reference_batch_size) == (0, 6, 0)


@pytest.mark.parametrize("reference", [0, 3])
def test_learning_rates_follow_the_batch_of_the_command_line(train, reference):
    rate = "train_config.optimizer={momentum_optimizer {learning_rate {constant_learning_rate {learning_rate: 0.5}}}}"
    overrides = [rate, f"train_config.reference_batch_size={reference}"]
    status, settings, message = train("--batch_size", "6", "--auto_scale_lr", overrides=overrides)
    found = settings.optimizer.momentum_optimizer.learning_rate.constant_learning_rate.learning_rate
    assert status == 0
    assert found == 0.5 * 6 / (reference or 2)  # 2 is that of the config
    assert f"batch_size / reference_batch_size = 6 / {reference or 2}" in message


def test_auto_takes_what_the_trial_chose(train):
    events = [DEVICE, stage(1), measured(1), measured(4), measured(8), {"event": "chosen", "batch_size": 8}]
    status, settings, message = train("--batch_size", "auto", events=events)
    assert (status, settings.batch_size) == (0, 8)
    assert "--batch_size auto: 8. A step takes 2.25 GiB of the 4.00 GiB of this CPU" in message
    assert "for batches of 2; --auto_scale_lr multiplies them by 8 / 2." in message


def test_auto_halves_a_batch_that_did_not_fit(train):
    events = [DEVICE, measured(1), measured(4), stage(16), {"event": "out_of_memory"}]
    status, settings, _ = train("--batch_size", "auto", events=events)
    assert (status, settings.batch_size) == (0, 8)


@pytest.mark.parametrize(
    "arguments, events, reason",
    [
        (["0"], [], "--batch_size = 0 is not allowed. Allowed: 1 and above, or auto."),
        (["many"], [], "--batch_size = many is not allowed."),
        (["auto", "--use_tpu"], [], "--batch_size auto does not work with --use_tpu"),
        (["auto", "--num_workers", "2"], [], "--batch_size auto does not work with --num_workers 2"),
        (["auto"], [DEVICE, measured(1), {"event": "chosen", "batch_size": 0}], "not even 1 image fits"),
        (["auto"], [DEVICE, stage(1), {"event": "out_of_memory"}], "A step of 1 image does not fit the memory"),
        (["auto"], [DEVICE | {"available_bytes": None}, measured(1)], "cannot be read. Allowed here: a number."),
        (["auto"], [DEVICE, {"event": "failed", "message": "my.tfrecord: broken."}], "my.tfrecord: broken."),
    ],
)
def test_a_batch_that_cannot_be_is_refused_in_words(train, arguments, events, reason):
    status, settings, message = train("--batch_size", *arguments, events=events)
    assert (status, settings) == (2, None)
    assert reason in message
    if "does not work" in reason:
        assert "odfpn plan" in message


def test_a_run_goes_on_with_its_batch(train, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    text = tmp_path / "model" / "pipeline.config"
    with open(recipes.recipe_path(RECIPE)) as file:
        text.write_text(file.read().replace("\n  batch_size: 4", "\n  batch_size: 14"))
    tf.train.CheckpointManager(tf.train.Checkpoint(step=tf.Variable(1)), str(folder), max_to_keep=1).save(1)
    status, settings, message = train("--batch_size", "auto")
    assert status == 0
    assert settings.batch_size == 14
    assert f"--batch_size auto: 14, as in {text}: the run goes on" in message
