"""RetinaNets of torchvision, imported: names and layouts, and the same detections, losses and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_reference as reference
from pytorch_reference import retinanet as retinanets

from object_detection_fpn.interop import libraries
from object_detection_fpn.interop.torch_files import StateDict
from object_detection_fpn.interop.torchvision import Torchvision
from object_detection_fpn.training.weights import variables_by_path

pytestmark = pytest.mark.no_cover  # measuring it would take a third of the time

LIBRARY = Torchvision()
V1 = retinanets.RetinaNetCase("torchvision/retinanet_resnet50_fpn", "retinanet_resnet50_v1_fpn_torchvision")
V2 = retinanets.RetinaNetCase("torchvision/retinanet_resnet50_fpn_v2", "retinanet_resnet50_v1_fpn_torchvision_v2")
PREDICTOR = "head.classification_head.cls_logits"


@pytest.fixture(scope="module")
def v1() -> retinanets.RetinaNetAgreement:
    return retinanets.RetinaNetAgreement(V1)


@pytest.fixture(scope="module")
def v2() -> retinanets.RetinaNetAgreement:
    return retinanets.RetinaNetAgreement(V2)


@pytest.fixture(scope="module", params=["v1", "v2"])
def agreement(request) -> retinanets.RetinaNetAgreement:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def training(agreement) -> retinanets.RetinaNetTraining:
    return retinanets.RetinaNetTraining(agreement)


@pytest.mark.parametrize("check", retinanets.CHECKS, ids=reference.name_of)
def test_retinanet_computes_what_torchvision_does(agreement, check):
    check(agreement)


@pytest.mark.parametrize("check", retinanets.TRAINING_CHECKS, ids=reference.name_of)
def test_training_computes_what_torchvision_does(training, check):
    check(training)


def test_normalizations_that_train_use_the_batch_as_torchvision_does(v2):
    retinanets.RetinaNetTraining(v2).check_batch_statistics()


@pytest.mark.parametrize("version, number", [("v1", 34_014_999), ("v2", 38_198_935)])
def test_a_published_file_has_as_many_parameters_as_torchvision_says(request, version, number):
    """Of 91 columns; frozen normalizations have none."""
    model = request.getfixturevalue(version).model
    found = reference.num_parameters(LIBRARY, model)
    of_a_column = 9 * (3 * 3 * 256 + 1)
    assert found + (91 - 5) * of_a_column == number


def refusal(tensors, model) -> str:
    return reference.assert_refused(LIBRARY.weights_by_path, tensors, model)


def test_names_of_older_files_are_understood(v1):
    reference.assert_older_names_are_understood(LIBRARY, v1, reference.load("names.json")["legacy_names_retinanet"])


def test_missing_and_additional_tensors_are_named(v1):
    tensors = dict(v1.tensors)
    tensors["head.regression_head.conv.4.0.weight"] = tensors.pop("head.regression_head.conv.3.0.weight")
    text = refusal(tensors, v1.model)
    assert "1 missing: head.regression_head.conv.3.0.weight; 1 left over: head.regression_head.conv.4.0.weight" in text


def test_v1_in_the_recipe_of_v2_is_refused(v1, v2):
    assert "backbone.fpn.extra_blocks.p6.weight [256, 256, 3, 3], needed [256, 2048, 3, 3]" in refusal(
        {**v1.tensors, "head.classification_head.conv.0.1.weight": np.zeros([256])}, v2.model
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("head.regression_head.bbox_ctrness.weight", "an FCOS, which is not supported"),
        ("head.classification_head.module_list.0.weight", "an SSD, which is not supported"),
        (
            "backbone.body.conv1.weight",
            "a Faster or Mask R-CNN (model.faster_rcnn), but the config describes a RetinaNet (model.ssd)",
        ),
    ],
)
def test_other_models_are_refused_in_words(v1, name, words):
    assert words in refusal({name: np.zeros([1])}, v1.model)


def test_a_detector_of_other_classes_gives_all_but_its_class_predictor(v1):
    """Its columns stand in our order, by which fine-tuning finds the classes whose names agree."""
    rng = np.random.default_rng(0)
    shape = (9 * 91, 256, 3, 3)
    tensors = v1.tensors | {f"{PREDICTOR}.weight": rng.normal(size=shape).astype(np.float32)}
    tensors[f"{PREDICTOR}.bias"] = np.arange(9.0 * 91)
    assert "needed [45, 256, 3, 3]" in refusal(tensors, v1.model)
    found = libraries.find_weights(StateDict(tensors, "model", ""), v1.model, "weights.pth")
    assert found.is_detector and found.unused_part == ""
    assert found.weights.keys() == variables_by_path(v1.model).keys()
    np.testing.assert_array_equal(found.weights["dense_head/class_predictor/bias"], np.arange(9.0 * 91))
    assert found.weights["dense_head/class_predictor/kernel"].shape == (3, 3, 256, 9 * 91)


def test_a_classifier_fills_the_backbone(v1):
    classifier = {"fc.weight": np.zeros([1000, 2048]), "fc.bias": np.zeros([1000])}
    reference.assert_fills_backbone(v1, reference.backbone_of(v1.tensors, LIBRARY) | classifier)
