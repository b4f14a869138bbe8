"""ResNets that PyTorch trained: their layers in ours, and whether ours computes the same with their weights."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras

from object_detection_fpn.modeling import layers
from object_detection_fpn.modeling.backbones.backbone import Backbone, PixelNormalization
from object_detection_fpn.modeling.detector import Detector
from object_detection_fpn.modeling.single_level import LastStage
from object_detection_fpn.training.stored import CheckpointError

_NUM_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks of stages 2 to 5 by depth (He et al. 2015, table 1)."""

SMALL_DEPTHS = (18, 34)
"""Depths whose blocks have two convolutions; those of the others have three."""

# Names of torchvision and of Detectron2, these in both spellings.
_BLOCK_NAME = re.compile(r"^(?:layer|res)(\d)[._](\d+)[._]")
_THIRD_CONVOLUTION_NAME = re.compile(r"^(layer|res)\d[._]\d+[._](conv3|branch2c)")


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


def network_layers(model: Detector) -> list[tf_keras.layers.Layer]:
    """The layers of the backbone of a detector, and of its last stage where that is the detector's box head."""
    features = getattr(getattr(model, "box_head", None), "feature_extractor", None)
    last_stage = features.network.layers if isinstance(features, LastStage) else []
    return [*model.feature_extractor.backbone.network.layers, *last_stage]


def resnet_layers(model: Detector, source: str) -> Iterator[ResNetLayers]:
    """The layers of a detector's ResNet.

    Raises:
        CheckpointError: if the backbone is another network.
    """
    backbone = model.feature_extractor.backbone
    depth = next((depth for depth in _NUM_BLOCKS if backbone.name == f"resnet{depth}_v1"), None)
    if depth is None:
        raise CheckpointError(
            f"{source}: these weights are for a ResNet, but the model's backbone is {backbone.name}. Use the recipe of this "
            "model."
        )
    if depth in SMALL_DEPTHS:
        yield from _small_resnet_layers(network_layers(model), _NUM_BLOCKS[depth])
        return
    by_name = {layer.name: layer for layer in network_layers(model)}
    yield ResNetLayers(1, 0, 1, by_name["conv1_conv"], by_name["conv1_bn"])
    for name, layer in by_name.items():
        if match := re.fullmatch(r"conv(\d)_block(\d+)_(\d)_conv", name):
            stage, block, index = map(int, match.groups())
            yield ResNetLayers(stage, block - 1, index, layer, by_name[f"{name.removesuffix('conv')}bn"])


def _small_resnet_layers(
    all_layers: list[tf_keras.layers.Layer], num_blocks: tuple[int, ...]
) -> Iterator[ResNetLayers]:
    """Those of tf-models-official's ResNet-18 or -34, whose blocks are layers with layers of their own."""
    conv, norm, *blocks = (layer for layer in all_layers if layer.variables)
    yield ResNetLayers(1, 0, 1, conv, norm)
    places = [(stage, block) for stage, number in enumerate(num_blocks, start=2) for block in range(number)]
    for (stage, block), layer in zip(places, blocks, strict=False):  # a backbone that ends early has fewer
        inside = tf.train.TrackableView(layer).children(layer)
        for index, name in enumerate(("_shortcut", "_conv1", "_conv2")):
            if name in inside:
                yield ResNetLayers(stage, block, index, inside[name], inside[f"_norm{index}"])


def check_depth(names: Collection[str], backbone: Backbone, source: str) -> int:
    """Returns the depth of a ResNet that was trained to classify, by the names of its tensors.

    Raises:
        CheckpointError: if it is no ResNet of a known depth, or the backbone is another network.
    """
    blocks: dict[str, set[str]] = {}
    for name in names:
        if match := _BLOCK_NAME.match(name):
            blocks.setdefault(match[1], set()).add(match[2])
    counts = tuple(len(blocks[stage]) for stage in sorted(blocks))
    is_small = not any(map(_THIRD_CONVOLUTION_NAME.match, names))
    depths = [d for d, num_blocks in _NUM_BLOCKS.items() if num_blocks == counts and (d in SMALL_DEPTHS) == is_small]
    if not depths:
        known = "18, 34, 50, 101 or 152"
        raise CheckpointError(f"{source}: no ResNet of {known} layers; its stages have {counts} blocks.")
    (depth,) = depths
    if backbone.name != f"resnet{depth}_v1":
        raise CheckpointError(
            f"{source}: these are weights of a ResNet-{depth}, but the model's backbone is {backbone.name}. Allowed: weights "
            f'of that network, or a feature_extractor.type with "resnet{depth}".'
        )
    return depth


def refuse_other_backbone(backbone: Backbone, *, stride_in_3x3: bool, pixels: PixelNormalization, source: str) -> None:
    """Refuses a backbone that computes something else with the same weights, which no shape betrays.

    Args:
        backbone: the model's.
        stride_in_3x3: whether the weights were trained with the stride of a stage in its 3 x 3 convolution.
        pixels: what they were trained on.
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
    # ResNet-18 and -34 of tf-models-official have no such layer.
    poolings = [layer for layer in backbone.network.layers if layer.name == "pool1_pool"]
    if not all(isinstance(pooling, layers.SymmetricMaxPool) for pooling in poolings):
        raise CheckpointError(
            f"{source}: these weights were trained with padding on all sides. Allowed: "
            "feature_extractor.resnet { symmetric_padding: true }."
        )
    ours = backbone.pixels
    fits = [
        len(here) == len(there) and np.allclose(here, there, atol=0.01)
        for here, there in ((ours.mean or (0.0,) * 3, pixels.mean), (ours.stddev or (1.0,) * 3, pixels.stddev))
    ]
    if ours.is_bgr != pixels.is_bgr or not all(fits):
        order = "BGR" if pixels.is_bgr else "RGB"
        values = f"channel_order: {order} mean: {list(pixels.mean)} stddev: {list(pixels.stddev)}"
        raise CheckpointError(
            f"{source}: these weights were trained on other pixels than the config gives them. Allowed: "
            f"feature_extractor.pixel_normalization {{ {values} }}."
        )
