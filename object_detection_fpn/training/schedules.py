"""Learning-rate schedules: the rate of the update that follows `step` finished updates, in float32.

They agree with the Object Detection API's. No library has all four: tf_keras has neither a burn-in at another rate, nor a
linear ramp to the first of some steps, nor a plateau between warmup and cosine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras
from tf_keras.optimizers.schedules import LearningRateSchedule


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
