"""Feature Pyramid Network (Lin et al. 2017, section 3) and the feature extractor that feeds it from a backbone."""

from __future__ import annotations

import tensorflow as tf
import tf_keras

from object_detection_fpn.modeling import layers
from object_detection_fpn.modeling.backbones import resnet_v1

_BACKBONE_MAX_LEVEL = 5


class FPN(tf_keras.layers.Layer):
    """Builds P`min_level`..P`max_level` from the features of a backbone, as the Object Detection API does.

    Each level adds a 1 x 1 lateral convolution to the upsampled level above and smooths the sum with a 3 x 3 convolution;
    the smoothed, normalized and activated map is what goes further down. The coarsest backbone level gets no 3 x 3. Levels
    beyond it are 3 x 3 convolutions of stride 2, each fed by the one before.

    Call: {level: [B, H_l, W_l, F_l]} -> tuple of [B, H_l, W_l, num_filters], finest first.

    Args:
        in_filters: {level: F_l} of the backbone.
        min_level: finest level, 2 to 5.
        max_level: coarsest level, `min_level` to 7.
        num_filters: channels of every level.
        spec: of the 3 x 3 convolutions; the lateral ones have a bias, no normalization and no activation.
        name: of the layer.

    Raises:
        ValueError: if the levels are out of range or the backbone lacks one.
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
        super().__init__(name=name, dtype=spec.dtype)
        if not 2 <= min_level <= _BACKBONE_MAX_LEVEL:
            raise ValueError(f"min_level = {min_level} is out of range. Allowed: 2 to {_BACKBONE_MAX_LEVEL}.")
        if not min_level <= max_level <= 7:
            raise ValueError(f"max_level = {max_level} is out of range. Allowed: min_level = {min_level} to 7.")
        self.min_level, self.max_level, self.num_filters = min_level, max_level, num_filters
        self._top_level = min(max_level, _BACKBONE_MAX_LEVEL)
        merged = range(min_level, self._top_level + 1)
        missing = [level for level in merged if level not in in_filters]
        if missing:
            raise ValueError(f"The backbone gives levels {sorted(in_filters)}; the pyramid needs {missing} too.")

        # Keyed by strings: a checkpoint names its variables by the path of attributes and keys that leads to them.
        self.laterals = {
            str(level): spec.make_conv(num_filters, 1, use_bias=True, name=f"lateral_{level}") for level in merged
        }
        self.smoothings = {
            str(level): layers.ConvNormActivation(num_filters, 3, spec=spec, name=f"smoothing_{level}")
            for level in merged[:-1]
        }
        self.extras = {
            str(level): layers.ConvNormActivation(num_filters, 3, strides=2, spec=spec, name=f"extra_{level}")
            for level in range(self._top_level + 1, max_level + 1)
        }
        self._in_filters = {level: in_filters[level] for level in merged}
        layers.build(self, (None, None, None, None))

    def build(self, _: tf.TensorShape) -> None:
        for level, lateral in self.laterals.items():
            layers.build(lateral, (None, None, None, self._in_filters[int(level)]))
        for layer in (*self.smoothings.values(), *self.extras.values()):
            layers.build(layer, (None, None, None, self.num_filters))

    def call(self, features: dict[int, tf.Tensor], training: bool) -> tuple[tf.Tensor, ...]:
        pyramid = {self._top_level: self.laterals[str(self._top_level)](features[self._top_level])}
        for level in range(self._top_level - 1, self.min_level - 1, -1):
            lateral = self.laterals[str(level)](features[level])
            merged = lateral + _crop_like(upsample_nearest(pyramid[level + 1]), lateral)
            pyramid[level] = self.smoothings[str(level)](merged, training=training)
        for level in range(self._top_level + 1, self.max_level + 1):
            pyramid[level] = self.extras[str(level)](pyramid[level - 1], training=training)
        return tuple(pyramid[level] for level in sorted(pyramid))


class FeatureExtractor(tf_keras.layers.Layer):
    """Backbone and pyramid in one: preprocessed images in, pyramid out. Usable without the rest of the detector.

    Images of any size are padded with zeros, below and to the right, to a multiple of `pad_to_multiple`; a level's features
    therefore cover the image from its top left corner with its stride.

    Call: images [B, H, W, channels] float32 -> list of [B, ceil(H' / 2^l), ceil(W' / 2^l), F], H' and W' being padded,
    for l = `min_level`..`max_level`, finest first.
    """

    def __init__(
        self, *, backbone: resnet_v1.Backbone, fpn: FPN, pad_to_multiple: int = 32, name: str = "feature_extractor"
    ):
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
    doubled = tf.broadcast_to(features[:, :, None, :, None, :], [batch, height, 2, width, 2, filters])
    return tf.reshape(doubled, [batch, 2 * height, 2 * width, filters]), gradient


def _crop_like(features: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Cuts what upsampling added to an odd size."""
    if features.shape[1:3].is_fully_defined() and features.shape[1:3] == like.shape[1:3]:
        return features
    size = tf.shape(like)
    return features[:, : size[1], : size[2]]


def _pad_to_multiple(images: tf.Tensor, multiple: int) -> tf.Tensor:
    static_height, static_width = images.shape[1:3]
    if static_height is not None and static_width is not None:
        height, width = static_height, static_width
        if height % multiple == 0 and width % multiple == 0:
            return images
    else:
        height, width = tf.unstack(tf.shape(images)[1:3])
    return tf.pad(images, [[0, 0], [0, -height % multiple], [0, -width % multiple], [0, 0]])
