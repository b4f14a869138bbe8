"""docs/adding_a_backbone.md: its lines are those of `benchmarks/custom_backbone.py`, and these work."""

from __future__ import annotations

import re

import numpy as np
import pytest
import support
import tensorflow as tf
import tf_keras

from object_detection_fpn import builder
from object_detection_fpn.config import tables
from object_detection_fpn.modeling.detector import mean_losses
from object_detection_fpn.records import Inputs


@pytest.fixture(scope="module")
def example(import_benchmark):
    return import_benchmark("custom_backbone")


@pytest.fixture
def registered(example, monkeypatch):
    monkeypatch.setattr(tables, "EXTRACTOR_TYPES", tables.EXTRACTOR_TYPES)  # put back after the test
    example.register()
    yield example.TYPE
    del builder.BACKBONES[example.TYPE]


def test_the_code_of_the_page_is_that_of_the_example(root_dir):
    page = (root_dir / "docs" / "adding_a_backbone.md").read_text()
    code = (root_dir / "benchmarks" / "custom_backbone.py").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        assert block in code


def test_links_and_names_of_the_page_are_real(root_dir, example):
    path = root_dir / "docs" / "adding_a_backbone.md"
    page = path.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", page):
        assert (path.parent / link).exists(), link
    for name in ("builder/feature_extractor.py", "config/tables.py", "modeling/backbones"):
        assert name in page and (root_dir / "object_detection_fpn" / name).exists()
    assert f'type: "{example.TYPE}"' in page
    assert "python benchmarks/small_data.py custom_backbone --output" in page


@pytest.mark.parametrize("max_level", [3, 5])
def test_features_have_the_strides_of_their_levels(example, max_level):
    backbone = example.six_blocks(max_level=max_level)
    features = backbone(tf.zeros([2, 64, 96, 3]), training=True)
    assert {level: tuple(each.shape) for level, each in features.items()} == {
        level: (2, 64 // 2**level, 96 // 2**level, 16 * 2**level) for level in range(2, max_level + 1)
    }


def test_the_sixth_block_works_on_the_fifth_level(example):
    names = {variable.name.split("_")[0] for variable in example.six_blocks().trainable_variables}
    assert names == {f"block{number}" for number in range(1, 7)}


def test_the_registered_type_trains(registered):
    message = support.model_message(f'feature_extractor {{ type: "{registered}" batch_norm_trainable: true }}')
    model = builder.build_model(message)
    groundtruth = support.make_groundtruth([{"box": (8, 8, 40, 40)}], [{"box": (16, 4, 60, 30), "class": 2}])
    images = tf.constant(np.random.default_rng(0).uniform(0, 255, [2, 64, 64, 3]), tf.float32)
    inputs = model.preprocess(Inputs(images, tf.constant([[64, 64, 3]] * 2)))
    variables = model.trainable_variables
    optimizer = tf_keras.optimizers.SGD(0.01)
    before = [variable.numpy() for variable in variables]
    with tf.GradientTape() as tape:
        predictions = model.predict(inputs, training=True, groundtruth=groundtruth, seed=tf.constant([0, 0]))
        total = tf.add_n(list(mean_losses(model, predictions, groundtruth).values()))
    optimizer.apply_gradients(zip(tape.gradient(total, variables), variables, strict=True))
    assert np.isfinite(total)
    changed = {
        variable.name
        for variable, old in zip(variables, before, strict=True)
        if (variable.numpy() != old).any() and variable.name.startswith("block")
    }
    assert {name.split("_")[0] for name in changed} == {f"block{number}" for number in range(1, 7)}
