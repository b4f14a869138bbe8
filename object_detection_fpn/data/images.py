"""Decodes image files, and of JPEGs, which allow it, no more than is needed; TensorFlow has the decoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import tensorflow as tf

_Rest = TypeVar("_Rest")

_IMAGE_CHANNELS = 3
# Around a window of a JPEG that is decoded alone: at its edge, colours of half the resolution lack their neighbours.
_JPEG_MARGIN = 16
_EXIF_BYTES = 4096  # EXIF comes first in a file, its orientation among the first entries
# Tag 0x0112, type 3 (16 bits), one value, 2 to 8, in either byte order (EXIF 2.3, section 4.6); \C is any byte. Tags are
# sorted, so that few stand before it; the thumbnail, further behind, has one of its own.
_ROTATED = (
    r"\C*Exif\x00\x00"
    r"(?:II\*\x00\C{4,250}\x12\x01\x03\x00\x01\x00\x00\x00[\x02-\x08]\x00"
    r"|MM\x00\*\C{4,250}\x01\x12\x00\x03\x00\x00\x00\x01\x00[\x02-\x08])\C*"
)
_JPEG_RATIOS = (2, 4, 8)  # by which a JPEG can be decoded smaller, in less time


def is_rotated(encoded: tf.Tensor) -> tf.Tensor:
    """Whether a JPEG has an EXIF orientation that asks for a turn, which no decoder here does: scalar string -> scalar bool."""
    head = tf.strings.substr(encoded, 0, _EXIF_BYTES)
    return tf.io.is_jpeg(encoded) & tf.strings.regex_full_match(head, _ROTATED)


def decode_whole(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG, PNG, GIF (first frame) or BMP: scalar string -> [H, W, 3] uint8."""
    image = tf.io.decode_image(encoded, channels=_IMAGE_CHANNELS, expand_animations=False)
    return tf.ensure_shape(image, [None, None, _IMAGE_CHANNELS])


def decode_smaller(encoded: tf.Tensor, min_side: int) -> tf.Tensor:
    """Decodes a JPEG at the smallest of 1, 1/2, 1/4 and 1/8 of its size whose shorter side keeps `min_side` pixels.

    Fewer coefficients are transformed then, and fewer pixels resized. Other images are decoded whole.

    Returns:
        [h, w, 3] uint8.
    """
    side = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.reduce_min(tf.io.extract_jpeg_shape(encoded)[:2]),
        lambda: tf.constant(0),
    )
    index = tf.math.count_nonzero(side >= min_side * tf.constant(_JPEG_RATIOS), dtype=tf.int32)

    def decode(ratio: int) -> Callable[[], tf.Tensor]:
        return lambda: tf.io.decode_jpeg(encoded, channels=_IMAGE_CHANNELS, ratio=ratio)

    image = tf.switch_case(index, [lambda: decode_whole(encoded), *map(decode, _JPEG_RATIOS)])
    return tf.ensure_shape(image, [None, None, _IMAGE_CHANNELS])


def stored_size(encoded: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """[2] int32, height and width of an encoded image of which `decode_smaller` made [h, w, 3]."""
    return tf.cond(tf.io.is_jpeg(encoded), lambda: tf.io.extract_jpeg_shape(encoded)[:2], lambda: tf.shape(image)[:2])


def decode_window(
    encoded: tf.Tensor, choose: Callable[[tf.Tensor], tuple[tf.Tensor, _Rest]]
) -> tuple[tf.Tensor, _Rest]:
    """Decodes a window, and of a JPEG not much more than it; the pixels are those of the whole image.

    Args:
        encoded: scalar string.
        choose: from the size of the image, [2] int32, to a window, [4] int32 (top, left, height, width), and anything else.

    Returns:
        [h, w, 3] uint8, and what `choose` returned beside the window.
    """
    is_jpeg = tf.io.is_jpeg(encoded)
    # The size of a JPEG is known before it is decoded.
    whole = tf.cond(is_jpeg, lambda: tf.zeros([0, 0, _IMAGE_CHANNELS], tf.uint8), lambda: decode_whole(encoded))
    size = tf.cond(is_jpeg, lambda: tf.io.extract_jpeg_shape(encoded), lambda: tf.shape(whole))[:2]
    window, rest = choose(size)
    window_begin, window_size = window[:2], window[2:]

    def cut(image: tf.Tensor, begin: tf.Tensor) -> tf.Tensor:
        end = begin + window_size
        return image[begin[0] : end[0], begin[1] : end[1]]

    def decode_around() -> tf.Tensor:
        begin = tf.maximum(window_begin - _JPEG_MARGIN, 0)
        end = tf.minimum(window_begin + window_size + _JPEG_MARGIN, size)
        around = tf.image.decode_and_crop_jpeg(
            encoded, tf.concat([begin, end - begin], axis=0), channels=_IMAGE_CHANNELS
        )
        return cut(around, window_begin - begin)

    image = tf.cond(is_jpeg, decode_around, lambda: cut(whole, window_begin))
    return tf.ensure_shape(image, [None, None, _IMAGE_CHANNELS]), rest
