"""What is known of the first step whose losses or gradients are not finite: its batch, on the device and then on disk."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from object_detection_fpn.records import Batch
from object_detection_fpn.training.errors import TrainingError, WriteError, writing

RecordNames = Callable[[Sequence[int]], list[str]]
"""From `Batch.record_keys` to the names of the records."""

_LOSSES = "losses"
_MOST_NAMED = 16  # records that a message names; the file has all


class FailedReplica(NamedTuple):
    """What one replica computed in the step that failed."""

    losses: np.ndarray
    """[L] float32, its own losses, in the order of the step's."""
    arrays: Mapping[str, np.ndarray]
    """Fields of its batch by name; the first axis is that of the images."""


class NonFiniteError(TrainingError):
    """A step gave a loss or gradients that are not finite.

    Attributes:
        step: which one.
        loss_names: of `FailedReplica.losses`.
        is_of_losses: whether a loss is not finite, and not the gradients alone.
        replicas: those of this worker.
    """

    def __init__(
        self,
        message: str,
        *,
        step: int,
        loss_names: Sequence[str],
        is_of_losses: bool,
        replicas: Sequence[FailedReplica],
    ):
        super().__init__(message)
        self.step, self.loss_names, self.replicas = step, tuple(loss_names), list(replicas)
        self.is_of_losses = is_of_losses


class BatchKeeper:
    """Keeps the batch of a step that failed, within a compiled loop over steps.

    As strings in one variable: the shapes of a batch may differ from step to step and from replica to replica. Nothing is
    copied in a step that does not fail.

    Args:
        strategy: of the steps.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self._strategy = strategy
        self._serialized = tf.Variable(tf.constant([], tf.string), shape=[None], trainable=False)
        self._layout: list[dict[str, tf.DType]] = []  # of each replica; known once the step is traced

    def keep_if(self, is_failure: tf.Tensor, batch: Batch, losses: Any) -> None:
        """Keeps this batch if the step failed.

        Args:
            is_failure: scalar bool.
            batch: of each replica.
            losses: of each replica, [L] float32.
        """
        local = self._strategy.experimental_local_results
        of_replicas = [{_LOSSES: values} for values in local(losses)]
        for name, field in _fields(batch).items():
            for tensors, value in zip(of_replicas, local(field), strict=True):
                tensors[name] = value
        self._layout = [{name: tensor.dtype for name, tensor in tensors.items()} for tensors in of_replicas]

        def keep() -> tf.Tensor:
            flat = [tf.io.serialize_tensor(tensor) for tensors in of_replicas for tensor in tensors.values()]
            self._serialized.assign(tf.stack(flat))
            return tf.constant(True)

        tf.cond(is_failure, keep, lambda: tf.constant(False))

    def read(self) -> list[FailedReplica]:
        """What was kept; empty if nothing was."""
        serialized = iter(self._serialized.numpy().tolist())
        replicas = []
        for dtypes in self._layout:
            arrays = {}
            for (name, dtype), text in zip(dtypes.items(), serialized, strict=False):
                value = tf.io.parse_tensor(text, dtype)
                arrays[name] = (tf.cast(value, tf.float32) if dtype == tf.bfloat16 else value).numpy()
            if arrays:
                replicas.append(FailedReplica(arrays.pop(_LOSSES), arrays))
        return replicas


def _fields(batch: Batch) -> dict[str, Any]:
    """What is kept of a batch, by the names in the file."""
    groundtruth = batch.groundtruth
    fields = {
        "images": batch.inputs.images,
        "true_shapes": batch.inputs.true_shapes,
        "boxes": groundtruth.boxes,
        "classes": groundtruth.classes,
        "num_boxes": groundtruth.num_boxes,
        "weights": groundtruth.weights,
        "is_crowd": groundtruth.is_crowd,
        "record_keys": batch.record_keys,
    }
    return {name: field for name, field in fields.items() if field is not None}


def report_batch(
    error: NonFiniteError, model_dir: str, *, name_records: RecordNames | None, worker: int | None = None
) -> str:
    """Writes the batch of a step that failed to `model_dir`, and says which records it has.

    Args:
        error: of the step.
        model_dir: folder of the run.
        name_records: finds the records of the batch; None leaves them out.
        worker: number of this worker, 0 for the chief; each has batches of its own. None = there is one worker.
    """
    is_bad = [not np.isfinite(replica.losses).all() for replica in error.replicas]
    if not error.replicas:
        return ""
    if error.is_of_losses and not any(is_bad) and worker is not None:
        return "The losses of this worker are finite: another one has the batch, and names its records."
    if not any(is_bad):  # what all replicas have in common: the gradients, which are a sum, or a mean that overflows
        is_bad = [True] * len(is_bad)
    names: list[str] = []
    if name_records is not None and all("record_keys" in replica.arrays for replica in error.replicas):
        names = name_records([int(key) for replica in error.replicas for key in replica.arrays["record_keys"]])
    sizes = [len(replica.arrays["images"]) for replica in error.replicas]
    of_replica = np.repeat(np.arange(len(sizes)), sizes)
    faults = [(_fault(error, row), name) for row, name in enumerate(names) if is_bad[of_replica[row]]]
    named = [name + fault for fault, name in sorted(faults, key=lambda pair: not pair[0])]  # what is wrong comes first
    suffix = f"_worker_{worker}" if worker else ""
    path = os.path.join(model_dir, f"nonfinite_batch_{error.step}{suffix}.npz")
    parts = []
    if named:
        more = f"; and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
        parts.append(f"Its batch: {'; '.join(named[:_MOST_NAMED])}{more}.")
    try:
        _write(path, error, names)
        parts.append(f"The batch is in {path}.")
    except WriteError as failure:
        parts.append(str(failure))
    return " ".join(parts)


def _fault(error: NonFiniteError, row: int) -> str:
    """What can be seen to be wrong with an image of the batch, as the end of its name."""
    for replica in error.replicas:
        arrays = replica.arrays
        if row >= len(arrays["images"]):
            row -= len(arrays["images"])
            continue
        if not np.isfinite(arrays["images"][row]).all():
            return " [its image has values that are not finite]"
        if not np.isfinite(arrays["boxes"][row]).all():
            return " [its boxes are not finite]"
    return ""


def _write(path: str, error: NonFiniteError, names: Sequence[str]) -> None:
    arrays: dict[str, Any] = {
        name: _concatenate([replica.arrays[name] for replica in error.replicas]) for name in error.replicas[0].arrays
    }
    arrays |= {
        "step": np.int64(error.step),
        "loss_names": np.array(error.loss_names),
        _LOSSES: np.stack([replica.losses for replica in error.replicas]),
        "records": np.array(names),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    with writing(f"The batch {path}"):
        tf.io.gfile.makedirs(os.path.dirname(path))
        with tf.io.gfile.GFile(path, "wb") as file:
            file.write(buffer.getvalue())


def _concatenate(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Along the first axis; where images of replicas were padded to different sizes, with zeros behind the smaller ones."""
    sizes = np.max([part.shape[1:] for part in parts], axis=0)
    return np.concatenate(
        [
            np.pad(part, [(0, 0), *((0, int(size) - had) for size, had in zip(sizes, part.shape[1:], strict=True))])
            for part in parts
        ]
    )


def check_weights(variables: Sequence[tf.Variable], step: int) -> None:
    """Refuses to go on with weights that are not finite, which no checkpoint is to hold.

    Raises:
        TrainingError: if one is NaN or infinite. An update can overflow although losses and gradients are finite.
    """
    # On the host, where a checkpoint needs them anyway: a device would compile a program for every shape.
    bad = [v.name for v in variables if v.dtype.is_floating and not np.isfinite(v.numpy()).all()]
    if bad:
        raise TrainingError(
            f"After step {step}, {len(bad)} of {len(variables)} variables are not finite, first of all {bad[0]}; they are not "
            "saved. What usually helps: a lower learning rate or a longer warmup."
        )
