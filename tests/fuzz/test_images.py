"""Whatever the bytes of an image are, they are refused in words, or decoded; by serving, and by training as a record."""

from __future__ import annotations

import functools
import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from fuzz_support import cases, changed_bytes
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from object_detection_fpn.data import decoder, failures
from object_detection_fpn.data.augment import crop, warp
from object_detection_fpn.serving import images

MAX_PIXELS = 1 << 22


def encoded(format: str, mode: str = "RGB", **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 4), np.uint8)
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels, "RGBA").convert(mode)
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def with_orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[274] = value
    return encoded("JPEG", exif=exif)


SAMPLES = (
    encoded("JPEG"),
    encoded("JPEG", "L"),
    encoded("JPEG", progressive=True),
    encoded("JPEG", "CMYK"),
    with_orientation(6),
    encoded("PNG"),
    encoded("PNG", "RGBA"),
    encoded("PNG", "P"),
    encoded("GIF", "P"),
    encoded("GIF", "P", save_all=True, append_images=[Image.new("P", (9, 6))]),
    encoded("BMP"),
    encoded("BMP", "L"),
    encoded("WEBP"),
    encoded("TIFF"),
    b"",
    b"<html>404</html>",
)


def is_small(data: bytes) -> bool:
    """Whether decoders, which believe the size that is written in a file, will not ask for gigabytes."""
    if data[1:4] == b"PNG" and len(data) >= 24:
        height, width = struct.unpack(">II", data[16:24])
        return height * width <= MAX_PIXELS
    if data[:2] == b"BM" and len(data) >= 26:
        width, height = struct.unpack("<ii", data[18:26])
        return abs(height * width) <= MAX_PIXELS
    if data[:3] == b"GIF" and len(data) >= 10:
        width, height = struct.unpack("<HH", data[6:10])
        return height * width <= MAX_PIXELS
    return True


def cut_half(size: tf.Tensor, objects) -> warp.Warp:
    """A crop of the left half, of which no more than that is decoded."""
    window = crop.draw_crop(size, objects, seed=tf.constant([1, 2]), constraints=crop.CropConstraints())
    assert window.window is not None
    return window


@pytest.fixture(scope="module")
def decoders():
    """The record decoder in its three ways: the whole image, a smaller JPEG, a window; compiled, and as Python."""

    def make(*, cut=None, **settings):
        decode = functools.partial(
            decoder.decode_example, decoding=decoder.Decoding(num_classes=3, **settings), crop=cut
        )
        signature = [tf.TensorSpec([], tf.string)]
        return tf.function(lambda serialized: decode(serialized), input_signature=signature, autograph=False), decode

    return [make(), make(jpeg_min_side=2), make(cut=cut_half)]


def as_record(data: bytes) -> bytes:
    values = {"image/encoded": data, "image/source_id": b"7"}
    features = {key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for key, value in values.items()}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


@cases(90)
@given(data=changed_bytes(SAMPLES), way=st.integers(0, 2), num_channels=st.sampled_from((1, 3)))
@example(data=b"\xff\xd8\xff", way=1, num_channels=3)
@example(data=b"BM", way=0, num_channels=3)
@example(data=b"GIF89a", way=0, num_channels=3)
@example(data=b"\x89PNG\r\n\x1a\n", way=0, num_channels=1)
@example(data=SAMPLES[0][:100], way=1, num_channels=3)
def test_image_is_refused_in_words_or_decoded(data, way, num_channels, decoders, no_hang):
    no_hang()
    if not is_small(data):
        return
    try:
        loaded = images.decode_image(data, num_channels=num_channels)
    except images.UnreadableImageError as error:
        assert str(error)
    else:
        assert loaded.pixels.dtype == np.uint8
        assert loaded.pixels.shape[2] == num_channels
    record = as_record(data)
    compiled, decode = decoders[way]
    try:
        image = compiled(tf.constant(record)).example.image
    except tf.errors.OpError:
        message = failures.explain_failure(record, file="a.tfrecord", index=3, decode=decode)
        assert message.startswith("a.tfrecord, record 3 (source_id 7): image/encoded"), message
        assert "\n" not in message
    else:
        assert image.shape[2] == 3
