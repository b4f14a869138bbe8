"""Finds and reads image files: what TensorFlow decodes, and other formats by Pillow."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

from object_detection_fpn.data import exif
from object_detection_fpn.data.pillow import PILLOW_ERRORS, to_pixels

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
"""What is looked for in folders. A file that is named itself may end in anything."""


class UnreadableImageError(ValueError):
    """A file that holds no image, or a broken one; says why."""


class LoadedImage(NamedTuple):
    """An image file's pixels."""

    pixels: np.ndarray
    """[h, w, num_channels] uint8, upright."""
    exif_orientation: int
    """By which the stored pixels were turned, see `data.exif`; 1 = they were upright."""


def find_images(inputs: Sequence[str]) -> list[str]:
    """Image files of a list of files, glob patterns and folders (with their subfolders), each once, in that order.

    Raises:
        FileNotFoundError: if one of them does not exist, matches nothing, cannot be reached, or is a folder without images.
    """
    found: dict[str, None] = {}
    for given in inputs:
        try:
            paths = _find(given)
        except tf.errors.OpError as error:
            raise FileNotFoundError(f"{given} cannot be reached: {error.message}") from error
        found.update(dict.fromkeys(sorted(paths)))
    return list(found)


def _find(given: str) -> list[str]:
    if not given:
        raise FileNotFoundError("An empty name is no image. Allowed: image files, folders and glob patterns.")
    if tf.io.gfile.isdir(given):
        paths = [
            os.path.join(folder, name)
            for folder, _, names in tf.io.gfile.walk(given)
            for name in names
            if name.lower().endswith(IMAGE_SUFFIXES)
        ]
        if not paths:
            raise FileNotFoundError(f"The folder {given} holds no images. Looked for: {', '.join(IMAGE_SUFFIXES)}.")
        return paths
    if tf.io.gfile.exists(given):
        return [given]
    paths = tf.io.gfile.glob(given)
    if not paths:
        raise FileNotFoundError(f"There is no image, folder or match of a pattern named {given}.")
    return paths


def read_image(path: str, *, num_channels: int = 3) -> LoadedImage:
    """Reads an image file, decoded as training decodes it, other formats by Pillow, and turns it upright.

    Raises:
        UnreadableImageError: if the file cannot be opened or holds no whole image.
    """
    try:
        if tf.io.gfile.isdir(path):
            raise UnreadableImageError("it is a folder")
        with tf.io.gfile.GFile(path, "rb") as file:
            encoded = file.read()
    except tf.errors.OpError as error:
        raise UnreadableImageError(f"the file cannot be opened: {error.message}") from error
    if not encoded:
        raise UnreadableImageError("the file is empty")
    return decode_image(encoded, num_channels=num_channels)


def decode_image(encoded: bytes, *, num_channels: int = 3) -> LoadedImage:
    """Decodes the content of an image file, as `read_image` does.

    Raises:
        UnreadableImageError: if it holds no whole image.
    """
    try:
        decoded = tf.io.decode_image(encoded, channels=num_channels, expand_animations=False).numpy()
    except tf.errors.InvalidArgumentError:
        decoded = None  # a format that TensorFlow does not know, or a broken file, of which Pillow says more
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            orientation = exif.read_orientation(picture)
            if decoded is None:
                decoded = to_pixels(picture, num_channels=num_channels)
    except UnidentifiedImageError as error:
        if decoded is None:
            raise UnreadableImageError("neither TensorFlow nor Pillow knows its format") from error
        orientation = exif.UPRIGHT
    except PILLOW_ERRORS as error:
        if decoded is None:
            raise UnreadableImageError(str(error)) from error
        orientation = exif.UPRIGHT
    return LoadedImage(exif.turn_pixels(decoded, orientation), orientation)
