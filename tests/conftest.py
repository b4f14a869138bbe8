"""Fixtures of the whole suite."""

from __future__ import annotations

import os
import signal
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
import tensorflow as tf

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).parent.parent


def pytest_configure() -> None:
    """Splits the CPU in two logical devices, so that strategies with two replicas can be tested anywhere; heeds Ctrl-C."""
    # A shell's background jobs ignore SIGINT, and pass that on; the tests of stopping need it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    tf.random.set_seed(0)


@pytest.fixture(scope="session")
def two_cpus() -> tf.distribute.Strategy:
    """A strategy of two replicas, the same one for the whole process."""
    # Not by collective operations, MirroredStrategy's choice: these number themselves anew in every strategy object, and
    # TensorFlow aborts all of a process's collectives once two of one number differ in shape.
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())


def _tiny_backbone(*, max_level, num_channels, spec):
    """One convolution a level, of few channels, made as a whole ResNet's are."""
    import tf_keras

    from object_detection_fpn.modeling.backbones import resnet_v1

    inputs = features = tf_keras.Input([None, None, num_channels])
    outputs = []
    for level, filters in zip(range(2, max_level + 1), (4, 6, 8, 10), strict=False):
        conv = spec.make_conv(filters, 3, strides=4 if level == 2 else 2, name=f"conv{level}")
        features = spec.make_activation(name=f"act{level}")(spec.make_norm(name=f"norm{level}")(conv(features)))
        outputs.append(features)
    return resnet_v1.Backbone(tf_keras.Model(inputs, outputs), levels=tuple(range(2, max_level + 1)), name="tiny")


@pytest.fixture
def tiny_resnet18(monkeypatch) -> None:
    """Configs that say ResNet-18 get a backbone that is built in a moment."""
    from object_detection_fpn import builder

    monkeypatch.setitem(builder.BACKBONES, "faster_rcnn_resnet18_fpn_keras", _tiny_backbone)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def root_dir() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shapes_data(tmp_path_factory):
    """A small drawn data set: 24 training and 6 held-out images of 96 pixels."""
    from object_detection_fpn.data import shapes

    folder = tmp_path_factory.mktemp("shapes")
    return shapes.write_dataset(
        str(folder), num_train=24, num_eval=6, image_size=96, seed=1, num_shards=2, show_progress=False
    )


@pytest.fixture(scope="session")
def small_overrides(shapes_data) -> list[str]:
    """Overrides that make the demo's recipe read `shapes_data` and take half a second a step."""
    return [
        f'train_input_reader.label_map_path="{shapes_data.label_map_path}"',
        f'train_input_reader.tf_record_input_reader.input_path=["{shapes_data.train_records}"]',
        f'eval_input_reader.0.label_map_path="{shapes_data.label_map_path}"',
        f'eval_input_reader.0.tf_record_input_reader.input_path=["{shapes_data.eval_records}"]',
        "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer.min_dimension=96",
        "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer.max_dimension=96",
        "model.faster_rcnn.feature_extractor.fpn.additional_layer_depth=32",
        "model.faster_rcnn.first_stage_max_proposals=50",
        "train_config.batch_size=2",
        "eval_config.batch_size=4",
        "eval_config.num_visualizations=2",
    ]


@pytest.fixture(scope="session")
def small_config(small_overrides):
    """The demo's recipe made small; copy it before changing it."""
    from object_detection_fpn import config

    recipe = config.recipe_path("faster_rcnn_resnet18_fpn_shapes_160x160")
    return config.load_config(recipe, small_overrides, require_data=["train", "eval"])
