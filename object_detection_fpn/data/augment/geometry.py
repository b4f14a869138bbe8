"""Augmentations that mirror, turn, scale and repeat the whole image, with the Object Detection API's parameters and effect.

Every function takes an `Example` and `seed`, [2] int32, from which alone its random choices follow; equal seeds give
equal results. Images may be uint8 or float32; values are in [0, 255].
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from object_detection_fpn.data import resize
from object_detection_fpn.data.augment import common
from object_detection_fpn.data.example import Example, Objects
from object_detection_fpn.ops import boxes as box_ops

_METHODS: tuple[resize.Method, ...] = ("bilinear", "nearest", "bicubic", "area")


def random_horizontal_flip(example: Example, *, seed: tf.Tensor, probability: float = 0.5) -> Example:
    """Mirrors left and right.

    Args:
        example: image and objects.
        seed: [2] int32.
        probability: of being mirrored.
    """

    def flip() -> tuple[tf.Tensor, tf.Tensor]:
        return tf.reverse(example.image, [1]), box_ops.flip_left_right(example.objects.boxes)

    return _with_probability(example, flip, probability, seed)


def random_vertical_flip(example: Example, *, seed: tf.Tensor, probability: float = 0.5) -> Example:
    """Mirrors top and bottom.

    Args:
        example: image and objects.
        seed: [2] int32.
        probability: of being mirrored.
    """

    def flip() -> tuple[tf.Tensor, tf.Tensor]:
        return tf.reverse(example.image, [0]), box_ops.flip_up_down(example.objects.boxes)

    return _with_probability(example, flip, probability, seed)


def random_rotation90(example: Example, *, seed: tf.Tensor, probability: float = 0.5) -> Example:
    """Turns by 90 degrees counter-clockwise, which swaps height and width.

    Args:
        example: image and objects.
        seed: [2] int32.
        probability: of being turned.
    """

    def turn() -> tuple[tf.Tensor, tf.Tensor]:
        ymin, xmin, ymax, xmax = tf.unstack(example.objects.boxes, axis=-1)
        return tf.image.rot90(example.image), tf.stack([1.0 - xmax, ymin, 1.0 - xmin, ymax], axis=-1)

    return _with_probability(example, turn, probability, seed)


def random_image_scale(
    example: Example, *, seed: tf.Tensor, min_scale_ratio: float = 0.5, max_scale_ratio: float = 2.0
) -> Example:
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
    image = tf.raw_ops.ResizeBilinear(images=example.image[tf.newaxis], size=tf.maximum(size, 1), align_corners=True)[0]
    return example._replace(image=image)


def resize_image(
    example: Example, *, seed: tf.Tensor, new_height: int, new_width: int, method: resize.Method = "bilinear"
) -> Example:
    """Stretches the image to a fixed size; boxes, being normalized, stay as they are.

    Args:
        example: image and objects.
        seed: not used: nothing here is random.
        new_height: pixels.
        new_width: pixels.
        method: interpolation.
    """
    image, _ = resize.fixed_shape(height=new_height, width=new_width, method=method)(example.image)
    return example._replace(image=image)


def random_resize_method(example: Example, *, seed: tf.Tensor, target_height: int, target_width: int) -> Example:
    """Stretches the image to a fixed size by one of four interpolations, each as often as the others.

    Args:
        example: image and objects.
        seed: [2] int32.
        target_height: pixels.
        target_width: pixels.
    """

    def resized(method: resize.Method) -> Callable[[], tf.Tensor]:
        return lambda: resize.fixed_shape(height=target_height, width=target_width, method=method)(example.image)[0]

    index = common.random_integer(seed, 0, len(_METHODS))
    return example._replace(image=tf.switch_case(index, [resized(method) for method in _METHODS]))


def random_downscale_to_target_pixels(
    example: Example,
    *,
    seed: tf.Tensor,
    random_coef: float = 0.0,
    min_target_pixels: int = 300000,
    max_target_pixels: int = 500000,
) -> Example:
    """Shrinks an image that has more pixels than a target drawn at random to that many, keeping its aspect ratio.

    Args:
        example: image and objects.
        seed: [2] int32.
        random_coef: probability of leaving the image as it is.
        min_target_pixels: smallest target, height times width.
        max_target_pixels: no target reaches this, unless the smallest equals it.
    """
    choice_seed, target_seed = common.split(seed, 2)
    image = tf.cast(example.image, tf.float32)
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    num_pixels = tf.reduce_prod(size)
    target = tf.cast(common.random_integer(target_seed, min_target_pixels, max_target_pixels), tf.float32)

    def shrink() -> tf.Tensor:
        new_size = tf.maximum(tf.cast(size * tf.sqrt(target / num_pixels), tf.int32), 1)
        return tf.raw_ops.ResizeBilinear(images=image[tf.newaxis], size=new_size)[0]

    is_wanted = ~common.happens(choice_seed, random_coef) & (num_pixels > target)
    return example._replace(image=tf.cond(is_wanted, shrink, lambda: image))


def random_self_concat_image(
    example: Example,
    *,
    seed: tf.Tensor,
    concat_vertical_probability: float = 0.1,
    concat_horizontal_probability: float = 0.1,
) -> Example:
    """Puts a copy of the image below it, then a copy of what there is beside it, each with a probability of its own.

    Args:
        example: image and objects.
        seed: [2] int32.
        concat_vertical_probability: of a copy below.
        concat_horizontal_probability: of a copy to the right.
    """

    def repeated(example: Example, axis: int) -> Example:
        half = tf.constant([[0.5, 1.0, 0.5, 1.0], [1.0, 0.5, 1.0, 0.5]][axis])
        twice = Objects(*(None if f is None else tf.concat([f, f], axis=0) for f in example.objects))
        boxes = example.objects.boxes * half
        moved = boxes + (1.0 - half)
        return Example(
            tf.concat([example.image, example.image], axis), twice._replace(boxes=tf.concat([boxes, moved], 0))
        )

    vertical_seed, horizontal_seed = common.split(seed, 2)
    is_vertical = common.happens(vertical_seed, concat_vertical_probability)
    tall = common.choose(is_vertical, lambda: repeated(example, 0), lambda: example)
    is_horizontal = common.happens(horizontal_seed, concat_horizontal_probability)
    return common.choose(is_horizontal, lambda: repeated(tall, 1), lambda: tall)


def _with_probability(
    example: Example, change: Callable[[], tuple[tf.Tensor, tf.Tensor]], probability: float, seed: tf.Tensor
) -> Example:
    """Applies `change`, which gives a new image and new boxes, with `probability`; the rows stay the same ones."""

    def changed() -> Example:
        image, boxes = change()
        return Example(image, example.objects._replace(boxes=boxes))

    return common.choose(common.happens(seed, probability), changed, lambda: example)
