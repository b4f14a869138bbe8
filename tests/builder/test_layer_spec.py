"""Hyperparams become the specification of a layer."""

from __future__ import annotations

import pytest
from google.protobuf import text_format

from object_detection_fpn import builder
from object_detection_fpn.builder.layer_spec import ACTIVATIONS
from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import layers
from object_detection_fpn.protos import (
    hyperparams_pb2,
)


def parse(text, message_type):
    return text_format.Parse(text, message_type())


def layer_spec(text, execution=Execution(), **kwargs):
    return builder.build_layer_spec(parse(text, hyperparams_pb2.Hyperparams), execution=execution, **kwargs)


@pytest.mark.parametrize(
    "text, config",
    [
        ("regularizer { l2_regularizer { weight: 0.0004 } }", {"l2": 0.0002}),  # half the sum of squares
        ("regularizer { l2_regularizer { } }", {"l2": 0.5}),
        ("regularizer { l1_regularizer { weight: 0.25 } }", {"l1": 0.25}),
    ],
)
def test_regularizers(text, config):
    regularizer = layer_spec(text).regularizer
    assert {key: pytest.approx(value) for key, value in config.items()} == regularizer.get_config()


@pytest.mark.parametrize("text", ["", "regularizer { }"])
def test_no_regularizer(text):
    assert layer_spec(text).regularizer is None


@pytest.mark.parametrize(
    "text, kind, values",
    [
        ("truncated_normal_initializer { mean: 0.5 stddev: 0.03 }", "TruncatedNormal", {"mean": 0.5, "stddev": 0.03}),
        ("truncated_normal_initializer { }", "TruncatedNormal", {"mean": 0, "stddev": 1}),
        ("random_normal_initializer { mean: 0.25 stddev: 0.01 }", "RandomNormal", {"mean": 0.25, "stddev": 0.01}),
        (
            "variance_scaling_initializer { factor: 3 uniform: true mode: FAN_AVG }",
            "VarianceScaling",
            {"scale": 3, "mode": "fan_avg", "distribution": "uniform"},
        ),
        (
            "variance_scaling_initializer { mode: FAN_OUT }",
            "VarianceScaling",
            {"scale": 2, "mode": "fan_out", "distribution": "truncated_normal"},
        ),
        ("variance_scaling_initializer { }", "VarianceScaling", {"scale": 2, "mode": "fan_in"}),
        ('keras_initializer_by_name: "he_uniform"', "HeUniform", {}),
        ("", "GlorotUniform", {}),
    ],
)
def test_initializers(text, kind, values):
    make = layer_spec(f"initializer {{ {text} }}").initializer
    initializer = make()
    assert type(initializer).__name__ == kind
    assert make() is not initializer  # one object used for two layers would give both the same values
    config = initializer.get_config()
    assert {key: config[key] for key in values} == {
        key: value if isinstance(value, str) else pytest.approx(value) for key, value in values.items()
    }


@pytest.mark.parametrize(
    "text, activation",
    [("NONE", "linear"), ("RELU", "relu"), ("RELU_6", "relu6"), ("SWISH", "swish")],
)
def test_activations(text, activation):
    assert layer_spec(f"activation: {text}").activation == activation
    assert activation in layers.ACTIVATIONS
    assert layer_spec("").activation == "relu"


def test_every_activation_of_the_language_can_be_built():
    assert set(ACTIVATIONS) == set(hyperparams_pb2.Hyperparams.Activation.values())


@pytest.mark.parametrize(
    "text, norm",
    [
        ("", None),
        ("group_norm { }", layers.GroupNormSpec(0.001)),
        ("group_norm { epsilon: 0.25 }", layers.GroupNormSpec(epsilon=0.25)),
        ("batch_norm { }", layers.BatchNormSpec(0.999, 0.001, True, False, False, False)),
        (
            "batch_norm { decay: 0.5 center: false scale: true epsilon: 0.25 train: false }",
            layers.BatchNormSpec(
                momentum=0.5, epsilon=0.25, center=False, scale=True, freeze_statistics=True, synchronized=False
            ),
        ),
        ("sync_batch_norm { decay: 0.5 epsilon: 0.25 }", layers.BatchNormSpec(0.5, 0.25, synchronized=True)),
    ],
)
def test_normalizations(text, norm):
    found = layer_spec(text).norm
    assert type(found) is type(norm)
    if norm is not None:
        assert vars(found) == {key: pytest.approx(value) for key, value in vars(norm).items()}


def test_the_rest_of_a_layer_spec():
    execution = Execution(dtype="mixed_bfloat16")
    spec = layer_spec("force_use_bias: true", freeze_statistics=True, execution=execution)
    assert (spec.force_use_bias, spec.freeze_statistics, spec.dtype) == (True, True, "mixed_bfloat16")
    assert (layer_spec("").force_use_bias, layer_spec("").freeze_statistics) == (False, False)
