"""Optimizer and metrics, from `train_config` and `eval_config`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tf_keras

from object_detection_fpn.config.tables import FORMER_METRICS_SETS
from object_detection_fpn.config.text import split_names
from object_detection_fpn.evaluation.coco import CocoBoxMetrics, CocoMaskMetrics
from object_detection_fpn.evaluation.lvis import LvisMaskMetrics
from object_detection_fpn.evaluation.metric import Metric
from object_detection_fpn.evaluation.open_images import OpenImagesBoxMetrics, OpenImagesChallengeBoxMetrics
from object_detection_fpn.evaluation.pascal import PascalBoxMetrics, PascalMaskMetrics, PrecisionAtRecallBoxMetrics
from object_detection_fpn.protos import eval_pb2, optimizer_pb2, train_pb2
from object_detection_fpn.training import optimizers, schedules
from object_detection_fpn.training.averages import AveragingOptimizer

OPTIMIZERS: dict[str, Callable[..., AveragingOptimizer]] = {
    "momentum_optimizer": lambda m, rate, **averages: optimizers.momentum(
        rate, momentum=m.momentum_optimizer_value, **averages
    ),
    "rms_prop_optimizer": lambda m, rate, **averages: optimizers.rms_prop(
        rate, decay=m.decay, momentum=m.momentum_optimizer_value, epsilon=m.epsilon, **averages
    ),
    "adam_optimizer": lambda m, rate, **averages: optimizers.adam(rate, epsilon=m.epsilon, **averages),
}


def _coco_settings(message: eval_pb2.EvalConfig) -> dict[str, Any]:
    return {
        "include_metrics_per_category": message.include_metrics_per_category,
        "all_metrics_per_category": message.all_metrics_per_category,
        "super_categories": {name: split_names(members) for name, members in sorted(message.super_categories.items())},
        "skip_predictions_for_unlabeled_class": message.skip_predictions_for_unlabeled_class,
    }


METRICS: dict[str, Callable[[eval_pb2.EvalConfig, Sequence[Mapping[str, Any]]], Metric]] = {
    "coco_detection_metrics": lambda message, categories: CocoBoxMetrics(categories, **_coco_settings(message)),
    "pascal_voc_detection_metrics": lambda message, categories: PascalBoxMetrics(categories),
    "weighted_pascal_voc_detection_metrics": lambda message, categories: PascalBoxMetrics(categories, weighted=True),
    "precision_at_recall_detection_metrics": lambda message, categories: PrecisionAtRecallBoxMetrics(
        categories,
        recall_lower_bound=message.recall_lower_bound,
        recall_upper_bound=message.recall_upper_bound,
        skip_predictions_for_unlabeled_class=message.skip_predictions_for_unlabeled_class,
    ),
    "oid_V2_detection_metrics": lambda message, categories: OpenImagesBoxMetrics(categories),
    "oid_challenge_detection_metrics": lambda message, categories: OpenImagesChallengeBoxMetrics(categories),
    "coco_mask_metrics": lambda message, categories: CocoMaskMetrics(categories, **_coco_settings(message)),
    "lvis_mask_metrics": lambda message, categories: LvisMaskMetrics(categories),
    "pascal_voc_instance_segmentation_metrics": lambda message, categories: PascalMaskMetrics(categories),
    "weighted_pascal_voc_instance_segmentation_metrics": lambda message, categories: PascalMaskMetrics(
        categories, weighted=True
    ),
}


def training_precision(settings: train_pb2.TrainConfig, *, is_tpu: bool) -> train_pb2.Precision:
    """What `train_config.precision` says; where it says nothing, `use_bfloat16` speaks for TPUs."""
    if not settings.HasField("precision") and settings.use_bfloat16 and is_tpu:
        return train_pb2.BFLOAT16
    return settings.precision


def dtype_name(precision: train_pb2.Precision) -> str:
    """As TensorFlow calls it."""
    return train_pb2.Precision.Name(precision).lower()


def build_optimizer(message: optimizer_pb2.Optimizer) -> AveragingOptimizer:
    """The optimizer of `train_config.optimizer` with its schedule and moving averages."""
    kind = message.WhichOneof("optimizer")
    chosen = getattr(message, kind)
    decay = message.moving_average_decay if message.use_moving_average else None
    return OPTIMIZERS[kind](chosen, build_learning_rate(chosen.learning_rate), moving_average_decay=decay)


def build_learning_rate(
    message: optimizer_pb2.LearningRate,
) -> tf_keras.optimizers.schedules.LearningRateSchedule:
    kind = message.WhichOneof("learning_rate")
    if kind is None:
        return schedules.ConstantLearningRate(learning_rate=optimizer_pb2.ConstantLearningRate().learning_rate)
    rate = getattr(message, kind)
    if kind == "constant_learning_rate":
        return schedules.ConstantLearningRate(learning_rate=rate.learning_rate)
    if kind == "exponential_decay_learning_rate":
        return schedules.ExponentialDecayLearningRate(
            initial_learning_rate=rate.initial_learning_rate,
            decay_steps=rate.decay_steps,
            decay_factor=rate.decay_factor,
            staircase=rate.staircase,
            burnin_learning_rate=rate.burnin_learning_rate,
            burnin_steps=rate.burnin_steps,
            min_learning_rate=rate.min_learning_rate,
        )
    if kind == "manual_step_learning_rate":
        return schedules.ManualStepLearningRate(
            initial_learning_rate=rate.initial_learning_rate,
            steps=[entry.step for entry in rate.schedule],
            learning_rates=[entry.learning_rate for entry in rate.schedule],
            warmup=rate.warmup,
        )
    return schedules.CosineDecayLearningRate(
        learning_rate_base=rate.learning_rate_base,
        total_steps=rate.total_steps,
        warmup_learning_rate=rate.warmup_learning_rate,
        warmup_steps=rate.warmup_steps,
        hold_base_rate_steps=rate.hold_base_rate_steps,
    )


def build_metrics(message: eval_pb2.EvalConfig, categories: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """Fresh metrics of `eval_config.metrics_set`; COCO's when it names none, as in the Object Detection API."""
    names = message.metrics_set or ["coco_detection_metrics"]
    return [METRICS[FORMER_METRICS_SETS.get(name, name)](message, categories) for name in names]
