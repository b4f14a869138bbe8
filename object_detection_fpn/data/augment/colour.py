"""Augmentations that change colours and leave boxes alone, with the Object Detection API's parameters and effect.

Every function takes an `Example` and `seed`, [2] int32, from which alone its random choices follow. Only the first
three channels are colours; additional ones are left as they are. Results are float32, clipped to [0, 255].
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from object_detection_fpn.data.decoder import Example

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
    """Multiplies every single value by its own factor from [minval, maxval]."""

    def scale(image: tf.Tensor) -> tf.Tensor:
        return image * tf.random.stateless_uniform(tf.shape(image), seed, minval, maxval)

    return _change_colours(example, scale)


def random_rgb_to_gray(example: Example, *, seed: tf.Tensor, probability: float = 0.1) -> Example:
    """Takes the colour out with `probability`; the image keeps three (equal) channels."""
    is_gray = tf.random.stateless_uniform([], seed) < probability

    def to_gray(image: tf.Tensor) -> tf.Tensor:
        return tf.cond(is_gray, lambda: tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image)), lambda: image)

    return _change_colours(example, to_gray)


def _change_colours(example: Example, change: Callable[[tf.Tensor], tf.Tensor]) -> Example:
    """Applies `change`, which takes and gives [H, W, 3] float32 in [0, 1], to the colours."""
    image = tf.cast(example.image, tf.float32)
    colours = tf.clip_by_value(change(image[..., :_NUM_COLOURS] / 255.0) * 255.0, 0.0, 255.0)
    if image.shape[-1] == _NUM_COLOURS:
        return example._replace(image=colours)
    return example._replace(image=tf.concat([colours, image[..., _NUM_COLOURS:]], axis=-1))
