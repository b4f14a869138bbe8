"""The recipes of imported models say what the libraries' models are: their numbers, field by field."""

from __future__ import annotations

import math

import pytest
import pytorch_reference as reference
from pytorch_reference import recipes as shared

from object_detection_fpn.protos import fpn_pb2, rpn_pb2

# Those with masks have the same numbers, and a mask head more (tests/config/test_recipes.py).
CASES = {
    "faster_rcnn_resnet50_v1_fpn_torchvision": "torchvision/maskrcnn_resnet50_fpn",
    "faster_rcnn_resnet50_v1_fpn_torchvision_v2": "torchvision/maskrcnn_resnet50_fpn_v2",
    "faster_rcnn_resnet50_v1_fpn_detectron2_1x": "detectron2/mask_rcnn_R_50_FPN_3x",
    "faster_rcnn_resnet50_v1_fpn_detectron2_3x": "detectron2/mask_rcnn_R_50_FPN_3x",
    "faster_rcnn_resnet101_v1_fpn_detectron2_3x": "detectron2/faster_rcnn_R_101_FPN_3x",
    "faster_rcnn_resnet50_v1_c4_detectron2_1x": "detectron2/faster_rcnn_R_50_C4_3x",
    "faster_rcnn_resnet50_v1_c4_detectron2_3x": "detectron2/faster_rcnn_R_50_C4_3x",
}
MASK_CASES = {
    "mask_rcnn_resnet50_v1_fpn_torchvision": "torchvision/maskrcnn_resnet50_fpn",
    "mask_rcnn_resnet50_v1_fpn_torchvision_v2": "torchvision/maskrcnn_resnet50_fpn_v2",
    "mask_rcnn_resnet50_v1_fpn_detectron2_1x": "detectron2/mask_rcnn_R_50_FPN_3x",
    "mask_rcnn_resnet50_v1_fpn_detectron2_3x": "detectron2/mask_rcnn_R_50_FPN_3x",
    "mask_rcnn_resnet101_v1_fpn_detectron2_3x": "detectron2/mask_rcnn_R_50_FPN_3x",
}


@pytest.fixture(params=CASES)
def case(request) -> reference.Case:
    return reference.Case(CASES[request.param], request.param)


@pytest.fixture
def model(case):
    return shared.load_recipe(case.recipe).model.faster_rcnn


def test_pixels_are_those_of_the_library(case, model):
    shared.check_pixels(case, model)


def test_images_are_resized_as_by_the_library(case, model):
    shared.check_resizer(case, model)
    if not case.is_single_level:
        multiple = case.settings["input"]["pad"]["size_divisibility"]
        assert model.feature_extractor.pad_to_multiple == multiple


def test_backbone_and_pyramid_are_those_of_the_library(case, model):
    pyramid = "" if case.is_single_level else "fpn_"
    depth = case.settings["backbone"]["depth"]
    shared.check_backbone(case, model, f"faster_rcnn_resnet{depth}_{pyramid}keras")
    here = model.feature_extractor
    if case.is_single_level:
        assert here.override_base_feature_extractor_hyperparams
        return
    assert here.fpn.style == fpn_pb2.FeaturePyramidNetworks.PAPER
    assert here.fpn.coarse_levels == fpn_pb2.FeaturePyramidNetworks.MAX_POOL
    assert here.fpn.additional_layer_depth == case.settings["fpn"]["channels"]
    has_norm = here.conv_hyperparams.WhichOneof("normalizer_oneof") is not None
    assert has_norm == case.settings["fpn"]["norm"].startswith("batch norm")


def test_anchors_are_those_of_the_library(case, model):
    there, here = case.settings["anchors"], model.first_stage_anchor_generator.multiscale_anchor_generator
    if case.is_single_level:
        grid = model.first_stage_anchor_generator.grid_anchor_generator
        assert [[256 * scale for scale in grid.scales]] == there["sizes"]
        assert (grid.height, grid.width) == (256, 256)
        assert [1 / ratio for ratio in grid.aspect_ratios] == there["aspect_ratios"]
        assert [grid.height_stride] == [grid.width_stride] == there["stride"]
        assert grid.height_offset == grid.width_offset == there["offset"]
        return
    levels = range(here.min_level, here.max_level + 1)
    assert [[here.anchor_scale * 2**level] for level in levels] == there["sizes"]
    assert [1 / ratio for ratio in here.aspect_ratios] == there["aspect_ratios"]  # height / width there
    assert here.scales_per_octave == 1
    assert here.offset == there["offset"]
    assert here.round_corners == (there["rounded"] != "no")
    assert here.stride_of_image == isinstance(there["stride"], str)


def test_rpn_is_that_of_the_library(case, model):
    there, here = case.settings["rpn"], model.rpn
    assert here.num_convolutions == there["convs"]
    assert model.first_stage_box_predictor_depth == (1024 if case.is_single_level else 256)
    assert here.share_predictors or case.is_single_level
    assert here.objectness == rpn_pb2.RegionProposalNetwork.SIGMOID
    assert model.first_stage_nms_iou_threshold == pytest.approx(there["nms_thresh"])
    assert model.first_stage_nms_score_threshold == (there.get("score_thresh") or 0)
    assert here.min_proposal_side == pytest.approx(there.get("min_size", 0))  # of one level: as of a pyramid
    coder = here.box_coder
    # Those of the libraries: the reference has smaller numbers.
    if case.is_single_level:
        assert [coder.x_scale, coder.y_scale, coder.width_scale, coder.height_scale] == [1, 1, 1, 1]
        assert (here.max_candidates_per_level, model.first_stage_max_proposals) == (6000, 1000)
        assert (here.max_candidates_per_level_in_training, here.max_proposals_in_training) == (12000, 2000)
        return
    assert [coder.x_scale, coder.y_scale, coder.width_scale, coder.height_scale] == there["box_weights"]
    assert math.log(coder.max_size_ratio) == pytest.approx(case.settings["box_coder"]["dw_dh_max"])
    assert here.max_candidates_per_level == model.first_stage_max_proposals == 1000
    assert here.max_candidates_per_level_in_training == 2000
    assert here.max_proposals_in_training == (2000 if case.is_torchvision else 1000)


def test_pooling_is_that_of_the_library(case, model):
    there, here = case.settings["box_pool"], model.roi_pooling
    align = here.roi_align
    if case.is_single_level:
        assert not any(map(here.HasField, ("min_level", "max_level")))
        assert (align.output_size, align.sampling_ratio, align.aligned) == (14, 0, True)
        assert (there["output_size"], there["sampling_ratio"], there["aligned"]) == (14, 0, True)
        return
    assert [f"P{level}" for level in range(here.min_level, here.max_level + 1)] == there["maps"]
    assert (here.canonical_level, here.canonical_size) == (there["canonical_level"], there["canonical_scale"])
    names = ("output_size", "sampling_ratio", "aligned")
    assert [getattr(align, name) for name in names] == [there[name] for name in names]
    assert f"{here.level_epsilon or here.side_epsilon:.0e}".replace("e-0", "e-") in there["level"]


def test_box_head_is_that_of_the_library(case, model):
    head = model.second_stage_box_predictor.mask_rcnn_box_predictor
    there = case.settings["box_head"]
    if case.is_single_level:
        assert not any(map(head.HasField, ("num_dense_layers", "dense_depth", "num_convolutions")))
    else:
        assert head.num_dense_layers == sum(line == "linear 1024 + relu" for line in there)
        assert head.dense_depth == 1024
        has_convolutions = there[0].startswith("conv 3x3 256") and there[0].endswith("four times")
        assert head.num_convolutions == (4 if has_convolutions else 0)
    coder = model.second_stage_box_coder
    weights = case.settings["box_predictor"]["box_weights"]
    assert [coder.x_scale, coder.y_scale, coder.width_scale, coder.height_scale] == weights


def test_detections_are_selected_as_by_the_library(case, model):
    there, here = case.settings["detections"], model.second_stage_post_processing.batch_non_max_suppression
    assert here.score_threshold == pytest.approx(there["score_thresh"])
    assert here.iou_threshold == there["nms_thresh"]
    assert here.max_total_detections == here.max_detections_per_class == there["detections_per_image"]
    assert here.min_box_side == pytest.approx(there.get("min_size", 0))
    assert here.clip_before_suppression


@pytest.mark.parametrize("name", MASK_CASES)
def test_masks_are_those_of_the_library(name):
    case = reference.Case(MASK_CASES[name], name)
    model = shared.load_recipe(name).model.faster_rcnn
    there, pooling = case.settings["mask"], model.mask_roi_pooling
    levels = (pooling.min_level, pooling.max_level)
    assert [f"P{level}" for level in range(levels[0], levels[1] + 1)] == there["pool"]["maps"]
    align = pooling.roi_align
    for field in ("output_size", "sampling_ratio", "aligned"):
        assert getattr(align, field) == there["pool"][field]
    boxes = model.roi_pooling
    assert (*levels, align.sampling_ratio, align.aligned, pooling.level_epsilon, pooling.side_epsilon) == (
        *(boxes.min_level, boxes.max_level, boxes.roi_align.sampling_ratio, boxes.roi_align.aligned),
        *(boxes.level_epsilon, boxes.side_epsilon),
    )
    head = model.second_stage_box_predictor.mask_rcnn_box_predictor
    assert there["head"].startswith("four conv 3x3 256 ") and "transposed conv 2x2 stride 2 with bias" in there["head"]
    assert (head.mask_prediction_num_conv_layers, head.mask_prediction_conv_depth) == (4, 256)
    assert head.mask_upsampling == head.TRANSPOSED_CONVOLUTION
    assert (head.mask_height, head.mask_width) == (28, 28)
    assert head.conv_hyperparams.HasField("sync_batch_norm") == ("batch norm" in there["head"])
    assert model.second_stage_mask_prediction_loss_weight == 1.0
    ways = {
        "the 28x28 mask gets a border of 1 zero": "ZERO_BORDER",
        "in the given image, at each pixel centre": "PIXEL_CENTERS",
    }
    (way,) = (way for words, way in ways.items() if there["paste"].startswith(words))
    assert model.MaskPasting.Name(model.mask_pasting) == way
    # Soft and not aligned there, from half a cell on and aligned in Detectron2.
    targets = model.mask_targets
    assert targets.sampling_ratio == 0
    assert targets.HasField("threshold") == targets.aligned != case.is_torchvision


@pytest.mark.parametrize(
    ("name", "batch_size", "num_steps", "rate", "drops", "weight_decay"),
    [
        ("resnet50_v1_fpn_detectron2_1x", 16, 90_000, 0.02, (60_000, 80_000), 1e-4),
        ("resnet50_v1_fpn_detectron2_3x", 16, 270_000, 0.02, (210_000, 250_000), 1e-4),
        ("resnet101_v1_fpn_detectron2_3x", 16, 270_000, 0.02, (210_000, 250_000), 1e-4),
        ("resnet50_v1_c4_detectron2_1x", 16, 90_000, 0.02, (60_000, 80_000), 1e-4),
        ("resnet50_v1_c4_detectron2_3x", 16, 270_000, 0.02, (210_000, 250_000), 1e-4),
        ("resnet50_v1_fpn_torchvision", 16, 26 * 7329, 0.02, (16 * 7329, 22 * 7329), 1e-4),
        ("resnet50_v1_fpn_torchvision_v2", 64, 400 * 1832, 0.1, (352 * 1832, 384 * 1832), 4e-5),
    ],
)
def test_schedule_is_that_of_the_library(name, batch_size, num_steps, rate, drops, weight_decay):
    """An epoch is 117,266 images, those of COCO's training images with objects."""
    recipe = shared.load_recipe(f"faster_rcnn_{name}")
    shared.check_schedule(recipe.train_config, batch_size=batch_size, num_steps=num_steps, rate=rate, drops=drops)
    assert recipe.train_config.optimizer.HasField("momentum_optimizer")
    extractor = recipe.model.faster_rcnn.feature_extractor
    assert extractor.conv_hyperparams.regularizer.l2_regularizer.weight == pytest.approx(weight_decay)
