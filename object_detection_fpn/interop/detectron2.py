"""Names that Detectron2 gives the tensors of faster_rcnn_R_{50,101}_FPN and of the ResNets that these start from.

| there | here |
|---|---|
| backbone.bottom_up.stem.conv1, conv1.norm | the backbone's stem, conv1_conv and conv1_bn |
| backbone.bottom_up.resS.B.convI, convI.norm | its convolution convS_block(B + 1)_I_conv and normalization, I = 1 to 3 |
| backbone.bottom_up.resS.B.shortcut, shortcut.norm | the same with I = 0 |
| backbone.fpn_lateralL, fpn_lateralL.norm | fpn/laterals/L and its normalization |
| backbone.fpn_outputL, fpn_outputL.norm | fpn/smoothings/L/conv and /norm |
| proposal_generator.rpn_head.conv; conv.convI where there are several | the convolutions of rpn/head |
| proposal_generator.rpn_head.objectness_logits | rpn/head/objectness |
| proposal_generator.rpn_head.anchor_deltas | rpn/head/deltas (dx, dy, dw, dh; ours dy, dx, dh, dw) |
| roi_heads.box_head.convI, convI.norm, I from 1 | convolutions and normalizations of box_head/feature_extractor |
| roi_heads.box_head.fcI, I from 1 | its dense layers |
| roi_heads.box_predictor.cls_score | box_head/class_predictor, whose background is the last row; ours the first |
| roi_heads.box_predictor.bbox_pred | box_head/box_predictor |

No weights are `pixel_mean` and `pixel_std`, with which the config must agree,
`proposal_generator.anchor_generator.cell_anchors.L`, and `num_batches_tracked`.

A ResNet for ImageNet has the names of `backbone.bottom_up` without this prefix, or, in R-50.pkl and R-101.pkl of MSRA,

| there | here, without the prefix |
|---|---|
| conv1_w, res_conv1_bn_* | stem.conv1.weight, stem.conv1.norm.* |
| resS_B_branch2a_w, branch2b, branch2c, branch1 | resS.B.conv1.weight, conv2, conv3, shortcut |
| *_bn_gamma or _s, _beta or _b, _running_mean or _rm, _running_var or _riv | .norm.weight, .bias, .running_mean, .running_var |

and its classifier, `fc1000` or `linear`. Where such a file has no statistics they are those of a scale and offset alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from object_detection_fpn.interop import resnets, state_dict
from object_detection_fpn.interop.state_dict import Entry
from object_detection_fpn.modeling.backbones.backbone import Backbone
from object_detection_fpn.modeling.detectors.faster_rcnn import FasterRCNN

PIXEL_MEAN = (103.53, 116.28, 123.675)
PIXEL_STDDEV = (1.0, 1.0, 1.0)
_BOTTOM_UP = "backbone.bottom_up."
_NO_WEIGHT = re.compile(
    r"(^pixel_(mean|std)|^proposal_generator\.anchor_generator\.cell_anchors\.\d+|\.num_batches_tracked)$"
)
_CLASSIFIER = re.compile(r"^(fc1000|pred|linear|stem\.fc)[._]")
_OTHER_MODELS = (
    ("sem_seg_head.", "a panoptic or semantic FPN: neither is supported yet"),
    ("roi_heads.mask_head.", "a Mask R-CNN: masks are not supported yet"),
    ("roi_heads.keypoint_head.", "a Keypoint R-CNN: keypoints are not supported"),
    ("head.cls_subnet.", "a RetinaNet: detectors of one stage are not supported yet"),
    ("roi_heads.box_head.0.", "a Cascade R-CNN, which is not supported"),
    ("roi_heads.res5.", "a Faster R-CNN of one level, without feature pyramid (C4)"),
    ("backbone.res2.", "a detector of one level, without feature pyramid (C4 or DC5)"),
    ("backbone.body.", "of torchvision: use --from torchvision"),
    ("res2.0.conv1.", "a ResNet that was trained to classify: name it as train_config.fine_tune_checkpoint"),
    ("res2_0_branch", "a ResNet that was trained to classify: name it as train_config.fine_tune_checkpoint"),
)
_CAFFE2_NAMES = (
    (re.compile(r"^conv1_w$"), "stem.conv1.weight"),
    (re.compile(r"^res_conv1_bn_"), "stem.conv1.norm."),
    (re.compile(r"^res(\d)_(\d+)_branch1_"), r"res\1.\2.shortcut."),
    (re.compile(r"^res(\d)_(\d+)_branch2a_"), r"res\1.\2.conv1."),
    (re.compile(r"^res(\d)_(\d+)_branch2b_"), r"res\1.\2.conv2."),
    (re.compile(r"^res(\d)_(\d+)_branch2c_"), r"res\1.\2.conv3."),
    (re.compile(r"^(res\d.*\.)w$"), r"\1weight"),
    (re.compile(r"^(res\d.*\.)bn_"), r"\1norm."),
    (re.compile(r"(\.norm\.)(gamma|s)$"), r"\1weight"),
    (re.compile(r"(\.norm\.)(beta|b)$"), r"\1bias"),
    (re.compile(r"(\.norm\.)rm$"), r"\1running_mean"),
    (re.compile(r"(\.norm\.)riv$"), r"\1running_var"),
)


def weights_by_path(tensors: Mapping[str, np.ndarray], model: FasterRCNN, source: str) -> dict[str, np.ndarray]:
    """Files the tensors of a detector of Detectron2 under the paths of our variables.

    Args:
        tensors: of its state dict, by name.
        model: what they are for, built from the recipe of that detector.
        source: name of the file in errors.

    Returns:
        {path of our variable: array}, every variable of the model.

    Raises:
        CheckpointError: if the file is of another model, or the config describes another: a tensor is missing, left over
            or of another shape, or strides or pixels are others.
    """
    state_dict.refuse_other_models(tensors, _OTHER_MODELS, source)
    _refuse_other_backbone(tensors, model.feature_extractor.backbone, source)
    return state_dict.file_under_our_paths(
        tensors,
        entries(model, source),
        model,
        source=source,
        is_ignored=lambda name: bool(_NO_WEIGHT.search(name)),
    )


def entries(model: FasterRCNN, source: str) -> list[Entry]:
    """The table of names at the head of this file, for the layers of a model.

    Raises:
        CheckpointError: if the model is built otherwise than such a detector.
    """
    backbone = _backbone_entries(model.feature_extractor.backbone, _BOTTOM_UP, source)
    return [*backbone, *_head_entries(state_dict.head_layers(model, source))]


def backbone_weights_by_path(
    tensors: Mapping[str, np.ndarray], model: FasterRCNN, source: str
) -> dict[str, np.ndarray]:
    """Files the tensors of a ResNet that was trained to classify, such as R-50.pkl, for the backbone.

    Args:
        tensors: by name, in either of the two spellings.
        model: whose backbone they are for, built.
        source: name of the file in errors.

    Returns:
        {path of our variable: array}, every variable of the backbone.

    Raises:
        CheckpointError: as `weights_by_path`.
    """
    backbone = model.feature_extractor.backbone
    _refuse_other_backbone(tensors, backbone, source)
    of_backbone = list(_backbone_entries(backbone, "", source))
    return state_dict.file_under_our_paths(
        _with_statistics(_with_present_names(tensors), of_backbone),
        of_backbone,
        model,
        source=source,
        # conv1_b is the bias of a convolution whose normalization follows: all 0.
        is_ignored=lambda name: bool(_NO_WEIGHT.search(name) or _CLASSIFIER.search(name)) or name == "conv1_b",
        parts=("feature_extractor/backbone",),
    )


def _backbone_entries(backbone: Backbone, prefix: str, source: str) -> Iterator[Entry]:
    for stage, block, index, conv, norm in resnets.resnet_layers(backbone, source):
        block_name = f"res{stage}.{block}" if stage > 1 else "stem"
        name = f"{block_name}.conv{index}" if index else f"{block_name}.shortcut"
        yield Entry(prefix + name, conv)
        yield Entry(f"{prefix}{name}.norm", norm)


def _head_entries(head: state_dict.HeadLayers) -> Iterator[Entry]:
    """Of pyramid, RPN and box head."""
    for name, levels in (("lateral", head.laterals), ("output", head.smoothings)):
        for level, layer in levels.items():
            yield Entry(f"backbone.fpn_{name}{level}", layer.conv)
            yield Entry(f"backbone.fpn_{name}{level}.norm", layer.norm)
    prefix = "proposal_generator.rpn_head."
    for i, conv in enumerate(head.rpn_convs):
        yield Entry(f"{prefix}conv" + (f".conv{i}" if len(head.rpn_convs) > 1 else ""), conv)
    yield Entry(f"{prefix}objectness_logits", head.objectness)
    yield Entry(f"{prefix}anchor_deltas", head.deltas, rows=state_dict.box_rows(head.num_anchors))
    for i, layer in enumerate(head.box_convs, start=1):
        yield Entry(f"roi_heads.box_head.conv{i}", layer.conv)
        yield Entry(f"roi_heads.box_head.conv{i}.norm", layer.norm)
    for i, dense in enumerate(head.dense, start=1):
        yield Entry(f"roi_heads.box_head.fc{i}", dense, flattened_size=head.flattened_size if i == 1 else None)
    background_first = np.roll(np.arange(head.num_classes + 1), 1)
    yield Entry("roi_heads.box_predictor.cls_score", head.class_predictor, rows=background_first)
    yield Entry("roi_heads.box_predictor.bbox_pred", head.box_predictor, rows=state_dict.box_rows(head.num_boxes))


def _with_present_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors by the names of Detectron2, whatever their spelling."""

    def rename(name: str) -> str:
        for pattern, replacement in _CAFFE2_NAMES:
            name = pattern.sub(replacement, name)
        return name

    return {rename(name): tensor for name, tensor in tensors.items() if not name.endswith("_momentum")}


def _with_statistics(tensors: Mapping[str, np.ndarray], entries: list[Entry]) -> dict[str, np.ndarray]:
    """The tensors, and where a normalization is a scale and an offset alone, the statistics that make it so."""
    result = dict(tensors)
    for entry in entries:
        if entry.name.endswith(".norm") and f"{entry.name}.weight" in result:
            scale = np.asarray(result[f"{entry.name}.weight"])
            if f"{entry.name}.running_mean" not in result and f"{entry.name}.running_var" not in result:
                result[f"{entry.name}.running_mean"] = np.zeros_like(scale)
                result[f"{entry.name}.running_var"] = np.full_like(scale, 1.0 - entry.layer.epsilon)
    return result


def _refuse_other_backbone(tensors: Mapping[str, np.ndarray], backbone: Backbone, source: str) -> None:
    mean, stddev = (
        tuple(float(value) for value in np.ravel(tensors.get(name, default)))
        for name, default in (("pixel_mean", PIXEL_MEAN), ("pixel_std", PIXEL_STDDEV))
    )
    resnets.refuse_other_backbone(backbone, stride_in_3x3=False, mean=mean, stddev=stddev, is_bgr=True, source=source)
