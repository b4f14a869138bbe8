"""What a run writes to TensorBoard beside its losses."""

from __future__ import annotations

import math

import pytest

from object_detection_fpn.training import loop
from object_detection_fpn.training.errors import SettingsError
from object_detection_fpn.training.summaries import Means, Speed


def test_means_are_of_what_counts():
    means = Means()
    means.add({"loss": 3.0}, 2, {"recall": (1.0, 4.0), "nothing": (0.0, 0.0)})
    means.add({"loss": 9.0}, 4, {"recall": (2.0, 2.0), "nothing": (0.0, 0.0)})
    taken = means.take()
    assert taken["loss"] == 2.0
    assert taken["recall"] == 0.5
    assert math.isnan(taken["nothing"])
    assert means.take() == {}


def test_slow_steps_are_not_grouped():
    speed = Speed()
    assert speed.steps_within(5.0, most=100) == 100
    speed.add(1, 4.0)
    assert speed.steps_within(5.0, most=100) == 1
    fast = Speed()
    fast.add(10, 1.0)
    assert fast.steps_within(5.0, most=100) == 50
    assert fast.values(None) == {"steps_per_sec": pytest.approx(10.0)}


@pytest.mark.parametrize("on_two", [False, True])
@pytest.mark.no_cover
def test_texts_come_once_and_histograms_with_every_summary(make_run, read_summaries, tmp_path, two_cpus, on_two):
    run = make_run(tmp_path, strategy=two_cpus if on_two else None)
    run.train(
        4,
        record_summaries=True,
        summary_every_n=2,
        histograms=True,
        keep_gradients=True,
        variables=run.model.head.trainable_variables,
        surroundings=loop.Surroundings(texts={"config": "    batch_size: 4"}),
    )
    found = read_summaries(tmp_path / "train")
    assert found["config"] == {1: b"    batch_size: 4"}
    tags = {"weights/backbone/kernel", "weights/backbone/bias", "weights/head/kernel", "gradients/head/kernel"}
    assert {tag for tag in found if tag.startswith(("weights/", "gradients/"))} == tags
    for tag in tags:
        assert list(found[tag]) == [1, 2, 4]
    buckets = found["gradients/head/kernel"][4]  # rows of left edge, right edge, count
    assert buckets[:, 2].sum() == 5 * 4
    # All gradients are those of one variable, so their norm is known.
    norm = found["gradient_norm"][4]
    assert 0 < max(abs(buckets[0, 0]), abs(buckets[-1, 1])) <= 3 * norm


def test_histograms_without_gradients_are_refused(make_run, tmp_path):
    with pytest.raises(SettingsError, match="histograms = True needs keep_gradients and record_summaries"):
        make_run(tmp_path).train(2, histograms=True)


def test_measuring_changes_no_number(make_run, tmp_path):
    measured, plain = make_run(tmp_path / "a", noise=0.1), make_run(tmp_path / "b", noise=0.1)
    measured.train(4), plain.train(4, measure_statistics=False)
    for one, other in zip(measured.state(), plain.state(), strict=True):
        assert one.tobytes() == other.tobytes()
