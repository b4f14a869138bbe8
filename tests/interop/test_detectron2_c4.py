"""Detectron2's detectors of one level (C4), imported: names and anchors, and the same detections, losses and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_reference as reference
import support

from object_detection_fpn import builder
from object_detection_fpn.execution import Execution
from object_detection_fpn.interop import cell_anchors, libraries
from object_detection_fpn.interop.torch_files import StateDict
from object_detection_fpn.ops import anchors as anchor_ops
from object_detection_fpn.training.weights import variables_by_path

pytestmark = pytest.mark.no_cover  # measuring it would take a third of the time

C4 = reference.Case("detectron2/faster_rcnn_R_50_C4_3x", "faster_rcnn_resnet50_v1_c4_detectron2_3x")


@pytest.fixture(scope="module")
def agreement() -> reference.Agreement:
    return reference.Agreement(C4)


@pytest.fixture(scope="module")
def training(agreement) -> reference.TrainingAgreement:
    return reference.TrainingAgreement(agreement)


@pytest.mark.parametrize("check", reference.SINGLE_LEVEL_CHECKS, ids=reference.name_of)
def test_detector_computes_what_detectron2_does(agreement, check):
    check(agreement)


@pytest.mark.parametrize("check", reference.SINGLE_LEVEL_TRAINING_CHECKS, ids=reference.name_of)
def test_training_computes_what_detectron2_does(training, check):
    check(training)


def test_anchors_of_a_cell_are_those_of_detectron2(agreement):
    theirs = np.array(C4.settings["anchors"]["cell_anchors"][0])
    ours = agreement.model.rpn.cell_anchors()[:, reference.YXYX]
    np.testing.assert_allclose(ours[C4.anchor_order], theirs, atol=1e-4)


@pytest.mark.parametrize(
    ("scales", "aspect_ratios", "numbers"),
    [
        ((0.5, 1.0), (2.0, 1.0, 0.5), (0, 3, 1, 4, 2, 5)),
        ((1.0, 0.5), (0.5, 1.0, 2.0), (5, 2, 4, 1, 3, 0)),
        ((1.0,), (2.0, 1.0, 0.5), (0, 1, 2)),
    ],
)
def test_anchors_are_numbered_by_size_and_then_shape(scales, aspect_ratios, numbers):
    """Whatever their order in the config is."""
    anchors = anchor_ops.grid_anchors([(1, 1)], scales=scales, aspect_ratios=aspect_ratios).numpy()
    assert tuple(cell_anchors.by_size(anchors)) == numbers


def test_the_backbone_is_filled_on_both_sides_of_the_regions(agreement):
    names = {
        name.removeprefix("backbone.").removeprefix("roi_heads."): tensor
        for name, tensor in agreement.tensors.items()
        if ".res" in name or ".stem" in name
    }
    classifier = names | {"fc1000_w": np.zeros([1000, 2048]), "fc1000_b": np.zeros([1000])}
    ours = agreement.library.backbone_weights_by_path(classifier, agreement.model, "R-50.pkl")
    parts = ("feature_extractor/backbone/", "box_head/feature_extractor/")
    assert ours.keys() == {path for path in variables_by_path(agreement.model) if path.startswith(parts)}


def test_other_classes_have_columns_of_their_own(agreement):
    tensors = dict(agreement.tensors)
    for name, rows in (("cls_score", 81), ("bbox_pred", 320)):
        tensors[f"roi_heads.box_predictor.{name}.weight"] = np.ones([rows, 2048])
        tensors[f"roi_heads.box_predictor.{name}.bias"] = np.arange(float(rows))
    found = libraries.find_weights(StateDict(tensors, "model", ""), agreement.model, "weights.pkl")
    bias = found.weights["box_head/class_predictor/bias"]
    assert (found.library, len(bias), bias[0], bias[1]) == ("detectron2", 81, 80, 0)  # the background comes first here


def refusal(tensors, model) -> str:
    return reference.assert_refused(libraries.LIBRARIES["detectron2"].weights_by_path, tensors, model)


@pytest.mark.parametrize(
    ("file", "there", "here", "kind"),
    [
        ("backbone.bottom_up.stem.conv1.weight", "with a feature pyramid", "one of one level", "resnet50_fpn_keras"),
        ("roi_heads.res5.0.conv1.weight", "of one level, without", "one with a feature pyramid", "resnet50_keras"),
    ],
)
def test_files_with_and_without_a_pyramid_are_told_apart(monkeypatch, file, there, here, kind):
    support.put_backbone(monkeypatch, support.RESNET18, support.SINGLE_RESNET18)
    make = support.single_level_message if "one level" in here else support.model_message
    model = builder.build_model(make(), execution=Execution(is_restored=True))
    text = refusal({file: np.zeros([1])}, model)
    assert f"this file is of a detector {there}" in text
    assert f"but the model is {here}" in text
    assert f'feature_extractor.type: "faster_rcnn_{kind}"' in text


def test_a_detector_with_dilated_convolutions_is_refused_in_words(agreement):
    assert "(DC5), which is not supported" in refusal({"backbone.res5.0.conv1.weight": np.zeros([1])}, agreement.model)
