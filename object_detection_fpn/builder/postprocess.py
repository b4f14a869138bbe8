"""From logits to detections, from `second_stage_post_processing`."""

from __future__ import annotations

import functools

import tensorflow as tf

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import calibration, postprocess
from object_detection_fpn.ops import box_coder, nms
from object_detection_fpn.protos import calibration_pb2, post_processing_pb2


def build_postprocessor(
    message: post_processing_pb2.PostProcessing,
    *,
    coder: box_coder.BoxCoder = box_coder.BoxCoder(),
    execution: Execution = Execution(),
) -> postprocess.Postprocessor:
    """Decoding by `coder`, scores and suppression."""
    return postprocess.Postprocessor(
        score_converter=build_score_converter(message, execution=execution),
        suppression=build_suppression(message.batch_non_max_suppression),
        static=execution.static,
        coder=coder,
    )


def build_suppression(message: post_processing_pb2.BatchNonMaxSuppression) -> nms.Suppression:
    return nms.Suppression(
        iou_threshold=message.iou_threshold,
        score_threshold=message.score_threshold,
        max_detections_per_class=message.max_detections_per_class,
        max_total_detections=message.max_total_detections,
        class_agnostic=message.use_class_agnostic_nms,
        max_classes_per_detection=message.max_classes_per_detection,
        keep_empty=message.use_combined_nms,
        soft_nms_sigma=0.0 if message.use_hard_nms else message.soft_nms_sigma,
        clip_before_suppression=message.clip_before_suppression,
        min_box_side=message.min_box_side,
    )


def build_score_converter(
    message: post_processing_pb2.PostProcessing, *, execution: Execution = Execution()
) -> postprocess.ScoreConverter:
    """From logits to calibrated scores: divided by `logit_scale`, converted, calibrated."""
    name = post_processing_pb2.PostProcessing.ScoreConverter.Name(message.score_converter)
    convert = (postprocess.PORTABLE_CONVERTERS if execution.portable else postprocess.SCORE_CONVERTERS)[name]
    calibrate = build_calibration(message.calibration_config) if message.HasField("calibration_config") else tf.identity
    return lambda logits: calibrate(convert(logits / message.logit_scale))


def build_calibration(message: calibration_pb2.CalibrationConfig) -> calibration.Calibration:
    """The function of `calibration_config`."""

    def piecewise_linear(pairs: calibration_pb2.XYPairs) -> calibration.Calibration:
        x, y = [pair.x for pair in pairs.x_y_pair], [pair.y for pair in pairs.x_y_pair]
        return functools.partial(calibration.piecewise_linear, x=x, y=y)

    def sigmoid(parameters: calibration_pb2.SigmoidParameters) -> calibration.Calibration:
        return functools.partial(calibration.sigmoid, a=parameters.a, b=parameters.b)

    kind = message.WhichOneof("calibrator")
    chosen = getattr(message, kind)
    if kind == "function_approximation":
        return piecewise_linear(chosen.x_y_pairs)
    if kind == "sigmoid_calibration":
        return sigmoid(chosen.sigmoid_parameters)
    if kind == "temperature_scaling_calibration":
        return functools.partial(calibration.temperature, scaler=chosen.scaler)
    if kind == "class_id_function_approximations":
        calibrations = {i: piecewise_linear(pairs) for i, pairs in chosen.class_id_xy_pairs_map.items()}
    else:
        calibrations = {i: sigmoid(parameters) for i, parameters in chosen.class_id_sigmoid_parameters_map.items()}
    return functools.partial(calibration.of_each_class, calibrations=calibrations)
