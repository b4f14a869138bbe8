"""Detectors of torchvision, imported: names and layouts, and the same detections, losses and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_reference as reference

from object_detection_fpn.interop.torchvision import Torchvision

pytestmark = pytest.mark.no_cover  # measuring it would take a third of the time

LIBRARY = Torchvision()
V1 = reference.Case("torchvision/maskrcnn_resnet50_fpn", "mask_rcnn_resnet50_v1_fpn_torchvision")
V2 = reference.Case("torchvision/maskrcnn_resnet50_fpn_v2", "mask_rcnn_resnet50_v1_fpn_torchvision_v2")


@pytest.fixture(scope="module")
def v1() -> reference.Agreement:
    return reference.Agreement(V1)


@pytest.fixture(scope="module")
def v2() -> reference.Agreement:
    return reference.Agreement(V2)


@pytest.fixture(scope="module", params=["v1", "v2"])
def agreement(request) -> reference.Agreement:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def training(v1) -> reference.TrainingAgreement:
    return reference.TrainingAgreement(v1)


@pytest.mark.parametrize("check", reference.CHECKS, ids=reference.name_of)
def test_detector_computes_what_torchvision_does(agreement, check):
    check(agreement)


@pytest.mark.parametrize("check", reference.TRAINING_CHECKS, ids=reference.name_of)
def test_training_computes_what_torchvision_does(training, check):
    check(training)


def test_masks_of_detections_are_those_of_torchvision(v1):
    v1.check_detected_masks()


@pytest.mark.parametrize("version, number", [("v1", 44_401_393), ("v2", 46_359_409)])
def test_a_published_file_has_as_many_parameters_as_torchvision_says(request, version, number):
    """Of 91 classes, background among them; frozen normalizations have none."""
    model = request.getfixturevalue(version).model
    found = reference.num_parameters(LIBRARY, model)
    of_a_class = (1024 + 1) * (1 + 4) + 256 + 1
    assert found + (91 - 5) * of_a_class == number


def refusal(tensors, model) -> str:
    return reference.assert_refused(LIBRARY.weights_by_path, tensors, model)


def test_names_of_older_files_are_understood(v1):
    more = {"backbone.body.bn1.num_batches_tracked": np.zeros([], np.int64)}
    reference.assert_older_names_are_understood(LIBRARY, v1, reference.load("names.json")["legacy_names"], more)


def test_a_tensor_under_both_of_its_names_is_refused(v1):
    tensors = v1.tensors | {"rpn.head.conv.weight": v1.tensors["rpn.head.conv.0.0.weight"]}
    assert "names of one tensor, and both are there" in refusal(tensors, v1.model)


def test_missing_additional_and_misshapen_tensors_are_named(v1):
    tensors = dict(v1.tensors)
    del tensors["rpn.head.cls_logits.bias"]
    tensors["roi_heads.box_head.fc8.weight"] = np.zeros([2, 2])
    tensors["backbone.body.conv1.weight"] = np.zeros([64, 4, 7, 7])
    text = refusal(tensors, v1.model)
    assert text.startswith("weights.pth: these tensors are not those of the model that the config describes. ")
    assert (
        "1 missing: rpn.head.cls_logits.bias; 1 left over: roi_heads.box_head.fc8.weight; 1 of another shape: " in text
    )
    assert "backbone.body.conv1.weight [64, 4, 7, 7], needed [64, 3, 7, 7]. Use the recipe of this model" in text


def test_another_number_of_classes_is_refused(v1):
    tensors = dict(v1.tensors)
    for kind, shape in (("weight", [91, 1024]), ("bias", [91])):
        tensors[f"roi_heads.box_predictor.cls_score.{kind}"] = np.zeros(shape)
    assert "roi_heads.box_predictor.cls_score.weight [91, 1024], needed [5, 1024]" in refusal(tensors, v1.model)


def test_weights_of_boxes_lack_the_masks_of_the_config(v1):
    tensors = {name: tensor for name, tensor in v1.tensors.items() if "mask" not in name}
    assert "begin with roi_heads.mask_head. or roi_heads.mask_predictor., but the model has number_of_stages: 3" in (
        refusal(tensors, v1.model)
    )
    ours = LIBRARY.weights_by_path(tensors, v1.model, "weights.pth", needs_masks=False)
    assert ours.keys() == LIBRARY.weights_by_path(v1.tensors, v1.detector, "weights.pth").keys()


def test_v1_in_the_recipe_of_v2_is_refused(v1, v2):
    text = refusal(v1.tensors, v2.model)
    assert "missing: backbone.fpn.inner_blocks.0.1.weight" in text
    assert "left over: " in text


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("roi_heads.keypoint_predictor.kps_score_lowres.weight", "a Keypoint R-CNN: keypoints are not supported"),
        ("head.classification_head.cls_logits.weight", "a RetinaNet (model.ssd), but the config describes"),
        ("backbone.bottom_up.stem.conv1.weight", "of Detectron2: use --from detectron2"),
        ("layer1.0.conv1.weight", "name it as train_config.fine_tune_checkpoint"),
    ],
)
def test_other_models_are_refused_in_words(v1, name, kind):
    assert kind in refusal({name: np.zeros([1])}, v1.model)


def test_a_classifier_fills_the_backbone(v1):
    classifier = {"fc.weight": np.zeros([1000, 2048]), "fc.bias": np.zeros([1000])}
    reference.assert_fills_backbone(v1, reference.backbone_of(v1.tensors, LIBRARY) | classifier)
