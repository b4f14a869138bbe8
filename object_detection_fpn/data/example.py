"""One image and its objects while the input pipeline prepares them.

Shape letters: N objects of the image, H W size, F image channels, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import tensorflow as tf

from object_detection_fpn.records import Context


class Objects(NamedTuple):
    """The annotated objects of one image, one row each; augmentations drop and add rows of all fields together."""

    boxes: tf.Tensor
    """[N, 4] float32, normalized to the image, inside it and of positive area."""
    classes: tf.Tensor
    """[N] int32, 0-based."""
    weights: tf.Tensor
    """[N] float32, 1 where the record has none."""
    is_crowd: tf.Tensor
    """[N] bool."""
    is_difficult: tf.Tensor
    """[N] bool."""
    is_group_of: tf.Tensor
    """[N] bool."""
    areas: tf.Tensor
    """[N] float32, pixels of the original image, 0 where the record has none."""
    class_scores: tf.Tensor | None = None
    """[N, C+1] float32, background first; None unless asked for."""
    masks: tf.Tensor | None = None
    """[N, M, M] uint8, 0 to 255: the share of each cell of `mask_frames` that belongs to the object; zeros where an object has
    no mask. None unless asked for."""
    mask_frames: tf.Tensor | None = None
    """[N, 4] float32, normalized to the image: the rectangle that each mask covers, which may reach beyond the image."""
    encoded_masks: tf.Tensor | None = None
    """[N] string, the masks of the record as PNG files; empty for an object without one. Only in evaluation."""

    def move_boxes(self, move: Callable[[tf.Tensor], tf.Tensor]) -> Objects:
        """Returns the objects with boxes [N, 4], and frames of masks [N, 4], as `move` gives them."""
        frames = None if self.mask_frames is None else move(self.mask_frames)
        return self._replace(boxes=move(self.boxes), mask_frames=frames)

    def select(self, keep: tf.Tensor) -> Objects:
        """Returns the rows where `keep` [N] bool is True."""
        return self.select_rows(tf.where(keep)[:, 0])

    def select_rows(self, rows: tf.Tensor) -> Objects:
        """Returns these rows, integers, in this order."""
        return Objects(*(None if field is None else tf.gather(field, rows) for field in self))


class Example(NamedTuple):
    """One image and its objects, what every augmentation takes and returns."""

    image: tf.Tensor
    """[H, W, F] uint8 or float32, values in [0, 255]."""
    objects: Objects
    labeled_classes: tf.Tensor | None = None
    """[C] bool, the classes that somebody looked for in the image, found or not; None unless asked for."""
    not_exhaustive_classes: tf.Tensor | None = None
    """[C] bool, the classes of which not all objects are marked (LVIS); beside `labeled_classes`."""
    context: Context | None = None
    """[M, F] and a scalar: of this one image, which no augmentation changes; None unless asked for."""


def without_none(structure: Any) -> list[tf.Tensor]:
    """The tensors of an example, without its optional fields that are None, which tf.cond and padded_batch refuse."""
    return [leaf for leaf in tf.nest.flatten(structure) if isinstance(leaf, (tf.Tensor, tf.TensorSpec))]


def with_none(tensors: Iterable[tf.Tensor], *, like: Any) -> Any:
    """Undoes `without_none`: a structure like `like`, which may hold tensors or specs, of these tensors.

    Other leaves, such as settings that are no tensors, are those of `like`; specs of fields that are None become None.
    """
    remaining = iter(tensors)

    def leaf(of_like: Any) -> Any:
        if isinstance(of_like, (tf.Tensor, tf.TensorSpec)):
            return next(remaining)
        return None if isinstance(of_like, tf.TypeSpec) else of_like

    return tf.nest.pack_sequence_as(like, [leaf(of_like) for of_like in tf.nest.flatten(like)])
