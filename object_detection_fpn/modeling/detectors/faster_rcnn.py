"""Faster R-CNN with a feature pyramid (Ren et al. 2015, Lin et al. 2017): the parts joined, in four verbs."""

from __future__ import annotations

from collections.abc import Collection

import tensorflow as tf
import tf_keras

from object_detection_fpn.modeling import fpn, pooler, postprocess, targets
from object_detection_fpn.modeling.detector import ClassColumns
from object_detection_fpn.modeling.heads import box, rpn
from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.records import BoxOutputs, Detections, Groundtruth, Inputs, Predictions, Proposals

OPTIONAL_OUTPUTS = ("raw_detections", "box_features", "roi_features")
"""`BoxOutputs.raw_boxes` and `raw_level_indices`; `Detections.box_features`; `Detections.roi_features`."""

_RESTORABLE_PARTS: dict[str, tuple[str, ...] | None] = {
    "classification": ("feature_extractor/backbone",),
    # As `restore_from_objects` of the Object Detection API: without the RPN's head and the predictors.
    "detection": ("feature_extractor", "box_head/feature_extractor"),
    "full": None,
}


class FasterRCNN(tf_keras.layers.Layer):
    """The meta-architecture; it is handed its parts. A `modeling.detector.Detector`.

    Args:
        feature_extractor: images -> pyramid.
        rpn: pyramid -> proposals.
        roi_sampler: chooses the proposals that train the box head, and gives their targets.
        roi_pooler: pyramid and RoIs -> features of fixed size. None, as the box head, for a model of one stage.
        box_head: RoI features -> classes and refined boxes.
        outputs: optional outputs of a model of two stages, names of `OPTIONAL_OUTPUTS`.
        name: of the layer.
    """

    def __init__(
        self,
        *,
        feature_extractor: fpn.FeatureExtractor,
        rpn: rpn.RPN,
        roi_sampler: targets.RoISampler,
        roi_pooler: pooler.RoIPooler | None,
        box_head: box.BoxHead | None,
        outputs: Collection[str] = (),
        name: str = "faster_rcnn",
    ):
        unknown = sorted(set(outputs) - set(OPTIONAL_OUTPUTS))
        if unknown:
            raise ValueError(f"outputs = {unknown} are unknown. Allowed: {', '.join(OPTIONAL_OUTPUTS)}.")
        super().__init__(name=name, dtype="float32")
        self.feature_extractor = feature_extractor
        self.rpn = rpn
        self.roi_pooler = roi_pooler
        self.box_head = box_head
        self._roi_sampler = roi_sampler
        self._outputs = frozenset(outputs)
        self.built = True

    @property
    def num_stages(self) -> int:
        return 1 if self.box_head is None else 2

    @property
    def loss_names(self) -> tuple[str, ...]:
        return self.rpn.loss_names + (() if self.box_head is None else self.box_head.loss_names)

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
        """See `Detector`. In training, anchors across the border do not propose, and the box head sees sampled proposals.

        Raises:
            ValueError: if `groundtruth` is missing in training of a model of two stages.
        """
        if training and groundtruth is None and self.num_stages == 2:
            raise ValueError(
                "predict(training=True) needs groundtruth: the box head trains on RoIs sampled against it."
            )
        if training and seed is None:
            seed = tf.zeros([2], tf.int32)
        image_size = tf.shape(inputs.images)[1:3]
        pyramid = self.feature_extractor(inputs.images, training=training)
        rpn_outputs = self.rpn(pyramid, image_size, training=training)
        rois = self.rpn.propose(rpn_outputs, pyramid, inputs.true_shapes, training=training)
        if training and groundtruth is not None and self.num_stages == 2:
            assert seed is not None
            rois = self._roi_sampler(rois, groundtruth, seed=seed + [0, 1])
        predictions = Predictions(
            image_size=image_size,
            pyramid=tuple(pyramid),
            seed=seed if training else None,
            rpn=rpn_outputs,
            rois=rois,
        )
        if self.box_head is None:
            return predictions
        outputs = self.box_head(self._pool(predictions, rois.boxes), training=training)
        if "raw_detections" in self._outputs:
            outputs = self._with_raw_detections(outputs, rois, predictions, inputs.true_shapes)
        return predictions._replace(box=outputs)

    def loss(self, predictions: Predictions, groundtruth: Groundtruth) -> dict[str, tf.Tensor]:
        """See `Detector`."""
        assert predictions.rpn is not None and predictions.rois is not None
        losses = self.rpn.loss(predictions.rpn, predictions.pyramid, groundtruth, predictions.seed)
        if self.box_head is not None:
            assert predictions.box is not None
            box_targets = self._roi_sampler.targets(predictions.rois, groundtruth)
            is_trained = predictions.seed is not None
            losses |= self.box_head.loss(predictions.box, box_targets, predictions.rois, training=is_trained)
        return losses

    def regularization_loss(self) -> tf.Tensor:
        """See `Detector`."""
        return tf.add_n(self.losses) if self.losses else tf.constant(0.0)

    def postprocess(self, predictions: Predictions, inputs: Inputs) -> Detections:
        """See `Detector`."""
        true_shapes = inputs.true_shapes
        if self.box_head is None:
            assert predictions.rpn is not None and predictions.rois is not None
            return postprocess.proposals_as_detections(
                predictions.rpn, predictions.rois, true_shapes, coder=self.rpn.coder
            )
        detections = self.box_head.postprocess(predictions, true_shapes)
        if self._outputs.isdisjoint(("box_features", "roi_features")):
            return detections
        return self._with_features(detections, predictions, true_shapes)

    def restorable_parts(self, kind: str) -> tuple[str, ...] | None:
        """See `Detector`."""
        parts = _RESTORABLE_PARTS[kind]
        if parts is None or self.box_head is not None:
            return parts
        return tuple(part for part in parts if not part.startswith("box_head"))

    def class_columns(self) -> dict[str, ClassColumns]:
        """See `Detector`."""
        return {} if self.box_head is None else {f"box_head/{k}": v for k, v in self.box_head.class_columns().items()}

    def _pool(self, predictions: Predictions, boxes: tf.Tensor) -> tf.Tensor:
        """The pyramid within boxes [B, R, 4], pixels: [B, R, S, S, F]."""
        assert self.roi_pooler is not None
        return self.roi_pooler(predictions.pyramid, boxes, self.feature_extractor.covered_size(predictions.image_size))

    def _with_raw_detections(
        self, outputs: BoxOutputs, rois: Proposals, predictions: Predictions, true_shapes: tf.Tensor
    ) -> BoxOutputs:
        assert self.roi_pooler is not None and self.box_head is not None and predictions.pyramid is not None
        boxes = self.box_head.decode(outputs, rois)  # [B, R, C or 1, 4]
        flat = tf.reshape(boxes, [tf.shape(boxes)[0], -1, 4])
        normalized = tf.reshape(box_ops.to_detection_frame(flat, true_shapes), tf.shape(boxes))
        covered_size = self.feature_extractor.covered_size(predictions.image_size)
        levels = self.roi_pooler.level_indices(len(predictions.pyramid), rois.boxes, covered_size)
        return outputs._replace(raw_boxes=tf.ensure_shape(normalized, boxes.shape), raw_level_indices=levels)

    def _with_features(self, detections: Detections, predictions: Predictions, true_shapes: tf.Tensor) -> Detections:
        """Pools once more, within the final boxes."""
        assert self.box_head is not None
        pooled = self._pool(predictions, box_ops.denormalize(detections.boxes, true_shapes[:, :2]))
        if "roi_features" in self._outputs:
            detections = detections._replace(roi_features=tf.cast(pooled, tf.float32))
        if "box_features" in self._outputs:
            features = self.box_head.extract(pooled, training=False)
            detections = detections._replace(box_features=tf.cast(features, tf.float32)[:, :, None, None])
        return detections
