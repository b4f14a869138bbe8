"""What all detectors have, read without naming the detector."""

from __future__ import annotations

import pytest

from object_detection_fpn.config import model as model_config
from object_detection_fpn.config.text import parse_text
from object_detection_fpn.protos import input_reader_pb2, model_pb2


def parse(text: str) -> model_pb2.DetectionModel:
    return parse_text(text, model_pb2.DetectionModel, "model")


def test_fields_are_those_of_the_detector_that_is_set():
    model = parse("faster_rcnn { num_classes: 7 image_resizer { fixed_shape_resizer { height: 8 } } }")
    assert model_config.detector(model) == model.faster_rcnn
    assert model_config.num_classes(model) == 7
    assert model_config.feature_extractor(model) == model.faster_rcnn.feature_extractor
    assert model_config.image_resizer(model).fixed_shape_resizer.height == 8
    assert model_config.chosen_resizer(model) == (
        "fixed_shape_resizer",
        model.faster_rcnn.image_resizer.fixed_shape_resizer,
    )
    assert model_config.field_path(model, "num_classes") == "model.faster_rcnn.num_classes"
    assert model_config.field_path(model) == "model.faster_rcnn"


def test_a_single_stage_detector_has_neither_stages_nor_masks():
    model = parse("ssd { num_classes: 4 feature_extractor { fpn { min_level: 3 max_level: 6 } } }")
    assert model_config.detector_name(model) == "ssd"
    assert (model_config.num_classes(model), model_config.is_class_agnostic(model)) == (4, False)
    assert not model_config.has_masks(model)
    assert model_config.mask_pasting(model) is None
    assert model_config.classes_with_masks(model) is None
    assert model_config.feature_levels(model_config.feature_extractor(model)) == (3, 6)
    assert model_config.why_no_masks(model) == "model.ssd predicts boxes alone"


@pytest.mark.parametrize("stages, expected", [(1, True), (2, False)])
def test_the_first_stage_alone_knows_no_classes(stages, expected):
    assert model_config.is_class_agnostic(parse(f"faster_rcnn {{ number_of_stages: {stages} }}")) == expected


@pytest.mark.parametrize(
    "resizer, num_channels",
    [
        ("keep_aspect_ratio_resizer { }", 3),
        ("identity_resizer { }", 3),
        ("fixed_shape_resizer { convert_to_grayscale: true }", 1),
    ],
)
def test_images_have_the_channels_of_the_resizer_and_those_added(resizer, num_channels):
    model = parse(f"faster_rcnn {{ image_resizer {{ {resizer} }} }}")
    assert model_config.num_image_channels(model) == num_channels
    reader = input_reader_pb2.InputReader(num_additional_channels=2)
    assert model_config.num_image_channels(model, reader) == num_channels + 2
