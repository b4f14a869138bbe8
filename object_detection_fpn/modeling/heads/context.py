"""Attention to the features of other images of the same camera (Context R-CNN, Beery et al. 2020, section 3.3).

Shape letters: U numbers of a region's features, M rows of context, E numbers of a context feature, A numbers in which regions
and context are compared.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import layers
from object_detection_fpn.ops.dims import dim
from object_detection_fpn.records import Context, ContextOutputs

_NORM = layers.BatchNormSpec(momentum=0.97, epsilon=0.001, scale=True)  # of the Object Detection API
_SIMILARITY_OF_PADDING = -100_000.0  # likewise


class ContextAttention(tf_keras.layers.Layer):
    """Gives each region what it finds in the context: one head of attention, from regions to context features.

    Queries of the regions, keys and values of the context are normalized to length 1; their products, divided by the
    temperature, say which values a region gets. Batch normalization uses the statistics of the batch in training, to which
    padding rows of context and regions belong, whatever the other normalizations of the model do (the Object Detection API).

    Call: region features [B, R, U] or [B, R, S, S, U], num_regions [B], context -> `ContextOutputs`.

    Args:
        in_units: U.
        context_length: E.
        num_units: A.
        temperature: the lower, the more the most similar context feature counts.
        execution: how it is computed; similarities are float32 whatever its dtype is.
        name: of the layer.
    """

    def __init__(
        self,
        *,
        in_units: int,
        context_length: int,
        num_units: int = 2048,
        temperature: float = 0.01,
        execution: Execution = Execution(),
        name: str = "context_attention",
    ):
        spec = layers.LayerSpec(norm=_NORM, activation="relu6", execution=execution)
        super().__init__(name=name, dtype=spec.dtype)
        self.context_length = context_length
        self._temperature = temperature
        self.query = Projection(in_units=in_units, out_units=num_units, spec=spec, name="query")
        self.key = Projection(in_units=context_length, out_units=num_units, spec=spec, name="key")
        self.value = Projection(in_units=context_length, out_units=num_units, spec=spec, name="value")
        self.output_projection = Projection(in_units=num_units, out_units=in_units, spec=spec, name="output_projection")
        layers.build(self, (None, None, in_units))

    def build(self, _: tf.TensorShape) -> None:
        for projection in (self.query, self.key, self.value, self.output_projection):
            layers.build(projection, (None, None, projection.in_units))

    def call(
        self, region_features: tf.Tensor, num_regions: tf.Tensor, context: Context, training: bool
    ) -> ContextOutputs:
        if region_features.shape.rank == 5:
            region_features = tf.reduce_mean(region_features, axis=[2, 3])
        is_region = tf.sequence_mask(num_regions, dim(region_features, 1))  # [B, R]
        is_real = tf.sequence_mask(context.num_features, dim(context.features, 1))  # [B, M]
        # float32 even in bfloat16 training: a temperature of 0.01 makes a rounding error of 1 % a factor of 2.7.
        queries = _of_length_one(self.query(region_features, training=training))  # [B, R, A]
        keys = _of_length_one(self.key(context.features, training=training))  # [B, M, A]
        values = _of_length_one(self.value(context.features, training=training))  # [B, M, A]
        # What padding rows of regions find is used by the statistics of the last normalization alone.
        queries = tf.where(is_region[..., None], queries, 0.0)
        values = tf.where(is_real[..., None], values, 0.0)
        similarities = tf.matmul(queries, keys, transpose_b=True)  # [B, R, M]
        similarities = tf.where(is_real[:, None], similarities, _SIMILARITY_OF_PADDING)
        weights = tf.nn.softmax(similarities / self._temperature)
        found = tf.cast(tf.matmul(weights, values), self.compute_dtype)
        features = self.output_projection(found, training=training)
        return ContextOutputs(features=features, weights=weights, values=values)


class Projection(tf_keras.layers.Layer):
    """Fully connected, batch normalization, activation. Call: [B, N, `in_units`] -> [B, N, `out_units`]."""

    def __init__(self, *, in_units: int, out_units: int, spec: layers.LayerSpec, name: str):
        super().__init__(name=name, dtype=spec.dtype)
        self.in_units, self._out_units = in_units, out_units
        self.dense = tf_keras.layers.Dense(
            out_units, kernel_initializer=spec.make_initializer(), dtype=spec.dtype, name="dense"
        )
        self.norm = spec.make_norm(name="norm")
        self.activation = spec.make_activation(name="activation")

    def build(self, _: tf.TensorShape) -> None:
        layers.build(self.dense, (None, self.in_units))
        layers.build(self.norm, (None, self._out_units))

    def call(self, features: tf.Tensor, training: bool) -> tf.Tensor:
        batch, num_rows = dim(features, 0), dim(features, 1)
        hidden = self.dense(tf.reshape(features, [batch * num_rows, self.in_units]))
        hidden = self.activation(self.norm(hidden, training=training))
        return tf.reshape(hidden, [batch, num_rows, self._out_units])


def _of_length_one(features: tf.Tensor) -> tf.Tensor:
    """[..., A] float32; zeros stay zeros."""
    return tf.math.l2_normalize(tf.cast(features, tf.float32), axis=-1)
