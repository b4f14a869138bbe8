"""The messages of losses become losses."""

from __future__ import annotations

import pytest
import tensorflow as tf
from google.protobuf import text_format

from object_detection_fpn import builder
from object_detection_fpn.modeling.heads import box
from object_detection_fpn.ops import losses
from object_detection_fpn.protos import faster_rcnn_pb2, losses_pb2


def parse(text, message_type):
    return text_format.Parse(text, message_type())


def decode(deltas, anchors):
    return deltas + anchors


@pytest.mark.parametrize(
    "text, loss",
    [
        ("", losses.SmoothL1(delta=1.0)),
        ("weighted_smooth_l1 { }", losses.SmoothL1(delta=1.0)),
        ("weighted_smooth_l1 { delta: 0.5 }", losses.SmoothL1(delta=0.5)),
        ("weighted_smooth_l1 { beta: 0.25 delta: 3 }", losses.SmoothL1(delta=0.25, factor=4.0)),
        ("l1_localization_loss { }", losses.L1()),
        ("weighted_giou { }", losses.DecodedBoxes(losses.generalized_iou_loss, decode)),
        ("distance_iou { }", losses.DecodedBoxes(losses.distance_iou_loss, decode)),
        ("complete_iou { }", losses.DecodedBoxes(losses.complete_iou_loss, decode)),
    ],
)
def test_localization_losses(text, loss):
    assert builder.build_localization_loss(parse(text, losses_pb2.LocalizationLoss), decode=decode) == loss


@pytest.mark.parametrize(
    "text, loss, settings",
    [
        ("weighted_sigmoid { }", losses.sigmoid_cross_entropy, None),
        ("weighted_softmax { logit_scale: 2 }", losses.softmax_cross_entropy, {"logit_scale": 2.0}),
        ("weighted_logits_softmax { logit_scale: 2 }", losses.softmax_cross_entropy_of_logits, {"logit_scale": 2.0}),
        ("weighted_sigmoid_focal { }", losses.sigmoid_focal_loss, {"gamma": 2.0, "alpha": None}),
        ("weighted_sigmoid_focal { gamma: 1 alpha: 0 }", losses.sigmoid_focal_loss, {"gamma": 1.0, "alpha": 0.0}),
    ],
)
def test_classification_losses(text, loss, settings):
    found = builder.build_classification_loss(parse(text, losses_pb2.ClassificationLoss))
    assert getattr(found, "func", found) == loss
    assert getattr(found, "keywords", None) == settings


def test_the_default_classification_loss_is_softmax_cross_entropy():
    loss = builder.build_classification_loss(losses_pb2.ClassificationLoss())
    logits, wanted = tf.constant([0.5, 4.0]), tf.constant([0.0, 1.0])
    assert loss(logits, wanted) == losses.softmax_cross_entropy(logits, wanted)


def box_loss(text):
    return builder.build_box_loss(parse(text, faster_rcnn_pb2.FasterRcnn), decode=decode)


def test_the_losses_of_the_second_stage():
    found = box_loss(
        """
        second_stage_localization_loss { complete_iou { } }
        second_stage_loss_normalization: CONFIGURED
        second_stage_batch_size: 100
        second_stage_class_weights: [0.5, 1, 2]
        second_stage_label_smoothing: 0.125
        second_stage_localization_loss_weight: 2
        second_stage_classification_loss_weight: 3
        """
    )
    assert found == box.BoxLoss(
        localization_weight=2.0,
        classification_weight=3.0,
        localization_loss=losses.DecodedBoxes(losses.complete_iou_loss, decode),
        classification_loss=found.classification_loss,
        normalization="CONFIGURED",
        num_configured=100,
        class_weights=(0.5, 1.0, 2.0),
        label_smoothing=0.125,
    )
    assert box_loss("second_stage_loss_normalization: BATCH").normalization == "BATCH"
    default = box_loss("")
    assert default == box.BoxLoss(classification_loss=default.classification_loss)
