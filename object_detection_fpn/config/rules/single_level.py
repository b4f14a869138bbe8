"""Refuses fields of a feature pyramid without one, and fields of a single level with one; names those without effect."""

from __future__ import annotations

from collections.abc import Iterator

from object_detection_fpn.config import model as model_config
from object_detection_fpn.config import tables
from object_detection_fpn.config.problems import Problem, Rule, join, single, unset
from object_detection_fpn.protos import faster_rcnn_pb2, pipeline_pb2

_STRIDE = 2**tables.SINGLE_LEVEL
_HEAD = "second_stage_box_predictor.mask_rcnn_box_predictor"
_BOX_LAYERS = ("num_convolutions", "convolution_depth", "num_dense_layers", "dense_depth", "hidden_hyperparams")
_ABSENT = "to leave it out"
_OVERRIDE = "override_base_feature_extractor_hyperparams"


def _what_it_is(message: faster_rcnn_pb2.FasterRcnnFeatureExtractor) -> str:
    return f'feature_extractor.type = "{message.type}"'


def _features_are_described(message: faster_rcnn_pb2.FasterRcnnFeatureExtractor, path: str) -> Iterator[Problem]:
    if not model_config.is_single_level(message):
        for name in ("conv_hyperparams", "fpn"):
            yield from unset(message, path, name)
        return
    if message.HasField("fpn"):
        like = message.type.replace("_keras", "_fpn_keras")
        problem = f'does not go with type = "{message.type}", which has no pyramid ("{like}" has one)'
        yield Problem(join(path, "fpn"), problem, _ABSENT)
    if message.HasField("conv_hyperparams") and not getattr(message, _OVERRIDE):
        problem = f'has no layers to build: type = "{message.type}" has no pyramid, and {_OVERRIDE} is not set'
        yield Problem(join(path, "conv_hyperparams"), problem, f"to leave it out, or {_OVERRIDE}: true")
    if message.first_stage_features_stride != _STRIDE:
        problem = f'does not go with type = "{message.type}"'
        yield single(message, path, "first_stage_features_stride", problem, str(_STRIDE))


def _anchors_fit_features(message: faster_rcnn_pb2.FasterRcnn, path: str) -> Iterator[Problem]:
    kind = message.first_stage_anchor_generator.WhichOneof("anchor_generator_oneof")
    is_single = model_config.is_single_level(message.feature_extractor)
    wanted = "grid_anchor_generator" if is_single else "multiscale_anchor_generator"
    if kind in (None, wanted) or not message.feature_extractor.type:
        return  # said elsewhere
    serves = "each level of a pyramid" if is_single else "one feature map"
    problem = f"serves {serves} and does not go with {_what_it_is(message.feature_extractor)}"
    yield Problem(f"{join(path, 'first_stage_anchor_generator')}.{kind}", problem, f"{wanted} instead")


def _second_stage_is_of_backbone(message: faster_rcnn_pb2.FasterRcnn, path: str) -> Iterator[Problem]:
    if not model_config.is_single_level(message.feature_extractor):
        return
    what = _what_it_is(message.feature_extractor)
    for name in ("min_level", "max_level"):
        if message.roi_pooling.HasField(name) and getattr(message.roi_pooling, name) != tables.SINGLE_LEVEL:
            place, problem = join(path, "roi_pooling"), f"is no level of {what}"
            yield single(message.roi_pooling, place, name, problem, str(tables.SINGLE_LEVEL))
    if message.HasField("mask_roi_pooling"):
        problem = f"does not go with {what}: masks are predicted from the cells that the box head sees"
        yield Problem(join(path, "mask_roi_pooling"), problem, _ABSENT)
    head = message.second_stage_box_predictor.mask_rcnn_box_predictor
    for name in _BOX_LAYERS:
        if head.HasField(name):
            problem = f"does not go with {what}: the layers of the box head are the backbone's last stage"
            yield Problem(f"{join(path, _HEAD)}.{name}", problem, _ABSENT)


def ineffective(config: pipeline_pb2.TrainEvalPipelineConfig) -> Iterator[Problem]:
    """Fields of a pyramid's extractor that say nothing without one, as in the Object Detection API."""
    message = model_config.feature_extractor(config.model)
    if not isinstance(message, faster_rcnn_pb2.FasterRcnnFeatureExtractor) or not model_config.is_single_level(message):
        return
    place, what = model_config.field_path(config.model, "feature_extractor"), f'type = "{message.type}"'
    if message.HasField("pad_to_multiple"):
        yield single(message, place, "pad_to_multiple", f"has no effect: {what} needs no padding")
    if getattr(message, _OVERRIDE) and not message.HasField("conv_hyperparams"):
        yield single(message, place, _OVERRIDE, f"has no effect: {what} has no conv_hyperparams")


RULES: dict[str, tuple[Rule, ...]] = {
    "FasterRcnn": (_anchors_fit_features, _second_stage_is_of_backbone),
    "FasterRcnnFeatureExtractor": (_features_are_described,),
}
