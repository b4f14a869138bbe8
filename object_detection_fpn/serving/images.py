"""Finds and reads image files: what TensorFlow decodes, and other formats by Pillow."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

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
    """Image files of a list of files, glob patterns and folders, see `find_named_images`."""
    return list(find_named_images(inputs))


def find_named_images(inputs: Sequence[str], *, output_dir: str | None = None) -> dict[str, str]:
    """Image files of a list of files, glob patterns and folders (with their subfolders), each once.

    They come in the order of `inputs`, those of one pattern or folder in natural order: frame_2 before frame_10. In folders,
    hidden files and folders (".cache", "._photo.jpg") are left out.

    Args:
        inputs: what the user named.
        output_dir: folder of results; what lies in it is not found in a folder around it, where an earlier run may have left
            drawings.

    Returns:
        Path -> its name among the results: of a file its own name, and in a folder or pattern the path below the folder (of a
        pattern, below what comes before the first wildcard). If several folders or patterns were given, with the last folder's
        own name before it.

    Raises:
        FileNotFoundError: if one of them does not exist, matches nothing, cannot be reached, or is a folder without images.
    """
    found: dict[str, str] = {}
    groups = []
    for given in inputs:
        try:
            groups.append(_find(given, output_dir))
        except tf.errors.OpError as error:
            raise FileNotFoundError(f"{given} cannot be reached: {error.message}") from error
    num_folders = sum(group.root is not None for group in groups)
    for root, paths in groups:
        for path in sorted(paths, key=natural_key):
            name = os.path.basename(path)
            if root is not None:
                name = path[len(root) :].lstrip("/") if path.startswith(root) else name
                if num_folders > 1:
                    name = os.path.join(os.path.basename(os.path.abspath(root)), name)
            found.setdefault(path, name)
    return found


def natural_key(path: str) -> tuple[Any, ...]:
    """Sorts paths folder by folder, and numbers in them by their value: "a/frame_2.png" before "a/frame_10.png"."""
    parts = [re.split(r"([0-9]+)", part) for part in path.split("/")]
    return tuple(tuple(int(text) if text.isdecimal() else text for text in part) for part in parts), path


class _Group(NamedTuple):
    """What one input stands for."""

    root: str | None
    """The folder that names are relative to; None for a file."""
    paths: list[str]


def _find(given: str, output_dir: str | None) -> _Group:
    if not given:
        raise FileNotFoundError("An empty name is no image. Allowed: image files, folders and glob patterns.")
    if tf.io.gfile.isdir(given):
        paths = _walk(given, output_dir)
        if not paths:
            raise FileNotFoundError(f"The folder {given} holds no images. Looked for: {', '.join(IMAGE_SUFFIXES)}.")
        return _Group(given, paths)
    if tf.io.gfile.exists(given):
        return _Group(None, [given])
    paths = []
    wants_hidden = os.path.basename(given).startswith(".")
    for path in tf.io.gfile.glob(given):
        if os.path.basename(path).startswith(".") and not wants_hidden:
            continue  # as in a shell
        paths += _walk(path, output_dir) if tf.io.gfile.isdir(path) else [path]
    if not paths:
        raise FileNotFoundError(f"There is no image, folder or match of a pattern named {given}.")
    fixed = re.split(r"[*?[]", given)[0]
    return _Group(fixed[: fixed.rfind("/") + 1], paths)


def _walk(folder: str, output_dir: str | None) -> list[str]:
    """Paths of the images in a folder and below."""
    results = None if output_dir is None else f"{os.path.abspath(output_dir)}/"
    if results is not None and not results.startswith(f"{os.path.abspath(folder)}/"):
        results = None
    paths = []
    for parent, _, names in tf.io.gfile.walk(folder):
        is_result = results is not None and parent != folder and f"{os.path.abspath(parent)}/".startswith(results)
        if is_result or any(part.startswith(".") for part in parent[len(folder) :].split("/")):
            continue
        images = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")]
        paths += [os.path.join(parent, name) for name in images]
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
