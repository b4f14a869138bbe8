"""Augmentations that put the image into a larger one, with the Object Detection API's parameters and effect.

Every function takes an `Example` and `seed`, [2] int32, from which alone its random choices follow. Images become float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from object_detection_fpn.data.augment import common
from object_detection_fpn.data.example import Example
from object_detection_fpn.ops import boxes as box_ops

_NUM_COLOURS = 3


def random_pad_image(
    example: Example,
    *,
    seed: tf.Tensor,
    min_image_height: int | None = None,
    min_image_width: int | None = None,
    max_image_height: int | None = None,
    max_image_width: int | None = None,
    pad_color: Sequence[float] = (),
) -> Example:
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
    height, width = tf.unstack(tf.shape(example.image)[:2])
    return pad_at_random(
        example,
        tf.stack(
            [
                height if min_image_height is None else min_image_height,
                width if min_image_width is None else min_image_width,
            ]
        ),
        tf.stack(
            [
                2 * height if max_image_height is None else max_image_height,
                2 * width if max_image_width is None else max_image_width,
            ]
        ),
        pad_color,
        seed=seed,
    )


def random_absolute_pad_image(
    example: Example,
    *,
    seed: tf.Tensor,
    max_height_padding: int = 0,
    max_width_padding: int = 0,
    pad_color: Sequence[float] = (),
) -> Example:
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
    return pad_at_random(
        example, size, size + tf.constant([max_height_padding, max_width_padding]), pad_color, seed=seed
    )


def random_pad_to_aspect_ratio(
    example: Example,
    *,
    seed: tf.Tensor,
    aspect_ratio: float = 1.0,
    min_padded_size_ratio: Sequence[float] = (1.0, 1.0),
    max_padded_size_ratio: Sequence[float] = (2.0, 2.0),
) -> Example:
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
    return _pad(example, tf.constant([0, 0]), new_size, pad_color=(0.0,))


def pad_at_random(
    example: Example, min_size: tf.Tensor, max_size: tf.Tensor, pad_color: Sequence[float], *, seed: tf.Tensor
) -> Example:
    """Puts the image at a random place of one of random size.

    Args:
        example: image and objects.
        min_size: [2] int32, smallest height and width; where the image is larger, its own.
        max_size: [2] int32, likewise; sizes are drawn from the smallest up to, not including, this.
        pad_color: see `random_pad_image`.
        seed: [2] int32.
    """
    size_seeds = common.split(seed, 4)
    size = tf.shape(example.image)[:2]
    low, high = tf.maximum(min_size, size), tf.maximum(max_size, size)
    # Where the ends meet or are swapped the Object Detection API takes the upper one.
    new_size = [
        common.random_integer(size_seeds[i], tf.where(low[i] < high[i], low[i], high[i]), high[i]) for i in range(2)
    ]
    offset = [common.random_integer(size_seeds[2 + i], 0, new_size[i] - size[i]) for i in range(2)]
    return _pad(example, tf.stack(offset), tf.stack(new_size), pad_color)


def _pad(example: Example, offset: tf.Tensor, new_size: tf.Tensor, pad_color: Sequence[float]) -> Example:
    """Puts pixel (0, 0) at `offset` [2] of an image of `new_size` [2]."""
    image = tf.cast(example.image, tf.float32)
    size = tf.shape(image)[:2]
    paddings = tf.concat([tf.stack([offset, new_size - size - offset], axis=-1), [[0, 0]]], axis=0)
    is_inside = tf.pad(tf.ones_like(image[..., :1], tf.bool), paddings)
    padded = tf.where(is_inside, tf.pad(image, paddings), _fill_color(image, pad_color))
    # Pixels between the frames: whole numbers stay exact, so that no box ends beyond the border by rounding.
    boxes = box_ops.denormalize(example.objects.boxes, size)
    boxes = box_ops.normalize(boxes + tf.cast(tf.concat([offset, offset], 0), tf.float32), new_size)
    padded = tf.ensure_shape(padded, [None, None, image.shape[-1]])
    return Example(padded, example.objects._replace(boxes=boxes))


def _fill_color(image: tf.Tensor, pad_color: Sequence[float]) -> tf.Tensor:
    """One float32 value for each channel, or one for all."""
    num_channels = image.shape[-1]
    if len(pad_color) not in (0, 1, _NUM_COLOURS, num_channels) or len(pad_color) > num_channels:
        raise ValueError(f"pad_color has {len(pad_color)} values; the image has {num_channels} channels.")
    color = tf.constant(pad_color, tf.float32)
    if len(pad_color) in (1, num_channels):
        return color
    return tf.concat([color, tf.reduce_mean(image, axis=[0, 1])[len(pad_color) :]], axis=0)
