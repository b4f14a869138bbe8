"""The RetinaNet of Detectron2, imported: names and layouts, and the same detections, losses and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_reference as reference
from pytorch_reference import retinanet as retinanets

from object_detection_fpn.interop.detectron2 import Detectron2

pytestmark = pytest.mark.no_cover  # measuring it would take a third of the time

LIBRARY = Detectron2()
R50 = retinanets.RetinaNetCase("detectron2/retinanet_R_50_FPN_3x", "retinanet_resnet50_v1_fpn_detectron2_3x")


@pytest.fixture(scope="module")
def r50() -> retinanets.RetinaNetAgreement:
    return retinanets.RetinaNetAgreement(R50)


@pytest.fixture(scope="module")
def training(r50) -> retinanets.RetinaNetTraining:
    return retinanets.RetinaNetTraining(r50)


@pytest.mark.parametrize("check", retinanets.CHECKS, ids=reference.name_of)
def test_retinanet_computes_what_detectron2_does(r50, check):
    check(r50)


@pytest.mark.parametrize(
    "check", (*retinanets.TRAINING_CHECKS, retinanets.RetinaNetTraining.check_average), ids=reference.name_of
)
def test_training_computes_what_detectron2_does(training, check):
    check(training)


def refusal(tensors, model) -> str:
    return reference.assert_refused(LIBRARY.weights_by_path, tensors, model)


def test_what_is_no_weight_is_passed_over(r50):
    tensors = r50.tensors | {
        "pixel_mean": np.array([103.53, 116.28, 123.675]).reshape(3, 1, 1),
        "pixel_std": np.ones([3, 1, 1]),
        "anchor_generator.cell_anchors.0": np.zeros([9, 4]),
    }
    LIBRARY.weights_by_path(tensors, r50.model, "model.pkl")


def test_missing_and_additional_tensors_are_named(r50):
    tensors = dict(r50.tensors)
    tensors["head.cls_subnet.7.weight"] = tensors.pop("head.cls_subnet.6.weight")
    text = refusal(tensors, r50.model)
    assert "1 missing: head.cls_subnet.6.weight; 1 left over: head.cls_subnet.7.weight." in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("head.ctrness.weight", "an FCOS, which is not supported"),
        (
            "proposal_generator.rpn_head.conv.weight",
            "a Faster or Mask R-CNN (model.faster_rcnn), but the config describes a",
        ),
    ],
)
def test_other_models_are_refused_in_words(r50, name, words):
    assert words in refusal({name: np.zeros([1])}, r50.model)
