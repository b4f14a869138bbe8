"""The metrics log: what its lines hold, and what a resumed run does with them."""

from __future__ import annotations

import csv
import json

import pytest

from object_detection_fpn.training import loop
from object_detection_fpn.training.errors import SettingsError, WriteError
from object_detection_fpn.training.metrics_log import MetricsLog

EAGER = pytest.mark.usefixtures("eager")


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_step_kind_time_and_values(tmp_path):
    log = MetricsLog(str(tmp_path), "json", first_step=0)
    assert not list(tmp_path.iterdir())
    log.write("train", 10, {"loss": 1.5, "recall": float("nan"), "norm": float("inf")})
    log.write("eval", 10, {"mAP": 0.25})
    train, evaluation = lines_of(tmp_path / "metrics.jsonl")
    assert train.pop("time") > 1.7e9
    assert train == {"step": 10, "kind": "train", "loss": 1.5, "recall": None, "norm": None}
    assert (evaluation["step"], evaluation["kind"], evaluation["mAP"]) == (10, "eval", 0.25)


def test_csv_has_a_row_for_each_value(tmp_path):
    for first_step in (0, 10):
        log = MetricsLog(str(tmp_path / "run"), "csv", first_step=first_step)
        log.write("train", first_step + 10, {"loss, total": 1.5, "recall": float("nan")})
        log.write("train", first_step + 20, {"loss, total": 1.25})
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        rows = [(row["step"], row["kind"], row["name"], row["value"]) for row in csv.DictReader(file)]
    assert rows == [
        ("10", "train", "loss, total", "1.5"),
        ("10", "train", "recall", ""),
        ("20", "train", "loss, total", "1.5"),
        ("20", "train", "recall", ""),
        ("30", "train", "loss, total", "1.25"),
    ]


def test_lines_beyond_the_resumed_step_and_cut_off_ones_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 5, "a": 1}\n# a remark\n{"step": 10, "a": 2}\n{"step": 15, "a": 3}\n{"step": 9, "a"')
    MetricsLog(str(tmp_path), "json", first_step=10).write("train", 12, {"a": 4.0})
    *kept, last = path.read_text().splitlines()
    assert kept == ['{"step": 5, "a": 1}', "# a remark", '{"step": 10, "a": 2}']
    assert json.loads(last)["step"] == 12


def test_a_log_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(WriteError, match=r"The metrics log .*metrics\.jsonl cannot be written"):
        MetricsLog(str(tmp_path), "json", first_step=0).write("train", 1, {})


@EAGER
def test_a_resumed_run_repeats_no_step(make_run, tmp_path):
    def judge(step, path):
        return loop.Verdict(metrics={"mAP": step / 10})

    options = {"metrics_log": "json", "summary_every_n": 2, "checkpoint_every_n": 4, "on_checkpoint": judge}
    make_run(tmp_path).train(7, **options)
    for file in tmp_path.glob("ckpt-7.*"):
        file.unlink()
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "ckpt-4"\n')
    make_run(tmp_path).train(9, **options)
    lines = lines_of(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["kind"]) for line in lines] == [
        (1, "train"), (2, "train"), (4, "train"), (4, "eval"),
        (5, "train"), (6, "train"), (8, "train"), (8, "eval"), (9, "train"), (9, "eval"),
    ]  # fmt: skip
    assert lines[3]["mAP"] == 0.4
    assert {"Loss/total_loss", "gradient_norm", "Proposals/recall", "learning_rate"} <= lines[1].keys()
    assert not (tmp_path / "train").exists()  # it needs no TensorBoard


@pytest.mark.parametrize("value", [0, -1])
def test_a_number_of_checkpoints_below_1_is_refused(make_run, tmp_path, value):
    with pytest.raises(SettingsError, match=rf"max_to_keep = {value} is not positive"):
        make_run(tmp_path).train(2, max_to_keep=value)
