"""The head of RetinaNet (Lin et al. 2017, "Focal Loss", section 4): classes and refined boxes of every anchor of a pyramid."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tensorflow as tf
import tf_keras

from object_detection_fpn.modeling import layers, loss_normalization, statistics
from object_detection_fpn.modeling.detector import ClassColumns
from object_detection_fpn.ops import losses, matching
from object_detection_fpn.ops.dims import dim
from object_detection_fpn.records import DenseOutputs, Targets

LOCALIZATION_LOSS = "Loss/localization_loss"
CLASSIFICATION_LOSS = "Loss/classification_loss"


@dataclasses.dataclass(frozen=True)
class TowerSpec:
    """The convolutions before a predictor.

    Attributes:
        num_filters: their channels.
        num_convs: how many there are.
        kernel_size: of these and of the predictors.
        share_norms: one normalization after each convolution for all levels, instead of one for each level.
    """

    num_filters: int = 256
    num_convs: int = 4
    kernel_size: int = 3
    share_norms: bool = False


class Tower(tf_keras.layers.Layer):
    """Convolutions, each with normalization and activation; the kernels are the same on all levels.

    Call: features [B, H, W, F] of a level, its index from the finest -> [B, H, W, num_filters].

    Args:
        in_filters: F.
        num_levels: levels that may be called.
        tower: what it consists of.
        spec: of its layers.
        name: of the layer.
    """

    def __init__(self, *, in_filters: int, num_levels: int, tower: TowerSpec, spec: layers.LayerSpec, name: str):
        super().__init__(name=name, dtype=spec.dtype)
        self.convs = [
            spec.make_conv(tower.num_filters, tower.kernel_size, name=f"conv_{i}") for i in range(tower.num_convs)
        ]
        # norms/level/i in checkpoints; statistics of coarse levels are others than those of fine ones.
        num_norms = 0 if spec.norm is None else 1 if tower.share_norms else num_levels
        self.norms = [
            [spec.make_norm(name=f"norm_{level}_{i}") for i in range(tower.num_convs)] for level in range(num_norms)
        ]
        self.activation = spec.make_activation(name="activation")
        self._in_filters, self._num_filters = in_filters, tower.num_filters
        layers.build(self, (None, None, None, in_filters))

    @property
    def num_filters(self) -> int:
        """Channels of what it gives."""
        return self._num_filters if self.convs else self._in_filters

    def build(self, _: tf.TensorShape) -> None:
        for i, conv in enumerate(self.convs):
            layers.build(conv, (None, None, None, self._num_filters if i else self._in_filters))
        for norm in (norm for of_level in self.norms for norm in of_level):
            layers.build(norm, (None, None, None, self._num_filters))

    def call(self, features: tf.Tensor, level: int, training: bool) -> tf.Tensor:
        norms = self.norms[level % len(self.norms)] if self.norms else []  # entry 0 where all levels share one
        for i, conv in enumerate(self.convs):
            features = conv(features)
            if norms:
                features = norms[i](features, training=training)
            features = self.activation(features)
        return features


class DenseHead(tf_keras.layers.Layer):
    """Classifies and refines anchors with the same kernels on all levels.

    Call: tuple of [B, H_l, W_l, F] -> class_logits [B, K, num_columns], box_deltas [B, K, 4], both float32, in the order of
    `ops.anchors`: fine to coarse, then rows, columns, anchors of a cell.

    Args:
        in_filters: F.
        num_levels: how many levels a call brings.
        num_anchors: anchors of a cell.
        num_classes: C.
        has_background: whether the background has a column, before those of the classes.
        tower: the convolutions before each predictor.
        share_tower: one tower before both predictors.
        class_bias: first value of the class predictor's bias.
        dropout_rate: share of features dropped before the class predictor in training; None = no layer for it.
        has_average: whether there is `loss_normalizer`, for `DenseLoss.normalization` = "MOVING_AVERAGE".
        spec: of all convolutions.
        name: of the layer.
    """

    loss_names = (LOCALIZATION_LOSS, CLASSIFICATION_LOSS)
    statistic_names = (*statistics.match_names("DenseHead"), statistics.unmatched_name("DenseHead"))

    def __init__(
        self,
        *,
        in_filters: int,
        num_levels: int,
        num_anchors: int,
        num_classes: int,
        has_background: bool = True,
        tower: TowerSpec = TowerSpec(),
        share_tower: bool = False,
        class_bias: float = 0.0,
        dropout_rate: float | None = None,
        has_average: bool = False,
        spec: layers.LayerSpec,
        name: str = "dense_head",
    ):
        super().__init__(name=name, dtype=spec.dtype)
        self.num_levels, self.num_anchors, self.num_classes = num_levels, num_anchors, num_classes
        self.has_background = has_background
        self.num_columns = num_classes + has_background

        def make_tower(name: str) -> Tower:
            return Tower(in_filters=in_filters, num_levels=num_levels, tower=tower, spec=spec, name=name)

        def make_predictor(num_codes: int, name: str) -> tf_keras.layers.Conv2D:
            return spec.make_conv(num_anchors * num_codes, tower.kernel_size, use_bias=True, name=name)

        self.box_tower = make_tower("box_tower")
        self.class_tower = None if share_tower else make_tower("class_tower")
        self.box_predictor = make_predictor(4, "box_predictor")
        self.class_predictor = make_predictor(self.num_columns, "class_predictor")
        self.class_predictor.bias_initializer = tf_keras.initializers.Constant(class_bias)
        self.class_dropout = None
        if dropout_rate is not None:
            self.class_dropout = tf_keras.layers.Dropout(dropout_rate, dtype=spec.dtype, name="class_dropout")
        self.loss_normalizer = None
        if has_average:
            self.loss_normalizer = self.add_weight(
                name="loss_normalizer",
                shape=[],
                dtype="float32",
                initializer=tf_keras.initializers.Constant(loss_normalization.FIRST_AVERAGE),
                trainable=False,
                # As moving statistics: every replica has its own, and a checkpoint their mean.
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.MEAN,
            )
        layers.build(self, (None, None, None, in_filters))

    def build(self, _: tf.TensorShape) -> None:
        for predictor in (self.box_predictor, self.class_predictor):
            layers.build(predictor, (None, None, None, self.box_tower.num_filters))

    def class_columns(self) -> dict[str, ClassColumns]:
        """The layers whose last axis holds classes, or is common to all of them."""
        of_classes = ClassColumns(num_columns=1, has_background=self.has_background, num_groups=self.num_anchors)
        return {"class_predictor": of_classes, "box_predictor": ClassColumns(num_columns=0, has_background=False)}

    def call(self, pyramid: Sequence[tf.Tensor], training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        if len(pyramid) != self.num_levels:
            raise ValueError(f"The pyramid has {len(pyramid)} levels; this head was built for {self.num_levels}.")
        logits: list[tf.Tensor] = []
        deltas: list[tf.Tensor] = []
        for level, features in enumerate(pyramid):
            # After the level before: convolutions of several levels at once, each on all cores of a CPU, would push each other
            # out of its caches.
            with tf.control_dependencies(logits[-1:] or pyramid[:1]):
                features = tf.identity(features)
            of_boxes = self.box_tower(features, level=level, training=training)
            of_classes = of_boxes
            if self.class_tower is not None:
                of_classes = self.class_tower(features, level=level, training=training)
            if self.class_dropout is not None:
                of_classes = self.class_dropout(of_classes, training=training)
            deltas.append(_split_anchors(self.box_predictor(of_boxes), 4))
            logits.append(_split_anchors(self.class_predictor(of_classes), self.num_columns))
        # float32 even in bfloat16 training: scores are compared and boxes are pixels.
        return tf.cast(tf.concat(logits, axis=1), tf.float32), tf.cast(tf.concat(deltas, axis=1), tf.float32)


def _split_anchors(cells: tf.Tensor, code_size: int) -> tf.Tensor:
    """[B, H, W, A * code_size] -> [B, H * W * A, code_size]."""
    batch, height, width, num_channels = (dim(cells, axis) for axis in range(4))
    return tf.reshape(cells, [batch, height * width * (num_channels // code_size), code_size])


@dataclasses.dataclass(frozen=True)
class DenseLoss:
    """Classification of all anchors, and localization of those that are objects.

    Attributes:
        localization_weight, classification_weight: factors of the two losses.
        localization_loss: of the refined box of each object.
        classification_loss: of the logits of each anchor, summed over the columns.
        normalization: what the sums of an image's anchors are divided by.
        has_background: whether the logits begin with a column of the background.
        background_is_zero: the targets of background are zero for all columns, instead of one for its own.
        background_weight: factor of the classification loss of background.
        code_size: what the localization loss is divided by besides.
    """

    localization_weight: float = 1.0
    classification_weight: float = 1.0
    localization_loss: losses.LocalizationLoss = losses.SmoothL1()
    classification_loss: losses.ClassificationLoss = losses.sigmoid_focal_loss
    normalization: loss_normalization.MatchNormalization = "NUM_MATCHES"
    has_background: bool = True
    background_is_zero: bool = True
    background_weight: float = 1.0
    code_size: float = 1.0

    def __call__(
        self, outputs: DenseOutputs, targets: Targets, *, is_batch: bool, average: tf.Variable | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns the losses of each image, [B] float32, whose mean is the loss of the batch.

        Args:
            outputs: of K anchors.
            targets: of the same anchors.
            is_batch: whether the images train together, see `loss_normalization.divisor_of_matches`.
            average: [] float32 variable for "MOVING_AVERAGE"; it moves if the images train.
        """
        class_targets = self._class_targets(targets, outputs.class_logits.shape[-1])
        weights = targets.class_weights
        if self.background_weight != 1.0:
            weights *= tf.where(targets.matches == matching.BACKGROUND, self.background_weight, 1.0)
        classification = self.classification_loss(outputs.class_logits, class_targets) * weights
        localization = self.localization_loss(outputs.box_deltas, targets.box_deltas, outputs.anchors[tf.newaxis])
        localization *= targets.box_weights
        divisor = loss_normalization.divisor_of_matches(
            tf.reduce_sum(targets.box_weights, axis=1), self.normalization, is_batch=is_batch, average=average
        )
        of_boxes = tf.reduce_sum(localization, axis=1) / (divisor * self.code_size)
        return {
            LOCALIZATION_LOSS: self.localization_weight * of_boxes,
            CLASSIFICATION_LOSS: self.classification_weight * (tf.reduce_sum(classification, axis=1) / divisor),
        }

    def _class_targets(self, targets: Targets, num_columns: int) -> tf.Tensor:
        """[B, K, num_columns]: of the background first, where it has a column."""
        is_object = targets.matches >= 0
        if targets.class_targets is None:
            # A class below 0 is zero in all columns.
            classes = tf.where(is_object, targets.classes, -1) if self.background_is_zero else targets.classes
            return tf.one_hot(classes if self.has_background else classes - 1, num_columns)
        values = targets.class_targets  # [B, K, C+1]
        if self.background_is_zero:
            values = tf.where(is_object[..., tf.newaxis], values, 0.0)
        return values if self.has_background else values[..., 1:]
