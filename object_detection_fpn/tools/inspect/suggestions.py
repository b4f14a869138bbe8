"""What could be changed in a config so that it fits its data, as overrides that `--config_override` takes too."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

from object_detection_fpn import builder
from object_detection_fpn.config import pipeline as config_lib
from object_detection_fpn.config import scaling
from object_detection_fpn.config.text import apply_override
from object_detection_fpn.protos import anchor_generator_pb2, pipeline_pb2
from object_detection_fpn.tools.inspect.anchors import Coverage
from object_detection_fpn.tools.inspect.layout import AnchorLayout

_MIN_GAIN_50 = 0.005  # share of the boxes; less is not worth other anchors than those of a checkpoint
_MIN_GAIN_70 = 0.05
_SHOWN = 0.0005  # less is not seen in tenths of a percent
_STEPS_PER_EPOCH = 20  # fewer: most of what a batch tells is told twice before the weights have moved
_SPARE_BOXES = 1.1  # rows of groundtruth beyond those of the image with the most boxes
_WASTE = 4  # times as many rows as are needed, from which on fewer are suggested
_ROUND_BOXES = 10


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """A change of the config."""

    what: str
    """"anchors", "max_number_of_boxes" or "batch_size"."""
    reason: str
    """One sentence."""
    overrides: tuple[str, ...]
    """Each as `--config_override` takes it."""
    scales_learning_rates: bool = False
    """Learning rates follow the batch (`config.scaling`)."""


def suggest_anchors(
    layout: AnchorLayout,
    generator: anchor_generator_pb2.AnchorGenerator | None,
    before: Coverage,
    after: Coverage | None,
) -> Iterator[Suggestion]:
    """Other anchors, where they cover clearly more boxes.

    Args:
        layout: the anchors of the config.
        generator: those that were found.
        before: what those of the config cover.
        after: what those that were found cover.
    """
    if generator is None or after is None:
        return
    gain_50, gain_70 = after.covered_50 - before.covered_50, after.covered_70 - before.covered_70
    if gain_50 < -_MIN_GAIN_50 or (gain_50 < _MIN_GAIN_50 and gain_70 < _MIN_GAIN_70):
        return
    if layout.is_grid:
        grid = generator.grid_anchor_generator
        path = f"{layout.field}.grid_anchor_generator"
        overrides = (f"{path}.scales={_listed(grid.scales)}", f"{path}.aspect_ratios={_listed(grid.aspect_ratios)}")
    else:
        multiscale = generator.multiscale_anchor_generator
        path = f"{layout.field}.multiscale_anchor_generator"
        overrides = (
            f"{path}.anchor_scale={multiscale.anchor_scale:.4g}",
            f"{path}.aspect_ratios={_listed(multiscale.aspect_ratios)}",
        )
    at_50 = f"{after.covered_50:.1%} of the boxes at IoU 0.5"
    at_50 += " as before" if abs(gain_50) < _SHOWN else f" instead of {before.covered_50:.1%}"
    reason = (
        f"Others cover {at_50}, and {after.covered_70:.1%} at IoU 0.7 instead of {before.covered_70:.1%}; "
        "a cell has as many as now."
    )
    yield Suggestion("anchors", reason, overrides)


def suggest_max_boxes(
    config: pipeline_pb2.TrainEvalPipelineConfig, most: int, num_dropped: int, *, has_all: bool
) -> Iterator[Suggestion]:
    """Room for all boxes of an image; less room where all images were seen and most of it stays empty.

    Args:
        config: the config.
        most: boxes of the image that has most, augmentation left out.
        num_dropped: boxes beyond the limit.
        has_all: whether all images were read.
    """
    present = builder.max_number_of_boxes(config, config.train_input_reader)
    needed = max(_ROUND_BOXES, math.ceil(most * _SPARE_BOXES / _ROUND_BOXES) * _ROUND_BOXES)
    if not num_dropped and not (has_all and present >= _WASTE * needed):
        return
    overrides = [f"train_input_reader.max_number_of_boxes={needed}"]
    if config.train_config.HasField("max_number_of_boxes"):  # which goes first
        overrides.append(f"train_config.max_number_of_boxes={needed}")
    if num_dropped:
        reason = f"An image has {most} boxes, and {present} are kept: {num_dropped:,} boxes are dropped."
        overrides += [
            f"eval_input_reader.{row}.max_number_of_boxes={needed}"
            for row, reader in enumerate(config.eval_input_reader)
            if reader.max_number_of_boxes < needed
        ]
    else:
        reason = f"No image has more than {most} boxes, and there is room for {present}: matching takes memory for all."
    yield Suggestion("max_number_of_boxes", reason, tuple(overrides))


def suggest_batch_size(config: pipeline_pb2.TrainEvalPipelineConfig, num_images: int) -> Iterator[Suggestion]:
    """A smaller batch, a power of two, where one goes through the data in few steps.

    Args:
        config: the config.
        num_images: of the training data, read here or not.
    """
    present = config.train_config.batch_size
    if not num_images or num_images >= _STEPS_PER_EPOCH * present:
        return
    suggested = 2 ** max(0, math.floor(math.log2(max(num_images / _STEPS_PER_EPOCH, 1))))
    if suggested >= present:
        return
    yield Suggestion(
        "batch_size",
        f"{num_images:,} images are {num_images / present:.3g} batches of {present}: smaller ones give more than "
        f"{_STEPS_PER_EPOCH - 1} steps for each pass through the data. The learning rates shrink with the batch.",
        (f"train_config.batch_size={suggested}",),
        scales_learning_rates=True,
    )


def apply(config: pipeline_pb2.TrainEvalPipelineConfig, suggestions: Sequence[Suggestion], source: str) -> None:
    """Makes the changes in place.

    Args:
        config: the config.
        suggestions: what to change.
        source: the file it comes from, for errors.

    Raises:
        ConfigError: if the changed config cannot work.
    """
    for suggestion in suggestions:
        settings = config.train_config
        if suggestion.scales_learning_rates and not settings.reference_batch_size:
            settings.reference_batch_size = settings.batch_size  # for which the rates are written
        for override in suggestion.overrides:
            apply_override(config, override)
        if suggestion.scales_learning_rates:
            scaling.scale_learning_rates(config, source)
    config_lib.check_config(config, source)


def _listed(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"
