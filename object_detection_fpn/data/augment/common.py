"""What several augmentations share: choosing between examples or warps, and drawing whole numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tensorflow as tf

from object_detection_fpn.data.example import with_none, without_none

_T = TypeVar("_T")


def split(seed: tf.Tensor, num: int) -> list[tf.Tensor]:
    """`num` seeds, each [2] int32, that follow from one."""
    return tf.unstack(tf.random.experimental.stateless_split(seed, num))


def random_integer(seed: tf.Tensor, low: tf.Tensor | int, high: tf.Tensor | int) -> tf.Tensor:
    """A scalar int32 from `low` up to, not including, `high`; `low` itself where nothing lies between."""
    return tf.random.stateless_uniform([], seed, low, tf.maximum(high, low + 1), dtype=tf.int32)


def happens(seed: tf.Tensor, probability: float) -> tf.Tensor:
    """A scalar bool, True with `probability`."""
    return tf.random.stateless_uniform([], seed) < probability


def choose(condition: tf.Tensor, if_true: Callable[[], _T], if_false: Callable[[], _T]) -> _T:
    """`tf.cond` for examples and warps; both branches have the same optional fields."""
    return switch(tf.cast(condition, tf.int32), [if_false, if_true])


def switch(index: tf.Tensor, branches: Sequence[Callable[[], _T]]) -> _T:
    """The example or warp that branch number `index` makes.

    All branches have the same optional fields, and equal values in fields that are no tensors.
    """
    results: list[Any] = []

    def tensors_of(branch: Callable[[], _T]) -> list[tf.Tensor]:
        results.append(branch())
        return without_none(results[-1])

    chosen = tf.switch_case(index, [lambda branch=branch: tensors_of(branch) for branch in branches])
    return with_none(chosen, like=results[0])
