"""Refuses combinations of fields of `model` that cannot work."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from google.protobuf.message import Message

from object_detection_fpn.config import model as model_config
from object_detection_fpn.config import tables as fields
from object_detection_fpn.config.problems import Problem, Rule, join, single, unset
from object_detection_fpn.config.text import listed, nearest
from object_detection_fpn.protos import (
    box_predictor_pb2,
    calibration_pb2,
    faster_rcnn_pb2,
    losses_pb2,
    pipeline_pb2,
    post_processing_pb2,
)

_BACKBONE_MAX_LEVEL = 5  # a ResNet's last stage; coarser levels are made by the pyramid

_NUM_GROUPS = 32  # of group normalization, see `modeling.layers`


def _second_stage_is_complete(message: faster_rcnn_pb2.FasterRcnn, path: str) -> Iterator[Problem]:
    if message.number_of_stages < 2:
        return
    for name in fields.SECOND_STAGE:
        yield from unset(message, path, name)
    if message.roi_pooling.HasField("roi_align"):
        return  # which has its own size
    for name in fields.SECOND_STAGE_SIZES:
        if not message.HasField(name):
            yield Problem(join(path, name), "is not set", "1 or more (usually 14, pooled by 2 with stride 2)")
        elif getattr(message, name) < 1:
            yield single(message, path, name, "is out of range", "1 or more")
    if message.maxpool_kernel_size > message.initial_crop_size > 0:
        crop = message.initial_crop_size
        problem = f"is above initial_crop_size = {crop}"
        yield single(message, path, "maxpool_kernel_size", problem, f"1 to {crop}")


def _head_is_of_regions(message: faster_rcnn_pb2.FasterRcnn, path: str) -> Iterator[Problem]:
    kind = message.second_stage_box_predictor.WhichOneof("box_predictor_oneof")
    if kind not in (None, "mask_rcnn_box_predictor"):
        problem = "does not go with Faster R-CNN, whose head sees pooled features"
        yield Problem(f"{path}.second_stage_box_predictor.{kind}", problem, "mask_rcnn_box_predictor instead")


def _rois_are_pooled_from_pyramid(message: faster_rcnn_pb2.FasterRcnn, path: str) -> Iterator[Problem]:
    pyramid = message.feature_extractor.fpn
    if not message.feature_extractor.HasField("fpn"):
        return  # said elsewhere
    levels = f"{pyramid.min_level} to {pyramid.max_level}"
    for field in ("roi_pooling", "mask_roi_pooling"):
        pooling = getattr(message, field)
        for name in ("min_level", "max_level"):
            if pooling.HasField(name) and not pyramid.min_level <= getattr(pooling, name) <= pyramid.max_level:
                yield single(pooling, join(path, field), name, "is no level of feature_extractor.fpn", levels)


def _predictions_have_no_groups(message: box_predictor_pb2.MaskRCNNBoxPredictor, path: str) -> Iterator[Problem]:
    if message.fc_hyperparams.HasField("group_norm"):
        place = f"{path}.fc_hyperparams.group_norm"
        yield Problem(place, "does not fit: predictions are no groups of features", "batch_norm, or to leave it out")


def _hidden_layers_are_specified(message: box_predictor_pb2.MaskRCNNBoxPredictor, path: str) -> Iterator[Problem]:
    if message.num_convolutions > 0 and not message.HasField("hidden_hyperparams"):
        yield single(message, path, "num_convolutions", "needs hidden_hyperparams", "0, or hidden_hyperparams { }")
    has_groups = message.num_convolutions > 0 and message.hidden_hyperparams.HasField("group_norm")
    if has_groups and message.convolution_depth % _NUM_GROUPS:
        problem = "does not go with hidden_hyperparams.group_norm"
        yield single(message, path, "convolution_depth", problem, f"multiples of {_NUM_GROUPS}")


def _box_losses_fit(message: faster_rcnn_pb2.FasterRcnn, path: str) -> Iterator[Problem]:
    num_weights, num_classes = len(message.second_stage_class_weights), message.num_classes
    if num_weights not in (0, num_classes + 1):
        place = join(path, "second_stage_class_weights")
        allowed = f"{num_classes + 1} for num_classes = {num_classes}, background first"
        yield Problem(place, f"has {num_weights} values", allowed)
    kind = message.second_stage_classification_loss.WhichOneof("classification_loss")
    if message.second_stage_label_smoothing and kind == "weighted_logits_softmax":
        problem = "does not go with second_stage_classification_loss.weighted_logits_softmax"
        yield single(message, path, "second_stage_label_smoothing", problem, "0")
    is_configured = message.second_stage_loss_normalization == losses_pb2.CONFIGURED
    if is_configured and message.HasField("hard_example_miner"):
        name = "second_stage_loss_normalization"
        yield Problem(join(path, name), "does not go with hard_example_miner", "PER_IMAGE, BATCH", "CONFIGURED")


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
    if message.min_box_side and not message.clip_before_suppression:
        yield single(message, path, "min_box_side", "needs clip_before_suppression = true", "0")


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
    post_processing = message.second_stage_post_processing
    return find_calibrated_classes(post_processing, join(path, "second_stage_post_processing"), message.num_classes)


def find_calibrated_classes(
    message: post_processing_pb2.PostProcessing, path: str, num_classes: int
) -> Iterator[Problem]:
    """Calibrations of classes that a detector does not have."""
    config = message.calibration_config
    maps = {
        "class_id_function_approximations.class_id_xy_pairs_map": config.class_id_function_approximations,
        "class_id_sigmoid_calibrations.class_id_sigmoid_parameters_map": config.class_id_sigmoid_calibrations,
    }
    for name, calibrations in maps.items():
        for class_id in sorted(getattr(calibrations, name.rpartition(".")[2])):
            if not 0 <= class_id <= num_classes:
                place = f"{path}.calibration_config.{name}"
                allowed = f"0 (background) to num_classes = {num_classes}"
                yield Problem(place, "names a class that does not exist", allowed, str(class_id))


def _anchors_fit_pyramid(message: faster_rcnn_pb2.FasterRcnn, path: str) -> Iterator[Problem]:
    anchors, pyramid = message.first_stage_anchor_generator.multiscale_anchor_generator, message.feature_extractor.fpn
    kind = message.first_stage_anchor_generator.WhichOneof("anchor_generator_oneof")
    if not message.feature_extractor.HasField("fpn") or kind != "multiscale_anchor_generator":
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
    if f"{base}_keras" in fields.SINGLE_LEVEL_TYPES:
        problem = f'is of TensorFlow 1: write "{base}_keras", or another that is allowed'
    elif base in fields.EXTRACTORS_ELSEWHERE:
        generation = "has" if name.endswith("_keras") else "is of TensorFlow 1 and has"
        like = "faster_rcnn_resnet50_fpn_keras"
        problem = f'{generation} a backbone that is not here: write "{like}", or another that is allowed'
    elif name in fields.SSD_EXTRACTOR_TYPES:
        problem = "is of a RetinaNet, whose model is ssd and not faster_rcnn"
    yield single(message, path, "type", problem, listed(known))


def _padding_fits_pyramid(message: faster_rcnn_pb2.FasterRcnnFeatureExtractor, path: str) -> Iterator[Problem]:
    if model_config.is_single_level(message):
        return  # which needs none
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
    resizer = model_config.image_resizer(config.model).keep_aspect_ratio_resizer
    channels = 3 + config.train_input_reader.num_additional_channels  # gray comes after padding
    if len(resizer.per_channel_pad_value) not in (0, channels):
        place = model_config.field_path(config.model, "image_resizer.keep_aspect_ratio_resizer.per_channel_pad_value")
        yield Problem(place, f"has {len(resizer.per_channel_pad_value)} values", f"{channels}, one a channel")


RULES: dict[str, tuple[Rule, ...]] = {
    "TrainEvalPipelineConfig": (_padding_colour_has_all_channels,),
    "FasterRcnn": (
        _second_stage_is_complete,
        _head_is_of_regions,
        _rois_are_pooled_from_pyramid,
        _anchors_fit_pyramid,
        _calibrated_classes_exist,
        _box_losses_fit,
    ),
    "FasterRcnnFeatureExtractor": (
        _extractor_is_known,
        _padding_fits_pyramid,
    ),
    "FeaturePyramidNetworks": (_levels_exist,),
    "MaskRCNNBoxPredictor": (_predictions_have_no_groups, _hidden_layers_are_specified),
    "BatchNonMaxSuppression": (_suppression_is_one_kind,),
    "CalibrationConfig": (_calibration_is_a_function,),
    "ConditionalShapeResizer": (_condition_is_valid,),
}
