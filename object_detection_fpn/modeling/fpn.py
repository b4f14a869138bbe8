"""Feature Pyramid Network (Lin et al. 2017, section 3) and the feature extractor that feeds it from a backbone."""

from __future__ import annotations

import dataclasses
import enum

import tensorflow as tf
import tf_keras

from object_detection_fpn.modeling import layers
from object_detection_fpn.modeling.backbones.backbone import Backbone

_BACKBONE_MAX_LEVEL = 5


class Pyramid(tf_keras.layers.Layer):
    """What every pyramid is.

    Call: {level: [B, H_l, W_l, F_l]} -> tuple of [B, H_l, W_l, num_filters], finest first.

    Args:
        in_filters: {level: F_l} of the backbone.
        min_level: finest level, 2 to 5.
        max_level: coarsest level, `min_level` to 7.
        num_filters: channels of every level.
        dtype: policy of the layer.
        name: of the layer.

    Raises:
        ValueError: if the levels are out of range or the backbone lacks one.
    """

    def __init__(
        self, *, in_filters: dict[int, int], min_level: int, max_level: int, num_filters: int, dtype: str, name: str
    ):
        super().__init__(name=name, dtype=dtype)
        if not 2 <= min_level <= _BACKBONE_MAX_LEVEL:
            raise ValueError(f"min_level = {min_level} is out of range. Allowed: 2 to {_BACKBONE_MAX_LEVEL}.")
        if not min_level <= max_level <= 7:
            raise ValueError(f"max_level = {max_level} is out of range. Allowed: min_level = {min_level} to 7.")
        self.min_level, self.max_level, self.num_filters = min_level, max_level, num_filters
        self._top_level = min(max_level, _BACKBONE_MAX_LEVEL)
        self._merged = range(min_level, self._top_level + 1)
        self._coarse = range(self._top_level + 1, max_level + 1)
        missing = [level for level in self._merged if level not in in_filters]
        if missing:
            raise ValueError(f"The backbone gives levels {sorted(in_filters)}; the pyramid needs {missing} too.")
        self._in_filters = {level: in_filters[level] for level in self._merged}


class FPN(Pyramid):
    """Builds P`min_level`..P`max_level` from the features of a backbone, as the Object Detection API does.

    Each level adds a 1 x 1 lateral convolution to the upsampled level above and smooths the sum with a 3 x 3 convolution;
    the smoothed, normalized and activated map is what goes further down. The coarsest backbone level gets no 3 x 3. Levels
    beyond it are 3 x 3 convolutions of stride 2, each fed by the one before.

    Args:
        in_filters: as for `Pyramid`, as are the levels and `num_filters`.
        spec: of the 3 x 3 convolutions; the lateral ones have a bias, no normalization and no activation.
        name: of the layer.
    """

    def __init__(
        self,
        *,
        in_filters: dict[int, int],
        min_level: int = 2,
        max_level: int = 6,
        num_filters: int = 256,
        spec: layers.LayerSpec,
        name: str = "fpn",
    ):
        super().__init__(
            in_filters=in_filters,
            min_level=min_level,
            max_level=max_level,
            num_filters=num_filters,
            dtype=spec.dtype,
            name=name,
        )
        # Keyed by strings: a checkpoint names its variables by the path of attributes and keys that leads to them.
        self.laterals = {
            str(level): spec.make_conv(num_filters, 1, use_bias=True, name=f"lateral_{level}") for level in self._merged
        }
        self.smoothings = {
            str(level): layers.ConvNormActivation(num_filters, 3, spec=spec, name=f"smoothing_{level}")
            for level in self._merged[:-1]
        }
        self.extras = {
            str(level): layers.ConvNormActivation(num_filters, 3, strides=2, spec=spec, name=f"extra_{level}")
            for level in self._coarse
        }
        layers.build(self, (None, None, None, None))

    def build(self, _: tf.TensorShape) -> None:
        for level, lateral in self.laterals.items():
            layers.build(lateral, (None, None, None, self._in_filters[int(level)]))
        for layer in (*self.smoothings.values(), *self.extras.values()):
            layers.build(layer, (None, None, None, self.num_filters))

    def call(self, features: dict[int, tf.Tensor], training: bool) -> tuple[tf.Tensor, ...]:
        pyramid = {self._top_level: self.laterals[str(self._top_level)](features[self._top_level])}
        for level in reversed(self._merged[:-1]):
            merged = _add_upsampled(self.laterals[str(level)](features[level]), pyramid[level + 1])
            pyramid[level] = self.smoothings[str(level)](merged, training=training)
        for level in self._coarse:
            pyramid[level] = self.extras[str(level)](pyramid[level - 1], training=training)
        return tuple(pyramid[level] for level in sorted(pyramid))


class CoarseLevels(enum.Enum):
    """Where levels beyond the backbone's last come from."""

    MAX_POOL = "every second cell of the level before"
    CONV_OF_C5 = "convolutions, the first of the backbone's last stage"
    CONV_OF_P5 = "convolutions, the first of level 5"


class PaperFPN(Pyramid):
    """Builds P`min_level`..P`max_level` as the paper does (Lin et al. 2017, section 3).

    Each level adds a 1 x 1 lateral convolution to the upsampled sum above; these sums go further down, and a 3 x 3 convolution
    of each is the level. Nothing is activated.

    Args:
        in_filters: as for `Pyramid`, as are the levels and `num_filters`.
        coarse_levels: MAX_POOL: each is every second cell of the one before (max pooling of size 1). Otherwise level 6 is a
            3 x 3 convolution of stride 2, padded alike on all sides, with a bias, and level 7 one of ReLU(level 6)
            (RetinaNet, Lin et al. 2017, section 4).
        spec: of 1 x 1 and 3 x 3 convolutions; its normalization, if any, follows each of those of the backbone's levels.
        name: of the layer.
    """

    def __init__(
        self,
        *,
        in_filters: dict[int, int],
        min_level: int = 2,
        max_level: int = 6,
        num_filters: int = 256,
        coarse_levels: CoarseLevels = CoarseLevels.MAX_POOL,
        spec: layers.LayerSpec,
        name: str = "fpn",
    ):
        super().__init__(
            in_filters=in_filters,
            min_level=min_level,
            max_level=max_level,
            num_filters=num_filters,
            dtype=spec.dtype,
            name=name,
        )
        spec = dataclasses.replace(spec, activation="linear")
        self.laterals = {
            str(level): layers.ConvNormActivation(num_filters, 1, spec=spec, name=f"lateral_{level}")
            for level in self._merged
        }
        self.smoothings = {
            str(level): layers.ConvNormActivation(num_filters, 3, spec=spec, name=f"smoothing_{level}")
            for level in self._merged
        }
        self.extras = {
            str(level): spec.make_conv(
                num_filters, 3, strides=2, use_bias=True, make=layers.SymmetricConv, name=f"extra_{level}"
            )
            for level in (() if coarse_levels is CoarseLevels.MAX_POOL else self._coarse)
        }
        self._of_backbone = coarse_levels is CoarseLevels.CONV_OF_C5
        layers.build(self, (None, None, None, None))

    def build(self, _: tf.TensorShape) -> None:
        for level, lateral in self.laterals.items():
            layers.build(lateral, (None, None, None, self._in_filters[int(level)]))
        for smoothing in self.smoothings.values():
            layers.build(smoothing, (None, None, None, self.num_filters))
        for level, extra in self.extras.items():
            of_backbone = self._of_backbone and int(level) == self._top_level + 1
            in_filters = self._in_filters[self._top_level] if of_backbone else self.num_filters
            layers.build(extra, (None, None, None, in_filters))

    def call(self, features: dict[int, tf.Tensor], training: bool) -> tuple[tf.Tensor, ...]:
        sums = {
            level: self.laterals[str(level)](features[level], training=training) for level in reversed(self._merged)
        }
        for level in reversed(self._merged[:-1]):
            sums[level] = _add_upsampled(sums[level], sums[level + 1])
        pyramid = {level: self.smoothings[str(level)](sums[level], training=training) for level in self._merged}
        for level in self._coarse:
            before = pyramid[level - 1]
            if not self.extras:
                pyramid[level] = before[:, ::2, ::2]
                continue
            if level > self._top_level + 1:
                before = tf.nn.relu(before)
            elif self._of_backbone:
                before = features[self._top_level]
            pyramid[level] = self.extras[str(level)](before)
        return tuple(pyramid[level] for level in sorted(pyramid))


class FeatureExtractor(tf_keras.layers.Layer):
    """Backbone and pyramid in one: preprocessed images in, pyramid out. Usable without the rest of the detector.

    Images of any size are padded with zeros, below and to the right, to a multiple of `pad_to_multiple`; a level's features
    therefore cover the image from its top left corner with its stride.

    Call: images [B, H, W, channels] float32 -> list of [B, ceil(H' / 2^l), ceil(W' / 2^l), F], H' and W' being padded,
    for l = `min_level`..`max_level`, finest first.
    """

    def __init__(self, *, backbone: Backbone, fpn: Pyramid, pad_to_multiple: int = 32, name: str = "feature_extractor"):
        super().__init__(name=name, dtype="float32")
        if pad_to_multiple < 1:
            raise ValueError(f"pad_to_multiple = {pad_to_multiple} is too small. Allowed: 1 or more.")
        self.backbone = backbone
        self.fpn = fpn
        self.pad_to_multiple = pad_to_multiple
        self.built = True

    @property
    def min_level(self) -> int:
        return self.fpn.min_level

    @property
    def max_level(self) -> int:
        return self.fpn.max_level

    @property
    def num_filters(self) -> int:
        """Channels of every level."""
        return self.fpn.num_filters

    def normalize_pixels(self, images: tf.Tensor) -> tf.Tensor:
        """What the backbone wants: images [B, H, W, channels] of any number type in [0, 255] -> float32."""
        return self.backbone.normalize_pixels(images)

    def covered_size(self, image_size: tf.Tensor) -> tf.Tensor:
        """[2] int32 (height, width) of the padded image that the pyramid covers, from that of the image."""
        return -(-image_size // self.pad_to_multiple) * self.pad_to_multiple

    def call(self, images: tf.Tensor, training: bool) -> list[tf.Tensor]:
        features = self.backbone(_pad_to_multiple(images, self.pad_to_multiple), training=training)
        return list(self.fpn(features, training=training))


@tf.custom_gradient
def upsample_nearest(features: tf.Tensor):
    """Doubles height and width: [B, H, W, F] -> [B, 2H, 2W, F].

    By broadcasting and not by `tf.image.resize`, whose gradient XLA cannot lower on a CPU. The gradient is a pooling: that of
    broadcasting, a sum over two inner axes, takes a CPU as long as a convolution.
    """

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        return 4.0 * tf.nn.avg_pool2d(upstream, 2, 2, "VALID")

    shape = tf.shape(features)
    batch, height, width, filters = (
        static if static is not None else shape[axis] for axis, static in enumerate(features.shape)
    )
    # Not by slices with new axes, of which LiteRT has none in six dimensions.
    single = tf.reshape(features, [batch, height, 1, width, 1, filters])
    doubled = tf.broadcast_to(single, [batch, height, 2, width, 2, filters])
    return tf.reshape(doubled, [batch, 2 * height, 2 * width, filters]), gradient


def _add_upsampled(finer: tf.Tensor, coarser: tf.Tensor) -> tf.Tensor:
    """Adds to a level, of n cells a side, the nearest cells of the one above, of ceil(n / 2) cells: cell i // 2 to cell i."""
    upsampled = upsample_nearest(coarser)
    if not (upsampled.shape[1:3].is_fully_defined() and upsampled.shape[1:3] == finer.shape[1:3]):
        size = tf.shape(finer)
        upsampled = upsampled[:, : size[1], : size[2]]  # an odd size has one cell less
    return finer + upsampled


def _pad_to_multiple(images: tf.Tensor, multiple: int) -> tf.Tensor:
    if multiple == 1:
        return images
    static_height, static_width = images.shape[1:3]
    if static_height is not None and static_width is not None:
        height, width = static_height, static_width
        if height % multiple == 0 and width % multiple == 0:
            return images
    else:
        height, width = tf.unstack(tf.shape(images)[1:3])
    return tf.pad(images, [[0, 0], [0, -height % multiple], [0, -width % multiple], [0, 0]])
