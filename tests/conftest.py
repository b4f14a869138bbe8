"""Fixtures of the whole suite."""

from __future__ import annotations

import importlib.util
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


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def root_dir() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def parity(root_dir):
    """The comparisons with the Object Detection API, which are a benchmark too."""
    spec = importlib.util.spec_from_file_location("parity", root_dir / "benchmarks" / "parity.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
