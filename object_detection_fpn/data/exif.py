"""Turns photographs and the boxes on them upright, as their EXIF orientation says.

A camera that is held sideways stores the pixels as its sensor read them, and the orientation that shows them upright (EXIF 2.3,
tag 274, values 1 to 8; 1 is upright). Viewers apply it; image decoders, those of TensorFlow included, do not.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from PIL import Image

_ORIENTATION_TAG = 274
UPRIGHT = 1
"""The orientation of pixels that are stored as they are shown."""


class _Turn(NamedTuple):
    """How stored pixels become upright: first the axes are swapped, then the new axes are reversed."""

    swaps_axes: bool
    reverses_x: bool
    reverses_y: bool


_TURNS = {
    1: _Turn(False, False, False),
    2: _Turn(False, True, False),  # mirrored
    3: _Turn(False, True, True),  # upside down
    4: _Turn(False, False, True),
    5: _Turn(True, False, False),  # mirrored along the diagonal
    6: _Turn(True, True, False),  # has to be turned right
    7: _Turn(True, True, True),
    8: _Turn(True, False, True),  # has to be turned left
}


def read_orientation(picture: Image.Image) -> int:
    """The EXIF orientation of the pixels that Pillow gives, 1 to 8; 1 where there is none, or none that means anything."""
    if picture.format == "TIFF":  # Pillow turns these upright itself
        return UPRIGHT
    try:
        orientation = picture.getexif().get(_ORIENTATION_TAG, UPRIGHT)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, OverflowError, struct.error):
        return UPRIGHT  # what Pillow raises for EXIF data that cannot be parsed; viewers then show the pixels as stored
    return orientation if isinstance(orientation, int) and orientation in _TURNS else UPRIGHT


def swaps_axes(orientation: int) -> bool:
    """Whether width and height of the upright image are height and width of the stored one."""
    return _TURNS[orientation].swaps_axes


def turn_pixels(image: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels [h, w, channels] -> upright pixels, [w, h, channels] where the axes are swapped."""
    turn = _TURNS[orientation]
    if turn.swaps_axes:
        image = image.swapaxes(0, 1)
    return np.ascontiguousarray(image[:: -1 if turn.reverses_y else 1, :: -1 if turn.reverses_x else 1])


def turn_box(box: tuple[float, float, float, float], orientation: int) -> tuple[float, float, float, float]:
    """A box (ymin, xmin, ymax, xmax), normalized to the stored image -> the same normalized to the upright one."""
    turn = _TURNS[orientation]
    ymin, xmin, ymax, xmax = box
    if turn.swaps_axes:
        ymin, xmin, ymax, xmax = xmin, ymin, xmax, ymax
    if turn.reverses_y:
        ymin, ymax = 1.0 - ymax, 1.0 - ymin
    if turn.reverses_x:
        xmin, xmax = 1.0 - xmax, 1.0 - xmin
    return ymin, xmin, ymax, xmax
