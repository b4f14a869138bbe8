"""Which groundtruth each anchor or RoI answers for, and which of them train."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from object_detection_fpn.modeling import targets
from object_detection_fpn.modeling.heads import rpn
from object_detection_fpn.ops import anchors as anchor_ops
from object_detection_fpn.ops import box_coder, losses
from object_detection_fpn.records import Proposals, RpnOutputs

LOG2 = 5 * np.log(2)  # a side twice as long, times the coder's scale
SEED = tf.constant([3, 4])

CAT = (0, 0, 10, 10)
DOG = (40, 40, 50, 50)
# (box, IoU with CAT or DOG)
SAME = (0, 0, 10, 10)  # 1
MOST = (0, 0, 10, 8)  # 0.8
HALF = (0, 0, 10, 5)  # 0.5
FIFTH = (0, 0, 10, 2)  # 0.2
NEAR_DOG = (40, 45, 50, 55)  # 1/3, the most that DOG gets
FAR = (80, 80, 90, 90)  # 0


def match(groundtruth, boxes, **settings):
    settings = {"matched_threshold": 0.7, "unmatched_threshold": 0.3, "force_match": True, **settings}
    return targets.match(tf.constant([boxes], tf.float32), groundtruth, **settings).numpy()[0].tolist()


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, [0, 0, -2, -1, 1, -1]),
        ({"force_match": False}, [0, 0, -2, -1, -2, -1]),
        ({"matched_threshold": 0.5, "unmatched_threshold": 0.5, "force_match": False}, [0, 0, 0, -1, -1, -1]),
        ({"is_valid": tf.constant([[False, True, True, True, False, True]])}, [-2, 0, -2, -1, -2, -1]),
        (
            {"is_valid": tf.constant([[False, False, False, True, False, True]])},
            [-2, -2, -2, 0, -2, -1],
        ),  # best valid one
    ],
)
def test_matches_follow_the_thresholds(make_groundtruth, settings, expected):
    groundtruth = make_groundtruth([{"box": CAT}, {"box": DOG}])
    assert match(groundtruth, [SAME, MOST, HALF, FIFTH, NEAR_DOG, FAR], **settings) == expected


def test_without_groundtruth_everything_is_background(make_groundtruth):
    groundtruth = make_groundtruth([], [{"box": CAT}])
    boxes = tf.constant([[SAME, FAR]], tf.float32)
    result = targets.match(boxes, groundtruth, matched_threshold=0.7, unmatched_threshold=0.3, force_match=True)
    np.testing.assert_array_equal(result, [[-1, -1], [0, -1]])


def test_padding_rows_are_not_groundtruth(make_groundtruth):
    groundtruth = make_groundtruth([{"box": DOG}, {"box": CAT}])._replace(num_boxes=tf.constant([1]))
    assert match(groundtruth, [SAME, DOG]) == [-1, 0]


@pytest.mark.parametrize(
    "box, expected",
    [
        ((0, 0, 10, 10), -2),  # inside the crowd
        ((30, 30, 50, 40), -2),  # half of it
        ((30, 30, 51, 40), -1),  # less than half
        ((80, 80, 90, 90), -1),
        ((15, 15, 25, 25), 1),  # an object within the crowd
        ((0, 0, 40, 40), -2),  # the region itself is no object to find
    ],
)
def test_what_lies_in_a_crowd_is_neither_object_nor_background(make_groundtruth, box, expected):
    groundtruth = make_groundtruth([{"box": (0, 0, 40, 40), "crowd": True}, {"box": (15, 15, 25, 25)}])
    assert match(groundtruth, [box], force_match=False) == [expected]


def test_a_crowd_beyond_the_real_rows_has_no_effect(make_groundtruth):
    groundtruth = make_groundtruth([{"box": DOG}, {"box": (0, 0, 40, 40), "crowd": True}])
    assert match(groundtruth._replace(num_boxes=tf.constant([1])), [SAME], force_match=False) == [-1]


def test_a_crowd_is_not_forced_onto_an_anchor(make_groundtruth):
    groundtruth = make_groundtruth([{"box": DOG, "crowd": True}])
    assert match(groundtruth, [NEAR_DOG, FAR]) == [-2, -1]


def test_groundtruth_without_weight_is_not_forced_onto_an_anchor(make_groundtruth):
    groundtruth = make_groundtruth([{"box": (0, 0, 10, 5), "weight": 0.0}, {"box": (0, 0, 10, 4)}])
    anchors = [(0, 0, 10, 10), (50, 50, 60, 60), (0, 20, 10, 30)]
    matches = match(groundtruth, anchors)
    assert matches == [1, -1, -1]
    encoded = targets.encode(
        tf.constant([anchors], tf.float32), tf.constant([matches]), groundtruth, class_agnostic=True
    )
    np.testing.assert_array_equal(encoded.class_weights, [[1, 1, 1]])
    # Alone it takes no anchor; what it overlaps enough is neither object nor background.
    groundtruth = make_groundtruth([{"box": (0, 0, 10, 5), "weight": 0.0}])
    assert match(groundtruth, [*anchors, (0, 0, 10, 4)]) == [-2, -1, -1, 0]


@pytest.mark.parametrize(
    "box, anchor, expected",
    [
        (CAT, CAT, [0, 0, 0, 0]),
        ((5, 0, 15, 10), CAT, [5, 0, 0, 0]),
        ((0, -20, 10, -10), CAT, [0, -20, 0, 0]),
        ((-5, 0, 15, 10), CAT, [0, 0, LOG2, 0]),
        ((0, 0, 10, 10), (0, 0, 10, 20), [0, -2.5, 0, -LOG2]),
    ],
)
def test_deltas_worked_by_hand(make_groundtruth, box, anchor, expected):
    encoded = targets.encode(
        tf.constant([[anchor]], tf.float32), tf.constant([[0]]), make_groundtruth([{"box": box}]), class_agnostic=True
    )
    np.testing.assert_allclose(encoded.box_deltas[0, 0], expected, atol=1e-5)


@pytest.mark.parametrize("class_agnostic, classes", [(True, [1, 1, 0, 0]), (False, [5, 3, 0, 0])])
def test_classes_and_weights_follow_the_match(make_groundtruth, class_agnostic, classes):
    groundtruth = make_groundtruth([{"box": CAT, "class": 4, "weight": 0.25}, {"box": DOG, "class": 2}])
    matches = tf.constant([[0, 1, -1, -2]])
    encoded = targets.encode(
        tf.constant([[SAME, DOG, FAR, HALF]], tf.float32), matches, groundtruth, class_agnostic=class_agnostic
    )
    assert encoded.classes.numpy().tolist() == [classes]
    assert encoded.class_weights.numpy().tolist() == [[0.25, 1, 1, 0]]
    assert encoded.box_weights.numpy().tolist() == [[0.25, 1, 0, 0]]
    np.testing.assert_array_equal(encoded.box_deltas, np.zeros([1, 4, 4]))
    np.testing.assert_array_equal(encoded.matches, matches)


sides = st.floats(1.0, 50.0, width=32)
corners = st.floats(0.0, 100.0, width=32)
some_boxes = st.lists(st.tuples(corners, corners, sides, sides), min_size=3, max_size=3).map(
    lambda rows: np.array([[y, x, y + h, x + w] for y, x, h, w in rows], np.float32)
)


@settings(max_examples=25, deadline=None)
@given(boxes=some_boxes, gt_boxes=some_boxes, matches=st.lists(st.integers(-2, 2), min_size=3, max_size=3))
def test_decoding_the_targets_gives_the_matched_boxes(make_groundtruth, boxes, gt_boxes, matches):
    groundtruth = make_groundtruth([{"box": box} for box in gt_boxes])
    encoded = targets.encode(tf.constant(boxes[None]), tf.constant([matches]), groundtruth, class_agnostic=True)
    decoded = box_coder.decode(encoded.box_deltas, boxes[None]).numpy()[0]
    expected = [
        gt_boxes[m] if m >= 0 else box for m, box in zip(matches, boxes, strict=True)
    ]  # no delta: the box itself
    np.testing.assert_allclose(decoded, expected, rtol=1e-3, atol=1e-2)
    assert np.all(np.isfinite(encoded.box_deltas))


# Anchors --------------------------------------------------------------------------------------------------------------


def rpn_outputs(anchors, is_valid=None):
    anchors = tf.constant(anchors, tf.float32)
    num = anchors.shape[0]
    is_valid = tf.ones([num], tf.bool) if is_valid is None else tf.constant(is_valid)
    return RpnOutputs(tf.zeros([1, num, 2]), tf.zeros([1, num, 4]), anchors, is_valid)


def sampled_rows(sample, image=0):
    return sample.indices.numpy()[image][sample.is_sampled.numpy()[image]].tolist()


ANCHORS = [SAME, MOST, HALF, FIFTH, NEAR_DOG, FAR, (90, 0, 99, 9), (0, 90, 9, 99)]
MATCHES = [0, 0, -2, -1, 1, -1, -1, -1]  # of CAT and DOG


@pytest.mark.parametrize(
    "num_samples, fraction, num_objects, num_background",
    [(8, 1.0, 3, 4), (8, 0.25, 2, 4), (4, 0.5, 2, 2), (4, 0.0, 0, 4), (2, 1.0, 2, 0), (100, 0.5, 3, 4)],
)
def test_the_anchor_sample_is_balanced(make_groundtruth, num_samples, fraction, num_objects, num_background):
    groundtruth = make_groundtruth([{"box": CAT}, {"box": DOG}])
    sampler = targets.AnchorSampler(num_samples=num_samples, positive_fraction=fraction)
    sample, sampled = sampler(rpn_outputs(ANCHORS), groundtruth, SEED)
    rows = sampled_rows(sample)
    assert sum(MATCHES[row] >= 0 for row in rows) == num_objects
    assert sum(MATCHES[row] == -1 for row in rows) == num_background
    assert len(rows) == num_objects + num_background == len(set(rows))
    assert sample.indices.shape == (1, min(num_samples, len(ANCHORS)))
    np.testing.assert_array_equal(sampled.matches.numpy()[0][: len(rows)], [MATCHES[row] for row in rows])
    assert not np.any(sampled.class_weights.numpy()[0][len(rows) :])


def test_targets_of_a_sample_are_those_of_its_anchors(make_groundtruth):
    groundtruth = make_groundtruth([{"box": CAT, "class": 7}, {"box": DOG}])
    sample, sampled = targets.AnchorSampler(num_samples=8, positive_fraction=1.0)(
        rpn_outputs(ANCHORS), groundtruth, SEED
    )
    assert sampled_rows(sample) == [0, 1, 3, 4, 5, 6, 7]
    assert sampled.classes.numpy()[0].tolist() == [1, 1, 0, 1, 0, 0, 0, 0]
    assert sampled.box_weights.numpy()[0].tolist() == [1, 1, 0, 1, 0, 0, 0, 0]
    expected = np.zeros([8, 4])
    expected[1] = [0, 10 / 8, 0, 5 * np.log(10 / 8)]
    expected[3] = [0, -5, 0, 0]
    np.testing.assert_allclose(sampled.box_deltas[0], expected, atol=1e-5)


def test_invalid_anchors_never_train(make_groundtruth):
    is_valid = [False, True, True, False, True, True, False, True]
    sampler = targets.AnchorSampler(num_samples=8, positive_fraction=1.0)
    sample, _ = sampler(rpn_outputs(ANCHORS, is_valid), make_groundtruth([{"box": CAT}, {"box": DOG}]), SEED)
    assert sampled_rows(sample) == [1, 4, 5, 7]


def test_anchors_of_groundtruth_without_weight_do_not_train(make_groundtruth):
    groundtruth = make_groundtruth([{"box": CAT, "weight": 0.0}, {"box": DOG}])
    sample, _ = targets.AnchorSampler(num_samples=8, positive_fraction=1.0)(rpn_outputs(ANCHORS), groundtruth, SEED)
    assert sampled_rows(sample) == [3, 4, 5, 6, 7]


def test_anchors_in_a_crowd_do_not_train(make_groundtruth):
    groundtruth = make_groundtruth([{"box": CAT, "crowd": True}, {"box": DOG}])
    sample, _ = targets.AnchorSampler(num_samples=8, positive_fraction=1.0)(rpn_outputs(ANCHORS), groundtruth, SEED)
    assert sampled_rows(sample) == [4, 5, 6, 7]


def test_without_any_valid_anchor_the_sample_is_empty(make_groundtruth):
    outputs = rpn_outputs(ANCHORS, [False] * 8)
    sample, sampled = targets.AnchorSampler(num_samples=4)(outputs, make_groundtruth([{"box": CAT}]), SEED)
    assert not np.any(sample.is_sampled)
    assert not np.any(sampled.class_weights)
    assert np.all(np.isfinite(sampled.box_deltas))


def test_a_seed_decides_the_sample(make_groundtruth):
    anchors = [(10.0 * i, 10 * j, 10 * i + 9, 10 * j + 9) for i in range(10) for j in range(10)]
    groundtruth = make_groundtruth([{"box": CAT}], [{"box": DOG}])

    def draw(seed):
        sample, _ = targets.AnchorSampler(num_samples=16)(rpn_outputs(anchors), groundtruth, tf.constant(seed))
        return [sampled_rows(sample, image) for image in range(2)]

    assert draw([1, 2]) == draw([1, 2])
    assert draw([1, 2]) != draw([1, 3]) != draw([2, 2])
    first, second = draw([1, 2])
    assert first != second  # images draw apart


# RoIs -----------------------------------------------------------------------------------------------------------------

NEAR_CAT = (0, 0, 10, 6)  # IoU 0.6


def proposals_of(boxes, num=None):
    boxes = tf.constant([boxes], tf.float32)
    scores = tf.linspace(1.0, 0.1, boxes.shape[1])[None]
    return Proposals(boxes, scores, tf.constant([boxes.shape[1] if num is None else num]))


PROPOSALS = [FAR, SAME, FIFTH, NEAR_CAT, HALF, NEAR_DOG, DOG]  # objects: 1, 3, 4 (CAT), 6 (DOG)


@pytest.mark.parametrize(
    "num_samples, fraction, num_objects, num_background",
    [(8, 1.0, 4, 3), (4, 0.25, 1, 3), (8, 0.25, 2, 3), (2, 1.0, 2, 0)],
)
def test_sampled_rois_are_balanced_best_first_and_padded(
    make_groundtruth, num_samples, fraction, num_objects, num_background
):
    groundtruth = make_groundtruth([{"box": CAT}, {"box": DOG}])
    sampler = targets.RoISampler(num_samples=num_samples, positive_fraction=fraction)
    proposals = proposals_of(PROPOSALS)
    rois = sampler(proposals, groundtruth, SEED)
    num = num_objects + num_background
    assert rois.boxes.shape == (1, num_samples, 4)
    assert rois.num_proposals.numpy().tolist() == [num]
    rows = [PROPOSALS.index(tuple(box)) for box in rois.boxes.numpy()[0, :num].astype(int)]
    assert rows == sorted(set(rows))
    assert sum(row in (1, 3, 4, 6) for row in rows) == num_objects
    np.testing.assert_array_equal(rois.scores[0, :num], proposals.scores.numpy()[0, rows])
    assert not np.any(rois.boxes[0, num:])
    assert not np.any(rois.scores[0, num:])


def test_padding_proposals_are_never_sampled(make_groundtruth):
    groundtruth = make_groundtruth([{"box": CAT}, {"box": DOG}])
    rois = targets.RoISampler(num_samples=8, positive_fraction=1.0)(proposals_of(PROPOSALS, num=3), groundtruth, SEED)
    np.testing.assert_array_equal(rois.boxes[0, :3], PROPOSALS[:3])
    assert rois.num_proposals.numpy().tolist() == [3]


@pytest.mark.parametrize("change, kept", [({"weight": 0.0}, [0, 2, 5, 6]), ({"crowd": True}, [0, 5, 6])])
def test_proposals_of_groundtruth_without_weight_or_of_a_crowd_are_never_sampled(make_groundtruth, change, kept):
    groundtruth = make_groundtruth([{"box": CAT, **change}, {"box": DOG}])
    rois = targets.RoISampler(num_samples=8, positive_fraction=1.0)(proposals_of(PROPOSALS), groundtruth, SEED)
    np.testing.assert_array_equal(rois.boxes[0, : len(kept)], [PROPOSALS[row] for row in kept])
    assert rois.num_proposals.numpy().tolist() == [len(kept)]


def test_without_groundtruth_only_background_is_sampled(make_groundtruth):
    sampler = targets.RoISampler(num_samples=4)
    rois = sampler(proposals_of(PROPOSALS), make_groundtruth([]), SEED)
    assert rois.num_proposals.numpy().tolist() == [4]
    encoded = sampler.targets(rois, make_groundtruth([]))
    assert not np.any(encoded.classes)
    np.testing.assert_array_equal(encoded.class_weights, np.ones([1, 4]))


def test_sampled_rois_keep_what_they_were_matched_with(make_groundtruth):
    groundtruth = make_groundtruth([{"box": CAT, "class": 2}, {"box": DOG, "class": 0}])
    sampler = targets.RoISampler(num_samples=8, positive_fraction=1.0)
    rois = sampler(proposals_of(PROPOSALS), groundtruth, SEED)
    num = int(rois.num_proposals[0])
    matched_anew = sampler.match(rois.boxes, groundtruth)
    assert len(set(matched_anew.numpy()[0, :num])) > 1
    np.testing.assert_array_equal(rois.matches[:, :num], matched_anew[:, :num])
    encoded, encoded_anew = (
        sampler.targets(rois, groundtruth),
        sampler.targets(rois._replace(matches=None), groundtruth),
    )
    for value, expected in zip(encoded, encoded_anew, strict=True):
        assert (value is None) == (expected is None)
        if value is not None:
            np.testing.assert_array_equal(value, expected)


def test_targets_of_rois_ignore_padding_rows(make_groundtruth):
    groundtruth = make_groundtruth([{"box": CAT, "class": 2}, {"box": DOG, "class": 0}])
    rois = proposals_of([SAME, DOG, FAR, SAME, FAR], num=3)
    encoded = targets.RoISampler().targets(rois, groundtruth)
    assert encoded.classes.numpy().tolist() == [[3, 1, 0, 0, 0]]
    assert encoded.class_weights.numpy().tolist() == [[1, 1, 1, 0, 0]]
    assert encoded.box_weights.numpy().tolist() == [[1, 1, 0, 0, 0]]


def test_the_box_coder_is_that_of_the_sampler(make_groundtruth):
    groundtruth = make_groundtruth([{"box": (5, 0, 15, 10)}])
    sampler = targets.RoISampler(threshold=0.1, coder=box_coder.BoxCoder(scales=(1.0, 1.0, 1.0, 1.0)))
    np.testing.assert_allclose(
        sampler.targets(proposals_of([CAT]), groundtruth).box_deltas, [[[0.5, 0, 0, 0]]], atol=1e-6
    )


@pytest.mark.parametrize("min_iou, kept", [(0.0, 7), (0.19, 6), (0.3, 5)])
def test_proposals_that_overlap_nothing_enough_do_not_train(make_groundtruth, min_iou, kept):
    groundtruth = make_groundtruth([{"box": CAT}, {"box": DOG}])
    sampler = targets.RoISampler(num_samples=8, positive_fraction=1.0, min_background_iou=min_iou)
    rois = sampler(proposals_of(PROPOSALS), groundtruth, SEED)
    assert rois.num_proposals.numpy().tolist() == [kept]
    weights = sampler.targets(proposals_of(PROPOSALS), groundtruth).class_weights
    assert weights.numpy().sum() == kept


def test_without_groundtruth_nothing_overlaps_enough(make_groundtruth):
    sampler = targets.RoISampler(num_samples=4, min_background_iou=0.1)
    assert sampler(proposals_of(PROPOSALS), make_groundtruth([]), SEED).num_proposals.numpy().tolist() == [0]


MANY = [
    {"box": CAT, "class": 2},
    {"box": (20, 0, 30, 10), "weight": 0.0},
    {"box": (0, 20, 10, 30), "crowd": True},
    {"box": DOG, "class": 1},
    {"box": (70, 70, 70, 75)},
]


@pytest.mark.parametrize("jit", [False, True])
def test_groundtruth_that_trains_is_among_the_candidates(make_groundtruth, jit):
    groundtruth = make_groundtruth(MANY)
    sampler = targets.RoISampler(num_samples=8, positive_fraction=1.0, add_groundtruth=True, static=jit)
    run = tf.function(sampler, jit_compile=jit, autograph=False)
    rois = run(proposals_of([FAR, NEAR_CAT, HALF], num=2), groundtruth, SEED)
    assert rois.num_proposals.numpy().tolist() == [4]
    np.testing.assert_array_equal(rois.boxes[0, :4], [CAT, DOG, FAR, NEAR_CAT])
    np.testing.assert_allclose(rois.scores[0], [1, 1, 1, 0.55, 0, 0, 0, 0])
    np.testing.assert_array_equal(rois.matches[0, :4], [0, 3, -1, 0])
    assert sampler.targets(rois, groundtruth).classes.numpy()[0].tolist() == [3, 2, 0, 3, 0, 0, 0, 0]


def test_groundtruth_is_added_where_every_proposal_trains(make_groundtruth):
    sampler = targets.RoISampler(num_samples=None, add_groundtruth=True)
    rois = sampler(proposals_of([FAR, NEAR_CAT, HALF], num=2), make_groundtruth(MANY), SEED)
    assert rois.boxes.shape == (1, 8, 4)
    np.testing.assert_array_equal(rois.boxes[0], [CAT, DOG, FAR, NEAR_CAT, *[[0] * 4] * 4])
    assert rois.num_proposals.numpy().tolist() == [4]


def test_anchors_may_propose_without_training(make_groundtruth):
    outputs = rpn_outputs(ANCHORS)._replace(is_trained=tf.constant([False, True, True, False, True, True, False, True]))
    sampler = targets.AnchorSampler(num_samples=8, positive_fraction=1.0)
    sample, _ = sampler(outputs, make_groundtruth([{"box": CAT}, {"box": DOG}]), SEED)
    assert sampled_rows(sample) == [1, 4, 5, 7]


@pytest.mark.parametrize(
    "settings, objects",
    [
        ({}, [0, 4]),
        ({"match_ties": True}, [0, 4, 5]),
        ({"force_match": False}, [0]),
        ({"force_match": False, "matched_threshold": 0.4}, [0, 2]),
    ],
)
def test_objects_of_low_overlap_are_chosen(make_groundtruth, settings, objects):
    anchors = [SAME, FAR, HALF, FIFTH, NEAR_DOG, (40, 35, 50, 45)]  # the last two overlap DOG alike
    sampler = targets.AnchorSampler(num_samples=6, positive_fraction=1.0, unmatched_threshold=0.1, **settings)
    sample, sampled = sampler(rpn_outputs(anchors), make_groundtruth([{"box": CAT}, {"box": DOG}]), SEED)
    rows = np.array(sampled_rows(sample))
    assert rows[sampled.classes.numpy()[0, : len(rows)] == 1].tolist() == objects


LIBRARIES = {
    "detectron2": (
        {},
        {"localization_loss": losses.L1(), "normalization": "CONFIGURED", "num_configured": 30000},
    ),
    "torchvision": (
        {"round_corners": True, "stride_of_image": True},
        {"localization_loss": losses.SmoothL1(delta=1 / 9, factor=9.0), "normalization": "BATCH"},
    ),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_anchors_train_as_in_other_libraries(golden_dir, make_groundtruth, library):
    """A training step of each, in which every anchor that is an object or background was sampled."""
    golden = np.load(golden_dir / f"pytorch/rpn_targets_{library}.npz")
    anchor_settings, loss_settings = LIBRARIES[library]
    height, width = golden["input_size"].tolist()
    anchors = anchor_ops.multiscale_anchors(
        [(-(-height // 2**level), -(-width // 2**level)) for level in range(2, 7)],
        min_level=2, anchor_scale=8.0, aspect_ratios=[2.0, 1.0, 0.5], scales_per_octave=1, offset=0.0, **anchor_settings,
    )  # fmt: skip
    yx = [1, 0, 3, 2]
    np.testing.assert_allclose(anchors[::16], golden["anchors_16"][:, yx], atol=1e-4)
    groundtruth = make_groundtruth(*([{"box": box} for box in golden[f"gt_boxes{i}"][:, yx]] for i in range(2)))
    sampler = targets.AnchorSampler(
        num_samples=30000, positive_fraction=1.0, match_ties=True, coder=box_coder.BoxCoder(scales=(1.0, 1.0, 1.0, 1.0))
    )
    num_anchors = anchors.shape[0]
    outputs = RpnOutputs(
        objectness_logits=tf.zeros([2, num_anchors, 1]),
        box_deltas=tf.zeros([2, num_anchors, 4]),
        anchors=anchors,
        is_valid=tf.ones([num_anchors], tf.bool),
    )
    sample, sampled = sampler(outputs, groundtruth, SEED)
    deltas = np.zeros([2, num_anchors, 4], np.float32)
    for i in range(2):
        rows = np.array(sampled_rows(sample, i))
        labels = np.full(num_anchors, -1)
        labels[rows] = sampled.classes.numpy()[i, : len(rows)]
        np.testing.assert_array_equal(labels, golden[f"anchor_labels{i}"])
        is_object = sampled.classes.numpy()[i] == 1
        np.testing.assert_array_equal(sample.indices.numpy()[i, is_object], golden[f"positive_anchors{i}"])
        np.testing.assert_array_equal(sampled.matches.numpy()[i, is_object], golden[f"positive_gt{i}"])
        box_targets = sampled.box_deltas.numpy()[i, is_object]
        np.testing.assert_allclose(box_targets, golden[f"positive_targets{i}"][:, yx], rtol=1e-4, atol=1e-5)
        deltas[i, is_object] = golden[f"deltas_at_positive{i}"][:, yx]
    values = rpn.RpnLoss(**loss_settings)(
        tf.zeros([2, num_anchors, 1]), tf.constant(deltas), sampled, sample.is_sampled,
        anchors=tf.gather(anchors, sample.indices), is_batch=True,
    )  # fmt: skip
    found = tf.reduce_mean(values[rpn.LOCALIZATION_LOSS])
    np.testing.assert_allclose(found, golden["localization_loss"], rtol=1e-4)


# Groundtruth with scores of all classes -------------------------------------------------------------------------------


def with_scores(make_groundtruth, *scores):
    boxes = [{"box": (0, 40 * i, 20, 40 * i + 20)} for i in range(len(scores))]
    return make_groundtruth(boxes)._replace(class_scores=tf.constant([scores], tf.float32))


def test_scores_of_the_groundtruth_are_the_targets_of_rois(make_groundtruth):
    scores = ([0.0, 0.3, 0.7], [0.0, 1.0, 1.0], [0.6, 0.4, 0.0])
    groundtruth = with_scores(make_groundtruth, *scores)
    boxes = tf.concat([groundtruth.boxes, [[[50.0, 50.0, 60.0, 60.0]]]], axis=1)
    rois = Proposals(boxes, tf.zeros([1, 4]), tf.constant([4]))
    found = targets.RoISampler().targets(rois, groundtruth)
    np.testing.assert_allclose(found.class_targets, [[*scores, [1.0, 0.0, 0.0]]])
    # The class that counts most, the first of equals; a box whose scores say background trains no box of a class.
    np.testing.assert_array_equal(found.classes, [[2, 1, 0, 0]])
    np.testing.assert_array_equal(found.box_weights, [[1, 1, 1, 0]])
    assert targets.encode(boxes, found.matches, groundtruth, class_agnostic=True).class_targets is None


def test_objects_whose_scores_say_background_are_sampled_as_background(make_groundtruth):
    groundtruth = with_scores(make_groundtruth, [0.0, 1.0], [0.9, 0.1])
    rois = Proposals(groundtruth.boxes, tf.constant([[0.9, 0.8]]), tf.constant([2]))
    sampler = targets.RoISampler(num_samples=2, positive_fraction=0.5)
    assert sampler(rois, groundtruth, tf.constant([1, 2])).num_proposals.numpy().tolist() == [2]
    both = groundtruth._replace(class_scores=tf.constant([[[0.0, 1.0], [0.1, 0.9]]]))
    assert sampler(rois, both, tf.constant([1, 2])).num_proposals.numpy().tolist() == [1]


def test_without_a_number_of_samples_all_proposals_train(make_groundtruth):
    groundtruth = make_groundtruth([{"box": (0, 0, 20, 20)}])
    rois = Proposals(tf.zeros([1, 7, 4]), tf.zeros([1, 7]), tf.constant([3]))
    assert targets.RoISampler(num_samples=None)(rois, groundtruth, tf.constant([1, 2])) is rois
