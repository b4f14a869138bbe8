"""Backbone and feature pyramid, from `feature_extractor`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from object_detection_fpn.builder.layer_spec import build_layer_spec
from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import fpn, layers
from object_detection_fpn.modeling.backbones import backbone, resnet_v1
from object_detection_fpn.protos import backbone_pb2, faster_rcnn_pb2, fpn_pb2

BACKBONES: dict[str, Callable[..., backbone.Backbone]] = {
    "faster_rcnn_resnet18_fpn_keras": functools.partial(resnet_v1.resnet_v1_small, 18),
    "faster_rcnn_resnet34_fpn_keras": functools.partial(resnet_v1.resnet_v1_small, 34),
    "faster_rcnn_resnet50_fpn_keras": functools.partial(resnet_v1.resnet_v1, 50),
    "faster_rcnn_resnet101_fpn_keras": functools.partial(resnet_v1.resnet_v1, 101),
    "faster_rcnn_resnet152_fpn_keras": functools.partial(resnet_v1.resnet_v1, 152),
}


def build_feature_extractor(
    message: faster_rcnn_pb2.FasterRcnnFeatureExtractor,
    *,
    execution: Execution = Execution(),
    num_channels: int = 3,
) -> fpn.FeatureExtractor:
    """Backbone and pyramid of `model.faster_rcnn.feature_extractor`."""
    pyramid_spec = build_layer_spec(
        message.conv_hyperparams, freeze_statistics=not message.batch_norm_trainable, execution=execution
    )
    network = build_backbone(message, pyramid_spec, num_channels=num_channels)
    return fpn.FeatureExtractor(
        backbone=network,
        fpn=build_pyramid(message.fpn, network.num_filters, pyramid_spec),
        pad_to_multiple=message.pad_to_multiple,
    )


def build_backbone(
    message: faster_rcnn_pb2.FasterRcnnFeatureExtractor, pyramid_spec: layers.LayerSpec, *, num_channels: int = 3
) -> backbone.Backbone:
    """The backbone of `feature_extractor`; `pyramid_spec` is that of its pyramid."""
    overridden = message.override_base_feature_extractor_hyperparams
    spec = dataclasses.replace(
        pyramid_spec if overridden else resnet_v1.DEFAULT_SPEC,
        freeze_statistics=pyramid_spec.freeze_statistics,
        execution=dataclasses.replace(pyramid_spec.execution, winograd=False),  # its maps of many channels gain nothing
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
        max_level=min(message.fpn.max_level, 5),
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
    message: fpn_pb2.FeaturePyramidNetworks, in_filters: dict[int, int], spec: layers.LayerSpec
) -> fpn.Pyramid:
    """The pyramid of `fpn`, on a backbone whose levels have `in_filters` channels."""
    make: Callable[..., fpn.Pyramid] = fpn.FPN
    if message.style == fpn_pb2.FeaturePyramidNetworks.PAPER:
        coarse_levels = fpn_pb2.FeaturePyramidNetworks.CoarseLevels.Name(message.coarse_levels)
        make = functools.partial(fpn.PaperFPN, coarse_levels=fpn.CoarseLevels[coarse_levels])
    return make(
        in_filters=in_filters,
        min_level=message.min_level,
        max_level=message.max_level,
        num_filters=message.additional_layer_depth,
        spec=spec,
    )
