"""What is refused of the region proposal network and of its proposals in training."""

from __future__ import annotations

import pytest

MODEL = "model.faster_rcnn"
RPN = f"{MODEL}.rpn"


@pytest.mark.parametrize(
    "changes",
    [
        [f"{RPN}={{}}"],
        [f"{RPN}.anchor_border=KEPT", f"{RPN}.max_straddle=0", f"{MODEL}.clip_anchors_to_image=false"],
        [f"{RPN}.clip_before_suppression=true", f"{RPN}.min_proposal_side=0.001"],
        [f"{RPN}.matched_threshold=0.5", f"{RPN}.unmatched_threshold=0.5"],
        [f"{RPN}.max_proposals_in_training=2000", f"{MODEL}.second_stage_batch_size=512"],
        [f"{MODEL}.second_stage_min_background_iou=0.5"],
        [f"{RPN}.max_candidates_per_level=0", f"{RPN}.max_candidates_per_level_in_training=0"],
    ],
)
def test_options_are_accepted(config, change, refusals, changes):
    change(config, f"{MODEL}.num_classes=2", *changes)
    assert refusals(config) == []


@pytest.mark.parametrize(
    "changes, expected",
    [
        (
            [f"{RPN}.unmatched_threshold=0.8"],
            f"{RPN}.unmatched_threshold = 0.8 is above matched_threshold = 0.7. Allowed: 0 to 0.7.",
        ),
        (
            [f"{RPN}.max_straddle=0"],
            f"{RPN}.max_straddle = 0 needs anchor_border = KEPT. Allowed: to leave it out.",
        ),
        (
            [f"{RPN}.min_proposal_side=1"],
            f"{RPN}.min_proposal_side = 1 needs clip_before_suppression = true. Allowed: 0.",
        ),
        (
            [f"{RPN}.anchor_border=KEPT", f"{MODEL}.clip_anchors_to_image=true"],
            f"{MODEL}.clip_anchors_to_image = true does not go with rpn.anchor_border = KEPT. Allowed: false.",
        ),
        (
            [f"{RPN}.clip_before_suppression=true", f"{MODEL}.use_combined_nms_in_first_stage=true"],
            f"{MODEL}.use_combined_nms_in_first_stage = true does not go with rpn.clip_before_suppression = true, which "
            "drops proposals without area. Allowed: false.",
        ),
        (
            [f"{RPN}.max_proposals_in_training=32"],
            f"{MODEL}.second_stage_batch_size = 300 is above rpn.max_proposals_in_training = 32. Allowed: 1 to 32.",
        ),
        (
            [f"{MODEL}.second_stage_min_background_iou=0.6"],
            f"{MODEL}.second_stage_min_background_iou = 0.6 is above second_stage_matched_threshold = 0.5. "
            "Allowed: 0 to 0.5.",
        ),
        ([f"{RPN}.num_convolutions=0"], f"{RPN}.num_convolutions = 0 is out of range. Allowed: 1 or more."),
        ([f"{RPN}.matched_threshold=1.5"], f"{RPN}.matched_threshold = 1.5 is out of range. Allowed: 0 to 1."),
        ([f"{RPN}.max_candidates_per_level=-1"], f"{RPN}.max_candidates_per_level = -1 is out of range."),
        ([f"{RPN}.max_proposals_in_training=0"], f"{RPN}.max_proposals_in_training = 0 is out of range."),
        ([f"{RPN}.box_coder.y_scale=0"], f"{RPN}.box_coder.y_scale = 0 is out of range. Allowed: above 0."),
        (
            [f"{MODEL}.second_stage_box_coder.max_size_ratio=0"],
            f"{MODEL}.second_stage_box_coder.max_size_ratio = 0 is out of range. Allowed: above 0.",
        ),
    ],
)
def test_options_are_refused(config, change, refusals, changes, expected):
    change(config, f"{MODEL}.num_classes=2", *changes)
    assert any(line.startswith(f"my.config: {expected}") for line in refusals(config)), refusals(config)
