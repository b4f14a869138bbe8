"""The region proposal network, from the fields `first_stage_*` and `rpn` of `model.faster_rcnn`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from object_detection_fpn.builder.layer_spec import ACTIVATIONS, build_layer_spec
from object_detection_fpn.builder.losses import NORMALIZATIONS, build_localization_loss
from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import fpn, proposals, targets
from object_detection_fpn.modeling.heads import rpn, rpn_head
from object_detection_fpn.ops import anchors as anchor_ops
from object_detection_fpn.ops import box_coder, scores
from object_detection_fpn.protos import (
    anchor_generator_pb2,
    box_coder_pb2,
    faster_rcnn_pb2,
    grid_anchor_generator_pb2,
    rpn_pb2,
)


def build_rpn(config: faster_rcnn_pb2.FasterRcnn, extractor: fpn.FeatureExtractor, *, execution: Execution) -> rpn.RPN:
    """The region proposal network that follows a feature extractor."""
    message = config.rpn
    generate_anchors, num_anchors = build_anchor_generator(config.first_stage_anchor_generator)
    decoder = build_proposal_decoder(config, execution=execution)
    return rpn.RPN(
        head=build_rpn_head(config, extractor, num_anchors=num_anchors, execution=execution),
        generate_anchors=generate_anchors,
        clip_anchors=config.clip_anchors_to_image,
        keep_anchors=message.anchor_border == rpn_pb2.RegionProposalNetwork.KEPT,
        max_straddle=message.max_straddle if message.HasField("max_straddle") else None,
        decoder=decoder,
        training_decoder=_in_training(decoder, message),
        sampler=build_anchor_sampler(config, execution=execution),
        loss=rpn.RpnLoss(
            localization_weight=config.first_stage_localization_loss_weight,
            objectness_weight=config.first_stage_objectness_loss_weight,
            localization_loss=build_localization_loss(message.localization_loss, decode=decoder.coder.decode),
            normalization=NORMALIZATIONS[message.loss_normalization],
            num_configured=config.first_stage_minibatch_size,
        ),
        execution=execution,
    )


def build_rpn_head(
    config: faster_rcnn_pb2.FasterRcnn,
    extractor: fpn.FeatureExtractor,
    *,
    num_anchors: int,
    execution: Execution = Execution(),
) -> rpn_head.RPNHead:
    """The layers, which score and refine that many anchors of each cell."""
    message = config.rpn
    return rpn_head.RPNHead(
        in_filters=extractor.num_filters,
        num_levels=extractor.max_level - extractor.min_level + 1,
        num_anchors=num_anchors,
        num_filters=config.first_stage_box_predictor_depth,
        kernel_size=config.first_stage_box_predictor_kernel_size,
        dilation_rate=config.first_stage_atrous_rate,
        num_convs=message.num_convolutions,
        activation=ACTIVATIONS[message.activation],
        num_logits=1 if message.objectness == rpn_pb2.RegionProposalNetwork.SIGMOID else 2,
        share_predictors=message.share_predictors,
        spec=build_layer_spec(config.first_stage_box_predictor_conv_hyperparams, execution=execution),
    )


def build_proposal_decoder(
    config: faster_rcnn_pb2.FasterRcnn, *, execution: Execution = Execution()
) -> proposals.ProposalDecoder:
    """From the outputs of the layers to proposals, outside of training."""
    message = config.rpn
    return proposals.ProposalDecoder(
        max_proposals=config.first_stage_max_proposals,
        max_candidates_per_level=message.max_candidates_per_level or None,
        iou_threshold=config.first_stage_nms_iou_threshold,
        score_threshold=config.first_stage_nms_score_threshold,
        within_levels=message.suppress_within_levels,
        clip_first=message.clip_before_suppression,
        min_side=message.min_proposal_side,
        keep_empty=config.use_combined_nms_in_first_stage,
        coder=build_box_coder(message.box_coder),
        static=execution.static,
        sigmoid=scores.sigmoid if execution.portable else tf.sigmoid,
    )


def _in_training(
    decoder: proposals.ProposalDecoder, message: rpn_pb2.RegionProposalNetwork
) -> proposals.ProposalDecoder:
    """The same decoder with the numbers of training."""
    if message.HasField("max_proposals_in_training"):
        decoder = dataclasses.replace(decoder, max_proposals=message.max_proposals_in_training)
    if message.HasField("max_candidates_per_level_in_training"):
        max_candidates = message.max_candidates_per_level_in_training or None
        decoder = dataclasses.replace(decoder, max_candidates_per_level=max_candidates)
    return decoder


def build_anchor_sampler(
    config: faster_rcnn_pb2.FasterRcnn, *, execution: Execution = Execution()
) -> targets.AnchorSampler:
    """The choice of the anchors that train, and their targets."""
    message = config.rpn
    return targets.AnchorSampler(
        num_samples=config.first_stage_minibatch_size,
        positive_fraction=config.first_stage_positive_balance_fraction,
        matched_threshold=message.matched_threshold,
        unmatched_threshold=message.unmatched_threshold,
        force_match=message.low_quality_matches != rpn_pb2.RegionProposalNetwork.NO_ANCHOR,
        match_ties=message.low_quality_matches == rpn_pb2.RegionProposalNetwork.ALL_ANCHORS,
        coder=build_box_coder(message.box_coder),
        static=execution.static,
    )


def build_box_coder(message: box_coder_pb2.FasterRcnnBoxCoder) -> box_coder.BoxCoder:
    """The box coder of `rpn` or of the second stage."""
    return box_coder.BoxCoder(
        scales=(message.y_scale, message.x_scale, message.height_scale, message.width_scale),
        max_size_ratio=message.max_size_ratio,
    )


def build_anchor_generator(
    message: anchor_generator_pb2.AnchorGenerator, *, offset: float | Sequence[tuple[float, float]] | None = None
) -> tuple[rpn.AnchorGenerator, int]:
    """The anchors of an anchor generator, and how many of them a cell has.

    Args:
        message: the anchor generator.
        offset: of the anchors on a pyramid in their cells, where the message sets none; None = its default.
    """
    if message.WhichOneof("anchor_generator_oneof") == "grid_anchor_generator":
        return _build_grid(message.grid_anchor_generator)
    multiscale = message.multiscale_anchor_generator
    of_cell: dict[str, Any] = {
        "aspect_ratios": tuple(multiscale.aspect_ratios),
        "scales_per_octave": multiscale.scales_per_octave,
    }
    generate = functools.partial(
        anchor_ops.multiscale_anchors,
        min_level=multiscale.min_level,
        anchor_scale=multiscale.anchor_scale,
        **of_cell,
        offset=multiscale.offset if offset is None or multiscale.HasField("offset") else offset,
        round_corners=multiscale.round_corners,
        stride_of_image=multiscale.stride_of_image,
        whole_scales=multiscale.whole_scales,
        scales_first=multiscale.scales_first,
    )
    return generate, anchor_ops.num_anchors_per_cell(**of_cell)


def _build_grid(message: grid_anchor_generator_pb2.GridAnchorGenerator) -> tuple[rpn.AnchorGenerator, int]:
    generate = functools.partial(
        anchor_ops.grid_anchors,
        scales=tuple(message.scales),
        aspect_ratios=tuple(message.aspect_ratios),
        base_size=(message.height, message.width),
        stride=(message.height_stride, message.width_stride),
        offset=(message.height_offset, message.width_offset),
    )
    return generate, len(message.scales) * len(message.aspect_ratios)
