"""EXIF orientations: pixels and boxes turn together, as Pillow turns pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from object_detection_fpn.data import exif


def photograph(orientation, image_format="PNG", size=(6, 4)):
    """The bytes of an image whose stored pixels all differ."""
    pixels = np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(size[1], size[0], 3)
    tags = Image.Exif()
    tags[274] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format, exif=tags)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_turn_as_viewers_turn_them(orientation):
    with Image.open(io.BytesIO(photograph(orientation))) as picture:
        assert exif.read_orientation(picture) == orientation
        upright = np.asarray(ImageOps.exif_transpose(picture))
        np.testing.assert_array_equal(exif.turn_pixels(np.asarray(picture), orientation), upright)
        assert exif.swaps_axes(orientation) == (upright.shape[:2] == (6, 4))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_stay_on_what_they_frame(orientation):
    image = np.zeros([40, 60, 1], np.uint8)
    image[8:20, 30:57] = 1
    upright = exif.turn_pixels(image, orientation)[..., 0]
    rows, columns = np.nonzero(upright)
    height, width = upright.shape
    found = (rows.min() / height, columns.min() / width, (rows.max() + 1) / height, (columns.max() + 1) / width)
    assert exif.turn_box((8 / 40, 30 / 60, 20 / 40, 57 / 60), orientation) == pytest.approx(found)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_mean_nothing_count_as_upright(orientation):
    with Image.open(io.BytesIO(photograph(orientation))) as picture:
        assert exif.read_orientation(picture) == exif.UPRIGHT


def test_broken_exif_data_count_as_upright():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff broken")
    with Image.open(io.BytesIO(buffer.getvalue())) as picture:
        assert exif.read_orientation(picture) == exif.UPRIGHT


def test_tiffs_are_turned_by_pillow_alone():
    with Image.open(io.BytesIO(photograph(6, "TIFF"))) as picture:
        orientation = exif.read_orientation(picture)
        assert exif.turn_pixels(np.asarray(picture), orientation).shape[:2] == (6, 4)
