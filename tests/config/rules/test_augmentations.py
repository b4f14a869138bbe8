"""What is refused of `train_config.data_augmentation_options` because fields clash, and by its bounds."""

from __future__ import annotations

import pytest

from object_detection_fpn.config import tables
from object_detection_fpn.data.augment import policies

STEP = "train_config.data_augmentation_options[0]"
CROP = "min_aspect_ratio: 0.5 max_aspect_ratio: 2 min_area: 0.1 max_area: 1"


@pytest.fixture
def refusals_of(config, change, refusals):
    def check(step: str, *changes: str) -> list[str]:
        steps = f"train_config.data_augmentation_options=[{{ {step} }}]"
        change(config, "model.faster_rcnn.num_classes=2", steps, *changes)
        return [line.removeprefix("my.config: ") for line in refusals(config)]

    return check


@pytest.mark.parametrize(
    "step, changes",
    [
        ("normalize_image { original_minval: 0 original_maxval: 255 }", []),
        ("random_pad_image { pad_color: 7 }", []),
        ("random_pad_image { pad_color: [1, 2, 3] max_image_height: 0 }", []),
        ("random_pad_image { pad_color: [1, 2, 3] }", ["train_input_reader.num_additional_channels=2"]),
        ("random_pad_image { pad_color: [1, 2, 3, 4, 5] }", ["train_input_reader.num_additional_channels=2"]),
        ("subtract_channel_mean { means: [1, 2, 3, 4] }", ["train_input_reader.num_additional_channels=1"]),
        ("random_crop_pad_image { min_padded_size_ratio: [1, 1] max_padded_size_ratio: [1, 1] }", []),
        (f"ssd_random_crop {{ operations {{ {CROP} }} }}", []),
        (f"ssd_random_crop_pad {{ operations {{ {CROP} }} }}", []),
        ("ssd_random_crop_fixed_aspect_ratio { operations { min_area: 0.1 max_area: 1 } }", []),
        ("ssd_random_crop {}", []),
        ("remap_labels { original_labels: [1, 2] new_label: 1 }", []),
        ("random_jpeg_quality { min_jpeg_quality: 50 max_jpeg_quality: 50 }", []),
        ("autoaugment_image {}", []),
        ("convert_class_logits_to_softmax {}", ["train_input_reader.load_multiclass_scores=true"]),
    ],
)
def test_steps_are_accepted(refusals_of, step, changes):
    assert refusals_of(step, *changes) == []


@pytest.mark.parametrize(
    "step, expected",
    [
        (
            "scale_boxes_to_pixel_coordinates {}",
            ".scale_boxes_to_pixel_coordinates does not fit: boxes stay normalized until all steps are done, and then become "
            "pixels. Allowed: to leave it out.",
        ),
        ("normalize_image { original_minval: 0 }", ".normalize_image.original_maxval is not set. "),
        (
            "normalize_image { original_minval: 5 original_maxval: 5 }",
            ".original_maxval = 5 equals original_minval, which is no range. Allowed: above 5.",
        ),
        ("random_pad_image { pad_color: [1, 2] }", ".pad_color has 2 values. Allowed: 1, or 3, one a channel."),
        ("random_absolute_pad_image { pad_color: 300 }", ".pad_color[0] = 300 is out of range. Allowed: 0 to 255."),
        ("random_absolute_pad_image { max_width_padding: -1 }", ".max_width_padding = -1 is out of range. "),
        (
            "random_pad_image { min_image_height: 9 max_image_height: 8 }",
            ".max_image_height = 8 is below min_image_height = 9",
        ),
        (
            "random_crop_pad_image { min_padded_size_ratio: 1 }",
            ".min_padded_size_ratio has 1 values. Allowed: 2, of height",
        ),
        (
            "random_crop_pad_image { min_padded_size_ratio: [1, 3] }",
            ".max_padded_size_ratio[1] = 2 is below min_padded_size_ratio[1] = 3. Allowed: 3 or more.",
        ),
        (
            f"ssd_random_crop_pad {{ operations {{ {CROP} max_padded_size_ratio: [0.5, 1] }} }}",
            ".operations[0].max_padded_size_ratio[0] = 0.5 is below min_padded_size_ratio[0] = 1. ",
        ),
        (
            "ssd_random_crop_pad_fixed_aspect_ratio { min_padded_size_ratio: [1, 1, 1] }",
            ".min_padded_size_ratio has 3 values. ",
        ),
        ("subtract_channel_mean { means: [1, 2] }", ".means has 2 values. Allowed: 3, one a channel."),
        ("subtract_channel_mean {}", ".means is not set. Allowed: at least one value."),
        ("resize_image { new_height: 5 }", ".new_width = 0 is out of range. Allowed: 1 or more."),
        ("random_resize_method { target_width: 5 }", ".target_height = 0 is out of range. Allowed: 1 or more."),
        ("remap_labels { new_label: 1 }", ".original_labels is not set. "),
        ("remap_labels { original_labels: [1, 3] new_label: 1 }", ".original_labels[1] = 3 is above num_classes = 2. "),
        ("remap_labels { original_labels: 1 }", ".new_label = 0 is out of range. Allowed: 1 or more."),
        ("drop_label_probabilistically { label: 3 }", ".label = 3 is above num_classes = 2. Allowed: 1 to 2."),
        ("drop_label_probabilistically {}", ".label = 0 is out of range. Allowed: 1 or more."),
        (
            "random_jpeg_quality { max_jpeg_quality: 101 }",
            ".max_jpeg_quality = 101 is out of range. Allowed: 0 to 100.",
        ),
        (
            "random_jpeg_quality { min_jpeg_quality: 50 max_jpeg_quality: 40 }",
            ".max_jpeg_quality = 40 is below min_jpeg_quality = 50. ",
        ),
        (
            "random_downscale_to_target_pixels { min_target_pixels: 600000 }",
            ".max_target_pixels = 500000 is below min_target_pixels = 600000. ",
        ),
        ("random_square_crop_by_scale { scale_min: 2 }", ".scale_max = 1.3 is below scale_min = 2. "),
        ("random_crop_image { min_area: 0 }", ".min_area = 0 is out of range. Allowed: above 0, up to 1."),
        ("ssd_random_crop { operations { max_area: 1 } }", ".operations[0].max_aspect_ratio = 0 is out of range. "),
        ("autoaugment_image { policy_name: 'v4' }", '.policy_name = "v4" is unknown. Allowed: v0, v1, v2, v3, test.'),
        (
            "convert_class_logits_to_softmax {}",
            " needs scores that are not read: train_input_reader.load_multiclass_scores is false. Allowed: to leave it out, or",
        ),
        ("adjust_gamma { gamma: -1 }", ".gamma = -1 is out of range. Allowed: 0 or more."),
    ],
)
def test_steps_are_refused(refusals_of, step, expected):
    found = refusals_of(step)
    assert any(line.startswith(f"{STEP}.{step.split()[0]}") and expected in line for line in found), found


def test_policies_are_those_that_exist():
    assert set(tables.AUTOAUGMENT_POLICIES) == set(policies.POLICIES)
