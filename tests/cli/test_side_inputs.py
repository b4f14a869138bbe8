"""The flags for side inputs of the Object Detection API's exporter, checked against the model."""

from __future__ import annotations

import types

import pytest

from object_detection_fpn.cli.side_inputs import check_side_inputs
from object_detection_fpn.protos import pipeline_pb2
from object_detection_fpn.tools.command import UsageError

FLAGS = {
    "use_side_inputs": True,
    "side_input_shapes": "1,2000,2057/1",
    "side_input_types": "float,int",
    "side_input_names": "context_features,valid_context_size",
    "input_type": "image_tensor",
}


@pytest.fixture
def config():
    message = pipeline_pb2.TrainEvalPipelineConfig()
    message.model.faster_rcnn.context_config.SetInParent()
    return message


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"side_input_shapes": "-1,-1,2057/-1", "side_input_types": "float32,int32"},
        {"side_input_shapes": "None, 100, 2057 / 1"},
        {"side_input_shapes": "", "side_input_types": "", "side_input_names": ""},
        {"input_type": "encoded_image_string_tensor"},
        {"use_side_inputs": False, "side_input_shapes": "whatever"},
    ],
)
def test_side_inputs_of_the_model_are_accepted(config, changes):
    check_side_inputs(types.SimpleNamespace(**FLAGS | changes), config)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"side_input_names": "valid_context_size,context_features"},
            "--side_input_names = valid_context_size,context_features is not what the model takes. Allowed: "
            "context_features,valid_context_size.",
        ),
        (
            {"side_input_types": "float"},
            "--side_input_types = float is not what the model takes. Allowed: float,int.",
        ),
        *(
            (
                {"side_input_shapes": shapes},
                f"--side_input_shapes = {shapes} is not what the model takes. Allowed: B,M,2057/B with any B and M, -1 for "
                "those that vary, such as 1,2000,2057/1.",
            )
            for shapes in (
                "1,2000,2048/1",
                "1,2000,2057",
                "2,2000,2057/1",
                "1,0,2057/1",
                "a,b,2057/1",
                "2000,2057/1",
                "/",
            )
        ),
        (
            {"input_type": "tf_example"},
            "--use_side_inputs: tf_example has the context in its records, image/context_features. Allowed: to leave it out, "
            "or another --input_type.",
        ),
    ],
)
def test_other_side_inputs_are_refused(config, changes, message):
    with pytest.raises(UsageError) as error:
        check_side_inputs(types.SimpleNamespace(**FLAGS | changes), config)
    assert str(error.value) == message
