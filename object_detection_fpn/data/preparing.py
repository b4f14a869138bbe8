"""From a decoded example to one row of a batch: augments, merges, resizes, pads.

Shape letters: G rows of groundtruth, C classes, H W size of the resized image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from object_detection_fpn.data.example import Example, Objects
from object_detection_fpn.data.merge import merge_equal_boxes
from object_detection_fpn.data.report import DataReport, Notice
from object_detection_fpn.data.resize import Resizer
from object_detection_fpn.data.source.reader import RecordIssues
from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.records import Context

_RESIZING = -1  # the number of the resizer among the augmentations, whose seeds differ by it

Augmentation = Callable[..., Example]
"""Called as `augmentation(example, seed=[2] int32)`, usually a function of `data.augment` with its keywords bound."""


@dataclasses.dataclass(frozen=True)
class Preparing:
    """What is done with decoded examples."""

    resizer: Resizer
    """See `data.resize`; of training where it draws sizes at random."""
    augmentations: Sequence[Augmentation] = ()
    """Applied in this order, in training only."""
    max_num_boxes: int = 100
    """G; further boxes of an image are dropped and counted. Configs call it `max_number_of_boxes`."""
    use_class_scores: bool = False
    """Hand on the scores of the records as `Groundtruth.class_scores`."""
    merge_multiple_label_boxes: bool = False
    """Merge objects of one box after augmentation, see `merge.merge_equal_boxes`; their classes, not the scores of the
    record, are then the `Groundtruth.class_scores`."""


class PreparedImage(NamedTuple):
    """One row of a `Batch`."""

    image: tf.Tensor
    """[H, W, channels] float32."""
    true_shape: tf.Tensor
    """[3] int32."""
    original_shape: tf.Tensor
    """[2] int32."""
    objects: Objects
    """G rows, boxes and frames of masks in pixels of the resized image."""
    num_boxes: tf.Tensor
    """Scalar int32."""
    source_id: tf.Tensor
    """Scalar string."""
    record_key: tf.Tensor
    """Scalar int64, of `record_keys`."""
    is_padding: tf.Tensor
    """Scalar bool."""
    labeled_classes: tf.Tensor | None
    """[C] bool."""
    not_exhaustive_classes: tf.Tensor | None
    """[C] bool."""
    context: Context | None = None
    """[M, F] and a scalar."""
    issues: RecordIssues | None = None
    """Where a data service makes the image."""


def prepare(
    example: Example,
    source_id: tf.Tensor,
    record_key: tf.Tensor,
    issues: RecordIssues | None = None,
    *,
    seed: tf.Tensor,
    preparing: Preparing,
    num_classes: int,
    num_done: int = 0,
    report: DataReport,
) -> PreparedImage:
    """Augments, merges, resizes, moves boxes and frames of masks to pixels of the resized image, pads them to G rows.

    Args:
        example: as decoded.
        source_id: scalar string.
        record_key: scalar int64.
        issues: where they are not reported in this process; takes the count of boxes that are too many.
        seed: [2] int32.
        preparing: what to do; all its augmentations are applied.
        num_classes: C.
        num_done: augmentations that were applied while the image was decoded.
        report: takes the count of boxes that are too many where there are no `issues`.
    """
    original_shape = tf.shape(example.image)[:2]
    for i, augmentation in enumerate(preparing.augmentations, start=num_done):
        example = augmentation(example, seed=augmentation_seed(seed, i))
    image, true_shape = preparing.resizer(example.image, seed=augmentation_seed(seed, _RESIZING))
    objects = example.objects
    if preparing.merge_multiple_label_boxes:
        objects = merge_equal_boxes(objects, num_classes=num_classes)
    elif not preparing.use_class_scores:
        objects = objects._replace(class_scores=None)
    objects = objects.move_boxes(lambda boxes: box_ops.denormalize(boxes, true_shape[:2]))

    found = tf.shape(objects.boxes)[0]
    num_boxes = tf.minimum(found, preparing.max_num_boxes)
    if issues is not None:
        too_many = tf.one_hot(Notice.TOO_MANY, len(Notice), found - num_boxes, 0)
        issues = issues._replace(notices=issues.notices + too_many)
    else:
        _report_too_many(found, num_boxes, source_id, report)
    return PreparedImage(
        image,
        true_shape,
        original_shape,
        _pad_rows(objects, num_boxes, preparing.max_num_boxes),
        num_boxes,
        source_id,
        record_key,
        tf.constant(False),
        example.labeled_classes,
        example.not_exhaustive_classes,
        example.context,
        issues,
    )


def augmentation_seed(seed: tf.Tensor, number: int) -> tf.Tensor:
    """[2] int32 of an image's augmentation, counted from 0."""
    return tf.random.experimental.stateless_fold_in(seed, number)


def _report_too_many(found: tf.Tensor, num_kept: tf.Tensor, source_id: tf.Tensor, report: DataReport) -> None:
    def add(num_found: np.int32, num_too_many: np.int32, source_id: bytes) -> np.bool_:
        name = f"image with source_id {source_id.decode('utf-8', 'replace')}"
        report.add(Notice.TOO_MANY, int(num_too_many), name, num_boxes=int(num_found))
        return np.bool_(True)

    tf.cond(
        found > num_kept,
        lambda: tf.numpy_function(add, [found, found - num_kept, source_id], tf.bool),
        lambda: tf.constant(True),
    )


def _pad_rows(objects: Objects, num_kept: tf.Tensor, num_rows: int) -> Objects:
    """The first `num_kept` rows, then zeros."""

    def pad(field: tf.Tensor) -> tf.Tensor:
        paddings = [[0, num_rows - num_kept]] + [[0, 0]] * (field.shape.rank - 1)
        return tf.ensure_shape(tf.pad(field[:num_kept], paddings), [num_rows, *field.shape[1:]])

    return Objects(*(None if field is None else pad(field) for field in objects))
