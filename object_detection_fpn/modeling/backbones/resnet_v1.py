"""ResNet V1 backbones (He et al. 2015): 50, 101, 152 from tf_keras.applications, 18 and 34 from tf-models-official.

Each is a model whose call gives `{level: features}`, level 2 having stride 4 and level 5 stride 32.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import tf_keras

from object_detection_fpn.modeling import layers
from object_detection_fpn.modeling.backbones.backbone import IMAGENET_MEANS, Backbone, PixelNormalization

LEVELS = (2, 3, 4, 5)

# The convolutions of tf_keras.applications that can have the stride of a stage: the first two of its first block.
_STRIDED = re.compile(r"conv[345]_block1_([12])_conv")

# The last block of each stage in tf_keras.applications.
_STAGE_OUTPUTS: dict[int, dict[int, str]] = {
    50: {2: "conv2_block3_out", 3: "conv3_block4_out", 4: "conv4_block6_out", 5: "conv5_block3_out"},
    101: {2: "conv2_block3_out", 3: "conv3_block4_out", 4: "conv4_block23_out", 5: "conv5_block3_out"},
    152: {2: "conv2_block3_out", 3: "conv3_block8_out", 4: "conv4_block36_out", 5: "conv5_block3_out"},
}

# What the Object Detection API's backbone uses when `override_base_feature_extractor_hyperparams` is not set.
DEFAULT_SPEC = layers.LayerSpec(
    initializer=lambda: tf_keras.initializers.VarianceScaling(),
    regularizer=tf_keras.regularizers.L2(1e-4),
    activation="relu",
    norm=layers.BatchNormSpec(momentum=0.997, epsilon=1e-5, scale=True),
)


def resnet_v1(
    depth: int,
    *,
    max_level: int = 5,
    num_channels: int = 3,
    spec: layers.LayerSpec = DEFAULT_SPEC,
    stride_in_3x3: bool = False,
    symmetric_padding: bool = False,
    frozen_stages: int = 0,
    pixels: PixelNormalization = IMAGENET_MEANS,
    name: str | None = None,
) -> Backbone:
    """Builds ResNet-50, -101 or -152 V1 without its classifier.

    As in the Object Detection API, convolutions have no bias, and by default the pooling of the stem pads like "same".

    Args:
        depth: 50, 101 or 152.
        max_level: last level that is built, 2 to 5.
        num_channels: channels of the images.
        spec: regularization, initialization, normalization, activation and execution of every layer.
        stride_in_3x3: the stride of a stage is in the 3 x 3 convolution of its first block (V1.5) instead of its first 1 x 1.
        symmetric_padding: pads strided 3 x 3 convolutions and the pooling of the stem alike on all sides, as PyTorch does.
        frozen_stages: see `Backbone`.
        pixels: what the network wants pixels to be.
        name: of the layer.

    Raises:
        ValueError: if `depth` is another number.
    """
    if depth not in _STAGE_OUTPUTS:
        raise ValueError(
            f"depth = {depth} is not a ResNet V1 of tf_keras.applications. Allowed: {sorted(_STAGE_OUTPUTS)}."
        )
    applications: dict[int, Callable[..., tf_keras.Model]] = {
        50: tf_keras.applications.resnet.ResNet50,
        101: tf_keras.applications.resnet.ResNet101,
        152: tf_keras.applications.resnet.ResNet152,
    }
    whole = applications[depth](
        include_top=False,
        weights=None,
        input_shape=(None, None, num_channels),
        layers=_InjectedLayers(spec, stride_in_3x3, symmetric_padding),
    )
    levels = tuple(level for level in LEVELS if level <= max_level)
    outputs = [whole.get_layer(_STAGE_OUTPUTS[depth][level]).output for level in levels]
    return Backbone(
        tf_keras.Model(whole.inputs, outputs, name=f"resnet{depth}"),
        levels=levels,
        stem=whole.get_layer("pool1_pool").output,
        pixels=pixels,
        stride_in_3x3=stride_in_3x3,
        frozen_stages=frozen_stages,
        recomputed_stages=spec.execution.recomputed_stages,
        name=name or f"resnet{depth}_v1",
    )


def resnet_v1_small(
    depth: int,
    *,
    max_level: int = 5,
    num_channels: int = 3,
    spec: layers.LayerSpec = DEFAULT_SPEC,
    stride_in_3x3: bool = True,
    frozen_stages: int = 0,
    pixels: PixelNormalization = IMAGENET_MEANS,
    name: str | None = None,
) -> Backbone:
    """Builds ResNet-18 or -34 of tf-models-official.

    Its batch normalization always has scale and offset, and frozen statistics freeze those as well. Strided convolutions
    and the pooling of the stem pad like "same".

    Args:
        depth: 18 or 34.
        max_level: last level that is given, 2 to 5.
        num_channels: channels of the images.
        spec: as for `resnet_v1`; its normalization must be batch normalization.
        stride_in_3x3: there is no choice.
        frozen_stages: see `Backbone`.
        pixels: what the network wants pixels to be.
        name: of the layer.

    Raises:
        ValueError: if `depth` or the normalization is another, or `stride_in_3x3` is False.
    """
    if depth not in (18, 34):
        raise ValueError(f"depth = {depth} is not a small ResNet. Allowed: 18, 34.")
    if not isinstance(spec.norm, layers.BatchNormSpec):
        raise ValueError(f"ResNet-{depth} needs batch normalization, not {spec.norm}.")
    if not stride_in_3x3:
        raise ValueError(f"stride_in_3x3 = False, but ResNet-{depth} has no other convolutions. Allowed: True.")
    # Imported here because it takes about a second, which users of the other backbones need not wait for.
    from official.vision.modeling.backbones import resnet

    with layers.dtype_policy(spec.dtype):
        whole = resnet.ResNet(
            model_id=depth,
            input_specs=tf_keras.layers.InputSpec(shape=[None, None, None, num_channels]),
            activation=spec.activation,
            use_sync_bn=spec.norm.synchronized,
            norm_momentum=spec.norm.momentum,
            norm_epsilon=spec.norm.epsilon,
            # A config, not an object: each layer then makes an initializer of its own.
            kernel_initializer=tf_keras.initializers.serialize(spec.make_initializer()),
            kernel_regularizer=spec.regularizer,
            bn_trainable=spec.norm.trainable and not (spec.freeze_statistics or spec.norm.freeze_statistics),
        )
    if not spec.norm.trainable:  # see `LayerSpec.make_norm`; the library leaves no choice
        for layer in whole.submodules:
            if isinstance(layer, tf_keras.layers.BatchNormalization):
                layer.fused = False
    levels = tuple(level for level in LEVELS if level <= max_level)
    return Backbone(
        tf_keras.Model(whole.inputs, [whole.output[str(level)] for level in levels], name=f"resnet{depth}"),
        levels=levels,
        stem=next(layer.output for layer in whole.layers if isinstance(layer, tf_keras.layers.MaxPooling2D)),
        pixels=pixels,
        stride_in_3x3=stride_in_3x3,
        frozen_stages=frozen_stages,
        recomputed_stages=spec.execution.recomputed_stages,
        name=name or f"resnet{depth}_v1",
    )


@dataclasses.dataclass(frozen=True)
class _InjectedLayers:
    """The `layers` namespace that tf_keras.applications builds a ResNet from: its layers, made by a `LayerSpec`.

    The capitalized methods answer the calls that tf_keras.applications makes, with the arguments it makes them with.
    """

    spec: layers.LayerSpec
    stride_in_3x3: bool
    symmetric_padding: bool

    def Input(self, shape: tuple[int | None, ...]) -> Any:
        return tf_keras.layers.Input(shape=shape)

    def Conv2D(self, filters: int, kernel_size: int, *, name: str, strides: int = 1, **_: Any) -> Any:
        if self.stride_in_3x3 and (match := _STRIDED.fullmatch(name)):
            strides = int(match[1])
        # Strided 7 x 7 comes after `ZeroPadding2D`; a strided 1 x 1 pads nothing either way.
        padding = "valid" if strides > 1 and kernel_size != 3 else "same"
        make: type[tf_keras.layers.Conv2D] | None = None
        if self.spec.execution.static and name == "conv1_conv":
            make = layers.SpaceToDepthConv
        elif self.symmetric_padding and strides > 1 and kernel_size == 3:
            make = layers.SymmetricConv
        return self.spec.make_conv(
            filters, kernel_size, strides=strides, padding=padding, use_bias=False, name=name, make=make
        )

    def BatchNormalization(self, *, name: str, **_: Any) -> Any:
        return self.spec.make_norm(name=name)

    def Activation(self, _: str, *, name: str) -> Any:
        return self.spec.make_activation(name=name)

    def ZeroPadding2D(self, padding: Any, *, name: str) -> Any:
        if (
            name == "pool1_pad"
        ):  # the pooling pads by itself, in the Object Detection API below and to the right ("same")
            return tf_keras.layers.Activation("linear", dtype=self.spec.dtype, name=name)
        return tf_keras.layers.ZeroPadding2D(padding, dtype=self.spec.dtype, name=name)

    def MaxPooling2D(self, pool_size: int, *, strides: int, name: str) -> Any:
        make = layers.SymmetricMaxPool if self.symmetric_padding else tf_keras.layers.MaxPooling2D
        return make(pool_size, strides=strides, padding="same", dtype=self.spec.dtype, name=name)

    def Add(self, *, name: str) -> Any:
        return tf_keras.layers.Add(dtype=self.spec.dtype, name=name)
