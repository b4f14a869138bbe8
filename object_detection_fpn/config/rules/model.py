"""Refuses combinations of fields that cannot work: a function per rule.

To refuse one more, add a function to `RULES`, under the message that holds all its fields.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from google.protobuf.message import Message

from object_detection_fpn.config import tables as fields
from object_detection_fpn.config.problems import Problem, join, single, unset
from object_detection_fpn.config.rules import augmentations
from object_detection_fpn.config.text import listed, nearest, split_names
from object_detection_fpn.drawing.boxes import is_color
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

Rule = Callable[[Any, str], Iterable[Problem]]


def _second_stage_is_complete(message: faster_rcnn_pb2.FasterRcnn, path: str) -> Iterator[Problem]:
    if message.number_of_stages != 2:
        return
    for name in fields.SECOND_STAGE:
        yield from unset(message, path, name)
    for name in fields.SECOND_STAGE_SIZES:
        if not message.HasField(name):
            yield Problem(join(path, name), "is not set", "1 or more (usually 14, pooled by 2 with stride 2)")
        elif getattr(message, name) < 1:
            yield single(message, path, name, "is out of range", "1 or more")
    if message.maxpool_kernel_size > message.initial_crop_size > 0:
        crop = message.initial_crop_size
        problem = f"is above initial_crop_size = {crop}"
        yield single(message, path, "maxpool_kernel_size", problem, f"1 to {crop}")


def _no_more_samples_than_proposals(message: faster_rcnn_pb2.FasterRcnn, path: str) -> Iterator[Problem]:
    limit = message.first_stage_max_proposals
    if message.number_of_stages == 2 and message.second_stage_batch_size > limit:
        problem = f"is above first_stage_max_proposals = {limit}"
        yield single(message, path, "second_stage_batch_size", problem, f"1 to {limit}")


def _predictions_have_no_groups(message: box_predictor_pb2.MaskRCNNBoxPredictor, path: str) -> Iterator[Problem]:
    if message.fc_hyperparams.HasField("group_norm"):
        place = f"{path}.fc_hyperparams.group_norm"
        yield Problem(place, "does not fit: predictions are no groups of features", "batch_norm, or to leave it out")


def _suppression_is_one_kind(message: post_processing_pb2.BatchNonMaxSuppression, path: str) -> Iterator[Problem]:
    if not message.change_coordinate_frame:
        problem = (
            "is not supported: detections are relative to the image; multiply them by its size where pixels are needed"
        )
        yield single(message, path, "change_coordinate_frame", problem, "true")
    if message.use_combined_nms and message.use_class_agnostic_nms:
        yield single(message, path, "use_class_agnostic_nms", "does not go with use_combined_nms = true", "false")
    if message.use_combined_nms and message.soft_nms_sigma and not message.use_hard_nms:
        yield single(message, path, "soft_nms_sigma", "does not go with use_combined_nms = true", "0")


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
                yield single(curve.x_y_pair[row], f"{path}.{place}.x_y_pair[{row}]", "x", problem, f"above {before:g}")


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
            yield single(anchors, place, name, f"differs from feature_extractor.fpn.{name} = {expected}", str(expected))


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
    yield single(message, path, "type", problem, listed(known))


def _padding_fits_pyramid(message: faster_rcnn_pb2.FasterRcnnFeatureExtractor, path: str) -> Iterator[Problem]:
    level = min(max(message.fpn.max_level, 0), _BACKBONE_MAX_LEVEL)
    if message.pad_to_multiple < 1 or message.pad_to_multiple % 2**level:
        problem = f"does not fit the levels of the pyramid, whose backbone ends with level {level}"
        yield single(message, path, "pad_to_multiple", problem, f"multiples of {2**level}")


def _levels_exist(message: Message, path: str) -> Iterator[Problem]:
    allowed = pyramid_levels(message)
    if not 2 <= message.min_level <= _BACKBONE_MAX_LEVEL:  # type: ignore[attr-defined]
        yield single(message, path, "min_level", "is out of range", f"2 to {_BACKBONE_MAX_LEVEL}")
    elif message.max_level > 7:  # type: ignore[attr-defined]
        yield single(message, path, "max_level", "is out of range", allowed)


def pyramid_levels(message: Message) -> str:
    """The levels a pyramid may have, where `message` is one."""
    return "2 to 7" if message.DESCRIPTOR.name == "FeaturePyramidNetworks" else ""


def _condition_is_valid(message: Message, path: str) -> Iterator[Problem]:
    if not message.condition:  # type: ignore[attr-defined]
        yield single(message, path, "condition", "is no condition", "GREATER, SMALLER")


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
        yield single(config.eval_config, "eval_config", "use_moving_averages", problem, "false, or true in both")


def _fine_tuning_is_known(message: train_pb2.TrainConfig, path: str) -> Iterator[Problem]:
    known = fields.FINE_TUNE_CHECKPOINT_TYPES
    if message.fine_tune_checkpoint_type not in known:
        yield single(message, path, "fine_tune_checkpoint_type", "is unknown", listed(known[1:]))
    if message.fine_tune_checkpoint == fields.IMAGENET and message.fine_tune_checkpoint_type in ("detection", "full"):
        problem = f'does not fit fine_tune_checkpoint = "{fields.IMAGENET}", which is a backbone'
        yield single(message, path, "fine_tune_checkpoint_type", problem, "classification, or to leave it out")
    # The default is V1, which no TensorFlow 2 config can mean: only V1 in writing is refused.
    version = "fine_tune_checkpoint_version"
    if (
        message.fine_tune_checkpoint
        and message.HasField(version)
        and message.fine_tune_checkpoint_version != train_pb2.V2
    ):
        yield single(message, path, version, "is the format of TensorFlow 1, which cannot be read", "V2")


def _patterns_are_regular_expressions(message: train_pb2.TrainConfig, path: str) -> Iterator[Problem]:
    for name in ("freeze_variables", "update_trainable_variables"):
        for row, pattern in enumerate(getattr(message, name)):
            try:
                re.compile(pattern)
            except re.error as error:
                place = f"{join(path, name)}[{row}]"
                yield Problem(place, f"is no regular expression ({error})", "regular expressions", f'"{pattern}"')


def _parts_fit_batch(message: train_pb2.TrainConfig, path: str) -> Iterator[Problem]:
    num_parts = message.accumulate_gradients
    if num_parts and message.batch_size % num_parts:
        problem = f"cannot be computed in accumulate_gradients = {num_parts} parts of one size"
        yield single(message, path, "batch_size", problem, f"multiples of {num_parts}")


def _gradients_travel_in_known_numbers(message: train_pb2.TrainConfig, path: str) -> Iterator[Problem]:
    if message.all_reduce_precision == train_pb2.FLOAT16:
        problem = "cannot hold the gradients of every model, whose range is that of float32"
        yield single(message, path, "all_reduce_precision", problem, "BFLOAT16, FLOAT32")


def _augmentations_fit(config: pipeline_pb2.TrainEvalPipelineConfig, path: str) -> Iterator[Problem]:
    for found in augmentations.find_problems(config):
        yield Problem(*found)


def _schedule_ascends(message: Message, path: str) -> Iterator[Problem]:
    previous = -1
    for row, change in enumerate(message.schedule):  # type: ignore[attr-defined]
        if change.step <= previous:
            yield single(
                change, f"{path}.schedule[{row}]", "step", "is not after the one before", f"{previous + 1} or more"
            )
        previous = change.step


def _warmup_fits(message: Any, path: str) -> Iterator[Problem]:
    before = message.warmup_steps + message.hold_base_rate_steps
    if before > message.total_steps:
        problem = f"is below warmup_steps + hold_base_rate_steps = {before}"
        yield single(message, path, "total_steps", problem, f"{before} or more")
    if message.warmup_steps and message.warmup_learning_rate > message.learning_rate_base:
        base = f"{message.learning_rate_base:g}"
        problem = f"is above learning_rate_base = {base}"
        yield single(message, path, "warmup_learning_rate", problem, f"0 to {base}, or warmup_steps: 0")


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
        yield single(message, path, name, "is no colour", 'HTML names such as "black", "DarkOrange", "Chartreuse"')


def _scores_are_loaded(config: pipeline_pb2.TrainEvalPipelineConfig, path: str) -> Iterator[Problem]:
    if config.train_config.use_multiclass_scores and not config.train_input_reader.load_multiclass_scores:
        problem = "needs the scores of the records: train_input_reader.load_multiclass_scores is false"
        yield single(config.train_config, "train_config", "use_multiclass_scores", problem, "false, or true in both")


def _crop_comes_first(config: pipeline_pb2.TrainEvalPipelineConfig, path: str) -> Iterator[Problem]:
    reader, steps = config.train_input_reader, config.train_config.data_augmentation_options
    first = steps[0].WhichOneof("preprocessing_step") if steps else None
    if reader.decode_and_crop and first != "random_crop_image":
        problem = f"needs random_crop_image as the first of train_config.data_augmentation_options, which is {first or 'empty'}"
        yield single(reader, "train_input_reader", "decode_and_crop", problem, "false, or that step in front")


def _records_are_examples(message: input_reader_pb2.InputReader, path: str) -> Iterator[Problem]:
    if message.input_type == input_reader_pb2.TF_SEQUENCE_EXAMPLE:
        problem = "is not supported: write one tf.Example per frame instead"
        yield single(message, path, "input_type", problem, "TF_EXAMPLE")


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
        yield single(message, path, "cache_dir", problem, "a folder beside cache: DISK, else nothing")


def _channels_fit_image(message: input_reader_pb2.InputReader, path: str) -> Iterator[Problem]:
    if message.jpeg_min_side and message.num_additional_channels:
        problem = "would decode images smaller than the additional channels"
        yield single(message, path, "jpeg_min_side", problem, "0 beside num_additional_channels")
    for name in ("jpeg_min_side", "num_additional_channels"):
        if message.decode_and_crop and getattr(message, name):
            yield single(message, path, "decode_and_crop", f"does not go with {name}", f"false, or {name}: 0")


RULES: dict[str, tuple[Rule, ...]] = {
    "TrainEvalPipelineConfig": (
        _padding_colour_has_all_channels,
        _averages_exist,
        _scores_are_loaded,
        _augmentations_fit,
        _crop_comes_first,
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
