"""Two workers in processes of their own train one model."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

WORKER = """
import importlib.util, json, sys

import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else of TensorFlow
spec = importlib.util.spec_from_file_location("fakes", sys.argv[1])
fakes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fakes)
run = fakes.Run(sys.argv[2], strategy=strategy)
paths = []
run.train(4, checkpoint_every_n=3, record_summaries=True, on_checkpoint=lambda step, path: paths.append(path))
weights = [array.tolist() for array in run.model.get_weights()]
print("RESULT " + json.dumps({"paths": paths, "log": run.log, "weights": weights}))
"""


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in sockets]


def test_workers_stay_alike_and_only_the_chief_writes(tmp_path):
    model_dir = tmp_path / "run"
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(Path(__file__).with_name("conftest.py")), str(model_dir)],
            env={
                **os.environ,
                "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    results = []
    try:
        for worker in workers:
            text, _ = worker.communicate(timeout=300)
            assert worker.returncode == 0, text[-3000:]
            results.append(json.loads(text.split("RESULT ")[1].splitlines()[0]))
    finally:
        for worker in workers:
            worker.kill()
    chief, other = results
    for expected, value in zip(chief["weights"], other["weights"], strict=True):
        np.testing.assert_array_equal(value, expected)
    assert chief["paths"] == [str(model_dir / "ckpt-3"), str(model_dir / "ckpt-4")]
    assert not any(str(model_dir) in path or os.path.exists(f"{path}.index") for path in other["paths"])
    assert "step 4/4" in chief["log"]
    assert other["log"] == ""
    assert len(list((model_dir / "train").iterdir())) == 1
    assert {file.name for file in model_dir.glob("*.index")} == {"ckpt-3.index", "ckpt-4.index"}
