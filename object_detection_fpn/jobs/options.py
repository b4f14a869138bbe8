"""What training may be asked for beside what a config says."""

from __future__ import annotations

import dataclasses
from typing import get_args

from object_detection_fpn.training.errors import SettingsError
from object_detection_fpn.training.metrics_log import LogFormat


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of `jobs.train.train`, named there as keywords.

    Raises:
        SettingsError: if a number is out of its range.
    """

    sample_1_of_n_eval_examples: int | None = None
    """See `jobs.evaluate.evaluate`."""
    keep_best: str | None = None
    """The result of an evaluation by which the best checkpoint is chosen: any metric, of which more is better, or a loss, of
    which less is. None = the first of `eval_config.metrics_set` on the first reader."""
    early_stopping_patience: int | None = None
    """Evaluations in a row without a better such result, after which training ends; None = it goes on."""
    max_to_keep: int = 7
    """Checkpoints that are kept, the newest ones; 0 = all. The best one and those of `keep_checkpoint_every_n_hours` come to
    it."""
    time_budget: float | None = None
    """Hours from the start of the job, after which training ends with a checkpoint; None = no limit. An evaluation that has
    begun is finished."""
    summary_histograms: bool = False
    """Whether TensorBoard gets histograms of weights and gradients. The gradients that are kept for it take as much memory as
    the weights."""
    metrics_log: LogFormat | None = "json"
    """Where the numbers of TensorBoard and of evaluations also go: `model_dir/metrics.jsonl` ("json") or `metrics.csv`
    ("csv"); None = nowhere."""

    def __post_init__(self) -> None:
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise SettingsError(
                f"early_stopping_patience = {self.early_stopping_patience} is not positive. Allowed: 1 and up."
            )
        if self.max_to_keep < 0:
            raise SettingsError(f"max_to_keep = {self.max_to_keep} is negative. Allowed: 0 (keep all) and up.")
        if self.metrics_log not in (None, *get_args(LogFormat)):
            raise SettingsError(f'metrics_log = "{self.metrics_log}" is unknown. Allowed: "json", "csv", None.')

    def check(self, *, evaluate_checkpoints: bool, has_summaries: bool) -> None:
        """Refuses options that have no use.

        Args:
            evaluate_checkpoints: whether every checkpoint is evaluated.
            has_summaries: whether TensorBoard's summaries are written.

        Raises:
            SettingsError: if there is one.
        """
        for name in ("keep_best", "early_stopping_patience"):
            value = getattr(self, name)
            if value is not None and not evaluate_checkpoints:
                raise SettingsError(
                    f"{name} = {value} compares evaluations, and there are none. Evaluate every checkpoint "
                    f"(--train_and_eval), or leave out {name}."
                )
        if self.summary_histograms and not has_summaries:
            raise SettingsError("summary_histograms needs TensorBoard's summaries, which are not written.")
