"""Classes matched by name, and predictors whose columns follow them."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import tf_keras

from object_detection_fpn.modeling.detector import ClassColumns
from object_detection_fpn.training.classes import match_classes, move_classes, move_columns
from object_detection_fpn.training.weights import WeightsReport


def names(*classes):
    """A class is one name, several with | between them, or "" for none."""
    return [tuple(text.split("|")) if text else () for text in classes]


@pytest.mark.parametrize(
    "here, there, sources",
    [
        (["cat", "dog"], ["dog", "bird", "cat"], [2, 0]),
        (["cat", "fish"], ["cat"], [0, -1]),
        (["Traffic Light", "DOG"], ["dog", "traffic light"], [1, 0]),
        (["trafficlight"], ["traffic light"], [0]),
        (["Cat", "cat"], ["cat", "CAT"], [1, 0]),  # exact first; what is left agrees without case
        (["cat"], ["Cat", "CAT"], [-1]),  # ambiguous
        (["Cat", "CAT"], ["cat"], [-1, -1]),
        (["/m/1|person"], ["person"], [0]),  # another name of the class
        (["cat|dog", "dog|hound"], ["dog", "cat"], [1, 0]),  # the first name decides
        (["a|x", "b|x"], ["x"], [-1, -1]),
        (["a|b"], ["a", "b"], [0]),
        (["a|b"], ["q|a", "r|b"], [-1]),  # two names lead to two classes
        (["cat", "", "dog"], ["cat", "", "dog"], [0, 1, 2]),  # ids without name, as COCO's
        (["cat", "dog"], ["cat", "", "dog"], [0, 2]),
        (["cat", "", "", "dog"], ["", "", "cat", "dog"], [2, 1, -1, 3]),
        (["cat"], [], [-1]),
    ],
)
def test_classes_are_the_same_where_their_names_agree(here, there, sources):
    assert match_classes(names(*here), names(*there)).sources.tolist() == sources


def test_kept_classes_are_said_in_words():
    matched = match_classes(names("dog", "fish", "", "cat"), names("Cat", "dog"))
    assert matched.text == "2 of 3 classes kept by name: dog, cat; from first values: fish"
    assert match_classes(names("a"), names("b")).text == "0 of 1 classes kept by name; from first values: a"
    assert match_classes(names("a"), names("a")).text == "1 of 1 classes kept by name: a"


def test_columns_follow_their_classes_and_background_stays_first():
    sources = np.array([2, -1, 0])
    logits = move_columns(np.array([[100, 0, 1, 2]]), np.full([1, 4], -5), sources, num_columns=1, has_background=True)
    assert logits.tolist() == [[100, 2, -5, 0]]
    boxes = move_columns(np.arange(12), np.full([12], -5), sources, num_columns=4, has_background=False)
    assert boxes.tolist() == [8, 9, 10, 11, -5, -5, -5, -5, 0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"3 classes do not fit \[8\] <- \[12\]"):
        move_columns(np.arange(12), np.zeros([8]), sources, num_columns=4, has_background=False)


COLUMNS = {"logits": ClassColumns(1, True), "deltas": ClassColumns(4, False)}


class Head(tf_keras.layers.Layer):
    """Predictors of C classes on two features; all values are -1."""

    def __init__(self, num_classes, shares_boxes=False):
        super().__init__()
        self.logits = tf_keras.layers.Dense(num_classes + 1, kernel_initializer=tf_keras.initializers.Constant(-1.0))
        self.deltas = tf_keras.layers.Dense(
            4 if shares_boxes else 4 * num_classes, kernel_initializer=tf_keras.initializers.Constant(-1.0)
        )
        self.logits.build([None, 2])
        self.deltas.build([None, 2])


def stored_weights(num_classes, num_features=2):
    ramp = np.arange(num_features * 4 * num_classes, dtype=np.float32)
    return {
        "logits/kernel": np.tile(np.arange(num_classes + 1, dtype=np.float32), [num_features, 1]),
        "logits/bias": np.arange(num_classes + 1, dtype=np.float32),
        "deltas/kernel": ramp.reshape(num_features, -1),
        "deltas/bias": np.arange(4 * num_classes, dtype=np.float32),
        "body/kernel": np.ones([1]),
    }


def move(weights, model, here, there, columns=COLUMNS):
    return move_classes(weights, model, columns, here=names(*here), there=names(*there), source="ckpt-1")


def test_predictors_of_other_classes_keep_what_they_know():
    moved = move(stored_weights(3), Head(2), ["dog", "fish"], ["cat", "bird", "dog"])
    assert moved.weights["logits/kernel"].tolist() == [[0, 3, -1], [0, 3, -1]]
    assert moved.weights["logits/bias"].tolist() == [0, 3, 0]
    assert moved.weights["deltas/bias"].tolist() == [8, 9, 10, 11, 0, 0, 0, 0]
    assert moved.weights["body/kernel"].tolist() == [1]
    assert set(moved.partly) == {"logits/kernel", "logits/bias", "deltas/kernel", "deltas/bias"}
    report = moved.described(WeightsReport(["body/kernel", *moved.partly], [], [], []))
    assert report.table("Weights").splitlines() == [
        "Weights",
        "  restored                    1",
        f"  restored in part            4  {', '.join(moved.partly)}",
        "  1 of 2 classes kept by name: dog; from first values: fish",
    ]


def test_the_same_classes_in_another_order_change_places():
    moved = move(stored_weights(2), Head(2), ["dog", "cat"], ["cat", "dog"])
    assert moved.weights["logits/bias"].tolist() == [0, 2, 1]
    assert moved.weights["deltas/bias"].tolist() == [4, 5, 6, 7, 0, 1, 2, 3]


def test_the_same_classes_are_left_as_they_are():
    weights = stored_weights(3)
    moved = move(weights, Head(3), ["cat", "", "dog"], ["Cat", "", "dog"])
    assert all(moved.weights[path] is weights[path] for path in weights)
    assert (moved.partly, moved.text) == ([], "2 of 2 classes kept by name: cat, dog")


@pytest.mark.parametrize("num_columns", [0, 4])
def test_boxes_shared_by_all_classes_are_left_as_they_are(num_columns):
    """Here, or there: four columns are not those of three classes."""
    model = Head(2, shares_boxes=not num_columns)
    weights = stored_weights(3) | {"deltas/bias": np.arange(4), "deltas/kernel": np.ones([2, 4])}
    columns = {**COLUMNS, "deltas": ClassColumns(num_columns, False)}
    moved = move(weights, model, ["dog", "fish"], ["cat", "bird", "dog"], columns)
    assert set(moved.partly) == {"logits/kernel", "logits/bias"}
    assert moved.weights["deltas/kernel"] is weights["deltas/kernel"]


def test_a_head_of_another_width_is_left_to_the_report():
    moved = move(stored_weights(3, num_features=5), Head(2), ["dog", "fish"], ["cat", "bird", "dog"])
    assert set(moved.partly) == {"logits/bias", "deltas/bias"}


def test_a_checkpoint_without_predictors_is_left_as_it_is():
    moved = move({"body/kernel": np.ones([1])}, Head(2), ["dog", "fish"], ["dog"])
    assert (dict(moved.weights), moved.partly, moved.text) == ({"body/kernel": np.ones([1])}, (), "")


def test_no_name_in_common_is_worth_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        moved = move(stored_weights(2), Head(2), ["dog", "fish"], ["", "car", "bus"])
    assert moved.weights["logits/bias"].tolist() == [0, 0, 0]  # the background alone
    texts = [record.getMessage() for record in caplog.records]
    assert texts == [
        "ckpt-1: this checkpoint has 2 classes, its label map 3.",
        'ckpt-1: no class of this checkpoint has the name of a class here. The first one is "car" there, and "dog" here.',
    ]
