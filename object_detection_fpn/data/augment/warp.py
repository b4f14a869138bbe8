"""Geometry: what a transformation is, and the one place that applies it to an image and to everything on it.

A geometric augmentation draws a `Warp` from its seed; `applied` makes an augmentation of it. Pixels, boxes and masks follow
from the same record, so they cannot move apart.

Shape letters: N objects, H W size, F channels, M mask side.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec, cast

import tensorflow as tf

from object_detection_fpn.data.augment import masks as mask_geometry
from object_detection_fpn.data.example import Example, Objects
from object_detection_fpn.ops import boxes as box_ops

_P = ParamSpec("_P")

GRAY = 128
"""Value of the pixels that an affine transformation takes from outside the image."""

Resample = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""From an image [H, W, F] and a size [2] int32 to the image of that size, float32."""


class Window(NamedTuple):
    """A rectangle of the image that becomes the new image."""

    begin: tf.Tensor
    """[2] int32, row and column of its first pixel."""
    size: tf.Tensor
    """[2] int32, height and width."""
    overlap_thresh: tf.Tensor
    """Scalar float32: an object of which a smaller share lies inside is dropped, and one that only touches the window."""
    clip_boxes: tf.Tensor
    """Scalar bool: clip boxes to the window."""
    is_cut: tf.Tensor
    """Scalar bool; False keeps all objects as they are. The window is the whole image then."""
    exceeds: bool = False
    """The window may reach beyond the image; what lies outside is black, and the result float32."""


class Canvas(NamedTuple):
    """A larger image that the image is put on; the result is float32."""

    offset: tf.Tensor
    """[2] int32, row and column of the image's first pixel."""
    size: tf.Tensor
    """[2] int32, height and width."""
    color: tf.Tensor
    """[F] float32; NaN stands for the mean of the channel in the image."""


class Warp(NamedTuple):
    """One geometric transformation; its parts apply in the order in which they stand here, None leaves out a part."""

    size: tf.Tensor | None = None
    """[2] int32: `resample` scales the image to this height and width."""
    resample: Resample | None = None
    is_mirrored: tf.Tensor | None = None
    """Scalar bool: left and right change places."""
    is_flipped: tf.Tensor | None = None
    """Scalar bool: top and bottom change places."""
    is_turned: tf.Tensor | None = None
    """Scalar bool: a turn by 90 degrees counter-clockwise, which swaps height and width."""
    is_repeated: tuple[tf.Tensor, tf.Tensor] | None = None
    """Two scalars bool: a copy of image and objects below; then a copy of what there is to the right."""
    window: Window | None = None
    canvas: Canvas | None = None
    matrix: tf.Tensor | None = None
    """[3, 3] float32, from (x, y, 1) in the result to the pixel in the image that it shows, counted from the middle of the
    first pixel. The size stays; what comes from outside is gray, objects that leave the image are dropped. uint8 only."""


def make_window(
    begin: tf.Tensor,
    size: tf.Tensor,
    *,
    overlap_thresh: float = 0.0,
    clip_boxes: bool = True,
    is_cut: tf.Tensor | bool = True,
    exceeds: bool = False,
) -> Window:
    """A `Window` whose settings are tensors, so that one can be chosen among several."""
    return Window(
        begin,
        size,
        tf.constant(overlap_thresh, tf.float32),
        tf.constant(clip_boxes),
        tf.convert_to_tensor(is_cut),
        exceeds,
    )


def applied(draw: Callable[_P, Warp]) -> Callable[_P, Example]:
    """Makes an augmentation, from example to example, of a function that draws the `Warp` of its first argument."""

    def augment(*args: _P.args, **kwargs: _P.kwargs) -> Example:
        example: Any = args[0]
        return apply(draw(*args, **kwargs), example)

    functools.update_wrapper(augment, draw)
    del augment.__wrapped__  # type: ignore[attr-defined]  # TensorFlow would call it in place of this
    # With its keywords the fields of messages are compared.
    augment.__signature__ = inspect.signature(draw)  # type: ignore[attr-defined]
    augment.draw = draw  # type: ignore[attr-defined]
    return augment


def drawing(augmentation: Callable[..., Example]) -> Callable[..., Warp]:
    """The function, with the same arguments, that draws the `Warp` of an augmentation made by `applied`."""
    return cast(Callable[..., Warp], augmentation.draw)  # type: ignore[attr-defined]


def apply(warp: Warp, example: Example) -> Example:
    """Moves the image and everything on it."""
    size = tf.shape(example.image)[:2]
    return example._replace(image=move_image(warp, example.image), objects=move_objects(warp, example.objects, size))


# Pixels ---------------------------------------------------------------------------------------------------------------


def move_image(warp: Warp, image: tf.Tensor) -> tf.Tensor:
    """[H, W, F] -> the image that `warp` describes; some parts turn uint8 into float32."""
    num_channels = image.shape[-1]
    if warp.size is not None and warp.resample is not None:
        image = warp.resample(image, warp.size)
    for axis, is_reversed in ((1, warp.is_mirrored), (0, warp.is_flipped)):
        if is_reversed is not None:
            image = _if(is_reversed, functools.partial(tf.reverse, axis=[axis]), image)
    if warp.is_turned is not None:
        image = _if(warp.is_turned, tf.image.rot90, image)
    for axis, is_repeated in enumerate(warp.is_repeated or ()):
        image = _if(is_repeated, functools.partial(_double, axis=axis), image)
    if warp.window is not None:
        image = _cut(warp.window, image)
    if warp.canvas is not None:
        image = _place(warp.canvas, image)
    if warp.matrix is not None:
        image = transform_pixels(image, warp.matrix)
    sizes = [part.size for part in (warp.canvas, warp.window) if part is not None] + [warp.size]
    static = [None, None] if sizes[0] is None else tf.get_static_value(sizes[0], partial=True)
    return tf.ensure_shape(image, [*([None, None] if static is None else static), num_channels])


def _if(condition: tf.Tensor, change: Callable[[tf.Tensor], tf.Tensor], image: tf.Tensor) -> tf.Tensor:
    return tf.cond(condition, lambda: change(image), lambda: image)


def _double(image: tf.Tensor, axis: int) -> tf.Tensor:
    return tf.concat([image, image], axis)


def _cut(window: Window, image: tf.Tensor) -> tf.Tensor:
    begin, end = window.begin, window.begin + window.size
    if not window.exceeds:
        return image[begin[0] : end[0], begin[1] : end[1]]
    image = tf.cast(image, tf.float32)
    low, high = tf.maximum(begin, 0), tf.minimum(end, tf.shape(image)[:2])
    paddings = tf.concat([tf.stack([low - begin, end - high], axis=-1), [[0, 0]]], axis=0)
    return tf.pad(image[low[0] : high[0], low[1] : high[1]], paddings)


def _place(canvas: Canvas, image: tf.Tensor) -> tf.Tensor:
    image = tf.cast(image, tf.float32)
    is_mean = tf.math.is_nan(canvas.color)
    color = tf.cond(
        tf.reduce_any(is_mean),
        lambda: tf.where(is_mean, tf.reduce_mean(image, axis=[0, 1]), canvas.color),
        lambda: canvas.color,
    )
    before = canvas.offset
    after = canvas.size - tf.shape(image)[:2] - before
    paddings = tf.concat([tf.stack([before, after], axis=-1), [[0, 0]]], axis=0)
    is_inside = tf.pad(tf.ones_like(image[..., :1], tf.bool), paddings)
    return tf.where(is_inside, tf.pad(image, paddings), color)


def transform_pixels(image: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """Shows in each pixel of an image [H, W, F] uint8 the one that `matrix` leads to; gray where that is outside."""
    # Imported here: it takes seconds, and only policies need it.
    from official.vision.ops import augment as library

    coefficients = tf.reshape(matrix, [9])[:8]
    with_mask = tf.concat([image, tf.ones_like(image[..., :1])], axis=-1)
    moved = library.transform(with_mask, coefficients, fill_mode="constant")
    return tf.where(moved[..., -1:] > 0, moved[..., :-1], tf.constant(GRAY, image.dtype))


# Objects --------------------------------------------------------------------------------------------------------------


def move_objects(warp: Warp, objects: Objects, size: tf.Tensor) -> Objects:
    """The objects in the frame of the new image, without those that the window or the matrix leaves too little of.

    Args:
        warp: where to.
        objects: N rows, boxes and frames of masks normalized to the image.
        size: [2] int32, height and width of the image before.

    Returns:
        Objects whose frames are never clipped. A matrix samples masks anew, a window or matrix empties what left the image.
    """
    if warp.size is not None:
        size = warp.size
    for is_flipped, flip, flip_masks in (
        (warp.is_mirrored, box_ops.flip_left_right, functools.partial(tf.reverse, axis=[2])),
        (warp.is_flipped, box_ops.flip_up_down, functools.partial(tf.reverse, axis=[1])),
        (warp.is_turned, _turn_boxes, _turn_masks),
    ):
        if is_flipped is not None:
            objects = _flip(objects, is_flipped, flip, flip_masks)
    if warp.is_turned is not None:
        size = tf.where(warp.is_turned, size[::-1], size)
    for axis, is_repeated in enumerate(warp.is_repeated or ()):
        objects = _repeat(objects, axis, is_repeated)
        size *= 1 + tf.one_hot(axis, 2, tf.cast(is_repeated, tf.int32), 0)
    if warp.window is not None:
        objects, size = _move_into(warp.window, objects, size), warp.window.size
    if warp.canvas is not None:
        # Pixels between the frames: whole numbers stay exact, so that no box ends beyond the border by rounding.
        shift = tf.cast(tf.concat([warp.canvas.offset] * 2, 0), tf.float32)
        old_size, new_size = size, warp.canvas.size
        objects = objects.move_boxes(
            lambda boxes: box_ops.normalize(box_ops.denormalize(boxes, old_size) + shift, new_size)
        )
        size = warp.canvas.size
    if warp.matrix is not None:
        objects = _transform(objects, warp.matrix, size)
        whole = make_window(tf.constant([0, 0]), size)
        objects = _move_into(whole, objects, size)
    return objects


def _flip(
    objects: Objects,
    is_flipped: tf.Tensor,
    flip: Callable[[tf.Tensor], tf.Tensor],
    flip_masks: Callable[[tf.Tensor], tf.Tensor],
) -> Objects:
    objects = objects.move_boxes(lambda boxes: tf.where(is_flipped, flip(boxes), boxes))
    if objects.masks is None:
        return objects
    return objects._replace(masks=_if(is_flipped, flip_masks, objects.masks))


def _turn_masks(masks: tf.Tensor) -> tf.Tensor:
    """Turns masks [N, M, M] as `tf.image.rot90` turns their image."""
    return tf.reverse(tf.transpose(masks, [0, 2, 1]), axis=[1])


def _turn_boxes(boxes: tf.Tensor) -> tf.Tensor:
    """Turns normalized boxes [N, 4] as `tf.image.rot90` turns their image."""
    ymin, xmin, ymax, xmax = tf.unstack(boxes, axis=-1)
    return tf.stack([1.0 - xmax, ymin, 1.0 - xmin, ymax], axis=-1)


def _repeat(objects: Objects, axis: int, is_repeated: tf.Tensor) -> Objects:
    num_copies = 1 + tf.cast(is_repeated, tf.int32)
    num = tf.shape(objects.boxes)[0]
    numbers = tf.range(num_copies * num)
    twice = objects.select_rows(numbers % tf.maximum(num, 1))
    half = tf.where(is_repeated, tf.constant([[0.5, 1.0, 0.5, 1.0], [1.0, 0.5, 1.0, 0.5]][axis]), 1.0)
    is_copy = tf.cast(numbers >= num, tf.float32)[:, tf.newaxis]
    return twice.move_boxes(lambda boxes: boxes * half + is_copy * (1.0 - half))


def _move_into(window: Window, objects: Objects, size: tf.Tensor) -> Objects:
    begin, end, size = (tf.cast(corner, tf.float32) for corner in (window.begin, window.begin + window.size, size))
    frame = tf.concat([begin, end], 0) / tf.concat([size, size], 0)
    share = box_ops.pairwise_ioa(objects.boxes, frame[tf.newaxis])[:, 0]
    # A box that only touches the window goes even if the threshold is 0.
    objects = objects.select(((share > 0) & (share >= window.overlap_thresh)) | ~window.is_cut)
    moved = objects.move_boxes(lambda boxes: tf.where(window.is_cut, box_ops.change_frame(boxes, frame), boxes))
    clips = window.is_cut & window.clip_boxes
    moved = moved._replace(boxes=tf.where(clips, tf.clip_by_value(moved.boxes, 0.0, 1.0), moved.boxes))
    if moved.masks is None or moved.mask_frames is None:
        return moved
    frames = moved.mask_frames
    return moved._replace(masks=_if(window.is_cut, lambda masks: mask_geometry.cut_masks(masks, frames), moved.masks))


def _transform(objects: Objects, matrix: tf.Tensor, size: tf.Tensor) -> Objects:
    moved = objects.move_boxes(lambda boxes: _transform_boxes(boxes, matrix, size))
    if objects.masks is None:
        return moved
    frames, new_frames = (box_ops.denormalize(each.mask_frames, size) for each in (objects, moved))
    return moved._replace(masks=mask_geometry.transform_masks(objects.masks, frames, new_frames, matrix))


def _transform_boxes(boxes: tf.Tensor, matrix: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """The boxes around where the corners of boxes [N, 4] come to lie."""
    # The matrix counts from the middle of the first pixel, boxes from its corner.
    ymin, xmin, ymax, xmax = tf.unstack(box_ops.denormalize(boxes, size) - 0.5, axis=-1)
    corners = tf.stack([[xmin, xmax, xmin, xmax], [ymin, ymin, ymax, ymax], tf.ones([4, tf.shape(boxes)[0]])])
    moved = tf.tensordot(tf.linalg.inv(matrix), corners, 1)  # [3, 4, N]; the matrix leads from output to input
    x, y = moved[0], moved[1]
    boxes = tf.stack([tf.reduce_min(a, axis=0) for a in (y, x)] + [tf.reduce_max(a, axis=0) for a in (y, x)], axis=-1)
    return box_ops.normalize(boxes + 0.5, size)
