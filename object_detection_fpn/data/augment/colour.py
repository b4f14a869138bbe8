"""Augmentations that change colours and leave boxes alone, with the Object Detection API's parameters and effect.

Every function takes an `Example` and `seed`, [2] int32, from which alone its random choices follow. Only the first
three channels are colours; unless stated otherwise, additional ones are left as they are. Results are float32, clipped
to [0, 255] but for `normalize_image` and `subtract_channel_mean`, which are there to leave that range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from object_detection_fpn.data.augment import common
from object_detection_fpn.data.example import Example

_NUM_COLOURS = 3


def random_adjust_brightness(example: Example, *, seed: tf.Tensor, max_delta: float = 0.2) -> Example:
    """Adds to all values an amount from [-max_delta, max_delta], where 1 is the whole range of values."""
    delta = tf.random.stateless_uniform([], seed, -max_delta, max_delta)
    return _change_colours(example, lambda image: image + delta)


def random_adjust_contrast(
    example: Example, *, seed: tf.Tensor, min_delta: float = 0.8, max_delta: float = 1.25
) -> Example:
    """Multiplies the distance of all values to their channel's mean by a factor from [min_delta, max_delta]."""
    factor = tf.random.stateless_uniform([], seed, min_delta, max_delta)
    return _change_colours(example, lambda image: tf.image.adjust_contrast(image, factor))


def random_adjust_hue(example: Example, *, seed: tf.Tensor, max_delta: float = 0.02) -> Example:
    """Turns the hue by an amount from [-max_delta, max_delta], where 1 is a full turn."""
    delta = tf.random.stateless_uniform([], seed, -max_delta, max_delta)
    return _change_colours(example, lambda image: tf.image.adjust_hue(image, delta))


def random_adjust_saturation(
    example: Example, *, seed: tf.Tensor, min_delta: float = 0.8, max_delta: float = 1.25
) -> Example:
    """Multiplies the saturation by a factor from [min_delta, max_delta]."""
    factor = tf.random.stateless_uniform([], seed, min_delta, max_delta)
    return _change_colours(example, lambda image: tf.image.adjust_saturation(image, factor))


def random_distort_color(example: Example, *, seed: tf.Tensor, color_ordering: int = 0) -> Example:
    """Changes brightness, saturation, hue and contrast strongly, as SSD does.

    Args:
        example: image and objects.
        seed: [2] int32.
        color_ordering: 0 changes contrast last, 1 right after brightness.

    Raises:
        ValueError: if `color_ordering` is neither 0 nor 1.
    """
    if color_ordering not in (0, 1):
        raise ValueError(f"color_ordering = {color_ordering} is unknown. Allowed: 0, 1.")
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 4))
    example = random_adjust_brightness(example, seed=seeds[0], max_delta=32.0 / 255.0)
    if color_ordering == 1:
        example = random_adjust_contrast(example, seed=seeds[3], min_delta=0.5, max_delta=1.5)
    example = random_adjust_saturation(example, seed=seeds[1], min_delta=0.5, max_delta=1.5)
    example = random_adjust_hue(example, seed=seeds[2], max_delta=0.2)
    if color_ordering == 0:
        example = random_adjust_contrast(example, seed=seeds[3], min_delta=0.5, max_delta=1.5)
    return example


def random_pixel_value_scale(example: Example, *, seed: tf.Tensor, minval: float = 0.9, maxval: float = 1.1) -> Example:
    """Multiplies every single value, those of additional channels too, by its own factor from [minval, maxval]."""
    image = tf.cast(example.image, tf.float32)
    image *= tf.random.stateless_uniform(tf.shape(image), seed, minval, maxval)
    return example._replace(image=tf.clip_by_value(image, 0.0, 255.0))


def random_rgb_to_gray(example: Example, *, seed: tf.Tensor, probability: float = 0.1) -> Example:
    """Takes the colour out with `probability`; the image keeps three (equal) channels."""
    is_gray = common.happens(seed, probability)
    return _change_colours(example, lambda image: tf.cond(is_gray, lambda: _to_gray(image), lambda: image))


def rgb_to_gray(example: Example, *, seed: tf.Tensor) -> Example:
    """Takes the colour out; `seed` is not used.

    The Object Detection API leaves one channel, which its models do not take; here the image keeps three equal ones.
    """
    return _change_colours(example, _to_gray)


def adjust_gamma(example: Example, *, seed: tf.Tensor, gamma: float = 1.0, gain: float = 1.0) -> Example:
    """Makes each value x, where 1 is the end of the range, gain * x ^ gamma; `seed` is not used."""
    return _change_colours(example, lambda image: tf.image.adjust_gamma(image, gamma, gain))


def random_jpeg_quality(
    example: Example,
    *,
    seed: tf.Tensor,
    random_coef: float = 0.0,
    min_jpeg_quality: int = 0,
    max_jpeg_quality: int = 100,
) -> Example:
    """Compresses the image as a JPEG of random quality and decodes it again.

    Args:
        example: image and objects.
        seed: [2] int32.
        random_coef: probability of leaving the image as it is.
        min_jpeg_quality: lowest quality, 0 to 100.
        max_jpeg_quality: no quality reaches this, unless the lowest equals it.
    """
    choice_seed, quality_seed = common.split(seed, 2)
    is_kept = common.happens(choice_seed, random_coef)
    quality = common.random_integer(quality_seed, min_jpeg_quality, max_jpeg_quality)

    def compress(image: tf.Tensor) -> tf.Tensor:
        # Cut off to whole values, as in the Object Detection API; a little more keeps 254.99999 from becoming 254.
        pixels = tf.cast(image * 255.0 + 1e-3, tf.uint8)
        decoded = tf.image.adjust_jpeg_quality(pixels, quality)
        return tf.reshape(tf.cast(decoded, tf.float32) / 255.0, tf.shape(image))

    return _change_colours(example, lambda image: tf.cond(is_kept, lambda: image, lambda: compress(image)))


def normalize_image(
    example: Example,
    *,
    seed: tf.Tensor,
    original_minval: float,
    original_maxval: float,
    target_minval: float = 0.0,
    target_maxval: float = 1.0,
) -> Example:
    """Maps a range of values onto another, linearly, in all channels; `seed` is not used.

    The model expects values from 0 to 255 and subtracts its own means from them, and evaluation does not augment: this is
    for configs that know why.
    """
    scale = (target_maxval - target_minval) / (original_maxval - original_minval)
    return example._replace(image=(tf.cast(example.image, tf.float32) - original_minval) * scale + target_minval)


def subtract_channel_mean(example: Example, *, seed: tf.Tensor, means: Sequence[float]) -> Example:
    """Subtracts one value from each channel, before the model subtracts its own; `seed` is not used.

    Raises:
        ValueError: if there is not one mean for each channel.
    """
    if len(means) != example.image.shape[-1]:
        raise ValueError(f"means has {len(means)} values; the image has {example.image.shape[-1]} channels.")
    return example._replace(image=tf.cast(example.image, tf.float32) - tf.constant(means, tf.float32))


def _to_gray(colours: tf.Tensor) -> tf.Tensor:
    return tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(colours))


def _change_colours(example: Example, change: Callable[[tf.Tensor], tf.Tensor]) -> Example:
    """Applies `change`, which takes and gives [H, W, 3] float32 in [0, 1], to the colours."""
    image = tf.cast(example.image, tf.float32)
    colours = tf.clip_by_value(change(image[..., :_NUM_COLOURS] / 255.0) * 255.0, 0.0, 255.0)
    if image.shape[-1] == _NUM_COLOURS:
        return example._replace(image=colours)
    return example._replace(image=tf.concat([colours, image[..., _NUM_COLOURS:]], axis=-1))
