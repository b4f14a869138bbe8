"""ResNets that PyTorch trained: their layers in ours, and whether ours computes the same with their weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras

from object_detection_fpn.modeling import layers
from object_detection_fpn.modeling.backbones.backbone import Backbone
from object_detection_fpn.training.stored import CheckpointError

_SMALL_RESNETS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # blocks of each stage


class ResNetLayers(NamedTuple):
    """A convolution of a ResNet and its normalization."""

    stage: int
    """2 to 5; 1 for the stem."""
    block: int
    """Of the stage, from 0."""
    conv_index: int
    """Of the convolution in its block, 1 to 3; 0 for the one of the shortcut."""
    conv: tf_keras.layers.Layer
    norm: tf_keras.layers.Layer


def resnet_layers(backbone: Backbone, source: str) -> Iterator[ResNetLayers]:
    """The layers of a ResNet.

    Raises:
        CheckpointError: if the backbone is another network.
    """
    match = re.fullmatch(r"resnet(18|34|50|101|152)_v1", backbone.name)
    if not match:
        raise CheckpointError(
            f"{source}: these weights are for a ResNet, but the model's backbone is {backbone.name}. Use the recipe of this "
            "model."
        )
    if (depth := int(match[1])) in _SMALL_RESNETS:
        yield from _small_resnet_layers(backbone, _SMALL_RESNETS[depth])
        return
    by_name = {layer.name: layer for layer in backbone.network.layers}
    yield ResNetLayers(1, 0, 1, by_name["conv1_conv"], by_name["conv1_bn"])
    for name, layer in by_name.items():
        if match := re.fullmatch(r"conv(\d)_block(\d+)_(\d)_conv", name):
            stage, block, index = map(int, match.groups())
            yield ResNetLayers(stage, block - 1, index, layer, by_name[f"{name.removesuffix('conv')}bn"])


def _small_resnet_layers(backbone: Backbone, num_blocks: tuple[int, ...]) -> Iterator[ResNetLayers]:
    """Those of tf-models-official's ResNet-18 or -34, whose blocks are layers with layers of their own."""
    conv, norm, *blocks = (layer for layer in backbone.network.layers if layer.variables)
    yield ResNetLayers(1, 0, 1, conv, norm)
    places = [(stage, block) for stage, number in enumerate(num_blocks, start=2) for block in range(number)]
    for (stage, block), layer in zip(places, blocks, strict=False):  # a backbone that ends early has fewer
        inside = tf.train.TrackableView(layer).children(layer)
        for index, name in enumerate(("_shortcut", "_conv1", "_conv2")):
            if name in inside:
                yield ResNetLayers(stage, block, index, inside[name], inside[f"_norm{index}"])


def refuse_other_backbone(
    backbone: Backbone,
    *,
    stride_in_3x3: bool,
    mean: Sequence[float],
    stddev: Sequence[float],
    is_bgr: bool,
    source: str,
) -> None:
    """Refuses a backbone that computes something else with the same weights, which no shape betrays.

    Args:
        backbone: the model's.
        stride_in_3x3: whether the weights were trained with the stride of a stage in its 3 x 3 convolution.
        mean: what they want subtracted from each channel, as `stddev` in the order in which they want the channels.
        stddev: what they want each channel divided by.
        is_bgr: whether that order is blue, green, red.
        source: name of the file in errors.

    Raises:
        CheckpointError: if it does.
    """
    if backbone.stride_in_3x3 != stride_in_3x3:
        where, value = ("3 x 3", "true") if stride_in_3x3 else ("first 1 x 1", "false")
        raise CheckpointError(
            f"{source}: these weights were trained with the stride of a stage in the {where} convolution of its first block. "
            f"Allowed: feature_extractor.resnet {{ stride_in_3x3: {value} }}."
        )
    pooling = next(
        (layer for layer in backbone.network.layers if layer.name == "pool1_pool"), None
    )  # ResNet-18 has none
    if pooling is not None and not isinstance(pooling, layers.SymmetricMaxPool):
        raise CheckpointError(
            f"{source}: these weights were trained with padding on all sides. Allowed: "
            "feature_extractor.resnet { symmetric_padding: true }."
        )
    pixels = backbone.pixels
    fits = [
        len(ours) == len(theirs) and np.allclose(ours, theirs, atol=0.01)
        for ours, theirs in ((pixels.mean or (0.0,) * 3, mean), (pixels.stddev or (1.0,) * 3, stddev))
    ]
    if pixels.is_bgr != is_bgr or not all(fits):
        values = f"channel_order: {'BGR' if is_bgr else 'RGB'} mean: {list(mean)} stddev: {list(stddev)}"
        raise CheckpointError(
            f"{source}: these weights were trained on other pixels than the config gives them. Allowed: "
            f"feature_extractor.pixel_normalization {{ {values} }}."
        )
