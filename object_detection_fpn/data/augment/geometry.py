"""Augmentations that move pixels and boxes together, with the Object Detection API's parameters, defaults and effect.

Every function takes an `Example` and `seed`, [2] int32, from which alone its random choices follow; equal seeds give
equal results. Images may be uint8 or float32; values are in [0, 255].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from object_detection_fpn.data.decoder import Example, Objects, with_none, without_none
from object_detection_fpn.ops import boxes as box_ops


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


def random_crop_image(
    example: Example,
    *,
    seed: tf.Tensor,
    min_object_covered: float = 1.0,
    aspect_ratio_range: Sequence[float] = (0.75, 1.33),
    area_range: Sequence[float] = (0.1, 1.0),
    overlap_thresh: float = 0.3,
    random_coef: float = 0.0,
    clip_boxes: bool = True,
) -> Example:
    """Cuts out a random window and drops the objects that lie too little inside it.

    If no window within the ranges covers an object sufficiently in 100 tries, the image stays whole.

    Args:
        example: image and objects.
        seed: [2] int32.
        min_object_covered: the window holds at least this share of at least one box.
        aspect_ratio_range: smallest and largest width / height of the window.
        area_range: smallest and largest area of the window, as a share of the image.
        overlap_thresh: boxes of which a smaller share lies inside the window are dropped.
        random_coef: probability of leaving the image whole.
        clip_boxes: clip the boxes to the window; False leaves boxes that reach beyond it.
    """
    choice_seed, window_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))

    def crop() -> Example:
        begin, size, window = tf.image.stateless_sample_distorted_bounding_box(
            tf.shape(example.image),
            tf.clip_by_value(example.objects.boxes, 0.0, 1.0)[tf.newaxis],
            window_seed,
            min_object_covered=min_object_covered,
            aspect_ratio_range=aspect_ratio_range,
            area_range=area_range,
            max_attempts=100,
            use_image_if_no_bounding_boxes=True,
        )
        image = tf.ensure_shape(tf.slice(example.image, begin, size), [None, None, example.image.shape[-1]])
        objects = _move_into_window(example.objects, window[0, 0], overlap_thresh=overlap_thresh, clip_boxes=clip_boxes)
        return Example(image, objects)

    if random_coef <= 0:
        return crop()
    return _choose(tf.random.stateless_uniform([], choice_seed) > random_coef, crop, lambda: example)


def _with_probability(
    example: Example, change: Callable[[], tuple[tf.Tensor, tf.Tensor]], probability: float, seed: tf.Tensor
) -> Example:
    """Applies `change`, which gives a new image and new boxes, with `probability`; the rows stay the same ones."""

    def changed() -> Example:
        image, boxes = change()
        return Example(image, example.objects._replace(boxes=boxes))

    return _choose(tf.random.stateless_uniform([], seed) < probability, changed, lambda: example)


def _choose(condition: tf.Tensor, if_true: Callable[[], Example], if_false: Callable[[], Example]) -> Example:
    """`tf.cond` for examples; both branches have the same optional fields."""
    results: list[Example] = []

    def tensors_of(branch: Callable[[], Example]) -> list[tf.Tensor]:
        results.append(branch())
        return without_none(results[-1])

    chosen = tf.cond(condition, lambda: tensors_of(if_true), lambda: tensors_of(if_false))
    return with_none(chosen, like=results[0])


def _move_into_window(objects: Objects, window: tf.Tensor, *, overlap_thresh: float, clip_boxes: bool) -> Objects:
    """Expresses boxes in the frame of `window` [4] (normalized), without those that lie too little inside it."""
    inside = box_ops.pairwise_ioa(objects.boxes, window[tf.newaxis])[:, 0]
    # A box that only touches the window goes even if the threshold is 0.
    objects = objects.select((inside > 0) & (inside >= overlap_thresh))
    boxes = box_ops.change_frame(objects.boxes, window)
    return objects._replace(boxes=tf.clip_by_value(boxes, 0.0, 1.0) if clip_boxes else boxes)
