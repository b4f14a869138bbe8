"""`data/augment/labels.py`: what is said of objects changes as asked, and pixels do not."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.data.augment import labels
from object_detection_fpn.data.example import without_none

SEED = tf.constant([1, 2])


@pytest.fixture(scope="module")
def many(draw_example):
    """500 copies of one box in the middle of the image, [0.25, 0.375, 0.75, 0.625]."""
    example = draw_example([(10, 15, 30, 25)], 40, 40)
    copies = [None if field is None else tf.repeat(field, 500, axis=0) for field in example.objects]
    return example._replace(objects=example.objects._make(copies))


def moves(many, **settings):
    """How far each side moved outwards, as a share of the side of the box that it changes, [N, 4]."""
    before = many.objects.boxes.numpy()
    after = labels.random_jitter_boxes(many, seed=SEED, **settings)
    assert after.image is many.image
    return (after.objects.boxes.numpy() - before) * [-1, -1, 1, 1] / np.tile([0.5, 0.25], 2)


@pytest.mark.parametrize("jitter_mode, low, high", [("default", -0.1, 0.1), ("expand", 0, 0.1), ("shrink", -0.1, 0)])
def test_sides_move_on_their_own_by_half_of_the_ratio(many, jitter_mode, low, high):
    found = moves(many, ratio=0.2, jitter_mode=jitter_mode)
    for side in range(4):
        assert low - 1e-5 <= found[:, side].min() < low + 0.01
        assert high - 0.01 < found[:, side].max() <= high + 1e-5
    assert np.abs(np.corrcoef(found.T) - np.eye(4)).max() < 0.2


@pytest.mark.parametrize(
    "jitter_mode, low, high",
    [
        ("expand_symmetric", 0, 0.1),
        ("shrink_symmetric", -0.1, 0),
        ("expand_symmetric_xy", 0, 0.1),
        ("shrink_symmetric_xy", -0.1, 0),
    ],
)
def test_symmetric_modes_keep_the_centre(many, jitter_mode, low, high):
    found = moves(many, ratio=0.2, jitter_mode=jitter_mode)
    np.testing.assert_allclose(found[:, :2], found[:, 2:], atol=1e-5)
    assert low - 1e-5 <= found.min() < low + 0.01 and high - 0.01 < found.max() <= high + 1e-5
    np.testing.assert_equal(np.allclose(found[:, 0], found[:, 1], atol=1e-5), jitter_mode.endswith("xy"))


@pytest.mark.parametrize("jitter_mode", get_args(labels.JitterMode))
def test_jittered_boxes_stay_inside(draw_example, jitter_mode):
    before = draw_example([(0, 0, 40, 40), (0, 5, 10, 40), (38, 38, 40, 40)], 40, 40)
    for i in range(10):
        after = labels.random_jitter_boxes(before, seed=tf.constant([i, 0]), ratio=1.0, jitter_mode=jitter_mode)
        boxes = after.objects.boxes.numpy()
        assert (boxes >= 0).all() and (boxes <= 1).all()
        if jitter_mode.startswith("expand_symmetric"):
            centres = before.objects.boxes.numpy().reshape(3, 2, 2).mean(axis=1)
            np.testing.assert_allclose(boxes.reshape(3, 2, 2).mean(axis=1), centres, atol=1e-5)
        assert after.objects._replace(boxes=before.objects.boxes) == before.objects


def test_a_ratio_of_0_moves_nothing(many):
    np.testing.assert_allclose(moves(many, ratio=0.0), 0, atol=1e-6)


def test_an_unknown_jitter_mode_is_refused(many):
    with pytest.raises(ValueError, match=r'jitter_mode = "grow" is unknown. Allowed: default, expand, shrink, '):
        labels.random_jitter_boxes(many, seed=SEED, jitter_mode="grow")


@pytest.mark.parametrize(
    "label, probability, kept", [(1, 1.0, [1, 2]), (2, 1.0, [0, 2]), (4, 1.0, [0, 1, 2]), (1, 0.0, [0, 1, 2])]
)
def test_objects_of_one_label_are_dropped(draw_example, label, probability, kept):
    before = draw_example([(0, 0, 9, 9), (10, 10, 19, 19), (20, 20, 29, 29)], with_scores=True)
    after = labels.drop_label_probabilistically(before, seed=SEED, label=label, drop_probability=probability)
    for field, expected in zip(without_none(after.objects), without_none(before.objects), strict=True):
        np.testing.assert_array_equal(field, expected.numpy()[kept])


def test_each_object_is_dropped_with_its_own_probability(many):
    kept = len(labels.drop_label_probabilistically(many, seed=SEED, label=1, drop_probability=0.3).objects.boxes)
    assert 310 < kept < 390


def test_remapped_labels_take_their_scores_with_them(draw_example):
    before = draw_example([(0, 0, 9, 9), (10, 10, 19, 19), (20, 20, 29, 29)], with_scores=True)
    scores = tf.constant([[0.1, 0.2, 0.3, 0.4]] * 3)
    before = before._replace(objects=before.objects._replace(class_scores=scores))
    after = labels.remap_labels(before, seed=SEED, original_labels=(1, 3), new_label=2).objects
    assert after.classes.numpy().tolist() == [1, 1, 1]
    np.testing.assert_allclose(after.class_scores, [[0.1, 0, 0.9, 0]] * 3, rtol=1e-6)
    assert after._replace(classes=before.objects.classes, class_scores=scores) == before.objects


def test_labels_that_are_not_remapped_stay(draw_example):
    before = draw_example([(0, 0, 9, 9), (10, 10, 19, 19), (20, 20, 29, 29)])
    after = labels.remap_labels(before, seed=SEED, original_labels=(2,), new_label=2).objects
    assert after.classes.numpy().tolist() == [0, 1, 2]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_logits_become_probabilities(draw_example, temperature):
    before = draw_example([(0, 0, 9, 9)], with_scores=True)
    logits = np.array([[1.0, 3.0]], np.float32)
    before = before._replace(objects=before.objects._replace(class_scores=tf.constant(logits)))
    after = labels.convert_class_logits_to_softmax(before, seed=SEED, temperature=temperature)
    odds = np.exp(2 / temperature)
    np.testing.assert_allclose(after.objects.class_scores, [[1 / (1 + odds), odds / (1 + odds)]], rtol=1e-6)


def test_logits_that_are_not_read_are_missed(draw_example):
    with pytest.raises(ValueError, match="load_multiclass_scores: true"):
        labels.convert_class_logits_to_softmax(draw_example([]), seed=SEED)
