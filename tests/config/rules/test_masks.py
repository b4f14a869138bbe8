"""Combinations of fields of masks that cannot work are refused in words; those without effect are named."""

from __future__ import annotations

import pytest

from object_detection_fpn.config.checks import find_ineffective

MODEL = "model.faster_rcnn"
HEAD = f"{MODEL}.second_stage_box_predictor.mask_rcnn_box_predictor"
MASKS = [
    f"{MODEL}.number_of_stages=3",
    f"{HEAD}.predict_instance_masks=true",
    f"{HEAD}.conv_hyperparams={{}}",
    "train_input_reader.load_instance_masks=true",
    "eval_input_reader[0].load_instance_masks=true",
]
TRANSPOSED = [
    *MASKS,
    f"{HEAD}.mask_upsampling=TRANSPOSED_CONVOLUTION",
    f"{HEAD}.mask_height=28",
    f"{HEAD}.mask_width=28",
]
TRANSFER = f"{HEAD}.mask_transfer={{classes_with_masks: [1, 3]}}"


@pytest.mark.parametrize(
    "changes, expected",
    [
        (MASKS, ""),
        (TRANSPOSED, ""),
        ([*TRANSPOSED, TRANSFER], ""),
        (
            [*MASKS, f"-{HEAD}.predict_instance_masks"],
            f"{HEAD}.predict_instance_masks = false does not go with number_of_stages = 3. Allowed: true.",
        ),
        (
            [*MASKS, f"-{HEAD}.conv_hyperparams"],
            f"{HEAD}.conv_hyperparams is not set. Allowed: {{ ... }} with the fields",
        ),
        (
            [*MASKS, f"{HEAD}.conv_hyperparams={{group_norm {{}}}}", f"{HEAD}.mask_prediction_conv_depth=48"],
            f"{HEAD}.mask_prediction_conv_depth = 48 does not go with conv_hyperparams.group_norm. "
            "Allowed: multiples of 32.",
        ),
        (
            [*TRANSPOSED, f"{HEAD}.mask_width=33"],
            f"{HEAD}.mask_width = 33 is not twice the 14 cells that are pooled, with mask_upsampling = "
            "TRANSPOSED_CONVOLUTION. Allowed: 28.",
        ),
        ([*TRANSPOSED, f"{MODEL}.mask_roi_pooling={{}}"], ""),
        (
            [*TRANSPOSED, f"{MODEL}.mask_roi_pooling={{roi_align {{}}}}", f"{HEAD}.mask_height=14"],
            f"{HEAD}.mask_width = 28 is not twice the 7 cells that are pooled, with mask_upsampling = "
            "TRANSPOSED_CONVOLUTION. Allowed: 14.",
        ),
        (
            [*MASKS, f"{HEAD}.convolve_then_upsample_masks=true", f"{HEAD}.mask_height=13", f"{HEAD}.mask_width=14"],
            f"{HEAD}.mask_height = 13 is below the 14 cells that are pooled, with convolve_then_upsample_masks = true. "
            "Allowed: 14 or more.",
        ),
        (
            [*MASKS, TRANSFER],
            f"{HEAD}.mask_upsampling = RESIZE does not go with mask_transfer, which predicts a 1 x 1 convolution. "
            "Allowed: TRANSPOSED_CONVOLUTION.",
        ),
        ([*MASKS, TRANSFER, f"{HEAD}.masks_are_class_agnostic=true"], ""),
        (
            [*TRANSPOSED, f"{HEAD}.mask_transfer={{classes_with_masks: [1, 4]}}"],
            f"{HEAD}.mask_transfer.classes_with_masks[1] = 4 is no class. Allowed: 1 to num_classes = 3.",
        ),
        (
            [*TRANSPOSED, f"{HEAD}.mask_transfer={{}}"],
            f"{HEAD}.mask_transfer.classes_with_masks is not set. Allowed: at least one value.",
        ),
        (
            [*MASKS, f"{MODEL}.mask_roi_pooling={{max_level: 7}}"],
            f"{MODEL}.mask_roi_pooling.max_level = 7 is no level of feature_extractor.fpn. Allowed: 2 to 6.",
        ),
        ([*MASKS, f"{MODEL}.mask_targets={{threshold: 0}}"], f"{MODEL}.mask_targets.threshold = 0 is out of range."),
    ],
)
def test_combination(config, change, refusals, changes, expected):
    change(config, *changes)
    found = refusals(config)
    assert len(found) == bool(expected), found
    assert not expected or expected in found[0]


def test_masks_of_a_model_without_them_have_no_effect(config, change):
    change(config, *MASKS)
    assert not [problem for problem in find_ineffective(config) if "number_of_stages" in problem.problem]
    change(config, f"{MODEL}.number_of_stages=2")
    found = [problem.field for problem in find_ineffective(config) if "number_of_stages" in problem.problem]
    assert found == [
        f"{HEAD}.predict_instance_masks",
        "train_input_reader.load_instance_masks",
        "eval_input_reader[0].load_instance_masks",
    ]
