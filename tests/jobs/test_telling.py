"""What training tells: the best checkpoint by any result, early stopping, logs, and the records of a bad batch."""

from __future__ import annotations

import json
import re
import subprocess

import numpy as np
import pytest

from object_detection_fpn.cli import main as cli
from object_detection_fpn.jobs import provenance
from object_detection_fpn.jobs import train as train_job
from object_detection_fpn.training.errors import SettingsError, TrainingError

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

RECIPE = "faster_rcnn_resnet18_fpn_shapes_160x160"


@pytest.fixture
def config(small_config):
    """With a learning rate that changes nothing, and few images to evaluate."""
    message = type(small_config)()
    message.CopyFrom(small_config)
    message.eval_input_reader[0].sample_1_of_n_examples = 3
    message.eval_config.num_visualizations = 0
    set_rate(message, 0.0)
    return message


def set_rate(message, rate):
    message.train_config.optimizer.momentum_optimizer.learning_rate.constant_learning_rate.learning_rate = rate


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.usefixtures("tiny_resnet18")
def test_training_ends_when_the_chosen_result_gets_no_better(config, untraced, read_summaries, tmp_path, capfd):
    options = {
        "evaluate_checkpoints": True,
        "checkpoint_every_n": 1,
        "keep_best": "Loss/regularization_loss",
        "early_stopping_patience": 1,
        "max_to_keep": 1,
    }
    with untraced():
        result = train_job.train(config, model_dir=str(tmp_path), num_steps=9, **options)
        # No weight changes, so the second evaluation is no better than the first.
        assert result.step == 2
        reason = r"1 evaluation without a better Loss/regularization_loss than [\d.]+ of step 1"
        assert re.fullmatch(reason, result.ending)
        again = train_job.train(config, model_dir=str(tmp_path), num_steps=9, **options)
    error = capfd.readouterr().err
    assert re.search(rf"Ended at step 2 of 9: {reason}\. The newest checkpoint is {tmp_path}/ckpt-2\.", error)
    assert re.search(rf"Nothing to train: {tmp_path}/ckpt-2 has had {reason}\. A larger", error)
    assert (again.step, again.checkpoint, again.ending) == (2, str(tmp_path / "ckpt-2"), result.ending)
    assert [file.name for file in tmp_path.glob("ckpt-*.index")] == ["ckpt-2.index"]
    assert [file.name for file in (tmp_path / "best").glob("ckpt-*.index")] == ["ckpt-1.index"]
    lines = lines_of(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["kind"]) for line in lines] == [(1, "train"), (1, "eval"), (2, "eval")]
    assert lines[1]["Loss/regularization_loss"] == lines[2]["Loss/regularization_loss"]
    assert "DetectionBoxes_Precision/mAP" in lines[1]
    found = read_summaries(tmp_path / "train")
    statistics = {name for name in found if name.startswith(("Matching/", "Proposals/"))}
    assert {"Matching/RPN/positives", "Matching/BoxHead/negatives", "Proposals/recall@0.5IOU"} <= statistics
    assert statistics <= lines[0].keys()
    assert 0 <= found["Proposals/recall@0.5IOU"][1] <= 1
    assert b"batch_size: 2" in found["config"][1]
    assert b"    tensorflow 2." in found["versions"][1]


@pytest.mark.usefixtures("tiny_resnet18")
def test_a_loss_that_is_not_finite_names_the_records_of_its_batch(config, untraced, shapes_data, tmp_path):
    set_rate(config, 1e8)
    config.train_config.gradient_clipping_by_norm = 0
    with untraced(), pytest.raises(TrainingError) as caught:
        train_job.train(config, model_dir=str(tmp_path), num_steps=20, metrics_log=None)
    message = str(caught.value)
    step = int(re.match(r"Step (\d+): (Loss|gradient_norm)", message)[1])
    record = r"\S+\.tfrecord\S*, record \d \(source_id \d+\)"
    assert re.search(
        rf"Its batch: {record}; {record}\. The batch is in {tmp_path}/nonfinite_batch_{step}\.npz\.", message
    )
    with np.load(tmp_path / f"nonfinite_batch_{step}.npz") as batch:
        assert batch["images"].shape == (2, 64, 64, 3)
        assert all(name in message for name in batch["records"].tolist())
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        (
            {"keep_best": "Loss/total_loss"},
            "keep_best = Loss/total_loss compares evaluations, and there are none. Evaluate",
        ),
        ({"early_stopping_patience": 2}, "early_stopping_patience = 2 compares evaluations, and there are none."),
        ({"early_stopping_patience": 0}, "early_stopping_patience = 0 is not positive. Allowed: 1 and up."),
        ({"max_to_keep": -1}, "max_to_keep = -1 is negative. Allowed: 0 (keep all) and up."),
        ({"time_budget": 0.0}, "time_budget = 0 is not positive. Allowed: hours above 0"),
        ({"metrics_log": "xml"}, 'metrics_log = "xml" is unknown. Allowed: "json", "csv", None.'),
        (
            {"summary_histograms": True, "summary_every_n": None},
            "summary_histograms needs TensorBoard's summaries, which are not written.",
        ),
    ],
)
def test_options_without_use_are_refused(config, tmp_path, options, words):
    with pytest.raises(SettingsError, match=re.escape(words)):
        train_job.train(config, model_dir=str(tmp_path / "run"), **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("tiny_resnet18")
def test_a_result_that_no_evaluation_gives_is_refused_before_the_first_step(small_overrides, tmp_path, capfd):
    command = ["train", "--config", RECIPE, "--model_dir", str(tmp_path / "run"), "--train_and_eval"]
    for override in small_overrides:
        command += ["--config_override", override]
    assert cli.main([*command, "--keep_best", "DetectionBoxes_Precision/mAP@.5IOU"]) == 2
    error = capfd.readouterr().err
    assert (
        'error: keep_best = "DetectionBoxes_Precision/mAP@.5IOU" is no result of an evaluation; the nearest is' in error
    )
    assert "DetectionBoxes_Precision/mAP@.50IOU" in error and "Loss/total_loss" in error
    assert not (tmp_path / "run").exists()
    assert cli.main([*command, "--time_budget", "nan"]) == 2
    assert "error: time_budget = nan is not positive." in capfd.readouterr().err


def test_flags_reach_the_job(small_overrides, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(train_job, "train", lambda config, **options: calls.append(options))
    command = ["train", "--config", RECIPE, "--model_dir", str(tmp_path), "--train_and_eval"]
    for override in small_overrides:
        command += ["--config_override", override]
    assert cli.main(command) == 0
    flags = (
        "--keep_best Loss/total_loss --early_stopping_patience 3 --max_to_keep 0 --time_budget 1.5 --metrics_log none"
    )
    assert cli.main([*command, *flags.split(), "--summary_histograms"]) == 0
    names = ("keep_best", "early_stopping_patience", "max_to_keep", "time_budget", "metrics_log", "summary_histograms")
    assert [[call[name] for name in names] for call in calls] == [
        [None, None, 7, None, "json", False],
        ["Loss/total_loss", 3, 0, 1.5, None, True],
    ]


def test_the_commit_is_that_of_the_repository_and_says_what_differs(tmp_path):
    assert provenance.git_commit(str(tmp_path)) is None

    def git(*arguments):
        identity = ["-c", "user.name=A", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    assert provenance.git_commit(str(tmp_path)) is None  # of no commit yet
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "First")
    commit = provenance.git_commit(str(tmp_path))
    assert re.fullmatch(rf"[0-9a-f]{{40}} of {tmp_path.resolve()}", commit)
    (tmp_path / "file").write_text("2")
    assert provenance.git_commit(str(tmp_path)) == f"{commit}, with changes that are not committed"


def test_the_config_is_shown_as_it_is(small_config):
    texts = provenance.describe_run(small_config)
    assert all(line.startswith("    ") for text in texts.values() for line in text.splitlines())
