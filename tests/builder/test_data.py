"""Readers, resizers and augmentations become functions of the input pipeline."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format

from object_detection_fpn import builder
from object_detection_fpn.config import model as model_config
from object_detection_fpn.config import tables
from object_detection_fpn.config.label_map import LabelMap
from object_detection_fpn.data import pipeline
from object_detection_fpn.data.augment import colour, crop, geometry, labels, pad, ssd
from object_detection_fpn.data.masks import MaskDecoding
from object_detection_fpn.protos import (
    image_resizer_pb2,
    input_reader_pb2,
    model_pb2,
    pipeline_pb2,
    preprocessor_pb2,
)


def parse(text, message_type):
    return text_format.Parse(text, message_type())


IMAGE = tf.constant(np.random.RandomState(0).randint(0, 255, [30, 50, 3]), tf.uint8)


@pytest.mark.parametrize(
    "text, static_size, size, true_size",
    [
        ("keep_aspect_ratio_resizer { min_dimension: 60 max_dimension: 80 }", (None, None), (48, 80), (48, 80)),
        (
            "keep_aspect_ratio_resizer { min_dimension: 60 max_dimension: 80 pad_to_max_dimension: true }",
            (80, 80),
            (80, 80),
            (48, 80),
        ),
        ("fixed_shape_resizer { height: 20 width: 10 }", (20, 10), (20, 10), (20, 10)),
        ("identity_resizer { }", (None, None), (30, 50), (30, 50)),
        ("pad_to_multiple_resizer { multiple: 16 }", (None, None), (32, 64), (30, 50)),
        ("conditional_shape_resizer { condition: GREATER size_threshold: 25 }", (None, None), (15, 25), (15, 25)),
        ("conditional_shape_resizer { condition: SMALLER size_threshold: 60 }", (None, None), (60, 100), (60, 100)),
        ("conditional_shape_resizer { condition: SMALLER size_threshold: 20 }", (None, None), (30, 50), (30, 50)),
    ],
)
def test_resizers(text, static_size, size, true_size):
    resizer = builder.build_resizer(parse(text, image_resizer_pb2.ImageResizer))
    image, true_shape = resizer(IMAGE)
    assert resizer.static_size == static_size
    assert tuple(image.shape) == (*size, 3)
    assert tuple(true_shape.numpy()) == (*true_size, 3)


@pytest.mark.parametrize(
    "kind, settings",
    [
        ("keep_aspect_ratio_resizer", "min_dimension: 60 max_dimension: 80"),
        ("fixed_shape_resizer", "height: 20 width: 10"),
        ("pad_to_multiple_resizer", "multiple: 16"),
        ("conditional_shape_resizer", "size_threshold: 25"),
    ],
)
def test_gray_images(kind, settings):
    text = f"{kind} {{ {settings} convert_to_grayscale: true }}"
    image, true_shape = builder.build_resizer(parse(text, image_resizer_pb2.ImageResizer))(IMAGE)
    assert image.shape[-1] == true_shape[-1] == 1
    model = parse(f"faster_rcnn {{ image_resizer {{ {text} }} }}", model_pb2.DetectionModel)
    assert model_config.num_image_channels(model) == 1


def test_resizing_methods_and_padding_values_arrive():
    def resize(settings):
        text = f"keep_aspect_ratio_resizer {{ min_dimension: 60 max_dimension: 80 {settings} }}"
        return builder.build_resizer(parse(text, image_resizer_pb2.ImageResizer))(IMAGE)[0].numpy()

    methods = ["BILINEAR", "NEAREST_NEIGHBOR", "BICUBIC", "AREA"]
    assert len({resize(f"resize_method: {method}").tobytes() for method in methods}) == 4
    np.testing.assert_array_equal(resize(""), resize("resize_method: BILINEAR"))
    padded = resize("pad_to_max_dimension: true per_channel_pad_value: [1, 2, 3]")
    np.testing.assert_array_equal(padded[-1, -1], [1, 2, 3])


@pytest.mark.parametrize(
    "text, function, settings",
    [
        ("random_horizontal_flip { }", geometry.random_horizontal_flip, {"probability": 0.5}),
        ("random_horizontal_flip { probability: 0.25 }", geometry.random_horizontal_flip, {"probability": 0.25}),
        ("random_vertical_flip { probability: 0.25 }", geometry.random_vertical_flip, {"probability": 0.25}),
        ("random_rotation90 { probability: 0.25 }", geometry.random_rotation90, {"probability": 0.25}),
        (
            "random_image_scale { min_scale_ratio: 0.25 max_scale_ratio: 3 }",
            geometry.random_image_scale,
            {"min_scale_ratio": 0.25, "max_scale_ratio": 3},
        ),
        (
            """
            random_crop_image {
              min_object_covered: 0.125 min_aspect_ratio: 0.5 max_aspect_ratio: 2 min_area: 0.25 max_area: 0.75
              overlap_thresh: 0.375 random_coef: 0.625 clip_boxes: false
            }
            """,
            crop.random_crop_image,
            {
                "min_object_covered": 0.125,
                "min_aspect_ratio": 0.5,
                "max_aspect_ratio": 2,
                "min_area": 0.25,
                "max_area": 0.75,
                "overlap_thresh": 0.375,
                "random_coef": 0.625,
                "clip_boxes": False,
            },
        ),
        ("random_adjust_brightness { max_delta: 0.25 }", colour.random_adjust_brightness, {"max_delta": 0.25}),
        (
            "random_adjust_contrast { min_delta: 0.5 max_delta: 2 }",
            colour.random_adjust_contrast,
            {"min_delta": 0.5, "max_delta": 2},
        ),
        ("random_adjust_hue { max_delta: 0.25 }", colour.random_adjust_hue, {"max_delta": 0.25}),
        (
            "random_adjust_saturation { min_delta: 0.5 max_delta: 2 }",
            colour.random_adjust_saturation,
            {"min_delta": 0.5, "max_delta": 2},
        ),
        ("random_distort_color { color_ordering: 1 }", colour.random_distort_color, {"color_ordering": 1}),
        (
            "random_pixel_value_scale { minval: 0.5 maxval: 2 }",
            colour.random_pixel_value_scale,
            {"minval": 0.5, "maxval": 2},
        ),
        ("random_rgb_to_gray { probability: 0.25 }", colour.random_rgb_to_gray, {"probability": 0.25}),
        ("random_distort_color { }", colour.random_distort_color, {}),  # what has no default is left to the function
        ("random_pad_image { }", pad.random_pad_image, {}),
        (
            "random_pad_image { min_image_height: 0 max_image_width: 9 pad_color: [1, 2, 3] }",
            pad.random_pad_image,
            {"min_image_height": 0, "max_image_width": 9, "pad_color": (1, 2, 3)},
        ),
        (
            "random_jitter_boxes { jitter_mode: EXPAND_SYMMETRIC_XY ratio: 0.25 }",
            labels.random_jitter_boxes,
            {"jitter_mode": "expand_symmetric_xy", "ratio": 0.25},
        ),
        (
            "resize_image { new_height: 3 new_width: 4 method: NEAREST_NEIGHBOR }",
            geometry.resize_image,
            {"new_height": 3, "new_width": 4, "method": "nearest"},
        ),
        (
            "remap_labels { original_labels: [1, 2] new_label: 3 }",
            labels.remap_labels,
            {"original_labels": (1, 2), "new_label": 3},
        ),
        ("ssd_random_crop { }", ssd.ssd_random_crop, {"operations": ()}),
        (
            "ssd_random_crop { operations { max_area: 0.5 } operations { clip_boxes: false } }",
            ssd.ssd_random_crop,
            {
                "operations": tuple(
                    {
                        "min_object_covered": 0,  # as in the Object Detection API, not that of random_crop_image
                        "min_aspect_ratio": 0,
                        "max_aspect_ratio": 0,
                        "min_area": 0,
                        "max_area": max_area,
                        "overlap_thresh": 0,
                        "random_coef": 0,
                        "clip_boxes": clip_boxes,
                    }
                    for max_area, clip_boxes in ((0.5, True), (0, False))
                )
            },
        ),
    ],
)
def test_augmentations(text, function, settings):
    (found,) = builder.build_augmentations([parse(text, preprocessor_pb2.PreprocessingStep)])
    assert (found.func, found.keywords) == (function, settings)


def keywords_of(augmentation) -> set[str]:
    """Its keywords, with the fields of the constraints in the place of that record."""
    names = set(inspect.getfullargspec(augmentation).kwonlyargs) - {"seed"}
    fields = {field.name for field in dataclasses.fields(crop.CropConstraints)}
    return names - {"constraints"} | fields if "constraints" in names else names


def test_padding_of_ssd_has_a_colour_and_sizes_of_its_own():
    text = "ssd_random_crop_pad { operations { pad_color_g: 7 min_padded_size_ratio: [1, 2] } }"
    (found,) = builder.build_augmentations([parse(text, preprocessor_pb2.PreprocessingStep)])
    (operation,) = found.keywords["operations"]
    assert operation["pad_color"] == (0, 7, 0)
    assert operation["min_padded_size_ratio"] == (1, 2)
    assert operation.keys() <= keywords_of(crop.random_crop_pad_image)


@pytest.mark.parametrize("name", builder.AUGMENTATIONS)
def test_fields_of_augmentations_are_keywords_of_their_functions(name):
    message = preprocessor_pb2.PreprocessingStep.DESCRIPTOR.fields_by_name[name].message_type
    (found,) = builder.build_augmentations([parse(f"{name} {{ }}", preprocessor_pb2.PreprocessingStep)])
    assert found.func.__name__ == name
    fields = {f.name for f in message.fields if f"{message.name}.{f.name}" not in tables.REFUSED}
    assert fields == keywords_of(found.func)


def test_augmentations_keep_their_order():
    steps = [
        parse(f"{name} {{ }}", preprocessor_pb2.PreprocessingStep)
        for name in ("random_crop_image", "random_horizontal_flip", "random_crop_image")
    ]
    found = [augmentation.func for augmentation in builder.build_augmentations(steps)]
    assert found == [crop.random_crop_image, geometry.random_horizontal_flip, crop.random_crop_image]


@pytest.mark.parametrize(
    "train, reader, expected",
    [("", "", 100), ("", "max_number_of_boxes: 7", 7), ("max_number_of_boxes: 9", "max_number_of_boxes: 7", 9)],
)
def test_the_deprecated_number_of_boxes_goes_first(train, reader, expected):
    config = parse(f"train_config {{ {train} }}", pipeline_pb2.TrainEvalPipelineConfig)
    assert builder.max_number_of_boxes(config, parse(reader, input_reader_pb2.InputReader)) == expected


THREE_STAGES = "number_of_stages: 3"
TRANSFER = "second_stage_box_predictor { mask_rcnn_box_predictor { mask_transfer { classes_with_masks: [1, 3] } } }"


@pytest.mark.parametrize(
    "model, reader, is_training, expected",
    [
        ("", "load_instance_masks: true", True, None),
        (THREE_STAGES, "", True, None),
        (THREE_STAGES, "load_instance_masks: true", True, MaskDecoding("numerical", "box", 112)),
        (THREE_STAGES, "load_instance_masks: true mask_type: DEFAULT", True, MaskDecoding("numerical", "box", 112)),
        (
            THREE_STAGES,
            "load_instance_masks: true mask_type: PNG_MASKS mask_frame: IMAGE mask_side: 56",
            False,
            MaskDecoding("png", "image", 56, keep_encoded=True),
        ),
        (
            f"{THREE_STAGES} {TRANSFER}",
            "load_instance_masks: true",
            True,
            MaskDecoding("numerical", "box", 112, classes_with_masks=(0, 2)),
        ),
    ],
)
def test_masks_are_read_as_the_reader_and_the_model_say(monkeypatch, model, reader, is_training, expected):
    text = f"faster_rcnn {{ num_classes: 3 image_resizer {{ identity_resizer {{ }} }} {model} }}"
    config = pipeline_pb2.TrainEvalPipelineConfig(model=parse(text, model_pb2.DetectionModel))
    monkeypatch.setattr(pipeline, "make_dataset", lambda reading, decoding, *others, **settings: decoding)
    decoding = builder.build_dataset(
        config,
        parse(reader, input_reader_pb2.InputReader),
        label_map=LabelMap(()),
        batch_size=1,
        is_training=is_training,
    )
    assert decoding.masks == expected
