"""In which order a trial takes its steps, which batch it chooses, and how the end of its process is told."""

from __future__ import annotations

import stat
import sys

import pytest

from object_detection_fpn.protos import pipeline_pb2
from object_detection_fpn.tools.check import process, trial
from object_detection_fpn.tools.check.findings import Findings
from object_detection_fpn.tools.check.memory import Usage
from object_detection_fpn.tools.check.request import CHOOSE, Request

MIB = 2**20


class FakeTrial:
    """A trial whose steps take what `bytes_of` says."""

    def __init__(self, available_bytes, bytes_of=lambda size: (300 + 100 * size) * MIB, *, unit=1, num_replicas=1):
        self.available_bytes, self.unit, self.used = available_bytes, unit, []
        self.strategy = type("Strategy", (), {"num_replicas_in_sync": num_replicas})
        self.usable_bytes = available_bytes and int(available_bytes * 0.85)
        self.measured = []
        self._bytes_of = bytes_of

    def tell_schedule(self): ...

    def tell_model(self): ...

    def restore(self): ...

    def bytes_now(self):
        return 200 * MIB

    def measure(self, batch_size, *, num_steps=1):
        self.measured.append(batch_size)
        self.used.append(Usage(batch_size, self._bytes_of(batch_size)))
        return self.used[-1]

    measure_second = trial.Trial.measure_second


def run(action, *arguments):
    events = []
    action(*arguments, events.append)
    return {event["event"]: event for event in events}


@pytest.mark.parametrize(
    "batch_size, unit, measured",
    [
        (8, 1, [1, 4, 8]),
        (3, 1, [1, 2, 3]),
        (2, 1, [1, 2]),
        (1, 1, [1, 4]),  # the second shows what an image takes
        (8, 8, [8, 32]),
        (16, 4, [4, 8, 16]),
    ],
)
def test_small_batches_come_before_that_of_the_config(batch_size, unit, measured):
    fake = FakeTrial(8000 * MIB, unit=unit)
    events = run(trial._check, fake, batch_size)
    assert fake.measured == measured
    assert events["largest"]["batch_size"] == 77 // unit * unit
    if len(measured) == 3:
        assert events["expected"] == {
            "event": "expected", "batch_size": batch_size, "bytes": (300 + 100 * batch_size) * MIB, "fits": True,
        }  # fmt: skip


def test_a_batch_that_does_not_fit_is_not_tried():
    fake = FakeTrial(2000 * MIB)
    events = run(trial._check, fake, 64)
    assert fake.measured == [1, 4]
    assert events["expected"]["fits"] is False
    assert events["largest"]["batch_size"] == 17


def test_second_batch_is_small_where_memory_is():
    fake = FakeTrial(650 * MIB)
    run(trial._check, fake, 64)
    assert fake.measured == [1, 2]


def test_where_memory_is_unknown_the_batch_is_tried():
    fake = FakeTrial(None)
    events = run(trial._check, fake, 64)
    assert fake.measured == [1, 64]
    assert "largest" not in events


@pytest.mark.parametrize(
    "available, measured, chosen",
    [(8000, [1, 4, 64], 64), (2000, [1, 4, 8], 8), (500, [1], 1), (450, [1], 0), (1000, [1, 4], 4)],
)
def test_the_chosen_batch_was_measured(available, measured, chosen):
    fake = FakeTrial(available * MIB)
    assert run(trial._choose, fake)["chosen"]["batch_size"] == chosen
    assert fake.measured == measured


def test_a_batch_that_takes_more_than_was_estimated_is_halved():
    fake = FakeTrial(4000 * MIB, lambda size: (300 + 100 * size + (8 if size > 4 else 0) * size * size) * MIB)
    assert run(trial._choose, fake)["chosen"]["batch_size"] == 8
    assert fake.measured == [1, 4, 16, 8]


@pytest.fixture
def run_script(tmp_path, monkeypatch):
    """Runs a shell script as the process of a trial; returns the findings."""

    def call(text):
        script = tmp_path / "python"
        script.write_text(f"#!/bin/sh\nfolder=$3\n{text}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(script))
        findings = Findings("my.config", 8)
        process.run_trial(Request(pipeline_pb2.TrainEvalPipelineConfig(), CHOOSE), findings.add)
        return findings

    return call


STEP = """echo '{"event": "stage", "what": "a step", "batch_size": 8}' >> $folder/events.jsonl"""


def test_a_process_that_the_system_kills_had_no_memory(run_script):
    findings = run_script(f"{STEP}\nkill -9 $$")
    assert findings.tried == 8
    assert findings.problems[0].startswith("A step of 8 images does not fit the memory. What helps: ")


def test_a_process_that_ends_otherwise_is_no_success(run_script):
    assert run_script("exit 3").problems == [
        "The process that tried the config out ended with exit status 3; what it printed says why."
    ]


def test_a_request_comes_back_from_its_folder(small_config, tmp_path):
    request = Request(small_config, CHOOSE, jit_compile=True, from_label_map="a.pbtxt", seed=3)
    request.save(tmp_path)
    assert Request.load(tmp_path) == request
