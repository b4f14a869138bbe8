"""3 x 3 convolution with 36 multiplications for 16 results instead of 144 (Lavin and Gray 2016, F(4 x 4, 3 x 3)).

Inputs are cut into tiles of 6 x 6 pixels that overlap by two; tiles and kernels are transformed, multiplied channel by channel
and summed over them, which is one matrix product for each of the 36 places, and what results is transformed to 4 x 4 pixels.
What a CPU's library for convolutions does in a second it does in half of one where channels are many; cuDNN has it itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from object_detection_fpn.ops.dims import dim

_TILE, _KERNEL = 4, 3
_WINDOW = _TILE + _KERNEL - 1
_GROUP_PIXELS = 4096  # of small images, such as the features of RoIs, that are taken together
# Where the algorithm evaluates its polynomials, beside infinity. Points c, -c, 1/c and -1/c round little (Alam et al. 2022):
# these with a sixth of the error of the usual 0, 1, -1, 2, -2.
_POINTS = np.array([0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)])


def conv2d(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolves with stride 1 and "same" padding, as `tf.nn.conv2d` does, to within a few millionths of the largest result.

    Images are taken one after the other, or small ones in groups: what is in the making is up to 4.5 times as large as the
    inputs or results of one of them.

    Args:
        inputs: [B, H, W, F] float32.
        kernel: [3, 3, F, G] float32.

    Returns:
        [B, H, W, G].
    """
    *_, in_filters, filters = kernel.shape
    of_input, of_kernel, of_output = (tf.constant(np.kron(matrix, matrix), tf.float32) for matrix in _transforms())
    kernel = tf.reshape(of_kernel @ tf.reshape(kernel, [_KERNEL**2, in_filters * filters]), [-1, in_filters, filters])

    def convolve(images: tf.Tensor) -> tf.Tensor:
        """[n, H, W, F] -> [n, H, W, G]."""
        num, height, width = (dim(images, axis) for axis in range(3))
        rows, columns = -(-height // _TILE), -(-width // _TILE)
        num_tiles = num * rows * columns
        tiles = tf.reshape(_cut_tiles(images, rows, columns), [_WINDOW**2, num_tiles * in_filters])
        products = tf.reshape(of_input @ tiles, [_WINDOW**2, num_tiles, in_filters]) @ kernel
        outputs = of_output @ tf.reshape(products, [_WINDOW**2, num_tiles * filters])
        outputs = tf.transpose(tf.reshape(outputs, [_TILE, _TILE, num, rows, columns, filters]), [2, 3, 0, 4, 1, 5])
        return tf.reshape(outputs, [num, rows * _TILE, columns * _TILE, filters])[:, :height, :width]

    return _map_groups(convolve, inputs, filters)


def _map_groups(convolve: Callable[[tf.Tensor], tf.Tensor], inputs: tf.Tensor, filters: int) -> tf.Tensor:
    """Applies `convolve`, [n, H, W, F] -> [n, H, W, G], to images [B, H, W, F]: one by one, or small ones in groups.

    The groups are as even as can be; the last one is filled with zeros.
    """
    num, height, width = inputs.shape[:3]
    if num == 1:
        return convolve(inputs)
    at_most = 1 if height is None or width is None else max(1, _GROUP_PIXELS // (height * width))
    count, *sizes = (dim(inputs, axis) for axis in range(4))
    num_groups, group = count, 1
    if at_most > 1:
        num_groups = _at_least_one(-(-count // at_most))
        group = -(-count // num_groups)
        inputs = tf.pad(inputs, [[0, num_groups * group - count], [0, 0], [0, 0], [0, 0]])
    groups = tf.reshape(inputs, [num_groups, group, *sizes])
    spec = tf.TensorSpec([groups.shape[1], height, width, filters], inputs.dtype)
    outputs = tf.map_fn(convolve, groups, fn_output_signature=spec, parallel_iterations=1)
    outputs = tf.reshape(outputs, [num_groups * group, *sizes[:2], filters])[:count]
    return tf.ensure_shape(outputs, [num, height, width, filters])


def _at_least_one(number: int | tf.Tensor) -> int | tf.Tensor:
    return max(number, 1) if isinstance(number, int) else tf.maximum(number, 1)


def _cut_tiles(images: tf.Tensor, rows: int | tf.Tensor, columns: int | tf.Tensor) -> tf.Tensor:
    """[n, H, W, F] -> [36, n * rows * columns, F]: place in the tile, tile. Beyond the border are zeros."""
    num, height, width = (dim(images, axis) for axis in range(3))
    num_filters = images.shape[3]
    padded_height, padded_width = rows * _TILE + _KERNEL - 1, columns * _TILE + _KERNEL - 1
    below, right = padded_height - 1 - height, padded_width - 1 - width
    padded = tf.pad(images, [[0, 0], [1, below], [1, right], [0, 0]])
    # One constant where the size is known, instead of twenty operations to trace.
    count_up = np.arange if all(isinstance(size, int) for size in (num, rows, columns)) else tf.range
    row = count_up(_WINDOW)[:, np.newaxis] + count_up(rows) * _TILE  # [6, rows]
    column = count_up(_WINDOW)[:, np.newaxis] + count_up(columns) * _TILE
    pixels = row[:, np.newaxis, :, np.newaxis] * padded_width + column[np.newaxis, :, np.newaxis, :]
    first = count_up(num)[np.newaxis, np.newaxis, :, np.newaxis, np.newaxis] * (padded_height * padded_width)
    pixels = tf.cast(first + pixels[:, :, np.newaxis], tf.int32)  # [6, 6, n, rows, columns]
    return tf.gather(
        tf.reshape(padded, [num * padded_height * padded_width, num_filters]), tf.reshape(pixels, [_WINDOW**2, -1])
    )


def _transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one axis, for windows [6, 6], kernels [6, 3] and results [4, 6] (Toom-Cook, as in Barabasz et al. 2020)."""

    def powers(count: int) -> np.ndarray:
        at_infinity = np.eye(count)[-1:]
        return np.concatenate([_POINTS[:, np.newaxis] ** np.arange(count), at_infinity])

    differences = _POINTS[:, np.newaxis] - _POINTS + np.eye(len(_POINTS))
    scales = np.append(np.prod(differences, axis=1), 1.0)[:, np.newaxis]
    return np.linalg.inv(powers(_WINDOW)).T * scales, powers(_KERNEL) / scales, powers(_TILE).T
