"""The training loop: restores, then steps, shows progress and saves until the last step.

`orbit` runs the steps (`training.step`). Its `Controller` is not used: it prints what each call returns, saves by its own
clock and cannot be stopped between two calls.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

import numpy as np
import tensorflow as tf

from object_detection_fpn.modeling.detector import Detector
from object_detection_fpn.records import TOTAL_LOSS
from object_detection_fpn.training import checkpoints, guard, optimizers, workers
from object_detection_fpn.training.averages import AveragingOptimizer
from object_detection_fpn.training.endings import TimeBudget
from object_detection_fpn.training.errors import TrainingError
from object_detection_fpn.training.metrics_log import MetricsLog
from object_detection_fpn.training.progress import Progress, StopRequest
from object_detection_fpn.training.settings import TrainSettings
from object_detection_fpn.training.step import GRADIENT_NORM, Trainer
from object_detection_fpn.training.summaries import Means, Speed, Summaries
from object_detection_fpn.training.weights import variables_by_path

_FIRST_STOPS = (1, 2, 5, 10)  # steps of a run after which the host looks at the losses, however fast they are
_SECONDS_PER_CALL = 5.0  # the longest the host waits for a call of several steps, and a user for the answer to Ctrl-C


class TrainingStopped(KeyboardInterrupt):
    """The user stopped the run with SIGINT or SIGTERM; its state is saved.

    Attributes:
        exit_code: what the process should return, 128 + the signal's number.
    """

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class TrainResult(NamedTuple):
    """What a run did."""

    step: int
    """Steps done in all, those of earlier runs included."""
    checkpoint: str | None
    """The newest checkpoint, which holds this step."""
    losses: dict[str, float]
    """The losses by name and their total, means of the last call of the train step; empty if no step was left to do."""
    steps_per_second: float | None
    """Over this run without its first step; None if it had no second."""
    num_skipped: int = 0
    """Steps of this run that changed no weight, since their scaled gradients were not finite (`scale_loss`)."""
    ending: str | None = None
    """Why the run ended before its last step, without a fault and not by the user; None = it did not."""


class Verdict(NamedTuple):
    """What was found out about a checkpoint."""

    metrics: Mapping[str, float] | None = None
    """Results of its evaluation, for the metrics log; None = there was none."""
    ending: str | None = None
    """Why the run is to end here; None = it goes on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a run knows of the world around it."""

    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What TensorBoard shows as text, by tag: the config, versions."""
    name_records: guard.RecordNames | None = None
    """Finds the records of a batch by its `record_keys`, to name them in an error."""
    time_budget: TimeBudget | None = None
    """When it is over, the run ends with a checkpoint; None = never. Learning rates do not depend on it."""


def train(
    *,
    model: Detector,
    optimizer: AveragingOptimizer,
    dataset: Callable[[tf.distribute.InputContext, int], tf.data.Dataset],
    strategy: tf.distribute.Strategy,
    model_dir: str,
    settings: TrainSettings,
    variables: Sequence[tf.Variable] | None = None,
    initialize: Callable[[], None] | None = None,
    draw_batch: Callable[[Any], tf.Tensor] | None = None,
    on_checkpoint: Callable[[int, str], Verdict | None] | None = None,
    surroundings: Surroundings = Surroundings(),
    output: TextIO | None = None,
) -> TrainResult:
    """Trains a model up to a number of steps, going on where the newest checkpoint in `model_dir` left off.

    A step draws a batch, calls the model's `preprocess`, `predict(training=True)` and `loss`, sums the losses, averages
    the gradients of all replicas, clips them together and applies them. Clipping the average, not each replica's share,
    makes a step the same on one device and on many. The model is traced without autograph: Python's `if` and `for` in it
    cannot depend on tensors, which saves seconds at the start.

    Everything random in a step follows from (`seed`, step) and nothing else; the data follow from `seed` and the step the
    run starts at, so that a resumed run sees data in another order than the run before it.

    Args:
        model: the detector, made under `strategy`.
        optimizer: made under `strategy`; built here.
        dataset: given (input context, seed), makes the endless data set of one worker: `records.Batch` of one replica each.
        strategy: the `tf.distribute` strategy.
        model_dir: folder for checkpoints, and for TensorBoard in its folder `train`. Nothing is written before the first
            step is done.
        settings: how the steps are computed, how many, and what is written when.
        variables: the variables to train; None = all trainable ones.
        initialize: gives the model its first weights; called only if there is nothing to resume.
        draw_batch: draws a batch as [N, H, W, 3] uint8 images for TensorBoard. Given, it is handed one batch of each run,
            which is not trained on.
        on_checkpoint: called with (step, path) after each checkpoint, on every worker; not after one that a stop or the end of
            the time budget caused. A request to stop ends it at once. It may end the run.
        surroundings: what is shown of the run, and what may end it.
        output: where progress is written; None = standard error.

    Returns:
        Where the run ended.

    Raises:
        SettingsError: if nothing can be written to `model_dir`.
        CheckpointError: if `model_dir` has the checkpoint of another model. Nothing is changed then.
        WriteError: if a checkpoint or a summary cannot be written.
        TrainingError: if a loss or the gradients become NaN or infinite (with `scale_loss`, the gradients of many steps in
            a row), or the weights before they are saved, or the data end. The batch of a loss is then in `model_dir`.
        TrainingStopped: (a KeyboardInterrupt) if the user stopped it, or another worker, or a machine that is to go down;
            the state is saved. A second Ctrl-C ends the process.
        workers.WorkerLostError: if another worker has gone.
    """
    checkpoints.check_model_dir(model_dir)
    num_steps = settings.num_steps
    variables = list(model.trainable_variables if variables is None else variables)
    with workers.naming_lost_workers(strategy, lambda: "No step was taken."), strategy.scope():
        optimizer.build(variables)
        loss_scaler = optimizers.make_loss_scaler(optimizer) if settings.scale_loss else None
    run = checkpoints.RunCheckpoints(
        model_dir,
        model=model,
        optimizer=optimizer,
        strategy=strategy,
        loss_scaler=loss_scaler,
        max_to_keep=settings.max_to_keep,
        keep_every_n_hours=settings.keep_checkpoint_every_n_hours,
    )
    progress = Progress(num_steps, output=output, is_shown=strategy.extended.should_checkpoint)
    restored = run.restore_latest(progress.say)
    if restored is None:
        if initialize is not None:
            initialize()
        optimizer.start_averages(variables)
    first_step, newest = (restored.step, restored.path) if restored else (0, None)
    if first_step >= num_steps:
        progress.say(f"Nothing to train: {newest} has {first_step} steps done, num_steps is {num_steps}.")
        return TrainResult(first_step, newest, {}, None)

    run.remove_stale_saves()
    if run.has_other_writer:
        progress.say(
            f"Another process trains into {model_dir}: each overwrites what the other saves. Stop one of them, or name another "
            "model_dir."
        )
    if not _learns(optimizer, first_step, num_steps):
        progress.say(
            f"The learning rate is 0 at every step from {first_step + 1} to {num_steps}: no weight will change. Set a rate "
            "above 0 in train_config.optimizer, or a later end of its decay."
        )
    data_seed = _data_seed(settings.seed, first_step)
    trainer = Trainer(
        strategy.distribute_datasets_from_function(lambda context: dataset(context, data_seed)),
        model=model,
        optimizer=optimizer,
        variables=variables,
        strategy=strategy,
        settings=settings,
        loss_scaler=loss_scaler,
    )
    report = _Report(model_dir, settings, first_step=first_step, strategy=strategy, texts=surroundings.texts)
    periods = [settings.checkpoint_every_n, *([settings.summary_every_n] if report.is_wanted else [])]
    budget = surroundings.time_budget
    # Several workers have to make the same calls, so none may go by its own clock, nor stop by itself.
    agreement = workers.Agreement(strategy)
    speed = Speed()
    step = saved_step = first_step
    num_skipped = 0
    reason: int | None = None
    ending: str | None = None
    stopped: TrainingStopped | None = None
    losses: dict[str, float] = {}
    progress.begin(first_step)
    try:
        with (
            StopRequest(progress) as stop,
            workers.naming_lost_workers(strategy, lambda: _what_is_left(model_dir, newest)),
            _naming_what_is_left(lambda: _what_is_left(model_dir, newest)),
        ):
            while step < num_steps and ending is None:
                wish = stop.signum or (workers.TIME_OVER if budget is not None and budget.is_over else None)
                if (reason := agreement.on_stop(wish)) is not None:
                    break
                most = speed.steps_within(_SECONDS_PER_CALL, most=settings.steps_per_loop)
                call_end = _next_stop(step, first_step=first_step, num_steps=num_steps, periods=periods, most=most)
                num_taken = call_end - step
                start = time.perf_counter()
                with _naming_batches(model_dir, surroundings.name_records, strategy):
                    sums = trainer.run(num_taken)
                is_first_call = step == first_step
                step = call_end
                if is_first_call:
                    progress.compiled()
                else:
                    speed.add(num_taken, time.perf_counter() - start)
                    speed.seconds_per_step = agreement.on_value(speed.seconds_per_step)
                losses = {name: value / num_taken for name, value in sums.items() if name != GRADIENT_NORM}
                learning_rate = optimizer.learning_rate_at(step - 1)  # what the last update used
                if trainer.num_skipped:
                    num_skipped += trainer.num_skipped
                    progress.say(
                        f"Of the steps up to {step}, {trainer.num_skipped} changed nothing: their gradients were not finite. "
                        f"The loss scale is {trainer.loss_scale:g} now; {num_skipped} steps of this run were skipped so far."
                    )
                progress.show(
                    step=step,
                    loss=losses[TOTAL_LOSS],
                    learning_rate=learning_rate,
                    seconds_per_step=speed.seconds_per_step,
                )
                report.add(sums, num_taken, trainer.statistics)
                if is_first_call or step % settings.summary_every_n == 0 or step == num_steps:
                    scale = {} if trainer.loss_scale is None else {"loss_scale": trainer.loss_scale}
                    scale |= {"skipped_steps": float(num_skipped)} if scale else {}
                    others = {"learning_rate": learning_rate} | scale | speed.values(trainer.global_batch_size)
                    report.write(step, others, histograms=lambda: _histograms(model, variables, trainer.gradients))
                if is_first_call and settings.record_summaries and draw_batch is not None:
                    report.summaries.write_images(step, draw_batch(trainer.next_batch()))
                if step % settings.checkpoint_every_n == 0 or step == num_steps:
                    guard.check_weights(model.variables, step)
                    newest, saved_step = run.save(step), step
                    progress.say(f"Saved {newest}.")
                    ending = _ask_about(on_checkpoint, step, newest, stop=stop, report=report, progress=progress)
            if step < num_steps and (reason is not None or ending is not None):
                if step > saved_step:
                    guard.check_weights(model.variables, step)
                    newest = run.save(step)
                left = _what_is_left(model_dir, newest)
                if reason is None:
                    progress.say(f"Ended at step {step} of {num_steps}: {ending}. {left}")
                elif reason == workers.TIME_OVER:
                    ending = (
                        "the time budget is used up" if budget is None else f"the time budget of {budget} is used up"
                    )
                    progress.say(
                        f"Ended at step {step} of {num_steps}: {ending}. {left} The same command goes on from there.",
                        on_every_worker=True,
                    )
                else:
                    whose = "" if stop.signum else " as another worker asked"
                    message = f"Stopped{whose} at step {step} of {num_steps}. {left}"
                    progress.say(f"{message} The same command goes on from there.", on_every_worker=True)
                    stopped = TrainingStopped(message, exit_code=128 + reason)
            agreement.wait()  # one that leaves early would be missed while the chief still saves
            if stopped is not None:
                raise stopped
    finally:
        progress.close()
        run.close()
    return TrainResult(step, newest, losses, speed.steps_per_second, num_skipped, ending if step < num_steps else None)


class _Report:
    """What a run writes of its numbers: TensorBoard's summaries and the metrics log, on the chief alone."""

    def __init__(
        self,
        model_dir: str,
        settings: TrainSettings,
        *,
        first_step: int,
        strategy: tf.distribute.Strategy,
        texts: Mapping[str, str],
    ):
        is_chief = strategy.extended.should_save_summary
        self.is_wanted = settings.record_summaries or settings.metrics_log is not None
        folder = os.path.join(model_dir, "train") if settings.record_summaries and is_chief else None
        self.summaries = Summaries(folder, texts=texts)
        self._has_histograms = settings.histograms and is_chief
        self._log: MetricsLog | None = None
        if settings.metrics_log is not None and is_chief:
            self._log = MetricsLog(model_dir, settings.metrics_log, first_step=first_step)
        self._means = Means()
        self.add = self._means.add

    def write(self, step: int, others: Mapping[str, float], *, histograms: Callable[[], Mapping[str, Any]]) -> None:
        """Writes the means of what was added since the last call, and `others` as they are."""
        values = self._means.take() | dict(others)
        self.summaries.write(step, values, histograms() if self._has_histograms else None)
        if self._log is not None:
            self._log.write("train", step, values)

    def write_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._log is not None:
            self._log.write("eval", step, metrics)


def _ask_about(
    on_checkpoint: Callable[[int, str], Verdict | None] | None,
    step: int,
    path: str,
    *,
    stop: StopRequest,
    report: _Report,
    progress: Progress,
) -> str | None:
    """Calls `on_checkpoint`, and returns why the run is to end, if it is."""
    if on_checkpoint is None:
        return None
    verdicts: list[Verdict | None] = []
    if not stop.run_until_stop(lambda: verdicts.append(on_checkpoint(step, path))):
        progress.say("The request to stop ended the evaluation of this checkpoint (with --train_and_eval).")
    verdict = verdicts[0] if verdicts else None
    if verdict is None:
        return None
    if verdict.metrics is not None:
        report.write_evaluation(step, verdict.metrics)
    return verdict.ending


def _histograms(model: Detector, variables: Sequence[tf.Variable], gradients: Sequence[tf.Variable]) -> dict[str, Any]:
    """The weights, and of those that train the gradients of the last step, by tag."""
    paths = variables_by_path(model)
    path_of = {id(variable): path for path, variable in paths.items()}
    weights = {f"weights/{path}": variable for path, variable in paths.items() if variable.dtype.is_floating}
    return weights | {f"gradients/{path_of[id(v)]}": grad for v, grad in zip(variables, gradients, strict=True)}


@contextlib.contextmanager
def _naming_batches(
    model_dir: str, name_records: guard.RecordNames | None, strategy: tf.distribute.Strategy
) -> Iterator[None]:
    """Writes the batch of a step that is not finite, and adds its records to the error."""
    try:
        yield
    except guard.NonFiniteError as error:
        worker: int | None = None
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            worker = 0 if strategy.extended.should_checkpoint else int(strategy.cluster_resolver.task_id)
        batch = guard.report_batch(error, model_dir, name_records=name_records, worker=worker)
        raise TrainingError(" ".join(filter(None, [str(error), batch]))) from error


def _next_stop(step: int, *, first_step: int, num_steps: int, periods: Sequence[int], most: int) -> int:
    """The step at which the host next has something to do."""
    early = [first_step + stop for stop in _FIRST_STOPS if first_step + stop > step]
    return min([step + most, num_steps, *early, *((step // period + 1) * period for period in periods)])


def _learns(optimizer: AveragingOptimizer, first_step: int, num_steps: int) -> bool:
    """Whether the learning rate is above 0 at any of some steps of the run."""
    return any(optimizer.learning_rate_at(int(step)) > 0 for step in np.linspace(first_step, num_steps - 1, 11))


def _data_seed(seed: int, first_step: int) -> int:
    """`seed` for a run from the start; another, always the same, for each step a run is resumed at."""
    return (
        seed % 2**63
        if first_step == 0
        else int(np.random.SeedSequence([seed % 2**63, first_step]).generate_state(1)[0] >> 1)
    )


@contextlib.contextmanager
def _naming_what_is_left(what_is_left: Callable[[], str]) -> Iterator[None]:
    """Adds to the error that ends a run what it leaves on disk."""
    try:
        yield
    except TrainingError as error:
        raise type(error)(f"{error} {what_is_left()}") from error


def _what_is_left(model_dir: str, newest: str | None) -> str:
    if newest is None:
        return "No checkpoint has been saved."
    # By the chief's name for it: what other workers save, only because all have to save together, vanishes with them.
    return f"The newest checkpoint is {os.path.join(model_dir, os.path.basename(newest))}."
