"""ResNet V1 backbones (He et al. 2015): 50, 101, 152 from tf_keras.applications, 18 and 34 from tf-models-official.

Each is a model whose call gives `{level: features}`, level 2 having stride 4 and level 5 stride 32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras

from object_detection_fpn.modeling import layers

LEVELS = (2, 3, 4, 5)

# Mean of each RGB channel over ImageNet (Simonyan and Zisserman 2014), subtracted where these weights were trained.
IMAGENET_CHANNEL_MEANS = (123.68, 116.779, 103.939)

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


class Backbone(tf_keras.layers.Layer):
    """Gives a functional model's features by level. Call: [B, H, W, channels] -> {level: [B, H / 2^l, W / 2^l, F_l]}.

    Args:
        network: gives the features of each of `levels`, which form a chain: each is computed from the one before.
        levels: ascending.
        channel_means: of the images that the network was trained on, subtracted from those with as many channels.
        recomputed_stages: of how many levels, from the finest, only the features are kept in training; what leads to them is
            computed again for the gradient. The first holds about half of a ResNet's numbers, and a fifth of its arithmetic.
        name: of the layer.
    """

    def __init__(
        self,
        network: tf_keras.Model,
        *,
        levels: tuple[int, ...],
        channel_means: tuple[float, ...] = IMAGENET_CHANNEL_MEANS,
        recomputed_stages: int = 0,
        name: str,
    ):
        super().__init__(name=name, dtype="float32")
        self.network = network
        self.levels = levels
        self._channel_means = channel_means
        self.num_filters = {level: output.shape[-1] for level, output in zip(levels, network.outputs, strict=True)}
        self.built = True  # the network made its variables
        self.recomputed_stages = min(recomputed_stages, len(levels))
        stages = _stages(network, self.recomputed_stages)
        # Behind a function, which Keras does not look into: these share the network's layers, whose paths stay its own.
        self._get_stages = lambda: stages

    def normalize_pixels(self, images: tf.Tensor) -> tf.Tensor:
        """Subtracts the channel means; images of another number of channels stay as they are.

        Args:
            images: [B, H, W, channels] of any number type in [0, 255].

        Returns:
            [B, H, W, channels] float32.
        """
        images = tf.cast(images, tf.float32)
        return images - tf.constant(self._channel_means) if images.shape[-1] == len(self._channel_means) else images

    def call(self, images: tf.Tensor, training: bool) -> dict[int, tf.Tensor]:
        if training and self.recomputed_stages:
            features: dict[int, tf.Tensor] = {}
            for level, stage in zip(self.levels, self._get_stages(), strict=True):
                images = features[level] = stage(images, training=training)
            return features
        return dict(zip(self.levels, tf.nest.flatten(self.network(images, training=training)), strict=True))


def resnet_v1(
    depth: int,
    *,
    max_level: int = 5,
    num_channels: int = 3,
    spec: layers.LayerSpec = DEFAULT_SPEC,
    name: str | None = None,
) -> Backbone:
    """Builds ResNet-50, -101 or -152 V1 without its classifier.

    As in the Object Detection API, convolutions have no bias, and the pooling of the stem pads like "same".

    Args:
        depth: 50, 101 or 152.
        max_level: last level that is built, 2 to 5.
        num_channels: channels of the images.
        spec: regularization, initialization, normalization, activation and execution of every layer.
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
        include_top=False, weights=None, input_shape=(None, None, num_channels), layers=_InjectedLayers(spec)
    )
    levels = tuple(level for level in LEVELS if level <= max_level)
    outputs = [whole.get_layer(_STAGE_OUTPUTS[depth][level]).output for level in levels]
    network = tf_keras.Model(whole.inputs, outputs, name=f"resnet{depth}")
    recomputed_stages = spec.execution.recomputed_stages
    return Backbone(network, levels=levels, recomputed_stages=recomputed_stages, name=name or f"resnet{depth}_v1")


def resnet_v1_small(
    depth: int,
    *,
    max_level: int = 5,
    num_channels: int = 3,
    spec: layers.LayerSpec = DEFAULT_SPEC,
    name: str | None = None,
) -> Backbone:
    """Builds ResNet-18 or -34 of tf-models-official.

    Its batch normalization always has scale and offset, and frozen statistics freeze those as well.

    Args:
        depth: 18 or 34.
        max_level: last level that is given, 2 to 5.
        num_channels: channels of the images.
        spec: as for `resnet_v1`; its normalization must be batch normalization.
        name: of the layer.

    Raises:
        ValueError: if `depth` or the normalization is another.
    """
    if depth not in (18, 34):
        raise ValueError(f"depth = {depth} is not a small ResNet. Allowed: 18, 34.")
    if not isinstance(spec.norm, layers.BatchNormSpec):
        raise ValueError(f"ResNet-{depth} needs batch normalization, not {spec.norm}.")
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
            bn_trainable=not (spec.freeze_statistics or spec.norm.freeze_statistics),
        )
    levels = tuple(level for level in LEVELS if level <= max_level)
    network = tf_keras.Model(whole.inputs, [whole.output[str(level)] for level in levels], name=f"resnet{depth}")
    recomputed_stages = spec.execution.recomputed_stages
    return Backbone(network, levels=levels, recomputed_stages=recomputed_stages, name=name or f"resnet{depth}_v1")


def _stages(network: tf_keras.Model, num_recomputed: int) -> list[layers.Recomputed | tf_keras.Model]:
    """What leads from each output of a network to the next, the first from its input; [] if none is to be recomputed."""
    if not num_recomputed:
        return []
    starts = [*network.inputs, *network.outputs[:-1]]
    stages = [tf_keras.Model(start, end, name="stage") for start, end in zip(starts, network.outputs, strict=True)]
    return [*map(layers.Recomputed, stages[:num_recomputed]), *stages[num_recomputed:]]


@dataclasses.dataclass(frozen=True)
class _InjectedLayers:
    """The `layers` namespace that tf_keras.applications builds a ResNet from: its layers, made by a `LayerSpec`.

    The capitalized methods answer the calls that tf_keras.applications makes, with the arguments it makes them with.
    """

    spec: layers.LayerSpec

    def Input(self, shape: tuple[int | None, ...]) -> Any:
        return tf_keras.layers.Input(shape=shape)

    def Conv2D(self, filters: int, kernel_size: int, *, name: str, strides: int = 1, **_: Any) -> Any:
        # Strided 7 x 7 comes after `ZeroPadding2D`; a strided 1 x 1 pads nothing either way.
        padding = "valid" if strides > 1 else "same"
        make = layers.SpaceToDepthConv if self.spec.execution.static and name == "conv1_conv" else None
        return self.spec.make_conv(
            filters, kernel_size, strides=strides, padding=padding, use_bias=False, name=name, make=make
        )

    def BatchNormalization(self, *, name: str, **_: Any) -> Any:
        return self.spec.make_norm(name=name)

    def Activation(self, _: str, *, name: str) -> Any:
        return self.spec.make_activation(name=name)

    def ZeroPadding2D(self, padding: Any, *, name: str) -> Any:
        if name == "pool1_pad":  # the Object Detection API pads this pooling like "same": only below and to the right
            return tf_keras.layers.Activation("linear", dtype=self.spec.dtype, name=name)
        return tf_keras.layers.ZeroPadding2D(padding, dtype=self.spec.dtype, name=name)

    def MaxPooling2D(self, pool_size: int, *, strides: int, name: str) -> Any:
        return tf_keras.layers.MaxPooling2D(
            pool_size, strides=strides, padding="same", dtype=self.spec.dtype, name=name
        )

    def Add(self, *, name: str) -> Any:
        return tf_keras.layers.Add(dtype=self.spec.dtype, name=name)
