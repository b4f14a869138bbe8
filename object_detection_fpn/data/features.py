"""Values of one parsed record, checked against each other; a contradiction is refused.

Shape letters: N objects of the image, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

SCORES_KEY = "image/object/class/multiclass_scores"


class Hierarchy(NamedTuple):
    """Which classes are kinds of which, from the label map."""

    ancestors: np.ndarray
    """[C, C] bool: class j is class i or one that i belongs to."""
    descendants: np.ndarray
    """[C, C] bool: class j is class i or one that belongs to i."""


def names_of(parsed: Mapping[str, tf.Tensor], prefix: str, num: tf.Tensor) -> tf.Tensor:
    """[N] string, empty where the record has no names."""
    names = parsed[f"{prefix}text"]
    return tf.pad(names, [[0, tf.maximum(num - tf.shape(names)[0], 0)]], constant_values="")[:num]


def decode_classes(
    parsed: Mapping[str, tf.Tensor],
    num_boxes: tf.Tensor,
    num_classes: int,
    label_table: tf.lookup.StaticHashTable | None,
) -> tf.Tensor:
    """[N] int32, 0-based; -1 for names that are not in the table."""
    ids, is_known, key = _ids_of(parsed, "image/object/class/", label_table)
    found = tf.shape(ids)[0]
    require(found == num_boxes, key, " has ", found, " values for ", num_boxes, " boxes.")
    wrong = tf.boolean_mask(ids, is_known & ((ids < 1) | (ids > num_classes)))
    require(
        tf.shape(wrong)[0] == 0, key, " gives class id ", wrong[:1], f". Allowed: 1 to {num_classes} (num_classes)."
    )
    return tf.cast(tf.where(is_known, ids - 1, -1), tf.int32)


def _ids_of(
    parsed: Mapping[str, tf.Tensor], prefix: str, label_table: tf.lookup.StaticHashTable | None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """1-based class ids [N] int64 by name or by number, which of them are known [N] bool, and the key they come from."""
    ids, key = parsed[f"{prefix}label"], tf.constant(f"{prefix}label")
    is_known = tf.ones_like(ids, tf.bool)
    if label_table is not None:
        names = parsed[f"{prefix}text"]
        has_names = tf.shape(names)[0] > 0
        ids_of_names = label_table.lookup(names)
        ids = tf.cond(has_names, lambda: ids_of_names, lambda: ids)
        is_known = tf.cond(has_names, lambda: ids_of_names != -1, lambda: is_known)
        key = tf.where(has_names, f"{prefix}text", key)
    return ids, is_known, key


def decode_labeled_classes(
    parsed: Mapping[str, tf.Tensor],
    num_classes: int,
    label_table: tf.lookup.StaticHashTable | None,
    hierarchy: Hierarchy | None,
) -> tf.Tensor:
    """[C] bool, of the labels of the image, and of the classes that LVIS says were looked for and not found.

    Labels of classes that the model does not have are left out.
    """
    ids, _, key = _ids_of(parsed, "image/class/", label_table)
    of_labels = tf.one_hot(ids - 1, num_classes, on_value=True, off_value=False)  # [N, C], no class for other ids
    if hierarchy is not None:
        confidences, num_labels = parsed["image/class/confidence"], tf.shape(ids)[0]
        found = tf.shape(confidences)[0]
        require(
            (found == num_labels) | (found == 0),
            "image/class/confidence has ", found, " values, ", key, " has ", num_labels, ".",
        )  # fmt: skip
        confidences = tf.pad(confidences, [[0, tf.maximum(num_labels - found, 0)]], constant_values=1.0)
        for relation, confidence in ((hierarchy.ancestors, 1.0), (hierarchy.descendants, 0.0)):
            is_meant = tf.reduce_any(of_labels & (confidences == confidence)[:, tf.newaxis], axis=0)
            of_labels = tf.concat([of_labels, relation & is_meant[:, tf.newaxis]], axis=0)
            confidences = tf.pad(confidences, [[0, num_classes]], constant_values=-1.0)  # what was added stays as it is
    return tf.reduce_any(of_labels, axis=0) | decode_ids(parsed["image/neg_category_ids"], num_classes)


def decode_ids(ids: tf.Tensor, num_classes: int) -> tf.Tensor:
    """1-based ids [N] -> [C] bool; those of no class of the model are left out."""
    return tf.reduce_any(tf.one_hot(ids - 1, num_classes, on_value=True, off_value=False), axis=0)


def decode_class_scores(parsed: Mapping[str, tf.Tensor], num_boxes: tf.Tensor, num_classes: int) -> tf.Tensor:
    """[N, C+1] float32, zeros for a record without scores."""
    scores = parsed[SCORES_KEY]
    found, expected = tf.shape(scores)[0], num_boxes * num_classes
    require(
        (found == 0) | (found == expected) | (found == expected + num_boxes),
        SCORES_KEY, " has ", found, " values for ", num_boxes,
        f" boxes; num_classes = {num_classes} values a box expected, or one more with the background first.",
    )  # fmt: skip
    num_columns = tf.where(found == expected, num_classes, num_classes + 1)
    rows = tf.reshape(tf.pad(scores, [[0, tf.where(found == 0, num_boxes * num_columns, 0)]]), [num_boxes, num_columns])
    return tf.ensure_shape(tf.pad(rows, [[0, 0], [num_classes + 1 - num_columns, 0]]), [None, num_classes + 1])


def decode_weights(parsed: Mapping[str, tf.Tensor], num_boxes: tf.Tensor) -> tf.Tensor:
    """[N] float32, 1 for a record without weights."""
    weights = per_box(parsed, "image/object/weight", num_boxes, default=1)
    wrong = tf.boolean_mask(weights, ~((weights >= 0) & tf.math.is_finite(weights)))
    require(
        tf.shape(wrong)[0] == 0,
        "image/object/weight is ",
        tf.strings.as_string(wrong[:1], shortest=True),
        ". Allowed: 0 and above.",
    )
    return weights


def per_box(parsed: Mapping[str, tf.Tensor], key: str, num_boxes: tf.Tensor, *, default: int = 0) -> tf.Tensor:
    """[N]: the values under `key`, or `default` for every box of a record that does not carry the key."""
    values = parsed[key]
    found = tf.shape(values)[0]
    require((found == num_boxes) | (found == 0), key, " has ", found, " values for ", num_boxes, " boxes.")
    return tf.pad(values, [[0, tf.maximum(num_boxes - found, 0)]], constant_values=default)


def require(condition: tf.Tensor, *message: str | tf.Tensor) -> None:
    """Fails with `message` (strings, and scalar or short integer tensors) unless `condition` holds."""
    # The raw op: tf.debugging.Assert has another message in eager mode, and joining its parts beforehand would cost every
    # image what only a bad one needs. `failures.error_message` joins them.
    tf.raw_ops.Assert(condition=condition, data=[tf.convert_to_tensor(part) for part in message], summarize=10)
