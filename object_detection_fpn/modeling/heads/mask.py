"""Mask head: convolutions over the features of each RoI, then one mask of its class (He et al. 2017, figure 4)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import tensorflow as tf
import tf_keras

from object_detection_fpn.modeling import layers, loss_normalization
from object_detection_fpn.modeling.detector import ClassColumns
from object_detection_fpn.modeling.heads.transfer import WeightTransfer
from object_detection_fpn.ops.dims import dim

MASK_LOSS = "Loss/BoxClassifierLoss/mask_loss"

MaskUpsampling = Literal["resize", "repeat", "transposed_convolution"]
"""How the head comes to the size of a mask.

"resize": RoI features are resized, corners aligned, before they are convolved. "repeat": cells are repeated after all
convolutions but the last, and one more follows. Both as in the Object Detection API. "transposed_convolution": of 2 x 2 with
stride 2, after the convolutions (He et al. 2017)."""


@dataclasses.dataclass(frozen=True)
class MaskLoss:
    """Cross-entropy of each cell of a RoI's mask, a mean over all cells of a batch's RoIs (He et al. 2017, section 3).

    Attributes:
        weight: factor of the loss.
    """

    weight: float = 1.0

    def __call__(self, logits: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor, *, is_batch: bool) -> tf.Tensor:
        """Returns each image's share of the loss, [B] float32.

        Args:
            logits: [B, K, M, M] float32.
            targets: [B, K, M, M] float32 in [0, 1].
            weights: [B, K] float32, 0 in padding rows.
            is_batch: whether the images train together, see `loss_normalization.divisor`.
        """
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)
        sums = tf.reduce_sum(tf.reduce_sum(losses, axis=[2, 3]) * weights, axis=1)
        num_cells = tf.reduce_sum(weights, axis=1) * float(dim(logits, 2) * dim(logits, 3))
        return self.weight * sums / loss_normalization.divisor(num_cells, "BATCH", num_configured=0, is_batch=is_batch)


def choose_depth(*, num_filters: int, num_classes: int) -> int:
    """Channels of the convolutions, from those of RoI features and the number of classes, as the Object Detection API does."""
    return int(2.0 ** round((2.0 * math.log2(num_filters) + 3.0 * math.log2(num_classes)) / 5.0))


class MaskHead(tf_keras.layers.Layer):
    """Predicts the mask of each RoI for one class: the masks of all others would be computed to be thrown away.

    Call: RoI features [B, K, S, S, F], classes [B, K] int32 (0-based), and with `transfer` the weights that predict score and
    box of each class [C, E] -> logits [B, K, M, M] float32.

    Args:
        in_size: S.
        in_filters: F.
        num_masks: C, or 1 for masks that are the same for all classes.
        size: rows and columns of a mask.
        num_convolutions: 3 x 3 convolutions; those after the first `num_convolutions - 1` predict, unless the upsampling is a
            transposed convolution, which comes after all of them and before a 1 x 1 convolution that predicts.
        depth: their channels.
        upsampling: how it comes to `size`.
        spec: initialization, regularization, normalization and activation of the convolutions, and execution.
        initializer: makes the kernel initializer of the convolution that predicts; None = that of `spec`.
        transfer: computes the kernel that predicts masks from weights of the box head, instead of learning it.
        loss: what the outputs cost.
        name: of the layer.

    Raises:
        ValueError: if `size` does not follow from the RoI features by the upsampling.
    """

    loss_names = (MASK_LOSS,)

    def __init__(
        self,
        *,
        in_size: int,
        in_filters: int,
        num_masks: int,
        size: tuple[int, int] = (28, 28),
        num_convolutions: int = 4,
        depth: int = 256,
        upsampling: MaskUpsampling = "transposed_convolution",
        spec: layers.LayerSpec,
        initializer: Callable[[], tf_keras.initializers.Initializer] | None = None,
        transfer: WeightTransfer | None = None,
        loss: MaskLoss = MaskLoss(),
        name: str = "mask_head",
    ):
        super().__init__(name=name, dtype=spec.dtype)
        is_transposed = upsampling == "transposed_convolution"
        if is_transposed and size != (2 * in_size, 2 * in_size):
            raise ValueError(
                f"size = {size} of RoI features of {in_size} cells. Allowed: ({2 * in_size}, {2 * in_size})."
            )
        if upsampling == "repeat":
            if min(size) < in_size:
                raise ValueError(f"size = {size} of RoI features of {in_size} cells. Allowed: {in_size} or more.")
            size = (size[0] // in_size * in_size, size[1] // in_size * in_size)
        self.num_masks, self.size = num_masks, size
        self._in_shape = (in_size, in_size, in_filters)
        self._upsampling = upsampling
        self._loss = loss
        num_hidden = num_convolutions - (0 if is_transposed else 1)
        if upsampling == "repeat":
            num_hidden += 1
        self._names = tuple(f"conv{i}" for i in range(1, num_hidden + 1))
        for layer_name in self._names:  # conv1, conv2, ...: paths in checkpoints
            setattr(self, layer_name, layers.ConvNormActivation(depth, 3, spec=spec, name=layer_name))
        self._depth = depth if num_hidden else in_filters
        self.upsample = None
        if is_transposed:
            self.upsample = tf_keras.layers.Conv2DTranspose(
                depth,
                2,
                strides=2,
                activation=layers.ACTIVATIONS[spec.activation],
                kernel_initializer=spec.make_initializer(),
                kernel_regularizer=spec.regularizer,
                dtype=spec.dtype,
                name="upsample",
            )
            self._depth = depth
        self.transfer = transfer
        self.predictor = None
        if transfer is None:
            predictor_spec = dataclasses.replace(spec, initializer=initializer or spec.initializer)
            self.predictor = predictor_spec.make_conv(
                num_masks, 1 if is_transposed else 3, use_bias=True, make=tf_keras.layers.Conv2D, name="predictor"
            )
        layers.build(self, (None, None, *self._in_shape))

    def build(self, _: tf.TensorShape) -> None:
        shape = (None, *self._in_shape)
        for name in self._names:
            layers.build(getattr(self, name), shape)
            shape = (*shape[:3], self._depth)
        if self.upsample is not None:
            layers.build(self.upsample, shape)
        if self.predictor is not None:
            layers.build(self.predictor, (None, None, None, self._depth))

    @property
    def convolutions(self) -> list[layers.ConvNormActivation]:
        """All but the one that predicts, in the order in which they are applied."""
        return [getattr(self, name) for name in self._names]

    @property
    def repeats_cells(self) -> bool:
        """Whether cells are repeated before the last of `convolutions`."""
        return self._upsampling == "repeat"

    def class_columns(self) -> dict[str, ClassColumns]:
        """The layer whose last axis holds classes, or is common to all of them."""
        if self.predictor is None:
            return {}
        return {"predictor": ClassColumns(num_columns=int(self.num_masks > 1), has_background=False)}

    def call(
        self, roi_features: tf.Tensor, classes: tf.Tensor, training: bool, class_weights: tf.Tensor | None = None
    ) -> tf.Tensor:
        batch, num_rois = dim(roi_features, 0), dim(roi_features, 1)
        hidden = tf.reshape(roi_features, [batch * num_rois, *self._in_shape])
        if self._upsampling == "resize":
            hidden = _resize(hidden, self.size)
        for i, name in enumerate(self._names):
            if self.repeats_cells and i == len(self._names) - 1:
                hidden = self._repeat(hidden)
            hidden = getattr(self, name)(hidden, training=training)
        if self.upsample is not None:
            hidden = self.upsample(hidden)
        rows = tf.reshape(classes, [batch * num_rois]) if self.num_masks > 1 else tf.zeros([batch * num_rois], tf.int32)
        logits = _convolve_each(hidden, *self._kernels(rows, class_weights))
        # float32 even in bfloat16 training: a sum of many small terms follows.
        return tf.reshape(tf.cast(logits, tf.float32), [batch, num_rois, *self.size])

    def loss(
        self, logits: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor, *, training: bool
    ) -> dict[str, tf.Tensor]:
        """Returns the loss of each image, [B] float32; arguments are those of `MaskLoss`."""
        with tf.name_scope("losses"):
            return {MASK_LOSS: self._loss(logits, targets, weights, is_batch=training)}

    def _repeat(self, hidden: tf.Tensor) -> tf.Tensor:
        rows, columns = (size // self._in_shape[0] for size in self.size)
        return tf.repeat(tf.repeat(hidden, rows, axis=1), columns, axis=2)

    def _kernels(self, rows: tf.Tensor, class_weights: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Of each RoI the kernel, [N, size ** 2, F], and the bias, [N], that predict the mask of its class."""
        if self.transfer is not None:
            kernels, bias = self.transfer(class_weights)[:, tf.newaxis], None
        else:
            assert self.predictor is not None
            kernel = self.predictor.kernel
            kernels = tf.reshape(kernel, [-1, self._depth, self.num_masks])
            kernels, bias = tf.transpose(kernels, [2, 0, 1]), self.predictor.bias
        # A product and not a gather, whose gradient would be a scatter.
        is_class = tf.one_hot(rows, self.num_masks, dtype=self.compute_dtype)
        num_places = dim(kernels, 1)
        flat = tf.cast(tf.reshape(kernels, [self.num_masks, num_places * self._depth]), self.compute_dtype)
        of_rois = tf.reshape(tf.matmul(is_class, flat), [-1, num_places, self._depth])
        return of_rois, None if bias is None else tf.linalg.matvec(is_class, tf.cast(bias, self.compute_dtype))


def _resize(features: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """[N, S, S, F] -> [N, *size, F], bilinear, corners aligned."""
    weights = []
    for num_cells, num_places in zip(features.shape[1:3], size, strict=True):
        position = tf.linspace(0.0, float(num_cells - 1), num_places) if num_places > 1 else tf.constant([0.0])
        near = tf.maximum(1.0 - tf.abs(position[:, tf.newaxis] - tf.range(float(num_cells))), 0.0)
        weights.append(tf.cast(near, features.dtype))
    return tf.einsum("yr,nrcf,xc->nyxf", weights[0], features, weights[1])


def _convolve_each(features: tf.Tensor, kernels: tf.Tensor, biases: tf.Tensor | None) -> tf.Tensor:
    """Convolves each of [N, H, W, F] with a kernel of its own, of [N, k * k, F], to one channel, [N, H, W]; "same" padding.

    A product with all places of the kernel comes first, and then the sum over shifted maps, which have k * k channels, not F.
    """
    num, height, width, filters = (dim(features, axis) for axis in range(4))
    num_places = dim(kernels, 1)
    products = tf.matmul(tf.reshape(features, [num, height * width, filters]), kernels, transpose_b=True)
    products = tf.reshape(products, [num, height, width, num_places])
    side = math.isqrt(num_places)
    margin = side // 2
    if margin:
        padded = tf.pad(products, [[0, 0], [margin, margin], [margin, margin], [0, 0]])
        places = [(y, x) for y in range(side) for x in range(side)]
        shifted = [padded[:, y : y + height, x : x + width, i] for i, (y, x) in enumerate(places)]
        summed = tf.add_n(shifted)
    else:
        summed = products[..., 0]
    return summed if biases is None else summed + biases[:, tf.newaxis, tf.newaxis]
