"""Two workers in processes of their own train one model, stop together, and go on when one has been killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.config import pipeline as config
from object_detection_fpn.config import recipes
from object_detection_fpn.jobs import train as train_job
from object_detection_fpn.training.stored import latest_checkpoint

pytestmark = pytest.mark.no_cover  # nearly all of it runs in other processes, whose coverage nobody measures

TRAINING = Path(__file__).parent
SECONDS = 240.0  # for anything that takes some; machines may be busy

# Ends with the process that started it, even if that one is killed: nobody else holds the other end of the pipe.
PRELUDE = """
import importlib.util, json, os, sys, threading

threading.Thread(target=lambda: (os.read(0, 1), os._exit(9)), daemon=True).start()


def load(path):
    spec = importlib.util.spec_from_file_location("fixtures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""
FAKES = """
from object_detection_fpn.cli import main as cli


def act():
    from object_detection_fpn.jobs import strategies

    strategy = strategies.make_strategy(num_workers=2)
    fakes = load(sys.argv[1])
    training = fakes.Run(sys.argv[2], strategy=strategy)
    training.output = sys.stderr

    def tell(step, path):
        weights = [array.tolist() for array in training.model.get_weights()]
        print(json.dumps({"step": step, "path": path, "weights": weights}), flush=True)

    training.train(
        int(sys.argv[3]),
        dataset=fakes.make_dataset(value_of_step=lambda step: 1.0 + 0.1 * fakes.tf.cast(step % 7, fakes.tf.float32)),
        checkpoint_every_n=int(sys.argv[4]),
        summary_every_n=1,
        record_summaries=True,
        on_checkpoint=tell,
    )


sys.exit(cli.guarded(act))
"""
COMMAND = """
import pytest

from object_detection_fpn.cli import main as cli

load(sys.argv[1]).put_backbone(pytest.MonkeyPatch())
sys.exit(cli.main(sys.argv[2:]))
"""


class Worker:
    """A process, and the files its output goes to."""

    def __init__(self, index: int, addresses: list[str], arguments: list[str], folder: Path):
        self.index = index
        self.files = [folder / f"worker{index}.{name}" for name in ("out", "err")]
        tf_config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(tf_config), "CUDA_VISIBLE_DEVICES": ""}
        with self.files[0].open("w") as out, self.files[1].open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", *arguments], env=environment, stdin=subprocess.PIPE, stdout=out, stderr=err
            )

    @property
    def out(self) -> str:
        return self.files[0].read_text()

    @property
    def err(self) -> str:
        return self.files[1].read_text()

    def wait(self) -> int:
        return self.process.wait(SECONDS)


@pytest.fixture
def start(free_addresses, tmp_path):
    """Starts two workers of one cluster; none of them outlives the test."""
    workers: list[Worker] = []
    addresses = free_addresses(2)

    def start_two(program: str, *arguments: object) -> list[Worker]:
        folder = tmp_path / f"output{len(workers) // 2}"
        folder.mkdir()
        words = [PRELUDE + program, *map(str, arguments)]
        two = [Worker(index, addresses, words, folder) for index in range(2)]
        workers.extend(two)
        return two

    yield start_two
    for worker in workers:
        worker.process.kill()
        worker.process.wait()
        worker.process.stdin.close()


def wait_until(is_so: Callable[[], bool], workers: list[Worker]) -> None:
    end = time.monotonic() + SECONDS
    while not is_so():
        ended = [worker for worker in workers if worker.process.poll() is not None]
        assert not ended, "\n".join(worker.err[-3000:] for worker in ended)
        assert time.monotonic() < end, "\n".join(worker.err[-3000:] for worker in workers)
        time.sleep(0.05)


def saved_by(worker: Worker) -> list[dict]:
    """Step, path and weights of each checkpoint that the worker saved."""
    return [json.loads(line) for line in worker.out.splitlines() if line.startswith('{"step"')]


def test_workers_train_like_one_process_stop_together_and_go_on_after_one_was_killed(
    start, make_run, make_data, read_summaries, tmp_path
):
    model_dir = tmp_path / "run"
    arguments = [TRAINING / "conftest.py", model_dir]

    # A machine is to go down: all save at the same step.
    workers = start(FAKES, *arguments, 10**6, 20)
    wait_until((model_dir / "ckpt-40.index").exists, workers)
    workers[1].process.send_signal(signal.SIGTERM)
    assert [worker.wait() for worker in workers] == [143, 143], workers[0].err[-3000:] + workers[1].err[-3000:]
    newest = latest_checkpoint(str(model_dir))
    step = int(newest.rpartition("-")[2])
    ending = f"at step {step} of 1000000. The newest checkpoint is {newest}. The same command goes on from there.\n"
    assert workers[0].err.endswith(f"Stopped as another worker asked {ending}")
    assert workers[1].err.endswith(f"Stopped {ending}")
    assert "step 10/1000000" in workers[0].err
    assert "step 10/" not in workers[1].err  # the chief speaks for all

    # All have the same weights, and only the chief writes.
    chief, other = map(saved_by, workers)
    assert [saved["step"] for saved in (chief[0], other[0])] == [20, 20]
    assert chief[0]["path"] == str(model_dir / "ckpt-20")
    assert not any(str(model_dir) in saved["path"] or os.path.exists(f"{saved['path']}.index") for saved in other)
    for weights, value in zip(chief[0]["weights"], other[0]["weights"], strict=True):
        np.testing.assert_array_equal(value, weights)
    assert len(list((model_dir / "train").iterdir())) == 1

    # Until then, it was the training of one process.
    alone = make_run(tmp_path / "alone")
    data = make_data(value_of_step=lambda step: 1.0 + 0.1 * tf.cast(step % 7, tf.float32))
    alone.train(10, dataset=data, summary_every_n=1, record_summaries=True)
    found, expected = (read_summaries(folder / "train") for folder in (model_dir, tmp_path / "alone"))
    losses = [name for name in expected if name.startswith("Loss/")]
    assert len(losses) == 4
    for name in [*losses, "gradient_norm"]:
        assert sorted(expected[name]) == list(range(1, 11))
        assert {step: found[name][step] for step in expected[name]} == pytest.approx(expected[name], rel=1e-4), name

    # A machine is lost: the others say so and end.
    workers = start(FAKES, *arguments, 10**6, 20)
    wait_until(lambda: latest_checkpoint(str(model_dir)) != newest, workers)
    assert f"Resuming from {newest} at step {step}" in workers[0].err
    workers[1].process.kill()
    assert workers[0].wait() == 75, workers[0].err[-3000:]
    newest = latest_checkpoint(str(model_dir))
    *_, line = workers[0].err.splitlines()
    lost = r"error: Lost (worker 1 \(localhost:\d+\)|another worker): it has ended or cannot be reached\. "
    assert re.fullmatch(
        rf"{lost}The newest checkpoint is {newest}\. Start all workers again to go on from there\.", line
    )
    assert "Traceback" not in workers[0].err

    # What is left is whole: one process goes on from it.
    step = int(newest.rpartition("-")[2])
    alone = make_run(model_dir)
    assert alone.train(step + 3, dataset=data).step == step + 3
    assert f"Resuming from {newest} at step {step}" in alone.log


@pytest.mark.usefixtures("tiny_resnet18")
def test_the_command_trains_on_two_workers_like_one_process(
    start, small_overrides, two_cpus, untraced, read_summaries, root_dir, tmp_path
):
    overrides = [
        *small_overrides,
        # Which images a step sees is then up to neither chance nor the number of processes: each reads a file of its own,
        # one process takes turns between the two.
        "train_config.data_augmentation_options=[]",
        "train_input_reader.shuffle=false",
        "train_input_reader.num_readers=2",
        "train_input_reader.read_block_length=1",
        # Not Adam, which divides gradients by their size and so makes much of the rounding in small ones.
        "train_config.optimizer={momentum_optimizer {learning_rate {constant_learning_rate {learning_rate: 0.01}}}"
        " use_moving_average: false}",
    ]
    recipe = "faster_rcnn_resnet18_fpn_shapes_160x160"
    arguments = ["train", "--config", recipe, "--num_steps", 4, "--num_workers", 2, "--model_dir", tmp_path / "two"]
    for override in overrides:
        arguments += ["--config_override", override]
    workers = start(COMMAND, root_dir / "tests" / "support.py", *arguments)
    message = config.load_config(recipes.recipe_path(recipe), overrides, require_data=["train"])
    with untraced():
        train_job.train(message, model_dir=str(tmp_path / "one"), strategy=two_cpus, num_steps=4)
    assert [worker.wait() for worker in workers] == [0, 0], workers[0].err[-3000:] + workers[1].err[-3000:]
    found, expected = (read_summaries(tmp_path / name / "train") for name in ("two", "one"))
    losses = [name for name in expected if name.startswith("Loss/")]
    assert len(losses) >= 5
    for name in losses:
        assert sorted(found[name]) == [1, 4]
        assert found[name] == pytest.approx(expected[name], rel=1e-4), name
    assert found["Loss/total_loss"][1] != pytest.approx(found["Loss/total_loss"][4], rel=1e-3)
