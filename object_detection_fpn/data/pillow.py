"""What Pillow reads: its errors, and pixels as TensorFlow would give them."""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image

PILLOW_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Number of channels -> mode of a Pillow image."""

PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, OverflowError, struct.error),
    Image.DecompressionBombError,
)
"""What Pillow raises for files that hold no image, or a broken one."""


def to_pixels(picture: Image.Image, *, num_channels: int) -> np.ndarray:
    """The pixels of a Pillow image as they are stored (of an animation, its first frame), [h, w, num_channels] uint8.

    Of 16 bits the upper 8 are taken, as TensorFlow does it; Pillow itself would show all above 255 as white.
    """
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    pixels = np.asarray(picture.convert(PILLOW_MODES[num_channels]))
    return pixels.reshape(*pixels.shape[:2], num_channels)
