"""The choice of strategy, and what its flags and TF_CONFIG may say."""

from __future__ import annotations

import json

import pytest
import tensorflow as tf

from object_detection_fpn.jobs import strategies


def test_one_device_is_the_default_strategy():
    assert strategies.make_strategy() is tf.distribute.get_strategy()


def test_several_workers_need_tf_config(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match="--num_workers = 2 needs the environment variable TF_CONFIG"):
        strategies.make_strategy(num_workers=2)


def test_tpu_and_several_workers_exclude_each_other():
    with pytest.raises(ValueError, match="--use_tpu and --num_workers = 4 exclude each other"):
        strategies.make_strategy(use_tpu=True, num_workers=4)


def test_tpu_flags_reach_the_library(monkeypatch):
    calls = []

    def fake(*arguments, **keywords):
        calls.append((arguments, keywords))
        return tf.distribute.get_strategy()

    monkeypatch.setattr(strategies.distribute_utils, "get_distribution_strategy", fake)
    strategies.make_strategy(use_tpu=True, tpu_name="my-tpu")
    assert calls == [(("tpu",), {"tpu_address": "my-tpu"})]


def test_tpu_that_is_not_there_is_said_in_one_line():
    with pytest.raises(ValueError, match=r"^--use_tpu: this machine has no TPU \(.+\)$"):
        strategies.make_strategy(use_tpu=True)


def test_tpu_that_cannot_be_reached_is_said_in_one_line(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("Name or service not known\nand more")

    monkeypatch.setattr(strategies.distribute_utils, "get_distribution_strategy", unreachable)
    with pytest.raises(ValueError) as caught:
        strategies.make_strategy(use_tpu=True, tpu_name="my-tpu")
    assert str(caught.value) == ("--use_tpu: --tpu_name = my-tpu names no TPU that answers (Name or service not known)")


def _cluster(index: int, kind: str = "worker") -> str:
    return json.dumps({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    "tf_config, num_workers, expected",
    [
        ("{not json", 2, "TF_CONFIG = {not json does not describe the workers. Allowed: "),
        ('{"cluster": {}}', 2, "does not describe the workers"),
        (_cluster(0), 3, "--num_workers = 3, but TF_CONFIG lists 2 workers"),
        (_cluster(2), 2, 'this process is number 2 of "worker", of which it lists 2 (counted from 0)'),
        (_cluster(0, "chief"), 2, 'this process is number 0 of "chief", of which it lists 0'),
        (_cluster(0, "evaluator"), 2, 'this process is a "evaluator". Allowed: chief, worker.'),
        (_cluster(0).replace("b:1", "b"), 2, 'TF_CONFIG lists the address "b". Allowed: HOST:PORT.'),
    ],
)
def test_tf_config_that_does_not_fit_is_refused(monkeypatch, tf_config, num_workers, expected):
    monkeypatch.setenv("TF_CONFIG", tf_config)
    with pytest.raises(ValueError) as caught:
        strategies.make_strategy(num_workers=num_workers)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_chief_comes_before_the_workers(monkeypatch):
    cluster = {"chief": ["a:1"], "worker": ["b:2", "c:3"]}
    seen, strategy = [], tf.distribute.get_strategy()
    monkeypatch.setattr(strategies.workers, "wait_for_workers", lambda *arguments, **_: seen.append(arguments))
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", lambda: strategy)
    for kind, index in (("chief", 0), ("worker", 0), ("worker", 1)):
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}}))
        assert strategies.make_strategy(num_workers=3) is strategy
    assert seen == [(["a:1", "b:2", "c:3"], own) for own in range(3)]


def test_workers_of_an_earlier_run_in_the_way_are_said_in_one_line(monkeypatch):
    def refused():
        raise tf.errors.AbortedError(None, None, "task 1 unexpectedly tried to connect\nand more")

    monkeypatch.setenv("TF_CONFIG", _cluster(0))
    monkeypatch.setattr(strategies.workers, "wait_for_workers", lambda *_, **__: None)
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", refused)
    with pytest.raises(
        TimeoutError, match=r"cannot be joined \(task 1 unexpectedly tried to connect\)\. Start all .*$"
    ):
        strategies.make_strategy(num_workers=2)
