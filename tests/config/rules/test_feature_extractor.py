"""Combinations of fields of backbone and pyramid that cannot work."""

from __future__ import annotations

import pytest

EXTRACTOR = "model.faster_rcnn.feature_extractor"
RESNET, PYRAMID, PIXELS = (f"{EXTRACTOR}.{name}" for name in ("resnet", "fpn", "pixel_normalization"))
SMALL = f'{EXTRACTOR}.type="faster_rcnn_resnet18_fpn_keras"'
OVERRIDE = f"{EXTRACTOR}.override_base_feature_extractor_hyperparams=true"
GROUPS = f"{EXTRACTOR}.conv_hyperparams.group_norm={{}}"
GRAY = "model.faster_rcnn.image_resizer=fixed_shape_resizer { convert_to_grayscale: true }"
TYPE = 'type = "faster_rcnn_resnet18_fpn_keras"'
NO_NORM = "does not fit conv_hyperparams, which build the backbone without batch normalization."


@pytest.mark.parametrize(
    "changes",
    [
        [f"{RESNET}.stride_in_3x3=false"],
        [f"{RESNET}.stride_in_3x3=true", f"{RESNET}.symmetric_padding=true"],
        [f"{RESNET}.frozen_stages=5", f"{RESNET}.batch_norm_epsilon=0"],
        [SMALL, f"{RESNET}.stride_in_3x3=true", f"{RESNET}.symmetric_padding=false", f"{RESNET}.frozen_stages=2"],
        [OVERRIDE.replace("true", "false"), GROUPS, f"{RESNET}.batch_norm=FROZEN", f"{RESNET}.batch_norm_epsilon=0"],
        [OVERRIDE, GROUPS],
        [OVERRIDE, f"{RESNET}.batch_norm=FROZEN", f"{RESNET}.batch_norm_epsilon=0"],
        [f"{PYRAMID}.style=PAPER", f"{PYRAMID}.coarse_levels=CONV_OF_C5"],
        [f"{PIXELS}.channel_order=BGR", f"{PIXELS}.mean=[1, 2, 3]"],
        [f"{PIXELS}.stddev=[1, 2, 3, 4]", "train_input_reader.num_additional_channels=1"],
        [GRAY, f"{PIXELS}.mean=[1]"],
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
            [SMALL, f"{RESNET}.symmetric_padding=true"],
            f"{RESNET}.symmetric_padding = true is not supported by {TYPE}. Allowed: false.",
        ),
        (
            [SMALL, f"{RESNET}.stride_in_3x3=false"],
            f"{RESNET}.stride_in_3x3 = false does not fit {TYPE}, which has no other convolutions. "
            "Allowed: true, or to leave it out.",
        ),
        (
            [OVERRIDE, GROUPS, f"{RESNET}.batch_norm=FROZEN"],
            f"{RESNET}.batch_norm = FROZEN {NO_NORM} Allowed: AS_CONFIGURED.",
        ),
        (
            [OVERRIDE, GROUPS, f"{RESNET}.batch_norm_epsilon=0.5"],
            f"{RESNET}.batch_norm_epsilon = 0.5 {NO_NORM} Allowed: to leave it out.",
        ),
        (
            [f"{PYRAMID}.coarse_levels=CONV_OF_C5"],
            f"{PYRAMID}.coarse_levels = CONV_OF_C5 needs style = PAPER: the Object Detection API has convolutions of its own. "
            "Allowed: to leave it out.",
        ),
        ([f"{PIXELS}.mean=[1, 2]"], f"{PIXELS}.mean has 2 values. Allowed: 3, one a channel, or none."),
        ([f"{PIXELS}.stddev=[1]"], f"{PIXELS}.stddev has 1 values. Allowed: 3, one a channel, or none."),
        (
            [f"{PIXELS}.mean=[1, 2, 3]", "train_input_reader.num_additional_channels=1"],
            f"{PIXELS}.mean has 3 values. Allowed: 4, one a channel, or none.",
        ),
        (
            [GRAY, f"{PIXELS}.channel_order=BGR"],
            f"{PIXELS}.channel_order = BGR does not fit images of 1 channels. Allowed: RGB.",
        ),
        ([f"{RESNET}.frozen_stages=6"], f"{RESNET}.frozen_stages = 6 is out of range. Allowed: 0 to 5."),
        ([f"{RESNET}.batch_norm_epsilon=-1"], f"{RESNET}.batch_norm_epsilon = -1 is out of range."),
        ([f"{PIXELS}.stddev=[1, 0, 1]"], f"{PIXELS}.stddev[1] = 0 is out of range."),
    ],
)
def test_what_cannot_work_is_refused(config, changes, expected, change, refusals):
    change(config, *changes)
    assert any(line.startswith(f"my.config: {expected}") for line in refusals(config)), refusals(config)
