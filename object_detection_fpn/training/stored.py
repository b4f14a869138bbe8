"""Checkpoints on disk: which one a path names, what it contains, and why it cannot be read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
"""Ends the key of every variable in an object-based checkpoint."""
STEP = "step" + VALUE
"""The key of the number of steps that had been done."""

# What TensorFlow's checkpoint reader raises for files that are missing, short or altered.
READ_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, IndexError)

_NUM_EXAMPLES = 5  # names in an error or report; enough to see the pattern


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or of another model. The message names the file and what to do."""


def resolve_checkpoint(path: str) -> str:
    """The checkpoint that a user's path names: itself, without `.index`, or the newest of a folder.

    Raises:
        CheckpointError: if there is none.
    """
    if tf.io.gfile.isdir(path):
        latest = latest_checkpoint(path)
        if latest is None:
            raise CheckpointError(f"{path}: no checkpoint in this folder. Allowed: a folder with ckpt-*.index files.")
        return latest
    prefix = re.sub(r"\.(index|data-\d+-of-\d+)$", "", path)
    if tf.io.gfile.exists(f"{prefix}.index"):
        return prefix
    neighbours = sorted(name.removesuffix(".index") for name in tf.io.gfile.glob(f"{os.path.dirname(prefix)}/*.index"))
    raise CheckpointError(f"{path}: no such checkpoint (no file {prefix}.index). In that folder: {some(neighbours)}.")


def latest_checkpoint(model_dir: str) -> str | None:
    """The newest checkpoint of a folder, or None.

    The file `checkpoint` decides; where it is absent (checkpoints that were copied by hand) or names files that are
    gone, the highest number does.
    """
    named = tf.train.latest_checkpoint(model_dir)
    if named is not None:
        return named
    numbered = {}
    for index in tf.io.gfile.glob(os.path.join(model_dir, "ckpt-*.index")):
        if match := re.fullmatch(r"ckpt-(\d+)\.index", os.path.basename(index)):
            numbered[int(match[1])] = index.removesuffix(".index")
    return numbered[max(numbered)] if numbered else None


class StoredCheckpoint:
    """The tensors of a checkpoint, read when they are asked for, and which of them are a model's variables.

    Args:
        path: the checkpoint, as `resolve_checkpoint` gives it.

    Attributes:
        path: the same.
        shapes: {key of a tensor: its shape}.
        keys: {path of a variable in our model: key of its value}. At first those of this package's own checkpoints, where
            `head/kernel` is stored as `model/head/kernel`; code for another package's checkpoints replaces them.

    Raises:
        CheckpointError: if it is damaged or data files are missing.
    """

    def __init__(self, path: str):
        self.path = path
        _check_data_files(path)
        try:
            self._reader = tf.train.load_checkpoint(path)
            self.shapes: dict[str, list[int]] = self._reader.get_variable_to_shape_map()
        except READ_ERRORS as error:
            raise damaged(path, error) from error
        self.keys: Mapping[str, str] = {
            key.removeprefix("model/").removesuffix(VALUE): key
            for key in self.shapes
            if key.startswith("model/") and key.endswith(VALUE) and "/.OPTIMIZER_SLOT/" not in key
        }

    @property
    def model_shapes(self) -> dict[str, tuple[int, ...]]:
        """{path of a variable in the model: its shape here}."""
        return {name: tuple(self.shapes[key]) for name, key in self.keys.items()}

    @property
    def has_averages(self) -> bool:
        """Whether moving averages of any of the model's variables were saved with it."""
        return any(slot_key(key, "average") in self.shapes for key in self.keys.values())

    def read(self, key: str) -> Any:
        """The value of a tensor: an array, or bytes for the record of the objects that were saved."""
        try:
            return self._reader.get_tensor(key)
        except READ_ERRORS as error:
            raise damaged(self.path, error) from error

    def array(self, key: str) -> StoredArray:
        """A tensor by its key, not read yet."""
        return StoredArray(self, key)

    def weights(self, *, use_averages: bool = False) -> dict[str, StoredArray]:
        """{path of a variable in the model: its value or, if wanted and there, its moving average}."""
        weights = {}
        for name, key in self.keys.items():
            average = slot_key(key, "average")
            weights[name] = self.array(average if use_averages and average in self.shapes else key)
        return weights


class StoredArray:
    """A tensor of a checkpoint, read when NumPy asks for it: so that only one is in memory at a time."""

    def __init__(self, stored: StoredCheckpoint, key: str):
        self._stored, self._key = stored, key
        self.shape = tuple(stored.shapes[key])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._stored.read(self._key), dtype=dtype)


def slot_key(key: str, slot: str) -> str:
    """The key of what the run's optimizer keeps with a variable, such as its momentum, from the variable's key."""
    return f"{key.removesuffix(VALUE)}/.OPTIMIZER_SLOT/optimizer/{slot}{VALUE}"


def damaged(path: str, error: Exception) -> CheckpointError:
    """The error to raise for what TensorFlow's reader says of a file."""
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return CheckpointError(
        f"{path}: this checkpoint cannot be read ({reason}). To go on from an earlier one, move away the files that "
        f"begin with {os.path.basename(path)} and the file `checkpoint` beside them."
    )


def some(names: Sequence[str]) -> str:
    """A few of the names, and how many there are."""
    if not names:
        return "nothing"
    more = f", ... ({len(names)} in all)" if len(names) > _NUM_EXAMPLES else ""
    return ", ".join(names[:_NUM_EXAMPLES]) + more


def _check_data_files(path: str) -> None:
    """Refuses a checkpoint of which not all data files were copied; TensorFlow notices when it has read half of it."""
    present: dict[int, set[int]] = {}  # by how many there ought to be
    for name in tf.io.gfile.glob(f"{path}.data-*-of-*"):
        if match := re.fullmatch(r".*\.data-(\d+)-of-(\d+)", name):
            present.setdefault(int(match[2]), set()).add(int(match[1]))
    if any(len(numbers) == total for total, numbers in present.items()):
        return
    name = os.path.basename(path)
    if not present:
        raise CheckpointError(
            f"{path}: this checkpoint has no data, only its index. Copy the files {name}.data-* beside it."
        )
    total = max(present)
    missing = [f"{name}.data-{i:05d}-of-{total:05d}" for i in range(total) if i not in present[total]]
    raise CheckpointError(
        f"{path}: {len(missing)} of the {total} data files of this checkpoint are missing: {some(missing)}. "
        f"Copy all files {name}.* from where it was written."
    )
