"""Names that Detectron2 gives the tensors of {faster,mask}_rcnn_R_{50,101}_FPN, faster_rcnn_R_50_C4 and their ResNets.

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
| roi_heads.mask_head.mask_fcnI, mask_fcnI.norm, I from 1 | mask_head/convI/conv and /norm |
| roi_heads.mask_head.deconv, predictor | mask_head/upsample, predictor |

The anchors of a cell stand size by size there, each size from wide to high; ours by shape, then size. C4, a detector of one
level, has neither fpn_* nor the layers of box_head, and for the ResNet

| there | here |
|---|---|
| backbone.stem, backbone.resS, S = 2 to 4 | as backbone.bottom_up.stem and backbone.bottom_up.resS |
| roi_heads.res5 | the last stage, box_head/feature_extractor |

RetinaNet, retinanet_R_{50,101}_FPN, has the backbone and the pyramid of the others, and

| there | here |
|---|---|
| backbone.top_block.p6, p7 | fpn/extras/6, 7 |
| head.cls_subnet.2I, bbox_subnet.2I | dense_head/class_tower/convs/I, box_tower/convs/I |
| head.cls_score | dense_head/class_predictor: all classes of an anchor, none of them the background |
| head.bbox_pred | dense_head/box_predictor |

No weights are `pixel_mean` and `pixel_std`, with which the config must agree,
`proposal_generator.anchor_generator.cell_anchors.L` (of a RetinaNet without `proposal_generator.`), and `num_batches_tracked`.

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
from collections.abc import Iterator, Sequence

import numpy as np

from object_detection_fpn.interop import cell_anchors, library, resnets, retinanets, state_dict
from object_detection_fpn.interop.state_dict import Entry
from object_detection_fpn.modeling.backbones.backbone import PixelNormalization

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


class Detectron2(library.Library):
    """Detectron2; the tables at the head of this file say how it names what."""

    title = "Detectron2"
    of_detectors = ("backbone.bottom_up.", "backbone.res2.", "proposal_generator.")
    of_classifiers = ("res2.0.conv1.", "res2_0_branch")
    other_models = (
        ("sem_seg_head.", "a panoptic or semantic FPN: neither is supported yet"),
        ("roi_heads.keypoint_head.", "a Keypoint R-CNN: keypoints are not supported"),
        ("head.ctrness.", "an FCOS, which is not supported"),
        ("roi_heads.box_head.0.", "a Cascade R-CNN, which is not supported"),
        ("backbone.res5.", "a detector with dilated convolutions in its last stage (DC5), which is not supported"),
        ("backbone.body.", "of torchvision: use --from torchvision"),
        ("res2.0.conv1.", "a ResNet that was trained to classify: name it as train_config.fine_tune_checkpoint"),
        ("res2_0_branch", "a ResNet that was trained to classify: name it as train_config.fine_tune_checkpoint"),
    )
    of_masks = ("roi_heads.mask_head.",)
    of_single_level = ("backbone.res2.", "roi_heads.res5.")
    of_retinanets = ("head.cls_subnet.",)
    retinanets_have_first_column = False
    backbone_prefix = "backbone.bottom_up."
    ignored_names = re.compile(
        r"(^pixel_(mean|std)|^(proposal_generator\.)?anchor_generator\.cell_anchors\.\d+|\.num_batches_tracked)$"
    )
    # conv1_b is the bias of a convolution whose normalization follows: all 0.
    ignored_classifier_names = re.compile(r"^((fc1000|pred|linear|stem\.fc)[._]|conv1_b$)")
    stride_in_3x3 = False
    pixels = PixelNormalization(mean=(103.53, 116.28, 123.675), stddev=(1.0, 1.0, 1.0), is_bgr=True)

    def stage_prefix(self, stage: int, *, has_pyramid: bool) -> str:
        if has_pyramid:
            return self.backbone_prefix
        return "roi_heads." if stage == 5 else "backbone."

    def resnet_names(self, layers: resnets.ResNetLayers) -> tuple[str, str]:
        block = f"res{layers.stage}.{layers.block}" if layers.stage > 1 else "stem"
        name = f"{block}.conv{layers.conv_index}" if layers.conv_index else f"{block}.shortcut"
        return name, f"{name}.norm"

    def head_entries(self, head: state_dict.HeadLayers) -> Iterator[Entry]:
        yield from _pyramid_entries(head)
        prefix = "proposal_generator.rpn_head."
        for i, conv in enumerate(head.rpn_convs):
            yield Entry(f"{prefix}conv" + (f".conv{i}" if len(head.rpn_convs) > 1 else ""), conv)
        anchors = cell_anchors.by_size(head.cell_anchors)
        yield Entry(f"{prefix}objectness_logits", head.objectness, rows=anchors)
        yield Entry(f"{prefix}anchor_deltas", head.deltas, rows=state_dict.box_rows(len(anchors), boxes=anchors))
        for i, layer in enumerate(head.box_convs, start=1):
            yield Entry(f"roi_heads.box_head.conv{i}", layer.conv)
            yield Entry(f"roi_heads.box_head.conv{i}.norm", layer.norm)
        for i, dense in enumerate(head.dense, start=1):
            yield Entry(f"roi_heads.box_head.fc{i}", dense, flattened_size=head.flattened_size if i == 1 else None)
        background_first = np.roll(np.arange(head.num_classes + 1), 1)
        yield Entry("roi_heads.box_predictor.cls_score", head.class_predictor, rows=background_first)
        yield Entry("roi_heads.box_predictor.bbox_pred", head.box_predictor, rows=state_dict.box_rows(head.num_boxes))
        if head.mask is not None:
            yield from _mask_entries(head.mask)

    def dense_entries(self, head: retinanets.DenseLayers) -> Iterator[Entry]:
        yield from _pyramid_entries(head)
        for level, layer in head.extras.items():
            yield Entry(f"backbone.top_block.p{level}", layer)
        for name, tower in (("cls_subnet", head.class_tower), ("bbox_subnet", head.box_tower)):
            for i, layer in enumerate(tower):
                step = 2 if layer.norm is None else 3  # an activation is one of the layers that are counted
                yield Entry(f"head.{name}.{step * i}", layer.conv)
                if layer.norm is not None:
                    yield Entry(f"head.{name}.{step * i + 1}", layer.norm)
        anchors = cell_anchors.by_size(head.cell_anchors)
        yield retinanets.class_entry("head.cls_score", head, anchors)
        yield retinanets.box_entry("head.bbox_pred", head, anchors)

    def classifier_tensors(self, tensors: library.Tensors, entries: Sequence[Entry]) -> library.Tensors:
        return _with_statistics(_with_present_names(tensors), entries)


def _pyramid_entries(head: state_dict.HeadLayers | retinanets.DenseLayers) -> Iterator[Entry]:
    for name, levels in (("lateral", head.laterals), ("output", head.smoothings)):
        for level, layer in levels.items():
            yield Entry(f"backbone.fpn_{name}{level}", layer.conv)
            yield Entry(f"backbone.fpn_{name}{level}.norm", layer.norm)


def _mask_entries(head: state_dict.MaskLayers) -> Iterator[Entry]:
    for i, layer in enumerate(head.convs, start=1):
        yield Entry(f"roi_heads.mask_head.mask_fcn{i}", layer.conv)
        yield Entry(f"roi_heads.mask_head.mask_fcn{i}.norm", layer.norm)
    yield Entry("roi_heads.mask_head.deconv", head.upsample)
    if head.predictor is not None:
        yield Entry("roi_heads.mask_head.predictor", head.predictor)


def _with_present_names(tensors: library.Tensors) -> dict[str, np.ndarray]:
    """The tensors by the names of Detectron2, whatever their spelling."""
    weights = {
        name: tensor for name, tensor in tensors.items() if not name.endswith("_momentum")
    }  # not of the optimizer
    return {state_dict.rename(name, _CAFFE2_NAMES): tensor for name, tensor in weights.items()}


def _with_statistics(tensors: library.Tensors, entries: Sequence[Entry]) -> dict[str, np.ndarray]:
    """The tensors, and where a normalization is a scale and an offset alone, the statistics that make it so."""
    result = dict(tensors)
    for entry in entries:
        if entry.name.endswith(".norm") and f"{entry.name}.weight" in result:
            scale = np.asarray(result[f"{entry.name}.weight"])
            if f"{entry.name}.running_mean" not in result and f"{entry.name}.running_var" not in result:
                result[f"{entry.name}.running_mean"] = np.zeros_like(scale)
                result[f"{entry.name}.running_var"] = np.full_like(scale, 1.0 - entry.layer.epsilon)
    return result
