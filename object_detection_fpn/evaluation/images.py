"""The images of an evaluation, one at a time as NumPy: what the metrics and the pictures take of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from object_detection_fpn import records
from object_detection_fpn.drawing.boxes import Boxes
from object_detection_fpn.evaluation.masks import encode_detections, encode_record, map_in_threads, resize_masks
from object_detection_fpn.evaluation.metric import EvaluationError, ImageDetections, ImageGroundtruth, take_rows
from object_detection_fpn.ops.pasting import MaskPasting, paste_masks
from object_detection_fpn.ops.rle import Rle


class EvaluatedImage(NamedTuple):
    """One real image of a batch, everything as NumPy, padding rows cut off."""

    source_id: str
    image: tf.Tensor
    """[H, W, channels] float32; fetched only where it is drawn."""
    true_shape: np.ndarray
    original_shape: np.ndarray
    groundtruth: records.Groundtruth
    labeled_classes: np.ndarray | None
    not_exhaustive_classes: np.ndarray | None
    encoded_masks: np.ndarray | None
    """[G] bytes, PNG files."""
    detections: records.Detections
    losses: dict[str, float]

    def pixels(self) -> np.ndarray:
        """The resized image without its padding."""
        height, width = self.true_shape[:2]
        return self.image[:height, :width].numpy()

    def groundtruth_normalized(self) -> np.ndarray:
        """Groundtruth boxes [G, 4], normalized to the resized image without its padding, like the detections'."""
        return self.groundtruth.boxes / np.tile(self.true_shape[:2], 2).astype(np.float64)

    def to_draw(self, mask_pasting: MaskPasting) -> dict[str, Boxes]:
        """Detections and groundtruth, as `Pictures.add` takes them; with masks where there are some."""
        size = (int(self.true_shape[0]), int(self.true_shape[1]))
        found, truth = self.detections, self.groundtruth
        masks = None
        if found.masks is not None:
            masks = paste_masks(found.masks, found.boxes * np.tile(size, 2), size, pasting=mask_pasting)
        gt_masks = None if self.encoded_masks is None else resize_masks(self.masks_of_record(), size)
        return {
            "detections": Boxes(found.boxes, found.classes, scores=found.scores, masks=masks),
            "groundtruth": Boxes(self.groundtruth_normalized(), truth.classes, is_crowd=truth.is_crowd, masks=gt_masks),
        }

    def masks_of_record(self) -> list[Rle | None]:
        """Run lengths in the original image, None for an object without a mask."""
        if self.encoded_masks is None:
            raise EvaluationError(
                "Metrics of masks were asked for, but the dataset has no masks. Does the input reader have "
                "load_instance_masks: true?"
            )
        return encode_record(self.encoded_masks.tolist(), self.image_size, self.source_id)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the original image."""
        return int(self.original_shape[0]), int(self.original_shape[1])

    def in_original_pixels(self, mask_pasting: MaskPasting | None) -> tuple[ImageGroundtruth, ImageDetections]:
        """What the metrics take, with masks if it is said how they are pasted."""
        size = np.tile(self.original_shape, 2).astype(np.float64)
        boxes = self.detections.boxes * size
        gt_masks = masks = None
        if mask_pasting is not None:
            gt_masks = self.masks_of_record()
            if self.detections.masks is None:
                raise EvaluationError(
                    "Metrics of masks were asked for, but the model gives no masks. Does it have number_of_stages: 3?"
                )
            masks = encode_detections(self.detections.masks, boxes, self.image_size, pasting=mask_pasting)
        groundtruth = ImageGroundtruth(
            source_id=self.source_id,
            boxes=self.groundtruth_normalized() * size,
            classes=self.groundtruth.classes,
            is_crowd=self.groundtruth.is_crowd,
            areas=self.groundtruth.areas,
            is_difficult=self.groundtruth.is_difficult,
            is_group_of=self.groundtruth.is_group_of,
            labeled_classes=self.labeled_classes,
            not_exhaustive_classes=self.not_exhaustive_classes,
            masks=gt_masks,
            image_size=self.image_size,
        )
        return groundtruth, ImageDetections(
            boxes=boxes, scores=self.detections.scores, classes=self.detections.classes, masks=masks
        )


def in_original_pixels(
    images: Iterator[EvaluatedImage], mask_pasting: MaskPasting | None
) -> Iterator[tuple[EvaluatedImage, ImageGroundtruth, ImageDetections]]:
    """What the metrics take of each image. Masks are encoded in threads, so that the device computes meanwhile."""

    def convert(image: EvaluatedImage) -> tuple[EvaluatedImage, ImageGroundtruth, ImageDetections]:
        return image, *image.in_original_pixels(mask_pasting)

    yield from map(convert, images) if mask_pasting is None else map_in_threads(convert, images)


def split_by_name(groundtruth: ImageGroundtruth, classes: Sequence[int]) -> tuple[ImageGroundtruth, list[int]]:
    """The objects of these 0-based classes, and the 1-based ids of all others, which metrics have no category for."""
    has_name = np.isin(groundtruth.classes, classes)
    if has_name.all():
        return groundtruth, []
    return take_rows(groundtruth, has_name), (groundtruth.classes[~has_name] + 1).tolist()


def real_images(
    batch: records.Batch, detections: records.Detections, losses: dict[str, tf.Tensor]
) -> Iterator[EvaluatedImage]:
    """Takes a batch and what the model says of it apart into its real images, in order."""
    images = batch.inputs.images
    # What training and losses alone read stays where it is.
    of_losses = dict.fromkeys(("class_scores", "masks", "mask_frames"))
    batch = batch._replace(
        inputs=batch.inputs._replace(images=None, context=None), groundtruth=batch.groundtruth._replace(**of_losses)
    )
    batch, detections, losses = tf.nest.map_structure(_numpy, (batch, detections, losses))
    for i in range(len(batch.original_shapes)):
        if batch.is_padding is not None and batch.is_padding[i]:
            continue
        source_id = "" if batch.source_id is None else batch.source_id[i].decode("utf-8", errors="replace")
        num_detections = int(detections.num_detections[i])
        groundtruth = batch.groundtruth
        num_boxes = int(groundtruth.num_boxes[i])
        yield EvaluatedImage(
            source_id=source_id,
            image=images[i],
            true_shape=batch.inputs.true_shapes[i],
            original_shape=batch.original_shapes[i],
            groundtruth=_rows(groundtruth, i, num_boxes),
            labeled_classes=None if batch.labeled_classes is None else batch.labeled_classes[i],
            not_exhaustive_classes=None if batch.not_exhaustive_classes is None else batch.not_exhaustive_classes[i],
            encoded_masks=None if batch.encoded_masks is None else batch.encoded_masks[i, :num_boxes],
            detections=_rows(detections, i, num_detections),
            losses={name: float(value[i]) for name, value in losses.items()},
        )


def _rows(record: Any, image: int, num_rows: int) -> Any:
    """The real rows of one image; its count (the field of one axis) becomes a scalar."""
    return type(record)(
        *(None if field is None else field[image] if field.ndim == 1 else field[image, :num_rows] for field in record)
    )


def _numpy(value: tf.Tensor | None) -> np.ndarray | None:
    return None if value is None else value.numpy()
