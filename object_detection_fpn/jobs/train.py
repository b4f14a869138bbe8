"""Trains what a pipeline config describes, with or without an evaluation after every checkpoint.

A job takes a config that `config.pipeline.load_config` has checked, builds what it describes, and hands it to the loops.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
import tf_keras

from object_detection_fpn import builder
from object_detection_fpn.config import label_map as label_map_lib
from object_detection_fpn.config import pipeline as config_lib
from object_detection_fpn.config.label_map import LabelMap
from object_detection_fpn.data import record_keys
from object_detection_fpn.data.report import DataReport
from object_detection_fpn.data.source import service as data_service
from object_detection_fpn.interop import sources
from object_detection_fpn.jobs import strategies
from object_detection_fpn.jobs.evaluate import (
    Evaluator,
    is_loss,
    load_label_map,
    log_notices,
)
from object_detection_fpn.jobs.options import TrainOptions
from object_detection_fpn.jobs.provenance import describe_run
from object_detection_fpn.modeling.detector import Detector
from object_detection_fpn.protos import pipeline_pb2
from object_detection_fpn.training import loop as training_loop
from object_detection_fpn.training import workers
from object_detection_fpn.training.averages import AveragingOptimizer
from object_detection_fpn.training.best import BestCheckpoint
from object_detection_fpn.training.checkpoints import check_model_dir
from object_detection_fpn.training.endings import EarlyStopping, TimeBudget
from object_detection_fpn.training.errors import SettingsError
from object_detection_fpn.training.selection import select_variables
from object_detection_fpn.training.settings import TrainSettings
from object_detection_fpn.training.stored import STEP, StoredCheckpoint, latest_checkpoint
from object_detection_fpn.training.weights import variables_by_path

Config = pipeline_pb2.TrainEvalPipelineConfig


def train(
    config: Config,
    *,
    model_dir: str,
    strategy: tf.distribute.Strategy | None = None,
    num_steps: int | None = None,
    checkpoint_every_n: int = 1000,
    summary_every_n: int | None = 100,
    jit_compile: bool = False,
    seed: int = 0,
    evaluate_checkpoints: bool = False,
    data_service_address: str | None = None,
    from_label_map: str | None = None,
    **options: Any,
) -> training_loop.TrainResult:
    """Trains up to a step, going on where the newest checkpoint in `model_dir` left off.

    Args:
        config: a checked config (`require_data="train"`, and "eval" with `evaluate_checkpoints`).
        model_dir: folder for checkpoints, TensorBoard's `train`, the config, and with `evaluate_checkpoints` `eval` and `best`.
        strategy: of `strategies.make_strategy`; None = one device.
        num_steps: step to train up to; None = `train_config.num_steps`.
        checkpoint_every_n: steps between checkpoints.
        summary_every_n: steps between TensorBoard summaries, and lines of the metrics log; None = there are neither.
        jit_compile: compile the train step with XLA on CPU and GPU too (a TPU always does).
        seed: of everything random.
        evaluate_checkpoints: evaluate after every checkpoint and keep a copy of the best one in `model_dir/best`.
        data_service_address: HOST:PORT of the dispatcher whose workers prepare the training batches; None = this process.
        from_label_map: label map of `fine_tune_checkpoint`, for `restore_classes_by_name`; None = the one beside it.
        options: fields of `TrainOptions`.

    Raises:
        ConfigError, CheckpointError, TrainingError, TrainingStopped: see `training.loop.train`.
        TimeoutError: if the data service does not answer.
        SettingsError: if a number is out of its range, `model_dir` cannot be written to, several workers are to evaluate,
            checkpoints are to be compared without groundtruth or by what no evaluation gives, or an option has no use.
        TypeError: if an option is unknown.
    """
    chosen = TrainOptions(**options)
    chosen.check(evaluate_checkpoints=evaluate_checkpoints, has_summaries=summary_every_n is not None)
    budget = None if chosen.time_budget is None else TimeBudget(chosen.time_budget)
    strategy = strategy or tf.distribute.get_strategy()
    if evaluate_checkpoints and config.eval_config.ignore_groundtruth:
        raise SettingsError("Checkpoints cannot be compared while eval_config.ignore_groundtruth is true: write false.")
    if evaluate_checkpoints and isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise SettingsError(
            "Several workers cannot evaluate while they train: evaluate beside them, in a process of its own."
        )
    settings, reader = config.train_config, config.train_input_reader
    if from_label_map is not None and not settings.restore_classes_by_name:
        raise SettingsError(
            f"The label map of the checkpoint, {from_label_map}, has no use: train_config.restore_classes_by_name is false. "
            "Set it to true, or leave out --from_label_map."
        )
    names_there = label_map_lib.load_label_map(from_label_map) if from_label_map is not None else None
    if data_service_address:
        data_service.wait_for_service(data_service_address)
    is_tpu = strategies.is_tpu(strategy)
    for use in ("train", "eval") if evaluate_checkpoints else ("train",):
        strategies.check_strategy(config, strategy, use=use, jit_compile=jit_compile)
    execution = builder.training_execution(config, is_tpu=is_tpu, jit_compile=jit_compile)
    check_model_dir(model_dir)
    train_settings = TrainSettings(  # before the model is built, so that a wrong number is known at once
        num_steps=settings.num_steps if num_steps is None else num_steps,
        gradient_clipping_by_norm=settings.gradient_clipping_by_norm,
        add_regularization_loss=settings.add_regularization_loss,
        jit_compile=execution.jit_compile,
        accumulate_gradients=settings.accumulate_gradients,
        all_reduce_dtype=tf.as_dtype(builder.dtype_name(settings.all_reduce_precision)),
        scale_loss=execution.dtype == "mixed_float16",
        seed=seed,
        checkpoint_every_n=checkpoint_every_n,
        keep_checkpoint_every_n_hours=settings.keep_checkpoint_every_n_hours or None,
        record_summaries=summary_every_n is not None,
        max_to_keep=chosen.max_to_keep or None,
        measure_statistics=summary_every_n is not None,
        histograms=chosen.summary_histograms,
        keep_gradients=chosen.summary_histograms,
        metrics_log=None if summary_every_n is None else chosen.metrics_log,
        summary_every_n=100 if summary_every_n is None else summary_every_n,
    )
    label_map = load_label_map(reader)
    tf_keras.utils.set_random_seed(seed % 2**32)  # first weights; everything later is seeded where it is drawn
    with workers.naming_lost_workers(strategy, lambda: "No step was taken."), strategy.scope():
        model = builder.build_detector(config, reader, execution=execution)
        optimizer = builder.build_optimizer(settings.optimizer)
    variables = select_variables(
        model, update=list(settings.update_trainable_variables), freeze=list(settings.freeze_variables)
    )
    _show_frozen(model, variables)
    report = DataReport()
    job = secrets.token_hex(8)

    def make_dataset(input_context: tf.distribute.InputContext, data_seed: int) -> tf.data.Dataset:
        service = None
        if data_service_address:
            # Workers of one run derive the same name, each by itself. A run without other workers has a name of its own.
            is_alone = input_context.num_input_pipelines == 1
            parts = [config.SerializeToString(deterministic=True), model_dir.encode(), b"%d" % data_seed]
            name = job if is_alone else hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
            service = data_service.DataService(data_service_address, name)
        return builder.build_dataset(
            config,
            reader,
            label_map=label_map,
            batch_size=settings.batch_size,
            is_training=True,
            input_context=input_context,
            seed=data_seed,
            report=report,
            service=service,
        )

    evaluate: Callable[[int, str], training_loop.Verdict] | None = None
    if evaluate_checkpoints:
        evaluator = Evaluator(
            config,
            model=model,
            strategy=strategy,
            output_dir=model_dir,
            sample_1_of_n=chosen.sample_1_of_n_eval_examples,
        )
        metric = _check_metric(evaluator, chosen.keep_best)
        best = BestCheckpoint(model_dir, metric=metric, higher_is_better=not is_loss(metric))
        patience = chosen.early_stopping_patience
        early_stopping = None if patience is None else EarlyStopping(patience, metric=metric)
        if (done := _stopped_before(model_dir, early_stopping, best)) is not None:
            return done
        evaluate = functools.partial(
            _evaluate_in_training,
            evaluator,
            best,
            functools.partial(_averages, optimizer, variables, config),
            early_stopping,
        )
    saved_in: set[str] = set()

    def on_checkpoint(step: int, path: str) -> training_loop.Verdict | None:
        _save_config_once(config, model_dir, saved_in)
        return evaluate(step, path) if evaluate is not None else None

    result = training_loop.train(
        model=model,
        optimizer=optimizer,
        dataset=make_dataset,
        strategy=strategy,
        model_dir=model_dir,
        settings=train_settings,
        variables=variables,
        initialize=functools.partial(_initialize, config, model, label_map, names_there)
        if settings.fine_tune_checkpoint
        else None,
        on_checkpoint=on_checkpoint,
        surroundings=training_loop.Surroundings(
            texts=describe_run(config),
            name_records=functools.partial(
                record_keys.name_records, list_files=functools.partial(builder.list_record_files, config, reader)
            ),
            time_budget=budget,
        ),
    )
    log_notices(report)
    return result


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show_frozen(model: Detector, trained: list[tf.Variable]) -> None:
    """Says which variables `freeze_variables` and `update_trainable_variables` leave as they are."""
    kept = {id(variable) for variable in trained}
    paths = variables_by_path(model)
    trainable = {id(variable) for variable in model.trainable_variables}
    frozen = [path for path, variable in paths.items() if id(variable) in trainable - kept]
    if frozen:
        print(f"{len(frozen)} of {len(trainable)} trainable variables are frozen: {', '.join(frozen)}", flush=True)


def _initialize(
    config: Config, model: Detector, label_map: LabelMap | None = None, from_label_map: LabelMap | None = None
) -> None:
    """First weights from `train_config.fine_tune_checkpoint`."""
    settings = config.train_config
    kind = settings.fine_tune_checkpoint_type or ("detection" if settings.from_detection_checkpoint else "")
    report, title = sources.restore_for_fine_tuning(
        settings.fine_tune_checkpoint,
        model,
        kind=kind,
        label_map=label_map if settings.restore_classes_by_name else None,
        from_label_map=from_label_map,
    )
    print(report.table(title), flush=True)


def _save_config_once(config: Config, model_dir: str, done: set[str]) -> None:
    """The first checkpoint of a run brings the config it was made with; a run that fails before leaves the old one."""
    if model_dir not in done:
        config_lib.save_config(config, os.path.join(model_dir, "pipeline.config"))
        done.add(model_dir)


def _evaluate_in_training(
    evaluator: Evaluator,
    best: BestCheckpoint,
    averages: Callable[[], contextlib.AbstractContextManager],
    early_stopping: EarlyStopping | None,
    step: int,
    path: str,
) -> training_loop.Verdict:
    with averages():
        results = evaluator(step)
    if best.offer(path, step, results, say=_say):
        _say(f"Step {step} is the best so far; a copy of its checkpoint is in best/.")
    ending = None if early_stopping is None else early_stopping.reason(best.num_worse, best.value, best.step)
    return training_loop.Verdict(results, ending)


def _check_metric(evaluator: Evaluator, metric: str | None) -> str:
    """The name of the number that checkpoints are compared by; `metric` if it is not None.

    Raises:
        SettingsError: if no evaluation gives it.
    """
    if metric is None:
        return evaluator.main_result
    names = evaluator.result_names()
    if metric not in names:
        close = difflib.get_close_matches(metric, names, n=1, cutoff=0.0)[0]
        shown = [name for name in names if "PerformanceByCategory" not in name]
        raise SettingsError(
            f'keep_best = "{metric}" is no result of an evaluation; the nearest is "{close}". Allowed: {", ".join(shown)}'
            f"{', and those of each class' if len(shown) < len(names) else ''}."
        )
    return metric


def _stopped_before(
    model_dir: str, early_stopping: EarlyStopping | None, best: BestCheckpoint
) -> training_loop.TrainResult | None:
    """What an earlier run did that early stopping ended; None if there is none, or it may go on."""
    newest = latest_checkpoint(model_dir)
    reason = None if early_stopping is None else early_stopping.reason(best.num_worse, best.value, best.step)
    if reason is None or newest is None:
        return None
    _say(f"Nothing to train: {newest} has had {reason}. A larger --early_stopping_patience goes on from there.")
    return training_loop.TrainResult(int(StoredCheckpoint(newest).read(STEP)), newest, {}, None, ending=reason)


@contextlib.contextmanager
def _averages(optimizer: AveragingOptimizer, variables: list[tf.Variable], config: Config) -> Iterator[None]:
    wanted = config.eval_config.use_moving_averages and config.train_config.optimizer.use_moving_average
    use: Callable[[], contextlib.AbstractContextManager] = (
        functools.partial(optimizer.averaged, variables) if wanted else contextlib.nullcontext
    )
    with use():
        yield
