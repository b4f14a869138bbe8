"""From RoIs to features of fixed size: the level of each RoI (Lin et al. 2017, section 4.2), and what is cut out of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tensorflow as tf
import tf_keras

from object_detection_fpn.execution import Execution
from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops import crop_and_resize as crop_ops
from object_detection_fpn.ops.crop_and_resize import RoIAlign
from object_detection_fpn.ops.dims import dim

_CANONICAL_SIZE = 224.0  # ImageNet crop side, the scale at which the backbone was pretrained


@dataclasses.dataclass(frozen=True)
class RoILevels:
    """Which level each RoI is pooled from: floor(canonical_level + log2(side / canonical_size)), within the levels pooled from.

    Attributes:
        first_level: that of the pyramid's first entry.
        min_level: finest level pooled from.
        max_level: coarsest level pooled from.
        canonical_level: of RoIs of the canonical size. None: the last but one that is pooled from, as in the Object Detection
            API (P5 of P2..P6, where the paper says P4).
        canonical_size: side of these RoIs, in pixels.
        side_epsilon: added to side / `canonical_size`.
        level_epsilon: added to the level before it is rounded down.

    Raises:
        ValueError: if the levels are not in order.
    """

    first_level: int
    min_level: int
    max_level: int
    canonical_level: int | None = None
    canonical_size: float = _CANONICAL_SIZE
    side_epsilon: float = 0.0
    level_epsilon: float = 0.0

    def __post_init__(self) -> None:
        if not self.first_level <= self.min_level <= self.max_level:
            raise ValueError(
                f"first_level = {self.first_level}, min_level = {self.min_level}, max_level = {self.max_level}. "
                "Allowed: none below the one before."
            )

    def assign(self, boxes: tf.Tensor, image_size: tf.Tensor) -> tf.Tensor:
        """[B, R] int32, 0 = `min_level`, for boxes [B, R, 4] in pixels of an image of `image_size`, [2]."""
        canonical_level = self.max_level - 1 if self.canonical_level is None else self.canonical_level
        if self.side_epsilon or self.level_epsilon:
            return crop_ops.assign_levels_in_pixels(
                boxes,
                min_level=self.min_level,
                max_level=self.max_level,
                canonical_level=canonical_level,
                canonical_size=self.canonical_size,
                side_epsilon=self.side_epsilon,
                level_epsilon=self.level_epsilon,
            )
        size = tf.cast(image_size, tf.float32)
        return crop_ops.assign_levels(
            box_ops.normalize(boxes, size),
            num_levels=self.max_level - self.min_level + 1,
            unit_level_index=canonical_level - self.min_level,
            size_ratio=tf.sqrt(size[0] * size[1]) / self.canonical_size,
        )


class RoIPooler(tf_keras.layers.Layer):
    """Cuts each RoI out of one level of the pyramid: by a crop that is max-pooled, as the Object Detection API, or by RoIAlign.

    Call: pyramid, boxes [B, R, 4] pixels, image_size [2] pixels that the pyramid covers -> [B, R, S, S, F] with
    S = `output_size`.

    Args:
        levels: which level each RoI is pooled from. None: any of the pyramid, as in the Object Detection API.
        roi_align: pools by RoIAlign; the following have no effect then.
        crop_size: side of the crop before pooling.
        pool_size: side of the max-pooling window; 1 pools nothing.
        pool_stride: of the max pooling.
        execution: how it is computed; the coordinates are float32 whatever its dtype is.
        name: of the layer.

    Raises:
        ValueError: if the window is larger than the crop, or `roi_align` is given without `levels`, which give the strides.
    """

    def __init__(
        self,
        *,
        levels: RoILevels | None = None,
        roi_align: RoIAlign | None = None,
        crop_size: int = 14,
        pool_size: int = 2,
        pool_stride: int = 2,
        execution: Execution = Execution(),
        name: str = "roi_pooler",
    ):
        super().__init__(name=name, dtype=execution.dtype)
        if roi_align is None and pool_size > crop_size:
            raise ValueError(f"pool_size = {pool_size} exceeds crop_size = {crop_size}. Allowed: 1 to {crop_size}.")
        if roi_align is not None and levels is None:
            raise ValueError(
                "roi_align is given without levels, of which it needs the strides. Allowed: both, or no roi_align."
            )
        self._levels = levels
        self._roi_align = roi_align
        self._crop_size = crop_size
        self._pool_size = pool_size
        self._pool_stride = pool_stride
        self._static = execution.static or execution.portable
        self.built = True

    @property
    def output_size(self) -> int:
        """S, the side of what a call returns."""
        if self._roi_align is not None:
            return self._roi_align.size[0]
        return (self._crop_size - self._pool_size) // self._pool_stride + 1

    def level_indices(self, num_levels: int, boxes: tf.Tensor, image_size: tf.Tensor) -> tf.Tensor:
        """[B, R] int32: of `num_levels`, the entry of the pyramid from which each RoI is pooled."""
        levels = self._levels_of(num_levels)
        return levels.assign(boxes, image_size) + (levels.min_level - levels.first_level)

    def call(self, pyramid: Sequence[tf.Tensor], boxes: tf.Tensor, image_size: tf.Tensor) -> tf.Tensor:
        levels = self._levels_of(len(pyramid))
        pooled_from = list(pyramid)[levels.min_level - levels.first_level : levels.max_level - levels.first_level + 1]
        indices = levels.assign(boxes, image_size)
        if self._roi_align is not None:
            return crop_ops.multilevel_roi_align(
                pooled_from,
                boxes,
                indices,
                strides=[float(2**level) for level in range(levels.min_level, levels.max_level + 1)],
                roi_align=self._roi_align,
                static=self._static,
            )
        crops = crop_ops.multilevel_crop_and_resize(
            pooled_from,
            box_ops.normalize(boxes, tf.cast(image_size, tf.float32)),
            indices,
            crop_size=self._crop_size,
            static=self._static,
        )
        if self._pool_size == self._pool_stride == 1:
            return crops
        batch, num_rois = dim(crops, 0), dim(crops, 1)
        flat = tf.reshape(crops, [-1, self._crop_size, self._crop_size, crops.shape[-1]])
        pooled = tf.nn.max_pool2d(flat, self._pool_size, self._pool_stride, "VALID")
        return tf.reshape(pooled, [batch, num_rois, self.output_size, self.output_size, crops.shape[-1]])

    def _levels_of(self, num_levels: int) -> RoILevels:
        """The levels pooled from, of a pyramid of `num_levels`."""
        if self._levels is None:
            return RoILevels(first_level=0, min_level=0, max_level=num_levels - 1)
        if self._levels.max_level - self._levels.first_level >= num_levels:
            highest = self._levels.first_level + num_levels - 1
            raise ValueError(
                f"max_level = {self._levels.max_level} is above the pyramid, which ends with level {highest}."
            )
        return self._levels
