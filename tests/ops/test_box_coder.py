from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from object_detection_fpn.ops import box_coder


def _boxes(num: int):
    corner, side = st.floats(-100.0, 600.0, width=32), st.floats(4.0, 200.0, width=32)
    box = st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
    return st.lists(box, min_size=num, max_size=num).map(lambda rows: np.array(rows, np.float32))


@pytest.mark.parametrize(
    "box, deltas",
    [
        ((0, 0, 10, 20), (0, 0, 0, 0)),
        ((5, 0, 15, 20), (0.5, 0, 0, 0)),  # shifts are in sides of the anchor
        ((0, 10, 10, 30), (0, 0.5, 0, 0)),
        ((-5, 0, 15, 20), (0, 0, np.log(2), 0)),
        ((0, -10, 10, 30), (0, 0, 0, np.log(2))),
    ],
)
def test_deltas_of_worked_cases(box, deltas):
    box, anchor = tf.constant(box, tf.float32), tf.constant([0.0, 0.0, 10.0, 20.0])
    np.testing.assert_allclose(box_coder.encode(box, anchor, scales=(1, 1, 1, 1)), deltas, atol=1e-6)
    np.testing.assert_allclose(box_coder.encode(box, anchor), np.array(deltas) * (10, 10, 5, 5), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(boxes=_boxes(4), anchors=_boxes(4))
def test_decode_inverts_encode(boxes, anchors):
    np.testing.assert_allclose(box_coder.decode(box_coder.encode(boxes, anchors), anchors), boxes, rtol=1e-4, atol=2e-2)


def test_empty_boxes_and_anchors_encode_to_finite_numbers():
    rows = tf.constant([[0.0, 0.0, 0.0, 0.0], [5.0, 5.0, 5.0, 9.0], [3.0, 3.0, 1.0, 1.0], [0.0, 0.0, 10.0, 10.0]])
    deltas = box_coder.encode(rows[:, tf.newaxis], rows[tf.newaxis])
    assert deltas.shape == (4, 4, 4)
    assert np.all(np.isfinite(deltas))


def test_decode_never_overflows():
    anchors = tf.constant([[0.0, 0.0, 16.0, 16.0]])
    boxes = box_coder.decode(tf.constant([[0.0, 0.0, 1e4, -1e4]]), anchors)
    np.testing.assert_allclose(boxes, [[8 - 500, 8, 8 + 500, 8]], rtol=1e-5)


def test_boxes_below_the_limit_are_not_changed_by_it():
    anchors, boxes = tf.constant([[492.0, 492.0, 508.0, 508.0]]), tf.constant([[1.0, 1.0, 999.0, 999.0]])
    np.testing.assert_allclose(box_coder.decode(box_coder.encode(boxes, anchors), anchors), boxes, rtol=1e-4)


def test_deltas_of_several_classes_share_their_anchor():
    deltas = tf.random.normal([2, 5, 3, 4])
    anchors = tf.constant(np.tile([10.0, 10.0, 50.0, 60.0], (2, 5, 1, 1)), tf.float32)
    decoded = box_coder.decode(deltas, anchors)
    assert decoded.shape == (2, 5, 3, 4)
    np.testing.assert_array_equal(decoded[:, :, 1], box_coder.decode(deltas[:, :, 1], anchors[:, :, 0]))


@pytest.mark.parametrize("library", ["torchvision", "detectron2"])
@pytest.mark.parametrize("stage, scales", [("rpn", (1.0, 1.0, 1.0, 1.0)), ("head", (10.0, 10.0, 5.0, 5.0))])
def test_boxes_are_encoded_and_decoded_as_in_other_libraries(golden_dir, library, stage, scales):
    golden = np.load(golden_dir / "pytorch/box_coder.npz")
    coder = box_coder.BoxCoder(scales=scales)
    boxes, yx = golden["boxes"][:, [1, 0, 3, 2]], [1, 0, 3, 2]
    decoded = coder.decode(golden["deltas"].reshape(-1, 2, 4)[..., yx], boxes[:, np.newaxis])
    expected = golden[f"{library}_decode_{stage}"].reshape(-1, 2, 4)[..., yx]
    np.testing.assert_allclose(decoded, expected, rtol=1e-4, atol=1e-4)
    encoded = coder.encode(golden["targets"][3:, yx], boxes[3:])
    np.testing.assert_allclose(encoded, golden[f"{library}_encode_{stage}"][:, yx], rtol=1e-4, atol=1e-4)


def test_a_decoded_box_is_not_larger_than_its_ratio_allows():
    anchors = tf.constant([[0.0, 0.0, 10.0, 20.0]])
    coder = box_coder.BoxCoder(scales=(1.0, 1.0, 1.0, 1.0), max_size_ratio=3.0)
    boxes = coder.decode(tf.constant([[0.0, 0.0, np.log(4.0), np.log(2.0)]]), anchors)
    np.testing.assert_allclose(boxes, [[5 - 15, 10 - 20, 5 + 15, 10 + 20]], rtol=1e-5)
