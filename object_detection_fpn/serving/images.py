"""Finds and reads image files: what TensorFlow decodes, and other formats by Pillow."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
"""What is looked for in folders. A file that is named itself may end in anything."""

PILLOW_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Number of channels -> mode of a Pillow image."""


class UnreadableImageError(ValueError):
    """A file that holds no image, or a broken one; says why."""


def find_images(inputs: Sequence[str]) -> list[str]:
    """Image files of a list of files, glob patterns and folders (with their subfolders), each once, in that order.

    Raises:
        FileNotFoundError: if one of them does not exist, matches nothing, or is a folder without images.
    """
    found: dict[str, None] = {}
    for given in inputs:
        if tf.io.gfile.isdir(given):
            paths = [
                os.path.join(folder, name)
                for folder, _, names in tf.io.gfile.walk(given)
                for name in names
                if name.lower().endswith(IMAGE_SUFFIXES)
            ]
            if not paths:
                raise FileNotFoundError(f"The folder {given} holds no images. Looked for: {', '.join(IMAGE_SUFFIXES)}.")
        elif tf.io.gfile.exists(given):
            paths = [given]
        else:
            paths = tf.io.gfile.glob(given)
            if not paths:
                raise FileNotFoundError(f"There is no image, folder or match of a pattern named {given}.")
        found.update(dict.fromkeys(sorted(paths)))
    return list(found)


def read_image(path: str, *, num_channels: int = 3) -> np.ndarray:
    """Reads an image file: [h, w, num_channels] uint8, decoded as training decodes it, other formats by Pillow.

    Raises:
        UnreadableImageError: if the file cannot be opened or holds no whole image.
    """
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            encoded = file.read()
    except tf.errors.OpError as error:
        raise UnreadableImageError(f"the file cannot be opened: {error.message}") from error
    if not encoded:
        raise UnreadableImageError("the file is empty")
    try:
        return tf.io.decode_image(encoded, channels=num_channels, expand_animations=False).numpy()
    except tf.errors.InvalidArgumentError:
        pass  # a format that TensorFlow does not know, or a broken file, of which Pillow says more
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            pixels = np.asarray(picture.convert(PILLOW_MODES[num_channels]))
    except UnidentifiedImageError as error:
        raise UnreadableImageError("neither TensorFlow nor Pillow knows its format") from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:  # what Pillow raises for broken files
        raise UnreadableImageError(str(error)) from error
    return pixels.reshape(*pixels.shape[:2], num_channels)
