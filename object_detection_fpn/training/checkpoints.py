"""The checkpoints of a training run: saving and resuming.

A checkpoint holds `step`, `model` and `optimizer`, like the Object Detection API's; `model_dir/ckpt-N` is the state
after N steps.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras

from object_detection_fpn.modeling.detectors import kinds
from object_detection_fpn.training import leftovers
from object_detection_fpn.training.errors import SettingsError, WriteError, writing
from object_detection_fpn.training.stored import (
    READ_ERRORS,
    STEP,
    VALUE,
    CheckpointError,
    StoredCheckpoint,
    damaged,
    latest_checkpoint,
    slot_key,
    some,
)
from object_detection_fpn.training.weights import Restored, variables_by_path

_LOSS_SCALE = "optimizer/loss_scale/current_loss_scale" + VALUE
_NUM_DIFFERENCES = 5  # shown of those between a model and a checkpoint of another one
# What a checkpoint of the Object Detection API has in every Faster R-CNN, or in every RetinaNet, and none of ours has.
_API_ATTRIBUTES = ("_feature_extractor_for_proposal_features/", "_box_predictor/")


def check_model_dir(model_dir: str) -> None:
    """Refuses a folder that no checkpoint can be written to, before any work is done.

    Args:
        model_dir: folder of the run; need not exist. Permissions are looked at on this machine's disks only.

    Raises:
        SettingsError: if it is empty, a file, below a file, or may not be written to.
    """
    if not model_dir:
        raise SettingsError("model_dir is empty. Allowed: the path of a folder, which is made if it does not exist.")
    if "://" in model_dir:
        return
    place = os.path.abspath(model_dir)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    which = "it" if place == os.path.abspath(model_dir) else place
    if not os.path.isdir(place):
        raise SettingsError(f"model_dir = {model_dir}: {which} is a file. Allowed: a folder, which may be new.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise SettingsError(
            f"model_dir = {model_dir}: this user may not write to {which}. Change its permissions, or name another folder."
        )


class RunCheckpoints:
    """The checkpoints of one training run in its `model_dir`.

    Only the chief of a multi-worker run writes there. The others have to save as well, since saving gathers values from
    all workers, and do so in a temporary folder.

    A save that was killed leaves parts of a checkpoint, which the chief removes when it starts and before it saves
    (`training.leftovers`). For that it claims the folder until `close`.

    Args:
        model_dir: folder of the run; made when the first checkpoint is saved.
        model: the model, built.
        optimizer: an `AveragingOptimizer`, built on the variables to be trained.
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
        self._claim = leftovers.FolderClaim(model_dir)
        # One variable under two names: the run's step and the optimizer's count of updates cannot come apart.
        self.checkpoint = tf.train.Checkpoint(
            step=optimizer.iterations, model=model, optimizer=optimizer if loss_scaler is None else loss_scaler
        )
        self._has_loss_scale = loss_scaler is not None

    def restore_latest(self, say: Callable[[str], None]) -> Restored | None:
        """Brings model, optimizer and step to the state of the newest checkpoint, if there is one.

        State of the optimizer that the checkpoint lacks (of variables that were frozen, or of another kind of
        optimizer) is reinitialized and logged.

        Args:
            say: takes a line for the user.

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
                say(f'  The checkpoint has no "{slot}" of {len(variables)} variables; it is reinitialized: {names}')
        return Restored(path, step)

    def save(self, step: int) -> str:
        """Saves the present state as `model_dir/ckpt-<step>` and returns that path.

        Raises:
            WriteError: if it cannot be written.
        """
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
        self.remove_stale_saves()
        try:
            with writing(f"Checkpoint {os.path.join(self._manager.directory, f'ckpt-{step}')}"):
                return self._manager.save(checkpoint_number=step)
        except WriteError:
            leftovers.remove_failed_save(self._manager.directory, step)
            raise

    def remove_stale_saves(self) -> None:
        """Removes what killed saves left in `model_dir`: on the chief, and only what no other process may be writing."""
        if self._strategy.extended.should_checkpoint:
            leftovers.remove_leftovers(self._model_dir, is_claimed=self._claim.acquire())

    @property
    def has_other_writer(self) -> bool:
        """Whether another process trains into `model_dir`; known after `remove_stale_saves`."""
        return self._claim.is_taken

    def close(self) -> None:
        """Ends the claim on the folder."""
        self._claim.release()

    def _check_same_model(self, stored: StoredCheckpoint) -> None:
        if any(name.startswith(_API_ATTRIBUTES) for name in stored.keys):
            raise CheckpointError(
                f"{stored.path} was written by the Object Detection API, whose runs are not continued here: its optimizer "
                f'counts and saves otherwise. Train into an empty model_dir with fine_tune_checkpoint: "{stored.path}" and '
                'fine_tune_checkpoint_type: "full".'
            )
        here = {name: tuple(variable.shape) for name, variable in variables_by_path(self._model).items()}
        there = stored.model_shapes
        found, wanted = kinds.find_kind(there), kinds.find_kind(here)
        if found is not None and wanted is not None and found != wanted:
            raise CheckpointError(
                f"{stored.path}: this checkpoint is of {found}, but the model is {wanted}. Nothing was changed. Train into an "
                "empty model_dir; to start from those weights, name the checkpoint as fine_tune_checkpoint of the new run."
            )
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
        if STEP not in stored.shapes:
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
