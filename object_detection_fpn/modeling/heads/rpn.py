"""Region Proposal Network (Ren et al. 2015, section 3) over a pyramid (Lin et al. 2017, section 4.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf
import tf_keras

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import layers, proposals, targets
from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops import losses, patches
from object_detection_fpn.ops.dims import dim
from object_detection_fpn.records import Groundtruth, Proposals, RpnOutputs, Targets

LOCALIZATION_LOSS = "Loss/RPNLoss/localization_loss"
OBJECTNESS_LOSS = "Loss/RPNLoss/objectness_loss"


class AnchorGenerator(Protocol):
    """What `ops.anchors.multiscale_anchors` is once its settings are given."""

    def __call__(self, feature_sizes: Sequence[tuple], *, origin: float | tf.Tensor) -> tf.Tensor: ...


class RPNHead(tf_keras.layers.Layer):
    """Scores and refines anchors: one 3 x 3 convolution for all levels, then a 1 x 1 predictor pair for each level.

    The Object Detection API has a predictor for each level (the paper shares one).

    Call: tuple of [B, H_l, W_l, F] -> objectness_logits [B, K, 2] (background, object), box_deltas [B, K, 4], both float32,
    in the order of `ops.anchors`: fine to coarse, then rows, columns, anchors of a cell.

    Args:
        in_filters: F.
        num_levels: how many levels a call brings.
        num_anchors: anchors of a cell.
        num_filters: of the 3 x 3 convolution.
        kernel_size: of that convolution.
        dilation_rate: of that convolution.
        spec: of all convolutions; its activation is not used (see below).
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
        spec: layers.LayerSpec,
        name: str = "rpn_head",
    ):
        super().__init__(name=name, dtype=spec.dtype)
        # The Object Detection API always activates this convolution with ReLU6; trained weights depend on it.
        spec = dataclasses.replace(spec, activation="relu6")
        self.conv = spec.make_conv(num_filters, kernel_size, dilation_rate=dilation_rate, name="conv")
        self.norm = spec.make_norm(name="norm")
        self.activation = spec.make_activation(name="activation")
        self.objectness = [
            spec.make_conv(num_anchors * 2, 1, use_bias=True, name=f"objectness_{i}") for i in range(num_levels)
        ]
        self.deltas = [spec.make_conv(num_anchors * 4, 1, use_bias=True, name=f"deltas_{i}") for i in range(num_levels)]
        self.num_anchors = num_anchors
        self._in_filters, self._num_filters = in_filters, num_filters
        self._is_normalized = spec.norm is not None
        layers.build(self, (None, None, None, in_filters))

    def build(self, _: tf.TensorShape) -> None:
        layers.build(self.conv, (None, None, None, self._in_filters))
        for layer in (self.norm, *self.objectness, *self.deltas):
            layers.build(layer, (None, None, None, self._num_filters))

    def call(self, pyramid: Sequence[tf.Tensor], training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        if len(pyramid) != len(self.objectness):
            raise ValueError(f"The pyramid has {len(pyramid)} levels; this head was built for {len(self.objectness)}.")
        predictions: list[tf.Tensor] = []
        for features, objectness, deltas in zip(pyramid, self.objectness, self.deltas, strict=True):
            # After the pyramid and the level before. Convolutions of several levels at once, each on all cores of a CPU, would
            # push each other out of its caches.
            with tf.control_dependencies(predictions[-1:] or pyramid[:1]):
                features = tf.identity(features)
            hidden = self.activation(self.norm(self.conv(features), training=training))
            predictions.append(_flatten_cells(self._predict(hidden, objectness, deltas)))
        # float32 even in bfloat16 training: with 8 bits of mantissa, equal scores would reorder proposals.
        cells = tf.cast(tf.concat(predictions, axis=1), tf.float32)  # [B, cells, A * (2 + 4)]
        sizes = [self.num_anchors, self.num_anchors, 4 * self.num_anchors]
        background, objects, deltas = tf.split(cells, sizes, axis=-1)
        logits = tf.concat([_split_anchors(background, 1), _split_anchors(objects, 1)], axis=-1)
        return logits, _split_anchors(deltas, 4)

    def _predict(
        self, hidden: tf.Tensor, objectness: tf_keras.layers.Conv2D, deltas: tf_keras.layers.Conv2D
    ) -> tf.Tensor:
        """[B, H, W, n] -> [B, H, W, A * (1 + 1 + 4)]: background logits of all anchors of a cell, object logits, deltas.

        As one convolution: the finest level's features are as large as all others together, and are read, and their gradient
        summed, once. Its filters are in this order so that its outputs need not be brought into it.
        """

        def join(of_objectness: tf.Tensor, of_deltas: tf.Tensor) -> tf.Tensor:
            return tf.concat([of_objectness[..., ::2], of_objectness[..., 1::2], of_deltas], axis=-1)

        kernel = join(objectness.kernel, deltas.kernel)
        return tf.nn.bias_add(objectness.convolution_op(hidden, kernel), join(objectness.bias, deltas.bias))

    def is_local(self, pyramid: Sequence[tf.Tensor], num_samples: int | None) -> bool:
        """Whether `predict_at` can compute that many anchors an image, and touches fewer cells so than a call does.

        A normalization knows the statistics of all cells, so that no few of them can be computed alone.
        """
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
            pyramid: as for a call, of static height and width.
            indices: [B, S] int32, rows of what a call returns.

        Returns:
            objectness_logits [B, S, 2] and box_deltas [B, S, 4], float32.
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
        is_anchor = tf.one_hot(level_indices * self.num_anchors + anchor, len(pyramid) * self.num_anchors)

        def choose(predictors: list[tf_keras.layers.Conv2D], code_size: int) -> tf.Tensor:
            shape = [-1, *is_anchor.shape[1:], code_size]
            everything = tf.reshape(tf.cast(self._multiply(hidden, predictors), tf.float32), shape)
            return tf.reduce_sum(tf.where(is_anchor[..., tf.newaxis] > 0, everything, 0.0), axis=2)

        return choose(self.objectness, 2), choose(self.deltas, 4)

    def _multiply(self, inputs: tf.Tensor, convolutions: Sequence[tf_keras.layers.Conv2D]) -> tf.Tensor:
        """[N, what a kernel covers] -> [N, filters of all convolutions], in the dtype of the inputs."""
        kernels = [tf.reshape(conv.kernel, [-1, conv.filters]) for conv in convolutions]
        outputs = tf.matmul(inputs, tf.cast(tf.concat(kernels, axis=1), inputs.dtype))
        if not convolutions[0].use_bias:
            return outputs
        return outputs + tf.cast(tf.concat([conv.bias for conv in convolutions], axis=0), inputs.dtype)


@dataclasses.dataclass(frozen=True)
class RpnLoss:
    """Objectness and localization of the sampled anchors (Faster R-CNN, equation 1).

    Each image's loss is a sum over its sampled anchors, divided by their number.
    """

    localization_weight: float = 1.0
    objectness_weight: float = 1.0

    def __call__(
        self, objectness_logits: tf.Tensor, box_deltas: tf.Tensor, targets: Targets, is_sampled: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Returns the losses of each image, [B] float32.

        Args:
            objectness_logits: [B, S, 2].
            box_deltas: [B, S, 4].
            targets: of the same S anchors.
            is_sampled: [B, S] bool, False in padding rows.
        """
        sampled = tf.cast(is_sampled, tf.float32)
        num_sampled = tf.maximum(tf.reduce_sum(sampled, axis=1), 1.0)  # [B]
        objectness = losses.softmax_cross_entropy(objectness_logits, tf.one_hot(targets.classes, 2)) * sampled
        localization = losses.smooth_l1(box_deltas, targets.box_deltas) * targets.box_weights * sampled
        return {
            LOCALIZATION_LOSS: self.localization_weight * (tf.reduce_sum(localization, axis=1) / num_sampled),
            OBJECTNESS_LOSS: self.objectness_weight * (tf.reduce_sum(objectness, axis=1) / num_sampled),
        }


class RPN(tf_keras.layers.Layer):
    """Anchors, their scores, what these cost, and the proposals that follow from both.

    Call: pyramid, image_size [2] -> `RpnOutputs`.

    Args:
        head: scores and refines the anchors.
        generate_anchors: [(height, width) of each level] -> anchors [K, 4], pixels.
        clip_anchors: anchors are clipped to the image also in training. Otherwise those that cross its border neither
            propose nor train (Faster R-CNN, section 3.3); outside of training anchors are always clipped.
        decoder: makes proposals of the outputs.
        sampler: chooses the anchors that train.
        loss: what they cost.
        execution: how it is computed.
        name: of the layer.
    """

    loss_names = (LOCALIZATION_LOSS, OBJECTNESS_LOSS)

    def __init__(
        self,
        *,
        head: RPNHead,
        generate_anchors: AnchorGenerator,
        clip_anchors: bool = False,
        decoder: proposals.ProposalDecoder = proposals.ProposalDecoder(),
        sampler: targets.AnchorSampler = targets.AnchorSampler(),
        loss: RpnLoss = RpnLoss(),
        execution: Execution = Execution(),
        name: str = "rpn",
    ):
        super().__init__(name=name, dtype="float32")
        self.head = head
        self._generate_anchors = generate_anchors
        self._clip_anchors = clip_anchors
        self._decoder = decoder
        self._sampler = sampler
        self._loss = loss
        self._static = execution.static
        self.built = True

    @property
    def max_proposals(self) -> int:
        """R, how many proposals an image has at most."""
        return self._decoder.max_proposals

    def call(self, pyramid: Sequence[tf.Tensor], image_size: tf.Tensor, training: bool) -> RpnOutputs:
        logits, deltas = self.head(pyramid, training=training)
        # Of the 200,000 anchors of an image of 640 x 640 pixels, constants would make a program of 40 MB.
        origin = _runtime_zero(pyramid[-1]) if self._static else 0.0
        anchors = self._generate_anchors([(dim(features, 1), dim(features, 2)) for features in pyramid], origin=origin)
        window = tf.concat([tf.zeros([2]), tf.cast(image_size, tf.float32)], axis=0)
        clipped = box_ops.clip(anchors, window)
        if training and not self._clip_anchors:
            is_valid = tf.reduce_all(tf.equal(anchors, clipped), axis=-1)
        else:
            # Anchors of the padding beyond the image have no area left: they would fill the places of real proposals.
            is_valid = box_ops.area(clipped) > 0.0
            anchors = clipped
        return RpnOutputs(objectness_logits=logits, box_deltas=deltas, anchors=anchors, is_valid=is_valid)

    def propose(self, outputs: RpnOutputs, true_shapes: tf.Tensor) -> Proposals:
        """Returns the best proposals that do not overlap; no gradient passes. `true_shapes` is [B, 3] int32."""
        return self._decoder(outputs, true_shapes, num_anchors=self.head.num_anchors)

    def loss(
        self,
        outputs: RpnOutputs,
        pyramid: Sequence[tf.Tensor] | None,
        groundtruth: Groundtruth,
        seed: tf.Tensor | None,
    ) -> dict[str, tf.Tensor]:
        """Samples anchors and returns their losses of each image, [B] float32.

        Args:
            outputs: of a call.
            pyramid: of that call; None makes `look_up` gather instead.
            groundtruth: of B images.
            seed: as `Predictions.seed`.
        """
        sample, of_sample = self._sampler(outputs, groundtruth, seed)
        logits, deltas = self.look_up(outputs, pyramid, sample.indices)
        with tf.name_scope("losses"):
            return self._loss(logits, deltas, of_sample, sample.is_sampled)

    def look_up(
        self, outputs: RpnOutputs, pyramid: Sequence[tf.Tensor] | None, indices: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The outputs of some anchors, [B, S] rows: objectness_logits [B, S, 2] and box_deltas [B, S, 4].

        With the pyramid of the call the gradient is that of these anchors' cells alone, where that is less work.
        """
        if pyramid is not None and self.head.is_local(pyramid, indices.shape[1]):
            return self.head.predict_at(pyramid, indices)
        logits = tf.gather(outputs.objectness_logits, indices, batch_dims=1)
        return logits, tf.gather(outputs.box_deltas, indices, batch_dims=1)


def _flatten_cells(predictions: tf.Tensor) -> tf.Tensor:
    """[B, H, W, n] -> [B, H * W, n]."""
    batch, height, width, num_channels = (dim(predictions, axis) for axis in range(4))
    return tf.reshape(predictions, [batch, height * width, num_channels])


def _split_anchors(cells: tf.Tensor, code_size: int) -> tf.Tensor:
    """[B, cells, A * code_size] -> [B, cells * A, code_size]."""
    batch, num_cells, num_channels = (dim(cells, axis) for axis in range(3))
    return tf.reshape(cells, [batch, num_cells * (num_channels // code_size), code_size])


def _runtime_zero(values: tf.Tensor) -> tf.Tensor:
    """0.0, which depends on the values for all that a compiler can see before it runs."""
    first = tf.reshape(tf.stop_gradient(values), [-1])[0]
    # Of the bits, since not every number times 0 is 0.
    return tf.cast(tf.bitwise.bitwise_and(tf.bitcast(tf.cast(first, tf.float32), tf.int32), 0), tf.float32)
