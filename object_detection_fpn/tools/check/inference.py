"""What a detector computes of one image: the shapes that its parts give, and its arithmetic."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from object_detection_fpn import builder
from object_detection_fpn.config import model as model_config
from object_detection_fpn.modeling.detector import Detector
from object_detection_fpn.protos import pipeline_pb2
from object_detection_fpn.records import Context, Inputs, Predictions
from object_detection_fpn.tools.check import arithmetic, parts

Config = pipeline_pb2.TrainEvalPipelineConfig

_UNKNOWN_SIDE = 640  # pixels, where images keep their sizes


def image_size(config: Config) -> tuple[int, int]:
    """(height, width) of all images, or of the largest of landscape format."""
    kind, resizer = model_config.chosen_resizer(config.model)
    if kind == "fixed_shape_resizer":
        return resizer.height, resizer.width
    if kind == "keep_aspect_ratio_resizer":
        longer = resizer.max_dimension
        return longer if resizer.pad_to_max_dimension else resizer.min_dimension, longer
    return _UNKNOWN_SIDE, _UNKNOWN_SIDE


def trace(config: Config, model: Detector, height: int, width: int) -> tuple[dict[str, str], int]:
    """Traces the detection of one image; nothing is computed.

    Args:
        config: a checked config.
        model: its detector.
        height: of the image, pixels.
        width: of the image, pixels.

    Returns:
        What the parts give, by name, and the floating-point operations, with as many detections as there may be.
    """
    outputs: dict[str, str] = {}
    rows: list[int | None] = []
    num_channels = model_config.num_image_channels(config.model, config.train_input_reader)
    context = builder.build_context_decoding(config)
    length = [] if context is None else [tf.TensorSpec([1, context.max_num, context.length])]

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([1, height, width, num_channels]), *length])
    def detect(images: tf.Tensor, *features: tf.Tensor) -> Any:
        bank = Context(features[0], tf.constant([features[0].shape[1]])) if features else None
        inputs = model.preprocess(Inputs(images, tf.constant([[height, width, num_channels]]), bank))
        predictions = model.predict(inputs, training=False)
        outputs.update(_describe(predictions, model, height, width))
        detections = model.postprocess(predictions, inputs)
        rows.append(detections.boxes.shape[1])
        return [value for value in detections if value is not None]

    graph = detect.get_concrete_function().graph
    return outputs, arithmetic.count_flops(graph, rows=rows[-1] or 1)


def _describe(predictions: Predictions, model: Detector, height: int, width: int) -> dict[str, str]:
    """What each part gives of one image."""
    backbone = model.feature_extractor.backbone
    outputs = {
        parts.stage_name(level): f"{-(-height // 2**level)} x {-(-width // 2**level)} x {backbone.num_filters[level]}"
        for level in backbone.levels
    }
    if predictions.pyramid:
        shapes = [" x ".join(map(str, level.shape[1:])) for level in predictions.pyramid]
        outputs[parts.PYRAMID] = f"{len(shapes)} levels, {shapes[0]} to {shapes[-1]}" if len(shapes) > 1 else shapes[0]
    if predictions.rpn is not None:
        outputs[parts.PROPOSALS] = f"{predictions.rpn.objectness_logits.shape[1]:,} anchors"
    if predictions.box is not None:
        _, num_rois, num_classes = predictions.box.class_logits.shape
        outputs[parts.BOXES] = f"{num_rois:,} regions x {num_classes} classes"
    if predictions.dense is not None:
        _, num_anchors, num_classes = predictions.dense.class_logits.shape
        outputs[parts.DENSE_PREDICTORS] = f"{num_anchors:,} anchors x {num_classes} classes"
    return outputs
