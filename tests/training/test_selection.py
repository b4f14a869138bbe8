"""Which variables are trained."""

from __future__ import annotations

import pytest
import tf_keras

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


def test_pattern_that_matches_nothing_is_refused():
    with pytest.raises(
        ValueError, match=r'"bakbone" matches none of the 6 trainable variables, such as backbone/layer'
    ):
        select_variables(Detector(), freeze=["bakbone"])


def test_nothing_left_to_train_is_refused():
    with pytest.raises(ValueError, match="No variable remains"):
        select_variables(Detector(), update=["head"], freeze=["head"])
