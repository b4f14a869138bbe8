"""The settings of a train step, and of the training loop."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from object_detection_fpn.training.errors import SettingsError
from object_detection_fpn.training.metrics_log import LogFormat


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSettings:
    """How one train step computes.

    Raises:
        SettingsError: if a number is out of its range.
    """

    gradient_clipping_by_norm: float = 0.0
    """Largest norm of all gradients together; 0 = no limit."""
    add_regularization_loss: bool = True
    """Whether "Loss/regularization_loss" counts."""
    jit_compile: bool = False
    """Whether XLA compiles the forward and backward pass. (The update of the weights is one fused kernel per variable without
    it; compiling the update as well adds 4 s to the first step and gains nothing.)"""
    accumulate_gradients: int = 1
    """Parts in which each replica computes its batch, one after the other, to need less memory."""
    all_reduce_dtype: tf.DType = tf.float32
    """In which gradients are summed over the replicas."""
    measure_statistics: bool = True
    """Whether the detector measures `statistic_names` on the way."""
    keep_gradients: bool = False
    """Whether the gradients of each step are kept until the next one, for histograms. Takes as much memory as the weights."""
    seed: int = 0
    """Any integer. Everything random in a step follows from (`seed`, step) and nothing else."""

    def __post_init__(self) -> None:
        _check_positive(self, "accumulate_gradients")
        if self.gradient_clipping_by_norm < 0:
            raise SettingsError(
                f"gradient_clipping_by_norm = {self.gradient_clipping_by_norm} is negative. Allowed: 0 (off) and up."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings(StepSettings):
    """How a run computes its steps, how many, and what it writes when.

    Raises:
        SettingsError: if a number is out of its range.
    """

    num_steps: int
    """Step to train up to, counting those of earlier runs."""
    scale_loss: bool = False
    """Multiply the loss by the largest scale at which float16 gradients stay finite (Micikevicius et al. 2017, section 3.2). A
    step whose gradients are not finite halves the scale and changes no weight, but counts as a step. Not for TPUs."""
    steps_per_loop: int = 100
    """Most steps in one call of the train step. Fewer are taken if they last longer than a few seconds."""
    checkpoint_every_n: int = 1000
    """Steps between checkpoints. One more is saved at the last step."""
    max_to_keep: int | None = 7
    """Checkpoints that are kept, the newest ones; None = all."""
    keep_checkpoint_every_n_hours: float | None = None
    """One checkpoint in so many hours is kept for good; None = none is."""
    record_summaries: bool = True
    """Whether to write TensorBoard summaries."""
    summary_every_n: int = 100
    """Steps between summaries; they are means of the steps between. Also between the lines of the metrics log."""
    histograms: bool = False
    """Whether summaries have histograms of weights and gradients; needs `keep_gradients` and `record_summaries`."""
    metrics_log: LogFormat | None = None
    """The format of a metrics log beside the checkpoints; None = there is none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ["num_steps", "steps_per_loop", "checkpoint_every_n", "summary_every_n"]
        _check_positive(self, *names, *(["max_to_keep"] if self.max_to_keep is not None else []))
        if self.histograms and not (self.keep_gradients and self.record_summaries):
            raise SettingsError("histograms = True needs keep_gradients and record_summaries. Allowed: True for both.")


def _check_positive(settings: StepSettings, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 1:
            raise SettingsError(f"{name} = {getattr(settings, name)} is not positive. Allowed: 1 and up.")
