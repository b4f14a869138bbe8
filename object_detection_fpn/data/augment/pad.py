"""Augmentations that put the image into a larger one, with the Object Detection API's parameters and effect.

Every function draws a `Warp` of an `Example` from `seed`, [2] int32, alone. Images become float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from object_detection_fpn.data.augment import common, warp
from object_detection_fpn.data.augment.warp import Canvas, Warp
from object_detection_fpn.data.example import Example

_NUM_COLOURS = 3


@warp.applied
def random_pad_image(
    example: Example,
    *,
    seed: tf.Tensor,
    min_image_height: int | None = None,
    min_image_width: int | None = None,
    max_image_height: int | None = None,
    max_image_width: int | None = None,
    pad_color: Sequence[float] = (),
) -> Warp:
    """Puts the image at a random place of a larger one of random size.

    As in the Object Detection API, a size is drawn from the smallest up to, not including, the largest, and never below
    that of the image.

    Args:
        example: image and objects.
        seed: [2] int32.
        min_image_height: smallest new height, pixels; None for that of the image.
        min_image_width: smallest new width, likewise.
        max_image_height: largest new height, pixels; None for twice that of the image.
        max_image_width: largest new width, likewise.
        pad_color: one value for all channels, or one for each; three for the colours of an image with additional
            channels, which get their mean. Empty for the mean of each channel of the image.

    Raises:
        ValueError: if the number of `pad_color` values does not fit the channels.
    """
    size = tf.shape(example.image)[:2]
    height, width = tf.unstack(size)
    low = [
        height if min_image_height is None else min_image_height,
        width if min_image_width is None else min_image_width,
    ]
    high = [
        2 * height if max_image_height is None else max_image_height,
        2 * width if max_image_width is None else max_image_width,
    ]
    color = fill_color(pad_color, example.image.shape[-1])
    return Warp(canvas=draw_canvas(size, tf.stack(low), tf.stack(high), color, seed=seed))


@warp.applied
def random_absolute_pad_image(
    example: Example,
    *,
    seed: tf.Tensor,
    max_height_padding: int = 0,
    max_width_padding: int = 0,
    pad_color: Sequence[float] = (),
) -> Warp:
    """Puts the image at a random place of one that is larger by a number of pixels.

    Args:
        example: image and objects.
        seed: [2] int32.
        max_height_padding: fewer rows than this are added.
        max_width_padding: fewer columns than this are added.
        pad_color: see `random_pad_image`.

    Raises:
        ValueError: if the number of `pad_color` values does not fit the channels.
    """
    size = tf.shape(example.image)[:2]
    color = fill_color(pad_color, example.image.shape[-1])
    high = size + tf.constant([max_height_padding, max_width_padding])
    return Warp(canvas=draw_canvas(size, size, high, color, seed=seed))


@warp.applied
def random_pad_to_aspect_ratio(
    example: Example,
    *,
    seed: tf.Tensor,
    aspect_ratio: float = 1.0,
    min_padded_size_ratio: Sequence[float] = (1.0, 1.0),
    max_padded_size_ratio: Sequence[float] = (2.0, 2.0),
) -> Warp:
    """Adds black rows below and columns to the right until the image has an aspect ratio.

    Args:
        example: image and objects.
        seed: [2] int32.
        aspect_ratio: width / height of the result.
        min_padded_size_ratio: smallest height and width of the result, as shares of the image's; where the aspect ratio
            needs more, that.
        max_padded_size_ratio: largest height and width, likewise.
    """
    size = tf.cast(tf.shape(example.image)[:2], tf.float32)
    height, width = tf.unstack(size)
    # No tf.maximum(a, b * constant): TensorFlow 2.20 on CPU takes it for a leaky ReLU of b and forgets a.
    least = tf.where(width / aspect_ratio > height, [width / aspect_ratio, width], [height, height * aspect_ratio])
    low = tf.maximum(tf.constant(min_padded_size_ratio, tf.float32) * size / least, 1.0)
    high = tf.maximum(tf.constant(max_padded_size_ratio, tf.float32) * size / least, 1.0)
    max_scale = tf.reduce_min(high)
    min_scale = tf.minimum(max_scale, tf.reduce_max(low))
    scale = min_scale + (max_scale - min_scale) * tf.random.stateless_uniform([], seed)
    new_size = tf.maximum(tf.cast(tf.round(scale * least), tf.int32), tf.shape(example.image)[:2])
    return Warp(canvas=Canvas(tf.constant([0, 0]), new_size, fill_color((0.0,), example.image.shape[-1])))


def draw_canvas(
    size: tf.Tensor, min_size: tf.Tensor, max_size: tf.Tensor, color: tf.Tensor, *, seed: tf.Tensor
) -> Canvas:
    """A canvas of random size, and a random place on it for the image.

    Args:
        size: [2] int32, height and width of the image.
        min_size: [2] int32, smallest height and width; where the image is larger, its own.
        max_size: [2] int32, likewise; sizes are drawn from the smallest up to, not including, this.
        color: of `fill_color`.
        seed: [2] int32.
    """
    size_seeds = common.split(seed, 4)
    low, high = tf.maximum(min_size, size), tf.maximum(max_size, size)
    # Where the ends meet or are swapped the Object Detection API takes the upper one.
    new_size = [
        common.random_integer(size_seeds[i], tf.where(low[i] < high[i], low[i], high[i]), high[i]) for i in range(2)
    ]
    offset = [common.random_integer(size_seeds[2 + i], 0, new_size[i] - size[i]) for i in range(2)]
    return Canvas(tf.stack(offset), tf.stack(new_size), color)


def fill_color(pad_color: Sequence[float], num_channels: int) -> tf.Tensor:
    """[F] float32, a value for each channel, or NaN for the channel's mean.

    Args:
        pad_color: see `random_pad_image`.
        num_channels: F.

    Raises:
        ValueError: if the number of values does not fit the channels.
    """
    if len(pad_color) not in (0, 1, _NUM_COLOURS, num_channels) or len(pad_color) > num_channels:
        raise ValueError(f"pad_color has {len(pad_color)} values; the image has {num_channels} channels.")
    if len(pad_color) == 1:
        return tf.fill([num_channels], tf.constant(pad_color[0], tf.float32))
    return tf.constant([*pad_color, *[float("nan")] * (num_channels - len(pad_color))], tf.float32)
