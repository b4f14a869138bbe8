"""Refuses combinations of fields of RetinaNet (`ssd`) that cannot work, and what single-stage detectors elsewhere have."""

from __future__ import annotations

from collections.abc import Iterator

from object_detection_fpn.config import tables as fields
from object_detection_fpn.config.problems import Problem, Rule, join, single
from object_detection_fpn.config.rules.model import find_calibrated_classes
from object_detection_fpn.config.text import listed, nearest
from object_detection_fpn.protos import box_predictor_pb2, matcher_pb2, ssd_pb2

_MIN_SIDE = 129  # pixels of an image, which the Object Detection API asks for
_NUM_GROUPS = 32  # of group normalization, see `modeling.layers`
_ABSENT = "to leave it out"


def _extractor_is_known(message: ssd_pb2.SsdFeatureExtractor, path: str) -> Iterator[Problem]:
    known, name = fields.SSD_EXTRACTOR_TYPES, message.type
    if name in known or not message.HasField("type"):
        return
    problem = f"is unknown{nearest(name, known)}"
    if f"{name}_keras" in known:
        problem = f'is of TensorFlow 1: write "{name}_keras", or another that is allowed'
    elif name.startswith(fields.SSD_EXTRACTORS_ELSEWHERE):
        problem = 'has a backbone that is not here: write "ssd_resnet50_v1_fpn_keras", or another that is allowed'
    elif name.removesuffix("_keras") in {kind.removesuffix("_keras").replace("_fpn", "_ppn") for kind in known}:
        problem = "has a pooling pyramid, which is not here"
    elif name in fields.EXTRACTOR_TYPES:
        problem = "is of a Faster R-CNN, whose model is faster_rcnn and not ssd"
    yield single(message, path, "type", problem, listed(known))


def _parts_are_of_one_stage(message: ssd_pb2.Ssd, path: str) -> Iterator[Problem]:
    wanted = {
        "box_predictor": ("box_predictor_oneof", "weight_shared_convolutional_box_predictor"),
        "anchor_generator": ("anchor_generator_oneof", "multiscale_anchor_generator"),
    }
    for name, (oneof, kind) in wanted.items():
        found = getattr(message, name).WhichOneof(oneof)
        if found not in (None, kind):
            problem = "does not go with a single-stage detector on a pyramid"
            yield Problem(f"{join(path, name)}.{found}", problem, f"{kind} instead")


def _anchors_fit_pyramid(message: ssd_pb2.Ssd, path: str) -> Iterator[Problem]:
    if message.anchor_generator.WhichOneof("anchor_generator_oneof") != "multiscale_anchor_generator":
        return  # said elsewhere
    anchors, pyramid = message.anchor_generator.multiscale_anchor_generator, message.feature_extractor.fpn
    place = join(path, "anchor_generator.multiscale_anchor_generator")
    for name in ("min_level", "max_level") if message.feature_extractor.HasField("fpn") else ():
        expected = getattr(pyramid, name)
        if getattr(anchors, name) != expected:
            yield single(anchors, place, name, f"differs from feature_extractor.fpn.{name} = {expected}", str(expected))
    if not anchors.normalize_coordinates:
        problem = (
            "does not fit: the Object Detection API would compare anchors in pixels with boxes relative to the image"
        )
        yield single(anchors, place, "normalize_coordinates", problem, "true")


def _images_are_large_enough(message: ssd_pb2.Ssd, path: str) -> Iterator[Problem]:
    kind = message.image_resizer.WhichOneof("image_resizer_oneof")
    sides = {
        "fixed_shape_resizer": ("height", "width"),
        "keep_aspect_ratio_resizer": ("min_dimension", "max_dimension"),
    }
    for name in sides.get(kind, ()):
        resizer = getattr(message.image_resizer, kind)
        is_padded = kind == "keep_aspect_ratio_resizer" and resizer.pad_to_max_dimension and name == "min_dimension"
        if getattr(resizer, name) < _MIN_SIDE and not is_padded:
            problem = "is too small for the levels of the pyramid, as the Object Detection API says"
            yield single(resizer, f"{join(path, 'image_resizer')}.{kind}", name, problem, f"{_MIN_SIDE} or more")


def _background_has_a_target(message: ssd_pb2.Ssd, path: str) -> Iterator[Problem]:
    if not message.add_background_class and not message.encode_background_as_zeros:
        problem = "needs a column for the background: add_background_class = false"
        yield single(message, path, "encode_background_as_zeros", problem, "true")
    if not message.add_background_class and message.background_competes:
        problem = "needs a column for the background: add_background_class = false"
        yield single(message, path, "background_competes", problem, "false")


def _losses_fit(message: ssd_pb2.Ssd, path: str) -> Iterator[Problem]:
    kind = message.loss.classification_loss.WhichOneof("classification_loss")
    if kind == "weighted_logits_softmax":
        place = join(path, "loss.classification_loss.weighted_logits_softmax")
        yield Problem(place, "does not go with the targets of anchors, which are no logits", "weighted_sigmoid_focal")


def _normalization_is_used(message: ssd_pb2.Ssd, path: str) -> Iterator[Problem]:
    if message.HasField("loss_normalization") and not message.normalize_loss_by_num_matches:
        problem = "does not go with normalize_loss_by_num_matches = false"
        yield single(message, path, "loss_normalization", problem, _ABSENT)
    if message.HasField("low_quality_matches") and not message.matcher.argmax_matcher.force_match_for_each_row:
        problem = "needs matcher.argmax_matcher.force_match_for_each_row = true"
        yield single(message, path, "low_quality_matches", problem, _ABSENT)


def _calibrated_classes_exist(message: ssd_pb2.Ssd, path: str) -> Iterator[Problem]:
    return find_calibrated_classes(message.post_processing, join(path, "post_processing"), message.num_classes)


def _thresholds_are_in_order(message: matcher_pb2.ArgMaxMatcher, path: str) -> Iterator[Problem]:
    limit = message.matched_threshold
    if message.unmatched_threshold > limit:
        problem = f"is above matched_threshold = {limit:g}"
        yield single(message, path, "unmatched_threshold", problem, f"0 to {limit:g}")
    elif message.unmatched_threshold == limit and not message.negatives_lower_than_unmatched:
        problem = "leaves no background: unmatched_threshold is matched_threshold"
        yield single(message, path, "negatives_lower_than_unmatched", problem, "true")


def _head_can_be_built(
    message: box_predictor_pb2.WeightSharedConvolutionalBoxPredictor, path: str
) -> Iterator[Problem]:
    if message.conv_hyperparams.HasField("group_norm") and message.depth % _NUM_GROUPS:
        problem = "does not go with conv_hyperparams.group_norm"
        yield single(message, path, "depth", problem, f"multiples of {_NUM_GROUPS}")
    limits = message.box_encodings_clip_range
    if message.HasField("box_encodings_clip_range") and limits.max < limits.min:
        place = join(path, "box_encodings_clip_range")
        yield single(limits, place, "max", f"is below min = {limits.min:g}", f"{limits.min:g} or more")


RULES: dict[str, tuple[Rule, ...]] = {
    "Ssd": (
        _parts_are_of_one_stage,
        _anchors_fit_pyramid,
        _images_are_large_enough,
        _background_has_a_target,
        _losses_fit,
        _normalization_is_used,
        _calibrated_classes_exist,
    ),
    "SsdFeatureExtractor": (_extractor_is_known,),
    "ArgMaxMatcher": (_thresholds_are_in_order,),
    "WeightSharedConvolutionalBoxPredictor": (_head_can_be_built,),
}
