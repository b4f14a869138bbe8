"""What the implementations of suppression share. N counts the boxes of a row."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import tensorflow as tf

NEVER = float("-inf")  # score of what cannot be kept

BoxLookUp: TypeAlias = Callable[[tf.Tensor], tf.Tensor]
"""Rows [B, n] int32 -> their boxes [B, n, 4] float32, through which no gradient passes."""


@dataclasses.dataclass(frozen=True)
class Suppression:
    """Settings of multi-class suppression.

    Attributes:
        iou_threshold: IoU above which the worse box of a pair is dropped.
        score_threshold: only scores above it take part.
        max_detections_per_class: boxes to keep of each class of an image.
        max_total_detections: D, detections to keep of each image.
        class_agnostic: suppress across classes: each RoI takes part once, with its best class.
        max_classes_per_detection: with `class_agnostic`, how many of its best classes each kept RoI is detected as.
        keep_empty: keep the boxes that clipping leaves without area, as `tf.image.combined_non_max_suppression` does.
        soft_nms_sigma: 0 drops overlapping boxes. Above 0, their scores decay instead by exp(-IoU^2 / (2 soft_nms_sigma)),
            whatever `iou_threshold` is (Soft-NMS, Bodla et al. 2017, Gaussian).
        clip_before_suppression: suppression looks at boxes that are clipped to the window already.
        min_box_side: boxes with a side below it, after that clipping, take no part.

    Raises:
        ValueError: if a number of boxes, detections or classes is below 1, or `min_box_side` is there without clipping.
    """

    iou_threshold: float = 0.6
    score_threshold: float = 0.0
    max_detections_per_class: int = 100
    max_total_detections: int = 100
    class_agnostic: bool = False
    max_classes_per_detection: int = 1
    keep_empty: bool = False
    soft_nms_sigma: float = 0.0
    clip_before_suppression: bool = False
    min_box_side: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_detections_per_class", "max_total_detections", "max_classes_per_detection"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}. Allowed: 1 or more.")
        if self.min_box_side and not self.clip_before_suppression:
            raise ValueError(f"min_box_side = {self.min_box_side:g} needs clip_before_suppression = True.")


class Kept(NamedTuple):
    """What suppression keeps of each row, best first, zeros in padding rows."""

    indices: tf.Tensor
    """[B, max_outputs] int32."""
    scores: tf.Tensor
    """[B, max_outputs] float32, decayed by Soft-NMS."""
    num: tf.Tensor
    """[B] int32."""


def as_look_up(boxes: tf.Tensor | BoxLookUp) -> BoxLookUp:
    return boxes if callable(boxes) else lambda rows: tf.gather(boxes, rows, batch_dims=1)
