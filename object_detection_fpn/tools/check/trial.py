"""Tries a config out: builds its detector, gives it its first weights, and takes steps on its real data.

It runs in a process of its own (`process.run_trial`), which memory may run out of, and which tells what it finds as it goes:
events, dicts that JSON can hold, with the key "event".
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import tensorflow as tf
from absl import logging

from object_detection_fpn.config import paths
from object_detection_fpn.config.pipeline import ConfigError
from object_detection_fpn.data import failures
from object_detection_fpn.tools.check import memory
from object_detection_fpn.tools.check.request import CHOOSE, EVENTS, Emit, Request
from object_detection_fpn.tools.check.steps import Trial
from object_detection_fpn.training.errors import TrainingError
from object_detection_fpn.training.stored import CheckpointError

_NUM_STEPS = 2  # of the config's batch
_REFUSALS = (ConfigError, CheckpointError, TrainingError, failures.DataError, FileNotFoundError)


def run(request: Request, emit: Emit) -> None:
    """Tries a config out; a refusal becomes the event "failed" and ends the trial."""
    try:
        trial = Trial(request, emit)
        if request.purpose == CHOOSE:
            _choose(trial, emit)
        else:
            _check(trial, request.config.train_config.batch_size, emit)
    except _REFUSALS as error:
        emit({"event": "failed", "message": str(error)})
    except tf.errors.ResourceExhaustedError:
        emit({"event": "out_of_memory"})
    except (tf.errors.OpError, OSError) as error:  # of a record or a file; others are faults of this package
        message = failures.error_message(error) if isinstance(error, tf.errors.InvalidArgumentError) else None
        if message is None and (reason := paths.explain(error)):
            message = f"{paths.name_file(error)} {reason}."
        if message is None:
            raise
        emit({"event": "failed", "message": message})


def _check(trial: Trial, batch_size: int, emit: Emit) -> None:
    trial.tell_schedule()
    trial.tell_model()
    trial.restore()
    before, fits = trial.bytes_now(), True
    if batch_size > trial.unit:
        trial.measure(trial.unit)
        trial.measure_second(before, most=batch_size)
        if len(trial.used) > 1 and trial.available_bytes is not None:
            expected = memory.predict(trial.used, batch_size)
            fits = expected <= trial.available_bytes
            emit({"event": "expected", "batch_size": batch_size, "bytes": expected, "fits": fits})
    if fits:
        trial.measure(batch_size, num_steps=_NUM_STEPS)
        if batch_size == trial.unit:
            trial.measure_second(before)
    _tell_largest(trial, emit)


def _tell_largest(trial: Trial, emit: Emit) -> int | None:
    """Tells what follows from the measured steps, and returns the batch to choose; None if nothing follows."""
    if trial.available_bytes is None or trial.usable_bytes is None or len(trial.used) < 2:
        return None
    num_replicas = trial.strategy.num_replicas_in_sync
    chosen = memory.choose(trial.used, trial.usable_bytes, unit=trial.unit, num_replicas=num_replicas)
    emit(
        {
            "event": "largest",
            "batch_size": memory.largest(trial.used, trial.available_bytes, unit=trial.unit),
            "chosen": chosen,
            "bytes_per_image": memory.bytes_per_image(trial.used),
        }
    )
    return chosen


def _choose(trial: Trial, emit: Emit) -> None:
    """Takes the batch that the small ones promise, and makes sure that its step fits."""
    trial.restore()
    before = trial.bytes_now()
    trial.measure(trial.unit)
    trial.measure_second(before)
    chosen = _tell_largest(trial, emit)
    limit = trial.usable_bytes
    if limit is None or not trial.used:
        return
    if chosen is None:  # there was no room for a second batch
        chosen = trial.unit if trial.used[0].num_bytes <= limit else 0
    while chosen and all(usage.batch_size != chosen for usage in trial.used):
        usage = trial.measure(chosen)
        assert usage is not None
        if usage.num_bytes <= limit:
            break
        chosen //= 2
    emit({"event": "chosen", "batch_size": chosen})


def main() -> None:
    """The process: reads the request in the folder that is named, and writes its events there."""
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)
    logging.set_stderrthreshold(logging.WARNING)
    folder = Path(sys.argv[1])
    with open(folder / EVENTS, "w") as file:
        try:
            run(Request.load(folder), lambda event: print(json.dumps(event), file=file, flush=True))
        except KeyboardInterrupt:  # which the process that started this one has, too, and answers
            sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
