"""Image resizers that agree with the TensorFlow Object Detection API: one factory for each of its messages.

Sampling is that of TensorFlow 1: output pixel `y` reads input coordinate `y * input_size / output_size`, without
half-pixel centres; `tf.image.resize` cannot do this any more, the kernels behind it can. The conditional resizer aligns
corners.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import tensorflow as tf

Method = Literal["bilinear", "nearest", "bicubic", "area"]
_METHODS = ("bilinear", "nearest", "bicubic", "area")


@dataclasses.dataclass(frozen=True)
class Resizer:
    """Resizes one image; called with [h, w, c] uint8 or float32, values in [0, 255].

    Returns the image float32 [H, W, c] and its true shape [3] int32 (height, width, channels) without padding, which
    stands at the bottom and right.
    """

    resize: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
    static_size: tuple[int | None, int | None] = (None, None)
    """(H, W), where they are the same for every image."""
    num_channels: int | None = None
    """1 after conversion to grayscale, None where channels are kept."""

    def __call__(self, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        resized, true_shape = self.resize(image)
        resized.set_shape([*self.static_size, self.num_channels or image.shape[-1]])
        return resized, tf.ensure_shape(true_shape, [3])


def keep_aspect_ratio(
    *,
    min_dimension: int,
    max_dimension: int,
    pad_to_max_dimension: bool = False,
    method: Method = "bilinear",
    convert_to_grayscale: bool = False,
    per_channel_pad_value: Sequence[float] = (),
) -> Resizer:
    """Scales the shorter side to `min_dimension`, or, if the longer side would exceed it, that one to `max_dimension`.

    Args:
        min_dimension: pixels.
        max_dimension: pixels.
        pad_to_max_dimension: pad to a square of `max_dimension`, which makes the size static.
        method: interpolation.
        convert_to_grayscale: give one channel instead of three.
        per_channel_pad_value: one value for each channel of the image (before conversion to grayscale); empty for 0.

    Raises:
        ValueError: if a dimension is below 1, `min_dimension` exceeds `max_dimension`, or the method is unknown; when
            called, if the number of pad values differs from the number of channels.
    """
    _check_method(method)
    _check_positive(min_dimension=min_dimension, max_dimension=max_dimension)
    if min_dimension > max_dimension:
        raise ValueError(f"min_dimension = {min_dimension} exceeds max_dimension = {max_dimension}.")

    def resize(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        size = tf.cast(tf.shape(image)[:2], tf.float32)
        large = tf.round(size * (float(min_dimension) / tf.reduce_min(size)))
        small = tf.round(size * (float(max_dimension) / tf.reduce_max(size)))
        new_size = tf.where(tf.reduce_max(large) > float(max_dimension), small, large)
        # A strip such as 10000 x 20 must keep at least one pixel of its short side.
        new_size = tf.maximum(tf.cast(new_size, tf.int32), 1)
        resized = resample(image, new_size, method)
        if pad_to_max_dimension:
            resized = _pad(resized, tf.constant([max_dimension, max_dimension]), per_channel_pad_value)
        return _finish(resized, new_size, convert_to_grayscale)

    static_size = (max_dimension, max_dimension) if pad_to_max_dimension else (None, None)
    return Resizer(resize, static_size, 1 if convert_to_grayscale else None)


def fixed_shape(*, height: int, width: int, method: Method = "bilinear", convert_to_grayscale: bool = False) -> Resizer:
    """Stretches every image to `height` x `width` pixels.

    Raises:
        ValueError: if a dimension is below 1 or the method is unknown.
    """
    _check_method(method)
    _check_positive(height=height, width=width)

    def resize(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        new_size = tf.constant([height, width])
        return _finish(resample(image, new_size, method), new_size, convert_to_grayscale)

    return Resizer(resize, (height, width), 1 if convert_to_grayscale else None)


def pad_to_multiple(*, multiple: int, convert_to_grayscale: bool = False) -> Resizer:
    """Pads both sides with zeros to the next multiple of `multiple` pixels and leaves the pixels as they are.

    Raises:
        ValueError: if `multiple` is below 1.
    """
    _check_positive(multiple=multiple)

    def resize(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        size = tf.shape(image)[:2]
        padded = _pad(tf.cast(image, tf.float32), -(-size // multiple) * multiple)
        return _finish(padded, size, convert_to_grayscale)

    return Resizer(resize, (None, None), 1 if convert_to_grayscale else None)


def identity() -> Resizer:
    """Leaves every image as it is, as float32."""
    return Resizer(lambda image: (tf.cast(image, tf.float32), tf.shape(image)))


def conditional_shape(
    *,
    condition: Literal["greater", "smaller"],
    size_threshold: int,
    method: Method = "bilinear",
    convert_to_grayscale: bool = False,
) -> Resizer:
    """Scales only images that exceed a size, or only those that fall short of it, keeping their aspect ratio.

    Args:
        condition: "greater" scales images whose longer side exceeds the threshold down to it; "smaller" those whose
            shorter side is below the threshold up to it.
        size_threshold: pixels.
        method: interpolation, with corners aligned.
        convert_to_grayscale: give one channel instead of three.

    Raises:
        ValueError: if the condition or method is unknown or the threshold below 1.
    """
    _check_method(method)
    _check_positive(size_threshold=size_threshold)
    if condition not in ("greater", "smaller"):
        raise ValueError(f'condition = "{condition}" is unknown. Allowed: "greater", "smaller".')

    def resize(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        size = tf.shape(image)[:2]
        if condition == "greater":
            side = tf.reduce_max(size)
            target = tf.minimum(side, size_threshold)
        else:
            side = tf.reduce_min(size)
            target = tf.maximum(side, size_threshold)
        ratio = tf.cast(target, tf.float32) / tf.cast(side, tf.float32)
        new_size = tf.maximum(tf.cast(tf.cast(size, tf.float32) * ratio, tf.int32), 1)
        return _finish(resample(image, new_size, method, align_corners=True), new_size, convert_to_grayscale)

    return Resizer(resize, (None, None), 1 if convert_to_grayscale else None)


def _check_method(method: str) -> None:
    if method not in _METHODS:
        raise ValueError(f'method = "{method}" is unknown. Allowed: {", ".join(_METHODS)}.')


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} = {value} is not a size. Allowed: 1 and above.")


def resample(image: tf.Tensor, size: tf.Tensor, method: str, *, align_corners: bool = False) -> tf.Tensor:
    """Stretches an image [h, w, c] to a size.

    Args:
        image: uint8 or float32.
        size: [2] int32, height and width.
        method: one of `Method`.
        align_corners: the middle of the corner pixels stays where it is.

    Returns:
        [size[0], size[1], c] float32.

    Raises:
        ValueError: if the method is unknown.
    """
    _check_method(method)
    images = image[tf.newaxis]
    if method == "bilinear":
        resized = tf.raw_ops.ResizeBilinear(images=images, size=size, align_corners=align_corners)
    elif method == "bicubic":
        resized = tf.raw_ops.ResizeBicubic(images=images, size=size, align_corners=align_corners)
    elif method == "area":
        resized = tf.raw_ops.ResizeArea(images=images, size=size, align_corners=align_corners)
    else:
        resized = tf.raw_ops.ResizeNearestNeighbor(images=images, size=size, align_corners=align_corners)
    return tf.cast(resized[0], tf.float32)


def _pad(image: tf.Tensor, size: tf.Tensor, values: Sequence[float] = ()) -> tf.Tensor:
    """Pads [h, w, c] at the bottom and right to `size`."""
    num_channels = image.shape[-1]
    if values and len(values) != num_channels:
        raise ValueError(f"per_channel_pad_value has {len(values)} values; the image has {num_channels} channels.")
    missing = size - tf.shape(image)[:2]
    paddings = [[0, missing[0]], [0, missing[1]], [0, 0]]
    if not values:
        return tf.pad(image, paddings)
    is_padding = tf.pad(tf.zeros_like(image[..., :1]), paddings, constant_values=1.0)
    return tf.pad(image, paddings) + is_padding * tf.constant(values, tf.float32)


def _finish(image: tf.Tensor, true_size: tf.Tensor, convert_to_grayscale: bool) -> tuple[tf.Tensor, tf.Tensor]:
    if convert_to_grayscale:
        image = tf.image.rgb_to_grayscale(image)
    return image, tf.concat([true_size, [tf.shape(image)[2]]], axis=0)
