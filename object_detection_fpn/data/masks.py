"""The masks of a record's objects: checked against the image, and sampled to a small square each.

A mask is kept as M x M shares of a *frame*, a rectangle of the image: geometry moves frames, and seldom touches masks.

Shape letters: N objects of the image, H W stored size of the image, M mask side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import tensorflow as tf

from object_detection_fpn.data import features
from object_detection_fpn.data.example import Objects

KEY = "image/object/mask"

_OPAQUE = 255
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Signature, then length and name of the first chunk, then width and height (PNG specification, section 11.2.2).
_PNG_HEAD_BYTES = 24
_PNG_WIDTH, _PNG_HEIGHT = 4, 5  # among the integers of 4 bytes of this head


@dataclasses.dataclass(frozen=True)
class MaskDecoding:
    """What is read of the masks of a record."""

    kind: Literal["png", "numerical"] = "numerical"
    """Whether `image/object/mask` holds PNG files or numbers."""
    frame: Literal["box", "image"] = "box"
    """The rectangle that a kept mask covers: the object's box, or the image."""
    side: int = 112
    """M."""
    classes_with_masks: tuple[int, ...] | None = None
    """0-based; objects of other classes need no mask, and what they have is read in evaluation only. None: all classes."""
    keep_encoded: bool = False
    """Evaluation: hand on the masks of the record as well, as PNG files."""

    def feature(self) -> tf.io.RaggedFeature:
        """How `image/object/mask` is parsed."""
        return tf.io.RaggedFeature(tf.string if self.kind == "png" else tf.float32)


class _Stored(NamedTuple):
    """The masks of a record, before any is decoded; its boxes number them."""

    is_there: tf.Tensor
    """[boxes of the record] bool."""
    pixels_of: Callable[[tf.Tensor], tf.Tensor]
    """From the number of a mask that is there to [H, W, 1], in which all above 0 is the object."""
    file_of: Callable[[tf.Tensor], tf.Tensor]
    """From the same to the PNG file, a scalar string."""


def decode_masks(
    parsed: Mapping[str, tf.Tensor],
    objects: Objects,
    *,
    rows: tf.Tensor,
    num_boxes: tf.Tensor,
    image_size: tf.Tensor,
    decoding: MaskDecoding,
) -> Objects:
    """Gives objects of a record their masks.

    Args:
        parsed: the record, with `KEY` parsed as `decoding` says.
        objects: N of its objects, boxes normalized.
        rows: [N] int64, the box of the record that each is.
        num_boxes: scalar int32, boxes of the record.
        image_size: [2] int32, height and width of the image as it is stored, however much of it is decoded.
        decoding: what to read.

    Returns:
        The objects with `masks`, `mask_frames` and, where asked for, `encoded_masks`. Masks that are not there, or not read,
        are zeros, and empty as a file.

    Raises:
        tf.errors.InvalidArgumentError: if masks and boxes differ in number, a mask is no PNG file or of another size than the
            image, or an object that is no crowd lacks one that its class needs. The message gives the reason.
    """
    open_masks = _open_files if decoding.kind == "png" else _open_numbers
    stored = open_masks(parsed[KEY], num_boxes, image_size)
    is_there = tf.gather(stored.is_there, rows)
    is_trained = _is_one_of(objects.classes, decoding.classes_with_masks)
    missing = tf.where(is_trained & ~is_there & ~objects.is_crowd)[:1, 0]
    others = "crowds" if decoding.classes_with_masks is None else "crowds and classes beside classes_with_masks"
    features.require(
        tf.shape(missing)[0] == 0,
        KEY, " has no mask for box ", tf.gather(rows, missing), ", which is of class id ",
        tf.gather(objects.classes, missing) + 1, f". Allowed: only {others} without a mask.",
    )  # fmt: skip
    frames = objects.boxes
    if decoding.frame == "image":
        frames = tf.zeros_like(frames) + tf.constant([0.0, 0.0, 1.0, 1.0])
    is_read = is_there if decoding.keep_encoded else is_there & is_trained

    def decode(row_and_frame: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        row, frame = row_and_frame
        mask = sample_frame(stored.pixels_of(row), frame, decoding.side)
        return (mask, stored.file_of(row)) if decoding.keep_encoded else (mask,)

    read = tf.where(is_read)[:, 0]
    specs: tuple[tf.TensorSpec, ...] = (tf.TensorSpec([decoding.side, decoding.side], tf.uint8),)
    if decoding.keep_encoded:
        specs = (*specs, tf.TensorSpec([], tf.string))
    decoded = tf.map_fn(decode, (tf.gather(rows, read), tf.gather(frames, read)), fn_output_signature=specs)
    # Row 0 is that of all without a mask.
    places = tf.where(is_read, tf.cumsum(tf.cast(is_read, tf.int32)), 0)
    masks, *files = (
        tf.gather(tf.pad(values, [[1, 0]] + [[0, 0]] * spec.shape.rank), places)
        for values, spec in zip(decoded, specs, strict=True)
    )
    return objects._replace(masks=masks, mask_frames=frames, encoded_masks=files[0] if files else None)


def sample_frame(pixels: tf.Tensor, frame: tf.Tensor, side: int) -> tf.Tensor:
    """Samples a mask within a frame: bilinear where cells are smaller than pixels, else averaged by a triangle of two cells.

    Args:
        pixels: [H, W, 1] of any number type; above 0 is the object. The middle of a pixel is the place of its value.
        frame: [4] float32, normalized; of positive area.
        side: M.

    Returns:
        [M, M] uint8, 255 where all is the object.
    """
    size = tf.cast(tf.shape(pixels)[:2], tf.float32)
    begin, end = frame[:2] * size, frame[2:] * size
    step = (frame[2:] - frame[:2]) * size / side  # pixels a cell
    reach = tf.maximum(step, 1.0)  # pixels beyond the frame that count in its outer cells
    low = tf.cast(tf.maximum(tf.floor(begin - reach), 0.0), tf.int32)
    high = tf.cast(tf.minimum(tf.math.ceil(end + reach), size), tf.int32)
    part = pixels[low[0] : high[0], low[1] : high[1]]
    sampled = tf.raw_ops.ScaleAndTranslate(
        images=tf.where(part > 0, float(_OPAQUE), 0.0)[tf.newaxis],
        size=[side, side],
        scale=1.0 / step,
        translation=(tf.cast(low, tf.float32) - begin) / step,
        kernel_type="triangle",
        antialias=True,
    )
    return _to_uint8(sampled[0, ..., 0])


def _open_files(files: tf.Tensor, num_boxes: tf.Tensor, image_size: tf.Tensor) -> _Stored:
    """[num_boxes] or [0] string, PNG files; an empty one stands for no mask."""
    found = tf.shape(files)[0]
    features.require((found == num_boxes) | (found == 0), KEY, " has ", found, " masks for ", num_boxes, " boxes.")
    files = tf.pad(files, [[0, tf.maximum(num_boxes - found, 0)]], constant_values="")
    is_there = tf.strings.length(files) > 0
    is_png = (tf.strings.length(files) >= _PNG_HEAD_BYTES) & (
        tf.strings.substr(files, 0, len(_PNG_SIGNATURE)) == _PNG_SIGNATURE
    )
    wrong = tf.where(is_there & ~is_png)[:1, 0]
    features.require(
        tf.shape(wrong)[0] == 0,
        KEY, ": mask ", wrong, " is no PNG file (", tf.strings.length(tf.gather(files, wrong)), " bytes).",
    )  # fmt: skip
    heads = tf.where(is_png, tf.strings.substr(files, 0, _PNG_HEAD_BYTES), b"\0" * _PNG_HEAD_BYTES)
    integers = tf.reshape(tf.io.decode_raw(heads, tf.int32, little_endian=False), [-1, _PNG_HEAD_BYTES // 4])
    sizes = tf.gather(integers, [_PNG_HEIGHT, _PNG_WIDTH], axis=1)
    wrong = tf.where(is_there & tf.reduce_any(sizes != image_size, axis=1))[:1, 0]
    features.require(
        tf.shape(wrong)[0] == 0,
        KEY, ": mask ", wrong, " has height and width ", tf.reshape(tf.gather(sizes, wrong), [-1]),
        ", image/encoded has ", image_size, ".",
    )  # fmt: skip
    # With 8 bits, the low values of a file of 16 would be 0.
    return _Stored(
        is_there,
        pixels_of=lambda row: tf.io.decode_png(files[row], channels=1, dtype=tf.uint16),
        file_of=lambda row: files[row],
    )


def _open_numbers(values: tf.Tensor, num_boxes: tf.Tensor, image_size: tf.Tensor) -> _Stored:
    """[num_boxes * H * W] or [0] float32, object by object, row by row."""
    found = tf.size(values, tf.int64)
    expected = tf.reduce_prod(tf.cast(tf.concat([[num_boxes], image_size], axis=0), tf.int64))
    features.require(
        (found == expected) | (found == 0),
        KEY, " has ", found, " numbers; ", num_boxes, " boxes in an image of height and width ", image_size, " need ",
        expected, ".",
    )  # fmt: skip
    has_masks = found > 0
    pixels = tf.reshape(values, tf.concat([[tf.where(has_masks, num_boxes, 0)], image_size, [1]], axis=0))

    def pixels_of(row: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(pixels[row], [None, None, 1])

    return _Stored(
        tf.fill([num_boxes], has_masks),
        pixels_of,
        file_of=lambda row: tf.io.encode_png(tf.where(pixels_of(row) > 0, tf.constant(_OPAQUE, tf.uint8), 0)),
    )


def _is_one_of(classes: tf.Tensor, some: tuple[int, ...] | None) -> tf.Tensor:
    """[N] int32 -> [N] bool; None stands for all classes."""
    if some is None:
        return tf.ones_like(classes, tf.bool)
    return tf.reduce_any(classes[:, tf.newaxis] == tf.constant(some, tf.int32), axis=1)


def _to_uint8(values: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.clip_by_value(tf.round(values), 0.0, float(_OPAQUE)), tf.uint8)
