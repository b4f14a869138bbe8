"""3 x 3 convolution with 36 multiplications for 16 results instead of 144 (Lavin and Gray 2016, F(4 x 4, 3 x 3)).

Inputs are cut into tiles of 6 x 6 pixels that overlap by two; tiles and kernels are transformed, multiplied channel by channel
and summed over them, which is one matrix product for each of the 36 places, and what results is transformed to 4 x 4 pixels.
What a CPU's library for convolutions does in a second it does in half of one where channels are many; cuDNN has it itself.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

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
    outputs = _convolve(inputs, kernel)
    outputs.set_shape([*inputs.shape[:3], kernel.shape[3]])
    return outputs


# Traced once for all shapes, and called, not copied to where it is called: a model has it many times, and tracing and
# optimizing its hundred operations each time takes longer than a model's first image.
@tf.function(
    input_signature=[tf.TensorSpec([None, None, None, None]), tf.TensorSpec([_KERNEL, _KERNEL, None, None])],
    autograph=False,
    experimental_attributes={"_noinline": True},
)
def _convolve(inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    of_input, of_kernel, of_output = (tf.constant(np.kron(matrix, matrix), tf.float32) for matrix in _transforms())
    count, height, width, in_filters = tf.unstack(tf.shape(inputs))
    filters = tf.shape(kernel)[3]
    kernel = tf.reshape(of_kernel @ tf.reshape(kernel, [_KERNEL**2, -1]), tf.stack([_WINDOW**2, in_filters, filters]))

    rows, columns = -(-height // _TILE), -(-width // _TILE)
    padded_height, padded_width = rows * _TILE + _KERNEL - 1, columns * _TILE + _KERNEL - 1
    below, right = padded_height - 1 - height, padded_width - 1 - width
    padding = tf.reshape(tf.stack([0, 0, 1, below, 1, right, 0, 0]), [4, 2])
    num_pixels = padded_height * padded_width
    pixels = _pixels_of_tiles(rows, columns, padded_width)

    num_groups = tf.maximum(-(-count // tf.maximum(_GROUP_PIXELS // (height * width), 1)), 1)
    group = -(-count // num_groups)  # as even as can be

    def convolve(index: tf.Tensor, outputs: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        """Of n images."""
        images = tf.pad(inputs[index * group : (index + 1) * group], padding)
        first = tf.range(tf.shape(images)[0]) * num_pixels
        places = tf.reshape(first[:, tf.newaxis] + pixels, [_WINDOW**2, -1])  # [36, n * rows * columns]
        tiles = tf.gather(tf.reshape(images, tf.stack([-1, in_filters])), places)
        tiles = tf.reshape(of_input @ tf.reshape(tiles, [_WINDOW**2, -1]), tf.stack([_WINDOW**2, -1, in_filters]))
        results = of_output @ tf.reshape(tiles @ kernel, [_WINDOW**2, -1])
        results = tf.reshape(results, tf.stack([_TILE, _TILE, -1, rows, columns, filters]))
        results = tf.reshape(
            tf.transpose(results, [2, 3, 0, 4, 1, 5]), tf.stack([-1, rows * _TILE, columns * _TILE, filters])
        )
        return index + 1, outputs.write(index, results[:, :height, :width])

    outputs = tf.TensorArray(tf.float32, num_groups, infer_shape=False, element_shape=[None, None, None, None])
    _, outputs = tf.while_loop(
        lambda index, _: index < num_groups, convolve, (tf.constant(0), outputs), parallel_iterations=1
    )
    return outputs.concat()


def _pixels_of_tiles(rows: tf.Tensor, columns: tf.Tensor, padded_width: tf.Tensor) -> tf.Tensor:
    """[36, 1, rows * columns] int32: by place in the tile and tile, the pixel of the padded image."""
    within = tf.range(_WINDOW)[:, tf.newaxis]
    row = (within + tf.range(rows) * _TILE) * padded_width  # [6, rows]
    column = within + tf.range(columns) * _TILE  # [6, columns]
    return tf.reshape(row[:, tf.newaxis, :, tf.newaxis] + column[:, tf.newaxis], [_WINDOW**2, 1, rows * columns])


def _transforms() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one axis, for windows [6, 6], kernels [6, 3] and results [4, 6] (Toom-Cook, as in Barabasz et al. 2020)."""

    def powers(count: int) -> np.ndarray:
        at_infinity = np.eye(count)[-1:]
        return np.concatenate([_POINTS[:, np.newaxis] ** np.arange(count), at_infinity])

    differences = _POINTS[:, np.newaxis] - _POINTS + np.eye(len(_POINTS))
    scales = np.append(np.prod(differences, axis=1), 1.0)[:, np.newaxis]
    return np.linalg.inv(powers(_WINDOW)).T * scales, powers(_KERNEL) / scales, powers(_TILE).T
