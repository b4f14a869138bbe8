"""Evaluates every checkpoint that a training job writes."""

from __future__ import annotations

from collections.abc import Callable

import rich.console
import tensorflow as tf


def evaluate_continuously(
    *,
    checkpoint_dir: str,
    evaluate_fn: Callable[[str, int], dict[str, float]],
    timeout: float = 3600.0,
    final_step: int | None = None,
    min_interval_seconds: float = 0.0,
    console: rich.console.Console | None = None,
) -> dict[int, dict[str, float]]:
    """Evaluates the checkpoints that appear in a folder, each time the newest, until training is over.

    Of the checkpoints that appear while one is evaluated, only the newest is evaluated next. One that its training job
    deletes before it can be read is skipped and logged. All other errors of `evaluate_fn` are raised.

    Args:
        checkpoint_dir: where a training job writes `ckpt-N`; need not exist yet.
        evaluate_fn: (checkpoint path, its step) -> metrics.
        timeout: seconds to wait for the next checkpoint before training counts as over.
        final_step: the step at which training ends; evaluating it ends the wait. None = only the timeout does.
        min_interval_seconds: least time between two evaluations.
        console: where it reports that it waits; None = standard output.

    Returns:
        Step -> the metrics of its checkpoint.

    Raises:
        TimeoutError: if no checkpoint could be evaluated at all.
    """
    console = console or rich.console.Console()
    results: dict[int, dict[str, float]] = {}

    def say_waiting() -> None:
        console.print(f"Waiting up to {timeout:g} s for a new checkpoint in {checkpoint_dir} ...", markup=False)

    say_waiting()
    paths = tf.train.checkpoints_iterator(checkpoint_dir, min_interval_secs=min_interval_seconds, timeout=timeout)
    for path in paths:
        try:
            step = checkpoint_step(path)
            results[step] = evaluate_fn(path, step)
        except (tf.errors.NotFoundError, tf.errors.DataLossError):
            if tf.io.gfile.exists(path + ".index"):
                raise
            console.print(f"{path} was deleted before it could be evaluated; going on with the next one.", markup=False)
        else:
            if final_step is not None and step >= final_step:
                return results
        say_waiting()
    if not results:
        raise TimeoutError(f"No checkpoint to evaluate appeared in {checkpoint_dir} within {timeout:g} s.")
    console.print(f"No new checkpoint in {checkpoint_dir} within {timeout:g} s: evaluation ends.", markup=False)
    return results


def checkpoint_step(path: str) -> int:
    """The training step stored in a checkpoint (its number N counts saves, not steps); 0 for an exported one without.

    Raises:
        tf.errors.NotFoundError: if there is no such checkpoint.
    """
    reader = tf.train.load_checkpoint(path)
    key = "step/.ATTRIBUTES/VARIABLE_VALUE"
    return int(reader.get_tensor(key)) if reader.has_tensor(key) else 0
