"""Interpolation: an image stretched to another height and width.

Without half-pixel centers sampling is that of TensorFlow 1 and of the Object Detection API: output pixel `y` reads input
coordinate `y * input_size / output_size`; `tf.image.resize` cannot do this any more, the kernels behind it can. With them
the middle of a pixel is the place of its value, as in Pillow, PyTorch and TensorFlow 2.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import tensorflow as tf

Method = Literal["bilinear", "nearest", "bicubic", "area"]
METHODS: tuple[Method, ...] = get_args(Method)

# Filters of `antialias` by method: those that Pillow calls BILINEAR and BICUBIC.
_KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}
_MAX_PIXEL = 255.0


@dataclasses.dataclass(frozen=True)
class Interpolation:
    """How pixels are made of others; called with an image [h, w, c] uint8 or float32 and a size [2] int32.

    Returns the image [size[0], size[1], c] float32. An image of that size stays as it is.
    """

    method: Method = "bilinear"
    half_pixel_centers: bool = False
    """Bilinear and bicubic only."""
    antialias: bool = False
    """Averages over all pixels that fall together where the image shrinks: the filter grows with the scale. Needs
    `half_pixel_centers`."""
    round_pixels: bool = False
    """Rounds to whole numbers in [0, 255], half up: with `antialias` after each direction, width first, as Pillow does."""

    def __post_init__(self) -> None:
        check_method(self.method)
        if self.half_pixel_centers and self.method not in _KERNELS:
            raise ValueError(
                f'half_pixel_centers does not go with method = "{self.method}". Allowed: bilinear, bicubic.'
            )
        if self.antialias and not self.half_pixel_centers:
            raise ValueError("antialias = True needs half_pixel_centers = True. Allowed: False, or both.")

    def __call__(self, image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        if not self.antialias:
            resized = resample(image, size, self.method, half_pixel_centers=self.half_pixel_centers)
            return _to_whole(resized) if self.round_pixels else resized
        old_size = tf.shape(image)[:2]
        return tf.cond(
            tf.reduce_all(size == old_size),
            lambda: _to_whole(image) if self.round_pixels else tf.cast(image, tf.float32),
            lambda: self._filter(image, old_size, size),
        )

    def _filter(self, image: tf.Tensor, old_size: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        if not self.round_pixels:
            return _scale(image, size, self.method)
        narrow = _to_whole(_scale(image, tf.stack([old_size[0], size[1]]), self.method))
        return _to_whole(_scale(narrow, size, self.method))


def resample(
    image: tf.Tensor, size: tf.Tensor, method: str, *, align_corners: bool = False, half_pixel_centers: bool = False
) -> tf.Tensor:
    """Stretches an image [h, w, c] to a size, without a filter against aliasing.

    Args:
        image: uint8 or float32.
        size: [2] int32, height and width.
        method: one of `Method`.
        align_corners: the middle of the corner pixels stays where it is.
        half_pixel_centers: the middle of a pixel is the place of its value; bilinear and bicubic only.

    Returns:
        [size[0], size[1], c] float32.

    Raises:
        ValueError: if the method is unknown.
    """
    check_method(method)
    images = image[tf.newaxis]
    if method == "bilinear":
        resized = tf.raw_ops.ResizeBilinear(
            images=images, size=size, align_corners=align_corners, half_pixel_centers=half_pixel_centers
        )
    elif method == "bicubic":
        resized = tf.raw_ops.ResizeBicubic(
            images=images, size=size, align_corners=align_corners, half_pixel_centers=half_pixel_centers
        )
    elif method == "area":
        resized = tf.raw_ops.ResizeArea(images=images, size=size, align_corners=align_corners)
    else:
        resized = tf.raw_ops.ResizeNearestNeighbor(images=images, size=size, align_corners=align_corners)
    return tf.cast(resized[0], tf.float32)


def check_method(method: str) -> None:
    """Raises ValueError if the method is unknown."""
    if method not in METHODS:
        raise ValueError(f'method = "{method}" is unknown. Allowed: {", ".join(METHODS)}.')


def _scale(image: tf.Tensor, size: tf.Tensor, method: str) -> tf.Tensor:
    """Half-pixel centers, with a filter that is as wide as the pixels that fall together."""
    scale = tf.cast(size, tf.float32) / tf.cast(tf.shape(image)[:2], tf.float32)
    return tf.raw_ops.ScaleAndTranslate(
        images=image[tf.newaxis],
        size=size,
        scale=scale,
        translation=tf.zeros([2]),
        kernel_type=_KERNELS[method],
        antialias=True,
    )[0]


def _to_whole(image: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(tf.floor(tf.cast(image, tf.float32) + 0.5), 0.0, _MAX_PIXEL)


AS_TENSORFLOW_1 = Interpolation()
"""What the Object Detection API does where nothing else is asked for."""
