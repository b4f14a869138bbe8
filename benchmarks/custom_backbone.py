"""A bottom-up pathway of one's own: the example of docs/adding_a_backbone.md.

Six blocks, each a 3 x 3 convolution and a 1 x 1 beside it as its shortcut, strided alike. Five of them halve the image, which
gives the levels 1 to 5; the sixth works on level 5.
"""

from __future__ import annotations

from typing import Any

import tf_keras

from object_detection_fpn import builder
from object_detection_fpn.config import tables
from object_detection_fpn.modeling import layers
from object_detection_fpn.modeling.backbones import resnet_v1
from object_detection_fpn.modeling.backbones.backbone import Backbone

TYPE = "faster_rcnn_six_blocks_fpn_keras"

_BLOCKS = ((32, 2), (64, 2), (128, 2), (256, 2), (512, 2), (512, 1))  # filters and stride of each


def six_blocks(
    *, max_level: int = 5, num_channels: int = 3, spec: layers.LayerSpec = resnet_v1.DEFAULT_SPEC, **settings: Any
) -> Backbone:
    """Six residual blocks without a stem. Call: [B, H, W, channels] -> {level: [B, H / 2^l, W / 2^l, F_l]}.

    Args:
        max_level: last level that is built, 2 to 5.
        num_channels: channels of the images.
        spec: regularization, initialization, normalization, activation and execution of every layer.
        settings: others of `Backbone`.
    """
    images = features = tf_keras.Input([None, None, num_channels])
    of_level = {}
    level = 0
    for number, (filters, strides) in enumerate(_BLOCKS, start=1):
        level += strides - 1
        if level > max_level:
            break
        features = _block(features, filters, strides, spec, name=f"block{number}")
        of_level[level] = features
    levels = tuple(range(2, max_level + 1))
    return Backbone(
        tf_keras.Model(images, [of_level[level] for level in levels], name="six_blocks"),
        levels=levels,
        stem=of_level[1],
        recomputed_stages=spec.execution.recomputed_stages,
        name="six_blocks",
        **settings,
    )


def _block(features: Any, filters: int, strides: int, spec: layers.LayerSpec, *, name: str) -> Any:
    """A strided 3 x 3 convolution, the strided 1 x 1 of its shortcut, and the activation of their sum."""
    convolved = spec.make_conv(filters, 3, strides=strides, name=f"{name}_conv")(features)
    # Picks the cells before it weighs them: the gradient of a strided 1 x 1 convolution of an image crashes oneDNN's kernels.
    picked = tf_keras.layers.MaxPooling2D(1, strides=strides, dtype=spec.dtype, name=f"{name}_pick")(features)
    shortcut = spec.make_conv(filters, 1, name=f"{name}_shortcut")(picked)
    convolved = spec.make_norm(name=f"{name}_conv_norm")(convolved)
    shortcut = spec.make_norm(name=f"{name}_shortcut_norm")(shortcut)
    total = tf_keras.layers.Add(dtype=spec.dtype, name=f"{name}_add")([convolved, shortcut])
    return spec.make_activation(name=f"{name}_act")(total)


def register() -> None:
    """Makes configs with `type: "faster_rcnn_six_blocks_fpn_keras"` load and build."""
    if TYPE not in builder.BACKBONES:
        builder.BACKBONES[TYPE] = six_blocks
        tables.EXTRACTOR_TYPES += (TYPE,)
