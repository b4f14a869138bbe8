"""Detectors of torchvision, imported: names and layouts, and the same detections, losses and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_reference as reference

from object_detection_fpn.interop import torchvision
from object_detection_fpn.training.stored import CheckpointError
from object_detection_fpn.training.weights import variables_by_path

pytestmark = pytest.mark.no_cover  # measuring it would take a third of the time

V1 = reference.Case("torchvision/fasterrcnn_resnet50_fpn", "resnet50_v1_fpn_torchvision")
V2 = reference.Case("torchvision/fasterrcnn_resnet50_fpn_v2", "resnet50_v1_fpn_torchvision_v2")


@pytest.fixture(scope="module")
def v1() -> reference.Agreement:
    return reference.Agreement(V1, torchvision.weights_by_path)


@pytest.fixture(scope="module")
def v2() -> reference.Agreement:
    return reference.Agreement(V2, torchvision.weights_by_path)


@pytest.fixture(scope="module", params=["v1", "v2"])
def agreement(request) -> reference.Agreement:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def training(v1) -> reference.TrainingAgreement:
    return reference.TrainingAgreement(v1, torchvision.entries)


def test_every_variable_has_a_tensor(agreement):
    agreement.check_names()


def test_pyramid_agrees(agreement):
    agreement.check_pyramid()


def test_scores_and_offsets_of_anchors_agree(agreement):
    agreement.check_rpn()


def test_proposals_agree(agreement):
    agreement.check_proposals()


def test_outputs_of_the_box_head_agree(agreement):
    agreement.check_box_head()


def test_detections_agree(agreement):
    agreement.check_detections()


def test_detections_of_a_padded_batch_agree(agreement):
    agreement.check_batch()


def test_detections_of_images_that_are_resized_here_agree(agreement):
    agreement.check_images()


def test_targets_of_anchors_agree(training):
    training.check_anchors()


def test_sampled_proposals_agree(training):
    training.check_rois()


def test_losses_agree(training):
    training.check_losses()


def test_losses_agree_where_an_image_has_no_objects(training):
    training.check_losses_without_objects()


def test_gradients_agree(training):
    training.check_gradients()


def refusal(tensors, model) -> str:
    with pytest.raises(CheckpointError) as caught:
        torchvision.weights_by_path(tensors, model, "weights.pth")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_names_of_older_files_are_understood(v1):
    older = reference.load("names.json")["legacy_names"]
    tensors = {older.get(name, name): tensor for name, tensor in v1.tensors.items()}
    tensors["backbone.body.bn1.num_batches_tracked"] = np.zeros([], np.int64)
    assert not older.keys() & tensors.keys()
    ours, expected = (torchvision.weights_by_path(each, v1.model, "old.pth") for each in (tensors, v1.tensors))
    assert ours.keys() == expected.keys()
    assert all(np.array_equal(ours[path], expected[path]) for path in ours)


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


def test_v1_in_the_recipe_of_v2_is_refused(v1, v2):
    text = refusal(v1.tensors, v2.model)
    assert "missing: backbone.fpn.inner_blocks.0.1.weight" in text
    assert "left over: " in text


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("roi_heads.mask_head.0.0.weight", "a Mask R-CNN: masks are not supported yet"),
        ("roi_heads.keypoint_predictor.kps_score_lowres.weight", "a Keypoint R-CNN: keypoints are not supported"),
        ("head.classification_head.cls_logits.weight", "a detector of one stage"),
        ("backbone.bottom_up.stem.conv1.weight", "of Detectron2: use --from detectron2"),
        ("layer1.0.conv1.weight", "name it as train_config.fine_tune_checkpoint"),
    ],
)
def test_other_models_are_refused_in_words(v1, name, kind):
    assert kind in refusal({name: np.zeros([1])}, v1.model)


def test_a_classifier_fills_the_backbone(v1):
    prefix = "backbone.body."
    tensors = {name.removeprefix(prefix): t for name, t in v1.tensors.items() if name.startswith(prefix)}
    tensors |= {"fc.weight": np.zeros([1000, 2048]), "fc.bias": np.zeros([1000])}
    ours = torchvision.backbone_weights_by_path(tensors, v1.model, "resnet50.pth")
    whole = torchvision.weights_by_path(v1.tensors, v1.model, "weights.pth")
    assert ours.keys() == {path for path in variables_by_path(v1.model) if "/backbone/" in path}
    assert all(np.array_equal(ours[path], whole[path]) for path in ours)
