"""The plot of a learning rate."""

from __future__ import annotations

import pytest

from object_detection_fpn.tools.check import schedule


def test_a_ramp_is_drawn_as_one():
    found = schedule.sample(lambda step: step / 71, 72)
    lines = schedule.plot(found)
    assert found.highest == (1.0, 71)
    assert len(lines) == 8
    bars = [line.partition("│")[2] for line in lines[:6]]
    assert [len(bar.strip()) for bar in bars] == sorted(len(bar.strip()) for bar in bars)
    assert bars[0].endswith("█")
    assert bars[-1][0] == " "
    assert lines[0].startswith("1 │")
    assert lines[-1].endswith("72")


@pytest.mark.parametrize("num_steps", [1, 2, 25_000])
def test_any_number_of_steps_is_sampled_from_first_to_last(num_steps):
    found = schedule.sample(lambda _: 0.1, num_steps)
    assert (found.steps[0], found.steps[-1]) == (0, num_steps - 1)
    assert not found.is_zero
    assert all(len(line) <= 80 for line in schedule.plot(found))


def test_a_rate_of_zero_has_no_plot():
    found = schedule.sample(lambda _: 0.0, 100)
    assert found.is_zero
    assert schedule.plot(found) == []


def test_the_least_rate_is_seen():
    found = schedule.sample(lambda step: 1.0 if step < 36 else 1e-5, 72)
    assert schedule.plot(found)[5].endswith("▁")
