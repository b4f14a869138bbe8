"""Region Proposal Network (Ren et al. 2015, section 3) over a pyramid (Lin et al. 2017, section 4.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf
import tf_keras

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import loss_normalization, proposals, statistics, targets
from object_detection_fpn.modeling.heads import rpn_head
from object_detection_fpn.ops import anchors as anchor_ops
from object_detection_fpn.ops import box_coder, losses
from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.ops.dims import dim
from object_detection_fpn.records import Groundtruth, Proposals, RpnOutputs, Targets

LOCALIZATION_LOSS = "Loss/RPNLoss/localization_loss"
OBJECTNESS_LOSS = "Loss/RPNLoss/objectness_loss"


class AnchorGenerator(Protocol):
    """What `ops.anchors.multiscale_anchors` is once its settings are given."""

    def __call__(
        self, feature_sizes: Sequence[tuple[int | tf.Tensor, int | tf.Tensor]], *, origin: float | tf.Tensor
    ) -> tf.Tensor:
        """(height, width) of each level in cells, finest first -> anchors [K, 4], pixels."""


@dataclasses.dataclass(frozen=True)
class RpnLoss:
    """Objectness and localization of the sampled anchors (Faster R-CNN, equation 1).

    Each image's loss is a sum over its sampled anchors, divided by their number.

    Attributes:
        localization_weight, objectness_weight: factors.
        localization_loss: of the deltas of an anchor.
        normalization: by which number of samples, see `loss_normalization.divisor`.
        num_configured: samples of an image that "CONFIGURED" divides by.
    """

    localization_weight: float = 1.0
    objectness_weight: float = 1.0
    localization_loss: losses.LocalizationLoss = losses.SmoothL1()
    normalization: loss_normalization.LossNormalization = "PER_IMAGE"
    num_configured: int = 256

    def __call__(
        self,
        objectness_logits: tf.Tensor,
        box_deltas: tf.Tensor,
        targets: Targets,
        is_sampled: tf.Tensor,
        *,
        anchors: tf.Tensor,
        is_batch: bool,
    ) -> dict[str, tf.Tensor]:
        """Returns the losses of each image, [B] float32.

        Args:
            objectness_logits: [B, S, 2 or 1].
            box_deltas: [B, S, 4].
            targets: of the same S anchors.
            is_sampled: [B, S] bool, False in padding rows.
            anchors: [B, S, 4] pixels, the same.
            is_batch: whether the images train together. Otherwise each counts as a batch of its own.
        """
        sampled = tf.cast(is_sampled, tf.float32)
        num_sampled = loss_normalization.divisor(
            tf.reduce_sum(sampled, axis=1), self.normalization, num_configured=self.num_configured, is_batch=is_batch
        )
        objectness = _objectness_loss(objectness_logits, targets.classes) * sampled
        localization = self.localization_loss(box_deltas, targets.box_deltas, anchors) * targets.box_weights * sampled
        return {
            LOCALIZATION_LOSS: self.localization_weight * (tf.reduce_sum(localization, axis=1) / num_sampled),
            OBJECTNESS_LOSS: self.objectness_weight * (tf.reduce_sum(objectness, axis=1) / num_sampled),
        }


class RPN(tf_keras.layers.Layer):
    """Anchors, their scores, what these cost, and the proposals that follow from both.

    Call: pyramid, image_size [2] -> `RpnOutputs`.

    Args:
        head: scores and refines the anchors.
        generate_anchors: [(height, width) of each level] -> anchors [K, 4], pixels.
        clip_anchors: anchors are clipped to the image also in training. Otherwise those that cross its border neither
            propose nor train (Faster R-CNN, section 3.3); outside of training anchors are always clipped.
        keep_anchors: anchors are never clipped, and all propose and train, those beyond the image too.
        max_straddle: with `keep_anchors`, anchors that reach further beyond the padded image do not train, in pixels; None:
            all do.
        decoder: makes proposals of the outputs.
        training_decoder: the same in training; None: `decoder`.
        sampler: chooses the anchors that train.
        loss: what they cost.
        execution: how it is computed.
        name: of the layer.
    """

    loss_names = (LOCALIZATION_LOSS, OBJECTNESS_LOSS)
    statistic_names = (*statistics.match_names("RPN"), statistics.unmatched_name("RPN"))

    def __init__(
        self,
        *,
        head: rpn_head.RPNHead,
        generate_anchors: AnchorGenerator,
        clip_anchors: bool = False,
        keep_anchors: bool = False,
        max_straddle: float | None = None,
        decoder: proposals.ProposalDecoder = proposals.ProposalDecoder(),
        training_decoder: proposals.ProposalDecoder | None = None,
        sampler: targets.AnchorSampler = targets.AnchorSampler(),
        loss: RpnLoss = RpnLoss(),
        execution: Execution = Execution(),
        name: str = "rpn",
    ):
        super().__init__(name=name, dtype="float32")
        self.head = head
        self._generate_anchors = generate_anchors
        self._clip_anchors = clip_anchors
        self._keep_anchors = keep_anchors
        self._max_straddle = max_straddle
        self._decoder = decoder
        self._training_decoder = training_decoder or decoder
        self._sampler = sampler
        self._loss = loss
        self._static = execution.static
        self.built = True

    @property
    def coder(self) -> box_coder.BoxCoder:
        """How the box deltas are to be decoded."""
        return self._decoder.coder

    def cell_anchors(self) -> np.ndarray:
        """[A, 4], the anchors of a cell of the finest level, pixels."""
        return self._generate_anchors([(1, 1)], origin=0.0).numpy()

    def call(self, pyramid: Sequence[tf.Tensor], image_size: tf.Tensor, training: bool) -> RpnOutputs:
        logits, deltas = self.head(pyramid, training=training)
        # Of the 200,000 anchors of an image of 640 x 640 pixels, constants would make a program of 40 MB.
        origin = anchor_ops.runtime_zero(pyramid[-1]) if self._static else 0.0
        anchors = self._generate_anchors([(dim(features, 1), dim(features, 2)) for features in pyramid], origin=origin)
        window = tf.concat([tf.zeros([2]), tf.cast(image_size, tf.float32)], axis=0)
        if self._keep_anchors:
            return RpnOutputs(
                objectness_logits=logits,
                box_deltas=deltas,
                anchors=anchors,
                is_valid=tf.ones_like(anchors[:, 0], tf.bool),
                is_trained=self._is_near(anchors, window),
            )
        clipped = box_ops.clip(anchors, window)
        if training and not self._clip_anchors:
            is_valid = tf.reduce_all(tf.equal(anchors, clipped), axis=-1)
        else:
            # Anchors of the padding beyond the image have no area left: they would fill the places of real proposals.
            is_valid = box_ops.area(clipped) > 0.0
            anchors = clipped
        return RpnOutputs(objectness_logits=logits, box_deltas=deltas, anchors=anchors, is_valid=is_valid)

    def _is_near(self, anchors: tf.Tensor, window: tf.Tensor) -> tf.Tensor | None:
        """[K] bool, anchors that do not reach too far beyond the window; None if none can."""
        if self._max_straddle is None:
            return None
        beyond = tf.concat([window[:2] - anchors[:, :2], anchors[:, 2:] - window[2:]], axis=-1)
        return tf.reduce_all(beyond <= self._max_straddle, axis=-1)

    def propose(
        self, outputs: RpnOutputs, pyramid: Sequence[tf.Tensor], true_shapes: tf.Tensor, training: bool
    ) -> Proposals:
        """Returns the best proposals that do not overlap; no gradient passes.

        Args:
            outputs: of a call.
            pyramid: of that call.
            true_shapes: [B, 3] int32.
            training: which decoder makes them.
        """
        decoder = self._training_decoder if training else self._decoder
        num_anchors = self.head.num_anchors
        sizes = [dim(features, 1) * dim(features, 2) * num_anchors for features in pyramid]
        return decoder(outputs, true_shapes, num_anchors=num_anchors, level_sizes=sizes)

    def loss(
        self,
        outputs: RpnOutputs,
        pyramid: Sequence[tf.Tensor] | None,
        groundtruth: Groundtruth,
        seed: tf.Tensor | None,
        measured: statistics.Statistics | None = None,
    ) -> dict[str, tf.Tensor]:
        """Samples anchors and returns their losses of each image, [B] float32.

        Args:
            outputs: of a call.
            pyramid: of that call; None makes `look_up` gather instead.
            groundtruth: of B images.
            seed: as `Predictions.seed`.
            measured: see `Detector.loss`.
        """
        sample, of_sample = self._sampler(outputs, groundtruth, seed)
        if measured is not None:
            threshold = self._sampler.matched_threshold
            measured |= statistics.count_matches("RPN", of_sample)
            measured |= statistics.count_unmatched("RPN", outputs.anchors, of_sample, groundtruth, threshold=threshold)
        logits, deltas = self.look_up(outputs, pyramid, sample.indices)
        with tf.name_scope("losses"):
            anchors = tf.gather(outputs.anchors, sample.indices)
            is_batch = seed is not None
            return self._loss(logits, deltas, of_sample, sample.is_sampled, anchors=anchors, is_batch=is_batch)

    def look_up(
        self, outputs: RpnOutputs, pyramid: Sequence[tf.Tensor] | None, indices: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The outputs of some anchors, [B, S] rows: objectness_logits [B, S, 2 or 1] and box_deltas [B, S, 4].

        With the pyramid of the call the gradient is that of these anchors' cells alone, where that is less work.
        """
        if pyramid is not None and self.head.is_local(pyramid, indices.shape[1]):
            return self.head.predict_at(pyramid, indices)
        logits = tf.gather(outputs.objectness_logits, indices, batch_dims=1)
        return logits, tf.gather(outputs.box_deltas, indices, batch_dims=1)


def _objectness_loss(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of logits [..., 2 or 1] against classes [...], 0 = background, 1 = object: [...]."""
    if logits.shape[-1] == 1:
        return tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.cast(classes, logits.dtype), logits=logits[..., 0])
    return losses.softmax_cross_entropy(logits, tf.one_hot(classes, 2))
