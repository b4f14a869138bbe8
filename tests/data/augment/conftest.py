"""Examples that show their boxes, so that a test can find them again in the pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.data import masks
from object_detection_fpn.data.example import Example, Objects


@pytest.fixture(scope="session")
def draw_example() -> Callable[..., Example]:
    """(boxes in whole pixels, height, width) -> an `Example` in which box i fills channel i."""

    def draw(
        boxes: Sequence[tuple[int, int, int, int]],
        height: int = 60,
        width: int = 80,
        *,
        dtype=tf.uint8,
        channels: int = 3,
        with_scores: bool = False,
    ) -> Example:
        pixels = np.zeros([height, width, channels], np.uint8)
        for i, (ymin, xmin, ymax, xmax) in enumerate(boxes):
            pixels[ymin:ymax, xmin:xmax, i] = 255
        num = len(boxes)
        normalized = np.array(boxes, np.float32).reshape(-1, 4) / np.array([height, width, height, width], np.float32)
        objects = Objects(
            boxes=tf.constant(normalized),
            classes=tf.range(num, dtype=tf.int32),
            weights=tf.range(num, dtype=tf.float32),
            is_crowd=tf.range(num) % 2 == 1,
            is_difficult=tf.range(num) % 2 == 0,
            is_group_of=tf.range(num) % 3 == 1,
            areas=10 * tf.range(num, dtype=tf.float32),
            class_scores=tf.one_hot(tf.range(num), num + 1) if with_scores else None,
        )
        return Example(tf.cast(pixels, dtype), objects)

    return draw


@pytest.fixture(scope="session")
def draw_masked(draw_example) -> Callable[..., Example]:
    """As `draw_example`, with masks: object i is what lies below the falling diagonal of box i."""

    def draw(
        boxes: Sequence[tuple[int, int, int, int]], height: int = 60, width: int = 80, *, side: int = 48
    ) -> Example:
        example = draw_example(boxes, height, width)
        rows, columns = np.mgrid[:height, :width] + 0.5
        is_below = np.zeros([height, width, 3], bool)
        for i, (ymin, xmin, ymax, xmax) in enumerate(boxes):
            is_below[..., i] = (rows - ymin) / (ymax - ymin) > (columns - xmin) / (xmax - xmin)
        image = tf.where(is_below, example.image, 0)
        frames = example.objects.boxes
        sampled = [masks.sample_frame(image[..., i, tf.newaxis], frames[i], side) for i in range(len(boxes))]
        stacked = tf.reshape(tf.constant(np.array(sampled, np.uint8)), [-1, side, side])
        return Example(image, example.objects._replace(masks=stacked, mask_frames=frames))

    return draw


@pytest.fixture(scope="session")
def paste() -> Callable[[Example, int], np.ndarray]:
    """(example, row) -> [H, W] bool, the pixels of the image whose middle lies in the mask of an object."""

    def paste(example: Example, row: int) -> np.ndarray:
        values = np.pad(np.asarray(example.objects.masks[row], np.float32), 1)
        frame = np.asarray(example.objects.mask_frames[row]).reshape(2, 2)
        for axis, length in enumerate(example.image.shape[:2]):
            begin, end = frame[:, axis] * length
            side = values.shape[axis] - 2
            place = np.clip((np.arange(length) + 0.5 - begin) / (end - begin) * side + 0.5, 0, side + 1)
            low = np.minimum(place.astype(int), side)
            share = np.expand_dims(place - low, 1 - axis)
            values = np.take(values, low, axis) * (1 - share) + np.take(values, low + 1, axis) * share
        return values > 127.5

    return paste


@pytest.fixture(scope="session")
def find_box() -> Callable[..., np.ndarray]:
    """(example, i) -> pixel box [4] of what fills channel i of the example's image."""

    def find(example: Example, i: int = 0) -> np.ndarray:
        mask = np.asarray(example.image, np.float32)[..., i] > 128  # what AutoAugment fills with
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        return np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1], np.float32)

    return find


@pytest.fixture(scope="session")
def pixel_boxes() -> Callable[[Example], np.ndarray]:
    """Boxes of an example in pixels of its image."""

    def scale(example: Example) -> np.ndarray:
        height, width = example.image.shape[:2]
        return np.asarray(example.objects.boxes) * np.array([height, width, height, width], np.float32)

    return scale
