"""Records made for the tests of the data pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf


def _add(example: tf.train.Example, key: str, values: Sequence) -> None:
    feature = example.features.feature[key]
    for value in values:
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif isinstance(value, float):
            feature.float_list.value.append(value)
        else:
            feature.int64_list.value.append(value)


@pytest.fixture(scope="session")
def encode_image() -> Callable[..., bytes]:
    """(height, width, format, channels) -> an encoded image whose brightness grows to the right."""

    def encode(height: int = 20, width: int = 30, image_format: str = "jpeg", channels: int = 3) -> bytes:
        ramp = np.linspace(0, 255, width).astype(np.uint8)
        pixels = np.broadcast_to(ramp[None, :, None], [height, width, channels])
        return (tf.io.encode_jpeg if image_format == "jpeg" else tf.io.encode_png)(pixels).numpy()

    return encode


@pytest.fixture(scope="session")
def make_record(encode_image) -> Callable[..., bytes]:
    """A serialized tf.Example with normalized boxes and ids; further features by key, e.g. `{"image/object/weight": [0.5]}`."""

    def make(
        boxes: Sequence[Sequence[float]] = ((0.1, 0.2, 0.5, 0.6),),
        labels: Sequence[int] | None = None,
        *,
        image: bytes | None = None,
        source_id: str = "7",
        more: dict[str, Sequence] | None = None,
    ) -> bytes:
        example = tf.train.Example()
        _add(example, "image/encoded", [encode_image() if image is None else image])
        _add(example, "image/source_id", [source_id.encode()])
        for i, side in enumerate(("ymin", "xmin", "ymax", "xmax")):
            _add(example, f"image/object/bbox/{side}", [float(box[i]) for box in boxes])
        _add(example, "image/object/class/label", [1] * len(boxes) if labels is None else labels)
        for key, values in (more or {}).items():
            _add(example, key, values)
        return example.SerializeToString()

    return make


@pytest.fixture
def write_records(tmp_path: Path) -> Callable[..., str]:
    """Writes serialized records to a file of the test's folder and returns its path."""

    def write(records: Sequence[bytes], name: str = "data.tfrecord") -> str:
        path = str(tmp_path / name)
        with tf.io.TFRecordWriter(path) as writer:
            for record in records:
                writer.write(record)
        return path

    return write
