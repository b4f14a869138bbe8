"""Image files as records store them: whole, upright, and of a format that training decodes."""

from __future__ import annotations

import enum
import io
import os
import re
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from object_detection_fpn.data import exif
from object_detection_fpn.data.images import decode_whole
from object_detection_fpn.data.pillow import PILLOW_ERRORS, to_pixels
from object_detection_fpn.data.source.coco import CocoError

# MPO: a JPEG with more pictures behind it, as many telephones write; decoders read the first. Other formats become PNGs.
_STORED_AS_IS = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png"}
_JPEG_QUALITY = 95  # of photographs that had to be turned


class Unusable(enum.Enum):
    """Why an image cannot be used; the text says it of several files."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    OTHER_SIZE = "of another size than the annotations say"


class UnusableImage(CocoError):
    """An image file that cannot become a record; a conversion may do without it."""

    def __init__(self, kind: Unusable, text: str):
        super().__init__(text)
        self.kind = kind

    def __reduce__(self) -> tuple[type[UnusableImage], tuple[Unusable, str]]:
        return type(self), (self.kind, str(self))  # as processes hand it on


class Header(NamedTuple):
    """What the first bytes of an image file say."""

    width: int
    """Pixels, as they are stored."""
    height: int
    format: str
    """Pillow's name, such as "JPEG"."""
    orientation: int
    """See `data.exif`."""

    @property
    def is_jpeg(self) -> bool:
        """Whether the file is a JPEG, whatever its name ends in."""
        return _STORED_AS_IS.get(self.format) == "jpeg"

    @property
    def is_stored_as_is(self) -> bool:
        """Whether a record holds the file's own bytes."""
        return self.format in _STORED_AS_IS and self.orientation == exif.UPRIGHT

    @property
    def stored_format(self) -> str:
        """How a record holds it: "jpeg" or "png"."""
        return _STORED_AS_IS.get(self.format, "png")


class StoredImage(NamedTuple):
    """An image as a record holds it."""

    encoded: bytes
    format: str
    """"jpeg" or "png"."""


def find_image_file(image_dir: str, file_name: str) -> str:
    """The path of an image file; names written on Windows, with backslashes, are understood where they name no file."""
    path = _in_folder(image_dir, file_name)
    if "\\" in file_name and not tf.io.gfile.exists(path):
        return _in_folder(image_dir, file_name.replace("\\", "/"))
    return path


def _in_folder(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    scheme, separator, rest = path.partition("://")
    return f"{scheme}{separator}{os.path.normpath(rest)}" if separator else path  # remote systems take ".." for a name


def read_header(encoded: bytes, where: str) -> Header:
    """Reads size, format and orientation.

    Raises:
        CocoError: if Pillow knows no such format.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return Header(*image.size, image.format or "", exif.read_orientation(image))
    except Image.DecompressionBombError as error:
        raise UnusableImage(Unusable.UNREADABLE, f"{where}: {error}") from error
    except PILLOW_ERRORS as error:
        reason = f"{where}: the image ({len(encoded):,} bytes) cannot be read: unknown format."
        raise UnusableImage(Unusable.UNREADABLE, reason) from error


def to_stored(encoded: bytes, header: Header, where: str) -> StoredImage:
    """Makes what a record holds of an image file. The whole image is decoded, as training will do it.

    Args:
        encoded: the file.
        header: of the file.
        where: what names it in messages.

    Returns:
        The file's own bytes if it is an upright JPEG or PNG. Photographs that have to be turned are encoded anew, JPEGs with
        quality 95, and lose their EXIF data; other formats become PNGs.

    Raises:
        CocoError: if the image cannot be decoded.
    """
    if header.format in _STORED_AS_IS:
        pixels = _decode(encoded, where)
        if header.is_stored_as_is:
            return StoredImage(encoded, header.stored_format)
    else:
        try:
            with Image.open(io.BytesIO(encoded)) as image:
                pixels = to_pixels(image, num_channels=3)
        except PILLOW_ERRORS as error:
            reason = f"{where}: the image ({len(encoded):,} bytes) cannot be decoded: {error}."
            raise UnusableImage(Unusable.UNREADABLE, reason) from error
    upright = Image.fromarray(exif.turn_pixels(pixels, header.orientation))
    buffer = io.BytesIO()
    if header.is_jpeg:
        upright.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    else:
        upright.save(buffer, "PNG")
    return StoredImage(buffer.getvalue(), header.stored_format)


def _decode(encoded: bytes, where: str) -> np.ndarray:
    try:
        with tf.device("CPU:0"):
            return decode_whole(tf.constant(encoded)).numpy()
    except tf.errors.OpError as error:
        reason = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", error.message, flags=re.DOTALL).strip().splitlines()[0].strip(" .")
        raise UnusableImage(
            Unusable.UNREADABLE,
            f"{where}: the image ({len(encoded):,} bytes) cannot be decoded; the file is truncated, damaged, or of a kind that "
            f"TensorFlow does not read ({reason}).",
        ) from error
