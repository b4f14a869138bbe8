"""The train step: losses and gradients of a batch on every replica, and one update of the weights.

`orbit` runs it: one `tf.function` with a loop of any number of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orbit
import tensorflow as tf
import tf_keras

from object_detection_fpn.modeling.detector import Detector, mean_losses
from object_detection_fpn.records import REGULARIZATION_LOSS, TOTAL_LOSS
from object_detection_fpn.training.averages import AveragingOptimizer
from object_detection_fpn.training.errors import TrainingError
from object_detection_fpn.training.guard import BatchKeeper, NonFiniteError
from object_detection_fpn.training.settings import StepSettings

GRADIENT_NORM = "gradient_norm"
_REMEDIES = (
    "What usually helps: a lower learning rate or a longer warmup, gradient_clipping_by_norm (10 is common), a look at the "
    "groundtruth boxes."
)
_LOSS_SCALE_REMEDY = "What helps: precision: BFLOAT16 or FLOAT32, whose range is that of the weights."
# Twice as many as the first loss scale, 2^15, can be halved.
_MOST_SKIPPED_IN_A_ROW = 30


class Trainer(orbit.StandardTrainer):
    """The train step, and what it tells the host.

    Args:
        dataset: distributed over the replicas.
        model: the detector.
        optimizer: built.
        variables: the variables to train.
        strategy: of all these.
        settings: how a step computes.
        loss_scaler: scales the loss and applies the gradients; None = the loss stays as it is.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        model: Detector,
        optimizer: AveragingOptimizer,
        variables: Sequence[tf.Variable],
        strategy: tf.distribute.Strategy,
        settings: StepSettings,
        loss_scaler: tf_keras.mixed_precision.LossScaleOptimizer | None = None,
    ):
        super().__init__(dataset)
        self._model = model
        self._optimizer = optimizer
        self._variables = variables
        self._strategy = strategy
        self._max_norm = settings.gradient_clipping_by_norm
        self._add_regularization_loss = settings.add_regularization_loss
        self._seed = settings.seed % 2**31
        self._num_parts = num_parts = settings.accumulate_gradients
        self._all_reduce_dtype = settings.all_reduce_dtype
        self._loss_scaler = loss_scaler
        self._differentiate = self._losses_and_gradients if num_parts == 1 else self._losses_and_gradients_in_parts
        if settings.jit_compile:
            self._differentiate = tf.function(self._differentiate, jit_compile=True, autograph=False)
        regularization = (REGULARIZATION_LOSS,) if settings.add_regularization_loss else ()
        self._names = (*model.loss_names, *regularization, TOTAL_LOSS, GRADIENT_NORM)
        self._statistic_names = model.statistic_names if settings.measure_statistics else ()
        self._num_values = len(self._names) + 2 * len(self._statistic_names)
        self._batch_size: int | None = None  # known once the step is traced
        self._sums = tf.Variable(tf.zeros([self._num_values]), trainable=False)
        self._failed_values = tf.Variable(tf.zeros([len(self._names)]), trainable=False)
        self._failed_step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._num_skipped = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._num_skipped_in_a_row = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._failed_batch = BatchKeeper(strategy)
        self._gradients: list[tf.Variable] = []
        if settings.keep_gradients:
            # Each replica assigns its own, all of the same sum, and the first one's is read.
            kinds = {
                "synchronization": tf.VariableSynchronization.ON_READ,
                "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA,
            }
            with strategy.scope():
                self._gradients = [tf.Variable(tf.zeros_like(v), trainable=False, **kinds) for v in variables]

    def run(self, num_steps: int) -> dict[str, float]:
        """Takes some steps and returns the sums over them of the losses, their total and the norm of the gradients.

        A skipped step has no norm; the mean of the others stands for it in the sum (NaN if there is no other).

        Raises:
            NonFiniteError: if one of these is not finite at some step that is not skipped, or too many steps in a row are
                skipped.
            TrainingError: if the data end.
        """
        try:
            # A tensor: a Python number would be traced anew for every value.
            self.train(tf.constant(num_steps, tf.int32))
        except tf.errors.OutOfRangeError as error:
            step = int(self._optimizer.iterations.numpy())
            raise TrainingError(
                f"The training data ended after step {step}; they have to repeat without end."
            ) from error
        failed_step = int(self._failed_step.numpy())
        if failed_step:
            values = dict(zip(self._names, self._failed_values.numpy().tolist(), strict=True))
            losses = self._names[:-1]
            raise NonFiniteError(
                f"Step {failed_step}: {_what_failed(values)} {self._remedies(values)}",
                step=failed_step,
                loss_names=losses,
                is_of_losses=not all(np.isfinite(values[name]) for name in losses),
                replicas=[
                    replica._replace(losses=replica.losses[: len(losses)]) for replica in self._failed_batch.read()
                ],
            )
        sums = dict(zip(self._names, self._sums.numpy().tolist(), strict=False))
        if self.num_skipped:
            num_good = num_steps - self.num_skipped
            sums[GRADIENT_NORM] = sums[GRADIENT_NORM] * num_steps / num_good if num_good else float("nan")
        return sums

    @property
    def statistics(self) -> dict[str, tuple[float, float]]:
        """Sums over the last call: of each statistic, and of what it counts for."""
        pairs = self._sums.numpy()[len(self._names) :].reshape(-1, 2).tolist()
        return {name: (value, count) for name, (value, count) in zip(self._statistic_names, pairs, strict=True)}

    @property
    def gradients(self) -> list[tf.Variable]:
        """Those of the last step, of the variables to train, not clipped; empty unless they are kept."""
        return self._gradients

    @property
    def num_skipped(self) -> int:
        """Steps of the last call whose gradients were not finite and changed nothing."""
        return int(self._num_skipped.numpy())

    @property
    def loss_scale(self) -> float | None:
        """What the loss is multiplied by now; None = it is not scaled."""
        return None if self._loss_scaler is None else float(self._loss_scaler.loss_scale)

    @property
    def global_batch_size(self) -> int | None:
        """Images of a step on all replicas; None if the batch size varies."""
        return self._batch_size and self._batch_size * self._strategy.num_replicas_in_sync

    def next_batch(self) -> Any:
        """The next batch of the first replica. It will not be trained on."""
        batch = next(self._train_iter)
        return tf.nest.map_structure(lambda value: self._strategy.experimental_local_results(value)[0], batch)

    def train_loop_begin(self) -> None:
        self._sums.assign(tf.zeros_like(self._sums))
        self._num_skipped.assign(0)

    # Without autograph's rewriting of all code below: see `loop.train`.
    @tf.autograph.experimental.do_not_convert
    def train_step(self, iterator: Any) -> None:
        batch = next(iterator)
        of_replicas = self._strategy.run(self.replica_step, args=(batch,))
        values = self._strategy.reduce(tf.distribute.ReduceOp.MEAN, of_replicas, axis=None)
        values, statistics = values[: len(self._names)], values[len(self._names) :]
        is_finite = tf.math.is_finite(values)
        is_failure = ~tf.reduce_all(is_finite)
        counted = values
        if self._loss_scaler is not None:
            # Only the backward pass gains from another scale: a loss that is not finite remains a failure.
            is_skipped = tf.reduce_all(is_finite[:-1]) & ~is_finite[-1]
            counted = tf.where(is_skipped & ~is_finite, 0.0, values)
            self._num_skipped.assign_add(tf.cast(is_skipped, tf.int64))
            self._num_skipped_in_a_row.assign(tf.where(is_skipped, self._num_skipped_in_a_row + 1, 0))
            is_failure &= ~is_skipped | (self._num_skipped_in_a_row >= _MOST_SKIPPED_IN_A_ROW)
        self._sums.assign(self._sums + tf.concat([counted, statistics], axis=0))
        # Noted here, for every step, and read by the host after each call: so the error can name the step.
        is_first_failure = (self._failed_step == 0) & is_failure
        step = tf.identity(self._optimizer.iterations)
        self._failed_values.assign(tf.where(is_first_failure, values, self._failed_values))
        self._failed_step.assign(tf.where(is_first_failure, step, self._failed_step))
        self._failed_batch.keep_if(is_first_failure, batch, of_replicas)

    def replica_step(self, batch: Any) -> tf.Tensor:
        """One step of one replica; returns the values of `_names`, then the pairs of `_statistic_names`, all float32."""
        self._batch_size = batch.inputs.images.shape[0]
        context = tf.distribute.get_replica_context()
        seed = tf.stack([self._seed, tf.cast(self._optimizer.iterations, tf.int32)])
        seed = tf.random.experimental.stateless_fold_in(seed, context.replica_id_in_sync_group)
        losses, gradients = self._differentiate(batch._replace(record_keys=None), seed)
        pairs = [
            (grad, variable) for grad, variable in zip(gradients, self._variables, strict=True) if grad is not None
        ]
        if not pairs:
            raise TrainingError("No variable that is to be trained has any influence on the losses.")
        gradients, variables = map(list, zip(*pairs, strict=True))
        if self._loss_scaler is not None:
            gradients = self._loss_scaler.get_unscaled_gradients(gradients)
        if context.num_replicas_in_sync > 1:
            dtypes = [grad.dtype for grad in gradients]
            gradients = context.all_reduce(
                tf.distribute.ReduceOp.SUM, [tf.cast(grad, self._all_reduce_dtype) for grad in gradients]
            )
            gradients = [tf.cast(grad, dtype) for grad, dtype in zip(gradients, dtypes, strict=True)]
        if self._gradients:
            by_variable = {id(variable): grad for grad, variable in zip(gradients, variables, strict=True)}
            for kept, variable in zip(self._gradients, self._variables, strict=True):
                kept.assign(by_variable.get(id(variable), tf.zeros_like(kept)))
        # The norm is always checked: gradients that are not finite spoil the weights one step before a loss shows it,
        # and a checkpoint may be saved between the two.
        norm = tf.linalg.global_norm(gradients)
        if self._max_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self._max_norm, use_norm=norm)
        optimizer = self._optimizer if self._loss_scaler is None else self._loss_scaler
        optimizer.apply_gradients(zip(gradients, variables, strict=True), experimental_aggregate_gradients=False)
        num_losses = len(self._names) - 1
        return tf.concat([losses[:num_losses], [norm], losses[num_losses:]], axis=0)

    def _losses_and_gradients(self, batch: Any, seed: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
        """This replica's losses, their total, the pairs of statistics, and its share of the gradients (None = no influence)."""

        def share(loss: tf.Tensor) -> tf.Tensor:
            part = loss / (self._strategy.num_replicas_in_sync * self._num_parts)
            return part if self._loss_scaler is None else self._loss_scaler.get_scaled_loss(part)

        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
            tape.watch(self._variables)
            predictions = self._model.predict(
                self._model.preprocess(batch.inputs),
                training=True,
                groundtruth=batch.groundtruth,
                seed=seed,
            )
            measured: dict[str, tf.Tensor] | None = {} if self._statistic_names else None
            losses = mean_losses(self._model, predictions, batch.groundtruth, measured)
            regularization = losses.pop(REGULARIZATION_LOSS)
            values = list(losses.values())
            task = share(tf.add_n(values))
            if self._add_regularization_loss:
                values.append(regularization)
                regularization = share(regularization)
            else:
                regularization = tf.constant(0.0)
        gradients = tape.gradient(task, self._variables)
        # Only the weights are needed for those of the regularization. Computed before the others, as nothing else would keep
        # a device from doing, they lie in memory, as large as the weights, while the features of all layers do.
        with tf.control_dependencies([grad for grad in gradients if grad is not None]):
            decays = tape.gradient(regularization, self._variables)
        # No gradient passes the statistics: outside of the tape, which would record them nevertheless.
        pairs = [tf.reduce_mean(measured[name], axis=0) for name in self._statistic_names] if measured else []
        values = tf.concat([tf.stack([*values, tf.add_n(values)]), *pairs], axis=0)
        return values, list(map(_add_gradients, gradients, decays))

    def _losses_and_gradients_in_parts(self, batch: Any, seed: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
        """What `_losses_and_gradients` returns, as means over the parts of the batch.

        A loop and not the parts side by side: it is traced and compiled once, and holds the features of one part.

        Raises:
            ValueError: if the parts cannot be of one size.
        """
        size = batch.inputs.images.shape[0]
        if size is None or size % self._num_parts:
            raise ValueError(f"{size} images of a replica cannot be computed in {self._num_parts} parts of one size.")

        def split(value: tf.Tensor | None) -> tf.Tensor | None:
            return None if value is None else tf.reshape(value, [self._num_parts, -1, *value.shape[1:]])

        parts = tf.nest.map_structure(split, batch)
        has_influence: list[bool] = []

        def add_part(i: tf.Tensor, values: tf.Tensor, sums: list[tf.Tensor]) -> tuple:
            part = tf.nest.map_structure(lambda value: None if value is None else value[i], parts)
            losses, gradients = self._losses_and_gradients(part, tf.random.experimental.stateless_fold_in(seed, i))
            has_influence[:] = [grad is not None for grad in gradients]
            sums = [total if grad is None else total + grad for total, grad in zip(sums, gradients, strict=True)]
            return i + 1, values + losses / self._num_parts, sums

        _, values, sums = tf.while_loop(
            lambda i, *_: i < self._num_parts,
            add_part,
            (tf.constant(0), tf.zeros([self._num_values - 1]), [tf.zeros(v.shape, v.dtype) for v in self._variables]),
            parallel_iterations=1,
            maximum_iterations=self._num_parts,
        )
        gradients = [total if has else None for total, has in zip(sums, has_influence, strict=True)]
        return values, gradients

    def _remedies(self, values: dict[str, float]) -> str:
        if self._loss_scaler is None or any(not np.isfinite(v) for name, v in values.items() if name != GRADIENT_NORM):
            return _REMEDIES
        return f"So it was in {_MOST_SKIPPED_IN_A_ROW} steps in a row, whatever the loss scale. {_LOSS_SCALE_REMEDY}"


def _add_gradients(a: tf.Tensor | None, b: tf.Tensor | None) -> tf.Tensor | None:
    """Their sum; None has no influence."""
    if a is None or b is None:
        return b if a is None else a
    return tf.add(a, b)


def _what_failed(values: dict[str, float]) -> str:
    """Which values are not finite, and the others for comparison."""
    bad = [name for name, value in values.items() if not np.isfinite(value)]
    # Where a loss is at fault, the total and the gradients are too, which would say nothing.
    causes = [name for name in bad if name not in (TOTAL_LOSS, GRADIENT_NORM)] or bad
    named = ", ".join(f"{name} = {values[name]}" for name in causes)
    others = ", ".join(f"{name} = {value:.4g}" for name, value in values.items() if name not in causes)
    return f"{named} ({others})."
