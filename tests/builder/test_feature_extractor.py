"""Every field of backbone and pyramid arrives in the object that is built from it."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format

from object_detection_fpn import builder
from object_detection_fpn.modeling import fpn, layers
from object_detection_fpn.modeling.backbones import backbone, resnet_v1
from object_detection_fpn.protos import faster_rcnn_pb2

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

RESNET50 = 'type: "faster_rcnn_resnet50_fpn_keras" fpn { min_level: 2 max_level: 6 additional_layer_depth: 8 }'
BACKBONES = dict(builder.BACKBONES)  # before any test replaces them


def test_names_of_backbones_give_their_depth():
    built = {name: (make.func, make.args) for name, make in BACKBONES.items()}
    makers = {18: resnet_v1.resnet_v1_small, 34: resnet_v1.resnet_v1_small}
    assert built == {
        f"faster_rcnn_resnet{depth}{pyramid}_keras": (makers.get(depth, resnet_v1.resnet_v1), (depth,))
        for depth in (18, 34, 50, 101, 152)
        for pyramid in ("", "_fpn")
    } | {
        f"ssd_resnet{depth}_v1_fpn_keras": (makers.get(depth, resnet_v1.resnet_v1), (depth,))
        for depth in (18, 34, 50, 101, 152)
    }


@pytest.fixture(autouse=True)
def _tiny_backbones(backbone_calls):
    """In place of all others."""


def message(text=""):
    """`RESNET50` with the fields in `text` changed."""
    result = faster_rcnn_pb2.FasterRcnnFeatureExtractor()
    for part in (RESNET50, text):
        result.MergeFrom(text_format.Parse(part, faster_rcnn_pb2.FasterRcnnFeatureExtractor()))
    return result


def feature_extractor(text="", **kwargs):
    return builder.build_feature_extractor(message(text), **kwargs)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_the_type_chooses_the_backbone(backbone_calls, depth):
    feature_extractor(f'type: "faster_rcnn_resnet{depth}_fpn_keras"', num_channels=5)
    assert [(call["depth"], call["num_channels"]) for call in backbone_calls] == [(depth, 5)]


@pytest.mark.parametrize("min_level, max_level, of_backbone", [(2, 6, 5), (3, 7, 5), (2, 4, 4)])
def test_levels_and_filters_arrive(backbone_calls, min_level, max_level, of_backbone):
    extractor = feature_extractor(f"fpn {{ min_level: {min_level} max_level: {max_level} additional_layer_depth: 12 }}")
    assert (extractor.min_level, extractor.max_level) == (min_level, max_level)
    assert extractor.fpn.num_filters == 12
    assert backbone_calls[0]["max_level"] == of_backbone


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


@pytest.mark.parametrize("text, is_taken", [(HYPERPARAMS, True), ("", False)])
def test_a_backbone_without_pyramid_takes_hyperparameters_by_asking(backbone_calls, text, is_taken):
    without = message(f'type: "faster_rcnn_resnet50_keras" {text} override_base_feature_extractor_hyperparams: true')
    without.ClearField("fpn")
    builder.build_feature_extractor(without)
    spec = backbone_calls[0]["spec"]
    assert spec.norm == (layers.BatchNormSpec(momentum=0.5, epsilon=0.25) if is_taken else resnet_v1.DEFAULT_SPEC.norm)
    assert (spec.activation, spec.regularizer) == ("relu6" if is_taken else "relu", None)


def test_statistics_are_frozen_by_default():
    assert feature_extractor(HYPERPARAMS).fpn.smoothings["2"].norm.freeze_statistics


# Options of the best detectors ----------------------------------------------------------------------------------------


def test_what_is_not_set_is_not_asked_for(backbone_calls):
    extractor = feature_extractor()
    assert backbone_calls[0]["settings"] == {}
    assert type(extractor.fpn) is fpn.FPN
    assert extractor.backbone.pixels == backbone.IMAGENET_MEANS


@pytest.mark.parametrize(
    "text, settings",
    [
        ("stride_in_3x3: true", {"stride_in_3x3": True}),
        ("symmetric_padding: true", {"symmetric_padding": True}),
        ("frozen_stages: 2", {"frozen_stages": 2}),
        ("stride_in_3x3: false symmetric_padding: false frozen_stages: 0", {}),
    ],
)
def test_the_form_of_the_backbone_arrives(backbone_calls, text, settings):
    feature_extractor(f"resnet {{ {text} }}")
    assert backbone_calls[0]["settings"] == settings


@pytest.mark.parametrize("override", ["", "override_base_feature_extractor_hyperparams: true"])
@pytest.mark.parametrize(
    "text, trainable, frozen_statistics, synchronized",
    [
        ("", True, True, False),
        ("batch_norm_trainable: true", True, False, False),
        ("resnet { batch_norm: FROZEN }", False, True, False),
        ("resnet { batch_norm: FROZEN } batch_norm_trainable: true", False, False, False),
        ("resnet { batch_norm: TRAINABLE }", True, False, False),
        ("resnet { batch_norm: SYNCHRONIZED }", True, False, True),
    ],
)
def test_how_batch_norms_train_arrives_in_the_backbone_alone(
    backbone_calls, override, text, trainable, frozen_statistics, synchronized
):
    extractor = feature_extractor(f"conv_hyperparams {{ batch_norm {{ train: false }} }} {text} {override}")
    spec = backbone_calls[0]["spec"]
    assert (spec.norm.trainable, spec.norm.synchronized) == (trainable, synchronized)
    asks_for_statistics = "TRAINABLE" in text or "SYNCHRONIZED" in text
    by_norm = bool(override) and not asks_for_statistics
    assert (spec.freeze_statistics, spec.norm.freeze_statistics) == (frozen_statistics, by_norm)
    norm = extractor.fpn.smoothings["2"].norm
    assert norm.trainable
    assert not norm.synchronized


@pytest.mark.parametrize("override", ["", "override_base_feature_extractor_hyperparams: true"])
def test_epsilon_arrives_in_the_backbone_alone(backbone_calls, override):
    for epsilon in (0.0, 0.125):
        extractor = feature_extractor(f"{HYPERPARAMS} {override} resnet {{ batch_norm_epsilon: {epsilon} }}")
        assert backbone_calls[-1]["spec"].norm.epsilon == epsilon
        assert extractor.fpn.smoothings["2"].norm.epsilon == 0.25


def test_pixel_normalization_arrives(backbone_calls):
    extractor = feature_extractor("pixel_normalization { channel_order: BGR mean: [1, 2, 3] stddev: [2, 4, 8] }")
    pixels = backbone.PixelNormalization(mean=(1, 2, 3), stddev=(2, 4, 8), is_bgr=True)
    assert backbone_calls[0]["settings"] == {"pixels": pixels}
    np.testing.assert_array_equal(extractor.normalize_pixels(tf.constant([[[[7, 2, 3]]]]))[0, 0, 0], [1, 0, 0.5])
    assert feature_extractor("pixel_normalization { }").backbone.pixels == backbone.PixelNormalization()


@pytest.mark.parametrize("coarse_levels", fpn.CoarseLevels)
def test_the_pyramid_of_the_paper_arrives(coarse_levels):
    pyramid = feature_extractor(f"fpn {{ style: PAPER coarse_levels: {coarse_levels.name} max_level: 7 }}").fpn
    assert isinstance(pyramid, fpn.PaperFPN)
    assert (pyramid.min_level, pyramid.max_level, pyramid.num_filters) == (2, 7, 8)
    in_filters = [extra.kernel.shape[2] for extra in pyramid.extras.values()]
    assert in_filters == {"MAX_POOL": [], "CONV_OF_C5": [10, 8], "CONV_OF_P5": [8, 8]}[coarse_levels.name]


def test_small_resnets_take_a_stride_that_they_have(monkeypatch):
    monkeypatch.setattr(builder.feature_extractor, "BACKBONES", BACKBONES)
    text = 'type: "faster_rcnn_resnet18_fpn_keras" fpn { min_level: 2 max_level: 2 } resnet { stride_in_3x3: true }'
    assert feature_extractor(text).backbone.stride_in_3x3
