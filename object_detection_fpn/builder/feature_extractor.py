"""Backbone and feature pyramid, from `feature_extractor`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from object_detection_fpn.builder.layer_spec import build_layer_spec
from object_detection_fpn.config import model as model_config
from object_detection_fpn.config import tables
from object_detection_fpn.config.model import FeatureExtractor as Message
from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import fpn, layers, single_level
from object_detection_fpn.modeling.backbones import backbone, resnet_v1
from object_detection_fpn.protos import backbone_pb2, faster_rcnn_pb2, fpn_pb2

BACKBONES: dict[str, Callable[..., backbone.Backbone]] = {
    "faster_rcnn_resnet18_fpn_keras": functools.partial(resnet_v1.resnet_v1_small, 18),
    "faster_rcnn_resnet34_fpn_keras": functools.partial(resnet_v1.resnet_v1_small, 34),
    "faster_rcnn_resnet50_fpn_keras": functools.partial(resnet_v1.resnet_v1, 50),
    "faster_rcnn_resnet101_fpn_keras": functools.partial(resnet_v1.resnet_v1, 101),
    "faster_rcnn_resnet152_fpn_keras": functools.partial(resnet_v1.resnet_v1, 152),
    "faster_rcnn_resnet18_keras": functools.partial(resnet_v1.resnet_v1_small, 18),
    "faster_rcnn_resnet34_keras": functools.partial(resnet_v1.resnet_v1_small, 34),
    "faster_rcnn_resnet50_keras": functools.partial(resnet_v1.resnet_v1, 50),
    "faster_rcnn_resnet101_keras": functools.partial(resnet_v1.resnet_v1, 101),
    "faster_rcnn_resnet152_keras": functools.partial(resnet_v1.resnet_v1, 152),
    "ssd_resnet18_v1_fpn_keras": functools.partial(resnet_v1.resnet_v1_small, 18),
    "ssd_resnet34_v1_fpn_keras": functools.partial(resnet_v1.resnet_v1_small, 34),
    "ssd_resnet50_v1_fpn_keras": functools.partial(resnet_v1.resnet_v1, 50),
    "ssd_resnet101_v1_fpn_keras": functools.partial(resnet_v1.resnet_v1, 101),
    "ssd_resnet152_v1_fpn_keras": functools.partial(resnet_v1.resnet_v1, 152),
}

_BACKBONE_MAX_LEVEL = 5  # a ResNet's last stage


def build_feature_extractor(
    message: Message,
    *,
    execution: Execution = Execution(),
    num_channels: int = 3,
    freeze_statistics: bool | None = None,
) -> fpn.FeatureExtractor:
    """Backbone and pyramid of `feature_extractor`, or the backbone up to the one map that it gives.

    Args:
        message: `feature_extractor` of a detector.
        execution: how it is computed.
        num_channels: channels of the images.
        freeze_statistics: whether batch normalization keeps its moving statistics; None: as `batch_norm_trainable` says.
    """
    pyramid_spec = _build_pyramid_spec(message, execution, freeze_statistics)
    if model_config.is_single_level(message):
        level = tables.SINGLE_LEVEL
        return _make_single_level(build_backbone(message, pyramid_spec, max_level=level, num_channels=num_channels))
    max_level = min(message.fpn.max_level, _BACKBONE_MAX_LEVEL)
    network = build_backbone(message, pyramid_spec, max_level=max_level, num_channels=num_channels)
    return fpn.FeatureExtractor(
        backbone=network,
        fpn=build_pyramid(message.fpn, network.num_filters, pyramid_spec, min_depth=getattr(message, "min_depth", 1)),
        pad_to_multiple=message.pad_to_multiple,
    )


def build_both_stages(
    message: faster_rcnn_pb2.FasterRcnnFeatureExtractor,
    *,
    in_size: int,
    execution: Execution = Execution(),
    num_channels: int = 3,
) -> tuple[fpn.FeatureExtractor, single_level.LastStage]:
    """A backbone without pyramid: what it makes of images, and its last stage, for regions of `in_size` cells a side."""
    spec = _build_pyramid_spec(message, execution)
    whole = build_backbone(message, spec, max_level=_BACKBONE_MAX_LEVEL, num_channels=num_channels)
    network, stage = whole.split_last_stage()
    is_frozen = whole.frozen_stages > len(network.levels) + 1
    last_stage = single_level.LastStage(stage, in_size=in_size, is_frozen=is_frozen, dtype=spec.dtype)
    return _make_single_level(network), last_stage


def _make_single_level(network: backbone.Backbone) -> fpn.FeatureExtractor:
    pyramid = single_level.SingleLevel(in_filters=network.num_filters, level=tables.SINGLE_LEVEL)
    return fpn.FeatureExtractor(backbone=network, fpn=pyramid, pad_to_multiple=1)


def _build_pyramid_spec(
    message: Message, execution: Execution, freeze_statistics: bool | None = None
) -> layers.LayerSpec:
    if freeze_statistics is None:
        assert isinstance(message, faster_rcnn_pb2.FasterRcnnFeatureExtractor)
        freeze_statistics = not message.batch_norm_trainable
    return build_layer_spec(message.conv_hyperparams, freeze_statistics=freeze_statistics, execution=execution)


def build_backbone(
    message: Message,
    pyramid_spec: layers.LayerSpec,
    *,
    max_level: int,
    num_channels: int = 3,
) -> backbone.Backbone:
    """The backbone of `feature_extractor` up to a level; `pyramid_spec` is that of its pyramid."""
    base = resnet_v1.DEFAULT_SPEC
    is_single = model_config.is_single_level(message)
    if message.override_base_feature_extractor_hyperparams and (message.HasField("conv_hyperparams") or not is_single):
        base = pyramid_spec
    elif is_single:
        base = dataclasses.replace(base, regularizer=None)  # as in the Object Detection API
    spec = dataclasses.replace(
        base,
        freeze_statistics=pyramid_spec.freeze_statistics,
        has_large_maps=False,  # of those with many channels
        execution=pyramid_spec.execution,
    )
    # Only what is set: not every backbone has these choices.
    settings: dict[str, Any] = {
        name: getattr(message.resnet, name)
        for name in ("stride_in_3x3", "symmetric_padding", "frozen_stages")
        if getattr(message.resnet, name)
    }
    if message.HasField("pixel_normalization"):
        settings["pixels"] = build_pixel_normalization(message.pixel_normalization)
    return BACKBONES[message.type](
        max_level=max_level,
        num_channels=num_channels,
        spec=build_backbone_norm(message.resnet, spec),
        **settings,
    )


def build_backbone_norm(message: backbone_pb2.ResNet, spec: layers.LayerSpec) -> layers.LayerSpec:
    """A specification of a ResNet's layers, its batch normalization changed as `resnet` says."""
    norm = spec.norm
    if not isinstance(norm, layers.BatchNormSpec):
        return spec
    if message.HasField("batch_norm_epsilon"):
        norm = dataclasses.replace(norm, epsilon=message.batch_norm_epsilon)
    if message.batch_norm == backbone_pb2.ResNet.FROZEN:
        norm = dataclasses.replace(norm, trainable=False)
    elif message.batch_norm != backbone_pb2.ResNet.AS_CONFIGURED:
        synchronized = message.batch_norm == backbone_pb2.ResNet.SYNCHRONIZED
        norm = dataclasses.replace(norm, freeze_statistics=False, synchronized=synchronized)
        spec = dataclasses.replace(spec, freeze_statistics=False)
    return dataclasses.replace(spec, norm=norm)


def build_pixel_normalization(message: backbone_pb2.PixelNormalization) -> backbone.PixelNormalization:
    """What `pixel_normalization` says."""
    return backbone.PixelNormalization(
        mean=tuple(message.mean),
        stddev=tuple(message.stddev),
        is_bgr=message.channel_order == backbone_pb2.PixelNormalization.BGR,
    )


def build_pyramid(
    message: fpn_pb2.FeaturePyramidNetworks, in_filters: dict[int, int], spec: layers.LayerSpec, *, min_depth: int = 1
) -> fpn.Pyramid:
    """The pyramid of `fpn`, with `min_depth` channels or more, on a backbone whose levels have `in_filters` channels."""
    make: Callable[..., fpn.Pyramid] = fpn.FPN
    if message.style == fpn_pb2.FeaturePyramidNetworks.PAPER:
        coarse_levels = fpn_pb2.FeaturePyramidNetworks.CoarseLevels.Name(message.coarse_levels)
        make = functools.partial(fpn.PaperFPN, coarse_levels=fpn.CoarseLevels[coarse_levels])
    return make(
        in_filters=in_filters,
        min_level=message.min_level,
        max_level=message.max_level,
        num_filters=max(message.additional_layer_depth, min_depth),
        spec=spec,
    )
