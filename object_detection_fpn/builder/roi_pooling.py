"""How regions are pooled from the pyramid, from the messages of roi_pooling.proto."""

from __future__ import annotations

import dataclasses

from object_detection_fpn.config import model as model_config
from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import pooler
from object_detection_fpn.ops.crop_and_resize import RoIAlign
from object_detection_fpn.protos import faster_rcnn_pb2, roi_pooling_pb2


def build_roi_pooler(config: faster_rcnn_pb2.FasterRcnn, *, execution: Execution = Execution()) -> pooler.RoIPooler:
    """Levels and RoIAlign of `model.faster_rcnn.roi_pooling`, or crop and max pooling.

    With `context_config`, the finest level alone, as in the Object Detection API, or the levels if `pool_by_level` says so.
    """
    message = config.roi_pooling
    levels = build_roi_levels(message, config.feature_extractor)
    if config.HasField("context_config") and not config.context_config.pool_by_level:
        levels = dataclasses.replace(levels, max_level=levels.min_level)
    if message.HasField("roi_align"):
        return pooler.RoIPooler(levels=levels, roi_align=build_roi_align(message.roi_align), execution=execution)
    return pooler.RoIPooler(
        levels=levels,
        crop_size=config.initial_crop_size,
        pool_size=config.maxpool_kernel_size,
        pool_stride=config.maxpool_stride,
        execution=execution,
    )


def build_roi_levels(
    message: roi_pooling_pb2.RoiPooling, extractor: faster_rcnn_pb2.FasterRcnnFeatureExtractor
) -> pooler.RoILevels:
    """Which level of the features each region is pooled from."""
    min_level, max_level = model_config.feature_levels(extractor)
    return pooler.RoILevels(
        first_level=min_level,
        min_level=message.min_level if message.HasField("min_level") else min_level,
        max_level=message.max_level if message.HasField("max_level") else max_level,
        canonical_level=message.canonical_level if message.HasField("canonical_level") else None,
        canonical_size=message.canonical_size,
        side_epsilon=message.side_epsilon,
        level_epsilon=message.level_epsilon,
    )


def build_roi_align(message: roi_pooling_pb2.RoiAlign, *, output_size: int | None = None) -> RoIAlign:
    """How RoIs are sampled, from `roi_pooling.roi_align`; `output_size` replaces that of the message."""
    return RoIAlign(
        output_size=output_size or message.output_size,
        sampling_ratio=message.sampling_ratio,
        aligned=message.aligned,
        max_static_samples=message.max_static_samples,
    )
