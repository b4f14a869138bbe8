"""Combinations of fields of the model that cannot work are refused in words."""

from __future__ import annotations

import pytest

MODEL = "model.faster_rcnn"
HEAD = f"{MODEL}.second_stage_box_predictor.mask_rcnn_box_predictor"
SUPPRESSION = f"{MODEL}.second_stage_post_processing.batch_non_max_suppression"


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
    ],
)
def test_combinations(config, changes, expected, change, refusals):
    change(config, *changes)
    found = refusals(config)
    if expected:
        assert any(expected in line for line in found), found
    else:
        assert found == []
