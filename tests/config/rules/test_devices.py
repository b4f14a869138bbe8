"""Configs that do not suit their devices are refused, field by field, with the value to set."""

from __future__ import annotations

import pytest

from object_detection_fpn.config import pipeline as config
from object_detection_fpn.config import recipes
from object_detection_fpn.config.text import ConfigError, apply_override

RESIZER = "model.faster_rcnn.image_resizer"


@pytest.fixture(scope="module")
def recipe():
    return config.load_config(recipes.recipe_path("faster_rcnn_resnet18_fpn_shapes_160x160"))


def words(recipe, *overrides, use="train", num_replicas=1, **devices) -> str:
    """What is said against a recipe with changes; empty if nothing is."""
    message = type(recipe)()
    message.CopyFrom(recipe)
    for override in overrides:
        apply_override(message, override)
    try:
        config.check_strategy(message, "my.config", use=use, num_replicas=num_replicas, **{"is_tpu": False, **devices})
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "batch_size, num_replicas, num_parts, expected",
    [
        (8, 1, 1, ""),
        (8, 4, 2, ""),
        (6, 4, 1, "cannot be divided evenly among 4 replicas. Allowed: multiples of 4."),
        (
            8,
            4,
            4,
            "cannot be divided evenly among 4 replicas, each of which computes accumulate_gradients = 4 parts. "
            "Allowed: multiples of 16.",
        ),
    ],
)
def test_batch_must_be_divisible_by_replicas_and_parts(recipe, batch_size, num_replicas, num_parts, expected):
    found = words(
        recipe,
        f"train_config.batch_size={batch_size}",
        f"train_config.accumulate_gradients={num_parts}",
        num_replicas=num_replicas,
    )
    assert found == (f"my.config: train_config.batch_size = {batch_size} {expected}" if expected else "")


def test_data_of_several_workers_have_no_end(recipe):
    override = "train_input_reader.num_epochs=3"
    assert words(recipe, override) == words(recipe, num_replicas=2, has_workers=True) == ""
    assert words(recipe, override, num_replicas=2, has_workers=True) == (
        "my.config: train_input_reader.num_epochs = 3 ends the data of one worker before those of another. Allowed: 0."
    )


def test_evaluation_takes_any_batch(recipe):
    assert words(recipe, "train_config.batch_size=3", num_replicas=2, use="eval") == ""


@pytest.mark.parametrize(
    "resizer, expected",
    [
        ("keep_aspect_ratio_resizer { pad_to_max_dimension: true }", ""),
        ("fixed_shape_resizer { height: 96 width: 64 }", ""),
        (
            "keep_aspect_ratio_resizer {}",
            f"{RESIZER}.keep_aspect_ratio_resizer.pad_to_max_dimension = false leaves images of different sizes; on a TPU "
            "all have one. Allowed: true.",
        ),
        ("pad_to_multiple_resizer { multiple: 32 }", f"{RESIZER}.pad_to_multiple_resizer leaves images"),
        ("conditional_shape_resizer {}", "instead."),
        ("identity_resizer {}", "or fixed_shape_resizer { ... } instead."),
    ],
)
@pytest.mark.parametrize("use", ["train", "eval"])
def test_tpu_needs_images_of_one_size(recipe, resizer, expected, use):
    override = f"{RESIZER}={{{resizer}}}"
    found = words(recipe, override, is_tpu=True, use=use)
    assert expected in found
    assert bool(expected) == bool(found)
    assert words(recipe, override, use=use) == ""


def test_compiled_exports_need_images_of_one_size(recipe):
    override = f"{RESIZER}={{keep_aspect_ratio_resizer {{}}}}"
    assert words(recipe, override, use="export", jit_compile=True) == (
        f"my.config: {RESIZER}.keep_aspect_ratio_resizer.pad_to_max_dimension = false leaves images of different sizes; XLA "
        "would compile an exported model for each. Allowed: true."
    )
    assert words(recipe, override, use="export") == words(recipe, use="export", jit_compile=True) == ""


def test_tpu_says_everything_that_varies(recipe):
    overrides = [f"{RESIZER}={{identity_resizer {{}}}}", "eval_config.force_no_resize=true"]
    found = words(recipe, *overrides, is_tpu=True, use="eval")
    assert "image_resizer.identity_resizer leaves" in found
    assert "eval_config.force_no_resize = true leaves" in found
    assert "force_no_resize" not in words(recipe, *overrides, is_tpu=True, use="train")


def test_tpu_needs_batches_of_one_size(recipe):
    override = "train_input_reader.drop_remainder=false"
    assert words(recipe, override, is_tpu=True) == (
        "my.config: train_input_reader.drop_remainder = false may leave a last batch of another size; on a TPU all have one. "
        "Allowed: true."
    )
    assert words(recipe, override, is_tpu=True, use="eval") == ""
    assert words(recipe, override) == ""


def test_tpu_does_not_compute_in_float16(recipe):
    override = "train_config.precision=FLOAT16"
    assert "train_config.precision = FLOAT16 is not computed by a TPU. Allowed: BFLOAT16, FLOAT32." in words(
        recipe, override, is_tpu=True
    )
    assert words(recipe, override) == ""


@pytest.mark.parametrize(
    "num_replicas, is_tpu, jit_compile, num_parts, is_refused",
    [
        (1, False, True, 2, False),
        (2, True, False, 2, False),
        (2, False, False, 1, False),
        (2, False, True, 1, True),
        (2, False, False, 2, True),
    ],
)
def test_synchronized_norm_cannot_leave_loops_on_gpus(recipe, num_replicas, is_tpu, jit_compile, num_parts, is_refused):
    place = "model.faster_rcnn.feature_extractor.conv_hyperparams.sync_batch_norm"
    found = words(
        recipe,
        f"{place}={{}}",
        "train_config.batch_size=8",
        f"train_config.accumulate_gradients={num_parts}",
        num_replicas=num_replicas,
        is_tpu=is_tpu,
        jit_compile=jit_compile,
    )
    assert (f"{place} does not work on several GPUs with" in found) == is_refused
    assert bool(found) == is_refused


@pytest.mark.parametrize(
    "overrides, expected",
    [
        (
            ["train_config.batch_size=7", "train_config.accumulate_gradients=2"],
            "train_config.batch_size = 7 cannot be computed in accumulate_gradients = 2 parts of one size",
        ),
        (["train_config.accumulate_gradients=0"], "accumulate_gradients = 0 is out of range. Allowed: 1 or more"),
        (["train_config.all_reduce_precision=FLOAT16"], "all_reduce_precision = FLOAT16 cannot hold"),
    ],
)
def test_values_that_suit_no_device_are_refused_when_the_config_is_read(overrides, expected):
    with pytest.raises(ConfigError, match=expected):
        config.load_config(recipes.recipe_path("faster_rcnn_resnet18_fpn_shapes_160x160"), overrides)
