"""The four things one does with a pipeline config: train, evaluate, both at once, export.

Each function takes a config that `config.load_config` has checked, builds what it describes, and hands it to the loops.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from typing import Literal

import tensorflow as tf
import tf_keras

from object_detection_fpn import builder
from object_detection_fpn.config import pipeline as config_lib
from object_detection_fpn.data import decoder
from object_detection_fpn.data.report import DataReport
from object_detection_fpn.data.source import service as data_service
from object_detection_fpn.evaluation import loop as evaluation_loop
from object_detection_fpn.interop import sources
from object_detection_fpn.jobs import strategies
from object_detection_fpn.jobs.evaluate import (
    Evaluator,
    build_evaluator,
    list_categories,
    load_label_map,
    log_notices,
)
from object_detection_fpn.modeling.detector import Detector
from object_detection_fpn.protos import input_reader_pb2, pipeline_pb2
from object_detection_fpn.serving import saved_model
from object_detection_fpn.serving.predictor import Predictor
from object_detection_fpn.training import checkpoints, optimizers, workers
from object_detection_fpn.training import loop as training_loop

Config = pipeline_pb2.TrainEvalPipelineConfig


def train(
    config: Config,
    *,
    model_dir: str,
    strategy: tf.distribute.Strategy | None = None,
    num_steps: int | None = None,
    checkpoint_every_n: int = 1000,
    record_summaries: bool = True,
    jit_compile: bool = False,
    seed: int = 0,
    evaluate_checkpoints: bool = False,
    sample_1_of_n_eval_examples: int | None = None,
    data_service_address: str | None = None,
) -> training_loop.TrainResult:
    """Trains up to a step, going on where the newest checkpoint in `model_dir` left off.

    Args:
        config: a checked config (`require_data="train"`, and "eval" with `evaluate_checkpoints`).
        model_dir: folder for checkpoints, TensorBoard's `train`, the config, and with `evaluate_checkpoints` `eval` and `best`.
        strategy: of `strategies.make_strategy`; None = one device.
        num_steps: step to train up to; None = `train_config.num_steps`.
        checkpoint_every_n: steps between checkpoints.
        record_summaries: write TensorBoard summaries.
        jit_compile: compile the train step with XLA on CPU and GPU too (a TPU always does).
        seed: of everything random.
        evaluate_checkpoints: evaluate after every checkpoint and keep a copy of the one that is best by the first of
            `eval_config.metrics_set` on the first reader, in `model_dir/best`.
        sample_1_of_n_eval_examples: see `evaluate`.
        data_service_address: HOST:PORT of the dispatcher whose workers prepare the training batches; None = this process.

    Raises:
        ConfigError, CheckpointError, TrainingError, TrainingStopped: see `training.loop.train`.
        TimeoutError: if the data service does not answer.
        ValueError: if several workers are to evaluate, or checkpoints without groundtruth.
    """
    strategy = strategy or tf.distribute.get_strategy()
    if evaluate_checkpoints and config.eval_config.ignore_groundtruth:
        raise ValueError("Checkpoints cannot be compared while eval_config.ignore_groundtruth is true: write false.")
    if evaluate_checkpoints and isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise ValueError(
            "Several workers cannot evaluate while they train: evaluate beside them, in a process of its own."
        )
    if data_service_address:
        data_service.wait_for_service(data_service_address)
    settings, reader = config.train_config, config.train_input_reader
    is_tpu = strategies.is_tpu(strategy)
    for use in ("train", "eval") if evaluate_checkpoints else ("train",):
        strategies.check_strategy(config, strategy, use=use, jit_compile=jit_compile)
    label_map = load_label_map(reader)
    tf_keras.utils.set_random_seed(seed)  # first weights; everything later is seeded where it is drawn
    with workers.naming_lost_workers(strategy, lambda: "No step was taken."), strategy.scope():
        execution = builder.training_execution(config, is_tpu=is_tpu, jit_compile=jit_compile)
        model = builder.build_detector(config, reader, execution=execution)
        optimizer = builder.build_optimizer(settings.optimizer)
    variables = optimizers.select_variables(
        model, update=list(settings.update_trainable_variables), freeze=list(settings.freeze_variables)
    )
    _show_frozen(model, variables)
    report = DataReport()
    job = secrets.token_hex(8)

    def make_dataset(input_context: tf.distribute.InputContext, data_seed: int) -> tf.data.Dataset:
        service = None
        if data_service_address:
            # The workers of a run must come to one name, each by itself; that of a run alone is nobody else's.
            is_alone = input_context.num_input_pipelines == 1
            words = [config.SerializeToString(deterministic=True), model_dir.encode(), b"%d" % data_seed]
            name = job if is_alone else hashlib.sha256(b"\0".join(words)).hexdigest()[:16]
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

    after_checkpoint = [functools.partial(_save_config_once, config, model_dir, set())]
    if evaluate_checkpoints:
        evaluator = Evaluator(
            config,
            model=model,
            strategy=strategy,
            output_dir=model_dir,
            sample_1_of_n=sample_1_of_n_eval_examples,
        )
        best = checkpoints.BestCheckpoint(model_dir, metric=evaluator.main_result)
        after_checkpoint.append(functools.partial(_evaluate_in_training, evaluator, best, optimizer, variables, config))

    def on_checkpoint(step: int, path: str) -> None:
        for act in after_checkpoint:
            act(step, path)

    result = training_loop.train(
        model=model,
        optimizer=optimizer,
        dataset=make_dataset,
        strategy=strategy,
        model_dir=model_dir,
        num_steps=settings.num_steps if num_steps is None else num_steps,
        variables=variables,
        initialize=functools.partial(_initialize, config, model) if settings.fine_tune_checkpoint else None,
        gradient_clipping_by_norm=settings.gradient_clipping_by_norm,
        add_regularization_loss=settings.add_regularization_loss,
        jit_compile=execution.jit_compile,
        accumulate_gradients=settings.accumulate_gradients,
        all_reduce_dtype=tf.as_dtype(builder.dtype_name(settings.all_reduce_precision)),
        scale_loss=execution.dtype == "mixed_float16",
        seed=seed,
        checkpoint_every_n=checkpoint_every_n,
        keep_checkpoint_every_n_hours=settings.keep_checkpoint_every_n_hours or None,
        record_summaries=record_summaries,
        on_checkpoint=on_checkpoint,
    )
    log_notices(report)
    return result


def evaluate(
    config: Config,
    *,
    checkpoint: str,
    output_dir: str,
    strategy: tf.distribute.Strategy | None = None,
    sample_1_of_n_eval_examples: int | None = None,
    eval_on_train_data: bool = False,
    sample_1_of_n_eval_on_train_examples: int = 5,
) -> dict[str, float]:
    """Evaluates one checkpoint on every `eval_input_reader`.

    Args:
        config: a checked config (`require_data="eval"`).
        checkpoint: a checkpoint, or a folder, which means its newest.
        output_dir: folder for TensorBoard's `eval` and `metrics.jsonl`.
        strategy: of `strategies.make_strategy`; None = one device.
        sample_1_of_n_eval_examples: evaluate every n-th example; None = as the reader says.
        eval_on_train_data: evaluate the training data instead.
        sample_1_of_n_eval_on_train_examples: of which every n-th example is taken.

    Returns:
        The metrics and losses; with several readers, prefixed by their names.

    Raises:
        CheckpointError: if the checkpoint is missing, damaged or of another model.
        ConfigError: if the config does not suit the strategy.
    """
    evaluator = build_evaluator(
        config,
        output_dir=output_dir,
        strategy=strategy,
        sample_1_of_n=sample_1_of_n_eval_on_train_examples if eval_on_train_data else sample_1_of_n_eval_examples,
        on_train_data=eval_on_train_data,
    )
    return evaluator.evaluate_checkpoint(checkpoint)


def evaluate_continuously(
    config: Config,
    *,
    checkpoint_dir: str,
    output_dir: str,
    strategy: tf.distribute.Strategy | None = None,
    timeout: float = 3600.0,
    sample_1_of_n_eval_examples: int | None = None,
    eval_on_train_data: bool = False,
    sample_1_of_n_eval_on_train_examples: int = 5,
) -> dict[int, dict[str, float]]:
    """Evaluates every checkpoint that appears in a folder until training is over or none has come for `timeout` seconds.

    The other arguments are those of `evaluate`; the result maps steps to metrics.
    """
    evaluator = build_evaluator(
        config,
        output_dir=output_dir,
        strategy=strategy,
        sample_1_of_n=sample_1_of_n_eval_on_train_examples if eval_on_train_data else sample_1_of_n_eval_examples,
        on_train_data=eval_on_train_data,
    )
    return evaluation_loop.evaluate_continuously(
        checkpoint_dir=checkpoint_dir,
        evaluate_fn=lambda path, _: evaluator.evaluate_checkpoint(path),
        timeout=timeout,
        final_step=config.train_config.num_steps or None,
    )


def export(
    config: Config,
    *,
    checkpoint: str,
    output_dir: str,
    input_type: str = "image_tensor",
    jit_compile: bool = False,
    device: Literal["cpu", "gpu"] | None = None,
) -> str:
    """Writes a checkpoint as a SavedModel in the Object Detection API's layout; returns the SavedModel's folder.

    Args:
        config: a checked config.
        checkpoint: a checkpoint, or a folder, which means its newest.
        output_dir: folder for `saved_model/`, `checkpoint/` and `pipeline.config`.
        input_type: one of `serving.input_types.INPUT_TYPES`.
        jit_compile: let XLA compile the model where it is served; images must be of one size after the resizer.
        device: what the model is to be fast on; it runs on both. None: what this machine has.

    Raises:
        CheckpointError: if the checkpoint is missing, damaged or of another model.
        ConfigError: if `jit_compile` is asked for, and the resizer leaves images of different sizes.
        ValueError: if `input_type` is unknown.
    """
    reader = config.eval_input_reader[0] if config.eval_input_reader else config.train_input_reader
    strategies.check_strategy(config, tf.distribute.get_strategy(), use="export", jit_compile=jit_compile)
    execution = builder.inference_execution(config, jit_compile=jit_compile, device=device)
    model = builder.build_detector(config, reader, execution=execution)
    sources.restore_model(checkpoint, model, use_averages=config.eval_config.use_moving_averages)
    return saved_model.export_saved_model(
        model=model,
        resizer=builder.build_resizer(config.model.faster_rcnn.image_resizer),
        input_type=input_type,
        output_dir=output_dir,
        pipeline_config_text=config_lib.format_config(config),
        variables=checkpoints.variables_by_path(model),
        num_channels=builder.num_image_channels(config.model.faster_rcnn, reader),
        decode_record=_make_record_decoder(config, reader) if reader.num_additional_channels else None,
        jit_compile=jit_compile,
    )


def make_predictor(config: Config, *, checkpoint: str) -> Predictor:
    """A predictor with a checkpoint's weights and the label map's names."""
    reader = config.eval_input_reader[0] if config.eval_input_reader else config.train_input_reader
    model = builder.build_detector(config, reader, execution=builder.inference_execution(config))
    sources.restore_model(checkpoint, model, use_averages=config.eval_config.use_moving_averages)
    return Predictor.from_model(
        model=model,
        resizer=builder.build_resizer(config.model.faster_rcnn.image_resizer),
        categories=list_categories(config, load_label_map(reader)),
        num_channels=builder.num_image_channels(config.model.faster_rcnn, reader),
    )


def _make_record_decoder(config: Config, reader: input_reader_pb2.InputReader) -> Callable[[tf.Tensor], tf.Tensor]:
    """Serialized example -> image with its additional channels, which no image file holds."""
    decoding = decoder.Decoding(
        num_classes=config.model.faster_rcnn.num_classes, num_additional_channels=reader.num_additional_channels
    )
    return lambda serialized: decoder.decode_example(serialized, decoding).example.image


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show_frozen(model: Detector, trained: list[tf.Variable]) -> None:
    """Says which variables `freeze_variables` and `update_trainable_variables` leave as they are."""
    kept = {id(variable) for variable in trained}
    paths = checkpoints.variables_by_path(model)
    trainable = {id(variable) for variable in model.trainable_variables}
    frozen = [path for path, variable in paths.items() if id(variable) in trainable - kept]
    if frozen:
        print(f"{len(frozen)} of {len(trainable)} trainable variables are frozen: {', '.join(frozen)}", flush=True)


def _initialize(config: Config, model: Detector) -> None:
    """First weights from `train_config.fine_tune_checkpoint`."""
    settings = config.train_config
    kind = settings.fine_tune_checkpoint_type or ("detection" if settings.from_detection_checkpoint else "")
    report, title = sources.restore_for_fine_tuning(settings.fine_tune_checkpoint, model, kind=kind)
    print(report.table(title), flush=True)


def _save_config_once(config: Config, model_dir: str, done: set[str], _: int, __: str) -> None:
    """The first checkpoint of a run brings the config it was made with; a run that fails before leaves the old one."""
    if model_dir not in done:
        config_lib.save_config(config, os.path.join(model_dir, "pipeline.config"))
        done.add(model_dir)


def _evaluate_in_training(
    evaluator: Evaluator,
    best: checkpoints.BestCheckpoint,
    optimizer: optimizers.AveragingOptimizer,
    variables: list[tf.Variable],
    config: Config,
    step: int,
    path: str,
) -> None:
    with _averages(optimizer, variables, config):
        results = evaluator(step)
    if best.offer(path, step, results):
        _say(f"Step {step} is the best so far; a copy of its checkpoint is in best/.")


@contextlib.contextmanager
def _averages(optimizer: optimizers.AveragingOptimizer, variables: list[tf.Variable], config: Config) -> Iterator[None]:
    wanted = config.eval_config.use_moving_averages and config.train_config.optimizer.use_moving_average
    use: Callable[[], contextlib.AbstractContextManager] = (
        functools.partial(optimizer.averaged, variables) if wanted else contextlib.nullcontext
    )
    with use():
        yield
