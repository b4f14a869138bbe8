"""Every field of a message arrives in the object that is built from it."""

from __future__ import annotations

import dataclasses
import functools
import inspect

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from google.protobuf import text_format

from object_detection_fpn import builder
from object_detection_fpn.builder.layer_spec import _ACTIVATIONS
from object_detection_fpn.config import model as model_config
from object_detection_fpn.config import tables
from object_detection_fpn.data.augment import colour, crop, geometry, labels, pad, ssd
from object_detection_fpn.evaluation.coco import CocoBoxMetrics
from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import hard_examples, layers, postprocess, proposals, targets
from object_detection_fpn.modeling.backbones import resnet_v1
from object_detection_fpn.modeling.heads import rpn as rpn_head
from object_detection_fpn.ops import losses, nms
from object_detection_fpn.protos import (
    eval_pb2,
    faster_rcnn_pb2,
    hyperparams_pb2,
    image_resizer_pb2,
    input_reader_pb2,
    losses_pb2,
    model_pb2,
    optimizer_pb2,
    pipeline_pb2,
    post_processing_pb2,
    preprocessor_pb2,
)
from object_detection_fpn.training import schedules

MODEL = """
faster_rcnn {
  num_classes: 3
  image_resizer { identity_resizer { } }
  feature_extractor {
    type: "faster_rcnn_resnet50_fpn_keras"
    conv_hyperparams { batch_norm { } }
    fpn { min_level: 2 max_level: 6 additional_layer_depth: 8 }
  }
  first_stage_anchor_generator {
    multiscale_anchor_generator {
      min_level: 2 max_level: 6 anchor_scale: 8 aspect_ratios: [1, 2, 0.5] scales_per_octave: 2
      normalize_coordinates: false
    }
  }
  first_stage_box_predictor_conv_hyperparams { }
  first_stage_box_predictor_depth: 16
  initial_crop_size: 6
  maxpool_kernel_size: 2
  maxpool_stride: 2
  second_stage_box_predictor { mask_rcnn_box_predictor { fc_hyperparams { } } }
  second_stage_post_processing { batch_non_max_suppression { } score_converter: SOFTMAX }
}
"""


def parse(text, message_type):
    return text_format.Parse(text, message_type())


def model_message(text=""):
    """`MODEL` with the fields of FasterRcnn in `text` changed."""
    message = parse(MODEL, model_pb2.DetectionModel)
    message.faster_rcnn.MergeFrom(parse(text, faster_rcnn_pb2.FasterRcnn))
    return message


@pytest.fixture(autouse=True)
def backbone_calls(monkeypatch):
    """Stands in for the backbones, which take seconds to build, and records what they are asked for."""
    calls = []

    def small(depth, *, max_level, num_channels, spec):
        described = {
            "max_level": max_level,
            "num_channels": num_channels,
            "spec": spec,
        }
        calls.append({"depth": depth, **described})
        features = inputs = tf_keras.Input([None, None, num_channels])
        outputs = []
        for level in range(2, max_level + 1):
            features = tf_keras.layers.Conv2D(4, 1, strides=4 if level == 2 else 2, dtype=spec.dtype)(features)
            outputs.append(features)
        return resnet_v1.Backbone(
            tf_keras.Model(inputs, outputs), levels=tuple(range(2, max_level + 1)), name="small_backbone"
        )

    for name in list(builder.BACKBONES):
        depth = int(name.removeprefix("faster_rcnn_resnet").removesuffix("_fpn_keras"))
        monkeypatch.setitem(builder.BACKBONES, name, functools.partial(small, depth))
    return calls


@pytest.mark.parametrize(
    "ours, admitted",
    [
        (builder.BACKBONES, tables.EXTRACTOR_TYPES),
        (builder.METRICS, tables.METRICS_SETS),
    ],
)
def test_what_a_config_may_name_is_what_can_be_built(ours, admitted):
    assert set(ours) == set(admitted)


def test_names_of_backbones_give_their_depth():
    built = {name: (make.func, make.args) for name, make in DEPTHS.items()}
    assert built == {
        "faster_rcnn_resnet18_fpn_keras": (resnet_v1.resnet_v1_small, (18,)),
        "faster_rcnn_resnet34_fpn_keras": (resnet_v1.resnet_v1_small, (34,)),
        "faster_rcnn_resnet50_fpn_keras": (resnet_v1.resnet_v1, (50,)),
        "faster_rcnn_resnet101_fpn_keras": (resnet_v1.resnet_v1, (101,)),
        "faster_rcnn_resnet152_fpn_keras": (resnet_v1.resnet_v1, (152,)),
    }


DEPTHS = dict(builder.BACKBONES)  # before any test replaces them


# Layers ---------------------------------------------------------------------------------------------------------------


def layer_spec(text, execution=Execution(), **kwargs):
    return builder.build_layer_spec(parse(text, hyperparams_pb2.Hyperparams), execution=execution, **kwargs)


@pytest.mark.parametrize(
    "text, config",
    [
        ("regularizer { l2_regularizer { weight: 0.0004 } }", {"l2": 0.0002}),  # half the sum of squares
        ("regularizer { l2_regularizer { } }", {"l2": 0.5}),
        ("regularizer { l1_regularizer { weight: 0.25 } }", {"l1": 0.25}),
    ],
)
def test_regularizers(text, config):
    regularizer = layer_spec(text).regularizer
    assert {key: pytest.approx(value) for key, value in config.items()} == regularizer.get_config()


@pytest.mark.parametrize("text", ["", "regularizer { }"])
def test_no_regularizer(text):
    assert layer_spec(text).regularizer is None


@pytest.mark.parametrize(
    "text, kind, values",
    [
        ("truncated_normal_initializer { mean: 0.5 stddev: 0.03 }", "TruncatedNormal", {"mean": 0.5, "stddev": 0.03}),
        ("truncated_normal_initializer { }", "TruncatedNormal", {"mean": 0, "stddev": 1}),
        ("random_normal_initializer { mean: 0.25 stddev: 0.01 }", "RandomNormal", {"mean": 0.25, "stddev": 0.01}),
        (
            "variance_scaling_initializer { factor: 3 uniform: true mode: FAN_AVG }",
            "VarianceScaling",
            {"scale": 3, "mode": "fan_avg", "distribution": "uniform"},
        ),
        (
            "variance_scaling_initializer { mode: FAN_OUT }",
            "VarianceScaling",
            {"scale": 2, "mode": "fan_out", "distribution": "truncated_normal"},
        ),
        ("variance_scaling_initializer { }", "VarianceScaling", {"scale": 2, "mode": "fan_in"}),
        ('keras_initializer_by_name: "he_uniform"', "HeUniform", {}),
        ("", "GlorotUniform", {}),
    ],
)
def test_initializers(text, kind, values):
    make = layer_spec(f"initializer {{ {text} }}").initializer
    initializer = make()
    assert type(initializer).__name__ == kind
    assert make() is not initializer  # one object used for two layers would give both the same values
    config = initializer.get_config()
    assert {key: config[key] for key in values} == {
        key: value if isinstance(value, str) else pytest.approx(value) for key, value in values.items()
    }


@pytest.mark.parametrize(
    "text, activation",
    [("NONE", "linear"), ("RELU", "relu"), ("RELU_6", "relu6"), ("SWISH", "swish")],
)
def test_activations(text, activation):
    assert layer_spec(f"activation: {text}").activation == activation
    assert activation in layers.ACTIVATIONS
    assert layer_spec("").activation == "relu"


def test_every_activation_of_the_language_can_be_built():
    assert set(_ACTIVATIONS) == set(hyperparams_pb2.Hyperparams.Activation.values())


@pytest.mark.parametrize(
    "text, norm",
    [
        ("", None),
        ("group_norm { }", layers.GroupNormSpec()),
        ("batch_norm { }", layers.BatchNormSpec(0.999, 0.001, True, False, False, False)),
        (
            "batch_norm { decay: 0.5 center: false scale: true epsilon: 0.25 train: false }",
            layers.BatchNormSpec(
                momentum=0.5, epsilon=0.25, center=False, scale=True, freeze_statistics=True, synchronized=False
            ),
        ),
        ("sync_batch_norm { decay: 0.5 epsilon: 0.25 }", layers.BatchNormSpec(0.5, 0.25, synchronized=True)),
    ],
)
def test_normalizations(text, norm):
    found = layer_spec(text).norm
    assert type(found) is type(norm)
    if isinstance(norm, layers.BatchNormSpec):
        assert vars(found) == {key: pytest.approx(value) for key, value in vars(norm).items()}


def test_the_rest_of_a_layer_spec():
    execution = Execution(dtype="mixed_bfloat16")
    spec = layer_spec("force_use_bias: true", freeze_statistics=True, execution=execution)
    assert (spec.force_use_bias, spec.freeze_statistics, spec.dtype) == (True, True, "mixed_bfloat16")
    assert (layer_spec("").force_use_bias, layer_spec("").freeze_statistics) == (False, False)


# Feature extractor ----------------------------------------------------------------------------------------------------


def feature_extractor(text="", **kwargs):
    message = model_message(f"feature_extractor {{ {text} }}").faster_rcnn.feature_extractor
    message.conv_hyperparams.CopyFrom(parse(text, faster_rcnn_pb2.FasterRcnnFeatureExtractor).conv_hyperparams)
    return builder.build_feature_extractor(message, **kwargs)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_the_type_chooses_the_backbone(backbone_calls, depth):
    message = model_message(f'feature_extractor {{ type: "faster_rcnn_resnet{depth}_fpn_keras" }}')
    builder.build_feature_extractor(message.faster_rcnn.feature_extractor, num_channels=5)
    assert [(call["depth"], call["num_channels"]) for call in backbone_calls] == [(depth, 5)]


@pytest.mark.parametrize("min_level, max_level, of_backbone", [(2, 6, 5), (3, 7, 5), (2, 4, 4)])
def test_levels_and_filters_arrive(backbone_calls, min_level, max_level, of_backbone):
    extractor = feature_extractor(f"fpn {{ min_level: {min_level} max_level: {max_level} additional_layer_depth: 12 }}")
    assert (extractor.min_level, extractor.max_level) == (min_level, max_level)
    assert extractor.fpn.num_filters == 12
    assert backbone_calls[0]["max_level"] == of_backbone


def test_recomputation_arrives(backbone_calls):
    config = pipeline_pb2.TrainEvalPipelineConfig(model=model_message())
    for recompute, static in ((None, False), (None, True), (False, False), (True, False), (True, True)):
        config.train_config.ClearField("recompute_backbone")
        if recompute is not None:
            config.train_config.recompute_backbone = recompute
        execution = builder.training_execution(config, jit_compile=static)
        builder.build_model(config.model, execution=execution)
    assert [call["spec"].execution.recomputed_stages for call in backbone_calls] == [1, 0, 0, 4, 4]


def test_pad_to_multiple_arrives():
    assert feature_extractor().pad_to_multiple == 32
    assert feature_extractor("pad_to_multiple: 64").pad_to_multiple == 64


HYPERPARAMS = "conv_hyperparams { activation: RELU_6 batch_norm { decay: 0.5 epsilon: 0.25 } }"


def test_the_backbone_keeps_its_own_hyperparameters_unless_overridden(backbone_calls):
    feature_extractor(HYPERPARAMS)
    feature_extractor(HYPERPARAMS + " override_base_feature_extractor_hyperparams: true")
    default, overridden = (call["spec"] for call in backbone_calls)
    assert default.norm == resnet_v1.DEFAULT_SPEC.norm == layers.BatchNormSpec(momentum=0.997, epsilon=1e-5, scale=True)
    assert (default.activation, default.regularizer) == ("relu", resnet_v1.DEFAULT_SPEC.regularizer)
    assert overridden.norm == layers.BatchNormSpec(momentum=0.5, epsilon=0.25)
    assert (overridden.activation, overridden.regularizer) == ("relu6", None)


@pytest.mark.parametrize("override", ["", "override_base_feature_extractor_hyperparams: true"])
def test_the_pyramid_always_follows_conv_hyperparams(override):
    extractor = feature_extractor(f"{HYPERPARAMS} batch_norm_trainable: true {override}")
    smoothings = [*extractor.fpn.smoothings.values(), *extractor.fpn.extras.values()]
    assert {(layer.norm.momentum, layer.norm.epsilon) for layer in smoothings} == {(0.5, 0.25)}
    assert {layer.activation.activation for layer in smoothings} == {tf.nn.relu6}


@pytest.mark.parametrize("override", ["", "override_base_feature_extractor_hyperparams: true"])
@pytest.mark.parametrize("trainable", ["true", "false"])
def test_batch_norm_trainable_decides_whether_statistics_move(backbone_calls, override, trainable):
    """Of the backbone, the pyramid and the box head; not of the RPN."""
    message = model_message(
        f"feature_extractor {{ {HYPERPARAMS} batch_norm_trainable: {trainable} {override} }} "
        "first_stage_box_predictor_conv_hyperparams { batch_norm { } }"
    )
    model = builder.build_model(message)
    freeze = trainable == "false"
    norms = [layer.norm for layer in model.feature_extractor.fpn.smoothings.values()]
    norms.append(model.box_head.feature_extractor.norm)
    assert {norm._freeze_statistics for norm in norms} == {freeze}
    assert backbone_calls[0]["spec"].freeze_statistics == freeze
    assert not model.rpn.head.norm._freeze_statistics


def test_statistics_are_frozen_by_default():
    assert feature_extractor(HYPERPARAMS).fpn.smoothings["2"].norm._freeze_statistics


def test_dtype_reaches_every_part(backbone_calls):
    model = builder.build_model(model_message(), execution=Execution(dtype="mixed_bfloat16"))
    assert backbone_calls[0]["spec"].dtype == "mixed_bfloat16"
    head = model.box_head
    for part in (model.feature_extractor.fpn, model.rpn.head, model.roi_pooler, head.feature_extractor, head):
        assert part.compute_dtype == "bfloat16"


# Parts of the detector ------------------------------------------------------------------------------------------------


def test_anchors():
    message = parse(MODEL, model_pb2.DetectionModel).faster_rcnn.first_stage_anchor_generator
    generate, num_anchors = builder.build_anchor_generator(message)
    anchors = generate([(1, 1), (1, 1)]).numpy()
    assert num_anchors == 6
    assert anchors.shape == (2 * 6, 4)
    height, width = (anchors[:, 2:] - anchors[:, :2]).T
    octave = np.array([1, 2**0.5] * 3)
    np.testing.assert_allclose(np.sqrt(height * width), [*32 * octave, *64 * octave], rtol=1e-5)
    np.testing.assert_allclose(width / height, [1, 1, 2, 2, 0.5, 0.5] * 2, rtol=1e-5)


def test_first_stage():
    model = builder.build_model(
        model_message(
            """
            clip_anchors_to_image: true
            first_stage_atrous_rate: 2
            first_stage_box_predictor_kernel_size: 5
            first_stage_box_predictor_depth: 24
            first_stage_box_predictor_conv_hyperparams { regularizer { l2_regularizer { weight: 0.5 } } }
            first_stage_minibatch_size: 100
            first_stage_positive_balance_fraction: 0.25
            first_stage_nms_score_threshold: 0.125
            first_stage_nms_iou_threshold: 0.625
            first_stage_max_proposals: 77
            first_stage_localization_loss_weight: 2
            first_stage_objectness_loss_weight: 3
            """
        )
    )
    rpn, conv = model.rpn, model.rpn.head.conv
    assert (conv.dilation_rate, conv.kernel_size, conv.filters) == ((2, 2), (5, 5), 24)
    assert [layer.filters for layer in rpn.head.objectness] == [2 * 6] * 5
    assert [layer.filters for layer in rpn.head.deltas] == [4 * 6] * 5
    assert len(rpn.head.losses) == 1 + 2 * 5
    assert rpn._clip_anchors
    assert rpn._decoder == proposals.ProposalDecoder(max_proposals=77, iou_threshold=0.625, score_threshold=0.125)
    assert rpn._sampler == targets.AnchorSampler(num_samples=100, positive_fraction=0.25)
    assert rpn._loss == rpn_head.RpnLoss(localization_weight=2.0, objectness_weight=3.0)


def test_second_stage():
    model = builder.build_model(
        model_message(
            """
            initial_crop_size: 9
            maxpool_kernel_size: 3
            maxpool_stride: 3
            second_stage_batch_size: 33
            second_stage_balance_fraction: 0.5
            second_stage_localization_loss_weight: 2
            second_stage_classification_loss_weight: 3
            second_stage_classification_loss { weighted_softmax { logit_scale: 4 } }
            """
        )
    )
    assert (model.roi_pooler._crop_size, model.roi_pooler._pool_size, model.roi_pooler._pool_stride) == (9, 3, 3)
    assert model.box_head.feature_extractor.fc1.kernel.shape == (3 * 3 * 8, 1024)
    assert model._roi_sampler == targets.RoISampler(num_samples=33, positive_fraction=0.5)
    loss = model.box_head._loss
    assert (loss.localization_weight, loss.classification_weight) == (2.0, 3.0)
    np.testing.assert_allclose(
        loss.classification_loss(tf.constant([0.0, 4.0]), tf.constant([0.0, 1.0])), np.log(1 + np.exp(-1)), rtol=1e-6
    )


@pytest.mark.parametrize(
    "text, loss, settings",
    [
        ("weighted_sigmoid { }", losses.sigmoid_cross_entropy, None),
        ("weighted_softmax { logit_scale: 2 }", losses.softmax_cross_entropy, {"logit_scale": 2.0}),
        ("weighted_logits_softmax { logit_scale: 2 }", losses.softmax_cross_entropy_of_logits, {"logit_scale": 2.0}),
        ("weighted_sigmoid_focal { }", losses.sigmoid_focal_loss, {"gamma": 2.0, "alpha": None}),
        ("weighted_sigmoid_focal { gamma: 1 alpha: 0 }", losses.sigmoid_focal_loss, {"gamma": 1.0, "alpha": 0.0}),
    ],
)
def test_classification_losses(text, loss, settings):
    found = builder.build_classification_loss(parse(text, losses_pb2.ClassificationLoss))
    assert getattr(found, "func", found) == loss
    assert getattr(found, "keywords", None) == settings


@pytest.mark.parametrize(
    "text, miner",
    [
        ("", hard_examples.HardExampleMiner(localization_weight=3.0, classification_weight=2.0, iou_threshold=0.75)),
        (
            "num_hard_examples: 0 loss_type: CLASSIFICATION",
            hard_examples.HardExampleMiner(num_examples=None, localization_weight=0.0, iou_threshold=0.75),
        ),
        (
            "num_hard_examples: 9 loss_type: LOCALIZATION max_negatives_per_positive: 3 min_negatives_per_image: 2",
            hard_examples.HardExampleMiner(
                9, 0.75, classification_weight=0.0, max_negatives_per_positive=3.0, min_negatives=2
            ),
        ),
    ],
)
def test_hard_examples(text, miner):
    weights = "second_stage_localization_loss_weight: 3 second_stage_classification_loss_weight: 2"
    mined = f"hard_example_miner {{ iou_threshold: 0.75 {text} }}"
    model = builder.build_model(model_message(f"{weights} {mined}"))
    assert model.box_head._loss.miner == miner
    assert model._roi_sampler.num_samples is None
    static = builder.build_model(model_message(mined), execution=Execution(static=True))
    assert static.box_head._loss.miner.static
    assert builder.build_model(model_message(weights)).box_head._loss.miner is None


def test_the_default_classification_loss_is_softmax_cross_entropy():
    loss = builder.build_classification_loss(losses_pb2.ClassificationLoss())
    logits, wanted = tf.constant([0.5, 4.0]), tf.constant([0.0, 1.0])
    assert loss(logits, wanted) == losses.softmax_cross_entropy(logits, wanted)


@pytest.mark.parametrize(
    "text, num_boxes, rate",
    [
        ("", 3, 0.0),
        ("share_box_across_classes: true", 1, 0.0),
        ("use_dropout: true", 3, 0.5),
        ("use_dropout: true dropout_keep_probability: 0.75", 3, 0.25),
        ("dropout_keep_probability: 0.75", 3, 0.0),
    ],
)
def test_box_predictor(text, num_boxes, rate):
    regularizer, initializer = "l2_regularizer { weight: 1 }", "random_normal_initializer { stddev: 9 }"
    hyperparams = f"fc_hyperparams {{ regularizer {{ {regularizer} }} initializer {{ {initializer} }} }}"
    model = builder.build_model(
        model_message(f"second_stage_box_predictor {{ mask_rcnn_box_predictor {{ {hyperparams} {text} }} }}")
    )
    head = model.box_head
    assert head.class_predictor.units == 4
    assert head.box_predictor.units == 4 * num_boxes
    assert (head.class_dropout.rate, head.box_dropout.rate) == (rate, rate)
    for predictor in (head.class_predictor, head.box_predictor):
        assert predictor.kernel_regularizer.get_config() == {"l2": 0.5}
        assert predictor.kernel_initializer.get_config()["stddev"] == 9


def test_one_stage_has_no_box_head():
    model = builder.build_model(model_message("number_of_stages: 1"))
    assert (model.num_stages, model.box_head, model.roi_pooler) == (1, None, None)


@pytest.mark.parametrize("static", [False, True])
def test_static_reaches_every_part(static):
    model = builder.build_model(model_message(), execution=Execution(static=static))
    rpn, head = model.rpn, model.box_head
    parts = (rpn._decoder, rpn._sampler, model._roi_sampler, head._postprocessor)
    assert {part.static for part in parts} == {rpn._static, model.roi_pooler._static} == {static}


def test_the_device_and_the_compiler_decide_how_a_model_is_computed():
    config = pipeline_pb2.TrainEvalPipelineConfig(model=model_message())
    config.train_config.use_bfloat16 = True
    assert builder.training_execution(config) == Execution(recomputed_stages=1)
    assert builder.training_execution(config, jit_compile=True) == Execution(static=True, jit_compile=True)
    assert builder.training_execution(config, is_tpu=True, jit_compile=True) == Execution("mixed_bfloat16", static=True)
    assert builder.inference_execution(config, device="cpu") == Execution(winograd=True, is_restored=True)
    assert builder.inference_execution(config, device="gpu") == Execution(is_restored=True)
    assert builder.inference_execution(config, is_tpu=True) == Execution(static=True, is_restored=True)
    compiled = builder.inference_execution(config, jit_compile=True)
    assert compiled == Execution(static=True, jit_compile=True, is_restored=True)


def test_compiling_what_is_not_static_is_refused():
    with pytest.raises(ValueError, match="jit_compile = True with static = False"):
        Execution(jit_compile=True)


@pytest.mark.parametrize(
    "resizer, is_large",
    [
        ("keep_aspect_ratio_resizer { min_dimension: 100 max_dimension: 256 }", True),
        ("keep_aspect_ratio_resizer { min_dimension: 100 max_dimension: 255 }", False),
        ("fixed_shape_resizer { height: 64 width: 256 }", True),
        ("fixed_shape_resizer { height: 64 width: 64 }", False),
        ("identity_resizer { }", True),
    ],
)
def test_winograds_algorithm_is_for_images_large_enough(resizer, is_large):
    message = model_message()
    message.faster_rcnn.image_resizer.CopyFrom(parse(resizer, image_resizer_pb2.ImageResizer))
    config = pipeline_pb2.TrainEvalPipelineConfig(model=message)
    model = builder.build_model(message, execution=builder.inference_execution(config, device="cpu"))
    pyramid = model.feature_extractor.fpn
    convs = [model.rpn.head.conv, *(layer.conv for layer in pyramid.smoothings.values())]
    assert {isinstance(conv, layers.WinogradConv) for conv in convs} == {is_large}
    others = [*pyramid.laterals.values(), *(layer.conv for layer in pyramid.extras.values())]
    assert not any(isinstance(conv, layers.WinogradConv) for conv in others)


@pytest.mark.parametrize("override", ["", "override_base_feature_extractor_hyperparams: true"])
def test_convolutions_that_are_restored_are_not_drawn(backbone_calls, override):
    message = model_message(f"feature_extractor {{ {override} }}")
    model = builder.build_model(message, execution=Execution(is_restored=True))
    drawn = [v.name for v in [*model.rpn.variables, *model.feature_extractor.fpn.variables] if np.any(v)]
    assert [name for name in drawn if "kernel" in name] == []
    assert isinstance(backbone_calls[0]["spec"].make_initializer(), tf_keras.initializers.Zeros)
    builder.build_model(message)
    assert not isinstance(backbone_calls[1]["spec"].make_initializer(), tf_keras.initializers.Zeros)


def test_channels_of_the_images_arrive(backbone_calls):
    builder.build_model(model_message(), num_channels=1)
    assert backbone_calls[0]["num_channels"] == 1


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


def test_combined_suppression_keeps_what_lies_outside():
    assert postprocessor("batch_non_max_suppression { use_combined_nms: true }").suppression.keep_empty
    assert builder.build_model(model_message("use_combined_nms_in_first_stage: true")).rpn._decoder.keep_empty


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


@pytest.mark.parametrize(
    "field, outputs",
    [
        ("", set()),
        ("return_raw_detections_during_predict: true", {"raw_detections"}),
        ("output_final_box_features: true", {"box_features"}),
        ("output_final_box_rpn_features: true", {"roi_features"}),
        ("output_final_box_features: true number_of_stages: 1", set()),
    ],
)
def test_outputs_that_are_asked_for(field, outputs):
    assert builder.build_model(model_message(field))._outputs == outputs


# Data -----------------------------------------------------------------------------------------------------------------

IMAGE = tf.constant(np.random.RandomState(0).randint(0, 255, [30, 50, 3]), tf.uint8)


@pytest.mark.parametrize(
    "text, static_size, size, true_size",
    [
        ("keep_aspect_ratio_resizer { min_dimension: 60 max_dimension: 80 }", (None, None), (48, 80), (48, 80)),
        (
            "keep_aspect_ratio_resizer { min_dimension: 60 max_dimension: 80 pad_to_max_dimension: true }",
            (80, 80),
            (80, 80),
            (48, 80),
        ),
        ("fixed_shape_resizer { height: 20 width: 10 }", (20, 10), (20, 10), (20, 10)),
        ("identity_resizer { }", (None, None), (30, 50), (30, 50)),
        ("pad_to_multiple_resizer { multiple: 16 }", (None, None), (32, 64), (30, 50)),
        ("conditional_shape_resizer { condition: GREATER size_threshold: 25 }", (None, None), (15, 25), (15, 25)),
        ("conditional_shape_resizer { condition: SMALLER size_threshold: 60 }", (None, None), (60, 100), (60, 100)),
        ("conditional_shape_resizer { condition: SMALLER size_threshold: 20 }", (None, None), (30, 50), (30, 50)),
    ],
)
def test_resizers(text, static_size, size, true_size):
    resizer = builder.build_resizer(parse(text, image_resizer_pb2.ImageResizer))
    image, true_shape = resizer(IMAGE)
    assert resizer.static_size == static_size
    assert tuple(image.shape) == (*size, 3)
    assert tuple(true_shape.numpy()) == (*true_size, 3)


@pytest.mark.parametrize(
    "kind, settings",
    [
        ("keep_aspect_ratio_resizer", "min_dimension: 60 max_dimension: 80"),
        ("fixed_shape_resizer", "height: 20 width: 10"),
        ("pad_to_multiple_resizer", "multiple: 16"),
        ("conditional_shape_resizer", "size_threshold: 25"),
    ],
)
def test_gray_images(kind, settings):
    text = f"{kind} {{ {settings} convert_to_grayscale: true }}"
    image, true_shape = builder.build_resizer(parse(text, image_resizer_pb2.ImageResizer))(IMAGE)
    assert image.shape[-1] == true_shape[-1] == 1
    model = parse(f"faster_rcnn {{ image_resizer {{ {text} }} }}", model_pb2.DetectionModel)
    assert model_config.num_image_channels(model) == 1


def test_resizing_methods_and_padding_values_arrive():
    def resize(settings):
        text = f"keep_aspect_ratio_resizer {{ min_dimension: 60 max_dimension: 80 {settings} }}"
        return builder.build_resizer(parse(text, image_resizer_pb2.ImageResizer))(IMAGE)[0].numpy()

    methods = ["BILINEAR", "NEAREST_NEIGHBOR", "BICUBIC", "AREA"]
    assert len({resize(f"resize_method: {method}").tobytes() for method in methods}) == 4
    np.testing.assert_array_equal(resize(""), resize("resize_method: BILINEAR"))
    padded = resize("pad_to_max_dimension: true per_channel_pad_value: [1, 2, 3]")
    np.testing.assert_array_equal(padded[-1, -1], [1, 2, 3])


@pytest.mark.parametrize(
    "text, function, settings",
    [
        ("random_horizontal_flip { }", geometry.random_horizontal_flip, {"probability": 0.5}),
        ("random_horizontal_flip { probability: 0.25 }", geometry.random_horizontal_flip, {"probability": 0.25}),
        ("random_vertical_flip { probability: 0.25 }", geometry.random_vertical_flip, {"probability": 0.25}),
        ("random_rotation90 { probability: 0.25 }", geometry.random_rotation90, {"probability": 0.25}),
        (
            "random_image_scale { min_scale_ratio: 0.25 max_scale_ratio: 3 }",
            geometry.random_image_scale,
            {"min_scale_ratio": 0.25, "max_scale_ratio": 3},
        ),
        (
            """
            random_crop_image {
              min_object_covered: 0.125 min_aspect_ratio: 0.5 max_aspect_ratio: 2 min_area: 0.25 max_area: 0.75
              overlap_thresh: 0.375 random_coef: 0.625 clip_boxes: false
            }
            """,
            crop.random_crop_image,
            {
                "min_object_covered": 0.125,
                "min_aspect_ratio": 0.5,
                "max_aspect_ratio": 2,
                "min_area": 0.25,
                "max_area": 0.75,
                "overlap_thresh": 0.375,
                "random_coef": 0.625,
                "clip_boxes": False,
            },
        ),
        ("random_adjust_brightness { max_delta: 0.25 }", colour.random_adjust_brightness, {"max_delta": 0.25}),
        (
            "random_adjust_contrast { min_delta: 0.5 max_delta: 2 }",
            colour.random_adjust_contrast,
            {"min_delta": 0.5, "max_delta": 2},
        ),
        ("random_adjust_hue { max_delta: 0.25 }", colour.random_adjust_hue, {"max_delta": 0.25}),
        (
            "random_adjust_saturation { min_delta: 0.5 max_delta: 2 }",
            colour.random_adjust_saturation,
            {"min_delta": 0.5, "max_delta": 2},
        ),
        ("random_distort_color { color_ordering: 1 }", colour.random_distort_color, {"color_ordering": 1}),
        (
            "random_pixel_value_scale { minval: 0.5 maxval: 2 }",
            colour.random_pixel_value_scale,
            {"minval": 0.5, "maxval": 2},
        ),
        ("random_rgb_to_gray { probability: 0.25 }", colour.random_rgb_to_gray, {"probability": 0.25}),
        ("random_distort_color { }", colour.random_distort_color, {}),  # what has no default is left to the function
        ("random_pad_image { }", pad.random_pad_image, {}),
        (
            "random_pad_image { min_image_height: 0 max_image_width: 9 pad_color: [1, 2, 3] }",
            pad.random_pad_image,
            {"min_image_height": 0, "max_image_width": 9, "pad_color": (1, 2, 3)},
        ),
        (
            "random_jitter_boxes { jitter_mode: EXPAND_SYMMETRIC_XY ratio: 0.25 }",
            labels.random_jitter_boxes,
            {"jitter_mode": "expand_symmetric_xy", "ratio": 0.25},
        ),
        (
            "resize_image { new_height: 3 new_width: 4 method: NEAREST_NEIGHBOR }",
            geometry.resize_image,
            {"new_height": 3, "new_width": 4, "method": "nearest"},
        ),
        (
            "remap_labels { original_labels: [1, 2] new_label: 3 }",
            labels.remap_labels,
            {"original_labels": (1, 2), "new_label": 3},
        ),
        ("ssd_random_crop { }", ssd.ssd_random_crop, {"operations": ()}),
        (
            "ssd_random_crop { operations { max_area: 0.5 } operations { clip_boxes: false } }",
            ssd.ssd_random_crop,
            {
                "operations": tuple(
                    {
                        "min_object_covered": 0,  # as in the Object Detection API, not that of random_crop_image
                        "min_aspect_ratio": 0,
                        "max_aspect_ratio": 0,
                        "min_area": 0,
                        "max_area": max_area,
                        "overlap_thresh": 0,
                        "random_coef": 0,
                        "clip_boxes": clip_boxes,
                    }
                    for max_area, clip_boxes in ((0.5, True), (0, False))
                )
            },
        ),
    ],
)
def test_augmentations(text, function, settings):
    (found,) = builder.build_augmentations([parse(text, preprocessor_pb2.PreprocessingStep)])
    assert (found.func, found.keywords) == (function, settings)


def keywords_of(augmentation) -> set[str]:
    """Its keywords, with the fields of the constraints in the place of that record."""
    names = set(inspect.getfullargspec(augmentation).kwonlyargs) - {"seed"}
    fields = {field.name for field in dataclasses.fields(crop.CropConstraints)}
    return names - {"constraints"} | fields if "constraints" in names else names


def test_padding_of_ssd_has_a_colour_and_sizes_of_its_own():
    text = "ssd_random_crop_pad { operations { pad_color_g: 7 min_padded_size_ratio: [1, 2] } }"
    (found,) = builder.build_augmentations([parse(text, preprocessor_pb2.PreprocessingStep)])
    (operation,) = found.keywords["operations"]
    assert operation["pad_color"] == (0, 7, 0)
    assert operation["min_padded_size_ratio"] == (1, 2)
    assert operation.keys() <= keywords_of(crop.random_crop_pad_image)


@pytest.mark.parametrize("name", builder.AUGMENTATIONS)
def test_fields_of_augmentations_are_keywords_of_their_functions(name):
    message = preprocessor_pb2.PreprocessingStep.DESCRIPTOR.fields_by_name[name].message_type
    (found,) = builder.build_augmentations([parse(f"{name} {{ }}", preprocessor_pb2.PreprocessingStep)])
    assert found.func.__name__ == name
    fields = {f.name for f in message.fields if f"{message.name}.{f.name}" not in tables.REFUSED}
    assert fields == keywords_of(found.func)


def test_augmentations_keep_their_order():
    steps = [
        parse(f"{name} {{ }}", preprocessor_pb2.PreprocessingStep)
        for name in ("random_crop_image", "random_horizontal_flip", "random_crop_image")
    ]
    found = [augmentation.func for augmentation in builder.build_augmentations(steps)]
    assert found == [crop.random_crop_image, geometry.random_horizontal_flip, crop.random_crop_image]


@pytest.mark.parametrize(
    "train, reader, expected",
    [("", "", 100), ("", "max_number_of_boxes: 7", 7), ("max_number_of_boxes: 9", "max_number_of_boxes: 7", 9)],
)
def test_the_deprecated_number_of_boxes_goes_first(train, reader, expected):
    config = parse(f"train_config {{ {train} }}", pipeline_pb2.TrainEvalPipelineConfig)
    assert builder.max_number_of_boxes(config, parse(reader, input_reader_pb2.InputReader)) == expected


# Training and evaluation ----------------------------------------------------------------------------------------------


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
    ],
)
def test_every_set_of_metrics_gives_its_numbers(make_image, name, main_result):
    text = f'metrics_set: "{name}" recall_lower_bound: 0.2 recall_upper_bound: 0.8'
    (metric,) = builder.build_metrics(parse(text, eval_pb2.EvalConfig), CATEGORIES)
    assert metric.main_result == main_result
    metric.update(*make_image([[0, 0, 10, 10]], [[0, 0, 10, 10]]))
    assert main_result in metric.result()
