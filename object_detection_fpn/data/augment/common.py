"""What several augmentations share: choosing between examples, drawing whole numbers, moving objects into a window."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from object_detection_fpn.data.example import Example, Objects, with_none, without_none
from object_detection_fpn.ops import boxes as box_ops


def split(seed: tf.Tensor, num: int) -> list[tf.Tensor]:
    """`num` seeds, each [2] int32, that follow from one."""
    return tf.unstack(tf.random.experimental.stateless_split(seed, num))


def random_integer(seed: tf.Tensor, low: tf.Tensor | int, high: tf.Tensor | int) -> tf.Tensor:
    """A scalar int32 from `low` up to, not including, `high`; `low` itself where nothing lies between."""
    return tf.random.stateless_uniform([], seed, low, tf.maximum(high, low + 1), dtype=tf.int32)


def happens(seed: tf.Tensor, probability: float) -> tf.Tensor:
    """A scalar bool, True with `probability`."""
    return tf.random.stateless_uniform([], seed) < probability


def choose(condition: tf.Tensor, if_true: Callable[[], Example], if_false: Callable[[], Example]) -> Example:
    """`tf.cond` for examples; both branches have the same optional fields."""
    return switch(tf.cast(condition, tf.int32), [if_false, if_true])


def switch(index: tf.Tensor, branches: Sequence[Callable[[], Example]]) -> Example:
    """The example that branch number `index` makes; all branches have the same optional fields."""
    results: list[Example] = []

    def tensors_of(branch: Callable[[], Example]) -> list[tf.Tensor]:
        results.append(branch())
        return without_none(results[-1])

    chosen = tf.switch_case(index, [lambda branch=branch: tensors_of(branch) for branch in branches])
    return with_none(chosen, like=results[0])


def move_into_window(
    objects: Objects, window: tf.Tensor, *, overlap_thresh: float = 0.0, clip_boxes: bool = True
) -> Objects:
    """Expresses boxes in the frame of `window` [4] (normalized), without those that lie too little inside it."""
    inside = box_ops.pairwise_ioa(objects.boxes, window[tf.newaxis])[:, 0]
    # A box that only touches the window goes even if the threshold is 0.
    objects = objects.select((inside > 0) & (inside >= overlap_thresh))
    boxes = box_ops.change_frame(objects.boxes, window)
    return objects._replace(boxes=tf.clip_by_value(boxes, 0.0, 1.0) if clip_boxes else boxes)
