"""The recipes of imported RetinaNets say what the libraries' models are: their numbers, field by field."""

from __future__ import annotations

import math

import pytest
from pytorch_reference import recipes as shared
from pytorch_reference import retinanet as retinanets

from object_detection_fpn.protos import fpn_pb2, ssd_pb2

CASES = {
    "retinanet_resnet50_v1_fpn_torchvision": "torchvision/retinanet_resnet50_fpn",
    "retinanet_resnet50_v1_fpn_torchvision_v2": "torchvision/retinanet_resnet50_fpn_v2",
    "retinanet_resnet50_v1_fpn_detectron2_1x": "detectron2/retinanet_R_50_FPN_3x",
    "retinanet_resnet50_v1_fpn_detectron2_3x": "detectron2/retinanet_R_50_FPN_3x",
    "retinanet_resnet101_v1_fpn_detectron2_3x": "detectron2/retinanet_R_50_FPN_3x",
}


@pytest.fixture(params=CASES)
def case(request) -> retinanets.RetinaNetCase:
    return retinanets.RetinaNetCase(CASES[request.param], request.param)


@pytest.fixture
def model(case):
    return shared.load_recipe(case.recipe).model.ssd


def test_pixels_are_those_of_the_library(case, model):
    shared.check_pixels(case, model)


def test_images_are_resized_as_by_the_library(case, model):
    shared.check_resizer(case, model)


def test_backbone_and_pyramid_are_those_of_the_library(case, model):
    depth = 101 if "resnet101" in case.recipe else case.settings["backbone"]["depth"]
    shared.check_backbone(case, model, f"ssd_resnet{depth}_v1_fpn_keras")
    here = model.feature_extractor
    fpn = case.settings["fpn"]
    assert (here.fpn.min_level, here.fpn.max_level, here.fpn.additional_layer_depth) == (3, 7, fpn["channels"])
    assert here.fpn.style == fpn_pb2.FeaturePyramidNetworks.PAPER
    source = fpn_pb2.FeaturePyramidNetworks.CoarseLevels.Name(here.fpn.coarse_levels).removeprefix("CONV_OF_")
    assert f"on {source} (" in fpn["P6"]
    assert here.conv_hyperparams.WhichOneof("normalizer_oneof") is None and fpn["norm"].startswith("none")


def test_anchors_are_those_of_the_library(case, model):
    there, here = case.settings["anchors"], model.anchor_generator.multiscale_anchor_generator
    assert (here.min_level, here.max_level) == (3, 7)
    scales = [here.anchor_scale * 2 ** (i / here.scales_per_octave) for i in range(here.scales_per_octave)]
    sizes = [[scale * 2**level for scale in scales] for level in range(3, 8)]
    if here.whole_scales:
        sizes = [[int(size + 1e-9) for size in of_level] for of_level in sizes]
    for of_level, expected in zip(sizes, there["sizes"], strict=True):
        assert of_level == pytest.approx(expected)
    assert [1 / ratio for ratio in here.aspect_ratios] == there["aspect_ratios"]  # height / width there
    assert here.scales_first == there["order"].startswith("size by size")
    assert here.offset == there["offset"]
    assert here.round_corners == here.whole_scales == (there["rounded"] != "no")
    assert here.stride_of_image == isinstance(there["stride"], str)


def test_head_is_that_of_the_library(case, model):
    there, here = case.settings["head"], model.box_predictor.weight_shared_convolutional_box_predictor
    assert (here.num_layers_before_predictor, here.depth, here.kernel_size) == (there["convs"], 256, 3)
    has_norm = here.conv_hyperparams.HasField("group_norm")
    assert has_norm == here.share_norms == ("group norm" in there["conv"])
    assert not has_norm or here.conv_hyperparams.group_norm.epsilon == pytest.approx(1e-5)
    assert 1 / (1 + math.exp(-here.class_prediction_bias_init)) == pytest.approx(0.01)
    coder = model.box_coder.faster_rcnn_box_coder
    assert [coder.x_scale, coder.y_scale, coder.width_scale, coder.height_scale] == there["box_weights"]
    assert math.log(coder.max_size_ratio) == pytest.approx(case.settings["box_coder"]["dw_dh_max"])
    # torchvision's first column is of no class of its data sets.
    assert model.add_background_class == model.background_competes == case.is_torchvision
    assert model.num_classes == (90 if case.is_torchvision else 80)
    assert model.encode_background_as_zeros


def test_detections_are_selected_as_by_the_library(case, model):
    there, here = case.settings["detections"], model.post_processing.batch_non_max_suppression
    assert here.score_threshold == pytest.approx(there["score_thresh"])
    assert here.iou_threshold == there["nms_thresh"]
    # Those of the libraries: the reference has smaller numbers.
    assert model.max_candidates_per_level == 1000
    assert here.max_total_detections == here.max_detections_per_class == (300 if case.is_torchvision else 100)
    is_clipped_first = there["order"].index("clip to the resized image") if case.is_torchvision else None
    assert here.clip_before_suppression == here.use_combined_nms == (is_clipped_first is not None)


def test_losses_are_those_of_the_library(case, model):
    matcher = model.matcher.argmax_matcher
    assert (matcher.matched_threshold, matcher.unmatched_threshold) == pytest.approx((0.5, 0.4))
    assert matcher.force_match_for_each_row
    assert model.low_quality_matches == ssd_pb2.Ssd.ALL_ANCHORS
    focal = model.loss.classification_loss.weighted_sigmoid_focal
    assert (focal.gamma, focal.alpha) == (2.0, 0.25)
    kind = "weighted_giou" if case.recipe.endswith("v2") else "l1_localization_loss"
    assert model.loss.localization_loss.WhichOneof("localization_loss") == kind
    normalization = ssd_pb2.Ssd.PER_IMAGE if case.is_torchvision else ssd_pb2.Ssd.MOVING_AVERAGE
    assert model.loss_normalization == normalization


@pytest.mark.parametrize(
    ("name", "num_steps", "rate", "drops"),
    [
        ("resnet50_v1_fpn_detectron2_1x", 90_000, 0.01, (60_000, 80_000)),
        ("resnet50_v1_fpn_detectron2_3x", 270_000, 0.01, (210_000, 250_000)),
        ("resnet101_v1_fpn_detectron2_3x", 270_000, 0.01, (210_000, 250_000)),
        ("resnet50_v1_fpn_torchvision", 26 * 7329, 0.01, (16 * 7329, 22 * 7329)),
        ("resnet50_v1_fpn_torchvision_v2", 26 * 7329, 0.0001, (16 * 7329, 22 * 7329)),
    ],
)
def test_schedule_is_that_of_the_library(name, num_steps, rate, drops):
    """An epoch is 117,266 images, those of COCO's training images with objects."""
    train = shared.load_recipe(f"retinanet_{name}").train_config
    shared.check_schedule(train, batch_size=16, num_steps=num_steps, rate=rate, drops=drops)
