"""Draws the images of training batches, as they come out of augmentation and resizing."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from object_detection_fpn import builder
from object_detection_fpn.config.label_map import LabelMap
from object_detection_fpn.drawing.boxes import Boxes, draw_boxes, to_rgb
from object_detection_fpn.ops.pasting import paste_masks
from object_detection_fpn.protos import pipeline_pb2

_LONG_SIDE = 420  # pixels of a drawing
_MAX_BUFFER = 256  # records to choose from: enough for a few images
_JPEG_QUALITY = 85
_FULL_SHARE = 255.0  # of a mask's cell


class Masks(NamedTuple):
    """The masks of an image, as `records.Groundtruth` has them."""

    shares: np.ndarray
    """[N, M, M] uint8."""
    frames: np.ndarray
    """[N, 4], pixels of the batch's image."""


class Picture(NamedTuple):
    """An image of a batch."""

    jpeg: bytes
    size: tuple[int, int]
    """(height, width) in the batch, with its padding."""
    num_boxes: int
    """After augmentation."""


def draw_batches(
    config: pipeline_pb2.TrainEvalPipelineConfig,
    *,
    label_map: LabelMap,
    names: dict[int, str],
    num_images: int,
    seed: int = 0,
) -> list[Picture]:
    """Draws the first images of training with their boxes, and their masks where the model learns masks.

    The same seed gives the same images.

    Args:
        config: a checked config whose data exist.
        label_map: that of the training data.
        names: 0-based class -> name.
        num_images: how many.
        seed: of order and augmentation.

    Raises:
        data.failures.DataError: if there is nothing to train on.
    """
    copy = type(config)()
    copy.CopyFrom(config)
    reader = copy.train_input_reader
    reader.load_context_features = False
    reader.num_epochs = 0  # small data fill a batch too
    reader.shuffle_buffer_size = min(reader.shuffle_buffer_size, _MAX_BUFFER)
    reader.num_prefetch_batches = 1
    dataset = builder.build_dataset(
        copy,
        reader,
        label_map=label_map,
        batch_size=max(1, min(copy.train_config.batch_size, num_images)),
        is_training=True,
        seed=seed,
    )
    pictures: list[Picture] = []
    for batch in dataset:
        groundtruth = batch.groundtruth
        for row, image in enumerate(batch.inputs.images.numpy()):
            if len(pictures) == num_images:
                return pictures
            num = int(groundtruth.num_boxes[row])
            height, width = image.shape[:2]
            boxes = Boxes(
                groundtruth.boxes[row, :num].numpy() / np.array([height, width, height, width]),
                groundtruth.classes[row, :num].numpy(),
                is_crowd=groundtruth.is_crowd[row, :num].numpy(),
            )
            masks = None
            if groundtruth.masks is not None:
                masks = Masks(groundtruth.masks[row, :num].numpy(), groundtruth.mask_frames[row, :num].numpy())
            pictures.append(Picture(draw_picture(image, boxes, names, masks), (height, width), num))
    return pictures


def draw_picture(image: np.ndarray, boxes: Boxes, names: dict[int, str], masks: Masks | None) -> bytes:
    """A JPEG file of an image, brought to a size at which labels are readable, with its boxes and masks."""
    picture = Image.fromarray(to_rgb(image))
    factor = _LONG_SIDE / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    resized = np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
    if masks is not None:
        scale = np.array([size[1] / picture.height, size[0] / picture.width] * 2)
        pasted = paste_masks(
            masks.shares / _FULL_SHARE, masks.frames * scale, (size[1], size[0]), pasting="PIXEL_CENTERS"
        )
        boxes = boxes._replace(masks=pasted)
    file = io.BytesIO()
    Image.fromarray(draw_boxes(resized, boxes, names=names)).save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()
