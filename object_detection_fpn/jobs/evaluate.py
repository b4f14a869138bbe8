"""Evaluates one checkpoint, or every one that appears, on all evaluation readers of a config."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from object_detection_fpn import builder, records
from object_detection_fpn.config import label_map as label_map_lib
from object_detection_fpn.config import model as model_config
from object_detection_fpn.data.report import DataReport
from object_detection_fpn.evaluation import continuous
from object_detection_fpn.evaluation import loop as evaluation_loop
from object_detection_fpn.evaluation.metric import ImageDetections, ImageGroundtruth
from object_detection_fpn.evaluation.pictures import PictureSettings
from object_detection_fpn.interop import sources
from object_detection_fpn.jobs import strategies
from object_detection_fpn.modeling.detector import Detector
from object_detection_fpn.protos import input_reader_pb2, pipeline_pb2

Config = pipeline_pb2.TrainEvalPipelineConfig


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
    return continuous.evaluate_continuously(
        checkpoint_dir=checkpoint_dir,
        evaluate_fn=lambda path, _: evaluator.evaluate_checkpoint(path),
        timeout=timeout,
        final_step=config.train_config.num_steps or None,
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
        model: Detector,
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
                load_label_map(reader),
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
        categories = list_categories(self._config, self._readers[0][2])
        return self.key(0, builder.build_metrics(self._config.eval_config, categories)[0].main_result)

    def result_names(self) -> list[str]:
        """The names of all numbers that an evaluation gives, as metrics have them that saw an image without any box."""
        settings = self._config.eval_config
        losses = [] if settings.ignore_groundtruth else [*self.model.loss_names, records.TOTAL_LOSS]
        if losses and self._config.train_config.add_regularization_loss:
            losses.append(records.REGULARIZATION_LOSS)
        names = []
        for i, (_, _, label_map) in enumerate(self._readers):
            metrics = builder.build_metrics(settings, list_categories(self._config, label_map))
            for metric in metrics:
                metric.update(*_blank_image())
            of_reader = [*(name for metric in metrics for name in metric.result()), *losses]
            names += [self.key(i, name) for name in of_reader]
        return names

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
            if model_config.is_class_agnostic(self._config.model):
                dataset = dataset.map(as_one_class)
            categories = list_categories(self._config, label_map)
            metrics = evaluation_loop.evaluate(
                eval_step=self._eval_step,
                dataset=dataset,
                metrics=builder.build_metrics(settings, categories),
                step=step,
                strategy=self._strategy,
                categories=categories,
                output_dir=os.path.join(self._output_dir, "eval", name),
                pictures=PictureSettings(
                    num_images=settings.num_visualizations if settings.retain_original_images else 0,
                    min_score=settings.min_score_threshold,
                    max_num_boxes=settings.max_num_boxes_to_visualize,
                    show_labels=not settings.skip_labels,
                    show_scores=not settings.skip_scores,
                    groundtruth_color=color if settings.HasField("groundtruth_box_visualization_color") else None,
                    export_dir=os.path.join(folder, name) if (folder := settings.visualization_export_dir) else None,
                    export_with_groundtruth=settings.visualize_groundtruth_boxes,
                    export_with_source_id=settings.keep_image_id_for_visualization_export,
                ),
                ignore_groundtruth=settings.ignore_groundtruth,
                mask_pasting=model_config.mask_pasting(self._config.model) or "CORNERS_ALIGNED",
            )
            log_notices(report)
            results |= {self.key(i, metric): value for metric, value in metrics.items()}
        return results


def build_evaluator(
    config: Config,
    *,
    output_dir: str,
    strategy: tf.distribute.Strategy | None,
    sample_1_of_n: int | None,
    on_train_data: bool,
) -> Evaluator:
    strategy = strategy or tf.distribute.get_strategy()
    strategies.check_strategy(config, strategy, use="eval")
    reader = config.train_input_reader if on_train_data else config.eval_input_reader[0]
    with strategy.scope():
        execution = builder.inference_execution(config, is_tpu=strategies.is_tpu(strategy))
        model = builder.build_detector(config, reader, execution=execution)
    return Evaluator(
        config,
        model=model,
        strategy=strategy,
        output_dir=output_dir,
        sample_1_of_n=sample_1_of_n,
        on_train_data=on_train_data,
    )


def load_label_map(reader: input_reader_pb2.InputReader) -> label_map_lib.LabelMap:
    return label_map_lib.reader_label_map(reader)


def list_categories(config: Config, label_map: label_map_lib.LabelMap) -> Sequence[Mapping[str, Any]]:
    """What the model tells apart: a model of one stage knows objects only."""
    return [{"id": 1, "name": "object"}] if model_config.is_class_agnostic(config.model) else label_map.categories


def as_one_class(batch: records.Batch) -> records.Batch:
    """Groundtruth for proposals, which are of no class, so that it does not matter which classes were looked for."""
    groundtruth = batch.groundtruth._replace(classes=tf.zeros_like(batch.groundtruth.classes))
    return batch._replace(groundtruth=groundtruth, labeled_classes=None, not_exhaustive_classes=None)


def is_loss(name: str) -> bool:
    """Whether a result of an evaluation is better the lower it is."""
    return re.search(r"(^|/)Loss/", name) is not None


def _blank_image() -> tuple[ImageGroundtruth, ImageDetections]:
    """An image without boxes, and without detections."""
    boxes, classes, scores = np.zeros([0, 4]), np.zeros([0], np.int64), np.zeros([0])
    groundtruth = ImageGroundtruth(
        source_id="", boxes=boxes, classes=classes, is_crowd=classes.astype(bool), masks=[], image_size=(1, 1)
    )
    return groundtruth, ImageDetections(boxes=boxes, scores=scores, classes=classes, masks=[])


def log_notices(report: DataReport) -> None:
    """Logs the dropped and clipped boxes by reason, at the end of a run."""
    if summary := report.summary():
        logging.warning("Imperfect data:\n%s", summary)
