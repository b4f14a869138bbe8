"""Detectors of Detectron2, imported: names and layouts, and the same detections, losses and gradients."""

from __future__ import annotations

import re

import numpy as np
import pytest
import pytorch_reference as reference

from object_detection_fpn.interop import libraries
from object_detection_fpn.interop.detectron2 import Detectron2
from object_detection_fpn.interop.torch_files import StateDict
from object_detection_fpn.interop.torchvision import Torchvision
from object_detection_fpn.modeling import layers
from object_detection_fpn.modeling.heads import mask, transfer
from object_detection_fpn.training.weights import variables_by_path

pytestmark = pytest.mark.no_cover  # measuring it would take a third of the time

LIBRARY = Detectron2()
R50 = reference.Case("detectron2/mask_rcnn_R_50_FPN_3x", "mask_rcnn_resnet50_v1_fpn_detectron2_3x")
R101 = reference.Case("detectron2/faster_rcnn_R_101_FPN_3x", "faster_rcnn_resnet101_v1_fpn_detectron2_3x")


@pytest.fixture(scope="module")
def r50() -> reference.Agreement:
    return reference.Agreement(R50)


@pytest.fixture(scope="module")
def training(r50) -> reference.TrainingAgreement:
    return reference.TrainingAgreement(r50)


@pytest.mark.parametrize("check", reference.CHECKS, ids=reference.name_of)
def test_detector_computes_what_detectron2_does(r50, check):
    check(r50)


def test_masks_of_detections_are_those_of_detectron2(r50):
    r50.check_detected_masks()


def test_resnet_101_agrees():
    agreement = reference.Agreement(R101, images=(0,))
    agreement.check_names()
    agreement.check_pyramid()
    agreement.check_box_head()
    agreement.check_detections()


@pytest.mark.parametrize("check", reference.TRAINING_CHECKS, ids=reference.name_of)
def test_training_computes_what_detectron2_does(training, check):
    check(training)


def refusal(tensors, model) -> str:
    return reference.assert_refused(LIBRARY.weights_by_path, tensors, model)


def test_what_is_no_weight_is_passed_over(r50):
    tensors = r50.tensors | {
        "pixel_mean": np.array([103.53, 116.28, 123.675]).reshape(3, 1, 1),
        "pixel_std": np.ones([3, 1, 1]),
        "proposal_generator.anchor_generator.cell_anchors.0": np.zeros([3, 4]),
        "backbone.bottom_up.stem.conv1.norm.num_batches_tracked": np.zeros([]),
    }
    LIBRARY.weights_by_path(tensors, r50.model, "model.pkl")


def test_pixels_of_the_file_must_be_those_of_the_config(r50):
    text = refusal(r50.tensors | {"pixel_std": np.array([57.375, 57.12, 58.395]).reshape(3, 1, 1)}, r50.model)
    assert (
        "were trained on other pixels than the config gives them. Allowed: feature_extractor.pixel_normalization"
        in text
    )
    assert "channel_order: BGR mean: [103.53, 116.28, 123.675] stddev: [57.375, 57.12, 58.395] }" in text


def test_missing_and_additional_tensors_are_named(r50):
    tensors = dict(r50.tensors)
    tensors["roi_heads.box_head.fc3.weight"] = tensors.pop("roi_heads.box_head.fc2.weight")
    text = refusal(tensors, r50.model)
    assert "1 missing: roi_heads.box_head.fc2.weight; 1 left over: roi_heads.box_head.fc3.weight." in text


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sem_seg_head.p2.0.weight", "a panoptic or semantic FPN: neither is supported yet"),
        ("head.cls_subnet.0.weight", "a RetinaNet (model.ssd), but the config describes a Faster or Mask R-CNN"),
        ("backbone.body.conv1.weight", "of torchvision: use --from torchvision"),
        ("res2_0_branch2a_w", "name it as train_config.fine_tune_checkpoint"),
    ],
)
def test_other_models_are_refused_in_words(r50, name, kind):
    assert kind in refusal({name: np.zeros([1])}, r50.model)


def boxes_of(tensors):
    """The tensors of a Faster R-CNN."""
    return {name: tensor for name, tensor in tensors.items() if "mask_head" not in name}


def test_a_config_of_boxes_takes_all_but_the_mask_head(r50):
    assert LIBRARY.unused_part(r50.tensors, r50.detector) == "mask head"
    assert LIBRARY.unused_part(r50.tensors, r50.model) == LIBRARY.unused_part(boxes_of(r50.tensors), r50.model) == ""
    ours = LIBRARY.weights_by_path(r50.tensors, r50.detector, "weights.pkl")
    assert ours.keys() == variables_by_path(r50.detector).keys()
    found = libraries.find_weights(StateDict(r50.tensors, "model", ""), r50.detector, "weights.pkl")
    assert (found.weights.keys(), found.unused_part) == (ours.keys(), "mask head")


def test_weights_of_boxes_leave_the_mask_head_to_training(r50):
    tensors = boxes_of(r50.tensors)
    assert refusal(tensors, r50.model) == (
        "weights.pth: no masks in this file, whose names would begin with roi_heads.mask_head., but the model has "
        "number_of_stages: 3. Allowed: 2, or to name the file as train_config.fine_tune_checkpoint and train the mask head."
    )
    found = libraries.find_weights(StateDict(tensors, "model", ""), r50.model, "weights.pkl")
    assert found.weights.keys() == variables_by_path(r50.detector).keys()


def test_masks_of_other_classes_have_columns_of_their_own(r50):
    tensors = dict(r50.tensors)
    name = "roi_heads.mask_head.predictor."
    tensors[f"{name}weight"], tensors[f"{name}bias"] = np.ones([80, 256, 1, 1]), np.arange(80.0)
    assert f"{name}weight [80, 256, 1, 1], needed [5, 256, 1, 1]" in refusal(tensors, r50.model)
    weights = libraries.find_weights(StateDict(tensors, "model", ""), r50.model, "weights.pkl").weights
    assert weights["mask_head/predictor/kernel"].shape == (1, 1, 256, 80)
    np.testing.assert_array_equal(weights["mask_head/predictor/bias"], np.arange(80))


def test_a_mask_head_of_another_form_is_refused(r50):
    head = mask.MaskHead(
        in_size=14, in_filters=256, num_masks=5, size=(33, 33), upsampling="resize", spec=layers.LayerSpec()
    )
    model = reference.with_mask_head(r50.model, head)
    assert "This one has mask_upsampling: TRANSPOSED_CONVOLUTION. Use its recipe." in refusal(r50.tensors, model)
    LIBRARY.weights_by_path(boxes_of(r50.tensors), model, "weights.pkl", needs_masks=False)


def test_a_transferred_mask_predictor_is_left_to_training(r50):
    spec = layers.LayerSpec()
    head = mask.MaskHead(
        in_size=14,
        in_filters=256,
        num_masks=5,
        spec=spec,
        transfer=transfer.WeightTransfer(in_units=5120, spec=spec),
    )
    model = reference.with_mask_head(r50.model, head)
    assert "2 left over: roi_heads.mask_head.predictor.weight" in refusal(r50.tensors, model)
    found = libraries.find_weights(StateDict(r50.tensors, "model", ""), model, "weights.pkl")
    assert found.unused_part == "mask predictor"
    assert {path for path in variables_by_path(model) if path not in found.weights} == {
        f"mask_head/transfer/{layer}/{name}" for layer in ("fc1", "fc2") for name in ("kernel", "bias")
    }


def test_stride_and_pixels_of_torchvision_are_refused(r50):
    text = reference.assert_refused(Torchvision().backbone_weights_by_path, {"conv1.weight": np.zeros([1])}, r50.model)
    assert "with the stride of a stage in the 3 x 3 convolution" in text
    assert "Allowed: feature_extractor.resnet { stride_in_3x3: true }." in text


def caffe2_name(name: str) -> str:
    """The name in files of MSRA."""
    parts = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "shortcut": "branch1"}
    kinds = {
        "weight": "bn_gamma",
        "bias": "bn_beta",
        "running_mean": "bn_running_mean",
        "running_var": "bn_running_var",
    }
    if match := re.fullmatch(r"res(\d)\.(\d+)\.(\w+)(?:\.norm\.(\w+)|\.weight)", name):
        stage, block, part, kind = match.groups()
        return f"res{stage}_{block}_{parts[part]}_{kinds[kind] if kind else 'w'}"
    return "conv1_w" if name == "stem.conv1.weight" else f"res_conv1_{kinds[name.rpartition('.')[2]]}"


@pytest.mark.parametrize("rename", [str, caffe2_name])
def test_a_classifier_fills_the_backbone(r50, rename):
    backbone = {rename(name): tensor for name, tensor in reference.backbone_of(r50.tensors, LIBRARY).items()}
    classifier = {"conv1_b": np.zeros([64]), "fc1000_w": np.zeros([1000, 2048]), "fc1000_b": np.zeros([1000])}
    reference.assert_fills_backbone(r50, backbone | classifier)


def test_a_normalization_without_statistics_is_a_scale_and_an_offset(r50):
    tensors = {name: t for name, t in reference.backbone_of(r50.tensors, LIBRARY).items() if "running" not in name}
    ours = LIBRARY.backbone_weights_by_path(tensors, r50.model, "R-50.pkl")
    layer = r50.model.feature_extractor.backbone.network.get_layer("conv1_bn")
    paths = {id(variable): path for path, variable in variables_by_path(r50.model).items()}
    assert not ours[paths[id(layer.moving_mean)]].any()
    np.testing.assert_allclose(ours[paths[id(layer.moving_variance)]] + layer.epsilon, 1.0)
