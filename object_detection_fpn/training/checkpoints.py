"""Saving and resuming a training run, keeping the best checkpoint, and starting a model from other weights.

A checkpoint holds `step`, `model` and `optimizer`, like the Object Detection API's; `model_dir/ckpt-N` is the state
after N steps. Variables go by their path in it without decoration, `backbone/conv1/kernel`: that is what reports, errors
and `assign_weights`, the door for weights of other packages, speak of.
"""

from __future__ import annotations

import collections
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras

from object_detection_fpn.training.stored import (
    READ_ERRORS,
    VALUE,
    CheckpointError,
    StoredCheckpoint,
    damaged,
    latest_checkpoint,
    resolve_checkpoint,
    slot_key,
    some,
)

__all__ = [
    "BestCheckpoint",
    "CheckpointError",
    "Restored",
    "RunCheckpoints",
    "StoredCheckpoint",
    "WeightsReport",
    "assign_weights",
    "latest_checkpoint",
    "resolve_checkpoint",
    "restore_for_fine_tuning",
    "restore_model",
    "variables_by_path",
]

_STEP = "step" + VALUE
_LOSS_SCALE = "optimizer/loss_scale/current_loss_scale" + VALUE
_NUM_DIFFERENCES = 5  # shown of those between a model and a checkpoint of another one
_BEST_FILE = "best.json"
# What a checkpoint of the Object Detection API has in every model of Faster R-CNN, and none of ours has.
_API_ATTRIBUTE = "_feature_extractor_for_proposal_features/"


class WeightsReport(NamedTuple):
    """What became of a model's variables when weights were assigned to them."""

    restored: list[str]
    """Paths of the variables that were given a value."""
    other_shape: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    """(path, shape in the model, shape of the weights) of those left alone because the shapes differ."""
    missing: list[str]
    """Paths of the variables left alone because no weights came for them."""
    unused: list[str]
    """Paths of weights that no variable of the model wanted."""

    def table(self, title: str) -> str:
        """A heading, then a line for each of the four: how many, and some of them. Only the first is shown if empty."""
        shapes = [f"{path} {list(here)} <- {list(there)}" for path, here, there in self.other_shape]
        rows: list[tuple[str, Sequence[Any], list[str]]] = [
            ("restored", self.restored, []),
            ("left alone, other shape", self.other_shape, shapes),
            ("left alone, not there", self.missing, self.missing),
            ("there, not wanted", self.unused, self.unused),
        ]
        lines = [
            f"  {name:<24}{len(entries):>5}" + (f"  {some(examples)}" if examples else "")
            for name, entries, examples in rows
            if entries or name == "restored"
        ]
        return "\n".join([title, *lines])


class Restored(NamedTuple):
    """What a run resumes from."""

    path: str
    """The checkpoint."""
    step: int
    """Steps that had been done when it was saved."""


def variables_by_path(root: Any) -> dict[str, tf.Variable]:
    """The variables of a model (or any trackable object) by the path a checkpoint of it files them under.

    Where several paths lead to a variable, checkpoints take the shortest, and the first of the shortest; so does this.

    Returns:
        {path without leading object name and without suffix: variable}, in breadth-first order.
    """
    view = tf.train.TrackableView(root)
    found: dict[str, tf.Variable] = {}
    seen = {id(root)}
    to_visit = collections.deque([(root, "")])
    while to_visit:
        node, path = to_visit.popleft()
        for name, child in view.children(node).items():
            if id(child) in seen:
                continue
            seen.add(id(child))
            escaped = name.replace(".", "..").replace("/", ".S")  # as the checkpoint format spells names
            child_path = f"{path}/{escaped}" if path else escaped
            to_visit.append((child, child_path))
            if isinstance(child, tf.Variable):
                found[child_path] = child
    return found


class RunCheckpoints:
    """The checkpoints of one training run in its `model_dir`.

    Only the chief of a multi-worker run writes there. The others have to save as well, since saving gathers values from
    all workers, and do so in a temporary folder.

    Args:
        model_dir: folder of the run; made when the first checkpoint is saved.
        model: the model, built.
        optimizer: an `optimizers.AveragingOptimizer`, built on the variables to be trained.
        strategy: the `tf.distribute` strategy under which both were made.
        loss_scaler: wraps the optimizer and has a state of its own, which is saved with the optimizer's; None = none does.
        max_to_keep: checkpoints that are kept, the newest ones; None = all.
        keep_every_n_hours: a checkpoint is kept for good every so many hours; None = none is.
    """

    def __init__(
        self,
        model_dir: str,
        *,
        model: tf_keras.layers.Layer,
        optimizer: Any,
        strategy: tf.distribute.Strategy,
        loss_scaler: Any = None,
        max_to_keep: int | None = 7,
        keep_every_n_hours: float | None = None,
    ):
        self._model = model
        self._optimizer = optimizer
        self._strategy = strategy
        self._model_dir = model_dir
        self._max_to_keep = max_to_keep
        self._keep_every_n_hours = keep_every_n_hours
        self._manager: tf.train.CheckpointManager | None = None
        self._temporary: tempfile.TemporaryDirectory | None = None
        # One variable under two names: the run's step and the optimizer's count of updates cannot come apart.
        self.checkpoint = tf.train.Checkpoint(
            step=optimizer.iterations, model=model, optimizer=optimizer if loss_scaler is None else loss_scaler
        )
        self._has_loss_scale = loss_scaler is not None

    def restore_latest(self, say: Callable[[str], None]) -> Restored | None:
        """Brings model, optimizer and step to the state of the newest checkpoint, if there is one.

        State of the optimizer that the checkpoint lacks (of variables that were frozen, or of another kind of
        optimizer) starts afresh, which is said.

        Args:
            say: is given each line worth telling the user.

        Returns:
            What was restored, or None if `model_dir` has no checkpoint.

        Raises:
                CheckpointError: if the newest checkpoint is damaged or another model's. No file has been changed then.
        """
        path = latest_checkpoint(self._model_dir)
        if path is None:
            return None
        stored = StoredCheckpoint(path)
        self._check_same_model(stored)
        paths = {id(variable): name for name, variable in variables_by_path(self._model).items()}
        fresh = {
            slot: [
                variable
                for variable in self._optimizer.variables_trained
                if slot_key(stored.keys[paths[id(variable)]], slot) not in stored.shapes
            ]
            for slot in self._optimizer.get_slot_names()
        }
        try:
            with self._strategy.scope():
                status = self.checkpoint.restore(path)
        except READ_ERRORS as error:
            raise damaged(path, error) from error
        if any(fresh.values()) or (self._has_loss_scale and _LOSS_SCALE not in stored.shapes):
            status.expect_partial()  # checked above; TensorFlow's own check knows only all or nothing
        else:
            status.assert_existing_objects_matched()
        self._optimizer.start_averages(fresh.get("average", ()))
        step = int(self._optimizer.iterations.numpy())
        say(f"Resuming from {path} at step {step}: {len(paths)} variables of the model and the optimizer's state.")
        for slot, variables in fresh.items():
            if variables:
                names = some([paths[id(variable)] for variable in variables])
                say(f'  The checkpoint has no "{slot}" of {len(variables)} variables, theirs starts afresh: {names}')
        return Restored(path, step)

    def save(self, step: int) -> str:
        """Saves the present state as `model_dir/ckpt-<step>` and returns that path."""
        if self._manager is None:
            directory = self._model_dir
            if not self._strategy.extended.should_checkpoint:
                self._temporary = tempfile.TemporaryDirectory(prefix="odfpn-worker-")
                directory = self._temporary.name
            self._manager = tf.train.CheckpointManager(
                self.checkpoint,
                directory,
                max_to_keep=self._max_to_keep,
                keep_checkpoint_every_n_hours=self._keep_every_n_hours,
            )
        return self._manager.save(checkpoint_number=step)

    def _check_same_model(self, stored: StoredCheckpoint) -> None:
        if any(name.startswith(_API_ATTRIBUTE) for name in stored.keys):
            raise CheckpointError(
                f"{stored.path} was written by the Object Detection API, whose runs are not continued here: its optimizer "
                f'counts and saves otherwise. Train into an empty model_dir with fine_tune_checkpoint: "{stored.path}" and '
                'fine_tune_checkpoint_type: "full".'
            )
        here = {name: tuple(variable.shape) for name, variable in variables_by_path(self._model).items()}
        there = stored.model_shapes
        differences = [
            f"{name}: {list(shape)} in this model, {list(there[name])} there"
            for name, shape in here.items()
            if name in there and shape != there[name]
        ]
        differences += [
            f"{name}: {list(shape)} in this model, absent there" for name, shape in here.items() if name not in there
        ]
        differences += [
            f"{name}: {list(shape)} there, absent in this model" for name, shape in there.items() if name not in here
        ]
        if _STEP not in stored.shapes:
            differences.append("step: absent there")
        if differences:
            listing = "".join(f"\n  {line}" for line in differences[:_NUM_DIFFERENCES])
            more = (
                f"\n  ... and {len(differences) - _NUM_DIFFERENCES} more" if len(differences) > _NUM_DIFFERENCES else ""
            )
            raise CheckpointError(
                f"{stored.path}: this checkpoint is of another model ({len(differences)} of "
                f"{len(here.keys() | there.keys())} variables differ).{listing}{more}\n"
                "Nothing was changed. Either train into an empty model_dir, or restore the configuration this run was "
                "started with; to start from those weights, name the checkpoint as fine_tune_checkpoint of a new run."
            )


class BestCheckpoint:
    """Keeps a copy of the checkpoint that did best on the evaluation data, in `model_dir/best` with its `best.json`.

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
        if tf.io.gfile.exists(self._file):
            with tf.io.gfile.GFile(self._file) as stream:
                text = stream.read()
            try:
                record = json.loads(text)
                known_metric, self.value = record["metric"], float(record["value"])
            except (ValueError, KeyError, TypeError) as error:
                raise CheckpointError(
                    f"{self._file}: not a record of a best checkpoint ({error}). Move it away to start anew."
                ) from error
            if known_metric != metric:
                raise CheckpointError(
                    f'{self._file}: this checkpoint was chosen by "{known_metric}", now "{metric}" is to choose. '
                    "Move the folder away, or choose by the same metric."
                )

    def offer(self, path: str, step: int, metrics: Mapping[str, float]) -> bool:
        """Copies a checkpoint if its metric is better than the best so far.

        Args:
            path: the checkpoint that was evaluated.
            step: its step.
            metrics: {name: value} of its evaluation; NaN is never better.

        Returns:
            Whether it is the new best.

        Raises:
            CheckpointError: if the deciding metric is not among `metrics`.
        """
        if self._metric not in metrics:
            raise CheckpointError(f'No metric is named "{self._metric}". Allowed: {", ".join(sorted(metrics))}.')
        value = float(metrics[self._metric])
        if np.isnan(value):
            return False
        if self.value is not None and (value <= self.value if self._higher_is_better else value >= self.value):
            return False
        tf.io.gfile.makedirs(self._directory)
        former = set(tf.io.gfile.glob(os.path.join(self._directory, "ckpt-*")))
        name = os.path.basename(path)
        # The data first, then the records that point at it, and the former best last: whenever the process ends, the
        # records name files that are whole.
        for source in sorted(tf.io.gfile.glob(f"{path}.data-*")) + [f"{path}.index"]:
            target = os.path.join(self._directory, os.path.basename(source))
            tf.io.gfile.copy(source, target, overwrite=True)
            former.discard(target)
        record = {
            "metric": self._metric,
            "value": value,
            "step": step,
            "checkpoint": name,
            "metrics": {key: float(metrics[key]) for key in sorted(metrics)},
        }
        _write_whole(self._file, json.dumps(record, indent=2) + "\n")
        state = f'model_checkpoint_path: "{name}"\nall_model_checkpoint_paths: "{name}"\n'
        _write_whole(os.path.join(self._directory, "checkpoint"), state)  # what `tf.train.latest_checkpoint` reads
        for file in former:
            tf.io.gfile.remove(file)
        self.value = value
        return True


def restore_model(
    source: str | StoredCheckpoint, model: tf_keras.layers.Layer, *, use_averages: bool = False
) -> Restored:
    """Gives a model all the weights of one of its checkpoints, to evaluate or export it; no optimizer is needed.

    Args:
        source: the checkpoint, by its path or opened, or a folder, which means its newest.
        model: the model, built.
        use_averages: whether the trained variables get their moving averages instead of their last values.

    Returns:
        Which checkpoint it was, and its step (0 where it has none).

    Raises:
        CheckpointError: if the checkpoint is missing, damaged, another model's, or has no averages but they are wanted.
    """
    stored = StoredCheckpoint(resolve_checkpoint(source)) if isinstance(source, str) else source
    weights = stored.weights(use_averages=use_averages)
    if use_averages and not stored.has_averages:
        raise CheckpointError(
            f"{stored.path}: no moving averages in this checkpoint. It was trained without; use its own weights "
            "(use_moving_averages: false)."
        )
    variables = variables_by_path(model)
    unfit = [
        f"{name} {list(variable.shape)}"
        for name, variable in variables.items()
        if name not in weights or tuple(variable.shape) != weights[name].shape
    ]
    if unfit:
        raise CheckpointError(
            f"{stored.path}: this checkpoint is of another model; it lacks {len(unfit)} of the model's "
            f"{len(variables)} variables: {some(unfit)}. Use the configuration it was trained with."
        )
    assign_weights(model, weights, source=stored.path)
    return Restored(stored.path, int(stored.read(_STEP)) if _STEP in stored.shapes else 0)


def restore_for_fine_tuning(
    source: str | StoredCheckpoint,
    model: tf_keras.layers.Layer,
    *,
    parts: Sequence[str] | None = None,
    use_averages: bool = False,
) -> WeightsReport:
    """Gives a model those weights of a checkpoint that fit it.

    Args:
        source: the checkpoint, by its path or opened, or a folder, which means its newest.
        model: the model, built.
        parts: paths whose variables are wanted, such as `["backbone", "fpn"]`; None = the whole model. What a fine-tune
            type ("classification", "detection", "full") means in these terms is for the caller to say.
        use_averages: whether to take moving averages where the checkpoint has them.

    Returns:
        What was restored and what was not; show its `table`.

    Raises:
        CheckpointError: if the checkpoint is missing, damaged, of another package, or nothing in it fits.
    """
    stored = StoredCheckpoint(resolve_checkpoint(source)) if isinstance(source, str) else source
    weights = stored.weights(use_averages=use_averages)
    if not weights:
        raise CheckpointError(f"{stored.path}: not a checkpoint of this package; none of its keys begins with model/.")
    return assign_weights(model, weights, parts=parts, source=stored.path)


def assign_weights(
    model: tf_keras.layers.Layer,
    weights: Mapping[str, Any],
    *,
    parts: Sequence[str] | None = None,
    source: str = "the weights",
) -> WeightsReport:
    """Gives variables of a model the values that are filed under their paths.

    Args:
        model: the model, built.
        weights: {path as in `variables_by_path`: array}; anything with a `shape` that `numpy.asarray` takes is an
            array. It is read only when it is assigned, one at a time.
        parts: paths whose variables are wanted; None = the whole model.
        source: name of the weights in errors.

    Returns:
        What was assigned and what was not.

    Raises:
        CheckpointError: if nothing fits, or one of `parts` is no part of the model.
    """
    variables = variables_by_path(model)
    wanted = set(variables)
    if parts is not None:
        wanted = set()
        for part in parts:
            inside = {name for name in variables if name == part or name.startswith(f"{part}/")}
            if not inside:
                tops = sorted({name.split("/")[0] for name in variables})
                raise CheckpointError(
                    f'"{part}" is no part of the model. Allowed: {", ".join(tops)} and what is in them.'
                )
            wanted |= inside
    report = WeightsReport([], [], [], [name for name in weights if name not in wanted])
    for name, variable in variables.items():
        if name not in wanted:
            continue
        if name not in weights:
            report.missing.append(name)
        elif tuple(weights[name].shape) != tuple(variable.shape):
            report.other_shape.append((name, tuple(variable.shape), tuple(weights[name].shape)))
        else:
            variable.assign(np.asarray(weights[name]))
            report.restored.append(name)
    if not report.restored:
        raise CheckpointError(report.table(f"{source}: nothing in it fits this model."))
    return report


def _write_whole(file: str, text: str) -> None:
    with tf.io.gfile.GFile(f"{file}.new", "w") as stream:
        stream.write(text)
    tf.io.gfile.rename(f"{file}.new", file, overwrite=True)
