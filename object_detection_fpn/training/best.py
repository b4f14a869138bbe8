"""A copy of the checkpoint with the best metric on the evaluation data."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from object_detection_fpn.training.errors import writing
from object_detection_fpn.training.stored import CheckpointError

_BEST_FILE = "best.json"
_WORSE_STEPS = "steps_without_improvement"
_UNDEFINED = -1.0  # COCO's value of a metric that has no groundtruth to measure


class BestCheckpoint:
    """Keeps a copy of the checkpoint with the best metric on the evaluation data, in `model_dir/best` with its `best.json`.

    Args:
        model_dir: folder of the run. A best checkpoint that is already there stays the one to beat.
        metric: name of the metric that decides.
        higher_is_better: False for a loss.

    Raises:
        CheckpointError: if the `best.json` of an earlier run cannot be read or is about another metric.
    """

    def __init__(self, model_dir: str, *, metric: str, higher_is_better: bool = True):
        self._directory = os.path.join(model_dir, "best")
        self._file = os.path.join(self._directory, _BEST_FILE)
        self._metric = metric
        self._higher_is_better = higher_is_better
        self.value: float | None = None
        """The metric of the best checkpoint; None = there is none yet."""
        self.step: int | None = None
        """Its step."""
        self._record: dict[str, Any] = {}
        self._worse_steps: list[int] = []
        if tf.io.gfile.exists(self._file):
            with tf.io.gfile.GFile(self._file) as stream:
                text = stream.read()
            try:
                record = json.loads(text)
                known_metric, value, step = record["metric"], float(record["value"]), record.get("step")
                worse_steps = [int(worse) for worse in record.get(_WORSE_STEPS, [])]
            except (ValueError, KeyError, TypeError) as error:
                raise CheckpointError(
                    f"{self._file}: not a record of a best checkpoint ({error}). Move it away to start anew."
                ) from error
            if known_metric != metric:
                raise CheckpointError(
                    f'{self._file}: this checkpoint was chosen by "{known_metric}", now "{metric}" is to choose. '
                    "Move the folder away, or choose by the same metric."
                )
            if not (higher_is_better and value == _UNDEFINED):  # which earlier versions took for a value
                self.value, self.step, self._record, self._worse_steps = value, step, record, worse_steps

    @property
    def num_worse(self) -> int:
        """Evaluations since the best one, in this run and those that it goes on from."""
        return len(self._worse_steps)

    def offer(
        self, path: str, step: int, metrics: Mapping[str, float], *, say: Callable[[str], None] = lambda line: None
    ) -> bool:
        """Copies a checkpoint if its metric is better than the best so far.

        Args:
            path: the checkpoint that was evaluated.
            step: its step.
            metrics: {name: value} of its evaluation. A metric without groundtruth is undefined, NaN or COCO's -1: then no
                checkpoint is chosen. A loss that is NaN is never better.
            say: is given the reason if the metric is undefined.

        Returns:
            Whether it is the new best.

        Raises:
            CheckpointError: if the deciding metric is not among `metrics`.
            WriteError: if the copy cannot be written.
        """
        if self._metric not in metrics:
            raise CheckpointError(f'No metric is named "{self._metric}". Allowed: {", ".join(sorted(metrics))}.')
        value = float(metrics[self._metric])
        if self._higher_is_better and (math.isnan(value) or value == _UNDEFINED):
            say(
                f"Step {step}: no best checkpoint is chosen, since {self._metric} is undefined: the evaluation data have no "
                "groundtruth for it."
            )
            return False
        is_worse = self.value is not None and (value <= self.value if self._higher_is_better else value >= self.value)
        if math.isnan(value) or is_worse:
            self._note_worse(step)
            return False
        with writing(f"The copy {os.path.join(self._directory, os.path.basename(path))} of the best checkpoint"):
            self._copy(path, step, metrics, value)
        self.value, self.step, self._worse_steps = value, step, []
        return True

    def _note_worse(self, step: int) -> None:
        """On disk too, so that a resumed run goes on counting; steps that are done anew count once."""
        self._worse_steps = [worse for worse in self._worse_steps if worse < step] + [step]
        if self._record:
            self._record[_WORSE_STEPS] = self._worse_steps
            with writing(self._file):
                _write_whole(self._file, json.dumps(self._record, indent=2) + "\n")

    def _copy(self, path: str, step: int, metrics: Mapping[str, float], value: float) -> None:
        tf.io.gfile.makedirs(self._directory)
        former = set(tf.io.gfile.glob(os.path.join(self._directory, "ckpt-*")))
        name = os.path.basename(path)
        # The data first, then the records that point at it, and the former best last: whenever the process ends, the
        # records name files that are whole.
        for source in sorted(tf.io.gfile.glob(f"{path}.data-*")) + [f"{path}.index"]:
            target = os.path.join(self._directory, os.path.basename(source))
            tf.io.gfile.copy(source, target, overwrite=True)
            former.discard(target)
        self._record = {
            "metric": self._metric,
            "value": value,
            "step": step,
            "checkpoint": name,
            "metrics": {key: _number(metrics[key]) for key in sorted(metrics)},
        }
        _write_whole(self._file, json.dumps(self._record, indent=2) + "\n")
        state = f'model_checkpoint_path: "{name}"\nall_model_checkpoint_paths: "{name}"\n'
        _write_whole(os.path.join(self._directory, "checkpoint"), state)  # what `tf.train.latest_checkpoint` reads
        for file in former:
            tf.io.gfile.remove(file)


def _number(value: float) -> float | None:
    """JSON has no NaN: an undefined metric or a diverged loss is null."""
    return float(value) if math.isfinite(value) else None


def _write_whole(file: str, text: str) -> None:
    with tf.io.gfile.GFile(f"{file}.new", "w") as stream:
        stream.write(text)
    tf.io.gfile.rename(f"{file}.new", file, overwrite=True)
