"""Runs that end before their last step, and neither by a fault nor by the user."""

from __future__ import annotations

import pytest
import tensorflow as tf

from object_detection_fpn.training import loop, workers
from object_detection_fpn.training.endings import EarlyStopping, TimeBudget
from object_detection_fpn.training.errors import SettingsError

EAGER = pytest.mark.usefixtures("eager")


@pytest.mark.parametrize("hours", [0.0, -1.0, float("nan")])
def test_a_budget_that_is_not_positive_is_refused(hours):
    with pytest.raises(SettingsError, match=r"time_budget = .* is not positive\. Allowed: hours above 0"):
        TimeBudget(hours)


def test_a_budget_begins_where_it_is_made():
    now = [1000.0]
    budget = TimeBudget(0.5, clock=lambda: now[0])
    assert str(budget) == "30 min 00 s"
    assert not budget.is_over
    now[0] += 1799.0
    assert not budget.is_over
    now[0] += 1.0
    assert budget.is_over


@EAGER
def test_a_run_whose_time_is_over_ends_with_a_checkpoint_and_goes_on_later(make_run, tmp_path):
    now = [0.0]

    def draw(batch):  # at step 1
        now[0] += 3600.0
        return tf.cast(batch.inputs.images, tf.uint8)

    budget = TimeBudget(1.0, clock=lambda: now[0])
    options = {"record_summaries": True, "draw_batch": draw}
    run = make_run(tmp_path)
    result = run.train(9, **options, surroundings=loop.Surroundings(time_budget=budget))
    assert (result.step, result.checkpoint) == (1, str(tmp_path / "ckpt-1"))
    assert result.ending == "the time budget of 1 h 00 min is used up"
    assert f"Ended at step 1 of 9: {result.ending}. The newest checkpoint is {tmp_path}/ckpt-1. The same" in run.log
    # The rates are those of a run without a budget.
    resumed = make_run(tmp_path)
    rates = [resumed.optimizer.learning_rate_at(step) for step in range(9)]
    assert resumed.train(9).ending is None
    assert rates == [run.optimizer.learning_rate_at(step) for step in range(9)]


@EAGER
def test_a_time_budget_that_is_over_at_the_last_step_changes_nothing(make_run, tmp_path):
    now = [0.0]

    def tick(step, path):
        now[0] = 1e9

    result = make_run(tmp_path).train(
        2,
        on_checkpoint=tick,
        surroundings=loop.Surroundings(time_budget=TimeBudget(1.0, clock=lambda: now[0])),
    )
    assert (result.step, result.ending) == (2, None)


@EAGER
def test_a_verdict_on_a_checkpoint_ends_the_run(make_run, tmp_path):
    run, seen = make_run(tmp_path), []

    def judge(step, path):
        seen.append(step)
        return loop.Verdict(ending="it learns nothing more" if step == 4 else None)

    result = run.train(9, checkpoint_every_n=2, on_checkpoint=judge)
    assert seen == [2, 4]
    assert (result.step, result.ending) == (4, "it learns nothing more")
    assert f"Ended at step 4 of 9: it learns nothing more. The newest checkpoint is {tmp_path}/ckpt-4." in run.log


def test_the_patience_is_a_number_of_evaluations():
    stopping = EarlyStopping(2, metric="mAP")
    assert stopping.reason(1, 0.5, 10) is None
    assert stopping.reason(2, 0.5, 10) == "2 evaluations in a row without a better mAP than 0.5 of step 10"
    assert EarlyStopping(1, metric="loss").reason(1, None, None) == "1 evaluation without a finite loss"


def test_all_workers_end_by_the_clock_of_one(monkeypatch):
    agreement = workers.Agreement(tf.distribute.get_strategy())
    assert agreement.on_stop(workers.TIME_OVER) == workers.TIME_OVER
    # As between workers, of which one has none of the reasons and the other one its time used up.
    agreement._is_alone = False
    monkeypatch.setattr(agreement, "_mean", lambda values: values / 2)
    assert agreement.on_stop(workers.TIME_OVER) == workers.TIME_OVER
    assert agreement.on_stop(None) is None
    monkeypatch.setattr(agreement, "_mean", lambda values: (values + tf.constant([0.0, 1.0, 0.0])) / 2)
    assert agreement.on_stop(workers.TIME_OVER) == 15  # a signal goes first
