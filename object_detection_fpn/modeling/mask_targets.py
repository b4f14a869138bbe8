"""Which RoIs train the mask head, and what they learn (He et al. 2017, section 3.1)."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from object_detection_fpn.modeling.targets import object_classes
from object_detection_fpn.ops import masks as mask_ops
from object_detection_fpn.ops import matching, selection
from object_detection_fpn.ops.dims import dim
from object_detection_fpn.records import Groundtruth, MaskOutputs, Targets

_ROUNDING = 1e-5  # of shares: exactly half a cell counts as half, in whatever order its samples are summed


@dataclasses.dataclass(frozen=True)
class MaskSampler:
    """Chooses the RoIs that train masks: objects whose class has masks, best first.

    Attributes:
        num_samples: most RoIs of an image.
        crop: how the mask of a RoI's object is cropped at the RoI.
        threshold: a cell belongs to the object from this share on; None learns the share itself.
        classes_with_masks: 0-based classes whose objects have masks; None = all.
        static: K is `num_samples`. Otherwise it is what the image with the most such RoIs has, at least 1.
    """

    num_samples: int = 16
    crop: mask_ops.MaskCrop = dataclasses.field(default_factory=mask_ops.MaskCrop)
    threshold: float | None = None
    classes_with_masks: tuple[int, ...] | None = None
    static: bool = False

    def choose(self, boxes: tf.Tensor, targets: Targets) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the RoIs, `MaskOutputs.boxes` [B, K, 4] and `matches` [B, K].

        Args:
            boxes: [B, R, 4] pixels, RoIs, best first.
            targets: of these RoIs.
        """
        rows = self.choose_rows(targets)
        num_rois = dim(boxes, 1)
        is_real = rows < num_rois
        rows = tf.minimum(rows, num_rois - 1)
        return (
            tf.where(is_real[..., tf.newaxis], tf.gather(boxes, rows, batch_dims=1), 0.0),
            tf.where(is_real, tf.gather(targets.matches, rows, batch_dims=1), matching.IGNORED),
        )

    def choose_rows(self, targets: Targets) -> tf.Tensor:
        """[B, K] int32, the rows of the RoIs that `choose` returns, of R with these targets; R in padding rows."""
        trains = (targets.matches >= 0) & (targets.box_weights > 0.0) & (targets.classes > 0)
        if self.classes_with_masks is not None:
            has_mask = targets.classes[..., tf.newaxis] == tf.constant(self.classes_with_masks, tf.int32) + 1
            trains &= tf.reduce_any(has_mask, axis=-1)
        return selection.find_marked(trains, self._count(trains))

    def _count(self, trains: tf.Tensor) -> int | tf.Tensor:
        """K, from marks [B, R] of the RoIs that may train."""
        if self.static:
            return self.num_samples
        most = tf.reduce_max(tf.math.count_nonzero(trains, axis=1, dtype=tf.int32))
        return tf.clip_by_value(most, 1, self.num_samples)

    def classes(self, matches: tf.Tensor, groundtruth: Groundtruth) -> tf.Tensor:
        """[B, K] int32, 0-based, of the objects that RoIs match; 0 in padding rows."""
        found = tf.gather(object_classes(groundtruth), tf.maximum(matches, 0), batch_dims=1)
        return tf.where(matches >= 0, found - 1, 0)

    def targets(
        self, outputs: MaskOutputs, groundtruth: Groundtruth, image_size: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """What the logits of `outputs` should say, [B, K, S, S] float32, and how much each RoI counts, [B, K] float32.

        Args:
            outputs: of the mask head.
            groundtruth: with masks.
            image_size: [2] int32, height and width of the padded image.

        Raises:
            ValueError: if `groundtruth` has no masks.
        """
        if groundtruth.masks is None or groundtruth.mask_frames is None:
            raise ValueError("The groundtruth has no masks, which the mask head learns: load them with the records.")
        rows = tf.maximum(outputs.matches, 0)
        shares = mask_ops.crop_masks(
            groundtruth.masks, groundtruth.mask_frames, outputs.boxes, rows, image_size=image_size, crop=self.crop
        )
        if self.threshold is not None:
            shares = tf.cast(shares >= self.threshold - _ROUNDING, tf.float32)
        weights = tf.gather(groundtruth.weights, rows, batch_dims=1)
        return shares, tf.where(outputs.matches >= 0, weights, 0.0)
