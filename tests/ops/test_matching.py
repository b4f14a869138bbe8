from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops import matching

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

_RPN = {"matched_threshold": 0.7, "unmatched_threshold": 0.3, "force_match": True}
_HEAD = {"matched_threshold": 0.5, "unmatched_threshold": 0.5, "force_match": False}
_TIES = {**_RPN, "match_ties": True}
_FAR = {**_HEAD, "min_background_iou": 0.1}


def _reference(
    similarity,
    is_real,
    is_valid,
    *,
    matched_threshold,
    unmatched_threshold,
    force_match,
    match_ties=False,
    min_background_iou=0.0,
    may_force=None,
):
    """One image, in plain loops."""
    num_anchors, num_gt = similarity.shape
    matches, rows = np.full(num_anchors, -1), np.full(num_anchors, -1)
    for anchor in range(num_anchors):
        best, row = -1.0, -1
        for gt in range(num_gt):
            if is_real[gt] and similarity[anchor, gt] > best:
                best, row = similarity[anchor, gt], gt
        rows[anchor] = row
        if best >= matched_threshold:
            matches[anchor] = row
        elif best >= unmatched_threshold or max(best, 0.0) < min_background_iou:
            matches[anchor] = -2
    if force_match and is_valid.any():
        for gt in reversed(range(num_gt)):  # so that the first of several wins
            if is_real[gt] and (may_force is None or may_force[gt]):
                overlap = np.where(is_valid, similarity[:, gt], -1.0)
                if not match_ties:
                    matches[np.argmax(overlap)] = gt
                elif overlap.max() > 0.0:
                    matches = np.where(overlap == overlap.max(), rows, matches)
    matches[~is_valid] = -2
    return matches


def _random_boxes(rng, shape):
    corner, side = rng.integers(0, 20, (*shape, 2)), rng.integers(1, 20, (*shape, 2))  # integers, so that ties happen
    return np.concatenate([corner, corner + side], axis=-1).astype(np.float32)


@pytest.mark.parametrize("name, thresholds", [("proposal", _RPN), ("detection", _HEAD)])
@pytest.mark.parametrize("num_padding", [0, 5])
@pytest.mark.parametrize("jit", [False, True])
def test_agrees_with_golden(golden_dir, name, thresholds, num_padding, jit):
    golden = np.load(golden_dir / f"ops/targets_{name}.npz")
    gt_boxes = np.pad(golden["groundtruth_boxes"], ((0, num_padding), (0, 0)))[np.newaxis]
    is_real = (np.arange(gt_boxes.shape[1]) < len(golden["groundtruth_boxes"]))[np.newaxis]

    @tf.function(jit_compile=jit, autograph=False)
    def run(anchors, gt_boxes, is_real):
        return matching.match_boxes(anchors, gt_boxes, gt_is_real=is_real, static=jit, **thresholds)

    matches = run(golden["anchors"][np.newaxis], gt_boxes, is_real)
    np.testing.assert_array_equal(matches[0], golden["match"])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    thresholds=st.sampled_from([_RPN, _HEAD, _TIES, _FAR]),
    num_gt=st.sampled_from([1, 3, 4, 9]),
)
def test_follows_the_rules_written_as_loops(seed, thresholds, num_gt):
    rng = np.random.default_rng(seed)
    boxes, gt_boxes = _random_boxes(rng, (2, 40)), _random_boxes(rng, (2, num_gt))
    gt_boxes[:, -1] = gt_boxes[:, 0]  # a duplicate: ties go to the first
    is_real, is_valid = rng.random((2, num_gt)) < 0.7, rng.random((2, 40)) < 0.7
    similarity = box_ops.pairwise_iou(boxes, gt_boxes).numpy()
    expected = [_reference(similarity[image], is_real[image], is_valid[image], **thresholds) for image in range(2)]
    for static in (False, True):
        matches = matching.match_boxes(
            boxes,
            tf.constant(gt_boxes),
            gt_is_real=is_real,
            is_valid=is_valid,
            static=static,
            **thresholds,
        )
        np.testing.assert_array_equal(matches, expected)


@pytest.mark.parametrize("thresholds", [_RPN, _HEAD, _TIES, _FAR])
@pytest.mark.parametrize("num_gt", [1, 9])
def test_compiled_by_xla_it_follows_the_same_rules(thresholds, num_gt):
    rng = np.random.default_rng(num_gt)
    boxes, gt_boxes = _random_boxes(rng, (1, 60)), _random_boxes(rng, (3, num_gt))
    boxes[0, :2], gt_boxes[:, -1] = [[0, 0, 10, 10], [0, 0, 3, 10]], [0, 0, 10, 7]  # IoU .7 and 3/7
    is_real, is_valid, may_force = (rng.random(shape) < 0.7 for shape in ((3, num_gt), (1, 60), (3, num_gt)))

    def run(boxes, gt_boxes, is_real, is_valid, may_force, static=True):
        return matching.match_boxes(
            boxes, gt_boxes, gt_is_real=is_real, is_valid=is_valid, may_force=may_force, static=static, **thresholds
        )

    args = [tf.constant(values) for values in (boxes, gt_boxes, is_real, is_valid, may_force)]
    expected = run(*args, static=False)
    np.testing.assert_array_equal(tf.function(run, jit_compile=True, autograph=False)(*args), expected)
    similarity = box_ops.pairwise_iou(boxes, gt_boxes).numpy()
    for image in range(3):
        wanted = _reference(similarity[image], is_real[image], is_valid[0], may_force=may_force[image], **thresholds)
        np.testing.assert_array_equal(expected[image], wanted)


def test_rows_that_may_not_force_still_match_what_they_overlap():
    boxes = tf.constant([[[0.0, 0, 10, 10], [50, 50, 60, 60], [0, 20, 10, 30]]])
    gt_boxes = tf.constant([[[0.0, 0, 10, 5], [0, 0, 10, 4], [50, 50, 60, 59]]])
    may_force = tf.constant([[False, True, False]])
    matches = matching.match_boxes(boxes, gt_boxes, gt_is_real=tf.constant([[True] * 3]), may_force=may_force, **_RPN)
    np.testing.assert_array_equal(matches, [[1, 2, -1]])


@pytest.mark.parametrize("thresholds", [_RPN, _HEAD])
def test_padding_never_matches(thresholds):
    boxes = tf.constant([[[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 4.0, 4.0], [9.0, 9.0, 12.0, 12.0]]])
    gt_boxes = tf.constant([[[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 0.0, 0.0], [9.0, 9.0, 12.0, 12.0]]])
    matches = matching.match_boxes(boxes, gt_boxes, gt_is_real=tf.constant([[True, False, False]]), **thresholds)
    np.testing.assert_array_equal(matches, [[-1, 0, -1]])


@pytest.mark.parametrize("num_gt", [1, 6])
def test_without_real_groundtruth_all_is_background(num_gt):
    boxes = tf.constant([[[0.0, 0.0, 4.0, 4.0]] * 3])
    matches = matching.match_boxes(boxes, tf.ones([2, num_gt, 4]), gt_is_real=tf.zeros([2, num_gt], tf.bool), **_RPN)
    np.testing.assert_array_equal(matches, [[-1, -1, -1]] * 2)


def test_without_groundtruth_rows_all_is_background():
    boxes = tf.constant([[[0.0, 0.0, 4.0, 4.0]] * 3])
    matches = matching.match_boxes(boxes, tf.zeros([2, 0, 4]), gt_is_real=tf.zeros([2, 0], tf.bool), **_RPN)
    np.testing.assert_array_equal(matches, [[-1, -1, -1]] * 2)


@pytest.mark.parametrize(
    "name, thresholds",
    [
        ("rpn", _TIES),
        ("retinanet", {**_TIES, "matched_threshold": 0.5, "unmatched_threshold": 0.4}),
        ("roi", _HEAD),
    ],
)
@pytest.mark.parametrize("jit", [False, True])
def test_matches_are_those_of_other_libraries(golden_dir, name, thresholds, jit):
    golden = np.load(golden_dir / "pytorch/matcher.npz")
    anchors, gt_boxes = (golden[key][np.newaxis][..., [1, 0, 3, 2]] for key in ("anchors", "gt"))

    @tf.function(jit_compile=jit, autograph=False)
    def run(anchors, gt_boxes):
        is_real = tf.ones([1, gt_boxes.shape[1]], tf.bool)
        return matching.match_boxes(anchors, gt_boxes, gt_is_real=is_real, static=jit, **thresholds)

    np.testing.assert_array_equal(run(anchors, gt_boxes)[0], golden[f"{name}_torchvision"])


def test_anchors_that_tie_keep_the_groundtruth_that_they_overlap_most():
    boxes = tf.constant([[[0.0, 0, 10, 10], [0, 20, 10, 30], [0, 50, 10, 60], [90, 90, 99, 99]]])
    # The first overlaps two anchors alike, by 0.2 and by 0.2; the second overlaps one of these more; the third none.
    gt_boxes = tf.constant([[[0.0, 8, 10, 22], [0, 21, 10, 30], [50, 50, 60, 60], [0, 58, 1, 60]]])
    may_force = tf.constant([[True, True, True, False]])
    is_real = tf.ones([1, 4], tf.bool)
    for static in (False, True):
        matches = matching.match_boxes(boxes, gt_boxes, gt_is_real=is_real, may_force=may_force, static=static, **_TIES)
        np.testing.assert_array_equal(matches, [[0, 1, -1, -1]])


def test_first_groundtruth_wins_an_anchor_that_several_force():
    boxes = tf.constant([[[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]]])
    gt_boxes = tf.constant([[[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 10.0, 3.0]]])
    matches = matching.match_boxes(boxes, gt_boxes, gt_is_real=tf.constant([[True, True]]), **_RPN)
    np.testing.assert_array_equal(matches, [[0, -1]])


def test_invalid_anchors_are_ignored_and_never_forced():
    boxes = tf.constant([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 3.0, 3.0]]])
    gt_boxes = tf.constant([[[0.0, 0.0, 10.0, 10.0]]] * 2)
    is_valid = tf.constant([[False, False, True], [False, False, False]])
    matches = matching.match_boxes(boxes, gt_boxes, gt_is_real=tf.constant([[True]] * 2), is_valid=is_valid, **_RPN)
    np.testing.assert_array_equal(matches, [[-2, -2, 0], [-2, -2, -2]])


def test_real_groundtruth_after_padding_is_found():
    boxes = tf.constant([[[0.0, 0.0, 4.0, 4.0]]])
    gt_boxes, is_real = np.zeros((1, 11, 4), np.float32), np.zeros((1, 11), bool)
    gt_boxes[0, 10], is_real[0, 10] = [0, 0, 4, 4], True
    np.testing.assert_array_equal(matching.match_boxes(boxes, gt_boxes, gt_is_real=is_real, **_RPN), [[10]])


def test_unknown_shapes_are_taken():
    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, 4]),
            tf.TensorSpec([None, None, 4]),
            tf.TensorSpec([None, None], tf.bool),
        ],
        autograph=False,
    )
    def run(boxes, gt_boxes, is_real):
        return matching.match_boxes(boxes, gt_boxes, gt_is_real=is_real, **_RPN)

    rng = np.random.default_rng(0)
    boxes, gt_boxes, is_real = _random_boxes(rng, (1, 30)), _random_boxes(rng, (3, 5)), np.ones((3, 5), bool)
    np.testing.assert_array_equal(
        run(boxes, gt_boxes, is_real), matching.match_boxes(boxes, gt_boxes, gt_is_real=is_real, **_RPN)
    )


def test_program_does_not_grow_with_the_batch():
    def num_lines(batch):
        run = tf.function(
            lambda b, g, r: matching.match_boxes(b, g, gt_is_real=r, static=True, **_RPN),
            jit_compile=True,
            autograph=False,
        )
        args = tf.zeros([1, 50, 4]), tf.zeros([batch, 20, 4]), tf.zeros([batch, 20], tf.bool)
        return len(run.experimental_get_compiler_ir(*args)(stage="hlo").splitlines())

    assert num_lines(2) == num_lines(7)


def test_covered_share_is_that_of_the_best_real_region():
    boxes = tf.constant([[[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 0.0, 0.0], [20.0, 20.0, 24.0, 24.0]]])
    regions = tf.constant([[[0.0, 0.0, 2.0, 50.0], [0.0, 0.0, 3.0, 50.0], [0.0, 0.0, 50.0, 50.0]]] * 2)
    is_real = tf.constant([[True, True, False], [False, False, False]])
    for static in (False, True):
        share = matching.covered_share(boxes, regions, is_real=is_real, static=static)
        np.testing.assert_allclose(share, [[0.75, 0, 0], [0, 0, 0]])


def test_unmatched_threshold_above_matched_threshold_is_refused():
    with pytest.raises(ValueError, match=r"unmatched_threshold = 0.6 exceeds matched_threshold = 0.5"):
        matching.match_boxes(
            tf.zeros([1, 1, 4]),
            tf.zeros([1, 1, 4]),
            gt_is_real=tf.zeros([1, 1], tf.bool),
            matched_threshold=0.5,
            unmatched_threshold=0.6,
            force_match=False,
        )
