"""Names that torchvision gives the tensors of fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn, their v2, and its ResNets.

| there | here |
|---|---|
| backbone.body.conv1, bn1 | the backbone's stem, conv1_conv and conv1_bn |
| backbone.body.layerS.B.convI, bnI | its convolution conv(S + 1)_block(B + 1)_I_conv and normalization, I = 1 to 3 |
| backbone.body.layerS.B.downsample.0, downsample.1 | the same with I = 0, of the shortcut |
| backbone.fpn.inner_blocks.L.0; L.1 in v2 | fpn/laterals/(L + 2) and its normalization |
| backbone.fpn.layer_blocks.L.0; L.1 in v2 | fpn/smoothings/(L + 2)/conv and /norm |
| rpn.head.conv.I.0 | the I-th convolution of rpn/head |
| rpn.head.cls_logits, bbox_pred | rpn/head/objectness, deltas (dx, dy, dw, dh; ours dy, dx, dh, dw) |
| roi_heads.box_head.fc6, fc7 | the dense layers of box_head/feature_extractor |
| in v2: roi_heads.box_head.I.0, I.1; 5 | its convolutions and normalizations; its dense layer |
| roi_heads.box_predictor.cls_score | box_head/class_predictor, background first as in ours |
| roi_heads.box_predictor.bbox_pred | box_head/box_predictor, whose rows begin with a box of the background that nothing uses |
| roi_heads.mask_head.I.0; I.1 in v2 | mask_head/conv(I + 1)/conv and /norm |
| roi_heads.mask_predictor.conv5_mask | mask_head/upsample |
| roi_heads.mask_predictor.mask_fcn_logits | mask_head/predictor, whose first row is a mask of the background, of no use |

RetinaNet, retinanet_resnet50_fpn and _v2, has the backbone of these and a pyramid from level 3, `inner_blocks.(L - 3)`, and

| there | here |
|---|---|
| backbone.fpn.extra_blocks.p6, p7 | fpn/extras/6, 7 |
| head.classification_head.conv.I.0; I.1 in v2 | dense_head/class_tower/convs/I; norms/0/I |
| head.regression_head.conv.I.0; I.1 in v2 | dense_head/box_tower/convs/I; norms/0/I |
| head.classification_head.cls_logits | dense_head/class_predictor: all columns of an anchor, the first of no class |
| head.regression_head.bbox_reg | dense_head/box_predictor |

The anchors of a cell stand from wide to high there, each shape size by size.

Files of 2019 write `inner_blocks.L`, `layer_blocks.L` and `rpn.head.conv` without the `.0`, and `mask_head.mask_fcnI`, I from
1, instead of `mask_head.(I - 1).0`; those of RetinaNet have `conv.2I` instead of `conv.I.0`. A ResNet that was trained to
classify has the names of `backbone.body` without this prefix, and its classifier `fc`. `num_batches_tracked` is no weight.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from object_detection_fpn.interop import cell_anchors, library, resnets, retinanets, state_dict
from object_detection_fpn.interop.state_dict import Entry
from object_detection_fpn.modeling.backbones.backbone import PixelNormalization
from object_detection_fpn.training.stored import CheckpointError

_LEGACY_NAMES = (
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"^(rpn\.head\.conv)\.(weight|bias)$"), r"\1.0.0.\2"),
    # An activation came after each convolution, and was counted.
    *(
        (re.compile(rf"^(head\.(?:classification|regression)_head\.conv)\.{2 * i}\.(weight|bias)$"), rf"\1.{i}.0.\2")
        for i in range(4)
    ),
    *((re.compile(rf"^(roi_heads\.mask_head)\.mask_fcn{i + 1}\.(weight|bias)$"), rf"\1.{i}.0.\2") for i in range(4)),
)


class Torchvision(library.Library):
    """torchvision; the table at the head of this file says how it names what."""

    title = "torchvision"
    of_detectors = ("backbone.body.",)
    of_classifiers = ("layer1.0.conv1.",)
    other_models = (
        ("roi_heads.keypoint_", "a Keypoint R-CNN: keypoints are not supported"),
        ("head.classification_head.module_list.", "an SSD, which is not supported"),
        ("head.regression_head.bbox_ctrness.", "an FCOS, which is not supported"),
        ("backbone.bottom_up.", "of Detectron2: use --from detectron2"),
        ("layer1.0.conv1.", "a ResNet that was trained to classify: name it as train_config.fine_tune_checkpoint"),
    )
    of_masks = ("roi_heads.mask_head.", "roi_heads.mask_predictor.")
    of_retinanets = ("head.classification_head.",)
    retinanets_have_first_column = True
    backbone_prefix = "backbone.body."
    ignored_names = re.compile(r"\.num_batches_tracked$")
    ignored_classifier_names = re.compile(r"^fc\.")
    stride_in_3x3 = True
    pixels = PixelNormalization(mean=(123.675, 116.28, 103.53), stddev=(58.395, 57.12, 57.375))

    def resnet_names(self, layers: resnets.ResNetLayers) -> tuple[str, str]:
        if layers.stage == 1:
            return "conv1", "bn1"
        block = f"layer{layers.stage - 1}.{layers.block}"
        if layers.conv_index == 0:
            return f"{block}.downsample.0", f"{block}.downsample.1"
        return f"{block}.conv{layers.conv_index}", f"{block}.bn{layers.conv_index}"

    def head_entries(self, head: state_dict.HeadLayers) -> Iterator[Entry]:
        yield from _pyramid_entries(head)
        for i, conv in enumerate(head.rpn_convs):
            yield Entry(f"rpn.head.conv.{i}.0", conv)
        yield Entry("rpn.head.cls_logits", head.objectness)
        yield Entry("rpn.head.bbox_pred", head.deltas, rows=state_dict.box_rows(len(head.cell_anchors)))
        for i, layer in enumerate(head.box_convs):
            yield Entry(f"roi_heads.box_head.{i}.0", layer.conv)
            yield Entry(f"roi_heads.box_head.{i}.1", layer.norm)
        first = (
            len(head.box_convs) + 1
        )  # the convolutions and the flattening come before, a ReLU after each dense layer
        for i, dense in enumerate(head.dense):
            name = f"{first + 2 * i}" if head.box_convs else f"fc{6 + i}"
            yield Entry(f"roi_heads.box_head.{name}", dense, flattened_size=None if i else head.flattened_size)
        yield Entry("roi_heads.box_predictor.cls_score", head.class_predictor)
        yield Entry(
            "roi_heads.box_predictor.bbox_pred",
            head.box_predictor,
            rows=state_dict.box_rows(head.num_boxes, first=1),
            num_rows=4 * (head.num_boxes + 1),
        )
        if head.mask is not None:
            yield from _mask_entries(head.mask)

    def dense_entries(self, head: retinanets.DenseLayers) -> Iterator[Entry]:
        yield from _pyramid_entries(head)
        for level, layer in head.extras.items():
            yield Entry(f"backbone.fpn.extra_blocks.p{level}", layer)
        for name, tower in (("classification_head", head.class_tower), ("regression_head", head.box_tower)):
            for i, layer in enumerate(tower):
                yield Entry(f"head.{name}.conv.{i}.0", layer.conv)
                if layer.norm is not None:
                    yield Entry(f"head.{name}.conv.{i}.1", layer.norm)
        anchors = cell_anchors.by_shape(head.cell_anchors)
        num_first = 0 if head.has_background else 1  # the column that torchvision's data sets leave unused
        yield retinanets.class_entry("head.classification_head.cls_logits", head, anchors, num_first=num_first)
        yield retinanets.box_entry("head.regression_head.bbox_reg", head, anchors)

    def detector_tensors(self, tensors: library.Tensors, source: str) -> dict[str, np.ndarray]:
        """The tensors by the names that torchvision gives them since 2022.

        Raises:
            CheckpointError: if a tensor stands there under both names.
        """
        result: dict[str, np.ndarray] = {}
        for name, tensor in tensors.items():
            present = state_dict.rename(name, _LEGACY_NAMES)
            if present in result or (present != name and present in tensors):
                raise CheckpointError(f"{source}: {name} and {present} are names of one tensor, and both are there.")
            result[present] = tensor
        return result


def _pyramid_entries(head: state_dict.HeadLayers | retinanets.DenseLayers) -> Iterator[Entry]:
    finest = min(head.laterals)
    for blocks, levels in (("inner_blocks", head.laterals), ("layer_blocks", head.smoothings)):
        for level, layer in levels.items():
            yield Entry(f"backbone.fpn.{blocks}.{level - finest}.0", layer.conv)
            yield Entry(f"backbone.fpn.{blocks}.{level - finest}.1", layer.norm)


def _mask_entries(head: state_dict.MaskLayers) -> Iterator[Entry]:
    for i, layer in enumerate(head.convs):
        yield Entry(f"roi_heads.mask_head.{i}.0", layer.conv)
        yield Entry(f"roi_heads.mask_head.{i}.1", layer.norm)
    yield Entry("roi_heads.mask_predictor.conv5_mask", head.upsample)
    if head.predictor is not None:
        yield Entry(
            "roi_heads.mask_predictor.mask_fcn_logits",
            head.predictor,
            rows=state_dict.mask_rows(head.num_masks),
            num_rows=head.num_masks + 1,
        )
