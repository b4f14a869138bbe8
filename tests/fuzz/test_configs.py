"""Whatever a config or an override says, it is refused in words, or can be built."""

from __future__ import annotations

import functools
import re

import pytest
from fuzz_support import NUMBERS, WORDS, cases, changed_text
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import example, given
from hypothesis import strategies as st

from object_detection_fpn import builder
from object_detection_fpn.config import model as model_config
from object_detection_fpn.config import pipeline, recipes, text
from object_detection_fpn.protos import pipeline_pb2
from object_detection_fpn.training.settings import TrainSettings

RECIPES = (
    "faster_rcnn_resnet18_fpn_shapes_160x160",
    "faster_rcnn_resnet18_fpn_recipe_shapes_160x160",
    "faster_rcnn_resnet50_v1_640x640_coco17_tpu-8",
    "retinanet_resnet18_fpn_shapes_160x160",
    "ssd_resnet50_v1_fpn_640x640_coco17_tpu-8",
    "mask_rcnn_resnet18_fpn_recipe_shapes_160x160",
    "context_rcnn_resnet18_fpn_recipe_shapes_160x160",
)


@functools.cache
def recipe_text(name: str) -> str:
    """A recipe without the comment at its head."""
    return re.sub(r"^#.*\n", "", text.read_text(recipes.recipe_path(name)), flags=re.MULTILINE)


def build_settings(config: pipeline_pb2.TrainEvalPipelineConfig) -> None:
    """Builds everything but the model and the data sets."""
    training, evaluation = config.train_config, config.eval_config
    for is_training in (False, True):
        builder.build_resizer(model_config.image_resizer(config.model), is_training=is_training)
    builder.build_augmentations(training.data_augmentation_options)
    builder.build_optimizer(training.optimizer)
    builder.build_context_decoding(config)
    builder.max_number_of_boxes(config, config.train_input_reader)
    builder.build_metrics(evaluation, [{"id": 1, "name": "thing"}])
    builder.training_execution(config, is_tpu=False, jit_compile=False)
    builder.inference_execution(config, is_tpu=False)
    TrainSettings(
        num_steps=training.num_steps,
        gradient_clipping_by_norm=training.gradient_clipping_by_norm,
        accumulate_gradients=training.accumulate_gradients,
    )


def is_ours(error: pipeline.ConfigError, source: str) -> bool:
    """Whether each line of an error begins with the file, and says something."""
    return str(error).startswith(source) and len(error.problem) > 3


@cases(50)
@given(data=changed_text(tuple(map(recipe_text, RECIPES))))
@example(data=b"")
@example(data=b"model {")
@example(data=b"model { ssd { } }")
@example(data=b"\xff\xfe")
def test_config_text_is_refused_in_words_or_can_be_built(data, tmp_path_factory, no_hang):
    no_hang()
    path = tmp_path_factory.getbasetemp() / "fuzzed.config"
    path.write_bytes(data)
    try:
        config = pipeline.load_config(str(path))
    except pipeline.ConfigError as error:
        assert is_ours(error, str(path)), error
        return
    build_settings(config)
    assert text.parse_text(pipeline.format_config(config), type(config), "again") == config


def paths(descriptor, prefix: str = "", depth: int = 0):
    """(path, field) of every field below a message."""
    for field in descriptor.fields:
        path = f"{prefix}{field.name}"
        yield path, field
        is_message = field.message_type and not field.message_type.GetOptions().map_entry
        if is_message and depth < 6:
            row = ".0" if text.is_repeated(field) else ""
            yield from paths(field.message_type, f"{path}{row}.", depth + 1)


def paths_of(message, prefix: str = ""):
    """(path, field) of every field that a message sets; of repeated ones the first row."""
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        yield path, field
        if field.message_type and not field.message_type.GetOptions().map_entry:
            is_list = text.is_repeated(field)
            yield from paths_of(value[0] if is_list else value, f"{path}.0." if is_list else f"{path}.")


def message_of(name: str) -> pipeline_pb2.TrainEvalPipelineConfig:
    return text.parse_text(recipe_text(name), pipeline_pb2.TrainEvalPipelineConfig, name)


PATHS = sorted(dict(paths(pipeline_pb2.TrainEvalPipelineConfig.DESCRIPTOR)).items())
PATHS_SET = {name: sorted(dict(paths_of(message_of(name))).items()) for name in RECIPES}
VALUES = {
    FieldDescriptor.CPPTYPE_STRING: ('""', '"x"', '"a\\tb"', '"' + "long" * 2000 + '"', '"gs://"', '"*"', '"("'),
    FieldDescriptor.CPPTYPE_BOOL: ("true", "false", "2"),
    FieldDescriptor.CPPTYPE_MESSAGE: ("{}", "{ nonsense: 1 }", "", "[]", "[{}, {}]"),
}


@st.composite
def overrides(draw, name: str) -> str:
    """A change of any field, more often of one that the recipe sets, and more often to a value of its type."""
    path, field = draw(st.sampled_from(PATHS_SET[name]) | st.sampled_from(PATHS_SET[name]) | st.sampled_from(PATHS))
    values = VALUES.get(field.cpp_type, (*NUMBERS, "2", "3", "4", "7", "0.5", "100000"))
    if field.enum_type:
        values = tuple(field.enum_type.values_by_name) + ("NONSENSE", "99")
    any_value = st.sampled_from(WORDS) | st.text(max_size=4)
    value = draw(st.sampled_from(values) | st.sampled_from(values) | st.sampled_from(values) | any_value)
    return f"{path}{draw(st.sampled_from(('=', '=', '=', '+=')))}{value}"


@cases(90)
@given(data=st.data(), name=st.sampled_from(RECIPES))
def test_overrides_are_refused_in_words_or_can_be_built(data, name, no_hang):
    no_hang()
    changes = data.draw(st.lists(overrides(name), min_size=1, max_size=2))
    path = recipes.recipe_path(name)
    try:
        config = pipeline.load_config(path, changes)
    except pipeline.ConfigError as error:
        assert str(error).startswith((path, "override ")), error
        return
    build_settings(config)


@pytest.mark.parametrize("change", ["=", "model", "train_config.=1", "train_config..batch_size=1", "model.0=1"])
def test_an_override_that_is_no_path_is_refused(change):
    with pytest.raises(pipeline.ConfigError, match=r"^override "):
        pipeline.load_config(recipes.recipe_path(RECIPES[0]), [change])
