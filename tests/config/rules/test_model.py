"""Combinations of fields of the model that cannot work are refused in words."""

from __future__ import annotations

import pytest

MODEL = "model.faster_rcnn"
HEAD = f"{MODEL}.second_stage_box_predictor.mask_rcnn_box_predictor"
SUPPRESSION = f"{MODEL}.second_stage_post_processing.batch_non_max_suppression"
POOLING = f"{MODEL}.roi_pooling"
CROP_SIZES = [f"-{MODEL}.{name}" for name in ("initial_crop_size", "maxpool_kernel_size", "maxpool_stride")]


@pytest.mark.parametrize(
    "changes, expected",
    [
        (
            [f"{HEAD}.num_convolutions=4"],
            f"{HEAD}.num_convolutions = 4 needs hidden_hyperparams. Allowed: 0, or hidden_hyperparams {{ }}.",
        ),
        ([f"{HEAD}.num_convolutions=4", f"{HEAD}.hidden_hyperparams={{batch_norm {{}}}}"], ""),
        (
            [
                f"{HEAD}.num_convolutions=4",
                f"{HEAD}.convolution_depth=48",
                f"{HEAD}.hidden_hyperparams={{group_norm {{}}}}",
            ],
            f"{HEAD}.convolution_depth = 48 does not go with hidden_hyperparams.group_norm. Allowed: multiples of 32.",
        ),
        (
            [f"{MODEL}.second_stage_class_weights=[1, 2, 3]"],
            f"{MODEL}.second_stage_class_weights has 3 values. Allowed: 4 for num_classes = 3, background first.",
        ),
        ([f"{MODEL}.second_stage_class_weights=[1, 2, 3, 4]"], ""),
        (
            [
                f"{MODEL}.second_stage_label_smoothing=0.1",
                f"{MODEL}.second_stage_classification_loss={{weighted_logits_softmax {{}}}}",
            ],
            f"{MODEL}.second_stage_label_smoothing = 0.1 does not go with "
            "second_stage_classification_loss.weighted_logits_softmax. Allowed: 0.",
        ),
        (
            [f"{MODEL}.second_stage_loss_normalization=CONFIGURED", f"{MODEL}.hard_example_miner={{}}"],
            f"{MODEL}.second_stage_loss_normalization = CONFIGURED does not go with hard_example_miner. "
            "Allowed: PER_IMAGE, BATCH.",
        ),
        ([f"{MODEL}.second_stage_loss_normalization=BATCH", f"{MODEL}.hard_example_miner={{}}"], ""),
        (
            [f"{SUPPRESSION}.min_box_side=0.5"],
            f"{SUPPRESSION}.min_box_side = 0.5 needs clip_before_suppression = true. Allowed: 0.",
        ),
        ([f"{SUPPRESSION}.min_box_side=0.5", f"{SUPPRESSION}.clip_before_suppression=true"], ""),
        ([f"{POOLING}={{}}"], ""),
        ([f"{POOLING}={{min_level: 2 max_level: 5 canonical_level: 4 side_epsilon: 1e-8}}"], ""),
        ([f"{POOLING}={{min_level: 3 max_level: 3}}"], ""),
        ([*CROP_SIZES, f"{POOLING}={{roi_align {{}}}}"], ""),
        ([f"{MODEL}.maxpool_kernel_size=15", f"{POOLING}={{roi_align {{}}}}"], ""),  # without effect
        ([*CROP_SIZES[:1], f"{POOLING}={{min_level: 3}}"], f"{MODEL}.initial_crop_size is not set. Allowed: 1 or more"),
        ([f"{POOLING}.min_level=7"], f"{POOLING}.min_level = 7 is no level of feature_extractor.fpn. Allowed: 2 to 6."),
        ([f"{POOLING}.max_level=7"], f"{POOLING}.max_level = 7 is no level of feature_extractor.fpn. Allowed: 2 to 6."),
        (
            [f"{POOLING}.min_level=4", f"{POOLING}.max_level=3"],
            f"{POOLING}.max_level = 3 is below min_level = 4. Allowed: 4 or more.",
        ),
        ([f"{POOLING}.canonical_level=1"], f"{POOLING}.canonical_level = 1 is out of range. Allowed: 2 to 7."),
        ([f"{POOLING}.canonical_size=0"], f"{POOLING}.canonical_size = 0 is out of range. Allowed: above 0."),
        ([f"{POOLING}.level_epsilon=-1"], f"{POOLING}.level_epsilon = -1 is out of range. Allowed: 0 or more."),
        ([f"{POOLING}.roi_align.output_size=0"], "roi_align.output_size = 0 is out of range. Allowed: 1 or more."),
        ([f"{POOLING}.roi_align.sampling_ratio=-1"], "sampling_ratio = -1 is out of range. Allowed: 0 or more."),
        ([f"{POOLING}.roi_align.max_static_samples=0"], "max_static_samples = 0 is out of range. Allowed: 1 or more."),
    ],
)
def test_combinations(config, changes, expected, change, refusals):
    change(config, *changes)
    found = refusals(config)
    if expected:
        assert any(expected in line for line in found), found
    else:
        assert found == []
