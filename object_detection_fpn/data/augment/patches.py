"""Augmentations that spoil square patches of the image and leave boxes alone, with the Object Detection API's parameters.

Every function takes an `Example` and `seed`, [2] int32, from which alone its random choices follow. Results are float32;
all channels change.
"""

from __future__ import annotations

import tensorflow as tf

from object_detection_fpn.data.augment import common
from object_detection_fpn.data.example import Example


def random_black_patches(
    example: Example,
    *,
    seed: tf.Tensor,
    max_black_patches: int = 10,
    probability: float = 0.5,
    size_to_image_ratio: float = 0.1,
) -> Example:
    """Blackens squares.

    Args:
        example: image and objects.
        seed: [2] int32.
        max_black_patches: how many squares may be drawn.
        probability: of each being drawn.
        size_to_image_ratio: side of the squares, as a share of the image's shorter side.
    """
    choice_seed, place_seed = common.split(seed, 2)
    image = tf.cast(example.image, tf.float32)
    size = tf.shape(image)[:2]
    side = tf.cast(tf.cast(tf.reduce_min(size), tf.float32) * size_to_image_ratio, tf.int32)
    is_drawn = tf.random.stateless_uniform([max_black_patches], choice_seed) <= probability
    begin = tf.random.stateless_uniform([max_black_patches, 2], place_seed, 0.0, 1.0 - size_to_image_ratio)
    begin = tf.cast(begin * tf.cast(size, tf.float32), tf.int32)
    rows = _is_between(size[0], begin[:, 0], begin[:, 0] + side) & is_drawn[:, tf.newaxis]  # [patches, H]
    columns = _is_between(size[1], begin[:, 1], begin[:, 1] + side)  # [patches, W]
    num_patches = tf.matmul(tf.cast(rows, tf.float32), tf.cast(columns, tf.float32), transpose_a=True)  # [H, W]
    return example._replace(image=tf.where(num_patches[..., tf.newaxis] > 0, 0.0, image))


def random_patch_gaussian(
    example: Example,
    *,
    seed: tf.Tensor,
    random_coef: float = 0.0,
    min_patch_size: int = 1,
    max_patch_size: int = 250,
    min_gaussian_stddev: float = 0.0,
    max_gaussian_stddev: float = 1.0,
) -> Example:
    """Adds Gaussian noise to a square around a random pixel (Lopes et al., 2019); the result is clipped to [0, 255].

    Args:
        example: image and objects.
        seed: [2] int32.
        random_coef: probability of leaving the image as it is.
        min_patch_size: smallest side, pixels.
        max_patch_size: no side reaches this, unless the smallest equals it.
        min_gaussian_stddev: smallest standard deviation, where 1 is the whole range of values.
        max_gaussian_stddev: largest standard deviation.
    """
    seeds = common.split(seed, 6)
    image = tf.cast(example.image, tf.float32)
    size = tf.shape(image)[:2]

    def with_noise() -> tf.Tensor:
        side = common.random_integer(seeds[1], min_patch_size, max_patch_size)
        stddev = tf.random.stateless_uniform([], seeds[2], min_gaussian_stddev, max_gaussian_stddev)
        begin = [common.random_integer(seeds[3 + i], 0, size[i]) - side // 2 for i in range(2)]
        rows, columns = (_is_between(size[i], begin[i], begin[i] + side) for i in range(2))
        noise = 255.0 * stddev * tf.random.stateless_normal(tf.shape(image), seeds[5])
        noisy = tf.clip_by_value(image + noise, 0.0, 255.0)
        return tf.where((rows[:, tf.newaxis] & columns)[..., tf.newaxis], noisy, image)

    return example._replace(image=tf.cond(common.happens(seeds[0], random_coef), lambda: image, with_noise))


def _is_between(length: tf.Tensor, begin: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """[..., length] bool, True from each `begin` [...] up to, not including, its `end`."""
    positions = tf.range(length)
    return (positions >= begin[..., tf.newaxis]) & (positions < end[..., tf.newaxis])
