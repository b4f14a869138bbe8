"""RetinaNet (Lin et al. 2017, "Focal Loss for Dense Object Detection") in four verbs."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import tf_keras

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import dense_postprocess, fpn, statistics, targets
from object_detection_fpn.modeling.detector import ClassColumns
from object_detection_fpn.modeling.heads import dense, rpn
from object_detection_fpn.ops import anchors as anchor_ops
from object_detection_fpn.ops import scores as score_ops
from object_detection_fpn.ops.dims import dim
from object_detection_fpn.records import DenseOutputs, Detections, Groundtruth, Inputs, Predictions

_RESTORABLE_PARTS: dict[str, tuple[str, ...] | None] = {
    "classification": ("feature_extractor/backbone",),
    "detection": ("feature_extractor",),  # as `restore_from_objects` of the Object Detection API
    "full": None,
}


class RetinaNet(tf_keras.layers.Layer):
    """The meta-architecture; it is handed its parts. A `modeling.detector.Detector`.

    Args:
        feature_extractor: images -> pyramid.
        head: pyramid -> classes and refined boxes of anchors.
        generate_anchors: [(height, width) of each level] -> anchors [K, 4], pixels.
        matcher: gives the anchors their targets.
        loss: what the outputs cost.
        postprocessor: makes detections of the outputs.
        delta_range: limits of the box deltas; None = none.
        converts_to_scores: whether logits become scores outside of training, before the postprocessor converts them again.
        execution: how it is computed.
        name: of the layer.
    """

    def __init__(
        self,
        *,
        feature_extractor: fpn.FeatureExtractor,
        head: dense.DenseHead,
        generate_anchors: rpn.AnchorGenerator,
        matcher: targets.AnchorMatcher = targets.AnchorMatcher(),
        loss: dense.DenseLoss = dense.DenseLoss(),
        postprocessor: dense_postprocess.DensePostprocessor = dense_postprocess.DensePostprocessor(),
        delta_range: tuple[float, float] | None = None,
        converts_to_scores: bool = False,
        execution: Execution = Execution(),
        name: str = "retinanet",
    ):
        super().__init__(name=name, dtype="float32")
        self.feature_extractor = feature_extractor
        self.dense_head = head
        self._generate_anchors = generate_anchors
        self._matcher = matcher
        self._loss = loss
        self._postprocessor = postprocessor
        self._delta_range = delta_range
        self._converts_to_scores = converts_to_scores
        self._static = execution.static
        self._sigmoid = score_ops.sigmoid if execution.portable else tf.sigmoid
        self.built = True

    @property
    def loss_names(self) -> tuple[str, ...]:
        return self.dense_head.loss_names

    @property
    def statistic_names(self) -> tuple[str, ...]:
        return (statistics.OBJECTS, *self.dense_head.statistic_names)

    def preprocess(self, inputs: Inputs) -> Inputs:
        """See `Detector`."""
        return inputs._replace(images=self.feature_extractor.normalize_pixels(inputs.images))

    def predict(
        self,
        inputs: Inputs,
        *,
        training: bool,
        groundtruth: Groundtruth | None = None,
        seed: tf.Tensor | None = None,
    ) -> Predictions:
        """See `Detector`. Groundtruth is not needed, and the seed draws nothing."""
        if training and seed is None:
            seed = tf.zeros([2], tf.int32)
        pyramid = tuple(self.feature_extractor(inputs.images, training=training))
        logits, deltas = self.dense_head(pyramid, training=training)
        if self._delta_range is not None:
            deltas = tf.clip_by_value(deltas, *self._delta_range)
        if self._converts_to_scores and not training:
            logits = self._sigmoid(logits)
        return Predictions(
            image_size=tf.shape(inputs.images)[1:3],
            pyramid=pyramid,
            seed=seed if training else None,
            dense=DenseOutputs(class_logits=logits, box_deltas=deltas, anchors=self._anchors(pyramid)),
        )

    def loss(
        self, predictions: Predictions, groundtruth: Groundtruth, measured: statistics.Statistics | None = None
    ) -> dict[str, tf.Tensor]:
        """See `Detector`."""
        assert predictions.dense is not None
        anchors = predictions.dense.anchors
        of_anchors = self._matcher(anchors, groundtruth)
        if measured is not None:
            threshold = self._matcher.matched_threshold
            measured |= statistics.count_objects(groundtruth)
            measured |= statistics.count_matches("DenseHead", of_anchors)
            measured |= statistics.count_unmatched("DenseHead", anchors, of_anchors, groundtruth, threshold=threshold)
        with tf.name_scope("losses"):
            return self._loss(
                predictions.dense,
                of_anchors,
                is_batch=predictions.seed is not None,
                average=self.dense_head.loss_normalizer,
            )

    def regularization_loss(self) -> tf.Tensor:
        """See `Detector`."""
        return tf.add_n(self.losses) if self.losses else tf.constant(0.0)

    def postprocess(self, predictions: Predictions, inputs: Inputs) -> Detections:
        """See `Detector`."""
        assert predictions.dense is not None and predictions.pyramid is not None
        return self._postprocessor(
            predictions.dense,
            inputs.true_shapes,
            image_size=predictions.image_size,
            level_sizes=dense_postprocess.level_sizes(predictions.pyramid, self.dense_head.num_anchors),
        )

    def restorable_parts(self, kind: str) -> tuple[str, ...] | None:
        """See `Detector`."""
        return _RESTORABLE_PARTS[kind]

    def class_columns(self) -> dict[str, ClassColumns]:
        """See `Detector`."""
        return {f"dense_head/{name}": columns for name, columns in self.dense_head.class_columns().items()}

    def cell_anchors(self) -> np.ndarray:
        """[A, 4], the anchors of a cell of the finest level, pixels."""
        sizes = [(1, 1)] * self.dense_head.num_levels
        return self._generate_anchors(sizes, origin=0.0).numpy()[: self.dense_head.num_anchors]

    def _anchors(self, pyramid: tuple[tf.Tensor, ...]) -> tf.Tensor:
        """[K, 4] pixels."""
        sizes = [(dim(features, 1), dim(features, 2)) for features in pyramid]
        # Of many anchors, constants would make a large program.
        origin = anchor_ops.runtime_zero(pyramid[-1]) if self._static else 0.0
        return self._generate_anchors(sizes, origin=origin)
