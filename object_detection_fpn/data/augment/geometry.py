"""Augmentations that mirror, turn, scale and repeat the whole image, with the Object Detection API's parameters and effect.

Every function draws a `Warp` of an `Example` from `seed`, [2] int32, alone; equal seeds give equal results. Images may be
uint8 or float32; values are in [0, 255].
"""

from __future__ import annotations

import functools

import tensorflow as tf

from object_detection_fpn.data import resample
from object_detection_fpn.data.augment import common, warp
from object_detection_fpn.data.augment.warp import Warp
from object_detection_fpn.data.example import Example


@warp.applied
def random_horizontal_flip(example: Example, *, seed: tf.Tensor, probability: float = 0.5) -> Warp:
    """Mirrors left and right.

    Args:
        example: image and objects.
        seed: [2] int32.
        probability: of being mirrored.
    """
    return Warp(is_mirrored=common.happens(seed, probability))


@warp.applied
def random_vertical_flip(example: Example, *, seed: tf.Tensor, probability: float = 0.5) -> Warp:
    """Mirrors top and bottom.

    Args:
        example: image and objects.
        seed: [2] int32.
        probability: of being mirrored.
    """
    return Warp(is_flipped=common.happens(seed, probability))


@warp.applied
def random_rotation90(example: Example, *, seed: tf.Tensor, probability: float = 0.5) -> Warp:
    """Turns by 90 degrees counter-clockwise, which swaps height and width.

    Args:
        example: image and objects.
        seed: [2] int32.
        probability: of being turned.
    """
    return Warp(is_turned=common.happens(seed, probability))


@warp.applied
def random_image_scale(
    example: Example, *, seed: tf.Tensor, min_scale_ratio: float = 0.5, max_scale_ratio: float = 2.0
) -> Warp:
    """Scales both sides by one random factor; boxes, being normalized, stay as they are.

    Args:
        example: image and objects.
        seed: [2] int32.
        min_scale_ratio: smallest factor.
        max_scale_ratio: largest factor.

    Raises:
        ValueError: if a ratio is not positive or the smallest exceeds the largest.
    """
    if not 0 < min_scale_ratio <= max_scale_ratio:
        raise ValueError(
            f"min_scale_ratio = {min_scale_ratio}, max_scale_ratio = {max_scale_ratio}: 0 < min <= max needed."
        )
    ratio = tf.random.stateless_uniform([], seed, min_scale_ratio, max_scale_ratio)
    size = tf.cast(tf.cast(tf.shape(example.image)[:2], tf.float32) * ratio, tf.int32)
    # Corners aligned, as in the Object Detection API. One pixel is the least that a one-pixel image can shrink to.
    return Warp(tf.maximum(size, 1), functools.partial(resample.resample, method="bilinear", align_corners=True))


@warp.applied
def resize_image(
    example: Example, *, seed: tf.Tensor, new_height: int, new_width: int, method: resample.Method = "bilinear"
) -> Warp:
    """Stretches the image to a fixed size; boxes, being normalized, stay as they are.

    Args:
        example: image and objects.
        seed: not used: nothing here is random.
        new_height: pixels.
        new_width: pixels.
        method: interpolation.
    """
    return Warp(tf.constant([new_height, new_width]), functools.partial(resample.resample, method=method))


@warp.applied
def random_resize_method(example: Example, *, seed: tf.Tensor, target_height: int, target_width: int) -> Warp:
    """Stretches the image to a fixed size by one of four interpolations, each as often as the others.

    Args:
        example: image and objects.
        seed: [2] int32.
        target_height: pixels.
        target_width: pixels.
    """
    index = common.random_integer(seed, 0, len(resample.METHODS))

    def resample_by_drawn_method(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        return tf.switch_case(
            index, [functools.partial(resample.resample, image, size, method=method) for method in resample.METHODS]
        )

    return Warp(tf.constant([target_height, target_width]), resample_by_drawn_method)


@warp.applied
def random_downscale_to_target_pixels(
    example: Example,
    *,
    seed: tf.Tensor,
    random_coef: float = 0.0,
    min_target_pixels: int = 300000,
    max_target_pixels: int = 500000,
) -> Warp:
    """Shrinks an image that has more pixels than a target drawn at random to that many, keeping its aspect ratio.

    Args:
        example: image and objects.
        seed: [2] int32.
        random_coef: probability of leaving the image as it is.
        min_target_pixels: smallest target, height times width.
        max_target_pixels: no target reaches this, unless the smallest equals it.
    """
    choice_seed, target_seed = common.split(seed, 2)
    size = tf.shape(example.image)[:2]
    sides = tf.cast(size, tf.float32)
    num_pixels = tf.reduce_prod(sides)
    target = tf.cast(common.random_integer(target_seed, min_target_pixels, max_target_pixels), tf.float32)
    small = tf.maximum(tf.cast(sides * tf.sqrt(target / num_pixels), tf.int32), 1)
    is_shrunk = ~common.happens(choice_seed, random_coef) & (num_pixels > target)
    # Resampling to the size that the image has is a copy.
    return Warp(tf.where(is_shrunk, small, size), functools.partial(resample.resample, method="bilinear"))


@warp.applied
def random_self_concat_image(
    example: Example,
    *,
    seed: tf.Tensor,
    concat_vertical_probability: float = 0.1,
    concat_horizontal_probability: float = 0.1,
) -> Warp:
    """Puts a copy of the image below it, then a copy of what there is beside it, each with a probability of its own.

    Args:
        example: image and objects.
        seed: [2] int32.
        concat_vertical_probability: of a copy below.
        concat_horizontal_probability: of a copy to the right.
    """
    vertical_seed, horizontal_seed = common.split(seed, 2)
    is_vertical = common.happens(vertical_seed, concat_vertical_probability)
    return Warp(is_repeated=(is_vertical, common.happens(horizontal_seed, concat_horizontal_probability)))
