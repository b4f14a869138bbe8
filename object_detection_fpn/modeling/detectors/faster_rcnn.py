"""Faster R-CNN and Mask R-CNN (Ren et al. 2015, He et al. 2017), with a feature pyramid or on one level, in four verbs."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Literal, TypeAlias

import tensorflow as tf
import tf_keras

from object_detection_fpn.modeling import fpn, mask_targets, pooler, postprocess, single_level, statistics, targets
from object_detection_fpn.modeling.detector import ClassColumns
from object_detection_fpn.modeling.heads import box, context, mask, rpn
from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops.dims import dim
from object_detection_fpn.records import (
    BoxOutputs,
    Context,
    ContextOutputs,
    Detections,
    Groundtruth,
    Inputs,
    MaskOutputs,
    Predictions,
    Proposals,
    Targets,
)

OPTIONAL_OUTPUTS = ("raw_detections", "box_features", "roi_features")
"""`BoxOutputs.raw_boxes` and `raw_level_indices`; `Detections.box_features`; `Detections.roi_features`."""

_RESTORABLE_PARTS: dict[str, tuple[str, ...] | None] = {
    "classification": ("feature_extractor/backbone",),
    # As `restore_from_objects` of the Object Detection API: without the RPN's head and the predictors.
    "detection": ("feature_extractor", "box_head/feature_extractor"),
    "full": None,
}


@dataclasses.dataclass(frozen=True)
class MaskBranch:
    """What Mask R-CNN has more than Faster R-CNN (He et al. 2017)."""

    pooler: pooler.RoIPooler | None
    """Pyramid and RoIs -> features of the mask head. None: it sees those of the box head, which keep cells."""
    head: mask.MaskHead
    """These features and a class of each RoI -> masks."""
    sampler: mask_targets.MaskSampler
    """Chooses the RoIs that train masks, and gives their targets."""


ContextPosition: TypeAlias = Literal["before_box_features", "after_box_features"]
"""Which features of RoIs get what these find in the context: what the pooler gives, or what the box head makes of it."""


@dataclasses.dataclass(frozen=True)
class ContextBranch:
    """What Context R-CNN has more than Faster R-CNN (Beery et al. 2020)."""

    attention: context.ContextAttention
    """Features of RoIs and `Inputs.context` -> what is added to these features."""
    position: ContextPosition = "after_box_features"


class FasterRCNN(tf_keras.layers.Layer):
    """The meta-architecture; it is handed its parts. A `modeling.detector.Detector`.

    Args:
        feature_extractor: images -> pyramid, which may have one level.
        rpn: pyramid -> proposals.
        roi_sampler: chooses the proposals that train the box head, and gives their targets.
        roi_pooler: pyramid and RoIs -> features of fixed size. None, as the box head, for a model of one stage.
        box_head: RoI features -> classes and refined boxes.
        masks: predicts masks of the detections, beside the box head; None = boxes only.
        context: lets RoIs look at the context of the image, in a model of two stages; None = at the image alone.
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
        masks: MaskBranch | None = None,
        context: ContextBranch | None = None,
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
        self.mask_head = None if masks is None else masks.head
        self.context_attention = None if context is None else context.attention
        self._masks = masks
        self._context = context
        self._roi_sampler = roi_sampler
        self._outputs = frozenset(outputs)
        self.built = True

    @property
    def num_stages(self) -> int:
        return 1 if self.box_head is None else 2 if self._masks is None else 3

    @property
    def loss_names(self) -> tuple[str, ...]:
        heads = [head for head in (self.rpn, self.box_head, self.mask_head) if head is not None]
        return tuple(name for head in heads for name in head.loss_names)

    @property
    def statistic_names(self) -> tuple[str, ...]:
        of_rois = () if self.box_head is None else self.box_head.statistic_names
        return (statistics.OBJECTS, *self.rpn.statistic_names, statistics.RECALL, *of_rois)

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
        """See `Detector`. In training, anchors across the border do not propose, the box head sees sampled proposals, and the
        mask head those of them that are objects.

        Raises:
            ValueError: if `groundtruth` is missing in training of a model of two stages or more, or a context of the right
                length for a model that looks at it.
        """
        if training and groundtruth is None and self.num_stages > 1:
            raise ValueError(
                "predict(training=True) needs groundtruth: the box head trains on RoIs sampled against it."
            )
        if training and seed is None:
            seed = tf.zeros([2], tf.int32)
        image_size = tf.shape(inputs.images)[1:3]
        pyramid = self.feature_extractor(inputs.images, training=training)
        rpn_outputs = self.rpn(pyramid, image_size, training=training)
        rois = proposals = self.rpn.propose(rpn_outputs, pyramid, inputs.true_shapes, training=training)
        if training and groundtruth is not None and self.num_stages > 1:
            assert seed is not None
            rois = self._roi_sampler(rois, groundtruth, seed=seed + [0, 1])
        predictions = Predictions(
            image_size=image_size,
            pyramid=tuple(pyramid),
            seed=seed if training else None,
            rpn=rpn_outputs,
            rois=rois,
            proposals=proposals if training else None,
        )
        if self.box_head is None:
            return predictions
        assert self.roi_pooler is not None
        pooled = self._pool(self.roi_pooler, predictions, rois.boxes)
        if self._context is None:
            outputs = self.box_head(pooled, training=training)
        else:
            outputs, found = self._look_at_context(pooled, rois, inputs.context, training=training)
            predictions = predictions._replace(context=found)
        if "raw_detections" in self._outputs:
            outputs = self._with_raw_detections(outputs, rois, predictions, inputs.true_shapes)
        predictions = predictions._replace(box=outputs)
        if training and groundtruth is not None and self._masks is not None:
            box_targets = self._roi_sampler.targets(rois, groundtruth)
            masks = self._predict_masks_of_objects(predictions, box_targets, groundtruth, training=True)
            predictions = predictions._replace(mask=masks)
        return predictions

    def loss(
        self, predictions: Predictions, groundtruth: Groundtruth, measured: statistics.Statistics | None = None
    ) -> dict[str, tf.Tensor]:
        """See `Detector`."""
        assert predictions.rpn is not None and predictions.rois is not None
        losses = self.rpn.loss(predictions.rpn, predictions.pyramid, groundtruth, predictions.seed, measured)
        if measured is not None:
            measured |= statistics.count_objects(groundtruth)
            measured |= statistics.measure_recall(predictions.proposals or predictions.rois, groundtruth)
        if self.box_head is not None:
            assert predictions.box is not None
            box_targets = self._roi_sampler.targets(predictions.rois, groundtruth)
            if measured is not None:
                measured |= statistics.count_matches("BoxHead", box_targets)
            is_trained = predictions.seed is not None
            losses |= self.box_head.loss(predictions.box, box_targets, predictions.rois, training=is_trained)
            if self._masks is not None:
                outputs = predictions.mask
                if outputs is None:
                    outputs = self._predict_masks_of_objects(predictions, box_targets, groundtruth, training=False)
                shares, weights = self._masks.sampler.targets(outputs, groundtruth, predictions.image_size)
                losses |= self._masks.head.loss(outputs.logits, shares, weights, training=is_trained)
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
        if self._masks is not None:
            detections = self._with_masks(detections, predictions, true_shapes)
        if self._outputs.isdisjoint(("box_features", "roi_features")):
            return detections
        return self._with_features(detections, predictions, true_shapes)

    def restorable_parts(self, kind: str) -> tuple[str, ...] | None:
        """See `Detector`."""
        parts = _RESTORABLE_PARTS[kind]
        if parts is None:
            return None
        if self.box_head is not None:
            is_of_backbone = isinstance(self.box_head.feature_extractor, single_level.LastStage)
            return (*parts, "box_head/feature_extractor") if is_of_backbone and kind == "classification" else parts
        return tuple(part for part in parts if not part.startswith("box_head"))

    def class_columns(self) -> dict[str, ClassColumns]:
        """See `Detector`."""
        heads = {"box_head": self.box_head, "mask_head": self.mask_head}
        return {
            f"{path}/{name}": columns
            for path, head in heads.items()
            if head is not None
            for name, columns in head.class_columns().items()
        }

    def _pool(self, pool: pooler.RoIPooler, predictions: Predictions, boxes: tf.Tensor) -> tf.Tensor:
        """The pyramid within boxes [B, R, 4], pixels: [B, R, S, S, F]."""
        return pool(predictions.pyramid, boxes, self.feature_extractor.covered_size(predictions.image_size))

    def _look_at_context(
        self, pooled: tf.Tensor, rois: Proposals, context: Context | None, *, training: bool
    ) -> tuple[BoxOutputs, ContextOutputs]:
        """What the box head says of RoIs [B, R, S, S, F] that look at the context, and what they find there."""
        assert self._context is not None and self.box_head is not None
        attention = self._context.attention
        if context is None:
            raise ValueError("The detector looks at context features; inputs.context is None. Allowed: a Context.")
        if context.features.shape[-1] != attention.context_length:
            raise ValueError(
                f"inputs.context.features has {context.features.shape[-1]} numbers a feature. Allowed: "
                f"{attention.context_length}."
            )
        if self._context.position == "before_box_features":
            found = attention(pooled, rois.num_proposals, context, training=training)
            features = self.box_head.extract(pooled + found.features[:, :, None, None], training=training)
            return self.box_head.predict(features, pooled, training=training), found
        features = self.box_head.extract(pooled, training=training)
        found = attention(features, rois.num_proposals, context, training=training)
        addition = found.features[:, :, None, None] if features.shape.rank == 5 else found.features
        return self.box_head.predict(features + addition, pooled, training=training), found

    def _pool_for_masks(self, predictions: Predictions, boxes: tf.Tensor) -> tf.Tensor:
        """What the mask head sees of boxes [B, K, 4], pixels: [B, K, S, S, F]."""
        assert self._masks is not None and self.box_head is not None and self.roi_pooler is not None
        if self._masks.pooler is not None:
            return self._pool(self._masks.pooler, predictions, boxes)
        return self.box_head.extract(self._pool(self.roi_pooler, predictions, boxes), training=False)

    def _predict_masks(self, features: tf.Tensor, classes: tf.Tensor, *, training: bool) -> tf.Tensor:
        """Logits [B, K, M, M] of what the mask head sees, [B, K, S, S, F], and of one class, 0-based, each."""
        assert self._masks is not None and self.box_head is not None
        class_weights = None if self._masks.head.transfer is None else self.box_head.class_weights()
        return self._masks.head(features, classes, training=training, class_weights=class_weights)

    def _predict_masks_of_objects(
        self, predictions: Predictions, box_targets: Targets, groundtruth: Groundtruth, *, training: bool
    ) -> MaskOutputs:
        """The masks of the RoIs that are objects."""
        assert self._masks is not None and predictions.rois is not None
        boxes, matches = self._masks.sampler.choose(predictions.rois.boxes, box_targets)
        classes = self._masks.sampler.classes(matches, groundtruth)
        if self._masks.pooler is not None:
            features = self._pool_for_masks(predictions, boxes)
        else:
            assert predictions.box is not None and predictions.box.cell_features is not None
            features = _look_up(predictions.box.cell_features, self._masks.sampler.choose_rows(box_targets))
        logits = self._predict_masks(features, classes, training=training)
        return MaskOutputs(logits=logits, boxes=boxes, matches=matches)

    def _with_masks(self, detections: Detections, predictions: Predictions, true_shapes: tf.Tensor) -> Detections:
        """The masks of the final boxes, and of no others."""
        assert self._masks is not None
        num_rows = dim(detections.boxes, 1)
        boxes, classes = box_ops.denormalize(detections.boxes, true_shapes[:, :2]), detections.classes
        if not self._masks.sampler.static:
            num_found = tf.maximum(tf.reduce_max(detections.num_detections), 1)
            boxes, classes = boxes[:, :num_found], classes[:, :num_found]
        features = self._pool_for_masks(predictions, boxes)
        masks = tf.sigmoid(self._predict_masks(features, classes, training=False))
        is_real = tf.sequence_mask(detections.num_detections, dim(masks, 1))
        masks = tf.where(is_real[..., None, None], masks, 0.0)
        missing = num_rows - dim(masks, 1)
        masks = tf.pad(masks, [[0, 0], [0, missing], [0, 0], [0, 0]])
        return detections._replace(
            masks=tf.ensure_shape(masks, [None, detections.boxes.shape[1], *self._masks.head.size])
        )

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
        assert self.box_head is not None and self.roi_pooler is not None
        pooled = self._pool(self.roi_pooler, predictions, box_ops.denormalize(detections.boxes, true_shapes[:, :2]))
        if "roi_features" in self._outputs:
            detections = detections._replace(roi_features=tf.cast(pooled, tf.float32))
        if "box_features" in self._outputs:
            features = tf.cast(self.box_head.extract(pooled, training=False), tf.float32)
            has_cells = features.shape.rank == 5
            detections = detections._replace(box_features=features if has_cells else features[:, :, None, None])
        return detections


def _look_up(features: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Features [B, R, S, S, F] of some rows, [B, K] int32: [B, K, S, S, F], zeros for rows beyond the last.

    As a product and not a gather, whose gradient would be a scatter.
    """
    batch, num_rows, height, width, filters = (dim(features, axis) for axis in range(5))
    is_row = tf.one_hot(rows, num_rows, dtype=features.dtype)  # [B, K, R]
    found = tf.matmul(is_row, tf.reshape(features, [batch, num_rows, height * width * filters]))
    return tf.reshape(found, [batch, dim(rows, 1), height, width, filters])
