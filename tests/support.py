"""What several tests share: ONE tiny backbone, ONE tiny config, and a detector built in a moment with every part real."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from google.protobuf import text_format

from object_detection_fpn import builder
from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import fpn, hard_examples, layers, postprocess, proposals, targets
from object_detection_fpn.modeling import pooler as roi
from object_detection_fpn.modeling.backbones import resnet_v1
from object_detection_fpn.modeling.detectors import faster_rcnn
from object_detection_fpn.modeling.heads import box, rpn, rpn_head
from object_detection_fpn.ops import anchors as anchor_ops
from object_detection_fpn.ops import nms
from object_detection_fpn.protos import faster_rcnn_pb2, model_pb2, ssd_pb2
from object_detection_fpn.records import Groundtruth

RESNET18 = "faster_rcnn_resnet18_fpn_keras"
SINGLE_RESNET18 = "faster_rcnn_resnet18_keras"
SSD_RESNET18 = "ssd_resnet18_v1_fpn_keras"

# A FasterRcnn of three levels with one anchor a cell.
MODEL = f"""
num_classes: 3
image_resizer {{ fixed_shape_resizer {{ height: 64 width: 64 }} }}
feature_extractor {{
  type: "{RESNET18}"
  conv_hyperparams {{ }}
  fpn {{ min_level: 3 max_level: 5 additional_layer_depth: 6 }}
}}
first_stage_anchor_generator {{
  multiscale_anchor_generator {{
    min_level: 3 max_level: 5 anchor_scale: 2 aspect_ratios: 1 scales_per_octave: 1 normalize_coordinates: false
  }}
}}
first_stage_box_predictor_conv_hyperparams {{ }}
first_stage_box_predictor_depth: 6
first_stage_max_proposals: 40
initial_crop_size: 4
maxpool_kernel_size: 2
maxpool_stride: 2
second_stage_box_predictor {{
  mask_rcnn_box_predictor {{ fc_hyperparams {{ }} conv_hyperparams {{ }} mask_prediction_conv_depth: 6 }}
}}
second_stage_batch_size: 16
second_stage_post_processing {{
  batch_non_max_suppression {{ score_threshold: 0.05 max_detections_per_class: 8 max_total_detections: 10 }}
  score_converter: SOFTMAX
}}
"""

# An Ssd of three levels with two anchors a cell.
RETINANET = f"""
num_classes: 3
image_resizer {{ fixed_shape_resizer {{ height: 64 width: 64 }} }}
feature_extractor {{
  type: "{SSD_RESNET18}"
  min_depth: 1
  conv_hyperparams {{ }}
  fpn {{ min_level: 3 max_level: 5 additional_layer_depth: 6 }}
}}
box_coder {{ faster_rcnn_box_coder {{ }} }}
matcher {{ argmax_matcher {{ force_match_for_each_row: true }} }}
similarity_calculator {{ iou_similarity {{ }} }}
box_predictor {{
  weight_shared_convolutional_box_predictor {{ conv_hyperparams {{ }} depth: 6 num_layers_before_predictor: 1 }}
}}
anchor_generator {{
  multiscale_anchor_generator {{ min_level: 3 max_level: 5 anchor_scale: 2 aspect_ratios: 1 scales_per_octave: 2 }}
}}
post_processing {{
  batch_non_max_suppression {{ score_threshold: 0.05 max_detections_per_class: 8 max_total_detections: 10 }}
  score_converter: SIGMOID
}}
loss {{
  localization_loss {{ weighted_smooth_l1 {{ }} }}
  classification_loss {{ weighted_sigmoid_focal {{ }} }}
}}
encode_background_as_zeros: true
"""

NUM_FILTERS = {2: 4, 3: 6, 4: 8, 5: 10}  # all different, so that no level can pass for another


def make_backbone(
    spec: layers.LayerSpec = layers.LayerSpec(),
    *,
    max_level: int = 5,
    num_channels: int = 3,
    num_filters: Sequence[int] = tuple(NUM_FILTERS.values()),
    is_residual: bool = False,
    symmetric_padding: bool = False,
    **settings: Any,
) -> resnet_v1.Backbone:
    """One convolution a level, of few channels, made as a whole ResNet's are.

    Args:
        spec: of every layer.
        max_level: last level that is built.
        num_channels: of the images.
        num_filters: of levels 2, 3, ...
        is_residual: whether it has all kinds of layers that a ResNet has: a strided stem, pooling, and shortcuts with and
            without projection.
        symmetric_padding: of the pooling, as a ResNet's.
        settings: others of `Backbone`. Its stem is what comes before the first shortcut, or nothing.
    """

    def convolve(features, filters, size, strides, name):
        convolved = spec.make_conv(filters, size, strides=strides, name=f"conv{name}")(features)
        return spec.make_norm(name=f"norm{name}")(convolved)

    inputs = features = tf_keras.Input([None, None, num_channels])
    if is_residual:
        features = spec.make_activation(name="act_stem")(convolve(features, num_filters[0], 7, 2, "_stem"))
        make = layers.SymmetricMaxPool if symmetric_padding else tf_keras.layers.MaxPooling2D
        features = make(3, 2, padding="same", dtype=spec.dtype)(features)
    stem = features
    outputs = []
    for level, filters in zip(range(2, max_level + 1), num_filters, strict=False):
        strides = 2 if level > 2 else 1 if is_residual else 4
        has_projection = is_residual and level > 2
        shortcut = convolve(features, filters, 1, strides, f"{level}_shortcut") if has_projection else features
        features = convolve(features, filters, 3, strides, level)
        if is_residual:
            features = tf_keras.layers.Add(dtype=spec.dtype)([shortcut, features])
        features = spec.make_activation(name=f"act{level}")(features)
        outputs.append(features)
    return resnet_v1.Backbone(
        tf_keras.Model(inputs, outputs),
        levels=tuple(range(2, max_level + 1)),
        stem=stem if is_residual else None,
        recomputed_stages=spec.execution.recomputed_stages,
        name="tiny",
        **settings,
    )


def put_backbone(patch: pytest.MonkeyPatch, *types: str, **settings: Any) -> None:
    """Makes configs that ask for one of these types, by default ResNet-18, get the tiny backbone.

    Args:
        patch: takes it back.
        types: of feature extractors.
        settings: of `make_backbone`.
    """
    for name in types or (RESNET18,):
        patch.setitem(builder.BACKBONES, name, lambda *, spec, **others: make_backbone(spec, **others, **settings))


def model_message(*changes: str) -> model_pb2.DetectionModel:
    """`MODEL` with the fields of FasterRcnn in `changes` changed, one after the other."""
    config = text_format.Parse(MODEL, faster_rcnn_pb2.FasterRcnn())
    for text in changes:
        config.MergeFrom(text_format.Parse(text, faster_rcnn_pb2.FasterRcnn()))
    return model_pb2.DetectionModel(faster_rcnn=config)


def single_level_message(*changes: str) -> model_pb2.DetectionModel:
    """`MODEL` on one level, with two anchors a cell; `changes` as for `model_message`."""
    message = model_message(
        f'feature_extractor {{ type: "{SINGLE_RESNET18}" }}',
        """
        first_stage_anchor_generator {
          grid_anchor_generator { height: 64 width: 64 scales: [0.25, 0.5] aspect_ratios: 1 }
        }
        initial_crop_size: 8
        """,
    )
    for name in ("conv_hyperparams", "fpn"):
        message.faster_rcnn.feature_extractor.ClearField(name)
    for text in changes:
        message.faster_rcnn.MergeFrom(text_format.Parse(text, faster_rcnn_pb2.FasterRcnn()))
    return message


def retinanet_message(*changes: str) -> model_pb2.DetectionModel:
    """`RETINANET` with the fields of Ssd in `changes` changed, one after the other."""
    config = text_format.Parse(RETINANET, ssd_pb2.Ssd())
    for text in changes:
        config.MergeFrom(text_format.Parse(text, ssd_pb2.Ssd()))
    return model_pb2.DetectionModel(ssd=config)


def reading_overrides(train_records: str, eval_records: str, label_map: str) -> list[str]:
    """Overrides of a config that say where the data are; globs and a path."""
    return [
        f'{reader}.{field}="{value}"'
        for reader, records in (("train_input_reader", train_records), ("eval_input_reader[0]", eval_records))
        for field, value in (("label_map_path", label_map), ("tf_record_input_reader.input_path[0]", records))
    ]


def make_extractor(
    *,
    spec: layers.LayerSpec = layers.LayerSpec(),
    min_level: int = 2,
    max_level: int = 6,
    num_filters: int = 8,
    pad_to_multiple: int = 32,
) -> fpn.FeatureExtractor:
    pyramid = fpn.FPN(
        in_filters=NUM_FILTERS, min_level=min_level, max_level=max_level, num_filters=num_filters, spec=spec
    )
    return fpn.FeatureExtractor(backbone=make_backbone(spec), fpn=pyramid, pad_to_multiple=pad_to_multiple)


def make_model(
    *,
    spec: layers.LayerSpec = layers.LayerSpec(),
    num_stages: int = 2,
    num_classes: int = 3,
    pad_to_multiple: int = 32,
    nms_score_threshold: float = 0.0,
    share_box_across_classes: bool = False,
    max_proposals: int = 24,
    num_rois: int | None = 12,
    num_samples: int = 32,
    miner: hard_examples.HardExampleMiner | None = None,
    outputs: tuple[str, ...] = (),
    execution: Execution = Execution(),
) -> faster_rcnn.FasterRCNN:
    """Pyramid P2..P6, two anchors a cell, RoI features of 3 x 3 cells."""
    static = execution.static
    extractor = make_extractor(spec=spec, pad_to_multiple=pad_to_multiple)
    generate = functools.partial(
        anchor_ops.multiscale_anchors, min_level=2, anchor_scale=4.0, aspect_ratios=(1.0, 2.0), scales_per_octave=1
    )
    head = rpn_head.RPNHead(in_filters=8, num_levels=5, num_anchors=2, num_filters=8, spec=spec)
    pooler = box_head = None
    if num_stages == 2:
        pooler = roi.RoIPooler(crop_size=6, execution=dataclasses.replace(spec.execution, static=static))
        features = box.BoxFeatureExtractor(in_size=pooler.output_size, in_filters=8, num_units=16, spec=spec)
        box_head = box.BoxHead(
            feature_extractor=features,
            num_classes=num_classes,
            share_box_across_classes=share_box_across_classes,
            spec=spec,
            loss=box.BoxLoss(miner=miner),
            postprocessor=postprocess.Postprocessor(
                suppression=nms.Suppression(max_detections_per_class=5, max_total_detections=8), static=static
            ),
        )
    return faster_rcnn.FasterRCNN(
        feature_extractor=extractor,
        rpn=rpn.RPN(
            head=head,
            generate_anchors=generate,
            clip_anchors=True,
            decoder=proposals.ProposalDecoder(
                max_proposals=max_proposals, score_threshold=nms_score_threshold, static=static
            ),
            sampler=targets.AnchorSampler(num_samples=num_samples),
            execution=Execution(static=static),
        ),
        roi_sampler=targets.RoISampler(num_samples=num_rois),
        roi_pooler=pooler,
        box_head=box_head,
        outputs=outputs,
    )


def make_groundtruth(*images: list[dict], num_rows: int | None = None) -> Groundtruth:
    """Each image is a list of {"box": (ymin, xmin, ymax, xmax), "class", "weight", "crowd"}, the last three optional."""
    num_rows = num_rows or max(1, *(len(image) for image in images))
    boxes = np.zeros([len(images), num_rows, 4], np.float32)
    classes = np.zeros([len(images), num_rows], np.int32)
    weights = np.zeros([len(images), num_rows], np.float32)
    is_crowd = np.zeros([len(images), num_rows], bool)
    for i, image in enumerate(images):
        for j, gt in enumerate(image):
            boxes[i, j], classes[i, j] = gt["box"], gt.get("class", 0)
            weights[i, j], is_crowd[i, j] = gt.get("weight", 1.0), gt.get("crowd", False)
    num_boxes = tf.constant([len(image) for image in images], tf.int32)
    return Groundtruth(*map(tf.constant, (boxes, classes)), num_boxes, *map(tf.constant, (weights, is_crowd)))
