"""SSD's augmentation (Liu et al., 2016, section 2.2): crops by one operation of a list, drawn at random.

Parameters and defaults are the Object Detection API's. An operation is a mapping of the fields of `crop.CropConstraints`
and, where padding is part of it, of the other keywords of `crop.random_crop_pad_image`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from object_detection_fpn.data.augment import common, crop, pad, warp
from object_detection_fpn.data.augment.warp import Warp
from object_detection_fpn.data.example import Example

Operation = Mapping[str, Any]

_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # with a random_coef of 0.15 about SSD's frequency of whole images
CROP_OPERATIONS: tuple[Operation, ...] = tuple(
    {
        "min_object_covered": overlap,
        "min_aspect_ratio": 0.5,
        "max_aspect_ratio": 2.0,
        "min_area": 0.1,
        "max_area": 1.0,
        "overlap_thresh": overlap,
        "random_coef": 0.15,
    }
    for overlap in _OVERLAPS
)
"""Default operations of `ssd_random_crop`."""

CROP_PAD_OPERATIONS = CROP_OPERATIONS[1:]
"""Default operations of `ssd_random_crop_pad`: there, every crop covers some of an object."""


@warp.applied
def ssd_random_crop(example: Example, *, seed: tf.Tensor, operations: Sequence[Operation] = ()) -> Warp:
    """Crops by one operation.

    Args:
        example: image and objects.
        seed: [2] int32.
        operations: each as likely as the others; empty for `CROP_OPERATIONS`.
    """
    return _draw_one(crop.random_crop_image, example, operations or CROP_OPERATIONS, seed)


@warp.applied
def ssd_random_crop_pad(example: Example, *, seed: tf.Tensor, operations: Sequence[Operation] = ()) -> Warp:
    """Crops and pads by one operation.

    Args:
        example: image and objects.
        seed: [2] int32.
        operations: each as likely as the others; empty for `CROP_PAD_OPERATIONS`.
    """
    grouped = [crop.group_constraints(operation) for operation in operations or CROP_PAD_OPERATIONS]
    return _draw_one(crop.random_crop_pad_image, example, grouped, seed)


def ssd_random_crop_fixed_aspect_ratio(
    example: Example, *, seed: tf.Tensor, operations: Sequence[Operation] = (), aspect_ratio: float = 1.0
) -> Example:
    """Crops by one operation to about an aspect ratio, then to the ratio itself.

    Args:
        example: image and objects.
        seed: [2] int32.
        operations: as for `ssd_random_crop`; their aspect ratios do not count.
        aspect_ratio: width / height of the result.
    """
    crop_seed, ratio_seed = common.split(seed, 2)
    ratio = {"min_aspect_ratio": aspect_ratio, "max_aspect_ratio": aspect_ratio}
    fixed = [{**operation, **ratio} for operation in operations or CROP_OPERATIONS]
    cropped = ssd_random_crop(example, seed=crop_seed, operations=fixed)
    return crop.random_crop_to_aspect_ratio(cropped, seed=ratio_seed, aspect_ratio=aspect_ratio)


def ssd_random_crop_pad_fixed_aspect_ratio(
    example: Example,
    *,
    seed: tf.Tensor,
    operations: Sequence[Operation] = (),
    aspect_ratio: float = 1.0,
    min_padded_size_ratio: Sequence[float] = (1.0, 1.0),
    max_padded_size_ratio: Sequence[float] = (2.0, 2.0),
) -> Example:
    """Crops by one operation, then pads with black to an aspect ratio.

    Args:
        example: image and objects.
        seed: [2] int32.
        operations: as for `ssd_random_crop`.
        aspect_ratio: width / height of the result.
        min_padded_size_ratio: see `pad.random_pad_to_aspect_ratio`.
        max_padded_size_ratio: likewise.
    """
    crop_seed, pad_seed = common.split(seed, 2)
    return pad.random_pad_to_aspect_ratio(
        ssd_random_crop(example, seed=crop_seed, operations=operations),
        seed=pad_seed,
        aspect_ratio=aspect_ratio,
        min_padded_size_ratio=min_padded_size_ratio,
        max_padded_size_ratio=max_padded_size_ratio,
    )


def _draw_one(
    function: Callable[..., Example], example: Example, operations: Sequence[Operation], seed: tf.Tensor
) -> Warp:
    """The warp of `function` with the keywords of one operation."""
    choice_seed, crop_seed = common.split(seed, 2)
    index = common.random_integer(choice_seed, 0, len(operations))
    draw = warp.drawing(function)
    return common.switch(index, [functools.partial(draw, example, seed=crop_seed, **op) for op in operations])
