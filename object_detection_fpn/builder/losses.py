"""Losses and the choice of hard examples, from the messages of losses.proto."""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import hard_examples, loss_normalization
from object_detection_fpn.modeling.heads import box
from object_detection_fpn.ops import losses
from object_detection_fpn.protos import faster_rcnn_pb2, losses_pb2

_LOSSES_OF_BOXES = {
    "weighted_giou": losses.generalized_iou_loss,
    "distance_iou": losses.distance_iou_loss,
    "complete_iou": losses.complete_iou_loss,
}

NORMALIZATIONS: dict[int, loss_normalization.LossNormalization] = {
    losses_pb2.PER_IMAGE: "PER_IMAGE",
    losses_pb2.BATCH: "BATCH",
    losses_pb2.CONFIGURED: "CONFIGURED",
}


def build_localization_loss(
    message: losses_pb2.LocalizationLoss, *, decode: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
) -> losses.LocalizationLoss:
    """The loss that a message names; smooth L1 when it names none.

    Args:
        message: of a detector or of one of its stages.
        decode: (deltas, anchors) -> boxes of its box coder; losses of boxes see what it gives.
    """
    kind = message.WhichOneof("localization_loss")
    if kind in _LOSSES_OF_BOXES:
        return losses.DecodedBoxes(_LOSSES_OF_BOXES[kind], decode)
    if kind == "l1_localization_loss":
        return losses.L1()
    smooth = message.weighted_smooth_l1
    if smooth.HasField("beta"):
        return losses.SmoothL1(delta=smooth.beta, factor=1.0 / smooth.beta)
    return losses.SmoothL1(delta=smooth.delta)


def build_box_loss(
    config: faster_rcnn_pb2.FasterRcnn,
    *,
    decode: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    execution: Execution = Execution(),
) -> box.BoxLoss:
    """The losses of the `second_stage_*` fields; `decode` as `build_localization_loss`."""
    return box.BoxLoss(
        localization_weight=config.second_stage_localization_loss_weight,
        classification_weight=config.second_stage_classification_loss_weight,
        localization_loss=build_localization_loss(config.second_stage_localization_loss, decode=decode),
        classification_loss=build_classification_loss(config.second_stage_classification_loss),
        normalization=NORMALIZATIONS[config.second_stage_loss_normalization],
        num_configured=config.second_stage_batch_size,
        class_weights=tuple(config.second_stage_class_weights),
        label_smoothing=config.second_stage_label_smoothing,
        miner=build_miner(config, execution=execution) if config.HasField("hard_example_miner") else None,
    )


def build_classification_loss(message: losses_pb2.ClassificationLoss) -> losses.ClassificationLoss:
    """The loss that a message names; softmax cross-entropy when it names none."""
    kind = message.WhichOneof("classification_loss")
    if kind == "weighted_sigmoid":
        return losses.sigmoid_cross_entropy
    if kind == "weighted_sigmoid_focal":
        focal = message.weighted_sigmoid_focal
        alpha = focal.alpha if focal.HasField("alpha") else None
        return functools.partial(losses.sigmoid_focal_loss, gamma=focal.gamma, alpha=alpha)
    if kind == "weighted_logits_softmax":
        scale = message.weighted_logits_softmax.logit_scale
        return functools.partial(losses.softmax_cross_entropy_of_logits, logit_scale=scale)
    return functools.partial(losses.softmax_cross_entropy, logit_scale=message.weighted_softmax.logit_scale)


def build_miner(
    config: faster_rcnn_pb2.FasterRcnn, *, execution: Execution = Execution()
) -> hard_examples.HardExampleMiner:
    """The miner of `hard_example_miner`; it ranks RoIs by the losses as they are weighted in the total."""
    message = config.hard_example_miner
    ranks_by = losses_pb2.HardExampleMiner.LossType.Name(message.loss_type)
    localization, classification = {
        "BOTH": (config.second_stage_localization_loss_weight, config.second_stage_classification_loss_weight),
        "CLASSIFICATION": (0.0, 1.0),
        "LOCALIZATION": (1.0, 0.0),
    }[ranks_by]
    return hard_examples.HardExampleMiner(
        num_examples=message.num_hard_examples or None,
        iou_threshold=message.iou_threshold,
        localization_weight=localization,
        classification_weight=classification,
        max_negatives_per_positive=message.max_negatives_per_positive or None,
        min_negatives=message.min_negatives_per_image,
        static=execution.static,
    )
