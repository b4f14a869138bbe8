"""The context features of a record: what a detector saw in other images of the same camera (Context R-CNN).

Shape letters: N context features of the record, M rows of context, F numbers of a feature.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import tensorflow as tf

from object_detection_fpn.data import features
from object_detection_fpn.records import Context

FEATURES_KEY = "image/context_features"
LENGTH_KEY = "image/context_feature_length"

_MISSING = -1  # what stands for a length that the record has not


@dataclasses.dataclass(frozen=True)
class ContextDecoding:
    """What is read of the context of a record."""

    max_num: int = 2000
    """M; further features of a record are cut and counted. Configs call it `max_num_context_features`."""
    length: int = 2057
    """F, of every record. Configs call it `context_feature_length`."""

    def features(self) -> dict[str, tf.io.FixedLenFeature | tf.io.RaggedFeature]:
        """How the two keys are parsed."""
        return {
            FEATURES_KEY: tf.io.RaggedFeature(tf.float32),
            LENGTH_KEY: tf.io.FixedLenFeature([], tf.int64, _MISSING),
        }


def decode_context(parsed: Mapping[str, tf.Tensor], decoding: ContextDecoding) -> tuple[Context, tf.Tensor]:
    """Reads the context features of a record, stored one after the other, and pads them with zeros.

    A record with a length and no features has an empty context.

    Args:
        parsed: the record, with the keys of `decoding.features()`.
        decoding: what to read.

    Returns:
        A `Context` of one image, [M, F] and a scalar, and a scalar bool: features were cut.

    Raises:
        tf.errors.InvalidArgumentError: if the record has no context, or features of another length, or a number is NaN or
            infinite. The message gives the reason.
    """
    values, length = parsed[FEATURES_KEY], parsed[LENGTH_KEY]
    num_values = tf.shape(values)[0]
    is_missing = length == _MISSING
    features.require(
        ~is_missing | (num_values > 0),
        f"has no {FEATURES_KEY} and no {LENGTH_KEY}, which a model with context_config needs; a record of an image without "
        "context has the second alone.",
    )
    features.require(
        ~is_missing, f"{LENGTH_KEY} is missing beside the ", num_values, f" numbers of {FEATURES_KEY}."
    )  # fmt: skip
    features.require(
        length == decoding.length,
        f"{LENGTH_KEY} is ", length, f", context_config.context_feature_length is {decoding.length}: they must be equal.",
    )  # fmt: skip
    features.require(
        num_values % decoding.length == 0,
        f"{FEATURES_KEY} has ", num_values, f" numbers, which are no multiple of {LENGTH_KEY} = {decoding.length}.",
    )  # fmt: skip
    num_found = num_values // decoding.length
    num_kept = tf.minimum(num_found, decoding.max_num)
    kept = values[: num_kept * decoding.length]
    is_finite = tf.math.is_finite(kept)
    features.require(
        tf.reduce_all(is_finite),
        f"{FEATURES_KEY} has a number that is NaN or infinite, at position ", tf.where(~is_finite)[:1, 0], ".",
    )  # fmt: skip
    padded = tf.pad(kept, [[0, (decoding.max_num - num_kept) * decoding.length]])
    rows = tf.reshape(padded, [decoding.max_num, decoding.length])
    return Context(features=rows, num_features=num_kept), num_found > num_kept
