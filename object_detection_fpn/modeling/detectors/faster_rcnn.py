"""Faster R-CNN with a feature pyramid (Ren et al. 2015, Lin et al. 2017): the parts joined, in four verbs.

    images = model.preprocess(batch.images)
    predictions = model.predict(images, batch.true_shapes, training=True, groundtruth=batch.groundtruth, seed=seed)
    losses = model.loss(predictions, batch.groundtruth)
    detections = model.postprocess(predictions, batch.true_shapes)

The model has no state beyond its variables, all of which exist after construction.
"""

from __future__ import annotations

from collections.abc import Collection

import tensorflow as tf
import tf_keras

from object_detection_fpn.modeling import fpn, postprocess, targets
from object_detection_fpn.modeling import pooler as roi
from object_detection_fpn.modeling.heads import box, rpn
from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops import losses
from object_detection_fpn.records import Detections, Groundtruth, Predictions

# Mean of each RGB channel over ImageNet, subtracted for backbones that were trained so (Simonyan and Zisserman 2014).
_CHANNEL_MEANS = (123.68, 116.779, 103.939)

OPTIONAL_OUTPUTS = ("raw_detections", "box_features", "roi_features")
"""`Predictions.raw_boxes` and `raw_level_indices`; `Detections.box_features`; `Detections.roi_features`."""


class FasterRCNN(tf_keras.layers.Layer):
    """The meta-architecture; it is handed its parts.

    Args:
        feature_extractor: images -> pyramid.
        rpn: pyramid -> proposals.
        anchor_sampler: which anchors train.
        rpn_loss: what they cost.
        roi_sampler: which proposals train the box head. Also tells their targets.
        roi_pooler: pyramid and RoIs -> features of fixed size. None, as the box head, for a model of one stage.
        box_head: RoI features -> class logits and box deltas.
        box_loss: what they cost.
        postprocessor: predictions -> detections.
        outputs: what else to tell of a model of two stages, names of `OPTIONAL_OUTPUTS`.
        name: of the layer.
    """

    def __init__(
        self,
        *,
        feature_extractor: fpn.FeatureExtractor,
        rpn: rpn.RPN,
        anchor_sampler: targets.AnchorSampler,
        rpn_loss: losses.RpnLoss,
        roi_sampler: targets.RoISampler,
        roi_pooler: roi.RoIPooler | None,
        box_head: box.BoxHead | None,
        box_loss: losses.BoxLoss,
        postprocessor: postprocess.Postprocessor,
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
        self._anchor_sampler = anchor_sampler
        self._rpn_loss = rpn_loss
        self._roi_sampler = roi_sampler
        self._box_loss = box_loss
        self._postprocessor = postprocessor
        self._outputs = frozenset(outputs)
        self.built = True

    @property
    def num_stages(self) -> int:
        return 1 if self.box_head is None else 2

    def preprocess(self, images: tf.Tensor) -> tf.Tensor:
        """Subtracts the channel means from RGB images; images of other channels stay as they are.

        Args:
            images: [B, H, W, channels] of any number type in [0, 255], already resized.

        Returns:
            [B, H, W, channels] float32.
        """
        images = tf.cast(images, tf.float32)
        return images - tf.constant(_CHANNEL_MEANS) if images.shape[-1] == 3 else images

    def predict(
        self,
        images: tf.Tensor,
        true_shapes: tf.Tensor,
        *,
        training: bool,
        groundtruth: Groundtruth | None = None,
        seed: tf.Tensor | None = None,
    ) -> Predictions:
        """Runs the network.

        Args:
            images: [B, H, W, channels] of `preprocess`.
            true_shapes: [B, 3] int32 (height, width, channels) of each image without its padding.
            training: batch normalization uses the batch's statistics, anchors across the border do not propose, and the box
                head sees proposals sampled against `groundtruth`.
            groundtruth: needed in training by a model of two stages.
            seed: [2] int32 for every random choice of this step; zeros when None.

        Raises:
            ValueError: if `groundtruth` is missing.
        """
        if training and groundtruth is None and self.num_stages == 2:
            raise ValueError(
                "predict(training=True) needs groundtruth: the box head trains on RoIs sampled against it."
            )
        seed = tf.zeros([2], tf.int32) if seed is None else seed
        image_size = tf.shape(images)[1:3]
        pyramid = self.feature_extractor(images, training=training)
        rpn_outputs = self.rpn(pyramid, image_size, training=training)
        proposals = self.rpn.propose(rpn_outputs, true_shapes)
        predictions = Predictions(
            rpn=rpn_outputs, image_size=image_size, seed=seed, rois=proposals, pyramid=tuple(pyramid)
        )
        if self.box_head is None or self.roi_pooler is None:
            return predictions
        rois = proposals
        if training:
            assert groundtruth is not None  # refused above
            rois = self._roi_sampler(proposals, groundtruth, seed=seed + [0, 1])
        features = self.roi_pooler(pyramid, rois.boxes, self.feature_extractor.covered_size(image_size))
        class_logits, box_deltas = self.box_head(features, training=training)
        predictions = predictions._replace(
            rois=rois, class_logits=class_logits, box_deltas=box_deltas, box_features=features
        )
        return self._with_raw_detections(predictions, true_shapes) if "raw_detections" in self._outputs else predictions

    def loss(self, predictions: Predictions, groundtruth: Groundtruth) -> dict[str, tf.Tensor]:
        """Computes the losses of both stages and the regularization, scalars under the names in `losses`.

        The anchors that count are sampled with `predictions.seed`. Predictions made outside of training have the losses of
        all their proposals.
        """
        sample, rpn_targets = self._anchor_sampler(predictions.rpn, groundtruth, predictions.seed)
        logits, deltas = self.rpn.look_up(predictions.rpn, predictions.pyramid, sample.indices)
        values = self._rpn_loss(logits, deltas, rpn_targets, sample.is_sampled)
        if self.num_stages == 2:
            box_targets = self._roi_sampler.targets(predictions.rois, groundtruth)
            values |= self._box_loss(predictions.class_logits, predictions.box_deltas, box_targets, predictions.rois)
        values[losses.REGULARIZATION] = tf.add_n(self.losses) if self.losses else tf.constant(0.0)
        return values

    def postprocess(self, predictions: Predictions, true_shapes: tf.Tensor) -> Detections:
        """Turns predictions into detections, in the frame of the resized image without its padding."""
        if self.num_stages == 1:
            return postprocess.proposals_as_detections(predictions, true_shapes)
        detections = self._postprocessor(predictions, true_shapes)
        if self._outputs.isdisjoint(("box_features", "roi_features")):
            return detections
        return self._with_features(detections, predictions, true_shapes)

    def _with_raw_detections(self, predictions: Predictions, true_shapes: tf.Tensor) -> Predictions:
        assert self.roi_pooler is not None and predictions.pyramid is not None
        boxes = self._postprocessor.decode(predictions)  # [B, R, C or 1, 4]
        flat = tf.reshape(boxes, [tf.shape(boxes)[0], -1, 4])
        normalized = tf.reshape(box_ops.to_detection_frame(flat, true_shapes), tf.shape(boxes))
        covered_size = self.feature_extractor.covered_size(predictions.image_size)
        levels = self.roi_pooler.level_indices(len(predictions.pyramid), predictions.rois.boxes, covered_size)
        return predictions._replace(raw_boxes=tf.ensure_shape(normalized, boxes.shape), raw_level_indices=levels)

    def _with_features(self, detections: Detections, predictions: Predictions, true_shapes: tf.Tensor) -> Detections:
        """Pools once more, within the final boxes."""
        assert self.roi_pooler is not None and self.box_head is not None and predictions.pyramid is not None
        boxes = box_ops.denormalize(detections.boxes, true_shapes[:, :2])
        covered_size = self.feature_extractor.covered_size(predictions.image_size)
        pooled = self.roi_pooler(predictions.pyramid, boxes, covered_size)
        if "roi_features" in self._outputs:
            detections = detections._replace(roi_features=tf.cast(pooled, tf.float32))
        if "box_features" in self._outputs:
            features = self.box_head.extract(pooled, training=False)
            detections = detections._replace(box_features=tf.cast(features, tf.float32)[:, :, None, None])
        return detections
