"""Augmentations that cut a region out of the image, with the Object Detection API's parameters and effect.

Every function takes an `Example` and `seed`, [2] int32, from which alone its random choices follow. Objects that lie too
little inside the region are dropped, with all their fields.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

from object_detection_fpn.data.augment import common, pad
from object_detection_fpn.data.example import Example, Objects


def random_crop_image(
    example: Example,
    *,
    seed: tf.Tensor,
    min_object_covered: float = 1.0,
    min_aspect_ratio: float = 0.75,
    max_aspect_ratio: float = 1.33,
    min_area: float = 0.1,
    max_area: float = 1.0,
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
        min_aspect_ratio: smallest width / height of the window.
        max_aspect_ratio: largest width / height.
        min_area: smallest area of the window, as a share of the image.
        max_area: largest area.
        overlap_thresh: boxes of which a smaller share lies inside the window are dropped.
        random_coef: probability of leaving the image whole.
        clip_boxes: clip the boxes to the window; False leaves boxes that reach beyond it.
    """
    window, objects = random_crop_window(
        tf.shape(example.image)[:2],
        example.objects,
        seed=seed,
        min_object_covered=min_object_covered,
        min_aspect_ratio=min_aspect_ratio,
        max_aspect_ratio=max_aspect_ratio,
        min_area=min_area,
        max_area=max_area,
        overlap_thresh=overlap_thresh,
        random_coef=random_coef,
        clip_boxes=clip_boxes,
    )
    top, left, height, width = tf.unstack(window)
    return example._replace(image=example.image[top : top + height, left : left + width], objects=objects)


def random_crop_window(
    image_size: tf.Tensor,
    objects: Objects,
    *,
    seed: tf.Tensor,
    min_object_covered: float,
    min_aspect_ratio: float,
    max_aspect_ratio: float,
    min_area: float,
    max_area: float,
    overlap_thresh: float,
    random_coef: float,
    clip_boxes: bool,
) -> tuple[tf.Tensor, Objects]:
    """Chooses the window that `random_crop_image` cuts out, for images that are not decoded yet.

    Args:
        image_size: [2] int32, height and width.
        objects: of the image.
        seed: [2] int32.
        min_object_covered: see `random_crop_image`, like all that follow.
        min_aspect_ratio: of the window.
        max_aspect_ratio: of the window.
        min_area: of the window.
        max_area: of the window.
        overlap_thresh: of boxes and window.
        random_coef: probability of the whole image.
        clip_boxes: to the window.

    Returns:
        The window, [4] int32 (top, left, height, width) in pixels, and the objects in its frame.
    """
    choice_seed, window_seed = common.split(seed, 2)

    def crop() -> Example:
        begin, size, window = tf.image.stateless_sample_distorted_bounding_box(
            tf.concat([image_size, [1]], axis=0),
            tf.clip_by_value(objects.boxes, 0.0, 1.0)[tf.newaxis],
            window_seed,
            min_object_covered=min_object_covered,
            aspect_ratio_range=(min_aspect_ratio, max_aspect_ratio),
            area_range=(min_area, max_area),
            max_attempts=100,
            use_image_if_no_bounding_boxes=True,
        )
        moved = common.move_into_window(objects, window[0, 0], overlap_thresh=overlap_thresh, clip_boxes=clip_boxes)
        return Example(tf.concat([begin[:2], size[:2]], axis=0), moved)

    whole = Example(tf.concat([[0, 0], image_size], axis=0), objects)
    chosen = (
        crop() if random_coef <= 0 else common.choose(common.happens(choice_seed, random_coef), lambda: whole, crop)
    )
    return chosen.image, chosen.objects


def random_crop_pad_image(
    example: Example,
    *,
    seed: tf.Tensor,
    min_object_covered: float = 1.0,
    min_aspect_ratio: float = 0.75,
    max_aspect_ratio: float = 1.33,
    min_area: float = 0.1,
    max_area: float = 1.0,
    overlap_thresh: float = 0.3,
    random_coef: float = 0.0,
    clip_boxes: bool = True,
    min_padded_size_ratio: Sequence[float] = (1.0, 1.0),
    max_padded_size_ratio: Sequence[float] = (2.0, 2.0),
    pad_color: Sequence[float] = (),
) -> Example:
    """Crops like `random_crop_image`, then puts the crop at a random place of a larger image.

    Args:
        example: image and objects.
        seed: [2] int32.
        min_object_covered: see `random_crop_image`, like all up to `clip_boxes`.
        min_aspect_ratio: of the window.
        max_aspect_ratio: of the window.
        min_area: of the window.
        max_area: of the window.
        overlap_thresh: of boxes and window.
        random_coef: probability of leaving out the crop, not the padding.
        clip_boxes: to the window.
        min_padded_size_ratio: smallest height and width of the result, as shares of the image before the crop; where the
            crop is larger, its own.
        max_padded_size_ratio: largest height and width, likewise.
        pad_color: see `pad.random_pad_image`; empty for the mean of the crop.
    """
    crop_seed, pad_seed = common.split(seed, 2)
    size = tf.cast(tf.shape(example.image)[:2], tf.float32)
    cropped = random_crop_image(
        example,
        seed=crop_seed,
        min_object_covered=min_object_covered,
        min_aspect_ratio=min_aspect_ratio,
        max_aspect_ratio=max_aspect_ratio,
        min_area=min_area,
        max_area=max_area,
        overlap_thresh=overlap_thresh,
        random_coef=random_coef,
        clip_boxes=clip_boxes,
    )
    return pad.pad_at_random(
        cropped,
        tf.cast(size * tf.constant(min_padded_size_ratio, tf.float32), tf.int32),
        tf.cast(size * tf.constant(max_padded_size_ratio, tf.float32), tf.int32),
        pad_color,
        seed=pad_seed,
    )


def random_crop_to_aspect_ratio(
    example: Example,
    *,
    seed: tf.Tensor,
    aspect_ratio: float = 1.0,
    overlap_thresh: float = 0.3,
    clip_boxes: bool = True,
) -> Example:
    """Cuts the largest window of an aspect ratio out of a random place.

    Args:
        example: image and objects.
        seed: [2] int32.
        aspect_ratio: width / height of the window.
        overlap_thresh: boxes of which a smaller share lies inside the window are dropped.
        clip_boxes: clip the boxes to the window; False leaves boxes that reach beyond it.
    """
    full = tf.shape(example.image)[:2]
    height, width = tf.unstack(tf.cast(full, tf.float32))
    size = tf.cast(tf.round([width / aspect_ratio, height * aspect_ratio]), tf.int32)
    size = tf.clip_by_value(size, 1, full)  # a strip keeps one pixel
    begin = tf.stack([common.random_integer(s, 0, full[i] - size[i] + 1) for i, s in enumerate(common.split(seed, 2))])
    window = tf.cast(tf.concat([begin, begin + size], 0), tf.float32) / tf.stack([height, width, height, width])
    image = example.image[begin[0] : begin[0] + size[0], begin[1] : begin[1] + size[1]]
    objects = common.move_into_window(example.objects, window, overlap_thresh=overlap_thresh, clip_boxes=clip_boxes)
    return Example(image, objects)


def random_square_crop_by_scale(
    example: Example,
    *,
    seed: tf.Tensor,
    max_border: int = 128,
    scale_min: float = 0.6,
    scale_max: float = 1.3,
    num_scales: int = 8,
) -> Example:
    """Cuts out a square around a random point; what lies outside the image is black (CenterNet, Zhou et al., 2019).

    The Object Detection API blackens the last row and column of the image wherever the square reaches beyond them; here
    they stay.

    Args:
        example: image and objects.
        seed: [2] int32.
        max_border: pixels by which the point keeps away from the border; halved until they are less than half of the side.
        scale_min: smallest side of the square, as a share of the image's longer side.
        scale_max: largest side.
        num_scales: how many sides, evenly spaced from the smallest to the largest, there are to draw from.
    """
    scale_seed, *centre_seeds = common.split(seed, 3)
    full = tf.shape(example.image)[:2]
    scales = tf.linspace(tf.constant(scale_min, tf.float32), scale_max, num_scales)
    scale = scales[common.random_integer(scale_seed, 0, num_scales)]
    side = tf.maximum(tf.cast(scale * tf.cast(tf.reduce_max(full), tf.float32), tf.int32), 1)
    half_sides = 2.0 * max_border / tf.cast(full, tf.float32)
    num_halvings = tf.math.ceil(tf.math.log(tf.maximum(half_sides, 1.0)) / math.log(2.0))
    border = max_border // tf.cast(2.0**num_halvings, tf.int32)
    centre = [common.random_integer(s, border[i], full[i] - border[i] + 1) for i, s in enumerate(centre_seeds)]
    begin = tf.minimum(tf.stack(centre), full - 1) - side // 2
    return _square_at(example, begin, side)


def random_scale_crop_and_pad_to_square(
    example: Example, *, seed: tf.Tensor, output_size: int = 512, scale_min: float = 0.1, scale_max: float = 2.0
) -> Example:
    """Scales the image, then cuts or pads it to a square (EfficientDet, Tan et al., 2020); the padding is black.

    Args:
        example: image and objects.
        seed: [2] int32.
        output_size: side of the square, pixels.
        scale_min: smallest longer side of the scaled image, as a share of `output_size`.
        scale_max: largest longer side.
    """
    scale_seed, *offset_seeds = common.split(seed, 3)
    scale = tf.random.stateless_uniform([], scale_seed, scale_min, scale_max)
    size = tf.cast(tf.shape(example.image)[:2], tf.float32)
    size = tf.maximum(tf.cast(scale * output_size * size / tf.reduce_max(size), tf.int32), 1)
    image = tf.raw_ops.ResizeBilinear(images=example.image[tf.newaxis], size=size)[0]
    room = tf.cast(tf.maximum(size - output_size, 0), tf.float32)
    shares = tf.stack([tf.random.stateless_uniform([], s) for s in offset_seeds])
    scaled = _square_at(example._replace(image=image), tf.cast(room * shares, tf.int32), tf.constant(output_size))
    return scaled._replace(image=tf.ensure_shape(scaled.image, [output_size, output_size, None]))


def _square_at(example: Example, begin: tf.Tensor, side: tf.Tensor) -> Example:
    """The square whose upper left corner is pixel `begin` [2], black where it leaves the image; float32."""
    image = tf.cast(example.image, tf.float32)
    full = tf.shape(image)[:2]
    low, high = tf.maximum(begin, 0), tf.minimum(begin + side, full)
    inside = image[low[0] : high[0], low[1] : high[1]]
    paddings = tf.concat([tf.stack([low - begin, begin + side - high], axis=-1), [[0, 0]]], axis=0)
    window = tf.concat([begin, begin + side], 0) / tf.concat([full, full], 0)
    return Example(
        tf.ensure_shape(tf.pad(inside, paddings), [None, None, image.shape[-1]]),
        common.move_into_window(example.objects, tf.cast(window, tf.float32)),
    )
