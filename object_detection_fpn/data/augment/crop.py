"""Augmentations that cut a region out of the image, with the Object Detection API's parameters and effect.

Every function draws a `Warp` of an `Example` from `seed`, [2] int32, alone. Objects that lie too little inside the region
are dropped, with all their fields.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from object_detection_fpn.data import resample
from object_detection_fpn.data.augment import common, pad, warp
from object_detection_fpn.data.augment.warp import Warp
from object_detection_fpn.data.example import Example, Objects


@dataclasses.dataclass(frozen=True)
class CropConstraints:
    """What a random window must be like; the fields of the messages `RandomCropImage` and of SSD's operations."""

    min_object_covered: float = 1.0
    """The window holds at least this share of at least one box."""
    min_aspect_ratio: float = 0.75
    """Smallest width / height of the window."""
    max_aspect_ratio: float = 1.33
    """Largest width / height."""
    min_area: float = 0.1
    """Smallest area of the window, as a share of the image."""
    max_area: float = 1.0
    """Largest area."""
    overlap_thresh: float = 0.3
    """Boxes of which a smaller share lies inside the window are dropped."""
    random_coef: float = 0.0
    """Probability of leaving the image whole."""
    clip_boxes: bool = True
    """Clip the boxes to the window; False leaves boxes that reach beyond it."""


def group_constraints(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of `random_crop_pad_image`, of flat ones: the fields of `CropConstraints` become its `constraints`."""
    names = {field.name for field in dataclasses.fields(CropConstraints)}
    constraints = CropConstraints(**{name: value for name, value in keywords.items() if name in names})
    return {**{name: value for name, value in keywords.items() if name not in names}, "constraints": constraints}


@warp.applied
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
) -> Warp:
    """Cuts out a random window and drops the objects that lie too little inside it.

    If no window within the ranges covers an object sufficiently in 100 tries, the image stays whole.

    Args:
        example: image and objects.
        seed: [2] int32.
        min_object_covered: see `CropConstraints`, like all that follow.
        min_aspect_ratio: of the window.
        max_aspect_ratio: of the window.
        min_area: of the window.
        max_area: of the window.
        overlap_thresh: of boxes and window.
        random_coef: probability of the whole image.
        clip_boxes: to the window.
    """
    constraints = CropConstraints(
        min_object_covered=min_object_covered,
        min_aspect_ratio=min_aspect_ratio,
        max_aspect_ratio=max_aspect_ratio,
        min_area=min_area,
        max_area=max_area,
        overlap_thresh=overlap_thresh,
        random_coef=random_coef,
        clip_boxes=clip_boxes,
    )
    return draw_crop(tf.shape(example.image)[:2], example.objects, seed=seed, constraints=constraints)


def draw_crop(image_size: tf.Tensor, objects: Objects, *, seed: tf.Tensor, constraints: CropConstraints) -> Warp:
    """The warp of `random_crop_image`, also of an image that is not decoded yet.

    Args:
        image_size: [2] int32, height and width.
        objects: of the image.
        seed: [2] int32.
        constraints: on the window.

    Returns:
        A warp that has a window, inside the image, and nothing else.
    """
    choice_seed, window_seed = common.split(seed, 2)
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.concat([image_size, [1]], axis=0),
        tf.clip_by_value(objects.boxes, 0.0, 1.0)[tf.newaxis],
        window_seed,
        min_object_covered=constraints.min_object_covered,
        aspect_ratio_range=(constraints.min_aspect_ratio, constraints.max_aspect_ratio),
        area_range=(constraints.min_area, constraints.max_area),
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    is_cut = tf.constant(True)
    begin, size = begin[:2], size[:2]
    if constraints.random_coef > 0:
        is_cut = ~common.happens(choice_seed, constraints.random_coef)
        begin, size = tf.where(is_cut, begin, 0), tf.where(is_cut, size, image_size)
    return Warp(
        window=warp.make_window(
            begin,
            size,
            overlap_thresh=constraints.overlap_thresh,
            clip_boxes=constraints.clip_boxes,
            is_cut=is_cut,
        )
    )


_DEFAULT_CONSTRAINTS = CropConstraints()


@warp.applied
def random_crop_pad_image(
    example: Example,
    *,
    seed: tf.Tensor,
    constraints: CropConstraints = _DEFAULT_CONSTRAINTS,
    min_padded_size_ratio: Sequence[float] = (1.0, 1.0),
    max_padded_size_ratio: Sequence[float] = (2.0, 2.0),
    pad_color: Sequence[float] = (),
) -> Warp:
    """Crops like `random_crop_image`, then puts the crop at a random place of a larger image.

    Args:
        example: image and objects.
        seed: [2] int32.
        constraints: on the window; `random_coef` leaves out the crop, not the padding.
        min_padded_size_ratio: smallest height and width of the result, as shares of the image before the crop; where the
            crop is larger, its own.
        max_padded_size_ratio: largest height and width, likewise.
        pad_color: see `pad.random_pad_image`; empty for the mean of the crop.
    """
    crop_seed, pad_seed = common.split(seed, 2)
    image_size = tf.shape(example.image)[:2]
    cropped = draw_crop(image_size, example.objects, seed=crop_seed, constraints=constraints)
    assert cropped.window is not None
    size = tf.cast(image_size, tf.float32)
    canvas = pad.draw_canvas(
        cropped.window.size,
        tf.cast(size * tf.constant(min_padded_size_ratio, tf.float32), tf.int32),
        tf.cast(size * tf.constant(max_padded_size_ratio, tf.float32), tf.int32),
        pad.fill_color(pad_color, example.image.shape[-1]),
        seed=pad_seed,
    )
    return cropped._replace(canvas=canvas)


@warp.applied
def random_crop_to_aspect_ratio(
    example: Example,
    *,
    seed: tf.Tensor,
    aspect_ratio: float = 1.0,
    overlap_thresh: float = 0.3,
    clip_boxes: bool = True,
) -> Warp:
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
    return Warp(window=warp.make_window(begin, size, overlap_thresh=overlap_thresh, clip_boxes=clip_boxes))


@warp.applied
def random_square_crop_by_scale(
    example: Example,
    *,
    seed: tf.Tensor,
    max_border: int = 128,
    scale_min: float = 0.6,
    scale_max: float = 1.3,
    num_scales: int = 8,
) -> Warp:
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
    return Warp(window=warp.make_window(begin, tf.stack([side, side]), exceeds=True))


@warp.applied
def random_scale_crop_and_pad_to_square(
    example: Example, *, seed: tf.Tensor, output_size: int = 512, scale_min: float = 0.1, scale_max: float = 2.0
) -> Warp:
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
    room = tf.cast(tf.maximum(size - output_size, 0), tf.float32)
    shares = tf.stack([tf.random.stateless_uniform([], s) for s in offset_seeds])
    begin = tf.cast(room * shares, tf.int32)
    return Warp(
        size,
        functools.partial(resample.resample, method="bilinear"),
        window=warp.make_window(begin, tf.constant([output_size, output_size]), exceeds=True),
    )
