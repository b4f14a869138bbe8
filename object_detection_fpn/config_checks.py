"""Refuses configs that cannot work before anything is built: the tables of `config_fields`, then a function per rule.

To refuse one more value, add a line to a table; to refuse a combination of fields, add a function to `_RULES`, under
the message that holds them all.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from object_detection_fpn import config_augmentations
from object_detection_fpn import config_fields as fields
from object_detection_fpn.config_text import ConfigError, format_value, is_repeated, listed, nearest, split_names
from object_detection_fpn.evaluation.visualize import is_color
from object_detection_fpn.label_map import load_label_map
from object_detection_fpn.protos import (
    box_predictor_pb2,
    calibration_pb2,
    eval_pb2,
    faster_rcnn_pb2,
    input_reader_pb2,
    pipeline_pb2,
    post_processing_pb2,
    train_pb2,
)

_BACKBONE_MAX_LEVEL = 5  # a ResNet's last stage; coarser levels are made by the pyramid


class Problem(NamedTuple):
    """One reason to refuse a config: which field, what is wrong with it, what would be right."""

    field: str
    problem: str
    allowed: str = ""
    value: str | None = None


_Rule = Callable[[Any, str], Iterable[Problem]]


def find_problems(config: pipeline_pb2.TrainEvalPipelineConfig) -> Iterator[Problem]:
    """All that is wrong with the config itself; no file is looked at."""
    for path, message in walk(config):
        name = message.DESCRIPTOR.name
        for rule in (_required, _bounds, _ranges, _refused, *_RULES.get(name, ())):
            yield from rule(message, path)


def find_missing_data(config: pipeline_pb2.TrainEvalPipelineConfig, use: str) -> Iterator[Problem | ConfigError]:
    """What `use`, "train" or "eval", needs besides a model: settings, records, label maps, a checkpoint.

    Yields:
        Problems, and the errors of label maps that cannot be read.
    """
    if use == "train":
        if not config.HasField("train_config"):
            yield Problem("train_config", "is not set", _fields_of(config.train_config))
        elif not config.train_config.num_steps:
            yield _at(
                config.train_config, "train_config", "num_steps", "trains nothing", "1 or more, here or by a flag"
            )
        yield from _missing_checkpoint(config.train_config)
        readers = {"train_input_reader": config.train_input_reader}
    elif use == "eval":
        readers = {f"eval_input_reader[{i}]": reader for i, reader in enumerate(config.eval_input_reader)}
        if not readers:
            yield Problem("eval_input_reader", "is not set", _fields_of(input_reader_pb2.InputReader()))
    else:
        raise ValueError(f'use = "{use}" is unknown. Allowed: train, eval.')
    for path, reader in readers.items():
        yield from _missing_records(reader, path)
        yield from _label_map_problems(reader, path, config.model.faster_rcnn)
        if use == "eval":
            yield from _unknown_members(config.eval_config, reader)


def find_ineffective(config: pipeline_pb2.TrainEvalPipelineConfig) -> Iterator[Problem]:
    """The fields that say something which has no effect here, and why."""
    for path, message in walk(config):
        for field, value in message.ListFields():
            reason = fields.NO_EFFECT.get(f"{message.DESCRIPTOR.name}.{field.name}")
            if reason and (field.message_type or value != field.default_value):
                text = None if field.message_type else format_value(field, value)
                yield Problem(_join(path, field.name), f"has no effect: {reason}", value=text)


# The tables -----------------------------------------------------------------------------------------------------------


def _required(message: Message, path: str) -> Iterator[Problem]:
    descriptor = message.DESCRIPTOR
    for name in fields.REQUIRED.get(descriptor.name, ()):
        if name in descriptor.oneofs_by_name:
            if not message.WhichOneof(name):
                members = [field.name for field in descriptor.oneofs_by_name[name].fields]
                yield Problem(path, "is empty", f"one of {listed(members)}" if len(members) > 1 else members[0])
        else:
            yield from _unset(message, path, name)


def _bounds(message: Message, path: str) -> Iterator[Problem]:
    for field in message.DESCRIPTOR.fields:
        bounds = fields.BOUNDS.get(f"{message.DESCRIPTOR.name}.{field.name}") or fields.BOUNDS.get(f"*.{field.name}")
        if not bounds or field.message_type:
            continue
        value = getattr(message, field.name)
        for row, element in enumerate(value) if is_repeated(field) else [(None, value)]:
            if element not in bounds:
                place = _join(path, field.name) + ("" if row is None else f"[{row}]")
                yield Problem(place, "is out of range", str(bounds), format_value(field, element))


def _ranges(message: Message, path: str) -> Iterator[Problem]:
    known = message.DESCRIPTOR.fields_by_name
    for low_part, high_part in fields.RANGE_ENDS:
        for low_name in known:
            high = known.get(low_name.replace(low_part, high_part))
            if low_part not in low_name or not high or is_repeated(high):
                continue
            if not high.has_default_value and not message.HasField(high.name):
                continue  # without a default, an unset end means no end
            low_value = getattr(message, low_name)
            if getattr(message, high.name) < low_value:
                low_text = format_value(known[low_name], low_value)
                allowed = _pyramid_levels(message) or f"{low_text} or more"
                yield _at(message, path, high.name, f"is below {low_name} = {low_text}", allowed)


def _refused(message: Message, path: str) -> Iterator[Problem]:
    for field, value in message.ListFields():
        reason = fields.REFUSED.get(f"{message.DESCRIPTOR.name}.{field.name}")
        if reason and (field.message_type or value):
            text = None if field.message_type or is_repeated(field) else format_value(field, value)
            allowed = "false" if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else "to leave it out"
            yield Problem(_join(path, field.name), reason, allowed, text)


# Rules between fields -------------------------------------------------------------------------------------------------


def _second_stage_is_complete(message: faster_rcnn_pb2.FasterRcnn, path: str) -> Iterator[Problem]:
    if message.number_of_stages != 2:
        return
    for name in fields.SECOND_STAGE:
        yield from _unset(message, path, name)
    for name in fields.SECOND_STAGE_SIZES:
        if not message.HasField(name):
            yield Problem(_join(path, name), "is not set", "1 or more (usually 14, pooled by 2 with stride 2)")
        elif getattr(message, name) < 1:
            yield _at(message, path, name, "is out of range", "1 or more")
    if message.maxpool_kernel_size > message.initial_crop_size > 0:
        crop = message.initial_crop_size
        problem = f"is above initial_crop_size = {crop}"
        yield _at(message, path, "maxpool_kernel_size", problem, f"1 to {crop}")


def _no_more_samples_than_proposals(message: faster_rcnn_pb2.FasterRcnn, path: str) -> Iterator[Problem]:
    limit = message.first_stage_max_proposals
    if message.number_of_stages == 2 and message.second_stage_batch_size > limit:
        problem = f"is above first_stage_max_proposals = {limit}"
        yield _at(message, path, "second_stage_batch_size", problem, f"1 to {limit}")


def _predictions_have_no_groups(message: box_predictor_pb2.MaskRCNNBoxPredictor, path: str) -> Iterator[Problem]:
    if message.fc_hyperparams.HasField("group_norm"):
        place = f"{path}.fc_hyperparams.group_norm"
        yield Problem(place, "does not fit: predictions are no groups of features", "batch_norm, or to leave it out")


def _suppression_is_one_kind(message: post_processing_pb2.BatchNonMaxSuppression, path: str) -> Iterator[Problem]:
    if not message.change_coordinate_frame:
        problem = (
            "is not supported: detections are relative to the image; multiply them by its size where pixels are needed"
        )
        yield _at(message, path, "change_coordinate_frame", problem, "true")
    if message.use_combined_nms and message.use_class_agnostic_nms:
        yield _at(message, path, "use_class_agnostic_nms", "does not go with use_combined_nms = true", "false")
    if message.use_combined_nms and message.soft_nms_sigma and not message.use_hard_nms:
        yield _at(message, path, "soft_nms_sigma", "does not go with use_combined_nms = true", "0")


def _calibration_is_a_function(message: calibration_pb2.CalibrationConfig, path: str) -> Iterator[Problem]:
    of_classes = message.class_id_function_approximations.class_id_xy_pairs_map
    curves = {f"class_id_function_approximations.class_id_xy_pairs_map[{i}]": of_classes[i] for i in sorted(of_classes)}
    if message.function_approximation.HasField("x_y_pairs"):
        curves["function_approximation.x_y_pairs"] = message.function_approximation.x_y_pairs
    for place, curve in curves.items():
        x = [pair.x for pair in curve.x_y_pair]
        if not x:
            yield Problem(f"{path}.{place}", "has no x_y_pair", "at least one")
        for row, (before, after) in enumerate(itertools.pairwise(x), 1):
            if after <= before:
                problem = f"is not after the one before, {before:g}"
                yield _at(curve.x_y_pair[row], f"{path}.{place}.x_y_pair[{row}]", "x", problem, f"above {before:g}")


def _calibrated_classes_exist(message: faster_rcnn_pb2.FasterRcnn, path: str) -> Iterator[Problem]:
    config = message.second_stage_post_processing.calibration_config
    maps = {
        "class_id_function_approximations.class_id_xy_pairs_map": config.class_id_function_approximations,
        "class_id_sigmoid_calibrations.class_id_sigmoid_parameters_map": config.class_id_sigmoid_calibrations,
    }
    for name, calibrations in maps.items():
        for class_id in sorted(getattr(calibrations, name.rpartition(".")[2])):
            if not 0 <= class_id <= message.num_classes:
                place = f"{path}.second_stage_post_processing.calibration_config.{name}"
                allowed = f"0 (background) to num_classes = {message.num_classes}"
                yield Problem(place, "names a class that does not exist", allowed, str(class_id))


def _anchors_fit_pyramid(message: faster_rcnn_pb2.FasterRcnn, path: str) -> Iterator[Problem]:
    anchors, pyramid = message.first_stage_anchor_generator.multiscale_anchor_generator, message.feature_extractor.fpn
    if not message.feature_extractor.HasField("fpn") or not message.HasField("first_stage_anchor_generator"):
        return  # said elsewhere
    for name in ("min_level", "max_level"):
        expected = getattr(pyramid, name)
        if getattr(anchors, name) != expected:
            place = f"{path}.first_stage_anchor_generator.multiscale_anchor_generator"
            yield _at(anchors, place, name, f"differs from feature_extractor.fpn.{name} = {expected}", str(expected))


def _extractor_is_known(message: faster_rcnn_pb2.FasterRcnnFeatureExtractor, path: str) -> Iterator[Problem]:
    known, name = fields.EXTRACTOR_TYPES, message.type
    if name in known or not message.HasField("type"):
        return
    base = name.removesuffix("_keras")
    problem = f"is unknown{nearest(name, known)}"
    if f"{base}_fpn_keras" in known or base in fields.EXTRACTORS_ELSEWHERE:
        generation = "has" if name.endswith("_keras") else "is of TensorFlow 1 and has"
        like = f"{base}_fpn_keras" if f"{base}_fpn_keras" in known else "faster_rcnn_resnet50_fpn_keras"
        problem = f'{generation} no feature pyramid: write "{like}", or another that is allowed'
    yield _at(message, path, "type", problem, listed(known))


def _padding_fits_pyramid(message: faster_rcnn_pb2.FasterRcnnFeatureExtractor, path: str) -> Iterator[Problem]:
    level = min(max(message.fpn.max_level, 0), _BACKBONE_MAX_LEVEL)
    if message.pad_to_multiple < 1 or message.pad_to_multiple % 2**level:
        problem = f"does not fit the levels of the pyramid, whose backbone ends with level {level}"
        yield _at(message, path, "pad_to_multiple", problem, f"multiples of {2**level}")


def _levels_exist(message: Message, path: str) -> Iterator[Problem]:
    allowed = _pyramid_levels(message)
    if not 2 <= message.min_level <= _BACKBONE_MAX_LEVEL:  # type: ignore[attr-defined]
        yield _at(message, path, "min_level", "is out of range", f"2 to {_BACKBONE_MAX_LEVEL}")
    elif message.max_level > 7:  # type: ignore[attr-defined]
        yield _at(message, path, "max_level", "is out of range", allowed)


def _pyramid_levels(message: Message) -> str:
    """The levels a pyramid may have, where `message` is one."""
    return "2 to 7" if message.DESCRIPTOR.name == "FeaturePyramidNetworks" else ""


def _condition_is_valid(message: Message, path: str) -> Iterator[Problem]:
    if not message.condition:  # type: ignore[attr-defined]
        yield _at(message, path, "condition", "is no condition", "GREATER, SMALLER")


def _padding_colour_has_all_channels(config: pipeline_pb2.TrainEvalPipelineConfig, path: str) -> Iterator[Problem]:
    resizer = config.model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer
    channels = 3 + config.train_input_reader.num_additional_channels  # gray comes after padding
    if len(resizer.per_channel_pad_value) not in (0, channels):
        place = "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer.per_channel_pad_value"
        yield Problem(place, f"has {len(resizer.per_channel_pad_value)} values", f"{channels}, one a channel")


def _averages_exist(config: pipeline_pb2.TrainEvalPipelineConfig, path: str) -> Iterator[Problem]:
    trained = config.HasField("train_config") and config.train_config.HasField("optimizer")
    if trained and config.eval_config.use_moving_averages and not config.train_config.optimizer.use_moving_average:
        problem = "needs averages that training does not keep: train_config.optimizer.use_moving_average is false"
        yield _at(config.eval_config, "eval_config", "use_moving_averages", problem, "false, or true in both")


def _fine_tuning_is_known(message: train_pb2.TrainConfig, path: str) -> Iterator[Problem]:
    known = fields.FINE_TUNE_CHECKPOINT_TYPES
    if message.fine_tune_checkpoint_type not in known:
        yield _at(message, path, "fine_tune_checkpoint_type", "is unknown", listed(known[1:]))
    if message.fine_tune_checkpoint == fields.IMAGENET and message.fine_tune_checkpoint_type in ("detection", "full"):
        problem = f'does not fit fine_tune_checkpoint = "{fields.IMAGENET}", which is a backbone'
        yield _at(message, path, "fine_tune_checkpoint_type", problem, "classification, or to leave it out")
    # The default is V1, which no TensorFlow 2 config can mean: only V1 in writing is refused.
    version = "fine_tune_checkpoint_version"
    if (
        message.fine_tune_checkpoint
        and message.HasField(version)
        and message.fine_tune_checkpoint_version != train_pb2.V2
    ):
        yield _at(message, path, version, "is the format of TensorFlow 1, which cannot be read", "V2")


def _patterns_are_regular_expressions(message: train_pb2.TrainConfig, path: str) -> Iterator[Problem]:
    for name in ("freeze_variables", "update_trainable_variables"):
        for row, pattern in enumerate(getattr(message, name)):
            try:
                re.compile(pattern)
            except re.error as error:
                place = f"{_join(path, name)}[{row}]"
                yield Problem(place, f"is no regular expression ({error})", "regular expressions", f'"{pattern}"')


def _parts_fit_batch(message: train_pb2.TrainConfig, path: str) -> Iterator[Problem]:
    num_parts = message.accumulate_gradients
    if num_parts and message.batch_size % num_parts:
        problem = f"cannot be computed in accumulate_gradients = {num_parts} parts of one size"
        yield _at(message, path, "batch_size", problem, f"multiples of {num_parts}")


def _gradients_travel_in_known_numbers(message: train_pb2.TrainConfig, path: str) -> Iterator[Problem]:
    if message.all_reduce_precision == train_pb2.FLOAT16:
        problem = "cannot hold the gradients of every model, whose range is that of float32"
        yield _at(message, path, "all_reduce_precision", problem, "BFLOAT16, FLOAT32")


def _augmentations_fit(config: pipeline_pb2.TrainEvalPipelineConfig, path: str) -> Iterator[Problem]:
    for found in config_augmentations.find_problems(config):
        yield Problem(*found)


def _schedule_ascends(message: Message, path: str) -> Iterator[Problem]:
    previous = -1
    for row, change in enumerate(message.schedule):  # type: ignore[attr-defined]
        if change.step <= previous:
            yield _at(
                change, f"{path}.schedule[{row}]", "step", "is not after the one before", f"{previous + 1} or more"
            )
        previous = change.step


def _warmup_fits(message: Any, path: str) -> Iterator[Problem]:
    before = message.warmup_steps + message.hold_base_rate_steps
    if before > message.total_steps:
        problem = f"is below warmup_steps + hold_base_rate_steps = {before}"
        yield _at(message, path, "total_steps", problem, f"{before} or more")
    if message.warmup_steps and message.warmup_learning_rate > message.learning_rate_base:
        base = f"{message.learning_rate_base:g}"
        problem = f"is above learning_rate_base = {base}"
        yield _at(message, path, "warmup_learning_rate", problem, f"0 to {base}, or warmup_steps: 0")


def _metrics_are_known(message: Message, path: str) -> Iterator[Problem]:
    known = (*fields.METRICS_SETS, *fields.FORMER_METRICS_SETS)
    seen: dict[str, str] = {}
    for row, name in enumerate(message.metrics_set):  # type: ignore[attr-defined]
        place, value = f"{path}.metrics_set[{row}]", f'"{name}"'
        if name not in known:
            problem = fields.REFUSED_METRICS_SETS.get(name, f"is unknown{nearest(name, known)}")
            yield Problem(place, problem, listed(fields.METRICS_SETS), value)
            continue
        todays_name = fields.FORMER_METRICS_SETS.get(name, name)
        if todays_name in seen:
            yield Problem(place, f"asks for the same metrics as {seen[todays_name]}", "each set once", value)
        seen.setdefault(todays_name, place)


def _super_categories_have_members(message: eval_pb2.EvalConfig, path: str) -> Iterator[Problem]:
    for name, members in sorted(message.super_categories.items()):
        if not split_names(members):
            place = f'{path}.super_categories["{name}"]'
            yield Problem(place, "names no class", "names of classes, separated by commas", f'"{members}"')


def _color_is_known(message: eval_pb2.EvalConfig, path: str) -> Iterator[Problem]:
    name = "groundtruth_box_visualization_color"
    if not is_color(message.groundtruth_box_visualization_color):
        yield _at(message, path, name, "is no colour", 'HTML names such as "black", "DarkOrange", "Chartreuse"')


def _scores_are_loaded(config: pipeline_pb2.TrainEvalPipelineConfig, path: str) -> Iterator[Problem]:
    if config.train_config.use_multiclass_scores and not config.train_input_reader.load_multiclass_scores:
        problem = "needs the scores of the records: train_input_reader.load_multiclass_scores is false"
        yield _at(config.train_config, "train_config", "use_multiclass_scores", problem, "false, or true in both")


def _records_are_examples(message: input_reader_pb2.InputReader, path: str) -> Iterator[Problem]:
    if message.input_type == input_reader_pb2.TF_SEQUENCE_EXAMPLE:
        problem = "is not supported: write one tf.Example per frame instead"
        yield _at(message, path, "input_type", problem, "TF_EXAMPLE")


def _weights_fit_files(message: input_reader_pb2.InputReader, path: str) -> Iterator[Problem]:
    weights, num_paths = message.sample_from_datasets_weights, len(message.tf_record_input_reader.input_path)
    place = f"{path}.sample_from_datasets_weights"
    if weights and len(weights) != num_paths:
        yield Problem(place, f"has {len(weights)} values for {num_paths} input_path", f"{num_paths} values, or none")
    elif weights and not any(weight > 0 for weight in weights):
        yield Problem(place, "takes records from nowhere", "at least one weight above 0")


def _cache_has_a_folder(message: input_reader_pb2.InputReader, path: str) -> Iterator[Problem]:
    if (message.cache == input_reader_pb2.InputReader.DISK) != bool(message.cache_dir):
        problem = "is what cache: DISK needs" if not message.cache_dir else "is of use for cache: DISK only"
        yield _at(message, path, "cache_dir", problem, "a folder beside cache: DISK, else nothing")


def _channels_fit_image(message: input_reader_pb2.InputReader, path: str) -> Iterator[Problem]:
    if message.jpeg_min_side and message.num_additional_channels:
        problem = "would decode images smaller than the additional channels"
        yield _at(message, path, "jpeg_min_side", problem, "0 beside num_additional_channels")


_RULES: dict[str, tuple[_Rule, ...]] = {
    "TrainEvalPipelineConfig": (
        _padding_colour_has_all_channels,
        _averages_exist,
        _scores_are_loaded,
        _augmentations_fit,
    ),
    "FasterRcnn": (
        _second_stage_is_complete,
        _no_more_samples_than_proposals,
        _anchors_fit_pyramid,
        _calibrated_classes_exist,
    ),
    "FasterRcnnFeatureExtractor": (_extractor_is_known, _padding_fits_pyramid),
    "FeaturePyramidNetworks": (_levels_exist,),
    "MaskRCNNBoxPredictor": (_predictions_have_no_groups,),
    "BatchNonMaxSuppression": (_suppression_is_one_kind,),
    "CalibrationConfig": (_calibration_is_a_function,),
    "ConditionalShapeResizer": (_condition_is_valid,),
    "TrainConfig": (
        _fine_tuning_is_known,
        _patterns_are_regular_expressions,
        _parts_fit_batch,
        _gradients_travel_in_known_numbers,
    ),
    "ManualStepLearningRate": (_schedule_ascends,),
    "CosineDecayLearningRate": (_warmup_fits,),
    "EvalConfig": (_metrics_are_known, _super_categories_have_members, _color_is_known),
    "InputReader": (_records_are_examples, _weights_fit_files, _cache_has_a_folder, _channels_fit_image),
}


# Files ----------------------------------------------------------------------------------------------------------------


def _missing_checkpoint(message: train_pb2.TrainConfig) -> Iterator[Problem]:
    path = message.fine_tune_checkpoint
    if path and path != fields.IMAGENET and not (_files(path) or _files(f"{path}.index")):
        allowed = (
            f'the path of a checkpoint, such as "dir/ckpt-0" for dir/ckpt-0.index, of weights, or "{fields.IMAGENET}"'
        )
        yield _at(message, "train_config", "fine_tune_checkpoint", "does not exist", allowed)


def _missing_records(reader: input_reader_pb2.InputReader, path: str) -> Iterator[Problem]:
    place = f"{path}.tf_record_input_reader.input_path"
    allowed = "paths or patterns of TFRecord files"
    if not reader.tf_record_input_reader.input_path:
        yield Problem(place, "is not set", allowed)
    for row, pattern in enumerate(reader.tf_record_input_reader.input_path):
        if not _files(pattern):
            yield Problem(f"{place}[{row}]", "matches no file", allowed, f'"{pattern}"')


def _label_map_problems(
    reader: input_reader_pb2.InputReader, path: str, model: faster_rcnn_pb2.FasterRcnn
) -> Iterator[Problem | ConfigError]:
    if not reader.label_map_path or not _files(reader.label_map_path):
        problem = "does not exist" if reader.label_map_path else "is not set"
        value = f'"{reader.label_map_path}"' if reader.label_map_path else None
        yield Problem(f"{path}.label_map_path", problem, "the path of a label map (.pbtxt)", value)
        return
    try:
        label_map = load_label_map(reader.label_map_path, use_display_name=reader.use_display_name)
    except ConfigError as error:
        yield error
        return
    if model.num_classes != label_map.max_id:
        last = label_map.items[-1]
        problem = (
            f"differs from the largest id of {reader.label_map_path}, {last.id} ({last.name}), "
            f"named by {path}.label_map_path"
        )
        yield _at(model, "model.faster_rcnn", "num_classes", problem, str(last.id))


def _unknown_members(message: eval_pb2.EvalConfig, reader: input_reader_pb2.InputReader) -> Iterator[Problem]:
    """Super categories of classes that the label map does not name."""
    if not message.super_categories or not _files(reader.label_map_path):
        return
    try:
        label_map = load_label_map(reader.label_map_path, use_display_name=reader.use_display_name)
    except ConfigError:
        return  # said elsewhere
    names = [category["name"] for category in label_map.categories]
    for super_category, members in sorted(message.super_categories.items()):
        for name in split_names(members):
            if name not in names:
                place = f'eval_config.super_categories["{super_category}"]'
                problem = f'names the class "{name}", which {reader.label_map_path} does not{nearest(name, names)}'
                yield Problem(place, problem, "names to show of its classes, separated by commas", f'"{members}"')


def _files(pattern: str) -> list[str]:
    try:
        return tf.io.gfile.glob(pattern)
    except tf.errors.NotFoundError:  # its folder does not exist
        return []


# Messages -------------------------------------------------------------------------------------------------------------


def walk(message: Message, path: str = "") -> Iterator[tuple[str, Message]]:
    """Every message that is present, with its path."""
    yield path, message
    for field, value in message.ListFields():
        if not field.message_type or field.is_extension or field.message_type.GetOptions().map_entry:
            continue
        place = _join(path, field.name)
        for row, child in enumerate(value) if is_repeated(field) else [(None, value)]:
            yield from walk(child, place if row is None else f"{place}[{row}]")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _at(message: Message, path: str, name: str, problem: str, allowed: str = "") -> Problem:
    """A problem with a single value."""
    value = format_value(message.DESCRIPTOR.fields_by_name[name], getattr(message, name))
    return Problem(_join(path, name), problem, allowed, value)


def _unset(message: Message, path: str, name: str) -> Iterator[Problem]:
    field, value = message.DESCRIPTOR.fields_by_name[name], getattr(message, name)
    if value if is_repeated(field) else message.HasField(name):
        return
    if name == "type":
        allowed = listed(fields.EXTRACTOR_TYPES)
    else:
        allowed = _fields_of(value) if field.message_type else "at least one value"
    yield Problem(_join(path, name), "is not set", allowed)


def _fields_of(message: Message) -> str:
    return f"{{ ... }} with the fields {listed(message.DESCRIPTOR.fields_by_name)}"
