"""Batch normalization folded into the convolution before it, for a model that only infers (Jacob et al. 2018, section 3.2).

A convolution with weights W and bias b, then a normalization with scale g, offset o, mean m and variance v, is one
convolution with weights W s and bias (b - m) s + o, where s = g / sqrt(v + epsilon). TensorFlow then joins the bias, a sum with
a shortcut and the activation with the convolution as well.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from object_detection_fpn.modeling.layers import SpaceToDepthConv, SymmetricConv, WinogradConv

_CONVS = (tf_keras.layers.Conv2D, SpaceToDepthConv, SymmetricConv, WinogradConv)
_BATCH_NORMS = (tf_keras.layers.BatchNormalization, tf_keras.layers.experimental.SyncBatchNormalization)


def is_convolution(layer: Any) -> bool:
    """Whether a layer is a two-dimensional convolution."""
    return type(layer) in _CONVS


def is_normalization(layer: Any) -> bool:
    """Whether a layer is a batch normalization."""
    return isinstance(layer, _BATCH_NORMS)


class Folding:
    """Runs the layers of a model with folded weights, made of the weights the layers have when they are first run.

        folding = Folding(model)
        with folding:
            outputs = model(images, training=False)  # traced or eager

    A normalization is folded if what it is given comes from a two-dimensional convolution without activation, with channels
    last, in the same type as its weights. The model's weights stay as they are, and so does what it does outside of the block
    or in training.

    Args:
        model: whatever contains the layers. They must not run in another thread meanwhile.
    """

    def __init__(self, model: tf.Module):
        layers = [layer for layer in model.submodules if isinstance(layer, tf_keras.layers.Layer)]
        self._convs = [layer for layer in layers if is_convolution(layer)]
        self._norms = [layer for layer in layers if is_normalization(layer)]
        self._folded: dict[tuple[int, int], tuple[tf.Variable, ...]] = {}
        self._stack = contextlib.ExitStack()

    @property
    def variables(self) -> list[tf.Variable]:
        """The folded weights and biases made so far."""
        return [variable for pair in self._folded.values() for variable in pair]

    def __enter__(self) -> Folding:
        # Which convolution, of what, gave a tensor; the tensor is kept, so that no other can have its id.
        sources: dict[int, tuple[tf_keras.layers.Conv2D, tf.Tensor, tf.Tensor]] = {}
        for conv in self._convs:
            self._stack.enter_context(_calls(conv, _noting(conv, sources)))
        for norm in self._norms:
            self._stack.enter_context(_calls(norm, self._folding(norm, sources)))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _folding(self, norm: Any, sources: dict) -> Callable[..., tf.Tensor]:
        normalize = norm.call

        def call(inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
            conv, features, _ = sources.get(id(inputs), (None, None, None))
            if training or conv is None or not _can_fold(conv, norm):
                return normalize(inputs, training=training)
            if (id(conv), id(norm)) not in self._folded:
                self._folded[id(conv), id(norm)] = _fold(conv, norm)
            kernel, bias = self._folded[id(conv), id(norm)]
            outputs = tf.nn.bias_add(conv.convolution_op(features, kernel), bias)
            outputs.set_shape(inputs.shape)  # no operation of its own, which would part the bias from the activation
            return outputs

        return call


def _noting(conv: Any, sources: dict) -> Callable[[tf.Tensor], tf.Tensor]:
    convolve = conv.call

    def call(inputs: tf.Tensor) -> tf.Tensor:
        outputs = convolve(inputs)
        sources[id(outputs)] = (conv, inputs, outputs)
        return outputs

    return call


@contextlib.contextmanager
def _calls(layer: Any, call: Callable) -> Iterator[None]:
    """Makes a layer run `call`; its class's own method comes back after."""
    layer.call = call
    try:
        yield
    finally:
        del layer.call


def _can_fold(conv: Any, norm: Any) -> bool:
    return (
        conv.activation in (None, tf_keras.activations.linear)
        and conv.data_format == "channels_last"
        and conv.groups == 1
        and list(norm.axis) == [3]
        and conv.compute_dtype == conv.variable_dtype == norm.compute_dtype
    )


def _fold(conv: Any, norm: Any) -> tuple[tf.Variable, ...]:
    """Kernel and bias."""

    def value(weight: Any, default: float) -> np.ndarray:
        return np.asarray(default if weight is None else weight.numpy(), np.float64)

    def make() -> tuple[tf.Variable, ...]:
        scale = value(norm.gamma, 1.0) / np.sqrt(value(norm.moving_variance, 1.0) + norm.epsilon)
        kernel = conv.kernel.numpy()
        # In float64, so that each folded weight is rounded once; piece by piece, not in a copy of twice the size.
        kernel = np.multiply(kernel, scale, out=np.empty_like(kernel), dtype=np.float64, casting="same_kind")
        bias = (value(conv.bias if conv.use_bias else None, 0.0) - value(norm.moving_mean, 0.0)) * scale
        bias += value(norm.beta, 0.0)
        return tuple(
            tf.Variable(tf.constant(values, conv.variable_dtype), trainable=False, name=f"{conv.name}/folded_{name}")
            for name, values in (("kernel", kernel), ("bias", bias))
        )

    # In a thread of its own, where nothing is traced: a `tf.function` that sees a variable being made is traced once more.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(make).result()
