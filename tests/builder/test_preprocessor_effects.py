"""Each field of preprocessor.proto that is accepted changes what some seed gives; none is without a row here."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn import builder
from object_detection_fpn.config import tables
from object_detection_fpn.config.text import parse_text
from object_detection_fpn.data.example import Example, Objects
from object_detection_fpn.protos import preprocessor_pb2

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

SMALL = "min_area: 0.1 max_area: 0.2"
SMALL_OF_ANY_RATIO = f"{SMALL} min_aspect_ratio: 0.5 max_aspect_ratio: 2"
SEVEN = "pad_color: [7, 7, 7]"

# "Message.field": a step with a gap, what fills the gap, and what fills it instead.
ROWS = {
    "NormalizeImage.original_minval": (
        "normalize_image { original_maxval: 255 @ }", "original_minval: 0", "original_minval: 9"
    ),
    "NormalizeImage.original_maxval": (
        "normalize_image { original_minval: 0 @ }", "original_maxval: 255", "original_maxval: 9"
    ),
    "NormalizeImage.target_minval": (
        "normalize_image { original_minval: 0 original_maxval: 255 @ }", "", "target_minval: -1"
    ),
    "NormalizeImage.target_maxval": (
        "normalize_image { original_minval: 0 original_maxval: 255 @ }", "", "target_maxval: 2"
    ),
    "RandomHorizontalFlip.probability": ("random_horizontal_flip { @ }", "", "probability: 1"),
    "RandomVerticalFlip.probability": ("random_vertical_flip { @ }", "", "probability: 1"),
    "RandomRotation90.probability": ("random_rotation90 { @ }", "", "probability: 1"),
    "RandomPixelValueScale.minval": ("random_pixel_value_scale { @ }", "", "minval: 0.1"),
    "RandomPixelValueScale.maxval": ("random_pixel_value_scale { @ }", "", "maxval: 2"),
    "RandomImageScale.min_scale_ratio": ("random_image_scale { @ }", "", "min_scale_ratio: 1.9"),
    "RandomImageScale.max_scale_ratio": ("random_image_scale { @ }", "", "max_scale_ratio: 0.6"),
    "RandomRGBtoGray.probability": ("random_rgb_to_gray { @ }", "", "probability: 1"),
    "RandomAdjustBrightness.max_delta": ("random_adjust_brightness { @ }", "", "max_delta: 0.8"),
    "RandomAdjustContrast.min_delta": ("random_adjust_contrast { @ }", "", "min_delta: 0.1"),
    "RandomAdjustContrast.max_delta": ("random_adjust_contrast { @ }", "", "max_delta: 3"),
    "RandomAdjustHue.max_delta": ("random_adjust_hue { @ }", "", "max_delta: 0.5"),
    "RandomAdjustSaturation.min_delta": ("random_adjust_saturation { @ }", "", "min_delta: 0.1"),
    "RandomAdjustSaturation.max_delta": ("random_adjust_saturation { @ }", "", "max_delta: 3"),
    "RandomDistortColor.color_ordering": ("random_distort_color { @ }", "", "color_ordering: 1"),
    "RandomJitterBoxes.ratio": ("random_jitter_boxes { @ }", "", "ratio: 0.5"),
    "RandomJitterBoxes.jitter_mode": ("random_jitter_boxes { @ }", "", "jitter_mode: SHRINK"),
    "RandomPadImage.min_image_height": ("random_pad_image { @ }", "", "min_image_height: 45"),
    "RandomPadImage.min_image_width": ("random_pad_image { @ }", "", "min_image_width: 60"),
    "RandomPadImage.max_image_height": ("random_pad_image { @ }", "", "max_image_height: 100"),
    "RandomPadImage.max_image_width": ("random_pad_image { @ }", "", "max_image_width: 100"),
    "RandomPadImage.pad_color": ("random_pad_image { @ }", "", SEVEN),
    "RandomAbsolutePadImage.max_height_padding": ("random_absolute_pad_image { @ }", "", "max_height_padding: 9"),
    "RandomAbsolutePadImage.max_width_padding": ("random_absolute_pad_image { @ }", "", "max_width_padding: 9"),
    "RandomAbsolutePadImage.pad_color": ("random_absolute_pad_image { max_width_padding: 9 @ }", "", SEVEN),
    "RandomCropToAspectRatio.aspect_ratio": ("random_crop_to_aspect_ratio { @ }", "", "aspect_ratio: 3"),
    "RandomCropToAspectRatio.overlap_thresh": ("random_crop_to_aspect_ratio { @ }", "", "overlap_thresh: 1"),
    "RandomCropToAspectRatio.clip_boxes": ("random_crop_to_aspect_ratio { @ }", "", "clip_boxes: false"),
    "RandomBlackPatches.max_black_patches": ("random_black_patches { @ }", "", "max_black_patches: 1"),
    "RandomBlackPatches.probability": ("random_black_patches { @ }", "", "probability: 1"),
    "RandomBlackPatches.size_to_image_ratio": ("random_black_patches { @ }", "", "size_to_image_ratio: 0.5"),
    "RandomResizeMethod.target_height": (
        "random_resize_method { target_width: 9 @ }", "target_height: 9", "target_height: 8"
    ),
    "RandomResizeMethod.target_width": (
        "random_resize_method { target_height: 9 @ }", "target_width: 9", "target_width: 8"
    ),
    "ResizeImage.new_height": ("resize_image { new_width: 9 @ }", "new_height: 9", "new_height: 8"),
    "ResizeImage.new_width": ("resize_image { new_height: 9 @ }", "new_width: 9", "new_width: 8"),
    "ResizeImage.method": ("resize_image { new_height: 9 new_width: 9 @ }", "", "method: AREA"),
    "SubtractChannelMean.means": ("subtract_channel_mean { @ }", "means: [1, 2, 3]", "means: [1, 2, 4]"),
    "SSDRandomCrop.operations": ("ssd_random_crop { @ }", "", f"operations {{ {SMALL_OF_ANY_RATIO} }}"),
    "SSDRandomCropPad.operations": ("ssd_random_crop_pad { @ }", "", f"operations {{ {SMALL_OF_ANY_RATIO} }}"),
    "SSDRandomCropFixedAspectRatio.operations": (
        "ssd_random_crop_fixed_aspect_ratio { @ }", "", f"operations {{ {SMALL} }}"
    ),
    "SSDRandomCropFixedAspectRatio.aspect_ratio": ("ssd_random_crop_fixed_aspect_ratio { @ }", "", "aspect_ratio: 2"),
    "SSDRandomCropPadFixedAspectRatio.operations": (
        "ssd_random_crop_pad_fixed_aspect_ratio { @ }", "", f"operations {{ {SMALL_OF_ANY_RATIO} }}"
    ),
    "SSDRandomCropPadFixedAspectRatio.aspect_ratio": (
        "ssd_random_crop_pad_fixed_aspect_ratio { @ }", "", "aspect_ratio: 2"
    ),
    "SSDRandomCropPadFixedAspectRatio.min_padded_size_ratio": (
        "ssd_random_crop_pad_fixed_aspect_ratio { @ }", "", "min_padded_size_ratio: [2, 2]"
    ),
    "SSDRandomCropPadFixedAspectRatio.max_padded_size_ratio": (
        "ssd_random_crop_pad_fixed_aspect_ratio { @ }", "", "max_padded_size_ratio: [3, 3]"
    ),
    "ConvertClassLogitsToSoftmax.temperature": ("convert_class_logits_to_softmax { @ }", "", "temperature: 2"),
    "RandomSelfConcatImage.concat_vertical_probability": (
        "random_self_concat_image { @ }", "", "concat_vertical_probability: 1"
    ),
    "RandomSelfConcatImage.concat_horizontal_probability": (
        "random_self_concat_image { @ }", "", "concat_horizontal_probability: 1"
    ),
    "AutoAugmentImage.policy_name": ("autoaugment_image { @ }", "", "policy_name: 'v3'"),
    "DropLabelProbabilistically.label": ("drop_label_probabilistically { @ }", "label: 1", "label: 2"),
    "DropLabelProbabilistically.drop_probability": (
        "drop_label_probabilistically { label: 1 @ }", "", "drop_probability: 0"
    ),
    "RemapLabels.original_labels": ("remap_labels { new_label: 3 @ }", "original_labels: 1", "original_labels: [1, 2]"),
    "RemapLabels.new_label": ("remap_labels { original_labels: 1 @ }", "new_label: 2", "new_label: 3"),
    "RandomJpegQuality.random_coef": ("random_jpeg_quality { @ }", "", "random_coef: 1"),
    "RandomJpegQuality.min_jpeg_quality": ("random_jpeg_quality { @ }", "", "min_jpeg_quality: 95"),
    "RandomJpegQuality.max_jpeg_quality": ("random_jpeg_quality { @ }", "", "max_jpeg_quality: 5"),
    "RandomDownscaleToTargetPixels.random_coef": (
        "random_downscale_to_target_pixels { min_target_pixels: 9 max_target_pixels: 99 @ }", "", "random_coef: 1"
    ),
    "RandomDownscaleToTargetPixels.min_target_pixels": (
        "random_downscale_to_target_pixels { max_target_pixels: 500 @ }", "min_target_pixels: 9", "min_target_pixels: 490"
    ),
    "RandomDownscaleToTargetPixels.max_target_pixels": (
        "random_downscale_to_target_pixels { min_target_pixels: 9 @ }", "", "max_target_pixels: 50"
    ),
    "RandomPatchGaussian.random_coef": ("random_patch_gaussian { @ }", "", "random_coef: 1"),
    "RandomPatchGaussian.min_patch_size": ("random_patch_gaussian { max_patch_size: 20 @ }", "", "min_patch_size: 19"),
    "RandomPatchGaussian.max_patch_size": ("random_patch_gaussian { @ }", "", "max_patch_size: 2"),
    "RandomPatchGaussian.min_gaussian_stddev": ("random_patch_gaussian { @ }", "", "min_gaussian_stddev: 0.9"),
    "RandomPatchGaussian.max_gaussian_stddev": ("random_patch_gaussian { @ }", "", "max_gaussian_stddev: 0.1"),
    "RandomSquareCropByScale.max_border": ("random_square_crop_by_scale { @ }", "", "max_border: 0"),
    "RandomSquareCropByScale.scale_min": ("random_square_crop_by_scale { @ }", "", "scale_min: 1.2"),
    "RandomSquareCropByScale.scale_max": ("random_square_crop_by_scale { @ }", "", "scale_max: 3"),
    "RandomSquareCropByScale.num_scales": ("random_square_crop_by_scale { @ }", "", "num_scales: 1"),
    "RandomScaleCropAndPadToSquare.output_size": (
        "random_scale_crop_and_pad_to_square { @ }", "output_size: 32", "output_size: 33"
    ),
    "RandomScaleCropAndPadToSquare.scale_min": (
        "random_scale_crop_and_pad_to_square { output_size: 32 @ }", "", "scale_min: 1.5"
    ),
    "RandomScaleCropAndPadToSquare.scale_max": (
        "random_scale_crop_and_pad_to_square { output_size: 32 @ }", "", "scale_max: 0.2"
    ),
    "AdjustGamma.gamma": ("adjust_gamma { @ }", "", "gamma: 2"),
    "AdjustGamma.gain": ("adjust_gamma { @ }", "", "gain: 2"),
}  # fmt: skip

# Messages that hold the fields of a crop: a step with a gap for them.
CROPS = {
    "RandomCropImage": "random_crop_image { @ }",
    "RandomCropPadImage": "random_crop_pad_image { @ }",
    "SSDRandomCropOperation": "ssd_random_crop { operations { @ } }",
    "SSDRandomCropPadOperation": "ssd_random_crop_pad { operations { @ } }",
    "SSDRandomCropFixedAspectRatioOperation": "ssd_random_crop_fixed_aspect_ratio { operations { @ } }",
    "SSDRandomCropPadFixedAspectRatioOperation": "ssd_random_crop_pad_fixed_aspect_ratio { operations { @ } }",
}
CROP = {
    "min_object_covered": 0.1,
    "min_aspect_ratio": 0.5,
    "max_aspect_ratio": 2,
    "min_area": 0.1,
    "max_area": 0.6,
    "overlap_thresh": 0,
}
CROP_CHANGES = {
    "min_object_covered": 1,
    "min_aspect_ratio": 1.8,
    "max_aspect_ratio": 0.6,
    "min_area": 0.55,
    "max_area": 0.2,
    "overlap_thresh": 1,
    "random_coef": 1,
    "clip_boxes": "false",
    "min_padded_size_ratio": [2, 2],
    "max_padded_size_ratio": [1, 1],
    "pad_color": [7, 7, 7],
    "pad_color_r": 9,
    "pad_color_g": 9,
    "pad_color_b": 9,
}
STEPS = preprocessor_pb2.PreprocessingStep.DESCRIPTOR.oneofs_by_name["preprocessing_step"].fields


def accepted_fields() -> list[str]:
    """Every field of a step, or of a message in one, that is not refused."""
    messages = [step.message_type for step in STEPS]
    for message in messages:
        messages.extend(f.message_type for f in message.fields if f.message_type)
    fields = [f"{message.name}.{field.name}" for message in messages for field in message.fields]
    return [field for field in fields if field not in tables.REFUSED]


def row_of(field: str) -> tuple[str, str, str]:
    message, name = field.split(".")
    if message not in CROPS:
        return ROWS[field]
    known = getattr(preprocessor_pb2, message).DESCRIPTOR.fields_by_name
    crop = {key: value for key, value in CROP.items() if key in known}
    one, other = (
        " ".join(f"{key}: {value}" for key, value in fields.items())
        for fields in (crop, {**crop, name: CROP_CHANGES[name]})
    )
    return CROPS[message], one, other


@pytest.fixture(scope="module")
def example():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 0.5, [12, 2])
    boxes = np.concatenate([corners, corners + rng.uniform(0.2, 0.5, [12, 2])], axis=1).astype(np.float32)
    classes = tf.range(12) % 3
    flags = tf.zeros([12], tf.bool)
    scores = tf.constant(rng.uniform(0, 3, [12, 4]), tf.float32)
    objects = Objects(tf.constant(boxes), classes, tf.ones([12]), flags, flags, flags, tf.zeros([12]), scores)
    return Example(tf.constant(rng.integers(20, 200, [30, 40, 3]), tf.uint8), objects)


def results(text: str, example: Example, seed: int) -> list[np.ndarray]:
    step = parse_text(text, preprocessor_pb2.PreprocessingStep, "text")
    (augment,) = builder.build_augmentations([step])
    changed = augment(example, seed=tf.constant([seed, 3]))
    return [np.asarray(tensor, np.float32) for tensor in tf.nest.flatten(changed) if tensor is not None]


def are_equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(a.shape == b.shape and np.allclose(a, b, atol=1e-6) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("field", accepted_fields())
def test_each_effective_field_of_preprocessor_proto_changes_something(example, field):
    step, one, other = row_of(field)
    one, other = step.replace("@", one), step.replace("@", other)
    assert field.split(".")[1] in other
    assert not all(are_equal(results(one, example, seed), results(other, example, seed)) for seed in range(10))


@pytest.mark.parametrize("step", [s.name for s in STEPS if f"PreprocessingStep.{s.name}" not in tables.REFUSED])
def test_each_step_changes_something(example, step):
    message = next(s.message_type.name for s in STEPS if s.name == step)
    field = next((f for f in accepted_fields() if f.startswith(f"{message}.")), None)
    texts = [f"{step} {{ }}"] if field is None else [row_of(field)[0].replace("@", text) for text in row_of(field)[1:]]
    before = [np.asarray(tensor, np.float32) for tensor in tf.nest.flatten(example) if tensor is not None]
    assert not all(are_equal(before, results(text, example, seed)) for text in texts for seed in range(10))


def test_every_step_is_built_or_refused_with_words():
    refused = {step.name for step in STEPS if f"PreprocessingStep.{step.name}" in tables.REFUSED}
    assert refused == {"scale_boxes_to_pixel_coordinates"}
    assert set(builder.AUGMENTATIONS) == {step.name for step in STEPS} - refused


def test_every_row_is_of_an_accepted_field():
    assert {field for field in accepted_fields() if field.split(".")[0] not in CROPS} == set(ROWS)
