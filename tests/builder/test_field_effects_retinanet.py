"""Every field of RetinaNet's messages changes something, has no effect and says so, or is refused.

The rows are as those of `test_field_effects_model.py`, which has the messages that detectors share.
"""

from __future__ import annotations

import numpy as np
import pytest
import support
import tensorflow as tf
import tf_keras
from builder import field_effects

from object_detection_fpn import builder
from object_detection_fpn.config import tables
from object_detection_fpn.modeling.detector import mean_losses
from object_detection_fpn.protos import box_predictor_pb2, losses_pb2, matcher_pb2, ssd_pb2
from object_detection_fpn.records import Groundtruth, Inputs

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

MESSAGES = (
    ssd_pb2.Ssd,
    ssd_pb2.SsdFeatureExtractor,
    matcher_pb2.ArgMaxMatcher,
    box_predictor_pb2.WeightSharedConvolutionalBoxPredictor,
    box_predictor_pb2.WeightSharedConvolutionalBoxPredictor.BoxEncodingsClipRange,
    losses_pb2.Loss,
)

EXTRACTOR = "feature_extractor {{ {} }}".format
MATCHER = "matcher {{ argmax_matcher {{ {} }} }}".format
HEAD = "box_predictor {{ weight_shared_convolutional_box_predictor {{ {} }} }}".format
ANCHORS = "anchor_generator {{ multiscale_anchor_generator {{ {} }} }}".format
POST = "post_processing {{ {} }}".format
CODER = "box_coder {{ faster_rcnn_box_coder {{ {} }} }}".format
LOSS = "loss {{ {} }}".format
NORMS = HEAD("conv_hyperparams { batch_norm { } }")
ZONE = MATCHER("matched_threshold: 0.5 unmatched_threshold: 0.2")

EFFECTS = [
    # field, seen in, what it needs, the change
    ("Ssd.num_classes", "variables", "", "num_classes: 5"),
    ("Ssd.image_resizer", "image", "", "image_resizer { fixed_shape_resizer { height: 32 } }"),
    ("Ssd.feature_extractor", "variables", "", EXTRACTOR("fpn { additional_layer_depth: 7 }")),
    ("Ssd.box_coder", "losses", "", CODER("x_scale: 1")),
    ("Ssd.matcher", "losses", "", MATCHER("matched_threshold: 0.9")),
    ("Ssd.box_predictor", "variables", "", HEAD("depth: 7")),
    ("Ssd.anchor_generator", "outputs", "", ANCHORS("anchor_scale: 3")),
    ("Ssd.post_processing", "detections", "", POST("score_converter: IDENTITY")),
    ("Ssd.normalize_loss_by_num_matches", "losses", "", "normalize_loss_by_num_matches: false"),
    ("Ssd.loss", "losses", "", LOSS("localization_loss { l1_localization_loss { } }")),
    ("Ssd.encode_background_as_zeros", "losses", "", "encode_background_as_zeros: false"),
    ("Ssd.negative_class_weight", "losses", "", "negative_class_weight: 2"),
    ("Ssd.normalize_loc_loss_by_codesize", "losses", "", "normalize_loc_loss_by_codesize: true"),
    ("Ssd.freeze_batchnorm", "statistics", NORMS, "freeze_batchnorm: true"),
    ("Ssd.add_background_class", "variables", "", "add_background_class: false"),
    ("Ssd.loss_normalization", "losses", "", "loss_normalization: PER_IMAGE"),
    ("Ssd.low_quality_matches", "losses", "", "low_quality_matches: ALL_ANCHORS"),
    ("Ssd.max_candidates_per_level", "detections", "", "max_candidates_per_level: 1"),
    (
        "Ssd.background_competes",
        "detections",
        POST("batch_non_max_suppression { max_total_detections: 3 }"),
        "background_competes: true",
    ),
    ("SsdFeatureExtractor.type", "variables", "", EXTRACTOR('type: "ssd_resnet34_v1_fpn_keras"')),
    ("SsdFeatureExtractor.min_depth", "variables", "", EXTRACTOR("min_depth: 12")),
    ("SsdFeatureExtractor.conv_hyperparams", "outputs", "", EXTRACTOR("conv_hyperparams { activation: SWISH }")),
    ("SsdFeatureExtractor.pad_to_multiple", "outputs", "", EXTRACTOR("pad_to_multiple: 128")),
    (
        "SsdFeatureExtractor.override_base_feature_extractor_hyperparams",
        "variables",
        "",
        EXTRACTOR("override_base_feature_extractor_hyperparams: true"),
    ),
    ("SsdFeatureExtractor.fpn", "variables", "", EXTRACTOR("fpn { style: PAPER }")),
    ("SsdFeatureExtractor.resnet", "variables", "", EXTRACTOR("resnet { frozen_stages: 2 }")),
    ("SsdFeatureExtractor.pixel_normalization", "outputs", "", EXTRACTOR("pixel_normalization { mean: [1, 2, 3] }")),
    ("ArgMaxMatcher.matched_threshold", "losses", "", MATCHER("matched_threshold: 0.9")),
    ("ArgMaxMatcher.unmatched_threshold", "losses", "", ZONE),
    ("ArgMaxMatcher.ignore_thresholds", "losses", "", MATCHER("ignore_thresholds: true")),
    (
        "ArgMaxMatcher.negatives_lower_than_unmatched",
        "losses",
        ZONE,
        MATCHER("negatives_lower_than_unmatched: false"),
    ),
    ("ArgMaxMatcher.force_match_for_each_row", "losses", "", MATCHER("force_match_for_each_row: false")),
    ("WeightSharedConvolutionalBoxPredictor.conv_hyperparams", "variables", "", NORMS),
    ("WeightSharedConvolutionalBoxPredictor.depth", "variables", "", HEAD("depth: 7")),
    (
        "WeightSharedConvolutionalBoxPredictor.num_layers_before_predictor",
        "variables",
        "",
        HEAD("num_layers_before_predictor: 2"),
    ),
    ("WeightSharedConvolutionalBoxPredictor.kernel_size", "variables", "", HEAD("kernel_size: 1")),
    (
        "WeightSharedConvolutionalBoxPredictor.class_prediction_bias_init",
        "outputs",
        "",
        HEAD("class_prediction_bias_init: -2"),
    ),
    ("WeightSharedConvolutionalBoxPredictor.use_dropout", "losses", "", HEAD("use_dropout: true")),
    (
        "WeightSharedConvolutionalBoxPredictor.dropout_keep_probability",
        "losses",
        HEAD("use_dropout: true"),
        HEAD("dropout_keep_probability: 0.4"),
    ),
    (
        "WeightSharedConvolutionalBoxPredictor.share_prediction_tower",
        "variables",
        "",
        HEAD("share_prediction_tower: true"),
    ),
    ("WeightSharedConvolutionalBoxPredictor.score_converter", "outputs", "", HEAD("score_converter: SIGMOID")),
    ("WeightSharedConvolutionalBoxPredictor.share_norms", "variables", NORMS, HEAD("share_norms: true")),
    *(
        (
            f"WeightSharedConvolutionalBoxPredictor.BoxEncodingsClipRange.{field}",
            "outputs",
            HEAD("box_encodings_clip_range { min: -0.1 max: 0.1 }"),
            HEAD(f"box_encodings_clip_range {{ {field}: 0 }}"),
        )
        for field in ("min", "max")
    ),
    ("Loss.localization_loss", "losses", "", LOSS("localization_loss { weighted_giou { } }")),
    ("Loss.classification_loss", "losses", "", LOSS("classification_loss { weighted_sigmoid { } }")),
    ("Loss.classification_weight", "losses", "", LOSS("classification_weight: 2")),
    ("Loss.localization_weight", "losses", "", LOSS("localization_weight: 2")),
]

REFUSED_BY_RULES = {
    "SsdFeatureExtractor.depth_multiplier": EXTRACTOR("depth_multiplier: 2"),
    "WeightSharedConvolutionalBoxPredictor.box_code_size": HEAD("box_code_size: 5"),
    "MultiscaleAnchorGenerator.normalize_coordinates": ANCHORS("normalize_coordinates: false"),
}
"""Fields that may have one value only, and another value."""

IMPLIED = {
    "Ssd.similarity_calculator",
    "WeightSharedConvolutionalBoxPredictor.box_encodings_clip_range",
}
"""Messages with one kind alone, or whose own fields are in the table."""

RANDOM = np.random.RandomState(0)
INPUTS = Inputs(
    tf.constant(RANDOM.uniform(0, 255, [2, 64, 64, 3]), tf.float32), tf.constant([[64, 64, 3], [40, 44, 3]])
)
GROUNDTRUTH = Groundtruth(
    # The last lies within several anchors that overlap it alike.
    boxes=tf.constant(
        [[[8.0, 8, 24, 24], [30, 34, 62, 62], [2, 2, 4, 4]], [[4.0, 6, 36, 40], [0, 0, 0, 0], [0, 0, 0, 0]]]
    ),
    classes=tf.constant([[0, 2, 1], [1, 0, 0]]),
    num_boxes=tf.constant([3, 1]),
    weights=tf.constant([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]),
    is_crowd=tf.zeros([2, 3], tf.bool),
)


@pytest.fixture(scope="module", autouse=True)
def _tiny_backbones():
    with pytest.MonkeyPatch.context() as patch:
        support.put_backbone(patch, support.SSD_RESNET18)
        support.put_backbone(patch, "ssd_resnet34_v1_fpn_keras", num_filters=(5, 5, 5, 5))
        yield


def build(message):
    tf_keras.utils.set_random_seed(0)
    return builder.build_model(message)


def build_lively(message):
    """A model whose scores and boxes are spread as those of a trained one."""
    model, random = build(message), np.random.RandomState(0)
    for predictor in (model.dense_head.class_predictor, model.dense_head.box_predictor):
        scale = 0.3 / np.sqrt(np.prod(predictor.kernel.shape[:-1]))
        predictor.kernel.assign(random.normal(0, scale, predictor.kernel.shape))
    return model


def predict(model, training=False):
    return model.predict(model.preprocess(INPUTS), training=training, seed=tf.constant([1, 2]))


def losses(message):
    model = build_lively(message)
    tf_keras.utils.set_random_seed(0)  # of dropout
    return mean_losses(model, predict(model, training=True), GROUNDTRUTH)


def statistics(message):
    model = build(message)
    predict(model, training=True)
    return [variable for variable in model.variables if "moving" in variable.name]


def detections(message):
    model = build_lively(message)
    found = model.postprocess(predict(model), INPUTS)
    return found.boxes, found.scores, found.classes


def image(message):
    return builder.build_resizer(message.ssd.image_resizer)(tf.zeros([24, 36, 3], tf.uint8))


OBSERVATIONS = {
    "variables": lambda message: [(v.shape.as_list(), v.trainable) for v in build(message).variables],
    "outputs": lambda message: predict(build_lively(message)).dense,
    "losses": losses,
    "statistics": statistics,
    "detections": detections,
    "image": image,
}


OBSERVER = field_effects.Observer(support.retinanet_message, OBSERVATIONS)


@pytest.mark.parametrize("field, seen_in, needs, change", EFFECTS, ids=[row[0] for row in EFFECTS])
def test_field_changes_something(field, seen_in, needs, change):
    OBSERVER.assert_changes(seen_in, needs, change)


def fields_of(message):
    name = message.DESCRIPTOR.full_name.removeprefix("object_detection_fpn.protos.")
    return {f"{name}.{field.name}" for field in message.DESCRIPTOR.fields}


def test_every_field_is_in_one_of_the_tables():
    effective = {row[0] for row in EFFECTS}
    others = {*tables.NO_EFFECT, *tables.REFUSED, *REFUSED_BY_RULES, *IMPLIED}
    assert effective.isdisjoint(others)
    assert set().union(*map(fields_of, MESSAGES)) - effective - others == set()


@pytest.mark.parametrize("field", REFUSED_BY_RULES)
def test_fields_of_one_value_refuse_another(field):
    message = support.retinanet_message(
        "image_resizer { fixed_shape_resizer { height: 160 width: 160 } }", REFUSED_BY_RULES[field]
    )
    assert field_effects.refused_fields(message) == [field.split(".")[-1]]
