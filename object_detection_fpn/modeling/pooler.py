"""From RoIs to features of fixed size: the pyramid level of each RoI, crop, max pooling (Lin et al. 2017, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tf_keras

from object_detection_fpn.execution import Execution
from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops import crop_and_resize as crop_ops
from object_detection_fpn.ops.dims import dim

_CANONICAL_SIZE = 224.0  # ImageNet crop side, the scale at which the backbone was pretrained


class RoIPooler(tf_keras.layers.Layer):
    """Crops each RoI from one level of the pyramid and max-pools the crop.

    The level is the Object Detection API's: a RoI of 224 x 224 pixels belongs to the last level but one (P5 of P2..P6, where
    the paper says P4); each halving of its side goes one level finer.

    Call: pyramid, boxes [B, R, 4] pixels, image_size [2] pixels that the pyramid covers -> [B, R, S, S, F] with
    S = `output_size`.

    Args:
        crop_size: side of the crop before pooling.
        pool_size: side of the max-pooling window; 1 pools nothing.
        pool_stride: of the max pooling.
        execution: how it is computed; the crop's coordinates are float32 whatever its dtype is.
        name: of the layer.
    """

    def __init__(
        self,
        *,
        crop_size: int = 14,
        pool_size: int = 2,
        pool_stride: int = 2,
        execution: Execution = Execution(),
        name: str = "roi_pooler",
    ):
        super().__init__(name=name, dtype=execution.dtype)
        if pool_size > crop_size:
            raise ValueError(f"pool_size = {pool_size} exceeds crop_size = {crop_size}.")
        self._crop_size = crop_size
        self._pool_size = pool_size
        self._pool_stride = pool_stride
        self._static = execution.static
        self.built = True

    @property
    def output_size(self) -> int:
        """S, the side of what a call returns."""
        return (self._crop_size - self._pool_size) // self._pool_stride + 1

    def level_indices(self, num_levels: int, boxes: tf.Tensor, image_size: tf.Tensor) -> tf.Tensor:
        """[B, R] int32: of `num_levels`, the entry of the pyramid from which each RoI is cropped."""
        size = tf.cast(image_size, tf.float32)
        return crop_ops.assign_levels(
            box_ops.normalize(boxes, size),
            num_levels=num_levels,
            unit_level_index=num_levels - 2,
            size_ratio=tf.sqrt(size[0] * size[1]) / _CANONICAL_SIZE,
        )

    def call(self, pyramid: Sequence[tf.Tensor], boxes: tf.Tensor, image_size: tf.Tensor) -> tf.Tensor:
        crops = crop_ops.multilevel_crop_and_resize(
            list(pyramid),
            box_ops.normalize(boxes, tf.cast(image_size, tf.float32)),
            self.level_indices(len(pyramid), boxes, image_size),
            crop_size=self._crop_size,
            static=self._static,
        )
        if self._pool_size == self._pool_stride == 1:
            return crops
        batch, num_rois = dim(crops, 0), dim(crops, 1)
        flat = tf.reshape(crops, [-1, self._crop_size, self._crop_size, crops.shape[-1]])
        pooled = tf.nn.max_pool2d(flat, self._pool_size, self._pool_stride, "VALID")
        return tf.reshape(pooled, [batch, num_rois, self.output_size, self.output_size, crops.shape[-1]])
