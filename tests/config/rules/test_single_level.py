"""Fields of a pyramid without one, and of a single level with one, are refused in words."""

from __future__ import annotations

import pytest

from object_detection_fpn.config.checks import find_ineffective

MODEL = "model.faster_rcnn"
EXTRACTOR = f"{MODEL}.feature_extractor"
ANCHORS = f"{MODEL}.first_stage_anchor_generator"
HEAD = f"{MODEL}.second_stage_box_predictor.mask_rcnn_box_predictor"
TYPE = 'type = "faster_rcnn_resnet50_keras"'
SINGLE = [
    f"{EXTRACTOR}.type=faster_rcnn_resnet50_keras",
    f"-{EXTRACTOR}.conv_hyperparams",
    f"-{EXTRACTOR}.override_base_feature_extractor_hyperparams",
    f"-{EXTRACTOR}.fpn",
    f"{ANCHORS}=grid_anchor_generator {{scales: [0.5, 1] aspect_ratios: [1, 2]}}",
]
OF_BACKBONE = [f"{EXTRACTOR}.conv_hyperparams={{}}", f"{EXTRACTOR}.override_base_feature_extractor_hyperparams=true"]
MASKS = [
    f"{MODEL}.number_of_stages=3",
    f"{HEAD}.predict_instance_masks=true",
    f"{HEAD}.conv_hyperparams={{}}",
    "train_input_reader.load_instance_masks=true",
    "eval_input_reader[0].load_instance_masks=true",
]


@pytest.mark.parametrize(
    "changes",
    [
        SINGLE,
        [*SINGLE, f"{EXTRACTOR}.type=faster_rcnn_resnet18_keras", f"{EXTRACTOR}.resnet.frozen_stages=5"],
        [*SINGLE, f"{EXTRACTOR}.first_stage_features_stride=16", f"{EXTRACTOR}.pad_to_multiple=16"],
        [*SINGLE, f"{MODEL}.roi_pooling={{min_level: 4 max_level: 4 roi_align {{}}}}"],
        [*SINGLE, *OF_BACKBONE],
        [
            *SINGLE,
            *OF_BACKBONE,
            f"{EXTRACTOR}.conv_hyperparams.batch_norm={{}}",
            f"{EXTRACTOR}.resnet.batch_norm=FROZEN",
        ],
        [*SINGLE, *MASKS],
        [*SINGLE, *MASKS, f"{HEAD}.convolve_then_upsample_masks=true", f"{HEAD}.mask_height=4", f"{HEAD}.mask_width=4"],
        [*SINGLE, f"{MODEL}.number_of_stages=1"],
    ],
    ids=str,
)
def test_what_works_is_accepted(config, changes, change, refusals):
    change(config, *changes)
    assert refusals(config) == []


@pytest.mark.parametrize(
    "changes, expected",
    [
        (
            [*SINGLE, f"{EXTRACTOR}.conv_hyperparams={{}}"],
            f"{EXTRACTOR}.conv_hyperparams has no layers to build: {TYPE} has no pyramid, and "
            "override_base_feature_extractor_hyperparams is not set. Allowed: to leave it out, or "
            "override_base_feature_extractor_hyperparams: true.",
        ),
        (
            [*SINGLE, f"{EXTRACTOR}.fpn={{}}"],
            f'{EXTRACTOR}.fpn does not go with {TYPE}, which has no pyramid ("faster_rcnn_resnet50_fpn_keras" has one). '
            "Allowed: to leave it out.",
        ),
        (
            [*SINGLE, *OF_BACKBONE, f"{EXTRACTOR}.resnet.batch_norm=FROZEN"],
            f"{EXTRACTOR}.resnet.batch_norm = FROZEN does not fit conv_hyperparams, which build the backbone without batch",
        ),
        (
            [*SINGLE, f"{EXTRACTOR}.first_stage_features_stride=8"],
            f"{EXTRACTOR}.first_stage_features_stride = 8 does not go with {TYPE}. Allowed: 16.",
        ),
        (
            [*SINGLE, f"{ANCHORS}=multiscale_anchor_generator {{aspect_ratios: 1}}"],
            f"{ANCHORS}.multiscale_anchor_generator serves each level of a pyramid and does not go with "
            f"feature_extractor.{TYPE}. Allowed: grid_anchor_generator instead.",
        ),
        ([f"-{EXTRACTOR}.fpn"], f"{EXTRACTOR}.fpn is not set. Allowed: {{ ... }} with the fields"),
        ([f"-{EXTRACTOR}.conv_hyperparams"], f"{EXTRACTOR}.conv_hyperparams is not set. Allowed: {{ ... }} with the"),
        ([*SINGLE, f"{ANCHORS}.grid_anchor_generator.scales=[]"], "scales is not set. Allowed: at least one value."),
        ([*SINGLE, f"{ANCHORS}.grid_anchor_generator.height_stride=0"], "height_stride = 0 is out of range."),
        ([*SINGLE, f"{ANCHORS}.grid_anchor_generator.aspect_ratios=[1, 0]"], "aspect_ratios[1] = 0 is out of range."),
        (
            [*SINGLE, f"{MODEL}.roi_pooling.max_level=5"],
            f"{MODEL}.roi_pooling.max_level = 5 is no level of feature_extractor.{TYPE}. Allowed: 4.",
        ),
        (
            [*SINGLE, *MASKS, f"{MODEL}.mask_roi_pooling={{}}"],
            f"{MODEL}.mask_roi_pooling does not go with feature_extractor.{TYPE}: masks are predicted from the cells",
        ),
        (
            [*SINGLE, f"{HEAD}.dense_depth=256"],
            f"{HEAD}.dense_depth does not go with feature_extractor.{TYPE}: the layers of the box head are the backbone's last "
            "stage. Allowed: to leave it out.",
        ),
        (
            [*SINGLE, *MASKS, f"{HEAD}.convolve_then_upsample_masks=true", f"{HEAD}.mask_height=3"],
            f"{HEAD}.mask_height = 3 is below the 4 cells that are pooled, with convolve_then_upsample_masks = true.",
        ),
        (
            [
                *SINGLE,
                *MASKS,
                f"{HEAD}.mask_upsampling=TRANSPOSED_CONVOLUTION",
                f"{MODEL}.roi_pooling.roi_align={{output_size: 14}}",
            ],
            f"{HEAD}.mask_height = 15 is not twice the 7 cells that are pooled, with mask_upsampling",
        ),
    ],
)
def test_what_cannot_work_is_refused(config, changes, expected, change, refusals):
    change(config, *changes)
    assert any(expected in line for line in refusals(config)), refusals(config)


def test_fields_of_the_padding_and_of_the_layers_of_a_pyramid_have_no_effect(config, change):
    override = "override_base_feature_extractor_hyperparams"
    change(config, *SINGLE, f"{EXTRACTOR}.pad_to_multiple=64", f"{EXTRACTOR}.{override}=true")
    lines = [f"{p.field} = {p.value} {p.problem}" for p in find_ineffective(config)]
    assert f"{EXTRACTOR}.pad_to_multiple = 64 has no effect: {TYPE} needs no padding" in lines
    assert f"{EXTRACTOR}.{override} = true has no effect: {TYPE} has no conv_hyperparams" in lines
