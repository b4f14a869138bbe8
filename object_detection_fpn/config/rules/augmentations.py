"""What `config.rules` refuses of `train_config.data_augmentation_options` beyond single values: fields that clash."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from object_detection_fpn.config import model as model_config
from object_detection_fpn.config.problems import Problem, Rule
from object_detection_fpn.config.tables import AUTOAUGMENT_POLICIES
from object_detection_fpn.config.text import listed, nearest
from object_detection_fpn.protos import pipeline_pb2

_NUM_COLOURS = 3
_DEFAULT_PADDED_SIZE_RATIOS = {"min_padded_size_ratio": [1.0, 1.0], "max_padded_size_ratio": [2.0, 2.0]}


def _augmentations_fit(config: pipeline_pb2.TrainEvalPipelineConfig, _: str) -> Iterator[Problem]:
    """All that is wrong between the fields of a step, and between a step and the data it is for."""
    num_classes = model_config.num_classes(config.model)
    num_channels = _NUM_COLOURS + config.train_input_reader.num_additional_channels
    for row, step in enumerate(config.train_config.data_augmentation_options):
        kind = step.WhichOneof("preprocessing_step")
        if not kind:
            continue  # said elsewhere
        message, path = getattr(step, kind), f"train_config.data_augmentation_options[{row}].{kind}"
        yield from _colors_fit_channels(message, path, num_channels)
        yield from _padded_sizes_are_ranges(message, path)
        for place, operation in enumerate(getattr(message, "operations", ())):
            yield from _padded_sizes_are_ranges(operation, f"{path}.operations[{place}]")
        if kind in ("drop_label_probabilistically", "remap_labels"):
            yield from _labels_are_classes(message, path, num_classes)
        elif kind == "normalize_image" and message.original_minval == message.original_maxval:
            value = f"{message.original_maxval:g}"
            yield Problem(
                f"{path}.original_maxval", "equals original_minval, which is no range", f"above {value}", value
            )
        elif kind == "autoaugment_image" and message.policy_name not in AUTOAUGMENT_POLICIES:
            problem = f"is unknown{nearest(message.policy_name, AUTOAUGMENT_POLICIES)}"
            yield Problem(f"{path}.policy_name", problem, listed(AUTOAUGMENT_POLICIES), f'"{message.policy_name}"')
        elif kind == "convert_class_logits_to_softmax" and not config.train_input_reader.load_multiclass_scores:
            problem = "needs scores that are not read: train_input_reader.load_multiclass_scores is false"
            yield Problem(path, problem, "to leave it out, or to read them")


def _colors_fit_channels(message: Any, path: str, num_channels: int) -> Iterator[Problem]:
    channels = f"{num_channels}, one a channel"
    num_values = len(getattr(message, "pad_color", ()))
    if num_values not in (0, 1, _NUM_COLOURS, num_channels):
        allowed = f"1, or {channels}" if num_channels == _NUM_COLOURS else f"1, {_NUM_COLOURS}, or {channels}"
        yield Problem(f"{path}.pad_color", f"has {num_values} values", allowed)
    num_values = len(getattr(message, "means", ())) or num_channels  # that there are some is asked for elsewhere
    if num_values != num_channels:
        yield Problem(f"{path}.means", f"has {num_values} values", channels)


def _padded_sizes_are_ranges(message: Any, path: str) -> Iterator[Problem]:
    """Height and width of `min_padded_size_ratio` and `max_padded_size_ratio`."""
    ends = []
    for name, default in _DEFAULT_PADDED_SIZE_RATIOS.items():
        if name not in message.DESCRIPTOR.fields_by_name:
            return
        values = list(getattr(message, name)) or default
        if len(values) != 2:
            yield Problem(f"{path}.{name}", f"has {len(values)} values", "2, of height and width")
            return
        ends.append(values)
    for row, (low, high) in enumerate(zip(*ends, strict=True)):
        if high < low:
            place, problem = f"{path}.max_padded_size_ratio[{row}]", f"is below min_padded_size_ratio[{row}] = {low:g}"
            yield Problem(place, problem, f"{low:g} or more", f"{high:g}")


def _labels_are_classes(message: Any, path: str, num_classes: int) -> Iterator[Problem]:
    labels = {name: getattr(message, name, 0) for name in ("label", "new_label")}
    labels |= {f"original_labels[{row}]": label for row, label in enumerate(getattr(message, "original_labels", ()))}
    for name, label in labels.items():
        if label > num_classes:
            yield Problem(f"{path}.{name}", f"is above num_classes = {num_classes}", f"1 to {num_classes}", str(label))


RULES: dict[str, tuple[Rule, ...]] = {"TrainEvalPipelineConfig": (_augmentations_fit,)}
