"""Convolution, normalization and activation built from one specification, so that each layer of the model follows the config.

tf_keras has the layers; what it lacks is a batch normalization whose statistics can be frozen while its scale and offset
still train, and a value that says how all layers of a part are regularized, initialized, normalized and activated.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from object_detection_fpn.execution import Execution
from object_detection_fpn.ops import winograd
from object_detection_fpn.ops.dims import dim

ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "linear": tf.identity,
    "relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
    "swish": tf.nn.silu,
}

# Group Normalization (Wu and He 2018), section 4.1: 32 groups are best or equal for all models there.
_NUM_GROUPS = 32


class BatchNorm(tf_keras.layers.BatchNormalization):
    """Batch normalization that can keep its moving statistics as they are.

    With `freeze_statistics` the layer normalizes with its moving mean and variance also in training and never updates them;
    its scale and offset still train. (tf_keras's own `trainable=False` freezes those too.) With `fused=False` it multiplies by
    gamma / sqrt(variance + epsilon) and adds the rest, in float32.
    """

    def __init__(self, *, freeze_statistics: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.freeze_statistics = freeze_statistics

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return super().call(inputs, training=bool(training) and not self.freeze_statistics)


class SpaceToDepthConv(tf_keras.layers.Conv2D):
    """A convolution of stride 2, odd kernel and "valid" padding, computed as one of stride 1 over squares of 2 x 2 pixels.

    Weights and results are those of `Conv2D`. Of images with three channels a TPU fills 3 of 128 places of a vector: four
    times the channels on a quarter of the pixels are laid out and multiplied sooner.
    """

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        height, width, num_channels, filters = kernel.shape
        rows, columns = (height + 1) // 2, (width + 1) // 2
        kernel = tf.pad(kernel, [[0, 1], [0, 1], [0, 0], [0, 0]])
        kernel = tf.transpose(tf.reshape(kernel, [rows, 2, columns, 2, num_channels, filters]), [0, 2, 1, 3, 4, 5])
        kernel = tf.reshape(kernel, [rows, columns, 4 * num_channels, filters])
        inputs = tf.pad(inputs, [[0, 0], [0, dim(inputs, 1) % 2], [0, dim(inputs, 2) % 2], [0, 0]])
        # Not `tf.nn.space_to_depth`, whose transposition takes a TPU longer than all that is saved.
        inputs = tf.concat([inputs[:, y::2, x::2] for y in range(2) for x in range(2)], axis=-1)
        return tf.nn.conv2d(inputs, kernel, 1, "VALID")


class SymmetricConv(tf_keras.layers.Conv2D):
    """A convolution of odd kernel and "same" padding that pads (k - 1) / 2 cells on every side, as PyTorch does.

    TensorFlow's "same" pads a convolution of stride 2 by one cell less above and to the left where the size is even.
    """

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        rows, columns = ((size - 1) // 2 for size in kernel.shape[:2])
        padding = [[0, 0], [rows, rows], [columns, columns], [0, 0]]
        return tf.nn.conv2d(inputs, kernel, self.strides, padding, dilations=self.dilation_rate)


class SymmetricMaxPool(tf_keras.layers.MaxPooling2D):
    """A max pooling of odd size and "same" padding that pads (size - 1) / 2 cells on every side, as PyTorch does.

    The padding is never the largest: it counts as the lowest number.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        rows, columns = ((size - 1) // 2 for size in self.pool_size)
        padding = [[0, 0], [rows, rows], [columns, columns], [0, 0]]
        # Not by the padding of the operation itself, which XLA does not have and whose gradient takes a CPU ten times as long.
        padded = tf.pad(inputs, padding, constant_values=inputs.dtype.min)
        return tf.nn.max_pool2d(padded, self.pool_size, self.strides, "VALID")


class WinogradConv(tf_keras.layers.Conv2D):
    """A 3 x 3 convolution of stride 1 and "same" padding, computed by `ops.winograd` where that is faster.

    Weights are those of `Conv2D`. `assume_large` says what a map of unknown size counts as.
    """

    def __init__(self, *args: Any, assume_large: bool = True, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._assume_large = assume_large

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        if winograd.is_faster(inputs.shape, filters=kernel.shape[3], assume_large=self._assume_large):
            return winograd.conv2d(inputs, kernel)
        return super().convolution_op(inputs, kernel)


@dataclasses.dataclass(frozen=True)
class BatchNormSpec:
    """Values of a batch normalization; the defaults are those of the config language.

    Attributes:
        momentum: of the moving statistics.
        epsilon: is added to the variance.
        center: whether there is an offset.
        scale: whether there is a scale.
        freeze_statistics: keep the moving statistics in training and normalize with them.
        synchronized: use the statistics of the batches of all replicas.
        trainable: False: statistics, scale and offset all stay as they are.
    """

    momentum: float = 0.999
    epsilon: float = 0.001
    center: bool = True
    scale: bool = False
    freeze_statistics: bool = False
    synchronized: bool = False
    trainable: bool = True


@dataclasses.dataclass(frozen=True)
class GroupNormSpec:
    """Values of a group normalization; the defaults are those of the config language.

    Attributes:
        epsilon: is added to the variance.
    """

    epsilon: float = 0.001


def _glorot_uniform() -> tf_keras.initializers.Initializer:
    return tf_keras.initializers.GlorotUniform()


@dataclasses.dataclass(frozen=True)
class LayerSpec:
    """How the layers of one part of the model are made.

    Attributes:
        initializer: makes a new kernel initializer; called once a layer, since an unseeded initializer object that is used
            twice gives the same values twice. Not used where `execution.is_restored`.
        regularizer: kernel regularizer or None.
        activation: a key of `ACTIVATIONS`.
        norm: what follows a convolution, or None.
        force_use_bias: give convolutions a bias although a normalization follows.
        freeze_statistics: batch normalization keeps its moving statistics in training, whatever `norm` says.
        has_large_maps: what maps of unknown size count as where `execution.winograd` chooses an algorithm.
        execution: how the layers are computed.
    """

    initializer: Callable[[], tf_keras.initializers.Initializer] = _glorot_uniform
    regularizer: tf_keras.regularizers.Regularizer | None = None
    activation: str = "relu"
    norm: BatchNormSpec | GroupNormSpec | None = None
    force_use_bias: bool = False
    freeze_statistics: bool = False
    has_large_maps: bool = True
    execution: Execution = Execution()

    @property
    def dtype(self) -> str:
        """Dtype policy of each layer."""
        return self.execution.dtype

    @property
    def use_bias(self) -> bool:
        """A bias before a normalization would only be subtracted again."""
        return self.norm is None or self.force_use_bias

    def make_conv(
        self,
        filters: int,
        kernel_size: int,
        *,
        name: str,
        strides: int = 1,
        dilation_rate: int = 1,
        padding: str = "same",
        use_bias: bool | None = None,
        dtype: str | None = None,
        make: Callable[..., tf_keras.layers.Conv2D] | None = None,
    ) -> tf_keras.layers.Conv2D:
        """A convolution without its normalization and activation; what is None follows from the specification."""
        dtype = dtype or self.dtype
        can_be_winograd = (kernel_size, strides, dilation_rate, padding, dtype) == (3, 1, 1, "same", "float32")
        if make is None:
            make = tf_keras.layers.Conv2D
            if self.execution.winograd and can_be_winograd:
                make = functools.partial(WinogradConv, assume_large=self.has_large_maps)
        return make(
            filters,
            kernel_size,
            strides=strides,
            dilation_rate=dilation_rate,
            padding=padding,
            use_bias=self.use_bias if use_bias is None else use_bias,
            kernel_initializer=self.make_initializer(),
            kernel_regularizer=self.regularizer,
            dtype=dtype,
            name=name,
        )

    def make_initializer(self) -> tf_keras.initializers.Initializer:
        """A kernel initializer for one layer."""
        return tf_keras.initializers.Zeros() if self.execution.is_restored else self.initializer()

    def make_norm(self, *, name: str) -> tf_keras.layers.Layer:
        """The normalization that follows a convolution; an identity when there is none."""
        if isinstance(self.norm, BatchNormSpec):
            return BatchNorm(
                momentum=self.norm.momentum,
                epsilon=self.norm.epsilon,
                center=self.norm.center,
                scale=self.norm.scale,
                synchronized=self.norm.synchronized,
                freeze_statistics=self.freeze_statistics or self.norm.freeze_statistics,
                trainable=self.norm.trainable,
                # The gradient of a product with constants needs nothing kept, and no sums over the features.
                fused=None if self.norm.trainable else False,
                dtype=self.dtype,
                name=name,
            )
        if isinstance(self.norm, GroupNormSpec):
            return tf_keras.layers.GroupNormalization(
                groups=_NUM_GROUPS, epsilon=self.norm.epsilon, dtype=self.dtype, name=name
            )
        return tf_keras.layers.Activation("linear", dtype=self.dtype, name=name)

    def make_activation(self, *, name: str) -> tf_keras.layers.Layer:
        return tf_keras.layers.Activation(ACTIVATIONS[self.activation], dtype=self.dtype, name=name)


class ConvNormActivation(tf_keras.layers.Layer):
    """Convolution, normalization, activation. Call: [B, H, W, F] -> [B, H / strides, W / strides, filters]."""

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        *,
        spec: LayerSpec,
        strides: int = 1,
        dilation_rate: int = 1,
        name: str,
    ):
        super().__init__(name=name, dtype=spec.dtype)
        self.conv = spec.make_conv(filters, kernel_size, strides=strides, dilation_rate=dilation_rate, name="conv")
        self.norm = spec.make_norm(name="norm")
        self.activation = spec.make_activation(name="activation")

    def build(self, input_shape: tf.TensorShape) -> None:
        build(self.conv, input_shape)
        build(self.norm, self.conv.compute_output_shape(input_shape))
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        return self.activation(self.norm(self.conv(inputs), training=training))


def build(layer: tf_keras.layers.Layer, input_shape: Sequence[int | None]) -> None:
    """Creates a layer's variables from shapes alone, under its name scope, without running it."""
    with tf.name_scope(layer.name):
        layer.build(tf.TensorShape(input_shape))
        layer.built = True


# Of a thread, as each replica is traced in its own and two may take turns within a synchronized normalization.
_IS_COMPUTED_AGAIN = contextvars.ContextVar("is_computed_again", default=False)


class Recomputed:
    """Runs a part of a network keeping only its inputs; its gradient computes the rest again (Chen et al. 2016).

    Moving statistics are updated when the part is run, and not again with its gradient.

    Args:
        part: the part, of whose layers no other object may call `add_update`.
    """

    def __init__(self, part: tf_keras.Model):
        self._part = part
        for layer in part.submodules:
            if isinstance(layer, tf_keras.layers.BatchNormalization):
                layer.add_update = functools.partial(_add_update_once, layer.add_update)

    def __call__(self, inputs: tf.Tensor, *, training: bool) -> tf.Tensor:
        runs = itertools.count()

        def run(inputs: tf.Tensor) -> tf.Tensor:
            token = _IS_COMPUTED_AGAIN.set(next(runs) > 0)
            try:
                return self._part(inputs, training=training)
            finally:
                _IS_COMPUTED_AGAIN.reset(token)

        return tf.recompute_grad(run)(inputs)


def _add_update_once(add_update: Callable[[Any], None], updates: Any) -> None:
    if not _IS_COMPUTED_AGAIN.get():
        add_update(updates)


@contextlib.contextmanager
def dtype_policy(policy: str) -> Iterator[None]:
    """Makes `policy` the default of layers built inside, for libraries whose layers take no `dtype`; restores it after."""
    before = tf_keras.mixed_precision.global_policy()
    tf_keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        tf_keras.mixed_precision.set_global_policy(before)
