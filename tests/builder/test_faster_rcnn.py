"""Every field of the model's messages arrives in the object that is built from it."""

from __future__ import annotations

import numpy as np
import pytest
import support
import tensorflow as tf
import tf_keras
from google.protobuf import text_format

from object_detection_fpn import builder
from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import hard_examples, layers, proposals, targets
from object_detection_fpn.modeling import pooler as roi
from object_detection_fpn.modeling.heads import rpn as rpn_heads
from object_detection_fpn.ops.crop_and_resize import RoIAlign
from object_detection_fpn.protos import (
    image_resizer_pb2,
    pipeline_pb2,
)

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

MODEL = """
image_resizer { identity_resizer { } }
feature_extractor {
  type: "faster_rcnn_resnet50_fpn_keras"
  conv_hyperparams { batch_norm { } }
  fpn { min_level: 2 max_level: 6 additional_layer_depth: 8 }
}
first_stage_anchor_generator {
  multiscale_anchor_generator {
    min_level: 2 max_level: 6 anchor_scale: 8 aspect_ratios: [2, 0.5] scales_per_octave: 2
  }
}
first_stage_box_predictor_depth: 16
initial_crop_size: 6
"""


def parse(text, message_type):
    return text_format.Parse(text, message_type())


def model_message(text=""):
    """`MODEL` with the fields of FasterRcnn in `text` changed."""
    return support.model_message(MODEL, text)


@pytest.fixture(autouse=True)
def _tiny_backbones(backbone_calls):
    """In place of all others."""


def test_recomputation_arrives(backbone_calls):
    config = pipeline_pb2.TrainEvalPipelineConfig(model=model_message())
    for recompute, static in ((None, False), (None, True), (False, False), (True, False), (True, True)):
        config.train_config.ClearField("recompute_backbone")
        if recompute is not None:
            config.train_config.recompute_backbone = recompute
        execution = builder.training_execution(config, jit_compile=static)
        builder.build_model(config.model, execution=execution)
    assert [call["spec"].execution.recomputed_stages for call in backbone_calls] == [1, 0, 0, 4, 4]


HYPERPARAMS = "conv_hyperparams { activation: RELU_6 batch_norm { decay: 0.5 epsilon: 0.25 } }"


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
    assert {norm.freeze_statistics for norm in norms} == {freeze}
    assert backbone_calls[0]["spec"].freeze_statistics == freeze
    assert not model.rpn.head.norm.freeze_statistics


def test_dtype_reaches_every_part(backbone_calls):
    model = builder.build_model(model_message(), execution=Execution(dtype="mixed_bfloat16"))
    assert backbone_calls[0]["spec"].dtype == "mixed_bfloat16"
    head = model.box_head
    for part in (model.feature_extractor.fpn, model.rpn.head, model.roi_pooler, head.feature_extractor, head):
        assert part.compute_dtype == "bfloat16"


# Parts of the detector ------------------------------------------------------------------------------------------------


def test_anchors():
    message = model_message().faster_rcnn.first_stage_anchor_generator
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
            use_combined_nms_in_first_stage: true
            """
        )
    )
    rpn, conv = model.rpn, model.rpn.head.conv
    assert (conv.dilation_rate, conv.kernel_size, conv.filters) == ((2, 2), (5, 5), 24)
    assert [layer.filters for layer in rpn.head.objectness] == [2 * 6] * 5
    assert [layer.filters for layer in rpn.head.deltas] == [4 * 6] * 5
    assert len(rpn.head.losses) == 1 + 2 * 5
    assert rpn._clip_anchors
    assert rpn._decoder == proposals.ProposalDecoder(
        max_proposals=77, iou_threshold=0.625, score_threshold=0.125, keep_empty=True
    )
    assert rpn._sampler == targets.AnchorSampler(
        num_samples=100, positive_fraction=0.25, matched_threshold=np.float32(0.7), unmatched_threshold=np.float32(0.3)
    )
    assert rpn._loss == rpn_heads.RpnLoss(localization_weight=2.0, objectness_weight=3.0, num_configured=100)


def test_roi_pooling_that_is_not_set_is_that_of_the_object_detection_api():
    pooler = builder.build_model(model_message()).roi_pooler
    assert pooler._roi_align is None
    assert pooler._levels == roi.RoILevels(first_level=2, min_level=2, max_level=6)
    assert (pooler._levels.canonical_level, pooler._levels.canonical_size) == (None, 224.0)


def test_roi_pooling():
    text = """
        initial_crop_size: 0
        roi_pooling {
          min_level: 3 max_level: 5 canonical_level: 4 canonical_size: 112 side_epsilon: 0.25 level_epsilon: 0.5
          roi_align { output_size: 5 sampling_ratio: 0 aligned: false max_static_samples: 3 }
        }
    """
    model = builder.build_model(model_message(text), execution=Execution(static=True))
    pooler = model.roi_pooler
    assert pooler._levels == roi.RoILevels(
        first_level=2,
        min_level=3,
        max_level=5,
        canonical_level=4,
        canonical_size=112.0,
        side_epsilon=0.25,
        level_epsilon=0.5,
    )
    assert pooler._roi_align == RoIAlign(output_size=5, sampling_ratio=0, aligned=False, max_static_samples=3)
    assert pooler._static
    assert model.box_head.feature_extractor.fc1.kernel.shape == (5 * 5 * 8, 1024)


def test_roi_align_with_its_defaults():
    model = builder.build_model(model_message("roi_pooling { roi_align { } }"))
    assert model.roi_pooler._roi_align == RoIAlign(output_size=7, sampling_ratio=2, aligned=True, max_static_samples=4)


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


def head_of(text):
    return builder.build_model(
        model_message(f"second_stage_box_predictor {{ mask_rcnn_box_predictor {{ {text} }} }}")
    ).box_head


def test_hidden_layers_of_the_box_head():
    text = """
    num_convolutions: 2 convolution_depth: 12 num_dense_layers: 1 dense_depth: 20
    hidden_hyperparams {
      activation: SWISH batch_norm { train: false }
      initializer { random_normal_initializer { stddev: 9 } } regularizer { l2_regularizer { weight: 1 } }
    }
    """
    features = head_of(text).feature_extractor
    conv1, conv2, fc1 = features.parts
    assert conv2.conv.kernel.shape == (3, 3, 12, 12)
    assert fc1.kernel.shape == (3 * 3 * 12, 20)
    assert conv1.norm.freeze_statistics
    assert (conv1.activation.activation, fc1.activation) == (tf.nn.silu, tf.nn.silu)
    for layer in (conv1.conv, fc1):
        assert layer.kernel_initializer.get_config()["stddev"] == 9
        assert layer.kernel_regularizer.get_config() == {"l2": 0.5}


def test_dense_layers_of_the_box_head_without_hidden_hyperparameters():
    features = head_of("num_dense_layers: 3 dense_depth: 20").feature_extractor
    assert [layer.name for layer in features.parts] == ["fc1", "norm", "fc2", "fc3"]
    assert features.fc3.kernel.shape == (20, 20)


def test_first_values_of_the_box_predictor():
    head = head_of("box_initializer { random_normal_initializer { stddev: 9 } }")
    assert head.box_predictor.kernel_initializer.get_config()["stddev"] == 9
    assert "stddev" not in head.class_predictor.kernel_initializer.get_config()


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
    assert builder.training_execution(config) == Execution(winograd=True, recomputed_stages=1)
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
