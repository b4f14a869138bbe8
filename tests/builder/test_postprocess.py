"""PostProcessing becomes what turns logits to detections."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format

from object_detection_fpn import builder
from object_detection_fpn.modeling import postprocess
from object_detection_fpn.ops import nms
from object_detection_fpn.protos import (
    post_processing_pb2,
)


def parse(text, message_type):
    return text_format.Parse(text, message_type())


def postprocessor(text):
    return builder.build_postprocessor(parse(text, post_processing_pb2.PostProcessing))


def test_suppression_of_detections():
    found = postprocessor(
        """
        batch_non_max_suppression {
          score_threshold: 0.25 iou_threshold: 0.75 max_detections_per_class: 7 max_total_detections: 9
          use_class_agnostic_nms: true max_classes_per_detection: 2 soft_nms_sigma: 0.5
        }
        """
    )
    assert found == postprocess.Postprocessor(
        score_converter=found.score_converter,
        suppression=nms.Suppression(
            score_threshold=0.25,
            iou_threshold=0.75,
            max_detections_per_class=7,
            max_total_detections=9,
            class_agnostic=True,
            max_classes_per_detection=2,
            soft_nms_sigma=0.5,
        ),
    )


def test_hard_suppression_overrules_the_soft_one():
    text = "batch_non_max_suppression { soft_nms_sigma: 0.5 use_hard_nms: true }"
    assert postprocessor(text).suppression.soft_nms_sigma == 0.0


@pytest.mark.parametrize("name", ["IDENTITY", "SIGMOID", "SOFTMAX"])
def test_score_converters(name):
    logits = tf.constant([[1.0, 2.0, -1.0]])
    convert = postprocess.SCORE_CONVERTERS[name]
    np.testing.assert_array_equal(postprocessor(f"score_converter: {name}").score_converter(logits), convert(logits))
    scaled = postprocessor(f"score_converter: {name} logit_scale: 2").score_converter(logits)
    np.testing.assert_array_equal(scaled, convert(logits / 2.0))


def test_every_score_converter_of_the_language_can_be_built():
    assert set(postprocess.SCORE_CONVERTERS) == set(post_processing_pb2.PostProcessing.ScoreConverter.keys())


def test_clipping_before_suppression():
    found = postprocessor("batch_non_max_suppression { clip_before_suppression: true min_box_side: 0.5 }").suppression
    assert (found.clip_before_suppression, found.min_box_side) == (True, 0.5)
    assert not postprocessor("").suppression.clip_before_suppression


def test_combined_suppression_keeps_what_lies_outside():
    assert postprocessor("batch_non_max_suppression { use_combined_nms: true }").suppression.keep_empty


CURVE = "x_y_pair { x: 0 y: 0.5 } x_y_pair { x: 1 y: 1 }"


@pytest.mark.parametrize(
    "text, expected",
    [
        (f"function_approximation {{ x_y_pairs {{ {CURVE} }} }}", [0.55, 0.65, 0.8]),
        (
            f"class_id_function_approximations {{ class_id_xy_pairs_map {{ key: 1 value {{ {CURVE} }} }} }}",
            [0.1, 0.65, 0.6],
        ),
        ("sigmoid_calibration { }", [1 / (1 + np.exp(-s)) for s in (0.1, 0.3, 0.6)]),
        (
            "sigmoid_calibration { sigmoid_parameters { a: -2 b: 1 } }",
            [1 / (1 + np.exp(-2 * s + 1)) for s in (0.1, 0.3, 0.6)],
        ),
        (
            "class_id_sigmoid_calibrations { class_id_sigmoid_parameters_map { key: 0 value { a: -2 } } }",
            [1 / (1 + np.exp(-0.2)), 0.3, 0.6],
        ),
        ("temperature_scaling_calibration { scaler: 2 }", [0.05, 0.15, 0.3]),
    ],
)
def test_scores_are_calibrated_after_their_conversion(text, expected):
    scores = tf.constant([[0.1, 0.3, 0.6]])
    convert = postprocessor(f"score_converter: SOFTMAX calibration_config {{ {text} }}").score_converter
    np.testing.assert_allclose(convert(tf.math.log(scores)), [expected], rtol=1e-5)
