"""Rows that are trainings: what their configs change, training and evaluation in a process, and errors that end with a line."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import _rows

_OF_CLASS = "DetectionBoxes_PerformanceByCategory/mAP/"
_RATE = "train_config.optimizer.adam_optimizer.learning_rate.cosine_decay_learning_rate"
_WARM_UP_STEPS = 50


def reading(label_map: str, train_records: str, eval_records: str) -> tuple[str, ...]:
    """Overrides of a config that say where the data are."""
    return tuple(
        f'{reader}.{field}="{value}"'
        for reader, records in (("train_input_reader", train_records), ("eval_input_reader[0]", eval_records))
        for field, value in (("label_map_path", label_map), ("tf_record_input_reader.input_path[0]", records))
    )


def number_of_steps(num_steps: int) -> tuple[str, ...]:
    """Overrides of a config with Adam and a cosine that say how long it trains."""
    return (
        f"train_config.num_steps={num_steps}",
        f"{_RATE}.total_steps={num_steps}",
        f"{_RATE}.warmup_steps={min(_WARM_UP_STEPS, num_steps // 4)}",
    )


class Trained(NamedTuple):
    """A model that was trained and evaluated."""

    metrics: dict[str, float]
    steps_per_second: float | None
    row: _rows.Row
    """What every row has: steps and minutes."""

    def box_metrics(self) -> _rows.Row:
        """`_rows.METRICS` and AP by class, in percent."""
        of_classes = {name: value for name, value in self.metrics.items() if name.startswith(_OF_CLASS)}
        return {
            **{name: _percent(self.metrics[key]) for name, key in _rows.METRICS.items()},
            "classes": {name.removeprefix(_OF_CLASS): _percent(value) for name, value in of_classes.items()},
        }


def _percent(value: float) -> float | None:
    return None if value == -1 else round(100 * value, 2)  # COCO's value for "no groundtruth of that size"


def train_and_evaluate(config_path: str, *, seed: int, model_dir: str, pictures: str, **settings: Any) -> Trained:
    """Trains and evaluates in this process; standard output is left to the row.

    Args:
        config_path: of a whole config.
        seed: of the training.
        model_dir: folder for it.
        pictures: drawn detections go to `<pictures>_0.png` and so on.
        settings: others of `jobs.train.train`.
    """
    from object_detection_fpn.config import pipeline
    from object_detection_fpn.jobs import evaluate as evaluate_job
    from object_detection_fpn.jobs import train as train_job

    config = pipeline.load_config(config_path, require_data=["train", "eval"])
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        result = train_job.train(config, model_dir=model_dir, seed=seed, **settings)
        trained = time.perf_counter()
        metrics = evaluate_job.evaluate(config, checkpoint=result.checkpoint, output_dir=model_dir)
    end = time.perf_counter()
    for tag, events in read_events(os.path.join(model_dir, "eval")).items():
        if tag.startswith("eval_side_by_side_"):
            number = tag.split("_")[-2]
            Path(f"{pictures}_{number}.png").write_bytes(events[-1][1][2])  # after width and height
    row = {
        "num_steps": config.train_config.num_steps,
        "train_minutes": round((trained - start) / 60, 2),
        "evaluation_minutes": round((end - trained) / 60, 2),
    }
    return Trained(metrics, result.steps_per_second, row)


def read_events(folder: str) -> dict[str, list[tuple[int, Any]]]:
    """What a folder of TensorBoard's holds: (step, array) of each tag."""
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(folder, size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag: [(event.step, tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def rows_or_exit(measure_rows: Callable[[], list[_rows.Row]]) -> list[_rows.Row]:
    """The rows; what is wrong with the data, a config or a row's process ends this one with a line that says so."""
    try:
        return measure_rows()
    except (ValueError, OSError) as error:  # of the data, or of a config
        raise SystemExit(f"error: {error}") from error
    except subprocess.CalledProcessError as error:  # which has said why
        raise SystemExit(f"error: a row could not be measured (exit status {error.returncode}).") from error
