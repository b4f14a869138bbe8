"""The layers of a region proposal network (Ren et al. 2015, section 3.1) over a pyramid (Lin et al. 2017, section 4.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tf_keras

from object_detection_fpn.modeling import layers
from object_detection_fpn.ops import patches
from object_detection_fpn.ops.dims import dim


class RPNHead(tf_keras.layers.Layer):
    """Scores and refines anchors: 3 x 3 convolutions for all levels, then a 1 x 1 predictor pair, by default for each level.

    The Object Detection API has a predictor for each level (the paper shares one).

    Call: tuple of [B, H_l, W_l, F] -> objectness_logits [B, K, 2] (background, object) or [B, K, 1] (object), box_deltas
    [B, K, 4], both float32, in the order of `ops.anchors`: fine to coarse, then rows, columns, anchors of a cell.

    Args:
        in_filters: F.
        num_levels: how many levels a call brings.
        num_anchors: anchors of a cell.
        num_filters: of the 3 x 3 convolutions.
        kernel_size: of these convolutions.
        dilation_rate: of these convolutions.
        num_convs: how many there are, each with normalization and activation.
        activation: of these convolutions; trained weights of the Object Detection API depend on the default.
        num_logits: 2 or 1 for each anchor.
        share_predictors: one predictor pair for all levels; `objectness` and `deltas` then have one entry.
        spec: of all convolutions; its activation is not used.
        name: of the layer.
    """

    def __init__(
        self,
        *,
        in_filters: int,
        num_levels: int,
        num_anchors: int,
        num_filters: int = 512,
        kernel_size: int = 3,
        dilation_rate: int = 1,
        num_convs: int = 1,
        activation: str = "relu6",
        num_logits: int = 2,
        share_predictors: bool = False,
        spec: layers.LayerSpec,
        name: str = "rpn_head",
    ):
        super().__init__(name=name, dtype=spec.dtype)
        if num_logits not in (1, 2):
            raise ValueError(f"num_logits = {num_logits}. Allowed: 1, 2.")
        spec = dataclasses.replace(spec, activation=activation)
        self.conv = spec.make_conv(num_filters, kernel_size, dilation_rate=dilation_rate, name="conv")
        self.norm = spec.make_norm(name="norm")
        self.activation = spec.make_activation(name="activation")
        self.further_convs = [
            layers.ConvNormActivation(
                num_filters, kernel_size, dilation_rate=dilation_rate, spec=spec, name=f"further_conv_{i}"
            )
            for i in range(num_convs - 1)
        ]
        suffixes = [""] if share_predictors else [f"_{i}" for i in range(num_levels)]

        def make_predictors(code_size: int, name: str) -> list[tf_keras.layers.Conv2D]:
            num_codes = num_anchors * code_size
            return [spec.make_conv(num_codes, 1, use_bias=True, name=f"{name}{suffix}") for suffix in suffixes]

        self.objectness, self.deltas = make_predictors(num_logits, "objectness"), make_predictors(4, "deltas")
        self.num_anchors = num_anchors
        self.num_levels = num_levels
        self.num_logits = num_logits
        self._in_filters, self._num_filters = in_filters, num_filters
        self._is_normalized = spec.norm is not None
        layers.build(self, (None, None, None, in_filters))

    def build(self, _: tf.TensorShape) -> None:
        layers.build(self.conv, (None, None, None, self._in_filters))
        for layer in (self.norm, *self.further_convs, *self.objectness, *self.deltas):
            layers.build(layer, (None, None, None, self._num_filters))

    def call(self, pyramid: Sequence[tf.Tensor], training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        if len(pyramid) != self.num_levels:
            raise ValueError(f"The pyramid has {len(pyramid)} levels; this head was built for {self.num_levels}.")
        predictions: list[tf.Tensor] = []
        for level, features in enumerate(pyramid):
            # After the pyramid and the level before. Convolutions of several levels at once, each on all cores of a CPU, would
            # push each other out of its caches.
            with tf.control_dependencies(predictions[-1:] or pyramid[:1]):
                features = tf.identity(features)
            hidden = self.activation(self.norm(self.conv(features), training=training))
            for conv in self.further_convs:
                hidden = conv(hidden, training=training)
            index = level % len(self.objectness)  # 0 where all levels share one
            predictions.append(_flatten_cells(self._predict(hidden, self.objectness[index], self.deltas[index])))
        # float32 even in bfloat16 training: with 8 bits of mantissa, equal scores would reorder proposals.
        cells = tf.cast(tf.concat(predictions, axis=1), tf.float32)  # [B, cells, A * (num_logits + 4)]
        sizes = [self.num_anchors] * self.num_logits + [4 * self.num_anchors]
        *logits, deltas = tf.split(cells, sizes, axis=-1)
        logits = tf.concat([_split_anchors(each, 1) for each in logits], axis=-1)
        return logits, _split_anchors(deltas, 4)

    def _predict(
        self, hidden: tf.Tensor, objectness: tf_keras.layers.Conv2D, deltas: tf_keras.layers.Conv2D
    ) -> tf.Tensor:
        """[B, H, W, n] -> [B, H, W, A * (num_logits + 4)]: each logit of all anchors of a cell, then the deltas.

        As one convolution: the finest level's features are as large as all others together, and are read, and their gradient
        summed, once. Its filters are in this order so that its outputs need not be brought into it.
        """

        def join(of_objectness: tf.Tensor, of_deltas: tf.Tensor) -> tf.Tensor:
            each_logit = [of_objectness[..., i :: self.num_logits] for i in range(self.num_logits)]
            return tf.concat([*each_logit, of_deltas], axis=-1)

        kernel = join(objectness.kernel, deltas.kernel)
        return tf.nn.bias_add(objectness.convolution_op(hidden, kernel), join(objectness.bias, deltas.bias))

    def is_local(self, pyramid: Sequence[tf.Tensor], num_samples: int | None) -> bool:
        """Whether `predict_at` can compute that many anchors an image, and touches fewer cells so than a call does.

        A normalization knows the statistics of all cells, so that no few of them can be computed alone, and what several
        convolutions see of each cell is wide.
        """
        if self.further_convs:
            return False
        sizes = [features.shape[1:3] for features in pyramid]
        if self._is_normalized or num_samples is None or not all(size.is_fully_defined() for size in sizes):
            return False
        return num_samples * self.conv.kernel_size[0] ** 2 <= sum(size.num_elements() for size in sizes)

    def predict_at(self, pyramid: Sequence[tf.Tensor], indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What a call says of some anchors, computed from the cells around them.

        The losses look at few anchors (Faster R-CNN, section 3.1.3): 256 of 200,000 in an image of 640 x 640 pixels. The
        gradient of a call is zero nearly everywhere and takes twice the time of the call; that of `predict_at` takes next
        to none.

        Args:
            pyramid: as for a call, of static height and width; of a head with one convolution.
            indices: [B, S] int32, rows of what a call returns.

        Returns:
            objectness_logits [B, S, 2 or 1] and box_deltas [B, S, 4], float32.
        """
        widths = [features.shape[2] for features in pyramid]
        num_cells = [features.shape[1] * features.shape[2] for features in pyramid]
        first_rows = np.cumsum([0, *num_cells])[:-1] * self.num_anchors
        level_indices = tf.reduce_sum(tf.cast(indices[..., tf.newaxis] >= first_rows[1:], tf.int32), axis=-1)
        row = indices - tf.gather(tf.constant(first_rows, tf.int32), level_indices)
        cell, anchor = row // self.num_anchors, row % self.num_anchors
        width = tf.gather(tf.constant(widths, tf.int32), level_indices)
        around = patches.gather_patches(
            pyramid,
            level_indices,
            cell // width,
            cell % width,
            kernel_size=self.conv.kernel_size[0],
            dilation_rate=self.conv.dilation_rate[0],
        )
        hidden = tf.reshape(around, [-1, around.shape[2] * self._in_filters])
        hidden = self._multiply(tf.cast(hidden, self.compute_dtype), [self.conv])
        hidden = self.activation(hidden)
        num_predictors = len(self.objectness)
        predictor = level_indices % num_predictors  # 0 where all levels share one
        is_anchor = tf.one_hot(predictor * self.num_anchors + anchor, num_predictors * self.num_anchors)

        def choose(predictors: list[tf_keras.layers.Conv2D], code_size: int) -> tf.Tensor:
            shape = [-1, *is_anchor.shape[1:], code_size]
            everything = tf.reshape(tf.cast(self._multiply(hidden, predictors), tf.float32), shape)
            return tf.reduce_sum(tf.where(is_anchor[..., tf.newaxis] > 0, everything, 0.0), axis=2)

        return choose(self.objectness, self.num_logits), choose(self.deltas, 4)

    def _multiply(self, inputs: tf.Tensor, convolutions: Sequence[tf_keras.layers.Conv2D]) -> tf.Tensor:
        """[N, what a kernel covers] -> [N, filters of all convolutions], in the dtype of the inputs."""
        kernels = [tf.reshape(conv.kernel, [-1, conv.filters]) for conv in convolutions]
        outputs = tf.matmul(inputs, tf.cast(tf.concat(kernels, axis=1), inputs.dtype))
        if not convolutions[0].use_bias:
            return outputs
        return outputs + tf.cast(tf.concat([conv.bias for conv in convolutions], axis=0), inputs.dtype)


def _flatten_cells(predictions: tf.Tensor) -> tf.Tensor:
    """[B, H, W, n] -> [B, H * W, n]."""
    batch, height, width, num_channels = (dim(predictions, axis) for axis in range(4))
    return tf.reshape(predictions, [batch, height * width, num_channels])


def _split_anchors(cells: tf.Tensor, code_size: int) -> tf.Tensor:
    """[B, cells, A * code_size] -> [B, cells * A, code_size]."""
    batch, num_cells, num_channels = (dim(cells, axis) for axis in range(3))
    return tf.reshape(cells, [batch, num_cells * (num_channels // code_size), code_size])
