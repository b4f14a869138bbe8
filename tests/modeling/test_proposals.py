"""Proposals by candidates of each level, by suppression within levels, and of clipped boxes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.modeling.proposals import ProposalDecoder, object_logits
from object_detection_fpn.ops import anchors as anchor_ops
from object_detection_fpn.ops import box_coder
from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.records import RpnOutputs

SIZES = [(6, 8), (3, 4), (2, 2)]
LEVEL_SIZES = [3 * height * width for height, width in SIZES]
TRUE_SHAPES = tf.constant([[48, 64, 3], [40, 50, 3]])


def make_outputs(seed=0, num_logits=1):
    random = np.random.RandomState(seed)
    anchors = anchor_ops.multiscale_anchors(
        SIZES, min_level=3, anchor_scale=2.0, aspect_ratios=(1.0, 2.0, 0.5), scales_per_octave=1
    )
    num = anchors.shape[0]
    return RpnOutputs(
        objectness_logits=tf.constant(random.normal(0, 3, [2, num, num_logits]), tf.float32),
        box_deltas=tf.constant(random.normal(0, 1.5, [2, num, 4]), tf.float32),
        anchors=anchors,
        is_valid=tf.constant(random.rand(num) < 0.9),
    )


def propose(outputs, *, jit=False, level_sizes=LEVEL_SIZES, true_shapes=TRUE_SHAPES, **settings):
    decoder = ProposalDecoder(static=jit, **settings)

    def run(outputs, true_shapes):
        return decoder(outputs, true_shapes, num_anchors=3, level_sizes=level_sizes)

    return tf.function(run, jit_compile=jit, autograph=False)(outputs, true_shapes)


def reference(
    outputs, image, *, max_proposals, max_candidates_per_level, within_levels, clip_first, min_side, score_threshold
):
    """One image, in plain loops: boxes and scores."""
    logits = object_logits(outputs.objectness_logits).numpy()[image]
    window = box_ops.image_window(TRUE_SHAPES)[image]
    boxes = box_coder.decode(outputs.box_deltas[image], outputs.anchors)
    clipped = box_ops.clip(boxes[tf.newaxis], window[tf.newaxis])[0].numpy()
    boxes = clipped if clip_first else boxes.numpy()
    found = []
    for level, start in enumerate(np.cumsum([0, *LEVEL_SIZES])[:-1]):
        rows = start + np.argsort(-logits[start : start + LEVEL_SIZES[level]], kind="stable")
        rows = [row for row in rows if outputs.is_valid[row] and 1 / (1 + np.exp(-logits[row])) > score_threshold]
        rows = rows[:max_candidates_per_level]
        sides = boxes[:, 2:] - boxes[:, :2]
        found += [
            (row, level)
            for row in rows
            if not clip_first or (np.all(sides[row] > 0) and np.all(sides[row] >= min_side))
        ]
    found.sort(key=lambda each: -logits[each[0]])
    kept = []
    for row, level in found:
        others = [r for r, other in kept if other == level or not within_levels]
        if not others or np.all(box_ops.pairwise_iou(boxes[row][np.newaxis], boxes[others]) <= 0.5):
            kept.append((row, level))
    rows = [row for row, _ in kept if np.all(clipped[row, 2:] > clipped[row, :2])][:max_proposals]
    return clipped[rows], 1 / (1 + np.exp(-logits[rows]))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"max_candidates_per_level": 20},
        {"within_levels": True},
        {"within_levels": True, "clip_first": True},
        {"clip_first": True},
        {"clip_first": True, "min_side": 6.0},
        {"max_candidates_per_level": 10, "within_levels": True, "clip_first": True, "min_side": 1e-3},
        {"max_candidates_per_level": 30, "within_levels": True, "max_proposals": 7, "score_threshold": 0.4},
    ],
    ids=lambda settings: ", ".join(settings),
)
def test_proposals_follow_the_rules_written_as_loops(settings, jit):
    plain = {
        "max_proposals": 100, "max_candidates_per_level": None, "within_levels": False, "clip_first": False,
        "min_side": 0.0, "score_threshold": 0.0,
    }  # fmt: skip
    outputs = make_outputs(num_logits=2 if "min_side" in settings else 1)
    proposals = propose(outputs, jit=jit, iou_threshold=0.5, **{**plain, **settings})
    for image in range(2):
        boxes, scores = reference(outputs, image, **{**plain, **settings})
        num = int(proposals.num_proposals[image])
        assert num == len(boxes) > 5
        np.testing.assert_allclose(proposals.boxes[image, :num], boxes, atol=1e-4)
        np.testing.assert_allclose(proposals.scores[image, :num], scores, rtol=1e-5)
        assert not np.any(proposals.boxes[image, num:])
        assert not np.any(proposals.scores[image, num:])


@pytest.mark.no_cover
def test_sizes_of_levels_may_be_known_only_when_it_runs():
    outputs = make_outputs()
    settings = {"max_candidates_per_level": 20, "within_levels": True, "clip_first": True}

    @tf.function(input_signature=[tf.TensorSpec([3], tf.int32)], autograph=False)
    def run(sizes):
        decoder = ProposalDecoder(**settings)
        return decoder(outputs, TRUE_SHAPES, num_anchors=3, level_sizes=tf.unstack(sizes))

    for value, expected in zip(run(tf.constant(LEVEL_SIZES)), propose(outputs, **settings), strict=True):
        if value is not None:
            np.testing.assert_array_equal(value, expected)


def test_candidates_whose_scores_round_to_1_are_in_the_order_of_their_logits():
    outputs = make_outputs()
    logits = 30.0 + np.random.RandomState(1).permutation(outputs.anchors.shape[0])
    outputs = outputs._replace(objectness_logits=tf.constant(np.stack([logits, logits])[..., None], tf.float32))
    proposals = propose(outputs, max_candidates_per_level=1000, max_proposals=1)
    best = tf.constant([int(np.argmax(np.where(outputs.is_valid, logits, 0)))])
    expected = box_coder.decode(tf.gather(outputs.box_deltas, best, axis=1), tf.gather(outputs.anchors, best))
    expected = box_ops.clip(expected, box_ops.image_window(TRUE_SHAPES))
    np.testing.assert_allclose(proposals.boxes, expected, atol=1e-4)
    np.testing.assert_array_equal(proposals.scores, [[1.0], [1.0]])


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.no_cover
def test_logits_that_are_no_numbers_do_not_propose(jit):
    outputs = make_outputs()
    outputs = outputs._replace(objectness_logits=tf.fill(outputs.objectness_logits.shape, np.nan))
    proposals = propose(outputs, jit=jit, max_candidates_per_level=5, within_levels=True)
    assert proposals.num_proposals.numpy().tolist() == [0, 0]
    assert not np.any(proposals.scores)


def test_no_gradient_passes_through_candidates():
    outputs = make_outputs()
    sources = [outputs.objectness_logits, outputs.box_deltas]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        decoder = ProposalDecoder(max_candidates_per_level=20, within_levels=True, clip_first=True)
        proposals = decoder(outputs, TRUE_SHAPES, num_anchors=3, level_sizes=LEVEL_SIZES)
        loss = tf.reduce_sum(proposals.boxes) + tf.reduce_sum(proposals.scores)
    assert tape.gradient(loss, sources) == [None, None]


LIBRARIES = {"detectron2": ({}, 0.0), "torchvision": ({"round_corners": True, "stride_of_image": True}, 1e-3)}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("library", LIBRARIES)
def test_proposals_are_those_of_other_libraries(golden_dir, library, jit):
    """From what their networks say of levels 4 to 6; their proposals come from levels 2 to 6."""
    golden = np.load(golden_dir / f"pytorch/proposals_{library}.npz")
    anchor_settings, min_side = LIBRARIES[library]
    logits, deltas = ([golden[f"{name}_P{level}"][0] for level in (4, 5, 6)] for name in ("objectness", "deltas"))
    sizes = [level.shape[1:] for level in logits]
    yx = [1, 0, 3, 2]
    anchors = anchor_ops.multiscale_anchors(
        [tuple(size) for size in sizes], min_level=4, anchor_scale=8.0, aspect_ratios=(2.0, 1.0, 0.5),
        scales_per_octave=1, offset=0.0, **anchor_settings,
    )  # fmt: skip
    outputs = RpnOutputs(
        objectness_logits=tf.constant(
            np.concatenate([level.transpose(1, 2, 0).ravel() for level in logits])[None, :, None]
        ),
        box_deltas=tf.constant(
            np.concatenate([level.transpose(1, 2, 0).reshape(-1, 4)[:, yx] for level in deltas])[None]
        ),
        anchors=anchors,
        is_valid=tf.ones([sum(level.size for level in logits)], tf.bool),
    )
    proposals = propose(
        outputs, jit=jit, level_sizes=[level.size for level in logits],
        true_shapes=tf.constant([[*golden["image_size"], 3]], tf.int32),
        max_proposals=200, max_candidates_per_level=64, within_levels=True, clip_first=True, min_side=min_side,
        coder=box_coder.BoxCoder(scales=(1.0, 1.0, 1.0, 1.0)),
    )  # fmt: skip
    expected, scores = golden["proposals"][:, yx], golden["scores"]
    least = scores.min() if len(scores) == 200 else 0.0  # only the 200 best of all levels are stored
    rows = np.nonzero(proposals.scores.numpy()[0, : int(proposals.num_proposals[0])] > least)[0]
    assert len(rows) > 20
    used = set()
    for row in rows:
        distance = np.abs(expected - proposals.boxes.numpy()[0, row]).max(axis=1)
        nearest = int(np.argmin(distance))
        assert distance[nearest] < 0.01
        assert abs(scores[nearest] - proposals.scores[0, row]) < 1e-4
        used.add(nearest)
    assert len(used) == len(rows)
