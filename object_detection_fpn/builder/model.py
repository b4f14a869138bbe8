"""The detector, from `model` of a pipeline config."""

from __future__ import annotations

from collections.abc import Callable

from object_detection_fpn.builder.faster_rcnn import build_faster_rcnn
from object_detection_fpn.builder.retinanet import build_retinanet
from object_detection_fpn.config import model as model_config
from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling.detector import Detector
from object_detection_fpn.protos import input_reader_pb2, model_pb2, pipeline_pb2

DETECTORS: dict[str, Callable[..., Detector]] = {
    "faster_rcnn": build_faster_rcnn,
    "ssd": build_retinanet,
}
"""Called with the message of that name, `execution` and `num_channels`."""


def build_model(
    message: model_pb2.DetectionModel, *, execution: Execution = Execution(), num_channels: int = 3
) -> Detector:
    """Builds the detector with all its variables.

    Args:
        message: `model` of a pipeline config.
        execution: how it is computed.
        num_channels: channels of the images.
    """
    kind = message.WhichOneof("model")
    return DETECTORS[kind](getattr(message, kind), execution=execution, num_channels=num_channels)


def build_detector(
    config: pipeline_pb2.TrainEvalPipelineConfig, reader: input_reader_pb2.InputReader, *, execution: Execution
) -> Detector:
    """Builds the detector of a checked config for the images of a reader, some of whose channels may be additional."""
    num_channels = model_config.num_image_channels(config.model, reader)
    return build_model(config.model, execution=execution, num_channels=num_channels)
