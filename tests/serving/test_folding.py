"""Folded models give what the model gives, without a normalization left."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import layers
from object_detection_fpn.modeling.backbones import resnet_v1
from object_detection_fpn.modeling.heads import mask
from object_detection_fpn.records import Inputs
from object_detection_fpn.serving.folding import Folding

SPECS = {
    "with scale": layers.LayerSpec(norm=layers.BatchNormSpec(scale=True)),
    "without scale": layers.LayerSpec(norm=layers.BatchNormSpec()),
    "without offset": layers.LayerSpec(norm=layers.BatchNormSpec(center=False, scale=True)),
    "frozen": layers.LayerSpec(norm=layers.BatchNormSpec(scale=True, freeze_statistics=True)),
    "all frozen": layers.LayerSpec(norm=layers.BatchNormSpec(epsilon=0.0, scale=True, trainable=False)),
    "synchronized": layers.LayerSpec(norm=layers.BatchNormSpec(scale=True, synchronized=True)),
    "by Winograd's algorithm": layers.LayerSpec(
        norm=layers.BatchNormSpec(scale=True), execution=Execution(winograd=True)
    ),
}
IMAGES = tf.constant(np.random.default_rng(0).uniform(-100, 100, (1, 64, 64, 3)), tf.float32)
TRUE_SHAPES = tf.constant([[64, 64, 3]])


def fill(model, seed=0):
    """Gives a model weights as different as those of a trained one."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if "moving_variance" in variable.name or "gamma" in variable.name:
            variable.assign(rng.uniform(0.5, 2.0, variable.shape))
        elif "bias" in variable.name or "beta" in variable.name or "moving_mean" in variable.name:
            variable.assign(rng.normal(0, 0.3, variable.shape))
        else:
            # Of what goes through the exponential, less: it would magnify the differences of rounding.
            gain = 0.1 if re.search("deltas|box_predictor", variable.name) else 1.0
            variable.assign(rng.normal(0, gain * np.sqrt(2 / np.prod(variable.shape[:-1])), variable.shape))
    return model


def used_ops(concrete):
    """Types of the operations that the outputs need."""
    found, waiting = set(), [output.op for output in concrete.outputs]
    while waiting:
        op = waiting.pop()
        if op not in found:
            found.add(op)
            waiting += [each.op for each in op.inputs]
    return [op.type for op in found]


@pytest.fixture(scope="module", params=SPECS)
def small(request, make_model):
    return fill(make_model(spec=SPECS[request.param]))


def predict(model):
    inputs = Inputs(IMAGES, TRUE_SHAPES)
    predictions = model.predict(inputs, training=False)
    return predictions, model.postprocess(predictions, inputs)


def assert_close(actual, expected):
    for a, e in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True):
        if e is not None:
            np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-4 * max(1.0, np.abs(e).max()))


@pytest.mark.no_cover
def test_detections_are_those_of_the_model(small):
    expected = predict(small)
    with Folding(small):
        folded = predict(small)
    assert_close(folded, expected)
    assert_close(predict(small), expected)  # the model itself is as before


def test_every_convolution_takes_its_normalization(small):
    folding = Folding(small)

    def extract():
        with folding:
            return small.rpn.head(small.feature_extractor(IMAGES, training=False), training=False)

    ops = used_ops(tf.function(extract, autograph=False).get_concrete_function())
    assert not {"FusedBatchNormV3", "Rsqrt", "Sub"}.intersection(ops)
    # Backbone 4, pyramid 3 + 1, RPN 1, each of weights and bias; the RPN's serves all levels.
    assert len(folding.variables) == 2 * 9


def test_folded_weights_are_rounded_once():
    spec = dataclasses.replace(SPECS["with scale"], force_use_bias=True)
    layer = layers.ConvNormActivation(4, 3, spec=spec, name="layer")
    layers.build(layer, (None, None, None, 3))
    fill(layer)
    folding = Folding(layer)
    with folding:
        layer(IMAGES, training=False)
    kernel, bias = folding.variables
    values = {v.name.split("/")[-1].removesuffix(":0"): v.numpy().astype(np.float64) for v in layer.variables}
    scale = values["gamma"] / np.sqrt(values["moving_variance"] + layer.norm.epsilon)
    np.testing.assert_array_equal(kernel, (values["kernel"] * scale).astype(np.float32))
    expected = (values["bias"] - values["moving_mean"]) * scale + values["beta"]
    np.testing.assert_array_equal(bias, expected.astype(np.float32))


BACKBONES = {
    "resnet50": lambda: resnet_v1.resnet_v1(50),
    "resnet18": lambda: resnet_v1.resnet_v1_small(18),
    "PyTorch's": lambda: resnet_v1.resnet_v1(
        50, max_level=3, spec=SPECS["all frozen"], stride_in_3x3=True, symmetric_padding=True, frozen_stages=1
    ),
}


@pytest.mark.parametrize("make", BACKBONES.values(), ids=BACKBONES)
@pytest.mark.no_cover
def test_backbones_fold_whole(make):
    backbone = fill(make())
    folding = Folding(backbone)

    def run():
        with folding:
            return backbone(IMAGES, training=False)

    concrete = tf.function(run, autograph=False).get_concrete_function()
    ops = used_ops(concrete)
    assert not {"FusedBatchNormV3", "Rsqrt"}.intersection(ops)
    assert len(folding.variables) == 2 * ops.count("Conv2D")
    for level, expected in backbone(IMAGES, training=False).items():
        np.testing.assert_allclose(
            concrete()[level], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max(), err_msg=str(level)
        )


@pytest.mark.parametrize("upsampling, num_convs", [("transposed_convolution", 2), ("resize", 1), ("repeat", 2)])
def test_the_mask_head_takes_its_normalizations_too(upsampling, num_convs):
    head = mask.MaskHead(
        in_size=4, in_filters=6, num_masks=3, size=(8, 8), num_convolutions=2, depth=8, upsampling=upsampling,
        spec=SPECS["with scale"],
    )  # fmt: skip
    fill(head)
    features = tf.constant(np.random.default_rng(0).normal(size=(1, 5, 4, 4, 6)), tf.float32)
    classes = tf.constant([[0, 1, 2, 1, 0]])
    expected = head(features, classes, training=False)
    folding = Folding(head)
    with folding:
        folded = head(features, classes, training=False)
    assert len(folding.variables) == 2 * num_convs
    assert_close(folded, expected)


def test_group_normalization_stays():
    layer = layers.ConvNormActivation(32, 3, spec=layers.LayerSpec(norm=layers.GroupNormSpec()), name="layer")
    layers.build(layer, (None, None, None, 3))
    folding = Folding(layer)
    with folding:
        folded = layer(IMAGES, training=False)
    assert folding.variables == []
    np.testing.assert_array_equal(folded, layer(IMAGES, training=False))


def test_training_is_not_folded():
    layer = layers.ConvNormActivation(4, 3, spec=SPECS["with scale"], name="layer")
    layers.build(layer, (None, None, None, 3))
    folding = Folding(layer)
    with folding:
        layer(IMAGES, training=True)
    assert folding.variables == []


def test_an_activation_between_them_keeps_both():
    inputs = tf_keras.Input([None, None, 3])
    features = tf_keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    model = fill(tf_keras.Model(inputs, tf_keras.layers.BatchNormalization()(features)))
    folding = Folding(model)
    with folding:
        folded = model(IMAGES, training=False)
    assert folding.variables == []
    np.testing.assert_array_equal(folded, model(IMAGES, training=False))


def test_half_precision_is_not_folded():
    spec = dataclasses.replace(SPECS["with scale"], execution=Execution(dtype="mixed_bfloat16"))
    layer = layers.ConvNormActivation(4, 3, spec=spec, name="layer")
    layers.build(layer, (None, None, None, 3))
    folding = Folding(layer)
    with folding:
        layer(IMAGES, training=False)
    assert folding.variables == []
