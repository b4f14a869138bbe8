"""Learning rates, optimizers and metrics arrive with their values."""

from __future__ import annotations

import pytest
import tensorflow as tf
from google.protobuf import text_format

from object_detection_fpn import builder
from object_detection_fpn.config import tables
from object_detection_fpn.evaluation.coco import CocoBoxMetrics
from object_detection_fpn.protos import (
    eval_pb2,
    optimizer_pb2,
)
from object_detection_fpn.training import schedules


def parse(text, message_type):
    return text_format.Parse(text, message_type())


@pytest.mark.parametrize(
    "ours, admitted",
    [
        (builder.BACKBONES, (*tables.EXTRACTOR_TYPES, *tables.SSD_EXTRACTOR_TYPES)),
        (builder.METRICS, tables.METRICS_SETS),
    ],
)
def test_what_a_config_may_name_is_what_can_be_built(ours, admitted):
    assert set(ours) == set(admitted)


@pytest.mark.parametrize(
    "text, kind, values",
    [
        ("", schedules.ConstantLearningRate, {0: 0.002, 1000: 0.002}),
        ("constant_learning_rate { learning_rate: 0.25 }", schedules.ConstantLearningRate, {0: 0.25, 1000: 0.25}),
        (
            """
            exponential_decay_learning_rate {
              initial_learning_rate: 1 decay_steps: 10 decay_factor: 0.5 staircase: true
              burnin_learning_rate: 0.125 burnin_steps: 5 min_learning_rate: 0.0625
            }
            """,
            schedules.ExponentialDecayLearningRate,
            {0: 0.125, 4: 0.125, 5: 1.0, 14: 1.0, 15: 0.5, 100: 0.0625},
        ),
        (
            """
            manual_step_learning_rate {
              initial_learning_rate: 0.25 schedule { step: 10 learning_rate: 1 } schedule { step: 20 learning_rate: 0.5 }
              warmup: true
            }
            """,
            schedules.ManualStepLearningRate,
            {0: 0.25, 10: 1.0, 19: 1.0, 20: 0.5, 99: 0.5},
        ),
        (
            """
            cosine_decay_learning_rate {
              learning_rate_base: 1 total_steps: 30 warmup_learning_rate: 0.25 warmup_steps: 10 hold_base_rate_steps: 5
            }
            """,
            schedules.CosineDecayLearningRate,
            {0: 0.25, 10: 1.0, 14: 1.0, 30: 0.0},
        ),
    ],
)
def test_learning_rates(text, kind, values):
    schedule = builder.build_learning_rate(parse(text, optimizer_pb2.LearningRate))
    assert type(schedule) is kind
    assert {step: float(schedule(step)) for step in values} == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("momentum_optimizer { RATE momentum_optimizer_value: 0.75 }", {"momentum": 0.75}),
        (
            "rms_prop_optimizer { RATE momentum_optimizer_value: 0.75 decay: 0.5 epsilon: 0.25 }",
            {"momentum": 0.75, "rho": 0.5, "epsilon": 0.25},
        ),
        ("adam_optimizer { RATE epsilon: 0.25 }", {"epsilon": 0.25}),
    ],
)
@pytest.mark.parametrize(
    "averages, decay", [("", 0.9999), ("moving_average_decay: 0.5", 0.5), ("use_moving_average: false", None)]
)
def test_optimizers(text, expected, averages, decay):
    text = text.replace("RATE", "learning_rate { constant_learning_rate { learning_rate: 0.25 } }")
    optimizer = builder.build_optimizer(parse(f"{text} {averages}", optimizer_pb2.Optimizer))
    optimizer.build([tf.Variable([1.0])])
    assert optimizer.learning_rate_at(3) == 0.25
    assert optimizer.moving_average_decay == (None if decay is None else pytest.approx(decay))
    config = optimizer.get_config()
    assert {key: config[key] for key in expected} == pytest.approx(expected)


CATEGORIES = [{"id": 1, "name": "circle"}]


@pytest.mark.parametrize("text", ["", 'metrics_set: "coco_detection_metrics"'])
def test_metrics_are_cocos_and_fresh_each_time(text):
    message = parse(text, eval_pb2.EvalConfig)
    (first,), (second,) = (builder.build_metrics(message, CATEGORIES) for _ in range(2))
    assert isinstance(first, CocoBoxMetrics)
    assert first is not second


@pytest.mark.parametrize(
    "name, main_result",
    [
        ("coco_detection_metrics", "DetectionBoxes_Precision/mAP"),
        ("pascal_voc_detection_metrics", "PascalBoxes_Precision/mAP@0.5IOU"),
        ("weighted_pascal_voc_detection_metrics", "WeightedPascalBoxes_Precision/mAP@0.5IOU"),
        ("precision_at_recall_detection_metrics", "PrecisionAtRecallBoxes_Precision/mAP@0.5IOU@[0.2,0.8]Recall"),
        ("oid_V2_detection_metrics", "OpenImagesV2_Precision/mAP@0.5IOU"),
        ("open_images_detection_metrics", "OpenImagesV2_Precision/mAP@0.5IOU"),
        ("open_images_V2_detection_metrics", "OpenImagesV2_Precision/mAP@0.5IOU"),
        ("oid_challenge_detection_metrics", "OpenImagesDetectionChallenge_Precision/mAP@0.5IOU"),
        ("oid_challenge_object_detection_metrics", "OpenImagesDetectionChallenge_Precision/mAP@0.5IOU"),
        ("coco_mask_metrics", "DetectionMasks_Precision/mAP"),
        ("lvis_mask_metrics", "DetectionMasks_AP"),
        ("pascal_voc_instance_segmentation_metrics", "PascalMasks_Precision/mAP@0.5IOU"),
        ("weighted_pascal_voc_instance_segmentation_metrics", "WeightedPascalMasks_Precision/mAP@0.5IOU"),
    ],
)
def test_every_set_of_metrics_gives_its_numbers(make_image, name, main_result):
    text = f'metrics_set: "{name}" recall_lower_bound: 0.2 recall_upper_bound: 0.8'
    (metric,) = builder.build_metrics(parse(text, eval_pb2.EvalConfig), CATEGORIES)
    assert metric.main_result == main_result
    metric.update(*make_image([[0, 0, 10, 10]], [[0, 0, 10, 10]]))
    assert main_result in metric.result()
    assert metric.needs_masks == (name in tables.MASK_METRICS_SETS)
