"""The copy of the best checkpoint: which one it is, and what it is compared by."""

from __future__ import annotations

import json

import pytest
import tensorflow as tf

from object_detection_fpn.training.best import BestCheckpoint
from object_detection_fpn.training.errors import WriteError
from object_detection_fpn.training.stored import CheckpointError
from object_detection_fpn.training.weights import restore_model


def test_best_checkpoint_is_kept_and_stays_the_one_to_beat(tmp_path, detector, fill, open_run):
    model, _, run = open_run(tmp_path, max_to_keep=1)
    best = BestCheckpoint(str(tmp_path), metric="mAP")
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
        "steps_without_improvement": [4, 5],
    }
    assert tf.train.latest_checkpoint(str(folder)) == str(folder / "ckpt-3")
    restored = detector()
    restore_model(str(folder), restored)
    assert restored.variables[0].numpy().flat[0] == 3.0

    resumed = BestCheckpoint(str(tmp_path), metric="mAP")
    assert resumed.value == 0.5
    assert (resumed.step, resumed.num_worse) == (3, 2)
    # Resumed from step 4, it evaluates step 5 once more.
    assert not resumed.offer(run.save(5), 5, {"mAP": 0.4})
    assert not resumed.offer(run.save(6), 6, {"mAP": 0.45})
    assert resumed.num_worse == 3
    assert resumed.offer(run.save(7), 7, {"mAP": 0.55})
    assert resumed.num_worse == 0
    assert "steps_without_improvement" not in json.loads((folder / "best.json").read_text())


def test_best_loss_is_the_lowest(tmp_path, open_run):
    _, _, run = open_run(tmp_path)
    best = BestCheckpoint(str(tmp_path), metric="loss", higher_is_better=False)
    assert [best.offer(run.save(step), step, {"loss": loss}) for step, loss in ((1, 2.0), (2, 3.0), (3, 1.0))] == [
        True,
        False,
        True,
    ]


def test_best_checkpoint_refuses_what_it_cannot_compare(tmp_path, open_run):
    _, _, run = open_run(tmp_path)
    best = BestCheckpoint(str(tmp_path), metric="mAP")
    with pytest.raises(CheckpointError, match=r'No metric is named "mAP"\. Allowed: AP50, AR'):
        best.offer(run.save(1), 1, {"AR": 0.1, "AP50": 0.2})
    best.offer(run.save(2), 2, {"mAP": 0.2})
    with pytest.raises(CheckpointError, match='chosen by "mAP", now "AP50" is to choose'):
        BestCheckpoint(str(tmp_path), metric="AP50")
    (tmp_path / "best" / "best.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"best\.json: not a record of a best checkpoint"):
        BestCheckpoint(str(tmp_path), metric="mAP")


@pytest.mark.parametrize("undefined", [float("nan"), -1.0])
def test_nothing_is_best_by_a_metric_without_groundtruth(tmp_path, open_run, undefined):
    _, _, run = open_run(tmp_path)
    best = BestCheckpoint(str(tmp_path), metric="mAP")
    lines = []
    assert not best.offer(run.save(1), 1, {"mAP": undefined}, say=lines.append)
    assert lines == [
        "Step 1: no best checkpoint is chosen, since mAP is undefined: the evaluation data have no groundtruth for it."
    ]
    assert not (tmp_path / "best").exists()
    assert best.offer(run.save(2), 2, {"mAP": 0.0}, say=pytest.fail)
    assert not best.offer(run.save(3), 3, {"mAP": undefined})
    assert best.value == 0


def test_a_best_checkpoint_that_was_chosen_without_groundtruth_is_replaced(tmp_path, open_run):
    _, _, run = open_run(tmp_path)
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "best.json").write_text('{"metric": "mAP", "value": -1.0}')
    best = BestCheckpoint(str(tmp_path), metric="mAP")
    assert best.value is None
    assert best.offer(run.save(1), 1, {"mAP": 0.0})


def test_metrics_beside_the_deciding_one_may_be_undefined(tmp_path, open_run):
    _, _, run = open_run(tmp_path)
    BestCheckpoint(str(tmp_path), metric="mAP").offer(run.save(1), 1, {"mAP": 0.5, "AP of dogs": float("nan")})
    text = (tmp_path / "best" / "best.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["metrics"] == {"AP of dogs": None, "mAP": 0.5}


def test_a_loss_of_minus_one_is_a_value(tmp_path, open_run):
    _, _, run = open_run(tmp_path)
    best = BestCheckpoint(str(tmp_path), metric="loss", higher_is_better=False)
    assert not best.offer(run.save(1), 1, {"loss": float("nan")})
    assert best.offer(run.save(2), 2, {"loss": -1.0})


def test_a_copy_that_cannot_be_written_is_an_error_of_one_line(tmp_path, open_run):
    _, _, run = open_run(tmp_path)
    best = BestCheckpoint(str(tmp_path), metric="mAP")
    path = run.save(1)
    (tmp_path / "best").write_text("a file in place of the folder")
    with pytest.raises(WriteError, match=rf"^The copy {tmp_path}/best/ckpt-1 of the best checkpoint cannot be written"):
        best.offer(path, 1, {"mAP": 0.5})
