"""Box head: two fully connected layers, then class logits and box deltas (Lin et al. 2017, section 4.2)."""

from __future__ import annotations

import tensorflow as tf
import tf_keras

from object_detection_fpn.modeling import layers

_HIDDEN_UNITS = 1024  # Lin et al. 2017, section 4.2


class BoxFeatureExtractor(tf_keras.layers.Layer):
    """Second-stage features of each RoI: fully connected, normalization, fully connected, each with ReLU.

    The normalization after the first layer and none after the second is the Object Detection API's.

    Call: [N, S, S, F] -> [N, `num_units`].

    Args:
        in_size: S.
        in_filters: F.
        num_units: of both layers.
        spec: normalization and dtype; the layers are initialized by Glorot and Bengio's rule and not regularized, as there.
        name: of the layer.
    """

    def __init__(
        self,
        *,
        in_size: int,
        in_filters: int,
        num_units: int = _HIDDEN_UNITS,
        spec: layers.LayerSpec,
        name: str = "box_feature_extractor",
    ):
        super().__init__(name=name, dtype=spec.dtype)
        self.num_units = num_units
        self.fc1 = tf_keras.layers.Dense(num_units, activation="relu", dtype=spec.dtype, name="fc1")
        self.norm = spec.make_norm(name="norm")
        self.fc2 = tf_keras.layers.Dense(num_units, activation="relu", dtype=spec.dtype, name="fc2")
        self._in_units = in_size * in_size * in_filters
        layers.build(self, (None, in_size, in_size, in_filters))

    def build(self, _: tf.TensorShape) -> None:
        layers.build(self.fc1, (None, self._in_units))
        layers.build(self.norm, (None, self.num_units))
        layers.build(self.fc2, (None, self.num_units))

    def call(self, roi_features: tf.Tensor, training: bool) -> tf.Tensor:
        hidden = self.fc1(tf.reshape(roi_features, [-1, self._in_units]))
        return self.fc2(self.norm(hidden, training=training))


class BoxHead(tf_keras.layers.Layer):
    """Classifies each RoI and refines its box.

    Call: roi features [B, R, S, S, F] -> class_logits [B, R, C+1] (background first), box_deltas [B, R, C or 1, 4], float32.

    Args:
        feature_extractor: what both predictors see.
        num_classes: C.
        share_box_across_classes: one box for all classes instead of one for each.
        dropout_rate: share of features dropped before each predictor in training; None = no layer for it.
        spec: initialization, regularization, dtype and, after them, normalization of the predictors.
        name: of the layer.
    """

    def __init__(
        self,
        *,
        feature_extractor: BoxFeatureExtractor,
        num_classes: int,
        share_box_across_classes: bool = False,
        dropout_rate: float | None = None,
        spec: layers.LayerSpec,
        name: str = "box_head",
    ):
        super().__init__(name=name, dtype=spec.dtype)
        self.feature_extractor = feature_extractor
        self.num_classes = num_classes
        self.dropout_rate = dropout_rate
        self.num_boxes = 1 if share_box_across_classes else num_classes

        def make_predictor(units: int, name: str) -> tf_keras.layers.Dense:
            return tf_keras.layers.Dense(
                units,
                kernel_initializer=spec.initializer(),
                kernel_regularizer=spec.regularizer,
                dtype=spec.dtype,
                name=name,
            )

        self.class_predictor = make_predictor(num_classes + 1, "class_predictor")
        self.box_predictor = make_predictor(self.num_boxes * 4, "box_predictor")
        self.class_norm, self.box_norm = spec.make_norm(name="class_norm"), spec.make_norm(name="box_norm")
        self.class_dropout = tf_keras.layers.Dropout(dropout_rate or 0.0, dtype=spec.dtype, name="class_dropout")
        self.box_dropout = tf_keras.layers.Dropout(dropout_rate or 0.0, dtype=spec.dtype, name="box_dropout")
        layers.build(self, (None, None, None, None, None))

    def build(self, _: tf.TensorShape) -> None:
        for predictor, norm in ((self.class_predictor, self.class_norm), (self.box_predictor, self.box_norm)):
            layers.build(predictor, (None, self.feature_extractor.num_units))
            layers.build(norm, (None, predictor.units))

    def extract(self, roi_features: tf.Tensor, training: bool) -> tf.Tensor:
        """What the predictors see: [B, R, S, S, F] -> [B, R, `feature_extractor.num_units`]."""
        shape = tf.shape(roi_features)
        batch, num_rois = (roi_features.shape[axis] or shape[axis] for axis in (0, 1))
        flat = tf.reshape(roi_features, tf.concat([[batch * num_rois], shape[2:]], axis=0))
        hidden = self.feature_extractor(flat, training=training)
        return tf.reshape(hidden, [batch, num_rois, self.feature_extractor.num_units])

    def call(self, roi_features: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        hidden = self.extract(roi_features, training=training)
        batch, num_rois = (hidden.shape[axis] or tf.shape(hidden)[axis] for axis in (0, 1))
        hidden = tf.reshape(hidden, [-1, self.feature_extractor.num_units])
        logits = self.class_predictor(self.class_dropout(hidden, training=training))
        logits = self.class_norm(logits, training=training)
        deltas = self.box_norm(self.box_predictor(self.box_dropout(hidden, training=training)), training=training)
        # float32 even in bfloat16 training: scores are compared and boxes are pixels.
        logits, deltas = tf.cast(logits, tf.float32), tf.cast(deltas, tf.float32)
        return (
            tf.reshape(logits, [batch, num_rois, self.num_classes + 1]),
            tf.reshape(deltas, [batch, num_rois, self.num_boxes, 4]),
        )
