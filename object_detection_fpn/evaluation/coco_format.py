"""Images as COCO's dictionaries: what pycocotools, faster-coco-eval and hotcoco take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from object_detection_fpn.evaluation.masks import mask_areas, regions_of_masks
from object_detection_fpn.evaluation.metric import ImageDetections, ImageGroundtruth

Annotations = list[dict[str, Any]]


def box_annotations(
    image_id: int, groundtruth: ImageGroundtruth, detections: ImageDetections
) -> tuple[Annotations, Annotations]:
    """Groundtruth and detections of one image; objects have the size that the record says, or that of their boxes."""
    boxes, found = groundtruth.boxes, detections.boxes
    of_truth = _annotations(
        image_id,
        groundtruth.classes,
        bbox=_xywh(boxes),
        area=_stored_areas(groundtruth, _box_areas(boxes)),
        iscrowd=groundtruth.is_crowd.astype(int),
    )
    return of_truth, _annotations(
        image_id, detections.classes, bbox=_xywh(found), area=_box_areas(found), score=detections.scores
    )


def mask_annotations(
    image_id: int, groundtruth: ImageGroundtruth, detections: ImageDetections
) -> tuple[Annotations, Annotations]:
    """The same of masks, for an image in which every object has one; detections have the size of their masks."""
    masks = [mask for mask in groundtruth.masks or () if mask is not None]
    found = detections.masks or []
    of_truth = _annotations(
        image_id,
        groundtruth.classes,
        segmentation=masks,
        bbox=_xywh(groundtruth.boxes),
        area=_stored_areas(groundtruth, mask_areas(masks)),
        iscrowd=groundtruth.is_crowd.astype(int),
    )
    return of_truth, _annotations(
        image_id,
        detections.classes,
        segmentation=found,
        bbox=_xywh(detections.boxes),
        area=mask_areas(found),
        score=detections.scores,
    )


def with_regions(groundtruth: ImageGroundtruth, detections: ImageDetections) -> ImageGroundtruth:
    """The same groundtruth in which every object has a mask, and those that had none are crowds.

    Raises:
        ValueError: if a record has no masks, or masks of another size than the image.
    """
    groundtruth, has_no_mask = regions_of_masks(groundtruth, detections)
    return groundtruth._replace(is_crowd=groundtruth.is_crowd | has_no_mask)


def in_order(
    groundtruth: Sequence[ImageGroundtruth], detections: Sequence[ImageDetections]
) -> list[tuple[ImageGroundtruth, ImageDetections]]:
    """The images by source id, so that ties between scores of different images do not depend on the order of the images."""
    images = zip(groundtruth, detections, strict=True)
    return sorted(images, key=lambda image: _sort_key(image[0].source_id))


def _sort_key(source_id: str) -> tuple[bool, int, str]:
    """Numbers by value, as COCO orders its image ids, then everything else."""
    is_number = source_id.isdecimal()
    return not is_number, int(source_id) if is_number else 0, source_id


def _stored_areas(groundtruth: ImageGroundtruth, others: np.ndarray) -> np.ndarray:
    """The areas [G] of the record, and `others` [G] where none is stored."""
    return others if groundtruth.areas is None else np.where(groundtruth.areas > 0, groundtruth.areas, others)


def _box_areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _xywh(boxes: np.ndarray) -> np.ndarray:
    """COCO's `bbox` [N, 4]: (xmin, ymin, width, height)."""
    return np.stack([boxes[:, 1], boxes[:, 0], boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]], axis=1)


def _annotations(image_id: int, classes: np.ndarray, **fields: np.ndarray | Sequence[Any]) -> list[dict[str, Any]]:
    """COCO's dictionaries; `category_id` is 1-based."""
    columns: dict[str, Sequence[Any]] = {
        "category_id": (classes + 1).tolist(),
        **{k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in fields.items()},
    }
    return [
        {"image_id": image_id, "iscrowd": 0, **dict(zip(columns, row, strict=True))}
        for row in zip(*columns.values(), strict=True)
    ]
