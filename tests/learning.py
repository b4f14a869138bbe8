"""A detector that learns a few images by heart: the shortest proof that losses, targets and gradients belong together."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from object_detection_fpn import builder
from object_detection_fpn.config import label_map
from object_detection_fpn.evaluation import coco
from object_detection_fpn.evaluation.metric import ImageDetections, ImageGroundtruth
from object_detection_fpn.modeling.detector import mean_losses
from object_detection_fpn.protos import pipeline_pb2
from object_detection_fpn.training import schedules

_NUM_IMAGES, _NUM_STEPS = 4, 200


def average_precision_by_heart(config: pipeline_pb2.TrainEvalPipelineConfig) -> float:
    """AP50 on the four images that a detector saw for 200 steps of Adam, from random weights.

    Args:
        config: with the detector, the evaluation's data and an `adam_optimizer`, whose learning rate is not used.
    """
    labels = label_map.load_label_map(config.train_input_reader.label_map_path)
    reader = config.eval_input_reader[0]
    dataset = builder.build_dataset(config, reader, label_map=labels, batch_size=_NUM_IMAGES, is_training=False, seed=0)
    batch = next(iter(dataset))
    tf_keras.utils.set_random_seed(3)
    model = builder.build_model(config.model)
    inputs = model.preprocess(batch.inputs)
    _train(model, inputs, batch.groundtruth, config.train_config.optimizer.adam_optimizer)

    metrics = coco.CocoBoxMetrics(labels.categories)
    detections = model.postprocess(model.predict(inputs, training=False), inputs)
    for i in range(_NUM_IMAGES):
        num, found = int(batch.groundtruth.num_boxes[i]), int(detections.num_detections[i])
        size = np.tile(inputs.true_shapes[i, :2].numpy(), 2)
        metrics.update(
            ImageGroundtruth(
                source_id=str(i),
                boxes=batch.groundtruth.boxes[i, :num].numpy(),
                classes=batch.groundtruth.classes[i, :num].numpy(),
                is_crowd=batch.groundtruth.is_crowd[i, :num].numpy(),
            ),
            ImageDetections(
                boxes=detections.boxes[i, :found].numpy() * size,
                scores=detections.scores[i, :found].numpy(),
                classes=detections.classes[i, :found].numpy(),
            ),
        )
    return metrics.result()["DetectionBoxes_Precision/mAP@.50IOU"]


def _train(model: Any, inputs: Any, groundtruth: Any, settings: Any) -> None:
    rates = schedules.CosineDecayLearningRate(learning_rate_base=3e-3, total_steps=_NUM_STEPS)
    optimizer = builder.OPTIMIZERS["adam_optimizer"](settings, rates)
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)
    def step(i):
        with tf.GradientTape() as tape:
            predictions = model.predict(inputs, training=True, groundtruth=groundtruth, seed=tf.stack([i, 0]))
            total = tf.add_n(list(mean_losses(model, predictions, groundtruth).values()))
        gradients = tape.gradient(total, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return total

    for i in tf.range(_NUM_STEPS):
        step(i)
