"""What several tests share: a detector built in a moment, every part real, with few channels, anchors and RoIs."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import tensorflow as tf
import tf_keras

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import fpn, hard_examples, layers, postprocess, proposals, targets
from object_detection_fpn.modeling import pooler as roi
from object_detection_fpn.modeling.backbones import resnet_v1
from object_detection_fpn.modeling.detectors import faster_rcnn
from object_detection_fpn.modeling.heads import box, rpn
from object_detection_fpn.ops import anchors as anchor_ops
from object_detection_fpn.ops import nms
from object_detection_fpn.records import Groundtruth

NUM_FILTERS = {2: 4, 3: 6, 4: 8, 5: 10}  # all different, so that no level can pass for another


def make_backbone(spec: layers.LayerSpec = layers.LayerSpec()) -> resnet_v1.Backbone:
    inputs = features = tf_keras.Input([None, None, 3])
    outputs = []
    for level, filters in NUM_FILTERS.items():
        features = spec.make_conv(filters, 3, strides=4 if level == 2 else 2, name=f"conv{level}")(features)
        features = spec.make_activation(name=f"act{level}")(spec.make_norm(name=f"norm{level}")(features))
        outputs.append(features)
    return resnet_v1.Backbone(
        tf_keras.Model(inputs, outputs),
        levels=tuple(NUM_FILTERS),
        recomputed_stages=spec.execution.recomputed_stages,
        name="small_backbone",
    )


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
    head = rpn.RPNHead(in_filters=8, num_levels=5, num_anchors=2, num_filters=8, spec=spec)
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
