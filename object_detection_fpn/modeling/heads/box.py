"""Box head: hidden layers, then class logits and box deltas (Lin et al. 2017, section 4.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf
import tf_keras

from object_detection_fpn.modeling import hard_examples, layers, loss_normalization, postprocess, statistics
from object_detection_fpn.modeling.detector import ClassColumns
from object_detection_fpn.modeling.single_level import LastStage
from object_detection_fpn.ops import losses
from object_detection_fpn.ops.dims import dim
from object_detection_fpn.records import BoxOutputs, Detections, Predictions, Proposals, Targets

LOCALIZATION_LOSS = "Loss/BoxClassifierLoss/localization_loss"
CLASSIFICATION_LOSS = "Loss/BoxClassifierLoss/classification_loss"

_HIDDEN_UNITS = 1024  # Lin et al. 2017, section 4.2


class BoxFeatureExtractor(tf_keras.layers.Layer):
    """Second-stage features of each RoI: convolutions, if there are any, then fully connected layers.

    Without `hidden` the layers are those of the Object Detection API: fully connected ones with ReLU, initialized by Glorot and
    Bengio's rule and not regularized, and after the first of them, and no other, a normalization. With it they are those of
    Wu and He (2018, section 5): 3 x 3 convolutions, each with normalization and activation, then fully connected layers with
    an activation.

    Call: [N, S, S, F] -> [N, `num_units`].

    Args:
        in_size: S.
        in_filters: F.
        num_units: of each fully connected layer.
        num_dense_layers: how many there are, at least 1.
        num_convolutions: how many there are; above 0 only with `hidden`.
        convolution_depth: their channels.
        spec: dtype, and without `hidden` the normalization after the first fully connected layer.
        hidden: activation, initializer, regularizer and normalization of the convolutions, and all but the normalization of the
            fully connected layers.
        name: of the layer.
    """

    def __init__(
        self,
        *,
        in_size: int,
        in_filters: int,
        num_units: int = _HIDDEN_UNITS,
        num_dense_layers: int = 2,
        num_convolutions: int = 0,
        convolution_depth: int = 256,
        spec: layers.LayerSpec,
        hidden: layers.LayerSpec | None = None,
        name: str = "box_feature_extractor",
    ):
        super().__init__(name=name, dtype=spec.dtype)
        self.num_units = num_units
        parts: list[tf_keras.layers.Layer] = []
        for i in range(1, num_convolutions + 1):
            if hidden is None:
                raise ValueError(f"num_convolutions = {num_convolutions} needs hidden. Allowed: 0, or both.")
            parts.append(layers.ConvNormActivation(convolution_depth, 3, spec=hidden, name=f"conv{i}"))
        for i in range(1, num_dense_layers + 1):
            parts.append(_make_dense(num_units, hidden, spec.dtype, f"fc{i}"))
            if i == 1 and hidden is None:
                parts.append(spec.make_norm(name="norm"))
        for layer in parts:
            setattr(self, layer.name, layer)  # conv1, ..., fc1, norm, fc2, ...: paths in checkpoints
        self._names = tuple(layer.name for layer in parts)
        self._num_convolutions = num_convolutions
        self._in_shape = (in_size, in_size, in_filters)
        layers.build(self, (None, *self._in_shape))

    @property
    def parts(self) -> list[tf_keras.layers.Layer]:
        """Its layers, in the order in which they are applied."""
        return [getattr(self, name) for name in self._names]

    def build(self, input_shape: tf.TensorShape) -> None:
        size, _, filters = self._in_shape
        for layer in self.parts[: self._num_convolutions]:
            layers.build(layer, (None, size, size, filters))
            filters = layer.conv.filters
        self._flat_units = units = size * size * filters
        for layer in self.parts[self._num_convolutions :]:
            layers.build(layer, (None, units))
            units = self.num_units

    def call(self, roi_features: tf.Tensor, training: bool) -> tf.Tensor:
        hidden = roi_features
        for layer in self.parts[: self._num_convolutions]:
            hidden = layer(hidden, training=training)
        hidden = tf.reshape(hidden, [-1, self._flat_units])
        for layer in self.parts[self._num_convolutions :]:
            is_dense = isinstance(layer, tf_keras.layers.Dense)
            hidden = layer(hidden) if is_dense else layer(hidden, training=training)
        return hidden


def _make_dense(units: int, spec: layers.LayerSpec | None, dtype: str, name: str) -> tf_keras.layers.Dense:
    """A fully connected layer with an activation; without `spec`, that of the Object Detection API."""
    if spec is None:
        return tf_keras.layers.Dense(units, activation="relu", dtype=dtype, name=name)
    return tf_keras.layers.Dense(
        units,
        activation=layers.ACTIVATIONS[spec.activation],
        kernel_initializer=spec.make_initializer(),
        kernel_regularizer=spec.regularizer,
        dtype=dtype,
        name=name,
    )


@dataclasses.dataclass(frozen=True)
class BoxLoss:
    """Classification and localization of the RoIs that the box head saw, or, with `miner`, of the hardest of them.

    Attributes:
        localization_weight, classification_weight: factors of the two losses.
        localization_loss: of the refined box of each object.
        classification_loss: of the logits of each RoI.
        normalization: what the sums of an image's RoIs are divided by.
        num_configured: RoIs that an image is asked for, see `loss_normalization`.
        class_weights: factor of the classification loss of a RoI of each class, background first; empty = 1.
        label_smoothing: share of each class target that is spread over all classes (Szegedy et al. 2016, section 7).
        miner: chooses the RoIs that train, by the losses as they are with all this.
    """

    localization_weight: float = 1.0
    classification_weight: float = 1.0
    localization_loss: losses.LocalizationLoss = losses.SmoothL1()
    classification_loss: losses.ClassificationLoss = losses.softmax_cross_entropy
    normalization: loss_normalization.LossNormalization = "PER_IMAGE"
    num_configured: int = 64
    class_weights: tuple[float, ...] = ()
    label_smoothing: float = 0.0
    miner: hard_examples.HardExampleMiner | None = None

    def __call__(
        self, class_logits: tf.Tensor, box_deltas: tf.Tensor, targets: Targets, rois: Proposals, *, is_batch: bool
    ) -> dict[str, tf.Tensor]:
        """Returns the losses of each image, [B] float32: sums over its RoIs, normalized by the number of RoIs.

        With hard examples, only these are summed, and the divisor stays.

        Args:
            class_logits: [B, R, C+1].
            box_deltas: [B, R, C or 1, 4].
            targets: of the same R RoIs; padding rows have weight 0.
            rois: the RoIs.
            is_batch: whether the images train together, see `loss_normalization.divisor`.
        """
        num_classes = class_logits.shape[-1] - 1
        one_hot = tf.one_hot(targets.classes, num_classes + 1)
        class_targets = one_hot if targets.class_targets is None else targets.class_targets
        if self.label_smoothing:
            share = self.label_smoothing / (num_classes + 1)
            class_targets = (1.0 - self.label_smoothing) * class_targets + share
        classification = self.classification_loss(class_logits, class_targets) * targets.class_weights
        if self.class_weights:
            classification *= tf.linalg.matvec(one_hot, tf.constant(self.class_weights, tf.float32))
        # A masked sum and not a gather, whose gradient would be a scatter.
        is_class = one_hot[..., 1:, None] if box_deltas.shape[2] > 1 else 1.0
        deltas = tf.reduce_sum(box_deltas * is_class, axis=2)
        localization = self.localization_loss(deltas, targets.box_deltas, rois.boxes) * targets.box_weights
        if self.miner is not None:
            is_hard = self.miner(localization, classification, targets, rois)
            localization, classification = localization * is_hard, classification * is_hard
        divisor = loss_normalization.divisor(
            tf.cast(rois.num_proposals, tf.float32),
            self.normalization,
            num_configured=self.num_configured,
            is_batch=is_batch,
        )
        return {
            LOCALIZATION_LOSS: self.localization_weight * (tf.reduce_sum(localization, axis=1) / divisor),
            CLASSIFICATION_LOSS: self.classification_weight * (tf.reduce_sum(classification, axis=1) / divisor),
        }


class BoxHead(tf_keras.layers.Layer):
    """Classifies each RoI and refines its box.

    Call: roi features [B, R, S, S, F] -> `BoxOutputs`.

    Args:
        feature_extractor: what both predictors see, or the cells of which they see the mean.
        num_classes: C.
        share_box_across_classes: one box for all classes instead of one for each.
        dropout_rate: share of features dropped before each predictor in training; None = no layer for it.
        spec: initialization, regularization, execution and, after them, normalization of the predictors.
        box_initializer: makes a kernel initializer of the box predictor; None = that of `spec`.
        loss: what the outputs cost.
        postprocessor: makes detections of the outputs.
        name: of the layer.
    """

    loss_names = (LOCALIZATION_LOSS, CLASSIFICATION_LOSS)
    statistic_names = statistics.match_names("BoxHead")

    def __init__(
        self,
        *,
        feature_extractor: BoxFeatureExtractor | LastStage,
        num_classes: int,
        share_box_across_classes: bool = False,
        dropout_rate: float | None = None,
        spec: layers.LayerSpec,
        box_initializer: Callable[[], tf_keras.initializers.Initializer] | None = None,
        loss: BoxLoss = BoxLoss(),
        postprocessor: postprocess.Postprocessor = postprocess.Postprocessor(),
        name: str = "box_head",
    ):
        super().__init__(name=name, dtype=spec.dtype)
        self.feature_extractor = feature_extractor
        self.num_classes = num_classes
        self.dropout_rate = dropout_rate
        self.num_boxes = 1 if share_box_across_classes else num_classes
        self._loss = loss
        self._postprocessor = postprocessor

        def make_predictor(units: int, spec: layers.LayerSpec, name: str) -> tf_keras.layers.Dense:
            return tf_keras.layers.Dense(
                units,
                kernel_initializer=spec.make_initializer(),
                kernel_regularizer=spec.regularizer,
                dtype=spec.dtype,
                name=name,
            )

        self.class_predictor = make_predictor(num_classes + 1, spec, "class_predictor")
        box_spec = dataclasses.replace(spec, initializer=box_initializer or spec.initializer)
        self.box_predictor = make_predictor(self.num_boxes * 4, box_spec, "box_predictor")
        self.class_norm, self.box_norm = spec.make_norm(name="class_norm"), spec.make_norm(name="box_norm")
        self.class_dropout = tf_keras.layers.Dropout(dropout_rate or 0.0, dtype=spec.dtype, name="class_dropout")
        self.box_dropout = tf_keras.layers.Dropout(dropout_rate or 0.0, dtype=spec.dtype, name="box_dropout")
        layers.build(self, (None, None, None, None, None))

    def build(self, _: tf.TensorShape) -> None:
        for predictor, norm in ((self.class_predictor, self.class_norm), (self.box_predictor, self.box_norm)):
            layers.build(predictor, (None, self.feature_extractor.num_units))
            layers.build(norm, (None, predictor.units))

    def class_columns(self) -> dict[str, ClassColumns]:
        """The layers whose last axis holds classes, or is common to all of them; those without variables are left out."""
        of_classes = ClassColumns(num_columns=1, has_background=True)
        of_boxes = ClassColumns(num_columns=0 if self.num_boxes < self.num_classes else 4, has_background=False)
        layers_by_name = {
            "class_predictor": (self.class_predictor, of_classes),
            "class_norm": (self.class_norm, of_classes),
            "box_predictor": (self.box_predictor, of_boxes),
            "box_norm": (self.box_norm, of_boxes),
        }
        return {name: columns for name, (layer, columns) in layers_by_name.items() if layer.variables}

    def class_weights(self) -> tf.Tensor:
        """[C, 5 U] float32, of each class the weights that score it, and those of its four deltas (or those of all classes)."""
        num_units = self.feature_extractor.num_units
        of_scores = tf.transpose(self.class_predictor.kernel)[1:]
        of_boxes = tf.reshape(self.box_predictor.kernel, [num_units, self.num_boxes, 4])
        of_boxes = tf.reshape(tf.transpose(of_boxes, [1, 2, 0]), [self.num_boxes, 4 * num_units])
        if self.num_boxes < self.num_classes:
            of_boxes = tf.repeat(of_boxes, self.num_classes, axis=0)
        return tf.concat([tf.cast(of_scores, tf.float32), tf.cast(of_boxes, tf.float32)], axis=1)

    def extract(self, roi_features: tf.Tensor, training: bool) -> tf.Tensor:
        """What `feature_extractor` makes of RoIs: [B, R, S, S, F] -> [B, R, U], or [B, R, S', S', U] where it keeps cells."""
        batch, num_rois, height, width, filters = (dim(roi_features, axis) for axis in range(5))
        flat = tf.reshape(roi_features, [batch * num_rois, height, width, filters])
        hidden = self.feature_extractor(flat, training=training)
        return tf.reshape(hidden, [batch, num_rois, *(dim(hidden, axis) for axis in range(1, hidden.shape.rank))])

    def call(self, roi_features: tf.Tensor, training: bool) -> BoxOutputs:
        return self.predict(self.extract(roi_features, training=training), roi_features, training=training)

    def predict(self, hidden: tf.Tensor, roi_features: tf.Tensor, training: bool) -> BoxOutputs:
        """What the predictors say of features as `extract` gives them; the features of RoIs are handed on."""
        batch, num_rois = dim(hidden, 0), dim(hidden, 1)
        cell_features = None
        if hidden.shape.rank == 5:
            cell_features, hidden = hidden, tf.reduce_mean(hidden, axis=[2, 3])
        hidden = tf.reshape(hidden, [-1, self.feature_extractor.num_units])
        logits = self.class_predictor(self.class_dropout(hidden, training=training))
        logits = self.class_norm(logits, training=training)
        deltas = self.box_norm(self.box_predictor(self.box_dropout(hidden, training=training)), training=training)
        # float32 even in bfloat16 training: scores are compared and boxes are pixels.
        logits, deltas = tf.cast(logits, tf.float32), tf.cast(deltas, tf.float32)
        return BoxOutputs(
            class_logits=tf.reshape(logits, [batch, num_rois, self.num_classes + 1]),
            box_deltas=tf.reshape(deltas, [batch, num_rois, self.num_boxes, 4]),
            roi_features=roi_features,
            cell_features=cell_features,
        )

    def loss(self, outputs: BoxOutputs, targets: Targets, rois: Proposals, *, training: bool) -> dict[str, tf.Tensor]:
        """Returns the losses of each image, [B] float32, from the targets of its RoIs; in training the images are a batch."""
        with tf.name_scope("losses"):
            return self._loss(outputs.class_logits, outputs.box_deltas, targets, rois, is_batch=training)

    def decode(self, outputs: BoxOutputs, rois: Proposals) -> tf.Tensor:
        """[B, R, C or 1, 4], the refined box of each RoI (and class) in pixels, not clipped."""
        return self._postprocessor.decode(outputs, rois)

    def postprocess(self, predictions: Predictions, true_shapes: tf.Tensor) -> Detections:
        """Decodes, scores and suppresses; `true_shapes` is [B, 3] int32."""
        assert predictions.box is not None and predictions.rois is not None
        return self._postprocessor(predictions.box, predictions.rois, true_shapes)
