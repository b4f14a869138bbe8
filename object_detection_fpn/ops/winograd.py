"""3 x 3 convolution with 36 multiplications for 16 results instead of 144 (Lavin and Gray 2016, F(4 x 4, 3 x 3)).

Inputs are cut into tiles of 6 x 6 pixels that overlap by two; tiles and kernels are transformed, multiplied channel by channel
and summed over them, which is one matrix product for each of the 36 places, and what results is transformed to 4 x 4 pixels.
What a CPU's library for convolutions does in a second it does in half of one where channels are many; cuDNN has it itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

_TILE, _KERNEL = 4, 3
_WINDOW = _TILE + _KERNEL - 1
_GROUP_PIXELS = 4096  # of small images, such as the features of RoIs, that are taken together
_SAVED, _COST_OF_A_CHANNEL, _COST_OF_A_KERNEL = 6.75, 330.0, 3800.0
_PIXELS_IF_UNKNOWN = {True: 80 * 80, False: 20 * 20}
_PIXELS_OF_A_ROI, _ROIS_IF_UNKNOWN = 14 * 14, 64
# Where the algorithm evaluates its polynomials, beside infinity. Points c, -c, 1/c and -1/c round little (Alam et al. 2022):
# these with a sixth of the error of the usual 0, 1, -1, 2, -2.
_POINTS = np.array([0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)])


def is_faster(input_shape: tf.TensorShape, *, filters: int, assume_large: bool = True) -> bool:
    """Whether a CPU computes a convolution sooner by this algorithm.

    Of the multiplications 6.75 for each pixel, input channel and filter are saved. What it costs to transform a pixel's
    channels and those of its result, and a kernel, was measured on two cores with AVX-512, in multiplications.

    Args:
        input_shape: [B, H, W, F]; F is known. Of small images, as RoIs are, an unknown number counts as many.
        filters: G.
        assume_large: whether an image of unknown size counts as large.
    """
    batch, height, width, in_filters = input_shape
    num_pixels = _PIXELS_IF_UNKNOWN[assume_large] if height is None or width is None else max(height * width, 1)
    if batch is None:
        batch = 1 if num_pixels > _PIXELS_OF_A_ROI else _ROIS_IF_UNKNOWN
    cost = _COST_OF_A_CHANNEL * (1 / in_filters + 1 / filters) + _COST_OF_A_KERNEL / (max(batch, 1) * num_pixels)
    return cost < _SAVED


def conv2d(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolves with stride 1 and "same" padding, as `tf.nn.conv2d` does, to within a few millionths of the largest result.

    Images are taken one after the other, or small ones in groups: what is in the making is up to 4.5 times as large as the
    inputs or results of one of them. The gradients of both arguments are computed in the same manner; they have no gradient
    of their own.

    Args:
        inputs: [B, H, W, F] float32.
        kernel: [3, 3, F, G] float32.

    Returns:
        [B, H, W, G].
    """

    @tf.custom_gradient
    def convolve(inputs: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        def gradients(gradient: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            of_inputs = winograd_gradient_of_inputs(gradient, kernel)
            of_inputs.set_shape(inputs.shape)
            of_kernel = winograd_gradient_of_kernel(inputs, gradient)
            of_kernel.set_shape(kernel.shape)
            return of_inputs, of_kernel

        outputs = winograd_convolve(inputs, kernel)
        outputs.set_shape([*inputs.shape[:3], kernel.shape[3]])
        return outputs, gradients

    return convolve(inputs, tf.convert_to_tensor(kernel))


def _traced_once(*shapes: list[int | None]) -> Callable[[Callable], Callable]:
    """Traces for all shapes at once, and calls instead of copying to where it is called.

    A model has the algorithm many times, and tracing and optimizing its hundred operations each time takes longer than a
    model's first image.
    """
    return tf.function(
        input_signature=[tf.TensorSpec(shape) for shape in shapes],
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


@_traced_once([None] * 4, [_KERNEL, _KERNEL, None, None])
def winograd_convolve(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """[B, H, W, G] of inputs [B, H, W, F]."""
    return _convolve_transformed(inputs, _transform_kernel(kernel, _transforms().of_kernel), is_transposed=False)


@_traced_once([None] * 4, [_KERNEL, _KERNEL, None, None])
def winograd_gradient_of_inputs(gradient: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """[B, H, W, F] of the gradient [B, H, W, G] of what inputs were convolved to.

    What a pixel gave to those around it comes back from them, by the kernel turned by half a turn.
    """
    return _convolve_transformed(
        gradient, _transform_kernel(kernel, _transforms().of_kernel[:, ::-1]), is_transposed=True
    )


def _transform_kernel(kernel: tf.Tensor, transform: np.ndarray) -> tf.Tensor:
    """[36, F, G] of [3, 3, F, G]."""
    transformed = tf.constant(transform, tf.float32) @ tf.reshape(kernel, [_KERNEL**2, -1])
    return tf.reshape(transformed, tf.concat([[_WINDOW**2], tf.shape(kernel)[2:]], 0))


def _convolve_transformed(inputs: tf.Tensor, kernel: tf.Tensor, *, is_transposed: bool) -> tf.Tensor:
    """Of a transformed kernel [36, F, G], or [36, G, F] if it is transposed."""
    of_output = tf.constant(_transforms().of_output, tf.float32)
    tiling = _Tiling(inputs)
    filters = tf.shape(kernel)[1 if is_transposed else 2]

    def convolve(index: tf.Tensor, outputs: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        """Of a group of images."""
        results = tf.matmul(tiling.transformed_windows(index), kernel, transpose_b=is_transposed)
        results = of_output @ tf.reshape(results, [_WINDOW**2, -1])
        results = tf.reshape(results, tf.stack([_TILE, _TILE, -1, tiling.rows, tiling.columns, filters]))
        results = tf.reshape(
            tf.transpose(results, [2, 3, 0, 4, 1, 5]),
            tf.stack([-1, tiling.rows * _TILE, tiling.columns * _TILE, filters]),
        )
        return index + 1, outputs.write(index, results[:, : tiling.height, : tiling.width])

    outputs = tf.TensorArray(tf.float32, tiling.num_groups, infer_shape=False, element_shape=[None, None, None, None])
    _, outputs = tf.while_loop(
        lambda index, _: index < tiling.num_groups, convolve, (tf.constant(0), outputs), parallel_iterations=1
    )
    return outputs.concat()


@_traced_once([None] * 4, [None] * 4)
def winograd_gradient_of_kernel(inputs: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    """[3, 3, F, G] of inputs [B, H, W, F] and the gradient [B, H, W, G] of what they were convolved to."""
    of_kernel, of_output = (tf.constant(matrix, tf.float32) for matrix in _transforms()[1:])
    tiling = _Tiling(inputs)
    filters = tf.shape(gradient)[3]
    below, right = tiling.rows * _TILE - tiling.height, tiling.columns * _TILE - tiling.width
    padding = tf.reshape(tf.stack([0, 0, 0, below, 0, right, 0, 0]), [4, 2])

    def of_group(index: tf.Tensor | int) -> tf.Tensor:
        """[36, F, G]."""
        results = tf.pad(tiling.of_group(gradient, index), padding)
        results = tf.reshape(results, tf.stack([-1, tiling.rows, _TILE, tiling.columns, _TILE, filters]))
        results = tf.reshape(tf.transpose(results, [2, 4, 0, 1, 3, 5]), [_TILE**2, -1])
        results = tf.matmul(of_output, results, transpose_a=True)
        results = tf.reshape(results, tf.stack([_WINDOW**2, -1, filters]))
        return tf.matmul(tiling.transformed_windows(index), results, transpose_a=True)

    _, total = tf.while_loop(
        lambda index, _: index < tiling.num_groups,
        lambda index, total: (index + 1, total + of_group(index)),
        (tf.constant(1), of_group(0)),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([_WINDOW**2, None, None])),
        parallel_iterations=1,
    )
    total = tf.matmul(of_kernel, tf.reshape(total, [_WINDOW**2, -1]), transpose_a=True)
    return tf.reshape(total, tf.stack([_KERNEL, _KERNEL, tiling.num_channels, filters]))


class _Tiling:
    """How images [B, H, W, F] are cut into windows, a group of images at a time."""

    def __init__(self, images: tf.Tensor):
        self._images = images
        count, self.height, self.width, self.num_channels = tf.unstack(tf.shape(images))
        self.rows, self.columns = -(-self.height // _TILE), -(-self.width // _TILE)
        padded_height, self._padded_width = self.rows * _TILE + _KERNEL - 1, self.columns * _TILE + _KERNEL - 1
        self._num_pixels = padded_height * self._padded_width
        below, right = padded_height - 1 - self.height, self._padded_width - 1 - self.width
        self._padding = tf.reshape(tf.stack([0, 0, 1, below, 1, right, 0, 0]), [4, 2])
        self._pixels = self._pixels_of_windows()
        num_images = tf.maximum(_GROUP_PIXELS // tf.maximum(self.height * self.width, 1), 1)
        self.num_groups = tf.maximum(-(-count // num_images), 1)
        self._group = -(-count // self.num_groups)  # as even as can be

    def of_group(self, images: tf.Tensor, index: tf.Tensor | int) -> tf.Tensor:
        """The images of a group."""
        return images[index * self._group : (index + 1) * self._group]

    def transformed_windows(self, index: tf.Tensor | int) -> tf.Tensor:
        """[36, windows of the group, F]."""
        images = tf.pad(self.of_group(self._images, index), self._padding)
        first = tf.range(tf.shape(images)[0]) * self._num_pixels
        places = tf.reshape(first[:, tf.newaxis] + self._pixels, [_WINDOW**2, -1])  # [36, n * rows * columns]
        windows = tf.gather(tf.reshape(images, tf.stack([-1, self.num_channels])), places)
        windows = tf.constant(_transforms().of_input, tf.float32) @ tf.reshape(windows, [_WINDOW**2, -1])
        return tf.reshape(windows, tf.stack([_WINDOW**2, -1, self.num_channels]))

    def _pixels_of_windows(self) -> tf.Tensor:
        """[36, 1, rows * columns] int32: by place in the window and window, the pixel of the padded image."""
        within = tf.range(_WINDOW)[:, tf.newaxis]
        row = (within + tf.range(self.rows) * _TILE) * self._padded_width  # [6, rows]
        column = within + tf.range(self.columns) * _TILE  # [6, columns]
        return tf.reshape(
            row[:, tf.newaxis, :, tf.newaxis] + column[:, tf.newaxis], [_WINDOW**2, 1, self.rows * self.columns]
        )


class _Transforms(NamedTuple):
    """Of both axes at once, by place in the window, the kernel, or the tile of results."""

    of_input: np.ndarray  # [36, 36]
    of_kernel: np.ndarray  # [36, 9]
    of_output: np.ndarray  # [16, 36]


def _transforms() -> _Transforms:
    """By Toom and Cook, as in Barabasz et al. 2020."""

    def powers(count: int) -> np.ndarray:
        at_infinity = np.eye(count)[-1:]
        return np.concatenate([_POINTS[:, np.newaxis] ** np.arange(count), at_infinity])

    differences = _POINTS[:, np.newaxis] - _POINTS + np.eye(len(_POINTS))
    scales = np.append(np.prod(differences, axis=1), 1.0)[:, np.newaxis]
    of_axis = np.linalg.inv(powers(_WINDOW)).T * scales, powers(_KERNEL) / scales, powers(_TILE).T
    return _Transforms(*(np.kron(matrix, matrix) for matrix in of_axis))
