"""What is refused of image resizers because fields clash."""

from __future__ import annotations

import pytest

RESIZER = "my.config: model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer"


@pytest.mark.parametrize(
    "fields",
    [
        "half_pixel_centers: true antialias: true round_pixels: true size_rounding: ROUND",
        "half_pixel_centers: true resize_method: BICUBIC",
        "pad_to_multiple: 32 per_channel_pad_value: [123, 116, 103]",
        "min_dimensions_in_training: [640, 1333] max_dimension: 1333 pad_to_max_dimension: true",
    ],
)
def test_fields_that_go_together_are_taken(config, change, refusals, fields):
    change(config, f"model.faster_rcnn.image_resizer={{ keep_aspect_ratio_resizer {{ {fields} }} }}")
    assert refusals(config) == []


@pytest.mark.parametrize(
    "fields, words",
    [
        ("antialias: true", "antialias = true needs half_pixel_centers: true. Allowed: false, or true in both."),
        (
            "half_pixel_centers: true resize_method: AREA",
            "half_pixel_centers = true does not go with resize_method = AREA. Allowed: false, or resize_method: BILINEAR or "
            "BICUBIC.",
        ),
        (
            "pad_to_multiple: 32 pad_to_max_dimension: true",
            "pad_to_multiple = 32 does not go with pad_to_max_dimension = true, which pads to 1024 pixels. Allowed: 0, or "
            "pad_to_max_dimension: false.",
        ),
        ("pad_to_multiple: -1", "pad_to_multiple = -1 is out of range. Allowed: 0 or more."),
        (
            "min_dimensions_in_training: [640, 1100]",
            "min_dimensions_in_training[1] = 1100 is above max_dimension = 1024. Allowed: 1 to 1024.",
        ),
        (
            "min_dimensions_in_training: [0]",
            "min_dimensions_in_training[0] = 0 is out of range. Allowed: 1 or more.",
        ),
    ],
)
def test_fields_that_clash_are_refused(config, change, refusals, fields, words):
    change(config, f"model.faster_rcnn.image_resizer={{ keep_aspect_ratio_resizer {{ {fields} }} }}")
    assert [line.removeprefix(f"{RESIZER}.") for line in refusals(config)] == [words]
