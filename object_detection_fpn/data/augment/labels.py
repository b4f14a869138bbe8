"""Augmentations that change objects and leave pixels alone, with the Object Detection API's parameters.

Every function takes an `Example` and `seed`, [2] int32, from which alone its random choices follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import tensorflow as tf

from object_detection_fpn.data.example import Example

JitterMode = Literal[
    "default",
    "expand",
    "shrink",
    "expand_symmetric",
    "shrink_symmetric",
    "expand_symmetric_xy",
    "shrink_symmetric_xy",
]


def random_jitter_boxes(
    example: Example, *, seed: tf.Tensor, ratio: float = 0.05, jitter_mode: JitterMode = "default"
) -> Example:
    """Moves the sides of boxes, which stay inside the image.

    Args:
        example: image and objects.
        seed: [2] int32.
        ratio: the height and width that a side belongs to change by at most this share; it moves by half of that.
        jitter_mode: "expand" moves sides outwards only, "shrink" inwards only, "default" either way. "..._symmetric" keeps
            the centre, "..._symmetric_xy" the aspect ratio too; such a box grows no further than its centre allows.

    Raises:
        ValueError: if the mode is unknown.
    """
    if jitter_mode not in get_args(JitterMode):
        raise ValueError(f'jitter_mode = "{jitter_mode}" is unknown. Allowed: {", ".join(get_args(JitterMode))}.')
    boxes = example.objects.boxes
    size, centre = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2.0  # each [N, 2]
    low = 0.0 if jitter_mode.startswith("expand") else -ratio
    high = 0.0 if jitter_mode.startswith("shrink") else ratio
    # [N, 4]: how many times as far from the centre each side comes to lie
    factors = 1.0 + low + (high - low) * tf.random.stateless_uniform(tf.shape(boxes), seed)
    if jitter_mode.endswith(("symmetric", "symmetric_xy")):
        room = tf.math.divide_no_nan(2.0 * tf.minimum(centre, 1.0 - centre), size)
        both = factors[:, :2]
        if jitter_mode.endswith("xy"):
            both, room = factors[:, :1], tf.reduce_min(room, axis=1, keepdims=True)
        both = tf.minimum(both, room) * tf.ones_like(size)
        factors = tf.concat([both, both], axis=1)
    half = size / 2.0
    boxes = tf.concat([centre - half * factors[:, :2], centre + half * factors[:, 2:]], axis=1)
    return example._replace(objects=example.objects._replace(boxes=tf.clip_by_value(boxes, 0.0, 1.0)))


def drop_label_probabilistically(
    example: Example, *, seed: tf.Tensor, label: int, drop_probability: float = 1.0
) -> Example:
    """Drops each object of one class with a probability.

    Args:
        example: image and objects.
        seed: [2] int32.
        label: class id of the label map, from 1.
        drop_probability: of each object.
    """
    is_spared = tf.random.stateless_uniform(tf.shape(example.objects.classes), seed) >= drop_probability
    return example._replace(objects=example.objects.select(is_spared | (example.objects.classes != label - 1)))


def remap_labels(example: Example, *, seed: tf.Tensor, original_labels: Sequence[int], new_label: int) -> Example:
    """Gives objects of several classes one class; multiclass scores of the old classes are added to the new one's.

    Args:
        example: image and objects.
        seed: not used: nothing here is random.
        original_labels: class ids of the label map, from 1, that are replaced.
        new_label: class id that replaces them.
    """
    objects = example.objects
    is_old = tf.reduce_any(objects.classes[:, tf.newaxis] == tf.constant(original_labels) - 1, axis=-1)
    objects = objects._replace(classes=tf.where(is_old, new_label - 1, objects.classes))
    if objects.class_scores is not None:
        ids = tf.range(tf.shape(objects.class_scores)[1])  # as in the label map: column 0 is background
        is_moved = tf.reduce_any(ids[:, tf.newaxis] == tf.constant(original_labels), axis=-1)
        targets = tf.one_hot(tf.where(is_moved, new_label, ids), tf.shape(ids)[0])  # [C+1, C+1]
        objects = objects._replace(class_scores=tf.matmul(objects.class_scores, targets))
    return example._replace(objects=objects)


def convert_class_logits_to_softmax(example: Example, *, seed: tf.Tensor, temperature: float = 1.0) -> Example:
    """Turns the multiclass scores of the records from logits into probabilities.

    Args:
        example: image and objects, with `class_scores`.
        seed: not used: nothing here is random.
        temperature: logits are divided by this first; above 1 makes the probabilities more even.

    Raises:
        ValueError: if multiclass scores are not read.
    """
    logits = example.objects.class_scores
    if logits is None:
        raise ValueError("convert_class_logits_to_softmax needs multiclass scores: set load_multiclass_scores: true.")
    return example._replace(objects=example.objects._replace(class_scores=tf.nn.softmax(logits / temperature)))
