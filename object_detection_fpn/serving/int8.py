"""Convolutions as int8 computes them, simulated in float32 (Jacob et al. 2018), for a converter that makes int8 of them.

LiteRT's own quantization after training wants a range of every tensor, and a detector's graph has minus infinity in it, and
loops, which its calibration cannot run. So ranges are found here, and of the backbone and the pyramid alone: that is nearly all
of the work, and what makes boxes and scores stays float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from object_detection_fpn.serving.folding import is_convolution, is_normalization

_SMALLEST = 1e-6  # of a range, which must not be empty


class Int8Simulation:
    """Runs a model's layers with weights and activations rounded as in int8: weights of each filter with a scale of their own.

        simulation = Int8Simulation(model.feature_extractor)
        with folding, simulation.recording():
            for images in batches:
                model.feature_extractor(images, training=False)
        with folding, simulation:
            outputs = model(images, training=False)

    Args:
        part: contains the layers. They must not run in another thread meanwhile.
    """

    def __init__(self, part: tf.Module):
        layers = list(part.submodules)
        self._convs = [layer for layer in layers if is_convolution(layer)]
        self._norms = [layer for layer in layers if is_normalization(layer)]
        self._ranges: dict[tuple[int, str], tuple[float, float]] = {}
        self._is_recording = False
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Int8Simulation:
        for conv in self._convs:
            self._stack.enter_context(_replaced(conv, "convolution_op", self._of_convolution(conv)))
        # After the sum with the bias: that of a convolution, or of a normalization that is folded into it.
        for layer in [*(conv for conv in self._convs if conv.use_bias), *self._norms]:
            self._stack.enter_context(_replaced(layer, "call", self._of_outputs(layer)))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Notes the ranges of what is run inside, eagerly, instead of rounding."""
        self._is_recording = True
        try:
            with self:
                yield
        finally:
            self._is_recording = False

    def _of_convolution(self, conv: Any) -> Callable[..., tf.Tensor]:
        convolve = conv.convolution_op

        def convolution_op(inputs: tf.Tensor, kernel: tf.Variable) -> tf.Tensor:
            inputs = self._round(inputs, (id(conv), "inputs"))
            return convolve(inputs, kernel if self._is_recording else _round_kernel(kernel))

        return convolution_op

    def _of_outputs(self, layer: Any) -> Callable[..., tf.Tensor]:
        compute = layer.call

        def call(inputs: tf.Tensor, **settings: Any) -> tf.Tensor:
            return self._round(compute(inputs, **settings), (id(layer), "outputs"))

        return call

    def _round(self, values: tf.Tensor, key: tuple[int, str]) -> tf.Tensor:
        if self._is_recording:
            low, high = self._ranges.get(key, (0.0, _SMALLEST))  # 0 is in every range
            low, high = min(low, float(tf.reduce_min(values))), max(high, float(tf.reduce_max(values)))
            self._ranges[key] = (low, high)
            return values
        return tf.quantization.fake_quant_with_min_max_args(values, *self._ranges[key])


def _round_kernel(kernel: tf.Variable) -> tf.Tensor:
    with tf.init_scope():  # as numbers: the converter must know the scales
        largest = np.maximum(np.abs(kernel.numpy()).max(axis=(0, 1, 2)), _SMALLEST)
    return tf.quantization.fake_quant_with_min_max_vars_per_channel(kernel, -largest, largest, narrow_range=True)


@contextlib.contextmanager
def _replaced(layer: Any, name: str, method: Callable) -> Iterator[None]:
    """Gives a layer another method; what it had comes back after."""
    before = vars(layer).get(name)
    setattr(layer, name, method)
    try:
        yield
    finally:
        if before is None:
            delattr(layer, name)
        else:
            setattr(layer, name, before)
