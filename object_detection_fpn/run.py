"""The four things one does with a pipeline config: train, evaluate, both at once, export.

Each function takes a config that `config.load_config` has checked, builds what it describes, and hands it to the loops.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import tensorflow as tf
import tf_keras
from absl import logging
from official.common import distribute_utils

from object_detection_fpn import builder, records, saved_model
from object_detection_fpn import config as config_lib
from object_detection_fpn import label_map as label_map_lib
from object_detection_fpn import predict as predict_lib
from object_detection_fpn.data import decoder
from object_detection_fpn.data import service as data_service
from object_detection_fpn.data.report import DataReport
from object_detection_fpn.evaluation import loop as evaluation_loop
from object_detection_fpn.interop import sources
from object_detection_fpn.modeling import faster_rcnn
from object_detection_fpn.protos import input_reader_pb2, pipeline_pb2, train_pb2
from object_detection_fpn.training import checkpoints, optimizers, workers
from object_detection_fpn.training import loop as training_loop

Config = pipeline_pb2.TrainEvalPipelineConfig


def make_strategy(
    *,
    use_tpu: bool = False,
    tpu_name: str | None = None,
    num_workers: int = 1,
    worker_timeout: float = 600.0,
) -> tf.distribute.Strategy:
    """Chooses how the work is spread: TPU, several workers, several GPUs, or one device.

    Args:
        use_tpu: train on the TPU `tpu_name`.
        tpu_name: name or gRPC address of a Cloud TPU; None or "" for the TPU of this machine.
        num_workers: above 1, one of the workers that the environment variable TF_CONFIG describes.
        worker_timeout: seconds to wait for the others of them.

    Raises:
        ValueError: if both a TPU and several workers are asked for, the TPU is not there, or TF_CONFIG is missing, no such
            description, of another number of workers, or of an address at which this worker cannot listen.
        WorkersMissingError: if a worker does not come.
    """
    if use_tpu and num_workers > 1:
        raise ValueError(
            f"--use_tpu and --num_workers = {num_workers} exclude each other: a TPU brings its own workers."
        )
    if use_tpu:
        try:
            return distribute_utils.get_distribution_strategy("tpu", tpu_address=tpu_name or "local")
        except (tf.errors.OpError, OSError, RuntimeError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            place = f"--tpu_name = {tpu_name} names no TPU that answers" if tpu_name else "this machine has no TPU"
            raise ValueError(f"--use_tpu: {place} ({reason})") from error
    if num_workers > 1:
        if not os.environ.get("TF_CONFIG"):
            raise ValueError(
                f"--num_workers = {num_workers} needs the environment variable TF_CONFIG, which lists the workers and says "
                "which of them this process is."
            )
        addresses, own = _list_workers(os.environ["TF_CONFIG"], num_workers)
        workers.wait_for_workers(addresses, own, timeout=worker_timeout, say=_say)
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except tf.errors.OpError as error:
            raise workers.WorkersMissingError(
                f"The workers of TF_CONFIG cannot be joined ({error.message.strip().splitlines()[0]}). Start all of them "
                "again once those of an earlier run have ended."
            ) from error
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    if num_gpus > 1:
        return distribute_utils.get_distribution_strategy("mirrored", num_gpus=num_gpus)
    return tf.distribute.get_strategy()


def _list_workers(tf_config: str, num_workers: int) -> tuple[list[str], int]:
    """The addresses of all workers, the chief's first, and which of them is this process."""
    example = '{"cluster": {"worker": ["host1:port", "host2:port"]}, "task": {"type": "worker", "index": 0}}'
    try:
        described = json.loads(tf_config)
        cluster = {kind: [str(address) for address in addresses] for kind, addresses in described["cluster"].items()}
        kind, index = described["task"]["type"], int(described["task"]["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"TF_CONFIG = {tf_config} does not describe the workers. Allowed: {example}.") from error
    chiefs = cluster.get("chief", [])
    addresses = chiefs + cluster.get("worker", [])
    if len(addresses) != num_workers:
        raise ValueError(f"--num_workers = {num_workers}, but TF_CONFIG lists {len(addresses)} workers: {tf_config}.")
    if kind not in ("chief", "worker"):
        raise ValueError(f'TF_CONFIG says that this process is a "{kind}". Allowed: chief, worker. It is {tf_config}.')
    of_kind = len(cluster.get(kind, []))
    if not 0 <= index < of_kind:
        raise ValueError(
            f'TF_CONFIG says that this process is number {index} of "{kind}", of which it lists {of_kind} '
            f"(counted from 0): {tf_config}."
        )
    return addresses, index + (len(chiefs) if kind == "worker" else 0)


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
        strategy: of `make_strategy`; None = one device.
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
    is_tpu = _is_tpu(strategy)
    for use in ("train", "eval") if evaluate_checkpoints else ("train",):
        _check_strategy(config, strategy, use=use, jit_compile=jit_compile)
    precision = training_precision(settings, is_tpu=is_tpu)
    label_map = _load_label_map(reader)
    tf_keras.utils.set_random_seed(seed)  # first weights; everything later is seeded where it is drawn
    with workers.naming_lost_workers(strategy, lambda: "No step was taken."), strategy.scope():
        model = build_training_model(config, precision=precision, static=is_tpu or jit_compile)
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
        jit_compile=jit_compile and not is_tpu,
        accumulate_gradients=settings.accumulate_gradients,
        all_reduce_dtype=tf.as_dtype(dtype_name(settings.all_reduce_precision)),
        scale_loss=precision == train_pb2.FLOAT16,
        seed=seed,
        checkpoint_every_n=checkpoint_every_n,
        keep_checkpoint_every_n_hours=settings.keep_checkpoint_every_n_hours or None,
        record_summaries=record_summaries,
        on_checkpoint=on_checkpoint,
    )
    _log_notices(report)
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
        strategy: of `make_strategy`; None = one device.
        sample_1_of_n_eval_examples: evaluate every n-th example; None = as the reader says.
        eval_on_train_data: evaluate the training data instead.
        sample_1_of_n_eval_on_train_examples: of which every n-th example is taken.

    Returns:
        The metrics and losses; with several readers, prefixed by their names.

    Raises:
        CheckpointError: if the checkpoint is missing, damaged or of another model.
        ConfigError: if the config does not suit the strategy.
    """
    evaluator = _build_evaluator(
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
    evaluator = _build_evaluator(
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
        input_type: one of `saved_model.INPUT_TYPES`.
        jit_compile: let XLA compile the model where it is served; images must be of one size after the resizer.
        device: what the model is to be fast on; it runs on both. None: what this machine has.

    Raises:
        CheckpointError: if the checkpoint is missing, damaged or of another model.
        ConfigError: if `jit_compile` is asked for, and the resizer leaves images of different sizes.
        ValueError: if `input_type` is unknown.
    """
    reader = config.eval_input_reader[0] if config.eval_input_reader else config.train_input_reader
    _check_strategy(config, tf.distribute.get_strategy(), use="export", jit_compile=jit_compile)
    model = _build_model(config, reader, static=jit_compile, device=device)
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


def make_predictor(config: Config, *, checkpoint: str) -> predict_lib.Predictor:
    """A predictor with a checkpoint's weights and the label map's names."""
    reader = config.eval_input_reader[0] if config.eval_input_reader else config.train_input_reader
    model = _build_model(config, reader)
    sources.restore_model(checkpoint, model, use_averages=config.eval_config.use_moving_averages)
    return predict_lib.Predictor.from_model(
        model=model,
        resizer=builder.build_resizer(config.model.faster_rcnn.image_resizer),
        categories=_categories(config, _load_label_map(reader)),
        num_channels=builder.num_image_channels(config.model.faster_rcnn, reader),
    )


class Evaluator:
    """Evaluates a model, built once and traced once, on every evaluation reader of a config.

    Args:
        config: the config.
        model: the model, built under `strategy`.
        strategy: of the model.
        output_dir: results go to its `eval/<name of the reader>`.
        sample_1_of_n: evaluate every n-th example; None = as each reader says.
        on_train_data: evaluate the training reader instead.
    """

    def __init__(
        self,
        config: Config,
        *,
        model: faster_rcnn.FasterRCNN,
        strategy: tf.distribute.Strategy,
        output_dir: str,
        sample_1_of_n: int | None = None,
        on_train_data: bool = False,
    ):
        self.model = model
        self._config = config
        self._strategy = strategy
        self._output_dir = output_dir
        self._sample_1_of_n = sample_1_of_n
        readers = [config.train_input_reader] if on_train_data else list(config.eval_input_reader)
        self._readers = [
            (
                reader,
                reader.name or ("train_data" if on_train_data else "" if i == 0 else str(i)),
                _load_label_map(reader),
            )
            for i, reader in enumerate(readers)
        ]
        self._eval_step = evaluation_loop.make_eval_step(
            model=model,
            strategy=strategy,
            compute_losses=not config.eval_config.ignore_groundtruth,
            add_regularization_loss=config.train_config.add_regularization_loss,
        )

    @property
    def main_result(self) -> str:
        """The name, among the results, of the number by which checkpoints are compared."""
        categories = _categories(self._config, self._readers[0][2])
        return self.key(0, builder.build_metrics(self._config.eval_config, categories)[0].main_result)

    def key(self, reader_index: int, metric: str) -> str:
        """The name of a reader's metric among the results."""
        name = self._readers[reader_index][1]
        return metric if len(self._readers) == 1 or not name else f"{name}/{metric}"

    def evaluate_checkpoint(self, checkpoint: str) -> dict[str, float]:
        """Restores a checkpoint into the model, with averages if the config says so, and evaluates it."""
        use_averages = self._config.eval_config.use_moving_averages
        restored = sources.restore_model(checkpoint, self.model, use_averages=use_averages)
        return self(restored.step)

    def __call__(self, step: int) -> dict[str, float]:
        """Evaluates the model as it is, on all readers in turn."""
        settings = self._config.eval_config
        color = settings.groundtruth_box_visualization_color
        results: dict[str, float] = {}
        num_replicas = self._strategy.num_replicas_in_sync
        batch_size = -(-settings.batch_size // num_replicas) * num_replicas
        for i, (reader, name, label_map) in enumerate(self._readers):
            report = DataReport()
            dataset = builder.build_dataset(
                self._config,
                reader,
                label_map=label_map,
                batch_size=batch_size,
                is_training=False,
                seed=0,
                report=report,
                sample_1_of_n=self._sample_1_of_n,
            )
            if self.model.num_stages == 1:
                dataset = dataset.map(_as_one_class)
            categories = _categories(self._config, label_map)
            metrics = evaluation_loop.evaluate(
                model=self.model,
                dataset=dataset,
                metrics=builder.build_metrics(settings, categories),
                step=step,
                strategy=self._strategy,
                eval_step=self._eval_step,
                categories=categories,
                output_dir=os.path.join(self._output_dir, "eval", name),
                num_visualizations=settings.num_visualizations if settings.retain_original_images else 0,
                min_score_threshold=settings.min_score_threshold,
                max_num_boxes_to_visualize=settings.max_num_boxes_to_visualize,
                skip_labels=settings.skip_labels,
                skip_scores=settings.skip_scores,
                groundtruth_color=color if settings.HasField("groundtruth_box_visualization_color") else None,
                ignore_groundtruth=settings.ignore_groundtruth,
                export_dir=os.path.join(folder, name) if (folder := settings.visualization_export_dir) else None,
                export_with_groundtruth=settings.visualize_groundtruth_boxes,
                export_with_source_id=settings.keep_image_id_for_visualization_export,
            )
            _log_notices(report)
            results |= {self.key(i, metric): value for metric, value in metrics.items()}
        return results


def _build_evaluator(
    config: Config,
    *,
    output_dir: str,
    strategy: tf.distribute.Strategy | None,
    sample_1_of_n: int | None,
    on_train_data: bool,
) -> Evaluator:
    strategy = strategy or tf.distribute.get_strategy()
    _check_strategy(config, strategy, use="eval")
    reader = config.train_input_reader if on_train_data else config.eval_input_reader[0]
    with strategy.scope():
        model = _build_model(config, reader, static=_is_tpu(strategy))
    return Evaluator(
        config,
        model=model,
        strategy=strategy,
        output_dir=output_dir,
        sample_1_of_n=sample_1_of_n,
        on_train_data=on_train_data,
    )


def build_training_model(config: Config, *, precision: train_pb2.Precision, static: bool) -> faster_rcnn.FasterRCNN:
    """The model as training builds it; `static` as for `builder.build_model`."""
    settings = config.train_config
    return builder.build_model(
        config.model,
        static=static,
        dtype="float32" if precision == train_pb2.FLOAT32 else f"mixed_{dtype_name(precision)}",
        num_channels=builder.num_image_channels(config.model.faster_rcnn, config.train_input_reader),
        recompute_backbone=settings.recompute_backbone if settings.HasField("recompute_backbone") else None,
    )


def _build_model(
    config: Config,
    reader: input_reader_pb2.InputReader,
    *,
    static: bool = False,
    device: Literal["cpu", "gpu"] | None = None,
) -> faster_rcnn.FasterRCNN:
    """The model without training; nothing of it has a gradient."""
    if device is None:
        device = "gpu" if tf.config.list_logical_devices("GPU") else "cpu"
    return builder.build_model(
        config.model,
        static=static,
        num_channels=builder.num_image_channels(config.model.faster_rcnn, reader),
        recompute_backbone=False,
        winograd=device == "cpu" and not static,
    )


def _check_strategy(config: Config, strategy: tf.distribute.Strategy, *, use: str, jit_compile: bool = False) -> None:
    config_lib.check_strategy(
        config,
        "pipeline config",
        use=use,
        num_replicas=strategy.num_replicas_in_sync,
        is_tpu=_is_tpu(strategy),
        has_workers=isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy),
        jit_compile=jit_compile,
    )


def training_precision(settings: train_pb2.TrainConfig, *, is_tpu: bool) -> train_pb2.Precision:
    """What `train_config.precision` says; where it says nothing, `use_bfloat16` speaks for TPUs."""
    if not settings.HasField("precision") and settings.use_bfloat16 and is_tpu:
        return train_pb2.BFLOAT16
    return settings.precision


def dtype_name(precision: train_pb2.Precision) -> str:
    """As TensorFlow calls it."""
    return train_pb2.Precision.Name(precision).lower()


def _make_record_decoder(config: Config, reader: input_reader_pb2.InputReader) -> Callable[[tf.Tensor], tf.Tensor]:
    """Serialized example -> image with its additional channels, which no image file holds."""

    def decode(serialized: tf.Tensor) -> tf.Tensor:
        return decoder.decode_example(
            serialized,
            num_classes=config.model.faster_rcnn.num_classes,
            num_additional_channels=reader.num_additional_channels,
        ).example.image

    return decode


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _is_tpu(strategy: tf.distribute.Strategy) -> bool:
    return isinstance(strategy, tf.distribute.TPUStrategy)


def _load_label_map(reader: input_reader_pb2.InputReader) -> label_map_lib.LabelMap:
    return label_map_lib.load_label_map(reader.label_map_path, use_display_name=reader.use_display_name)


def _show_frozen(model: faster_rcnn.FasterRCNN, trained: list[tf.Variable]) -> None:
    """Says which variables `freeze_variables` and `update_trainable_variables` leave as they are."""
    kept = {id(variable) for variable in trained}
    paths = checkpoints.variables_by_path(model)
    trainable = {id(variable) for variable in model.trainable_variables}
    frozen = [path for path, variable in paths.items() if id(variable) in trainable - kept]
    if frozen:
        print(f"{len(frozen)} of {len(trainable)} trainable variables are frozen: {', '.join(frozen)}", flush=True)


def _categories(config: Config, label_map: label_map_lib.LabelMap) -> Sequence[Mapping[str, Any]]:
    """What the model tells apart: a model of one stage knows objects only."""
    is_one_stage = config.model.faster_rcnn.number_of_stages == 1
    return [{"id": 1, "name": "object"}] if is_one_stage else label_map.categories


def _as_one_class(batch: records.Batch) -> records.Batch:
    """Groundtruth for proposals, which are of no class, so that it does not matter which classes were looked for."""
    groundtruth = batch.groundtruth._replace(classes=tf.zeros_like(batch.groundtruth.classes))
    return batch._replace(groundtruth=groundtruth, labeled_classes=None)


def _log_notices(report: DataReport) -> None:
    """Says in the end what the data had to be forgiven."""
    if summary := report.summary():
        logging.warning("Imperfect data:\n%s", summary)


def _initialize(config: Config, model: faster_rcnn.FasterRCNN) -> None:
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
