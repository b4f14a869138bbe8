"""Moving averages of the weights, kept by the optimizer that trains them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import tensorflow as tf
import tf_keras


class AveragingOptimizer(tf_keras.optimizers.legacy.Optimizer):
    """The optimizer's methods that the training loop calls, and the moving averages of the weights it trains.

    The average of a variable is one more slot ("average") of the optimizer, updated in the same place as the variable,
    so that it is distributed, compiled, saved and restored like momentum. After n updates its decay is
    min(`moving_average_decay`, (1 + n) / (10 + n)), which makes the weight of the first values small quickly: the
    Object Detection API's rule. Averages start at the weights themselves.

    To be mixed into a concrete optimizer, before it in the list of bases.
    """

    moving_average_decay: float | None = None
    variables_trained: Sequence[tf.Variable] = ()

    def build(self, variables: Sequence[tf.Variable]) -> None:
        """Creates the step counter and the slots of the variables to be trained, so that no step has to."""
        self.variables_trained = tuple(variables)
        self._create_all_weights(self.variables_trained)

    def _create_slots(self, var_list: Sequence[tf.Variable]) -> None:
        super()._create_slots(var_list)
        if self.moving_average_decay:
            for variable in var_list:
                self.add_slot(variable, "average")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of the update that follows `step` finished updates."""
        return float(self._get_hyper("learning_rate")(step))

    def start_averages(self, variables: Sequence[tf.Variable]) -> None:
        """Sets the averages of `variables` to their present values. Does nothing if no averages are kept."""
        if self.moving_average_decay:
            for variable in variables:
                self.get_slot(variable, "average").assign(variable)

    @contextlib.contextmanager
    def averaged(self, variables: Sequence[tf.Variable]) -> Iterator[None]:
        """Gives `variables` their averages for the time of a `with` block, then their own values back, to the bit."""
        if not self.moving_average_decay:
            yield
            return
        own_values = [variable.numpy() for variable in variables]
        for variable in variables:
            variable.assign(self.get_slot(variable, "average"))
        try:
            yield
        finally:
            for variable, value in zip(variables, own_values, strict=True):
                variable.assign(value)

    def _prepare_local(self, var_device: str, var_dtype: tf.DType, apply_state: dict) -> None:
        super()._prepare_local(var_device, var_dtype, apply_state)
        if self.moving_average_decay:
            num_updates = tf.cast(self.iterations + 1, var_dtype)
            decay = tf.minimum(tf.cast(self.moving_average_decay, var_dtype), (1 + num_updates) / (10 + num_updates))
            apply_state[(var_device, var_dtype)]["average_rate"] = 1 - decay

    def _resource_apply_dense(self, grad: tf.Tensor, var: tf.Variable, apply_state: dict) -> tf.Operation:
        update = super()._resource_apply_dense(grad, var, apply_state=apply_state)
        if not self.moving_average_decay:
            return update
        average = self.get_slot(var, "average")
        rate = apply_state[(var.device, var.dtype.base_dtype)]["average_rate"]
        with tf.control_dependencies([update]):
            return tf.group(update, average.assign_sub(rate * (average - var), read_value=False))
