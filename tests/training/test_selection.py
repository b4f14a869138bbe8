"""Which variables are trained."""

from __future__ import annotations

import re

import pytest
import tf_keras

from object_detection_fpn.training.errors import SettingsError
from object_detection_fpn.training.selection import select_variables


class Detector(tf_keras.layers.Layer):
    def __init__(self):
        super().__init__()
        conv1, conv2 = tf_keras.layers.Dense(1, name="conv1"), tf_keras.layers.Dense(1, name="conv2")
        image = tf_keras.Input([1])
        self.backbone = tf_keras.Model(image, conv2(conv1(image)))
        self.head = tf_keras.layers.Dense(1)
        self.head.build([None, 1])


@pytest.mark.parametrize(
    "update, freeze, expected",
    [
        ([], [], ["conv1/kernel", "conv1/bias", "conv2/kernel", "conv2/bias", "kernel", "bias"]),
        ([], ["backbone"], ["kernel", "bias"]),
        (["^head/"], [], ["kernel", "bias"]),
        ([], ["conv1", "bias"], ["conv2/kernel", "kernel"]),
        (["kernel$"], ["weights-0"], ["conv2/kernel", "kernel"]),
    ],
)
def test_variables_are_selected_by_path_or_name(update, freeze, expected):
    selected = select_variables(Detector(), update=update, freeze=freeze)
    assert [variable.name.removesuffix(":0") for variable in selected] == expected


def test_pattern_that_matches_nothing_has_no_effect_and_is_named(caplog):
    model = Detector()
    assert select_variables(model, freeze=["bakbone", "head"]) == model.backbone.trainable_variables
    assert caplog.messages == [
        'train_config.freeze_variables: "bakbone" matches none of the 6 trainable variables and has no effect. There are, '
        "among others: backbone/layer_with_weights-0/kernel, head/kernel."
    ]


def test_without_a_pattern_that_matches_all_variables_are_trained(caplog):
    model = Detector()
    assert select_variables(model, update=["SecondStage"], freeze=["head"]) == model.backbone.trainable_variables
    assert 'update_trainable_variables: "SecondStage" matches none' in caplog.messages[0]
    assert caplog.messages[1].endswith("update_trainable_variables matches nothing: all variables count as listed.")
    assert select_variables(model, update=["SecondStage", "head"]) == model.head.trainable_variables


@pytest.mark.parametrize(
    "update, freeze, whose",
    [
        (["head"], ["head"], "2 variables that update_trainable_variables = ['head'] selects"),
        ([], [""], "6 trainable variables"),
        (["none"], ["."], "6 trainable variables"),
    ],
)
def test_nothing_left_to_train_is_refused(update, freeze, whose):
    message = f"No variable remains to be trained: train_config.freeze_variables = {freeze} freezes all {whose}."
    with pytest.raises(SettingsError, match=re.escape(message)):
        select_variables(Detector(), update=update, freeze=freeze)


def test_what_is_no_regular_expression_is_refused():
    with pytest.raises(
        SettingsError, match=r'train_config\.freeze_variables: "\(" is no regular expression \(missing \)'
    ):
        select_variables(Detector(), freeze=["("])
