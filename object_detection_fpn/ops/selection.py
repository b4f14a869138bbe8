"""The largest of many values without sorting them; tf.math.top_k sorts them all where XLA compiles it for a TPU.

N rows of K values. Bisection counts the values above a bound, some 50 times, each time reading them once.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from object_detection_fpn.ops.dims import dim

_NUM_BITS = 32
_BLOCK = 128  # values counted together when places are looked up: a TPU's vector


def mark_largest(values: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Marks the largest values of each row, of equals the first.

    Args:
        values: [N, K] float32 without NaN.
        count: [N] int32 in [0, K], how many to mark.

    Returns:
        [N, K] bool.
    """
    # Integers in the order of the floats, in which -0 must be 0.
    keys = tf.bitcast(tf.where(tf.equal(values, 0.0), 0.0, values), tf.int32)
    keys = tf.where(keys < 0, tf.bitwise.bitwise_xor(keys, tf.int32.max), keys)
    num_columns = dim(values, 1)
    count = count[:, tf.newaxis]

    def is_enough(bound: tf.Tensor) -> tf.Tensor:
        return _count(keys >= bound) >= count

    # The largest bound that leaves enough. Flipping the sign bit of the least integer gives 0, the middle of their range.
    smallest = tf.fill([dim(values, 0), 1], tf.int32.min)
    bound = _build_bits(smallest, _NUM_BITS, is_enough)
    is_equal = tf.equal(keys, bound)
    is_above = keys > bound
    num_equal = count - _count(is_above)
    columns = tf.range(num_columns)

    def is_admitted(end: tf.Tensor) -> tf.Tensor:
        return _count(is_equal & (columns < end)) <= num_equal

    num_bits = num_columns.bit_length() if isinstance(num_columns, int) else _NUM_BITS - 1
    end = _build_bits(tf.zeros_like(smallest), num_bits, is_admitted)
    return is_above | (is_equal & (columns < end))


def top_k(values: tf.Tensor, k: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """As `tf.math.top_k` of rows [N, K], but sorts only what it returns.

    Args:
        values: [N, K] float32 without NaN.
        k: how many, at most K.

    Returns:
        The largest values [N, k] float32, largest first, and their columns [N, k] int32; of equals the first comes first.
    """
    marks = mark_largest(values, tf.fill([dim(values, 0)], k))
    columns = find_marked(marks, k)
    largest, order = tf.math.top_k(tf.gather(values, columns, batch_dims=1), k=k)
    return largest, tf.gather(columns, order, batch_dims=1)


def find_marked(marks: tf.Tensor, size: int | tf.Tensor) -> tf.Tensor:
    """Lists the places of the first marks of each row.

    Args:
        marks: [N, K] bool.
        size: how many to list.

    Returns:
        [N, size] int32, ascending; K where marks run out.
    """
    num_rows, num_columns = dim(marks, 0), dim(marks, 1)
    num_blocks = -(-num_columns // _BLOCK)
    blocks = tf.pad(tf.cast(marks, tf.int32), [[0, 0], [0, num_blocks * _BLOCK - num_columns]])
    blocks = tf.reshape(blocks, [num_rows, num_blocks, _BLOCK])
    ends = tf.cumsum(tf.reduce_sum(blocks, axis=2), axis=1)[:, tf.newaxis, :]  # marks up to the end of each block
    ranks = tf.range(size)[tf.newaxis, :, tf.newaxis]
    is_before = ends <= ranks  # [N, size, number of blocks]
    block = tf.reduce_sum(tf.cast(is_before, tf.int32), axis=2)
    rank_in_block = ranks - tf.reduce_max(tf.where(is_before, ends, 0), axis=2, keepdims=True)
    found = tf.gather(blocks, tf.minimum(block, num_blocks - 1), batch_dims=1)  # [N, size, _BLOCK]
    place = tf.reduce_sum(tf.cast(tf.cumsum(found, axis=2) <= rank_in_block, tf.int32), axis=2)
    return tf.where(block < num_blocks, block * _BLOCK + place, num_columns)


def _count(marks: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(marks, tf.int32), axis=1, keepdims=True)


def _build_bits(smallest: tf.Tensor, num_bits: int, is_allowed: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """The largest integers, in steps of bits from `smallest` on, that are allowed; if one is, so is every smaller one."""

    def decide(i: tf.Tensor, bits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        more = tf.bitwise.bitwise_xor(bits, tf.bitwise.left_shift(tf.constant(1), num_bits - 1 - i))
        return i + 1, tf.where(is_allowed(more), more, bits)

    return tf.while_loop(
        lambda i, _: i < num_bits,
        decide,
        (tf.constant(0), smallest),
        maximum_iterations=num_bits,
        parallel_iterations=1,
    )[1]
