"""What the recipes of all imported detectors must say, whatever their heads are: pixels, sizes, backbone and schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from object_detection_fpn.config import pipeline as config
from object_detection_fpn.config import recipes
from object_detection_fpn.protos import backbone_pb2, pipeline_pb2
from pytorch_reference.cases import Case


def load_recipe(name: str) -> pipeline_pb2.TrainEvalPipelineConfig:
    """The recipe whose name begins so."""
    return config.load_config(recipes.recipe_path(f"{name}_800x1333_coco17"))


def check_pixels(case: Case, model: Any) -> None:
    there, here = case.settings["input"], model.feature_extractor.pixel_normalization
    assert backbone_pb2.PixelNormalization.ChannelOrder.Name(here.channel_order) == there["channel_order"]
    scale = 255.0 if there["scale"] == "uint8 / 255" else 1.0
    assert list(here.mean) == pytest.approx([scale * value for value in there["pixel_mean"]])
    assert list(here.stddev) == pytest.approx([scale * value for value in there["pixel_std"]])


def check_resizer(case: Case, model: Any) -> None:
    there, here = case.settings["input"], model.image_resizer.keep_aspect_ratio_resizer
    assert (here.min_dimension, here.max_dimension) == (800, 1333)
    assert here.half_pixel_centers
    shrinks_well = not case.is_torchvision  # Pillow's resize of bytes, averaged and rounded
    assert here.antialias == here.round_pixels == shrinks_well
    assert here.size_rounding == (here.FLOOR if case.is_torchvision else here.ROUND)
    assert here.pad_to_multiple == there["pad"]["size_divisibility"]
    padding = list(model.feature_extractor.pixel_normalization.mean)  # 0 after the normalization
    assert list(here.per_channel_pad_value) == (padding if there["channel_order"] == "RGB" else padding[::-1])


def check_backbone(case: Case, model: Any, type_name: str) -> None:
    """The ResNet, which the recipe asks for by this type."""
    there, here = case.settings["backbone"], model.feature_extractor
    assert here.type == type_name
    assert here.resnet.stride_in_3x3 != there["stride_in_1x1"]
    assert here.resnet.symmetric_padding
    assert (here.resnet.batch_norm == here.resnet.FROZEN) == (there["norm"] == "frozen batch norm")
    assert here.resnet.HasField("batch_norm_epsilon")
    assert here.resnet.batch_norm_epsilon == pytest.approx(there["norm_eps"])


def check_schedule(train: Any, *, batch_size: int, num_steps: int, rate: float, drops: Sequence[int]) -> None:
    """A warm-up of a thousand steps, and a tenth of the rate after each drop."""
    assert (train.batch_size, train.reference_batch_size, train.num_steps) == (batch_size, batch_size, num_steps)
    optimizer = getattr(train.optimizer, train.optimizer.WhichOneof("optimizer"))
    rates = optimizer.learning_rate.manual_step_learning_rate
    assert rates.warmup
    assert rates.initial_learning_rate == pytest.approx(rate / 1000)
    assert [change.step for change in rates.schedule] == [1000, *drops]
    assert [change.learning_rate for change in rates.schedule] == pytest.approx([rate, rate / 10, rate / 100])
