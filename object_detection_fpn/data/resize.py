"""Image resizers that agree with the TensorFlow Object Detection API: one factory for each of its messages.

Pixels are sampled as `data.resample` says; the conditional resizer aligns corners. `keep_aspect_ratio` also knows the rules
by which torchvision and Detectron2 resize.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import tensorflow as tf

from object_detection_fpn.data.resample import AS_TENSORFLOW_1, Interpolation, Method, check_method, resample

SizeRounding = Literal["object_detection_api", "floor", "round"]
_SIZE_ROUNDINGS = ("object_detection_api", "floor", "round")


@dataclasses.dataclass(frozen=True)
class Resizer:
    """Resizes one image; called with [h, w, c] uint8 or float32, values in [0, 255], and in training with a seed [2] int32.

    Returns the image float32 [H, W, c] and its true shape [3] int32 (height, width, channels) without padding, which
    stands at the bottom and right.
    """

    resize: Callable[[tf.Tensor, tf.Tensor | None], tuple[tf.Tensor, tf.Tensor]]
    static_size: tuple[int | None, int | None] = (None, None)
    """(H, W), where they are the same for every image."""
    num_channels: int | None = None
    """1 after conversion to grayscale, None where channels are kept."""
    pad_values: tuple[float, ...] = ()
    """The value of the padding for each channel of the image that comes in; empty for 0."""
    pads: bool = False
    """Whether there can be padding."""

    def __call__(self, image: tf.Tensor, *, seed: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        resized, true_shape = self.resize(image, seed)
        resized.set_shape([*self.static_size, self.num_channels or image.shape[-1]])
        return resized, tf.ensure_shape(true_shape, [3])

    def fill_padding(self, images: tf.Tensor, true_shapes: tf.Tensor) -> tf.Tensor:
        """Gives a batch that was padded to its largest image the value that padding has, with what stands there already.

        Args:
            images: [B, H, W, c] float32, as they come out of this resizer.
            true_shapes: [B, 3] int32.
        """
        if not self.pad_values:
            return images
        values = tf.constant(self.pad_values, tf.float32)
        if self.num_channels == 1:
            values = tf.image.rgb_to_grayscale(values[tf.newaxis, tf.newaxis])[0, 0]
        height, width = tf.unstack(tf.shape(images)[1:3])
        is_row = tf.sequence_mask(true_shapes[:, 0], height)[:, :, tf.newaxis, tf.newaxis]
        is_column = tf.sequence_mask(true_shapes[:, 1], width)[:, tf.newaxis, :, tf.newaxis]
        return tf.where(is_row & is_column, images, values)


def keep_aspect_ratio(
    *,
    min_dimension: int,
    max_dimension: int,
    min_dimensions: Sequence[int] = (),
    size_rounding: SizeRounding = "object_detection_api",
    interpolation: Interpolation = AS_TENSORFLOW_1,
    pad_to_max_dimension: bool = False,
    pad_to_multiple: int = 0,
    per_channel_pad_value: Sequence[float] = (),
    convert_to_grayscale: bool = False,
) -> Resizer:
    """Scales the shorter side to `min_dimension`, or, if the longer side would exceed it, that one to `max_dimension`.

    Args:
        min_dimension: pixels.
        max_dimension: pixels.
        min_dimensions: pixels; an image that comes with a seed gets one of them at random in place of `min_dimension`.
        size_rounding: how scaled sides become whole pixels, see `scaled_size`.
        interpolation: of pixels.
        pad_to_max_dimension: pad to a square of `max_dimension`, which makes the size static.
        pad_to_multiple: pad both sides to multiples of this many pixels; 0 = not.
        per_channel_pad_value: one value for each channel of the image (before conversion to grayscale); empty for 0.
        convert_to_grayscale: give one channel instead of three.

    Raises:
        ValueError: if a dimension is below 1 or a shorter side exceeds `max_dimension`, the rounding is unknown, or both kinds
            of padding are asked for; when called, if the number of pad values differs from the number of channels.
    """
    for name, sides in (("min_dimension", [min_dimension]), ("min_dimensions", min_dimensions)):
        for side in sides:
            _check_positive(**{name: side}, max_dimension=max_dimension)
            if side > max_dimension:
                raise ValueError(f"{name} = {side} exceeds max_dimension = {max_dimension}.")
    if size_rounding not in _SIZE_ROUNDINGS:
        raise ValueError(f'size_rounding = "{size_rounding}" is unknown. Allowed: {", ".join(_SIZE_ROUNDINGS)}.')
    if pad_to_multiple and pad_to_max_dimension:
        raise ValueError(
            f"pad_to_multiple = {pad_to_multiple} does not go with pad_to_max_dimension = True. Allowed: 0."
        )

    def resize(image: tf.Tensor, seed: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        short: tf.Tensor | int = min_dimension
        if min_dimensions and seed is not None:
            choice = tf.random.stateless_uniform([], seed, maxval=len(min_dimensions), dtype=tf.int32)
            short = tf.constant(min_dimensions, tf.int32)[choice]
        new_size = scaled_size(tf.shape(image)[:2], short, max_dimension, size_rounding)
        resized = interpolation(image, new_size)
        if pad_to_max_dimension:
            resized = _pad(resized, tf.constant([max_dimension, max_dimension]), per_channel_pad_value)
        elif pad_to_multiple:
            resized = _pad(resized, -(-new_size // pad_to_multiple) * pad_to_multiple, per_channel_pad_value)
        return _finish(resized, new_size, convert_to_grayscale)

    static_size = (max_dimension, max_dimension) if pad_to_max_dimension else (None, None)
    pads = pad_to_max_dimension or pad_to_multiple > 1
    return Resizer(resize, static_size, 1 if convert_to_grayscale else None, tuple(per_channel_pad_value), pads)


def scaled_size(
    size: tf.Tensor, min_dimension: tf.Tensor | int, max_dimension: int, rounding: SizeRounding
) -> tf.Tensor:
    """The size that `keep_aspect_ratio` gives an image.

    "object_detection_api" rounds float32 numbers, half to even. "floor" cuts off float64 products of the sides and one scale,
    as torchvision does; so it may miss the asked side by one pixel. "round" rounds float64 products half up, as Detectron2
    does: the shorter side becomes `min_dimension`, and both shrink once more where the longer one then is too long.

    Args:
        size: [2] int32, height and width.
        min_dimension: of the shorter side, pixels.
        max_dimension: of the longer side, pixels.
        rounding: one of these three.

    Returns:
        [2] int32, at least 1: a strip such as 10000 x 20 keeps a pixel of its short side.
    """
    dtype = tf.float32 if rounding == "object_detection_api" else tf.float64
    sides, shortest, longest = (tf.cast(x, dtype) for x in (size, min_dimension, max_dimension))
    short, long = tf.reduce_min(sides), tf.reduce_max(sides)
    if rounding == "object_detection_api":
        large, small = tf.round(sides * (shortest / short)), tf.round(sides * (longest / long))
        scaled = tf.where(tf.reduce_max(large) > longest, small, large)
    elif rounding == "floor":
        scaled = tf.floor(sides * tf.minimum(shortest / short, longest / long))
    else:
        scaled = tf.where(sides == short, shortest, sides * (shortest / short))
        scaled *= tf.minimum(longest / tf.reduce_max(scaled), 1.0)
        scaled = tf.floor(scaled + 0.5)
    return tf.maximum(tf.cast(scaled, tf.int32), 1)


def fixed_shape(*, height: int, width: int, method: Method = "bilinear", convert_to_grayscale: bool = False) -> Resizer:
    """Stretches every image to `height` x `width` pixels.

    Raises:
        ValueError: if a dimension is below 1 or the method is unknown.
    """
    check_method(method)
    _check_positive(height=height, width=width)

    def resize(image: tf.Tensor, _: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        new_size = tf.constant([height, width])
        return _finish(resample(image, new_size, method), new_size, convert_to_grayscale)

    return Resizer(resize, (height, width), 1 if convert_to_grayscale else None)


def pad_to_multiple(*, multiple: int, convert_to_grayscale: bool = False) -> Resizer:
    """Pads both sides with zeros to the next multiple of `multiple` pixels and leaves the pixels as they are.

    Raises:
        ValueError: if `multiple` is below 1.
    """
    _check_positive(multiple=multiple)

    def resize(image: tf.Tensor, _: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        size = tf.shape(image)[:2]
        padded = _pad(tf.cast(image, tf.float32), -(-size // multiple) * multiple)
        return _finish(padded, size, convert_to_grayscale)

    return Resizer(resize, (None, None), 1 if convert_to_grayscale else None, pads=multiple > 1)


def identity() -> Resizer:
    """Leaves every image as it is, as float32."""
    return Resizer(lambda image, _: (tf.cast(image, tf.float32), tf.shape(image)))


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
    check_method(method)
    _check_positive(size_threshold=size_threshold)
    if condition not in ("greater", "smaller"):
        raise ValueError(f'condition = "{condition}" is unknown. Allowed: "greater", "smaller".')

    def resize(image: tf.Tensor, _: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
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


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} = {value} is not a size. Allowed: 1 and above.")


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
