"""Learning-rate schedules, optimizers, moving averages of weights, and the choice of which variables are trained.

Schedules give the learning rate of the update that follows `step` finished updates, in float32, and agree with the
Object Detection API's. No library has all four: tf_keras has neither a burn-in at another rate, nor a linear ramp to the
first of some steps, nor a plateau between warmup and cosine.

The optimizers are tf_keras's legacy classes, on purpose. Each updates a variable with one fused kernel where the newer
classes run a handful of small ones. For the 211 variables (42 M weights) of a ResNet-50 FPN on two cores that is half
the time of an update (0.07 s against 0.15 s) and 3 s less until the first step is done; under XLA both compile, the
legacy one 2 s sooner. Besides, a checkpoint files their state under the path of the variable it belongs to and not under
a running number, so that it still finds its variable after a layer has been frozen or added.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf
import tf_keras
from tf_keras.optimizers.schedules import LearningRateSchedule

from object_detection_fpn.training import checkpoints


class ConstantLearningRate(LearningRateSchedule):
    """The same learning rate at every step."""

    def __init__(self, *, learning_rate: float):
        self.learning_rate = learning_rate

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        return tf.constant(self.learning_rate, tf.float32)

    def get_config(self) -> dict[str, Any]:
        return {"learning_rate": self.learning_rate}


class ExponentialDecayLearningRate(LearningRateSchedule):
    """Decays by a factor every so many steps after a burn-in at a rate of its own, and never below a minimum.

    Args:
        initial_learning_rate: rate at the end of the burn-in.
        decay_steps: steps in which the rate shrinks by `decay_factor`, counted from the end of the burn-in.
        decay_factor: what the rate is multiplied by in that time.
        staircase: whether the rate falls once every `decay_steps` (True) or a little with every step.
        burnin_learning_rate: rate during the burn-in; 0 = `initial_learning_rate`.
        burnin_steps: length of the burn-in.
        min_learning_rate: the rate never falls below.

    Raises:
        ValueError: if `decay_steps` is not positive.
    """

    def __init__(
        self,
        *,
        initial_learning_rate: float,
        decay_steps: int,
        decay_factor: float,
        staircase: bool = True,
        burnin_learning_rate: float = 0.0,
        burnin_steps: int = 0,
        min_learning_rate: float = 0.0,
    ):
        if decay_steps < 1:
            raise ValueError(f"decay_steps = {decay_steps} is not positive.")
        self._config = {
            "initial_learning_rate": initial_learning_rate,
            "decay_steps": decay_steps,
            "decay_factor": decay_factor,
            "staircase": staircase,
            "burnin_learning_rate": burnin_learning_rate,
            "burnin_steps": burnin_steps,
            "min_learning_rate": min_learning_rate,
        }
        self._decay = tf_keras.optimizers.schedules.ExponentialDecay(
            initial_learning_rate, decay_steps, decay_factor, staircase=staircase
        )
        self._burnin_rate = burnin_learning_rate or initial_learning_rate
        self._burnin_steps = burnin_steps
        self._min_rate = min_learning_rate

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        rate = tf.where(step < self._burnin_steps, self._burnin_rate, self._decay(step - self._burnin_steps))
        return tf.maximum(rate, self._min_rate)

    def get_config(self) -> dict[str, Any]:
        return self._config


class ManualStepLearningRate(LearningRateSchedule):
    """Rates that hold from given steps on.

    Args:
        initial_learning_rate: rate from step 0.
        steps: [N] rising steps at which the rate changes.
        learning_rates: [N] the rate from each of `steps` on.
        warmup: whether the rate rises linearly from `initial_learning_rate` to `learning_rates[0]`, reached at
            `steps[0]`, instead of jumping there.

    Raises:
        ValueError: if `steps` do not rise from at least 1, or the two lists differ in length.
    """

    def __init__(
        self,
        *,
        initial_learning_rate: float,
        steps: Sequence[int],
        learning_rates: Sequence[float],
        warmup: bool = False,
    ):
        steps, learning_rates = list(steps), list(learning_rates)
        if len(steps) != len(learning_rates):
            raise ValueError(f"{len(steps)} steps but {len(learning_rates)} learning rates. Allowed: one for each.")
        if any(later <= earlier for earlier, later in zip([0, *steps], steps, strict=False)):
            raise ValueError(f"steps = {steps} do not rise strictly from at least 1.")
        self._config = {
            "initial_learning_rate": initial_learning_rate,
            "steps": steps,
            "learning_rates": learning_rates,
            "warmup": warmup,
        }
        self._boundaries = steps
        self._rates = [initial_learning_rate, *learning_rates]
        self._warmup_steps = steps[0] if warmup and steps else 0

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        num_passed = tf.reduce_sum(tf.cast(step >= tf.constant(self._boundaries, tf.float32), tf.int32))
        rate = tf.gather(tf.constant(self._rates, tf.float32), num_passed)
        if not self._warmup_steps:
            return rate
        slope = (self._rates[1] - self._rates[0]) / self._warmup_steps
        return tf.where(step < self._warmup_steps, self._rates[0] + slope * step, rate)

    def get_config(self) -> dict[str, Any]:
        return self._config


class CosineDecayLearningRate(LearningRateSchedule):
    """Linear warmup, an optional plateau, then half a cosine down to 0 (SGDR, https://arxiv.org/abs/1608.03983).

    Args:
        learning_rate_base: the highest rate, reached at `warmup_steps`.
        total_steps: step at which the rate reaches 0; it stays 0.
        warmup_learning_rate: rate at step 0.
        warmup_steps: steps of linear rise.
        hold_base_rate_steps: steps between warmup and decay at the highest rate.

    Raises:
        ValueError: if warmup and plateau last longer than `total_steps`, or warmup starts above the highest rate.
    """

    def __init__(
        self,
        *,
        learning_rate_base: float,
        total_steps: int,
        warmup_learning_rate: float = 0.0,
        warmup_steps: int = 0,
        hold_base_rate_steps: int = 0,
    ):
        if total_steps < warmup_steps + hold_base_rate_steps:
            raise ValueError(
                f"total_steps = {total_steps} is below the sum of warmup_steps = {warmup_steps} and "
                f"hold_base_rate_steps = {hold_base_rate_steps}. Allowed: their sum or more."
            )
        if warmup_steps and warmup_learning_rate > learning_rate_base:
            raise ValueError(
                f"warmup_learning_rate = {warmup_learning_rate} exceeds learning_rate_base = {learning_rate_base}."
            )
        self._config = {
            "learning_rate_base": learning_rate_base,
            "total_steps": total_steps,
            "warmup_learning_rate": warmup_learning_rate,
            "warmup_steps": warmup_steps,
            "hold_base_rate_steps": hold_base_rate_steps,
        }
        self._base_rate = learning_rate_base
        self._total_steps = total_steps
        self._warmup_rate = warmup_learning_rate
        self._warmup_steps = warmup_steps
        self._decay_start = warmup_steps + hold_base_rate_steps

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        progress = (step - self._decay_start) / max(self._total_steps - self._decay_start, 1)
        rate = 0.5 * self._base_rate * (1.0 + tf.cos(math.pi * progress))
        rate = tf.where(step <= self._decay_start, self._base_rate, rate)
        if self._warmup_steps:
            slope = (self._base_rate - self._warmup_rate) / self._warmup_steps
            rate = tf.where(step < self._warmup_steps, self._warmup_rate + slope * step, rate)
        return tf.where(step > self._total_steps, 0.0, rate)

    def get_config(self) -> dict[str, Any]:
        return self._config


class AveragingOptimizer(tf_keras.optimizers.legacy.Optimizer):
    """What the training loop needs of an optimizer, and the moving averages of the weights it trains.

    The average of a variable is one more slot ("average") of the optimizer, updated in the same place as the variable,
    so that it is distributed, compiled, saved and restored like momentum. After n updates its decay is
    min(`moving_average_decay`, (1 + n) / (10 + n)), which lets it forget the first weights quickly: the Object
    Detection API's rule. Averages start at the weights themselves.

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


class _Momentum(AveragingOptimizer, tf_keras.optimizers.legacy.SGD):
    pass


class _RMSProp(AveragingOptimizer, tf_keras.optimizers.legacy.RMSprop):
    pass


class _Adam(AveragingOptimizer, tf_keras.optimizers.legacy.Adam):
    pass


def momentum(
    learning_rate: LearningRateSchedule, *, momentum: float = 0.9, moving_average_decay: float | None = None
) -> AveragingOptimizer:
    """Stochastic gradient descent with momentum: m <- momentum m - rate gradient, w <- w + m.

    Args:
        learning_rate: one of this file's schedules.
        momentum: in [0, 1].
        moving_average_decay: of the averages of the weights (see `AveragingOptimizer`); None = no averages.

    Raises:
        ValueError: if a value is out of its range.
    """
    _check_fraction("momentum", momentum)
    return _configured(_Momentum(learning_rate, momentum=_fixed(momentum)), moving_average_decay)


def rms_prop(
    learning_rate: LearningRateSchedule,
    *,
    decay: float = 0.9,
    momentum: float = 0.9,
    epsilon: float = 1.0,
    moving_average_decay: float | None = None,
) -> AveragingOptimizer:
    """RMSProp (Tieleman and Hinton, 2012) with momentum; `epsilon` is added under the root.

    `decay` is that of the mean square, as the field of this name says. (The Object Detection API hands it to Keras as a
    decay of the learning rate, which Keras refuses since TensorFlow 2.11.)

    Args:
        learning_rate: one of this file's schedules.
        decay: of the mean square of the gradients, in [0, 1].
        momentum: in [0, 1].
        epsilon: positive.
        moving_average_decay: of the averages of the weights (see `AveragingOptimizer`); None = no averages.

    Raises:
        ValueError: if a value is out of its range.
    """
    _check_fraction("decay", decay)
    _check_fraction("momentum", momentum)
    _check_positive("epsilon", epsilon)
    optimizer = _RMSProp(learning_rate, rho=_fixed(decay), momentum=_fixed(momentum), epsilon=epsilon)
    return _configured(optimizer, moving_average_decay)


def adam(
    learning_rate: LearningRateSchedule, *, epsilon: float = 1e-8, moving_average_decay: float | None = None
) -> AveragingOptimizer:
    """Adam (https://arxiv.org/abs/1412.6980) with beta 0.9 and 0.999.

    Args:
        learning_rate: one of this file's schedules.
        epsilon: positive; the paper's "epsilon hat".
        moving_average_decay: of the averages of the weights (see `AveragingOptimizer`); None = no averages.

    Raises:
        ValueError: if a value is out of its range.
    """
    _check_positive("epsilon", epsilon)
    optimizer = _Adam(learning_rate, beta_1=_fixed(0.9), beta_2=_fixed(0.999), epsilon=epsilon)
    return _configured(optimizer, moving_average_decay)


def make_loss_scaler(optimizer: AveragingOptimizer) -> tf_keras.mixed_precision.LossScaleOptimizer:
    """Wraps an optimizer so that losses can be scaled: 2^15 times at first, halved and doubled as gradients bear it.

    It applies gradients only if all are finite; the optimizer counts the step in any case. A checkpoint of it is one of
    the optimizer, with the scale beside.
    """
    return tf_keras.mixed_precision.LossScaleOptimizer(optimizer)


def select_variables(
    model: tf_keras.layers.Layer, *, update: Sequence[str] = (), freeze: Sequence[str] = ()
) -> list[tf.Variable]:
    """The trainable variables of a model that training is to change.

    Args:
        model: the model, built.
        update: regular expressions; if any are given, only variables that match one of them are trained.
        freeze: regular expressions; variables that match one of them are not trained, whatever `update` says.
            Both are searched for in a variable's path in checkpoints (`backbone/conv1/kernel`) and in its Keras name.

    Returns:
        The variables in the model's order.

    Raises:
        ValueError: if an expression matches no trainable variable, or nothing remains to be trained.
    """
    paths = {id(variable): path for path, variable in checkpoints.variables_by_path(model).items()}
    variables = list(model.trainable_variables)

    def matches(pattern: str) -> set[int]:
        found = {
            id(variable)
            for variable in variables
            if re.search(pattern, paths[id(variable)]) or re.search(pattern, variable.name)
        }
        if not found:
            raise ValueError(
                f'"{pattern}" matches none of the {len(variables)} trainable variables, '
                f"such as {', '.join(paths[id(variable)] for variable in variables[:3])}."
            )
        return found

    updated = set().union(*map(matches, update)) if update else {id(variable) for variable in variables}
    frozen = set().union(*map(matches, freeze))
    selected = [variable for variable in variables if id(variable) in updated - frozen]
    if not selected:
        raise ValueError(f"No variable remains to be trained with update = {list(update)}, freeze = {list(freeze)}.")
    return selected


def _configured(optimizer: AveragingOptimizer, moving_average_decay: float | None) -> AveragingOptimizer:
    if moving_average_decay is not None:
        if not 0.0 < moving_average_decay <= 1.0:
            raise ValueError(
                f"moving_average_decay = {moving_average_decay} is out of range. Allowed: above 0, up to 1."
            )
        optimizer.moving_average_decay = moving_average_decay
    return optimizer


def _fixed(value: float) -> Any:
    # A plain number would become a variable, and a checkpoint would then bring back its old value on resuming, whatever
    # the configuration says now. What is callable stays a constant.
    return lambda: value


def _check_fraction(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} = {value} is outside [0, 1].")


def _check_positive(name: str, value: float) -> None:
    if value <= 0.0:
        raise ValueError(f"{name} = {value} is not positive.")
