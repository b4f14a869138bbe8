"""Errors of the user's data: which file and record, and why."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from object_detection_fpn.data import context, masks
from object_detection_fpn.data.source.examples import PATH_KEY

_MASK_TYPES = (
    " mask_type of the input reader must be what the record has: PNG_MASKS for strings, NUMERICAL_MASKS for floats."
)

_MAX_SHOWN = 100  # characters of a source id in a message


class DataError(ValueError):
    """Data that cannot be used; the message names file or record, and the reason, in one line."""


def name_record(file: str, index: int, source_id: str) -> str:
    """The name of a record in errors and warnings, one line; `index` counts from 0."""
    return f"{file}, record {index}" + (f" (source_id {_printable(source_id)})" if source_id else "")


def _printable(text: str) -> str:
    """Text of a record in one line: cut where it is long, with escapes for what would not be seen."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:_MAX_SHOWN])
    return shown + ("..." if len(text) > _MAX_SHOWN else "")


def error_message(error: tf.errors.OpError) -> str | None:
    """The message with which this pipeline refused its data, without TensorFlow's wrapping; None for any other error."""
    found = re.search(r"assertion failed: \[(.*?)\]\s*(?:\[\[|\[Op:|$)", error.message, re.DOTALL)
    return found and found.group(1).replace("] [", "").replace("\\'", "'").replace('\\"', '"')


def explain_failure(serialized: bytes, *, file: str, index: int, decode: Callable[[tf.Tensor], Any]) -> str:
    """Says in one line which record could not be decoded, and why, by decoding it once more.

    Args:
        serialized: the record that `decode` failed on.
        file: the file it comes from.
        index: its position in the file, from 0.
        decode: `decoder.decode_example` with its settings bound.
    """
    try:
        example = tf.train.Example.FromString(serialized)
    except Exception:  # the protobuf runtimes (upb, C++, Python) raise different classes for malformed bytes
        return f"{name_record(file, index, '')}: {len(serialized):,} bytes that are no serialized tf.Example."
    features = example.features.feature
    source_id = b"".join(features["image/source_id"].bytes_list.value[:1]).decode("utf-8", "replace")
    record = name_record(file, index, source_id)
    if _is_sequence(serialized):
        return (
            f"{record}: is a tf.SequenceExample; write one tf.Example for each of its frames. Where the model has "
            f"context_config, each needs {context.FEATURES_KEY} of its own."
        )
    try:
        decode(tf.constant(serialized))
    except UnicodeDecodeError:  # TensorFlow's parser is stricter than protobuf's, and its message quotes the bytes
        return f"{record}: {len(serialized):,} bytes that are no serialized tf.Example."
    except tf.errors.OpError as error:
        message = error_message(error)
        if message is not None:
            return f"{record}: {message}"
        path = b"".join(features[PATH_KEY].bytes_list.value[:1]).decode("utf-8", "replace")
        if path and (problem := _unusable_file(path)):
            return f"{record}: {problem}"
        reason = _without_places(error)
        if "feature" in reason.lower() or "Key:" in reason:
            return f"{record}: {reason}{_MASK_TYPES if masks.KEY in reason else ''}"
        place, encoded = _find_undecodable(features)
        return (
            f"{record}: {place} ({len(encoded):,} bytes beginning with {encoded[:4].hex(' ')}) does not decode; "
            f"it is truncated, corrupted or of an unknown format. {reason}"
        )
    return f"{record}: could not be decoded the first time, for a reason that did not recur."


def _without_places(error: tf.errors.OpError) -> str:
    """TensorFlow's reason without the names of operations."""
    return re.sub(r"\{\{.*?\}\}|\[Op:.*", "", error.message, flags=re.DOTALL).strip()


def _unusable_file(path: str) -> str | None:
    """Why the image file that a record names cannot be used; None if it can."""
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            encoded = file.read()
    except tf.errors.OpError as error:
        return f"{path} cannot be read ({error.message})."
    try:
        tf.io.decode_image(encoded)
    except tf.errors.OpError as error:
        kinds = "it is truncated, corrupted or of an unknown format"
        return f"{path} ({len(encoded):,} bytes) does not decode; {kinds}. {_without_places(error)}"
    return None


def _is_sequence(serialized: bytes) -> bool:
    """Whether a record is a tf.SequenceExample, which is a tf.Example with something behind it."""
    try:
        return bool(tf.train.SequenceExample.FromString(serialized).feature_lists.feature_list)
    except Exception:  # as for a tf.Example
        return False


def _find_undecodable(features: Mapping[str, Any]) -> tuple[str, bytes]:
    """Which of the files in a record does not decode, and the file; the image if all of them do."""
    image = b"".join(features["image/encoded"].bytes_list.value[:1])
    places = {"image/encoded": image}
    for key in ("image/additional_channels/encoded", masks.KEY):
        places |= {f"{key}: file {i}": value for i, value in enumerate(features[key].bytes_list.value) if value}
    for place, encoded in places.items():
        try:
            tf.io.decode_image(encoded)
        except tf.errors.OpError:
            return place, encoded
    return "image/encoded", image
