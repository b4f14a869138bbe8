"""What every backbone is: a network's features by level, what it wants pixels to be, and which parts of it do not train."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
import tf_keras

from object_detection_fpn.modeling import layers


@dataclasses.dataclass(frozen=True)
class PixelNormalization:
    """What a network wants pixels to be: (pixel - mean) / stddev.

    Attributes:
        mean: of each channel, of pixels in [0, 255]; of images with another number of channels nothing is subtracted.
        stddev: of each channel; images with another number of channels are not divided.
        is_bgr: whether the network sees the three channels in the order blue, green, red, in which `mean` and `stddev` are.
    """

    mean: tuple[float, ...] = ()
    stddev: tuple[float, ...] = ()
    is_bgr: bool = False

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Images [B, H, W, channels] of any number type in [0, 255], in the order RGB -> [B, H, W, channels] float32."""
        num_channels = images.shape[-1]
        if self.is_bgr and num_channels == 3:
            images = tf.reverse(images, [-1])
        images = tf.cast(images, tf.float32)
        if num_channels == len(self.mean):
            images -= tf.constant(self.mean, tf.float32)
        if num_channels == len(self.stddev):
            images /= tf.constant(self.stddev, tf.float32)
        return images


# Mean of each RGB channel over ImageNet (Simonyan and Zisserman 2014), subtracted where these weights were trained.
IMAGENET_MEANS = PixelNormalization(mean=(123.68, 116.779, 103.939))


class Part(NamedTuple):
    """A part of a network, from what the part before gives to what it gives itself."""

    level: int | None
    """Of what it gives; None: the stem, whose features have no level."""
    run: Callable[[tf.Tensor], tf.Tensor]


class Backbone(tf_keras.layers.Layer):
    """Gives a functional model's features by level. Call: [B, H, W, channels] -> {level: [B, H / 2^l, W / 2^l, F_l]}.

    Args:
        network: gives the features of each of `levels`, which form a chain: each is computed from the one before.
        levels: ascending.
        stem: what the network's stem gives; needed only to freeze the stem alone.
        pixels: what the network wants pixels to be.
        stride_in_3x3: whether the stride of a stage is in a 3 x 3 convolution, which weights from elsewhere must fit.
        frozen_stages: parts that do not train, from the image on: the stem, then what leads to each level; none after the
            last. Their variables are not trainable, statistics included, and no gradient goes through them.
        recomputed_stages: of how many levels, from the finest, only the features are kept in training; what leads to them is
            computed again for the gradient. The first holds about half of a ResNet's numbers, and a fifth of its arithmetic.
            Frozen parts keep nothing and are computed once.
        name: of the layer.

    Raises:
        ValueError: if the stem is to be frozen and `stem` is None.
    """

    def __init__(
        self,
        network: tf_keras.Model,
        *,
        levels: tuple[int, ...],
        stem: Any = None,
        pixels: PixelNormalization = IMAGENET_MEANS,
        stride_in_3x3: bool = False,
        frozen_stages: int = 0,
        recomputed_stages: int = 0,
        name: str,
    ):
        super().__init__(name=name, dtype="float32")
        self.network = network
        self.levels = levels
        self.pixels = pixels
        self.stride_in_3x3 = stride_in_3x3
        self.num_filters = {level: output.shape[-1] for level, output in zip(levels, network.outputs, strict=True)}
        self.built = True  # the network made its variables
        self.frozen_stages = min(frozen_stages, len(levels) + 1)
        self.recomputed_stages = min(recomputed_stages, len(levels))
        parts = self._make_parts(stem) if self.frozen_stages or self.recomputed_stages else []
        # Behind a function, which Keras does not look into: these share the network's layers, whose paths stay its own.
        self._get_parts = lambda: parts
        self._remake = functools.partial(
            Backbone,
            stem=stem,
            pixels=pixels,
            stride_in_3x3=stride_in_3x3,
            frozen_stages=frozen_stages,
            recomputed_stages=recomputed_stages,
            name=name,
        )

    def normalize_pixels(self, images: tf.Tensor) -> tf.Tensor:
        """What the network wants: images [B, H, W, channels] of any number type in [0, 255] -> float32."""
        return self.pixels(images)

    def split_last_stage(self) -> tuple[Backbone, tf_keras.Model]:
        """Divides the network in two, of the same layers: a backbone without the last level, and what leads from there to it.

        The two are used instead of this backbone, not beside it.
        """
        *outputs, last = self.network.outputs
        network = tf_keras.Model(self.network.inputs, outputs, name=self.network.name)
        return self._remake(network, levels=self.levels[:-1]), tf_keras.Model(outputs[-1], last, name="stage")

    def call(self, images: tf.Tensor, training: bool) -> dict[int, tf.Tensor]:
        parts = self._get_parts()
        if training and parts:
            features: dict[int, tf.Tensor] = {}
            for level, run in parts:
                images = run(images)
                if level is not None:
                    features[level] = images
            return features
        return dict(zip(self.levels, tf.nest.flatten(self.network(images, training=training)), strict=True))

    def _make_parts(self, stem: Any) -> list[Part]:
        """The network in parts, as they run in training; freezes the layers of those that are to be frozen."""
        ends: list[tuple[int | None, Any]] = list(zip(self.levels, self.network.outputs, strict=True))
        if self.frozen_stages == 1:
            if stem is None:
                raise ValueError(f"frozen_stages = 1, but {self.name} does not say what its stem gives.")
            ends.insert(0, (None, stem))
        parts = []
        start = self.network.input
        for level, end in ends:
            network = tf_keras.Model(start, end, name="stem" if level is None else "stage")
            number = 0 if level is None else 1 + self.levels.index(level)
            if number < self.frozen_stages:
                for layer in network.layers:
                    layer.trainable = False
                parts.append(Part(level, _frozen(network)))
            else:
                is_recomputed = number <= self.recomputed_stages
                parts.append(Part(level, _trained(layers.Recomputed(network) if is_recomputed else network)))
            start = end
        return parts


def _frozen(network: tf_keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda inputs: tf.stop_gradient(network(inputs, training=False))


def _trained(network: tf_keras.Model | layers.Recomputed) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda inputs: network(inputs, training=True)
