"""Evaluation of every checkpoint that appears."""

from __future__ import annotations

import io
import threading
import time

import pytest
import rich.console
import tensorflow as tf

from object_detection_fpn.evaluation.continuous import checkpoint_step, evaluate_continuously


@pytest.fixture
def checkpoint(tmp_path):
    """A function that writes a checkpoint of a step to `tmp_path`, as a training job does."""
    step = tf.Variable(0, dtype=tf.int64)
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(step=step), str(tmp_path), max_to_keep=None)

    def save(value):
        step.assign(value)
        return manager.save()

    return save


def screen():
    return rich.console.Console(file=io.StringIO(), width=200)


def test_step_is_read_from_the_checkpoint_not_its_name(checkpoint):
    path = checkpoint(500)
    assert path.endswith("ckpt-1")
    assert checkpoint_step(path) == 500


def test_an_exported_checkpoint_without_step_counts_as_the_first(tmp_path):
    path = tf.train.Checkpoint(weight=tf.Variable(1.0)).write(str(tmp_path / "ckpt"))
    assert checkpoint_step(path) == 0


def test_every_checkpoint_that_appears_is_evaluated_until_the_final_step(tmp_path, checkpoint):
    console, seen = screen(), []

    def evaluate_fn(path, step):
        seen.append((path.rsplit("-")[-1], step))
        if step < 300:
            checkpoint(step + 100)
        return {"AP": step / 1000}

    checkpoint(100)
    results = evaluate_continuously(
        checkpoint_dir=str(tmp_path), evaluate_fn=evaluate_fn, timeout=60, final_step=300, console=console
    )
    assert seen == [("1", 100), ("2", 200), ("3", 300)]
    assert results == {100: {"AP": 0.1}, 200: {"AP": 0.2}, 300: {"AP": 0.3}}
    assert console.file.getvalue().count(f"Waiting up to 60 s for a new checkpoint in {tmp_path} ...") == 3


def test_it_waits_for_a_folder_that_does_not_exist_yet(tmp_path):
    folder = tmp_path / "later"

    def train():
        time.sleep(0.5)
        tf.train.CheckpointManager(tf.train.Checkpoint(step=tf.Variable(5)), str(folder), max_to_keep=1).save()

    trainer = threading.Thread(target=train)
    trainer.start()
    results = evaluate_continuously(
        checkpoint_dir=str(folder), evaluate_fn=lambda path, step: {}, timeout=60, final_step=5, console=screen()
    )
    trainer.join()
    assert results == {5: {}}


def test_it_ends_after_the_timeout_and_says_so(tmp_path, checkpoint):
    console = screen()
    checkpoint(100)
    results = evaluate_continuously(
        checkpoint_dir=str(tmp_path), evaluate_fn=lambda path, step: {"AP": 0.5}, timeout=0.1, console=console
    )
    assert results == {100: {"AP": 0.5}}
    assert f"No new checkpoint in {tmp_path} within 0.1 s: evaluation ends." in console.file.getvalue()


def test_no_checkpoint_at_all_is_an_error(tmp_path):
    with pytest.raises(TimeoutError, match=r"No checkpoint to evaluate appeared in .* within 0\.1 s"):
        evaluate_continuously(checkpoint_dir=str(tmp_path), evaluate_fn=None, timeout=0.1, console=screen())


def test_an_error_of_an_evaluation_is_raised(tmp_path, checkpoint):
    checkpoint(100)

    def evaluate_fn(path, step):
        raise tf.errors.NotFoundError(None, None, "eval.record")

    with pytest.raises(tf.errors.NotFoundError, match=r"eval\.record"):
        evaluate_continuously(checkpoint_dir=str(tmp_path), evaluate_fn=evaluate_fn, timeout=5, console=screen())


def test_a_checkpoint_deleted_before_it_was_read_is_passed_over(tmp_path, checkpoint):
    console, seen = screen(), []

    def evaluate_fn(path, step):
        seen.append(step)
        if step == 100:
            for file in tmp_path.glob("ckpt-1.*"):
                file.unlink()
            checkpoint(200)
        tf.train.load_checkpoint(path)
        return {}

    first = checkpoint(100)
    results = evaluate_continuously(
        checkpoint_dir=str(tmp_path), evaluate_fn=evaluate_fn, timeout=60, final_step=200, console=console
    )
    assert (seen, results) == ([100, 200], {200: {}})
    assert f"{first} was deleted before it could be evaluated" in console.file.getvalue()
