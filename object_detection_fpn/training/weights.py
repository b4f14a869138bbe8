"""Variables of a model by path, and weights of any origin assigned to them.

Variables are named by their path in a checkpoint without prefix and suffix, `backbone/conv1/kernel`, in reports, in errors
and by `assign_weights`, which takes weights of any package.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras

from object_detection_fpn.training.stored import STEP, CheckpointError, StoredCheckpoint, resolve_checkpoint, some


class WeightsReport(NamedTuple):
    """Which of a model's variables were assigned weights, and which were not."""

    restored: list[str]
    """Paths of the variables that were given a value."""
    other_shape: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    """(path, shape in the model, shape of the weights) of those left alone because the shapes differ."""
    missing: list[str]
    """Paths of the variables left alone because no weights came for them."""
    unused: list[str]
    """Paths of weights that were assigned to no variable."""
    by_class: Sequence[str] = ()
    """Paths of the variables that were given the columns of some classes, see `training.classes`."""
    classes: str = ""
    """Which classes these are, in words."""

    def table(self, title: str) -> str:
        """A heading, then a line for each kind: how many, and some of them. Only the first is shown if empty."""
        shapes = [f"{path} {list(here)} <- {list(there)}" for path, here, there in self.other_shape]
        rows: list[tuple[str, Sequence[Any], list[str]]] = [
            ("restored", self.restored, []),
            ("restored in part", self.by_class, list(self.by_class)),
            ("left alone, other shape", self.other_shape, shapes),
            ("left alone, not there", self.missing, self.missing),
            ("there, not wanted", self.unused, self.unused),
        ]
        lines = [
            f"  {name:<24}{len(entries):>5}" + (f"  {some(examples)}" if examples else "")
            for name, entries, examples in rows
            if entries or name == "restored"
        ]
        return "\n".join([title, *lines, *([f"  {self.classes}"] if self.classes else [])])


class Restored(NamedTuple):
    """What a run resumes from."""

    path: str
    """The checkpoint."""
    step: int
    """Steps that had been done when it was saved."""


def variables_by_path(root: Any) -> dict[str, tf.Variable]:
    """The variables of a model (or any trackable object) by their path in a checkpoint of it.

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
            "(eval_config.use_moving_averages: false)."
        )
    assign_whole_model(model, weights, source=stored.path)
    return Restored(stored.path, int(stored.read(STEP)) if STEP in stored.shapes else 0)


def assign_whole_model(model: tf_keras.layers.Layer, weights: Mapping[str, Any], *, source: str) -> WeightsReport:
    """Assigns weights to every variable of a model; as `assign_weights`, but nothing may be missing.

    Raises:
        CheckpointError: if a variable has no weights, or some of another shape. No variable is changed then.
    """
    variables = variables_by_path(model)
    unfit = [
        f"{name} {list(variable.shape)}"
        for name, variable in variables.items()
        if name not in weights or tuple(variable.shape) != tuple(weights[name].shape)
    ]
    if unfit:
        raise CheckpointError(
            f"{source}: this checkpoint is of another model; it lacks {len(unfit)} of the model's "
            f"{len(variables)} variables: {some(unfit)}. Use the configuration it was trained with."
        )
    return assign_weights(model, weights, source=source)


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
            type ("classification", "detection", "full") means in these terms is the caller's decision.
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
    """Assigns weights to the variables of a model by path.

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
