"""Whatever a record says, it is refused in words, or decoded to boxes that can train."""

from __future__ import annotations

import functools
import io
import math

import numpy as np
import pytest
import tensorflow as tf
from fuzz_support import cases, changed_bytes
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from object_detection_fpn.data import decoder, failures
from object_detection_fpn.data.context import ContextDecoding
from object_detection_fpn.data.masks import MaskDecoding


def png(mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (9, 6), 1).save(buffer, "PNG")
    return buffer.getvalue()


BOX = "image/object/bbox/"
GOOD = {
    "image/encoded": [png()],
    "image/source_id": [b"7"],
    "image/height": [6],
    "image/width": [9],
    f"{BOX}ymin": [0.1, 0.2],
    f"{BOX}xmin": [0.1, 0.2],
    f"{BOX}ymax": [0.6, 0.9],
    f"{BOX}xmax": [0.7, 0.9],
    "image/object/class/label": [1, 3],
    "image/object/class/text": [b"a", b"b"],
    "image/object/area": [30.0, 20.0],
    "image/object/is_crowd": [0, 1],
    "image/object/difficult": [0, 0],
    "image/object/group_of": [0, 0],
    "image/object/weight": [1.0, 0.5],
    "image/object/mask": [png("L"), png("L")],
    "image/object/class/multiclass_scores": [0.2] * 6,
    "image/class/label": [1],
    "image/class/text": [b"a"],
    "image/class/confidence": [1.0],
    "image/neg_category_ids": [2],
    "image/not_exhaustive_category_ids": [3],
    "image/additional_channels/encoded": [png("L")],
    "image/context_features": [0.5] * 6,
    "image/context_feature_length": [3],
    "image/context_features_valid_size": [2],
}
FLOATS = (math.nan, math.inf, -math.inf, 0.0, -0.5, 1.0, 1.00001, 3e38, 640.0)
INTEGERS = (0, -1, 1, 2, 4, 2**31, 2**63 - 1, -(2**63))
TEXTS = (b"", b"a", b"unknown", b"\xff", b"x" * 5000, png(), png("L"), png()[:40])


def serialize(values: dict[str, list]) -> bytes:
    example = tf.train.Example()
    for key, items in values.items():
        feature = example.features.feature[key]
        if items and isinstance(items[0], bytes):
            feature.bytes_list.value.extend(items)
        elif items and isinstance(items[0], float):
            feature.float_list.value.extend(items)
        elif items:
            feature.int64_list.value.extend(items)
    return example.SerializeToString()


@st.composite
def changed_values(draw) -> bytes:
    """The record with a few features of another type, number or value, or left out."""
    values = dict(GOOD)
    for _ in range(draw(st.integers(1, 4))):
        key = draw(st.sampled_from(tuple(GOOD)))
        kind = draw(
            st.sampled_from(("drop", "empty", "floats", "integers", "texts", "longer", "shorter", "one", "one"))
        )
        old = values.get(key) or GOOD[key]
        if kind == "drop":
            values.pop(key, None)
        elif kind == "empty":
            values[key] = []
        elif kind in ("longer", "shorter"):
            values[key] = old + old[:1] if kind == "longer" else old[:-1]
        else:
            of_type = {bytes: TEXTS, float: FLOATS, int: INTEGERS}[type(old[0])]
            choices = {"floats": FLOATS, "integers": INTEGERS, "texts": TEXTS}.get(kind, of_type)
            new = draw(st.lists(st.sampled_from(choices), min_size=1, max_size=3))
            values[key] = [*new, *old[len(new) :]] if kind == "one" else new
    return serialize(values)


WAYS = {
    "plain": {},
    "names": {"label_to_id": {"a": 1, "b": 3}},
    "all": {
        "label_to_id": {"a": 1, "b": 3},
        "load_class_scores": True,
        "load_labeled_classes": True,
        "hierarchy": decoder.Hierarchy(np.eye(3, dtype=bool), np.ones([3, 3], bool)),
    },
    "channels": {"num_additional_channels": 1},
    "masks": {"masks": MaskDecoding(kind="png", side=14)},
    "context": {"context": ContextDecoding(max_num=5, length=3)},
}


@pytest.fixture(scope="module")
def decoders():
    """{way: (decoder, compiled once; the same as the Python it is, which explains failures)}."""

    def make(settings):
        decoding = decoder.Decoding(num_classes=3, **settings)
        names = settings.get("label_to_id")
        table = decoder.make_label_table(names) if names else None

        decode = functools.partial(decoder.decode_example, decoding=decoding, label_table=table)
        signature = [tf.TensorSpec([], tf.string)]
        return tf.function(lambda serialized: decode(serialized), input_signature=signature, autograph=False), decode

    return {way: make(settings) for way, settings in WAYS.items()}


@cases(120)
@given(
    data=changed_values() | changed_values() | changed_bytes((serialize(GOOD), serialize({}), png())),
    way=st.sampled_from(tuple(WAYS)),
)
@example(data=b"", way="plain")
@example(data=serialize({"image/source_id": [png()]}), way="plain")  # a name of several lines
@example(data=b"\x12\x01\xff" + serialize(GOOD)[:-1], way="plain")
@example(data=b"\x13\x14" + serialize(GOOD), way="plain")  # protobuf reads it, TensorFlow does not
@example(data=b"\x12\x03abc", way="plain")  # an empty tf.Example, and behind it feature lists that are none
def test_record_is_refused_in_words_or_decoded(data, way, decoders, no_hang):
    no_hang()
    compiled, decode = decoders[way]
    try:
        decoded = compiled(tf.constant(data))
    except (tf.errors.OpError, UnicodeDecodeError):  # the second where a message quotes the record
        message = failures.explain_failure(data, file="a.tfrecord", index=3, decode=decode)
        assert message.startswith("a.tfrecord, record 3"), message
        assert "did not recur" not in message
        assert "\n" not in message
        return
    boxes, classes = decoded.example.objects.boxes.numpy(), decoded.example.objects.classes.numpy()
    assert np.isfinite(boxes).all() and (boxes >= 0).all() and (boxes <= 1).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert ((classes >= 0) & (classes < 3)).all()
    assert np.isfinite(decoded.example.objects.weights).all()
    if way == "context":
        assert np.isfinite(decoded.example.context.features).all()
