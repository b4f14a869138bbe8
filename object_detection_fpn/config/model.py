"""What the messages of all detectors have, read without naming the detector.

`config.model` sets one detector (`faster_rcnn`, or `ssd`, which is RetinaNet). Everything but the detector's own builder and
rules reads it through these functions: another detector's message is one more line here where a field of it has another name.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from object_detection_fpn.config import tables
from object_detection_fpn.protos import faster_rcnn_pb2, image_resizer_pb2, input_reader_pb2, model_pb2, ssd_pb2

FeatureExtractor: TypeAlias = faster_rcnn_pb2.FasterRcnnFeatureExtractor | ssd_pb2.SsdFeatureExtractor
"""`feature_extractor` of any detector."""

_NUM_COLOURS = 3


def detector_name(model: model_pb2.DetectionModel) -> str:
    """The field of the detector that is set: "faster_rcnn" or "ssd"; the first where none is."""
    return model.WhichOneof("model") or "faster_rcnn"


def detector(model: model_pb2.DetectionModel) -> Any:
    """The message of the detector that is set; with its defaults where none is."""
    return getattr(model, detector_name(model))


def field_path(model: model_pb2.DetectionModel, name: str = "") -> str:
    """The path of a field of the detector, as errors name it: "model.faster_rcnn.num_classes"."""
    return f"model.{detector_name(model)}" + (f".{name}" if name else "")


def num_classes(model: model_pb2.DetectionModel) -> int:
    """Object classes, background not counted."""
    return detector(model).num_classes


def classes_with_masks(model: model_pb2.DetectionModel) -> tuple[int, ...] | None:
    """Ids, as in the label map, of the classes whose masks are learned, of a detector with masks; None for all classes."""
    if not has_masks(model):
        return None
    predictor = model.faster_rcnn.second_stage_box_predictor.mask_rcnn_box_predictor
    return tuple(predictor.mask_transfer.classes_with_masks) if predictor.HasField("mask_transfer") else None


def is_class_agnostic(model: model_pb2.DetectionModel) -> bool:
    """Whether the detector finds objects without telling classes apart: the first stage alone."""
    return getattr(detector(model), "number_of_stages", 2) == 1


def has_masks(model: model_pb2.DetectionModel) -> bool:
    """Whether the detector predicts masks: with a third stage."""
    return getattr(detector(model), "number_of_stages", 2) == 3


def has_stages(model: model_pb2.DetectionModel) -> bool:
    """Whether the detector has `number_of_stages`."""
    return hasattr(detector(model), "number_of_stages")


def why_no_masks(model: model_pb2.DetectionModel) -> str:
    """What keeps a detector from predicting masks, for errors."""
    if has_stages(model):
        return f"{field_path(model, 'number_of_stages')} is not 3"
    return f"{field_path(model)} predicts boxes alone"


def mask_pasting(model: model_pb2.DetectionModel) -> Any:
    """How masks become pixels of an image, the name of an `ops.pasting.MaskPasting`; None for a detector without masks."""
    return faster_rcnn_pb2.FasterRcnn.MaskPasting.Name(detector(model).mask_pasting) if has_masks(model) else None


def context(model: model_pb2.DetectionModel) -> faster_rcnn_pb2.Context | None:
    """What the detector looks at besides the image; None for a detector of single images."""
    message = detector(model)
    has_context = "context_config" in message.DESCRIPTOR.fields_by_name and message.HasField("context_config")
    return message.context_config if has_context else None


def image_resizer(model: model_pb2.DetectionModel) -> image_resizer_pb2.ImageResizer:
    return detector(model).image_resizer


def chosen_resizer(model: model_pb2.DetectionModel) -> tuple[str, Any]:
    """Name and message of the resizer that is set, such as "fixed_shape_resizer"."""
    resizer = image_resizer(model)
    kind = resizer.WhichOneof("image_resizer_oneof")
    return kind, getattr(resizer, kind)


def feature_extractor(model: model_pb2.DetectionModel) -> Any:
    return detector(model).feature_extractor


def is_single_level(message: FeatureExtractor) -> bool:
    """Whether a feature extractor gives one map of stride 16 instead of a pyramid."""
    return message.type in tables.SINGLE_LEVEL_TYPES


def feature_levels(message: FeatureExtractor) -> tuple[int, int]:
    """Finest and coarsest level of what a feature extractor gives."""
    if is_single_level(message):
        return tables.SINGLE_LEVEL, tables.SINGLE_LEVEL
    return message.fpn.min_level, message.fpn.max_level


def num_image_channels(model: model_pb2.DetectionModel, reader: input_reader_pb2.InputReader | None = None) -> int:
    """Channels of the images the detector sees: RGB or gray, and the reader's additional ones."""
    _, resizer = chosen_resizer(model)
    is_gray = getattr(resizer, "convert_to_grayscale", False)
    return (1 if is_gray else _NUM_COLOURS) + (reader.num_additional_channels if reader else 0)
