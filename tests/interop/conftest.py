"""Small models with the API's parts, and checkpoints of such models under the API's names."""

from __future__ import annotations

import pytest
import support
import tensorflow as tf
import tf_keras

from object_detection_fpn import builder
from object_detection_fpn.interop import odapi

RESNET50 = "faster_rcnn_resnet50_fpn_keras"


@pytest.fixture
def build_small(monkeypatch):
    """Makes a model; by default of two stages, levels 3 to 7, and the tiny backbone."""

    def build(
        *,
        backbone=None,
        num_stages=2,
        num_classes=3,
        min_level=3,
        max_level=7,
        head="fc_hyperparams { op: FC }",
        pyramid="",
    ):
        if backbone is None:
            support.put_backbone(monkeypatch, RESNET50)
        else:
            monkeypatch.setitem(builder.BACKBONES, RESNET50, backbone)
        levels = f"min_level: {min_level} max_level: {max_level}"
        message = support.model_message(
            f"""
            number_of_stages: {num_stages}
            num_classes: {num_classes}
            feature_extractor {{
              type: "{RESNET50}" conv_hyperparams {{ batch_norm {{ scale: true }} }} fpn {{ {levels} {pyramid} }}
            }}
            first_stage_anchor_generator {{ multiscale_anchor_generator {{ {levels} }} }}
            second_stage_box_predictor {{ mask_rcnn_box_predictor {{ {head} }} }}
            """
        )
        return builder.build_model(message)

    return build


@pytest.fixture
def build_single_level(monkeypatch):
    """Makes a model on one level, with the tiny backbone."""

    def build(*changes):
        support.put_backbone(monkeypatch, support.SINGLE_RESNET18)
        return builder.build_model(support.single_level_message(*changes))

    return build


@pytest.fixture
def as_objects():
    """Plain objects, below `root` if there is one, with {path: variable} at their paths."""

    def make(variables, root=None):
        root = root or tf.Module()
        for path, variable in variables.items():
            *folders, last = path.split("/")
            node = root
            for folder in folders:
                if folder not in vars(node):
                    setattr(node, folder, tf.Module())
                node = getattr(node, folder)
            setattr(node, last, variable)
        return root

    return make


@pytest.fixture
def save_as_api(as_objects):
    """Saves a model's variables as the Object Detection API's training loop does."""

    def save(model, folder, *, step=7, number=1, averages=None):
        objects = as_objects(odapi.variables_by_api_path(model))
        extra = {}
        if averages is not None:  # of all trained variables, kept by the optimizer
            optimizer = tf_keras.optimizers.legacy.SGD()
            for variable in model.trainable_variables:
                optimizer.add_slot(variable, "average", tf_keras.initializers.Constant(averages))
            extra["optimizer"] = optimizer
        checkpoint = tf.train.Checkpoint(step=tf.Variable(step, dtype=tf.int64), model=objects, **extra)
        return tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=None).save(number)

    return save


@pytest.fixture
def fill():
    """Gives every variable of a model a value of its own."""

    def assign(model, value=0.0):
        for number, variable in enumerate(model.variables):
            variable.assign(tf.fill(variable.shape, float(value + number)))

    return assign
