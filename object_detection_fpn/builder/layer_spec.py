"""How layers are made, from `Hyperparams`."""

from __future__ import annotations

import functools
from collections.abc import Callable

import tf_keras

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import layers
from object_detection_fpn.protos import hyperparams_pb2

ACTIVATIONS = {
    hyperparams_pb2.Hyperparams.NONE: "linear",
    hyperparams_pb2.Hyperparams.RELU: "relu",
    hyperparams_pb2.Hyperparams.RELU_6: "relu6",
    hyperparams_pb2.Hyperparams.SWISH: "swish",
}


def build_layer_spec(
    message: hyperparams_pb2.Hyperparams,
    *,
    execution: Execution,
    freeze_statistics: bool = False,
) -> layers.LayerSpec:
    """What `conv_hyperparams` and `fc_hyperparams` say of layers."""
    return layers.LayerSpec(
        initializer=build_initializer(message.initializer),
        regularizer=_build_regularizer(message.regularizer),
        activation=ACTIVATIONS[message.activation],
        norm=_build_norm(message),
        force_use_bias=message.force_use_bias,
        freeze_statistics=freeze_statistics,
        execution=execution,
    )


def _build_regularizer(message: hyperparams_pb2.Regularizer) -> tf_keras.regularizers.Regularizer | None:
    kind = message.WhichOneof("regularizer_oneof")
    if kind == "l1_regularizer":
        return tf_keras.regularizers.L1(message.l1_regularizer.weight)
    if kind == "l2_regularizer":
        # The config language means weight / 2 * sum of squares; Keras has no half.
        return tf_keras.regularizers.L2(message.l2_regularizer.weight * 0.5)
    return None


def build_initializer(message: hyperparams_pb2.Initializer) -> Callable[[], tf_keras.initializers.Initializer]:
    """Makes a new initializer of each layer's first values; Keras's own where the message names none."""
    initializers = tf_keras.initializers
    kind = message.WhichOneof("initializer_oneof")
    if kind == "truncated_normal_initializer":
        truncated = message.truncated_normal_initializer
        return functools.partial(initializers.TruncatedNormal, mean=truncated.mean, stddev=truncated.stddev)
    if kind == "random_normal_initializer":
        random = message.random_normal_initializer
        return functools.partial(initializers.RandomNormal, mean=random.mean, stddev=random.stddev)
    if kind == "variance_scaling_initializer":
        scaling = message.variance_scaling_initializer
        return functools.partial(
            initializers.VarianceScaling,
            scale=scaling.factor,
            mode=hyperparams_pb2.VarianceScalingInitializer.Mode.Name(scaling.mode).lower(),
            distribution="uniform" if scaling.uniform else "truncated_normal",
        )
    if kind == "keras_initializer_by_name":
        return functools.partial(initializers.get, message.keras_initializer_by_name)
    return initializers.GlorotUniform


def _build_norm(message: hyperparams_pb2.Hyperparams) -> layers.BatchNormSpec | layers.GroupNormSpec | None:
    kind = message.WhichOneof("normalizer_oneof")
    if kind == "group_norm":
        return layers.GroupNormSpec(epsilon=message.group_norm.epsilon)
    if kind in ("batch_norm", "sync_batch_norm"):
        norm = getattr(message, kind)
        return layers.BatchNormSpec(
            momentum=norm.decay,
            epsilon=norm.epsilon,
            center=norm.center,
            scale=norm.scale,
            freeze_statistics=not norm.train,
            synchronized=kind == "sync_batch_norm",
        )
    return None
