"""The process in which a config is tried out: memory may run out there, and all of it is free again afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tensorflow as tf

from object_detection_fpn.tools.check import trial
from object_detection_fpn.tools.check.request import EVENTS, Emit, Request

_SECONDS_BETWEEN_LOOKS = 0.2


def run_trial(request: Request, on_event: Emit) -> None:
    """Runs `trial.run` in a process of its own.

    Where the system kills that for want of memory, there is a last event "out_of_memory"; after any other end, "crashed".

    Args:
        request: what is to be tried.
        on_event: called with each event, as it comes.
    """
    with tempfile.TemporaryDirectory(prefix="odfpn-check-") as name:
        folder = Path(name)
        request.save(folder)
        events = folder / EVENTS
        events.touch()
        process = subprocess.Popen([sys.executable, "-m", trial.__name__, name], env=_environment())
        try:
            with open(events) as file:
                rest = ""
                while process.poll() is None:
                    rest = _hand_on(rest + file.read(), on_event)
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
                _hand_on(rest + file.read(), on_event)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode == -signal.SIGKILL:
        on_event({"event": "out_of_memory"})
    elif process.returncode:
        on_event({"event": "crashed", "status": process.returncode})


def _hand_on(text: str, on_event: Emit) -> str:
    """Hands on the events that are whole; returns the beginning of the next one."""
    *lines, rest = text.split("\n")
    for line in lines:
        on_event(json.loads(line))
    return rest


def _environment() -> dict[str, str]:
    """This one's; where there is no GPU, without TensorFlow's lines about that."""
    environment = dict(os.environ)
    if environment.get("TF_CPP_MIN_LOG_LEVEL") == "2" and not tf.config.list_physical_devices("GPU"):
        environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
    return environment
