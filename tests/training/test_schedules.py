"""Learning-rate schedules against the Object Detection API's numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.training import schedules

# The schedules whose messages learning_rates.json quotes.
SCHEDULES = {
    "cosine": schedules.CosineDecayLearningRate(
        learning_rate_base=0.04, total_steps=25000, warmup_learning_rate=0.013333, warmup_steps=2000
    ),
    "manual": schedules.ManualStepLearningRate(
        initial_learning_rate=0.01, steps=[100, 900], learning_rates=[0.1, 0.01], warmup=True
    ),
    "exponential": schedules.ExponentialDecayLearningRate(
        initial_learning_rate=0.1,
        decay_steps=400,
        decay_factor=0.9,
        staircase=True,
        burnin_learning_rate=0.01,
        burnin_steps=50,
        min_learning_rate=0.001,
    ),
    "poly": schedules.ConstantLearningRate(learning_rate=0.003),
}


@pytest.fixture(scope="module")
def golden(golden_dir):
    return json.loads((golden_dir / "learning_rates.json").read_text())


def test_every_golden_schedule_is_checked(golden):
    assert set(golden) == set(SCHEDULES)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_reproduces_golden(golden, name, compiled):
    rate_at = tf.function(SCHEDULES[name], jit_compile=compiled, autograph=False)
    rates = [rate_at(tf.constant(step, tf.int64)) for step in golden[name]["steps"]]
    assert {rate.dtype for rate in rates} == {tf.float32}
    # 1e-9: the last step of the cosine is 0 there and half a float32 rounding of 1 here, if XLA rounds otherwise.
    np.testing.assert_allclose(rates, golden[name]["learning_rate"], rtol=1e-6, atol=4e-9 if compiled else 0.0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_survives_its_configuration(name):
    schedule = SCHEDULES[name]
    copy = type(schedule).from_config(schedule.get_config())
    assert [float(copy(step)) for step in (0, 70, 950)] == [float(schedule(step)) for step in (0, 70, 950)]


@pytest.mark.parametrize(
    "step, rate", [(0, 0.0), (5, 0.5), (10, 1.0), (15, 1.0), (20, 1.0), (30, 0.5), (40, 0.0), (41, 0.0)]
)
def test_cosine_holds_its_plateau(step, rate):
    schedule = schedules.CosineDecayLearningRate(
        learning_rate_base=1.0, total_steps=40, warmup_steps=10, hold_base_rate_steps=10
    )
    assert float(schedule(step)) == pytest.approx(rate, abs=1e-6)


def test_cosine_may_end_where_its_warmup_ends():
    schedule = schedules.CosineDecayLearningRate(learning_rate_base=1.0, total_steps=4, warmup_steps=4)
    assert [float(schedule(step)) for step in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 0.0]


@pytest.mark.parametrize("step, rate", [(0, 0.1), (9, 0.1), (10, 0.1), (20, 0.05), (25, 0.1 * 0.5**1.5), (60, 0.01)])
def test_exponential_burns_in_at_its_own_initial_rate_and_decays_smoothly(step, rate):
    schedule = schedules.ExponentialDecayLearningRate(
        initial_learning_rate=0.1,
        decay_steps=10,
        decay_factor=0.5,
        staircase=False,
        burnin_steps=10,
        min_learning_rate=0.01,
    )
    assert float(schedule(step)) == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize("warmup", [False, True])
def test_manual_steps_without_steps_are_constant(warmup):
    schedule = schedules.ManualStepLearningRate(initial_learning_rate=0.3, steps=[], learning_rates=[], warmup=warmup)
    assert [float(schedule(step)) for step in (0, 1, 1000)] == [pytest.approx(0.3)] * 3


@pytest.mark.parametrize("step, rate", [(0, 1.0), (4, 1.0), (5, 0.5), (8, 0.5), (9, 0.25)])
def test_manual_steps_jump_without_warmup(step, rate):
    schedule = schedules.ManualStepLearningRate(initial_learning_rate=1.0, steps=[5, 9], learning_rates=[0.5, 0.25])
    assert float(schedule(step)) == rate


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: schedules.CosineDecayLearningRate(learning_rate_base=0.1, total_steps=10, warmup_steps=11),
            "total_steps = 10 is below the sum of warmup_steps = 11",
        ),
        (
            lambda: schedules.CosineDecayLearningRate(
                learning_rate_base=0.1, total_steps=10, warmup_steps=2, warmup_learning_rate=0.2
            ),
            "warmup_learning_rate = 0.2 exceeds learning_rate_base = 0.1",
        ),
        (
            lambda: schedules.ManualStepLearningRate(
                initial_learning_rate=0.1, steps=[5, 5], learning_rates=[0.1, 0.1]
            ),
            r"steps = \[5, 5\] do not rise",
        ),
        (
            lambda: schedules.ManualStepLearningRate(initial_learning_rate=0.1, steps=[0], learning_rates=[0.1]),
            r"steps = \[0\] do not rise strictly from at least 1",
        ),
        (
            lambda: schedules.ManualStepLearningRate(initial_learning_rate=0.1, steps=[5], learning_rates=[]),
            "1 steps but 0 learning rates",
        ),
        (
            lambda: schedules.ExponentialDecayLearningRate(initial_learning_rate=0.1, decay_steps=0, decay_factor=0.9),
            "decay_steps = 0 is not positive",
        ),
    ],
)
def test_values_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
