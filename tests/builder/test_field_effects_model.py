"""Every field of the model's messages changes something, has no effect and says so, or is refused.

A row of the table is a field, what it is seen in, what the configuration needs for it, and the change; observations before and
after must differ. A field of these messages that is in no table fails the last tests.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import support
import tensorflow as tf
import tf_keras
from builder import field_effects
from google.protobuf import text_format

from object_detection_fpn import builder
from object_detection_fpn.config import model as model_config
from object_detection_fpn.config import tables
from object_detection_fpn.config.checks import find_problems
from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import layers, targets
from object_detection_fpn.modeling.detector import mean_losses
from object_detection_fpn.ops import pasting
from object_detection_fpn.protos import (
    anchor_generator_pb2,
    backbone_pb2,
    box_coder_pb2,
    box_predictor_pb2,
    calibration_pb2,
    faster_rcnn_pb2,
    fpn_pb2,
    grid_anchor_generator_pb2,
    hyperparams_pb2,
    image_resizer_pb2,
    losses_pb2,
    model_pb2,
    multiscale_anchor_generator_pb2,
    pipeline_pb2,
    post_processing_pb2,
    roi_pooling_pb2,
    rpn_pb2,
)
from object_detection_fpn.records import Context, Groundtruth, Inputs, MaskOutputs, Proposals

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

FILES = (
    anchor_generator_pb2,
    backbone_pb2,
    box_coder_pb2,
    box_predictor_pb2,
    calibration_pb2,
    faster_rcnn_pb2,
    fpn_pb2,
    grid_anchor_generator_pb2,
    hyperparams_pb2,
    image_resizer_pb2,
    losses_pb2,
    model_pb2,
    multiscale_anchor_generator_pb2,
    post_processing_pb2,
    roi_pooling_pb2,
    rpn_pb2,
)

# Where the rows' texts belong in a FasterRcnn.
CONV = "feature_extractor {{ conv_hyperparams {{ {} }} }}".format
RESIZER = "image_resizer {{ {} }}".format
RESNET = "feature_extractor {{ resnet {{ {} }} }}".format
PIXELS = "feature_extractor {{ pixel_normalization {{ {} }} }}".format
FPN = "feature_extractor {{ fpn {{ {} }} }}".format
GRID = (
    'feature_extractor {{ type: "faster_rcnn_resnet18_keras" }} first_stage_anchor_generator {{ '
    "grid_anchor_generator {{ {} }} }}"
).format
ANCHORS = "first_stage_anchor_generator {{ multiscale_anchor_generator {{ {} }} }}".format
HEAD = "second_stage_box_predictor {{ mask_rcnn_box_predictor {{ {} }} }}".format
POST = "second_stage_post_processing {{ {} }}".format
NMS = "second_stage_post_processing {{ batch_non_max_suppression {{ {} }} }}".format
CALIBRATE = "second_stage_post_processing {{ calibration_config {{ {} }} }}".format
CLASS_LOSS = "second_stage_classification_loss {{ {} }}".format
BOX_LOSS = "second_stage_localization_loss {{ {} }}".format
MINER = "hard_example_miner {{ {} }}".format
POOLING = "roi_pooling {{ {} }}".format
ALIGN = "roi_pooling {{ roi_align {{ {} }} }}".format
RPN = "rpn {{ {} }}".format
MASKS = "second_stage_box_predictor {{ mask_rcnn_box_predictor {{ mask_height: 28 mask_width: 28 {} }} }}".format
TARGETS = "mask_targets {{ {} }}".format
MASK_ALIGN = "mask_roi_pooling {{ roi_align {{ output_size: 14 {} }} }}".format
CONTEXT = "context_config {{ {} }}".format
CURVE = "x_y_pair {{ x: {} y: 0.2 }} x_y_pair {{ x: 0.9 y: {} }}".format

LEVELS = ("min_level: 4", "max_level: 6")  # an anchor generator must follow its pyramid
MIN_LEVEL, MAX_LEVEL = (FPN(level) + ANCHORS(level) for level in LEVELS)
AGNOSTIC = NMS("use_class_agnostic_nms: true max_total_detections: 40")
ALL = "score_threshold: 0 max_detections_per_class: 40 max_total_detections: 120 "
MANY = NMS(ALL)
MANY_CLIPPED = NMS(ALL + "clip_before_suppression: true")
TRAINED_NORM = "feature_extractor { batch_norm_trainable: true conv_hyperparams { batch_norm { } } }"
LOOKING = CONTEXT("context_feature_length: 7 attention_bottleneck_dimension: 5")
SOFT = NMS("soft_nms_sigma: 0.5")
SMALL_ROIS = POOLING("canonical_size: 16")  # whose levels are then not all the same
WIDE_BINS = POOLING("max_level: 3 roi_align { output_size: 1 sampling_ratio: 0 }")
DECONV = MASKS("mask_upsampling: TRANSPOSED_CONVOLUTION")
ONE_ANCHOR = GRID("scales: 0.1 aspect_ratios: 1")
CONVOLUTIONS = HEAD("num_convolutions: 1 hidden_hyperparams { }")

EFFECTS = [
    # field, seen in, what it needs, the change
    ("FasterRcnn.number_of_stages", "losses", "", "number_of_stages: 1"),
    ("FasterRcnn.num_classes", "variables", "", "num_classes: 5"),
    ("FasterRcnn.first_stage_atrous_rate", "proposals", "", "first_stage_atrous_rate: 2"),
    ("FasterRcnn.first_stage_box_predictor_kernel_size", "variables", "", "first_stage_box_predictor_kernel_size: 5"),
    ("FasterRcnn.first_stage_box_predictor_depth", "variables", "", "first_stage_box_predictor_depth: 8"),
    ("FasterRcnn.first_stage_minibatch_size", "losses", "", "first_stage_minibatch_size: 8"),
    ("FasterRcnn.first_stage_positive_balance_fraction", "losses", "", "first_stage_positive_balance_fraction: 0"),
    ("FasterRcnn.first_stage_nms_score_threshold", "proposals", "", "first_stage_nms_score_threshold: 0.6"),
    ("FasterRcnn.first_stage_nms_iou_threshold", "proposals", "", "first_stage_nms_iou_threshold: 0.2"),
    ("FasterRcnn.first_stage_max_proposals", "proposals", "", "first_stage_max_proposals: 20"),
    ("FasterRcnn.first_stage_localization_loss_weight", "losses", "", "first_stage_localization_loss_weight: 2"),
    ("FasterRcnn.first_stage_objectness_loss_weight", "losses", "", "first_stage_objectness_loss_weight: 2"),
    ("FasterRcnn.initial_crop_size", "inference", "", "initial_crop_size: 5"),
    ("FasterRcnn.maxpool_kernel_size", "variables", "", "maxpool_kernel_size: 3"),
    ("FasterRcnn.maxpool_stride", "variables", "", "maxpool_stride: 1"),
    ("FasterRcnn.second_stage_batch_size", "losses", "", "second_stage_batch_size: 4"),
    ("FasterRcnn.second_stage_balance_fraction", "losses", "", "second_stage_balance_fraction: 0"),
    ("FasterRcnn.second_stage_localization_loss_weight", "losses", "", "second_stage_localization_loss_weight: 2"),
    ("FasterRcnn.second_stage_classification_loss_weight", "losses", "", "second_stage_classification_loss_weight: 2"),
    ("FasterRcnn.hard_example_miner", "losses", "", "hard_example_miner { }"),
    ("FasterRcnn.clip_anchors_to_image", "losses", "", "clip_anchors_to_image: true"),
    ("FasterRcnn.return_raw_detections_during_predict", "raw", "", "return_raw_detections_during_predict: true"),
    ("FasterRcnn.use_combined_nms_in_first_stage", "proposals", "", "use_combined_nms_in_first_stage: true"),
    ("FasterRcnn.output_final_box_features", "detections", "", "output_final_box_features: true"),
    ("FasterRcnn.output_final_box_rpn_features", "detections", "", "output_final_box_rpn_features: true"),
    # the feature extractor
    (
        "FasterRcnnFeatureExtractor.type",
        "variables",
        "",
        'feature_extractor { type: "faster_rcnn_resnet34_fpn_keras" }',
    ),
    (
        "FasterRcnnFeatureExtractor.batch_norm_trainable",
        "statistics",
        CONV("batch_norm { }"),
        "feature_extractor { batch_norm_trainable: true }",
    ),
    (
        "FasterRcnnFeatureExtractor.override_base_feature_extractor_hyperparams",
        "variables",
        "",
        "feature_extractor { override_base_feature_extractor_hyperparams: true }",
    ),
    ("FasterRcnnFeatureExtractor.pad_to_multiple", "inference", "", "feature_extractor { pad_to_multiple: 128 }"),
    ("FeaturePyramidNetworks.min_level", "variables", "", MIN_LEVEL),
    ("FeaturePyramidNetworks.max_level", "variables", "", MAX_LEVEL),
    ("FeaturePyramidNetworks.additional_layer_depth", "variables", "", FPN("additional_layer_depth: 4")),
    ("FeaturePyramidNetworks.style", "variables", "", FPN("style: PAPER")),
    (
        "FeaturePyramidNetworks.coarse_levels",
        "variables",
        FPN(f"{LEVELS[1]} style: PAPER") + ANCHORS(LEVELS[1]),
        FPN("coarse_levels: CONV_OF_P5"),
    ),
    ("ResNet.stride_in_3x3", "resnet50", "", RESNET("stride_in_3x3: true")),
    ("ResNet.symmetric_padding", "resnet50", "", RESNET("symmetric_padding: true")),
    ("ResNet.batch_norm", "statistics", TRAINED_NORM, RESNET("batch_norm: FROZEN")),
    ("ResNet.batch_norm_epsilon", "inference", "", RESNET("batch_norm_epsilon: 0.5")),
    ("ResNet.frozen_stages", "variables", "", RESNET("frozen_stages: 2")),
    ("PixelNormalization.channel_order", "inference", PIXELS(""), PIXELS("channel_order: BGR")),
    ("PixelNormalization.mean", "inference", PIXELS(""), PIXELS("mean: [1, 2, 3]")),
    ("PixelNormalization.stddev", "inference", PIXELS(""), PIXELS("stddev: [1, 2, 3]")),
    # anchors
    ("MultiscaleAnchorGenerator.min_level", "anchors", "", MIN_LEVEL),
    ("MultiscaleAnchorGenerator.max_level", "anchors", "", MAX_LEVEL),
    ("MultiscaleAnchorGenerator.anchor_scale", "anchors", "", ANCHORS("anchor_scale: 3")),
    ("MultiscaleAnchorGenerator.aspect_ratios", "anchors", "", ANCHORS("aspect_ratios: 2")),
    ("MultiscaleAnchorGenerator.scales_per_octave", "anchors", "", ANCHORS("scales_per_octave: 2")),
    ("MultiscaleAnchorGenerator.offset", "anchors", "", ANCHORS("offset: 0")),
    ("MultiscaleAnchorGenerator.whole_scales", "anchors", ANCHORS("anchor_scale: 2.1"), ANCHORS("whole_scales: true")),
    (
        "MultiscaleAnchorGenerator.scales_first",
        "anchors",
        ANCHORS("aspect_ratios: 2 scales_per_octave: 2"),
        ANCHORS("scales_first: true"),
    ),
    ("MultiscaleAnchorGenerator.round_corners", "anchors", ANCHORS("aspect_ratios: 2"), ANCHORS("round_corners: true")),
    (
        "MultiscaleAnchorGenerator.stride_of_image",
        "anchors",
        FPN("max_level: 7") + ANCHORS("max_level: 7") + RPN("anchor_border: KEPT"),
        ANCHORS("stride_of_image: true"),
    ),
    *(
        (f"GridAnchorGenerator.{field}", "anchors", ONE_ANCHOR, GRID(f"{field}: {value}"))
        for field, value in [
            ("height", 300),
            ("width", 300),
            ("height_stride", 8),
            ("width_stride", 8),
            ("height_offset", 4),
            ("width_offset", 4),
            ("scales", 0.2),
            ("aspect_ratios", 2),
        ]
    ),
    # the region proposal network
    ("RegionProposalNetwork.share_predictors", "variables", "", RPN("share_predictors: true")),
    ("RegionProposalNetwork.objectness", "variables", "", RPN("objectness: SIGMOID")),
    ("RegionProposalNetwork.num_convolutions", "variables", "", RPN("num_convolutions: 2")),
    ("RegionProposalNetwork.activation", "proposals", "", RPN("activation: SWISH")),
    ("RegionProposalNetwork.anchor_border", "anchors", "", RPN("anchor_border: KEPT")),
    ("RegionProposalNetwork.max_straddle", "losses", RPN("anchor_border: KEPT"), RPN("max_straddle: 0")),
    ("RegionProposalNetwork.matched_threshold", "losses", "", RPN("matched_threshold: 0.35")),
    ("RegionProposalNetwork.unmatched_threshold", "losses", "", RPN("unmatched_threshold: 0.1")),
    ("RegionProposalNetwork.low_quality_matches", "losses", "", RPN("low_quality_matches: NO_ANCHOR")),
    ("RegionProposalNetwork.max_candidates_per_level", "proposals", "", RPN("max_candidates_per_level: 3")),
    (
        "RegionProposalNetwork.max_candidates_per_level_in_training",
        "losses",
        RPN("max_candidates_per_level: 30"),
        RPN("max_candidates_per_level_in_training: 3"),
    ),
    (
        "RegionProposalNetwork.suppress_within_levels",
        "proposals",
        "first_stage_nms_iou_threshold: 0.1",
        RPN("suppress_within_levels: true"),
    ),
    ("RegionProposalNetwork.max_proposals_in_training", "losses", "", RPN("max_proposals_in_training: 16")),
    (
        "RegionProposalNetwork.min_proposal_side",
        "proposals",
        RPN("clip_before_suppression: true"),
        RPN("min_proposal_side: 12"),
    ),
    (
        "RegionProposalNetwork.clip_before_suppression",
        "proposals",
        "first_stage_nms_iou_threshold: 0.1",
        RPN("clip_before_suppression: true"),
    ),
    ("RegionProposalNetwork.loss_normalization", "losses", "", RPN("loss_normalization: CONFIGURED")),
    (
        "RegionProposalNetwork.localization_loss",
        "losses",
        "",
        RPN("localization_loss { l1_localization_loss { } }"),
    ),
    ("RegionProposalNetwork.box_coder", "losses", "", RPN("box_coder { x_scale: 1 }")),
    ("FasterRcnn.second_stage_box_coder", "detections", "", "second_stage_box_coder { x_scale: 1 }"),
    ("FasterRcnnBoxCoder.y_scale", "losses", "", "second_stage_box_coder { y_scale: 1 }"),
    ("FasterRcnnBoxCoder.x_scale", "losses", "", "second_stage_box_coder { x_scale: 1 }"),
    ("FasterRcnnBoxCoder.height_scale", "losses", "", "second_stage_box_coder { height_scale: 1 }"),
    ("FasterRcnnBoxCoder.width_scale", "losses", "", "second_stage_box_coder { width_scale: 1 }"),
    ("FasterRcnnBoxCoder.max_size_ratio", "proposals", "", RPN("box_coder { max_size_ratio: 0.5 }")),
    # proposals that train
    ("FasterRcnn.add_groundtruth_to_proposals", "losses", "", "add_groundtruth_to_proposals: true"),
    ("FasterRcnn.second_stage_matched_threshold", "losses", "", "second_stage_matched_threshold: 0.2"),
    ("FasterRcnn.second_stage_min_background_iou", "losses", "", "second_stage_min_background_iou: 0.1"),
    # layers
    ("Hyperparams.activation", "inference", "", CONV("activation: SWISH")),
    ("Hyperparams.group_norm", "layers", FPN("additional_layer_depth: 32"), CONV("group_norm { }")),
    (
        "GroupNorm.epsilon",
        "inference",
        "feature_extractor { fpn { additional_layer_depth: 32 } conv_hyperparams { group_norm { } } }",
        CONV("group_norm { epsilon: 9 }"),
    ),
    ("Hyperparams.sync_batch_norm", "layers", CONV("batch_norm { }"), CONV("sync_batch_norm { }")),
    ("Hyperparams.force_use_bias", "variables", CONV("batch_norm { }"), CONV("force_use_bias: true")),
    ("L1Regularizer.weight", "losses", "", CONV("regularizer { l1_regularizer { weight: 0.1 } }")),
    ("L2Regularizer.weight", "losses", "", CONV("regularizer { l2_regularizer { weight: 0.1 } }")),
    ("Initializer.keras_initializer_by_name", "values", "", CONV('initializer { keras_initializer_by_name: "zeros" }')),
    *(
        (
            f"{name}.{field}",
            "values",
            CONV(f"initializer {{ {kind} {{ }} }}"),
            CONV(f"initializer {{ {kind} {{ {field}: {value} }} }}"),
        )
        for name, kind, field, value in [
            ("TruncatedNormalInitializer", "truncated_normal_initializer", "mean", 2),
            ("TruncatedNormalInitializer", "truncated_normal_initializer", "stddev", 2),
            ("RandomNormalInitializer", "random_normal_initializer", "mean", 2),
            ("RandomNormalInitializer", "random_normal_initializer", "stddev", 2),
            ("VarianceScalingInitializer", "variance_scaling_initializer", "factor", 4),
            ("VarianceScalingInitializer", "variance_scaling_initializer", "uniform", "true"),
            ("VarianceScalingInitializer", "variance_scaling_initializer", "mode", "FAN_OUT"),
        ]
    ),
    *(
        (
            f"BatchNorm.{field}",
            seen_in,
            TRAINED_NORM,
            CONV(f"batch_norm {{ {field}: {value} }}"),
        )
        for field, seen_in, value in [
            ("decay", "statistics", 0.5),
            ("center", "variables", "false"),
            ("scale", "variables", "true"),
            ("epsilon", "inference", 0.5),
            ("train", "statistics", "false"),
        ]
    ),
    # the box head
    ("MaskRCNNBoxPredictor.fc_hyperparams", "variables", "", HEAD("fc_hyperparams { batch_norm { } }")),
    ("MaskRCNNBoxPredictor.use_dropout", "losses", "", HEAD("use_dropout: true")),
    (
        "MaskRCNNBoxPredictor.dropout_keep_probability",
        "losses",
        HEAD("use_dropout: true"),
        HEAD("dropout_keep_probability: 0.9"),
    ),
    ("MaskRCNNBoxPredictor.share_box_across_classes", "variables", "", HEAD("share_box_across_classes: true")),
    # pooling of RoIs
    ("RoiPooling.min_level", "inference", "", POOLING("min_level: 4")),
    ("RoiPooling.max_level", "inference", SMALL_ROIS, POOLING("max_level: 3")),
    ("RoiPooling.canonical_level", "inference", "", POOLING("canonical_level: 7")),
    ("RoiPooling.canonical_size", "inference", "", SMALL_ROIS),
    ("RoiPooling.side_epsilon", "inference", "", POOLING("side_epsilon: 3")),
    ("RoiPooling.level_epsilon", "inference", "", POOLING("level_epsilon: 3")),
    ("RoiAlign.output_size", "variables", ALIGN(""), ALIGN("output_size: 3")),
    ("RoiAlign.sampling_ratio", "inference", ALIGN(""), ALIGN("sampling_ratio: 1")),
    ("RoiAlign.aligned", "inference", ALIGN(""), ALIGN("aligned: false")),
    ("RoiAlign.max_static_samples", "static inference", WIDE_BINS, ALIGN("max_static_samples: 1")),
    ("MaskRCNNBoxPredictor.num_convolutions", "variables", HEAD("hidden_hyperparams { }"), HEAD("num_convolutions: 1")),
    ("MaskRCNNBoxPredictor.convolution_depth", "variables", CONVOLUTIONS, HEAD("convolution_depth: 8")),
    ("MaskRCNNBoxPredictor.num_dense_layers", "variables", "", HEAD("num_dense_layers: 1")),
    ("MaskRCNNBoxPredictor.dense_depth", "variables", "", HEAD("dense_depth: 8")),
    (
        "MaskRCNNBoxPredictor.hidden_hyperparams",
        "variables",
        CONVOLUTIONS,
        HEAD("hidden_hyperparams { batch_norm { } }"),
    ),
    (
        "MaskRCNNBoxPredictor.box_initializer",
        "values",
        "",
        HEAD("box_initializer { random_normal_initializer { stddev: 0.5 } }"),
    ),
    # masks
    ("MaskRCNNBoxPredictor.conv_hyperparams", "masks", "", HEAD("conv_hyperparams { activation: SWISH }")),
    (
        "MaskRCNNBoxPredictor.predict_instance_masks",
        "stages",
        "number_of_stages: 3",
        HEAD("predict_instance_masks: true"),
    ),
    ("MaskRCNNBoxPredictor.mask_prediction_conv_depth", "masks", "", HEAD("mask_prediction_conv_depth: 0")),
    ("MaskRCNNBoxPredictor.mask_height", "masks", "", HEAD("mask_height: 9")),
    ("MaskRCNNBoxPredictor.mask_width", "masks", "", HEAD("mask_width: 9")),
    ("MaskRCNNBoxPredictor.mask_prediction_num_conv_layers", "masks", "", HEAD("mask_prediction_num_conv_layers: 3")),
    ("MaskRCNNBoxPredictor.masks_are_class_agnostic", "masks", "", HEAD("masks_are_class_agnostic: true")),
    (
        "MaskRCNNBoxPredictor.convolve_then_upsample_masks",
        "masks",
        MASKS(""),
        HEAD("convolve_then_upsample_masks: true"),
    ),
    ("MaskRCNNBoxPredictor.mask_upsampling", "masks", MASKS(""), DECONV),
    (
        "MaskRCNNBoxPredictor.mask_initializer",
        "masks",
        "",
        HEAD("mask_initializer { random_normal_initializer { stddev: 0.5 } }"),
    ),
    ("MaskTransfer.classes_with_masks", "masks", DECONV, HEAD("mask_transfer { classes_with_masks: [1] }")),
    (
        "MaskTransfer.hidden_units",
        "masks",
        MASKS("mask_upsampling: TRANSPOSED_CONVOLUTION mask_transfer { classes_with_masks: [1] }"),
        HEAD("mask_transfer { hidden_units: 8 }"),
    ),
    ("FasterRcnn.mask_roi_pooling", "masks", "", MASK_ALIGN("")),
    ("MaskTargets.sampling_ratio", "masks", TARGETS(""), TARGETS("sampling_ratio: 1")),
    ("MaskTargets.aligned", "masks", TARGETS(""), TARGETS("aligned: false")),
    ("MaskTargets.threshold", "masks", TARGETS(""), TARGETS("threshold: 0.6")),
    ("FasterRcnn.mask_batch_size", "masks", "", "mask_batch_size: 1"),
    ("FasterRcnn.second_stage_mask_prediction_loss_weight", "masks", "", "second_stage_mask_prediction_loss_weight: 2"),
    # losses of the second stage
    ("WeightedSmoothL1LocalizationLoss.delta", "losses", "", BOX_LOSS("weighted_smooth_l1 { delta: 0.5 }")),
    ("WeightedSmoothL1LocalizationLoss.beta", "losses", "", BOX_LOSS("weighted_smooth_l1 { beta: 0.5 }")),
    ("LocalizationLoss.l1_localization_loss", "losses", "", BOX_LOSS("l1_localization_loss { }")),
    ("LocalizationLoss.weighted_giou", "losses", "", BOX_LOSS("weighted_giou { }")),
    ("LocalizationLoss.distance_iou", "losses", BOX_LOSS("weighted_giou { }"), BOX_LOSS("distance_iou { }")),
    ("LocalizationLoss.complete_iou", "losses", BOX_LOSS("distance_iou { }"), BOX_LOSS("complete_iou { }")),
    (
        "FasterRcnn.second_stage_loss_normalization",
        "losses",
        "second_stage_batch_size: 40",
        "second_stage_loss_normalization: CONFIGURED",
    ),
    ("FasterRcnn.second_stage_class_weights", "losses", "", "second_stage_class_weights: [0.5, 1, 1, 1]"),
    ("FasterRcnn.second_stage_label_smoothing", "losses", "", "second_stage_label_smoothing: 0.1"),
    ("ClassificationLoss.weighted_sigmoid", "losses", "", CLASS_LOSS("weighted_sigmoid { }")),
    ("WeightedSoftmaxClassificationLoss.logit_scale", "losses", "", CLASS_LOSS("weighted_softmax { logit_scale: 2 }")),
    (
        "SigmoidFocalClassificationLoss.gamma",
        "losses",
        CLASS_LOSS("weighted_sigmoid_focal { }"),
        CLASS_LOSS("weighted_sigmoid_focal { gamma: 1 }"),
    ),
    (
        "SigmoidFocalClassificationLoss.alpha",
        "losses",
        CLASS_LOSS("weighted_sigmoid_focal { }"),
        CLASS_LOSS("weighted_sigmoid_focal { alpha: 0 }"),
    ),
    (
        "WeightedSoftmaxClassificationAgainstLogitsLoss.logit_scale",
        "losses",
        CLASS_LOSS("weighted_logits_softmax { }"),
        CLASS_LOSS("weighted_logits_softmax { logit_scale: 2 }"),
    ),
    ("HardExampleMiner.num_hard_examples", "losses", MINER(""), MINER("num_hard_examples: 2")),
    ("HardExampleMiner.iou_threshold", "losses", MINER(""), MINER("iou_threshold: 0.05")),
    ("HardExampleMiner.loss_type", "losses", MINER("num_hard_examples: 2"), MINER("loss_type: LOCALIZATION")),
    ("HardExampleMiner.max_negatives_per_positive", "losses", MINER(""), MINER("max_negatives_per_positive: 1")),
    (
        "HardExampleMiner.min_negatives_per_image",
        "losses",
        MINER("max_negatives_per_positive: 1"),
        MINER("min_negatives_per_image: 9"),
    ),
    # from logits to detections
    ("PostProcessing.score_converter", "suppression", "", POST("score_converter: SIGMOID")),
    ("PostProcessing.logit_scale", "suppression", "", POST("logit_scale: 2")),
    ("BatchNonMaxSuppression.score_threshold", "suppression", "", NMS("score_threshold: 0.6")),
    ("BatchNonMaxSuppression.iou_threshold", "suppression", "", NMS("iou_threshold: 0.1")),
    ("BatchNonMaxSuppression.max_detections_per_class", "suppression", "", NMS("max_detections_per_class: 1")),
    ("BatchNonMaxSuppression.max_total_detections", "suppression", "", NMS("max_total_detections: 4")),
    ("BatchNonMaxSuppression.use_class_agnostic_nms", "suppression", "", AGNOSTIC),
    ("BatchNonMaxSuppression.max_classes_per_detection", "suppression", AGNOSTIC, NMS("max_classes_per_detection: 2")),
    ("BatchNonMaxSuppression.soft_nms_sigma", "suppression", "", SOFT),
    ("BatchNonMaxSuppression.use_combined_nms", "suppression", MANY, NMS("use_combined_nms: true")),
    ("BatchNonMaxSuppression.clip_before_suppression", "suppression", MANY, MANY_CLIPPED),
    ("BatchNonMaxSuppression.min_box_side", "suppression", MANY_CLIPPED, NMS("min_box_side: 9")),
    ("BatchNonMaxSuppression.use_hard_nms", "suppression", SOFT, NMS("use_hard_nms: true")),
    (
        "XYPairs.XYPair.x",
        "suppression",
        *(CALIBRATE(f"function_approximation {{ x_y_pairs {{ {CURVE(x, 0.8)} }} }}") for x in (0.1, 0.5)),
    ),
    (
        "XYPairs.XYPair.y",
        "suppression",
        *(CALIBRATE(f"function_approximation {{ x_y_pairs {{ {CURVE(0.1, y)} }} }}") for y in (0.8, 0.5)),
    ),
    (
        "ClassIdFunctionApproximations.class_id_xy_pairs_map",
        "suppression",
        "",
        CALIBRATE(
            f"class_id_function_approximations {{ class_id_xy_pairs_map {{ key: 1 value {{ {CURVE(0.1, 0.5)} }} }} }}"
        ),
    ),
    (
        "ClassIdSigmoidCalibrations.class_id_sigmoid_parameters_map",
        "suppression",
        "",
        CALIBRATE("class_id_sigmoid_calibrations { class_id_sigmoid_parameters_map { key: 2 value { } } }"),
    ),
    (
        "SigmoidParameters.a",
        "suppression",
        CALIBRATE("sigmoid_calibration { }"),
        CALIBRATE("sigmoid_calibration { sigmoid_parameters { a: -3 } }"),
    ),
    (
        "SigmoidParameters.b",
        "suppression",
        CALIBRATE("sigmoid_calibration { }"),
        CALIBRATE("sigmoid_calibration { sigmoid_parameters { b: 1 } }"),
    ),
    (
        "TemperatureScalingCalibration.scaler",
        "suppression",
        "",
        CALIBRATE("temperature_scaling_calibration { scaler: 2 }"),
    ),
    # context
    ("Context.max_num_context_features", "rows of context", LOOKING, CONTEXT("max_num_context_features: 9")),
    ("Context.attention_bottleneck_dimension", "variables", LOOKING, CONTEXT("attention_bottleneck_dimension: 6")),
    ("Context.attention_temperature", "inference", LOOKING, CONTEXT("attention_temperature: 0.5")),
    ("Context.context_feature_length", "variables", LOOKING, CONTEXT("context_feature_length: 8")),
    ("Context.attention_position", "variables", LOOKING, CONTEXT("attention_position: POST_RPN")),
    ("Context.pool_by_level", "inference", LOOKING + SMALL_ROIS, CONTEXT("pool_by_level: true")),
    ("FasterRcnn.mask_pasting", "pasted", "number_of_stages: 3", "mask_pasting: ZERO_BORDER"),
    # images
    ("ImageResizer.identity_resizer", "image", "", RESIZER("identity_resizer { }")),
    *(
        (f"{name}.{field}", "image", RESIZER(f"{kind} {{ {needs} }}"), RESIZER(f"{kind} {{ {field}: {value} }}"))
        for name, kind, needs, field, value in [
            ("FixedShapeResizer", "fixed_shape_resizer", "", "height", 10),
            ("FixedShapeResizer", "fixed_shape_resizer", "", "width", 10),
            ("FixedShapeResizer", "fixed_shape_resizer", "", "resize_method", "NEAREST_NEIGHBOR"),
            ("FixedShapeResizer", "fixed_shape_resizer", "", "convert_to_grayscale", "true"),
            ("KeepAspectRatioResizer", "keep_aspect_ratio_resizer", "", "min_dimension", 20),
            ("KeepAspectRatioResizer", "keep_aspect_ratio_resizer", "", "max_dimension", 610),
            ("KeepAspectRatioResizer", "keep_aspect_ratio_resizer", "min_dimension: 20", "resize_method", "AREA"),
            (
                "KeepAspectRatioResizer",
                "keep_aspect_ratio_resizer",
                "min_dimension: 20",
                "pad_to_max_dimension",
                "true",
            ),
            (
                "KeepAspectRatioResizer",
                "keep_aspect_ratio_resizer",
                "min_dimension: 20",
                "convert_to_grayscale",
                "true",
            ),
            (
                "KeepAspectRatioResizer",
                "keep_aspect_ratio_resizer",
                "min_dimension: 20 max_dimension: 50 pad_to_max_dimension: true",
                "per_channel_pad_value",
                "[1, 2, 3]",
            ),
            ("KeepAspectRatioResizer", "keep_aspect_ratio_resizer", "min_dimension: 20", "half_pixel_centers", "true"),
            (
                "KeepAspectRatioResizer",
                "keep_aspect_ratio_resizer",
                "min_dimension: 20 half_pixel_centers: true",
                "antialias",
                "true",
            ),
            ("KeepAspectRatioResizer", "keep_aspect_ratio_resizer", "min_dimension: 20", "round_pixels", "true"),
            ("KeepAspectRatioResizer", "keep_aspect_ratio_resizer", "min_dimension: 25", "size_rounding", "FLOOR"),
            ("KeepAspectRatioResizer", "keep_aspect_ratio_resizer", "min_dimension: 20", "pad_to_multiple", 16),
            ("ConditionalShapeResizer", "conditional_shape_resizer", "size_threshold: 25", "condition", "SMALLER"),
            ("ConditionalShapeResizer", "conditional_shape_resizer", "", "size_threshold", 20),
            ("ConditionalShapeResizer", "conditional_shape_resizer", "size_threshold: 20", "resize_method", "BICUBIC"),
            ("ConditionalShapeResizer", "conditional_shape_resizer", "", "convert_to_grayscale", "true"),
            ("PadToMultipleResizer", "pad_to_multiple_resizer", "", "multiple", 16),
            ("PadToMultipleResizer", "pad_to_multiple_resizer", "", "convert_to_grayscale", "true"),
        ]
    ),
    (
        "KeepAspectRatioResizer.min_dimensions_in_training",
        "training image",
        RESIZER("keep_aspect_ratio_resizer { min_dimension: 20 }"),
        RESIZER("keep_aspect_ratio_resizer { min_dimensions_in_training: [25, 30] }"),
    ),
]

REFUSED_BY_RULES = {
    "BatchNonMaxSuppression.change_coordinate_frame": NMS("change_coordinate_frame: false"),
    "MaskRCNNBoxPredictor.box_code_size": HEAD("box_code_size: 5"),
    "MultiscaleAnchorGenerator.normalize_coordinates": ANCHORS("normalize_coordinates: true"),
    "Context.use_long_term_attention": CONTEXT("use_long_term_attention: false"),
    "Context.num_attention_heads": CONTEXT("num_attention_heads: 2"),
    "Context.num_attention_layers": CONTEXT("num_attention_layers: 2"),
}
"""Fields that may have one value only, and another value."""

OF_RETINANET = {
    *("BoxCoder", "Loss", "Loss.EqualizationLoss"),
    *("WeightSharedConvolutionalBoxPredictor", "WeightSharedConvolutionalBoxPredictor.BoxEncodingsClipRange"),
}
"""Messages that `test_field_effects_retinanet.py` is about."""


# Observations ---------------------------------------------------------------------------------------------------------

RANDOM = np.random.RandomState(0)
IMAGES = tf.constant(RANDOM.uniform(0, 255, [2, 64, 64, 3]), tf.float32)
TRUE_SHAPES = tf.constant([[64, 64, 3], [40, 44, 3]])
IMAGE_CONTEXT = Context(tf.constant(RANDOM.normal(size=[2, 3, 7]), tf.float32), tf.constant([3, 2]))
INPUTS = Inputs(IMAGES, TRUE_SHAPES, IMAGE_CONTEXT)
GROUNDTRUTH = Groundtruth(
    boxes=tf.constant([[[8.0, 8, 24, 24], [30, 34, 62, 62]], [[4.0, 6, 36, 40], [0, 0, 0, 0]]]),
    classes=tf.constant([[0, 2], [1, 0]]),
    num_boxes=tf.constant([2, 1]),
    weights=tf.constant([[1.0, 1.0], [1.0, 0.0]]),
    is_crowd=tf.zeros([2, 2], tf.bool),
)


@pytest.fixture(scope="module", autouse=True)
def _tiny_backbones():
    with pytest.MonkeyPatch.context() as patch:
        support.put_backbone(patch)
        support.put_backbone(patch, support.SINGLE_RESNET18)
        support.put_backbone(patch, "faster_rcnn_resnet34_fpn_keras", num_filters=(5, 5, 5, 5))
        yield


def parse(*texts):
    config = support.model_message().faster_rcnn
    for text in texts:
        if "calibration_config" in text:  # corners of a curve would join those that are there
            config.second_stage_post_processing.ClearField("calibration_config")
        config.MergeFrom(text_format.Parse(text, faster_rcnn_pb2.FasterRcnn()))
    return config


def build(config, execution=Execution()):
    tf_keras.utils.set_random_seed(0)
    return builder.build_model(model_pb2.DetectionModel(faster_rcnn=config), execution=execution)


def build_lively(config, execution=Execution()):
    """A model whose scores and boxes are spread as those of a trained one."""
    model, random = build(config, execution), np.random.RandomState(0)
    scales = [(predictor, 0.15) for predictor in (*model.rpn.head.objectness, *model.rpn.head.deltas)]
    if model.box_head is not None:  # whose boxes go far, some beyond the image
        scales += [(model.box_head.class_predictor, 0.15), (model.box_head.box_predictor, 3.0)]
    for predictor, scale in scales:
        scale /= np.sqrt(np.prod(predictor.kernel.shape[:-1]))
        predictor.kernel.assign(random.normal(0, scale, predictor.kernel.shape))
    return model


def predict(model, training=False):
    groundtruth = GROUNDTRUTH if training else None
    inputs = model.preprocess(INPUTS)
    return model.predict(inputs, training=training, groundtruth=groundtruth, seed=tf.constant([1, 2]))


@functools.lru_cache
def base_model():
    return build_lively(parse())


@functools.lru_cache
def base_predictions():
    return predict(base_model())


def training_losses(config):
    model = build_lively(config)
    return mean_losses(model, predict(model, training=True), GROUNDTRUTH)


def statistics(config):
    model = build(config)
    model.feature_extractor(model.preprocess(INPUTS).images, training=True)
    return [variable for variable in model.variables if "moving" in variable.name]


def inference(config, execution=Execution()):
    predictions = predict(build_lively(config, execution))
    return predictions.pyramid, predictions.box and predictions.box.class_logits


def resnet50(config):
    """Layers of a real ResNet-50."""
    config.feature_extractor.type = "faster_rcnn_resnet50_fpn_keras"
    extractor = builder.build_feature_extractor(config.feature_extractor, execution=Execution(is_restored=True))
    return [(type(layer).__name__, *getattr(layer, "strides", ())) for layer in extractor.backbone.network.layers]


def detections(config):
    model = build_lively(config)
    return model.postprocess(predict(model), INPUTS)


def norms(config):
    kinds = (layers.BatchNorm, tf_keras.layers.GroupNormalization)
    found = [layer for layer in build(config).submodules if isinstance(layer, kinds)]
    return [(type(layer).__name__, getattr(layer, "synchronized", None)) for layer in found]


def suppression(config):
    predictions = base_predictions()
    postprocessor = builder.build_postprocessor(config.second_stage_post_processing)
    return postprocessor(predictions.box, predictions.rois, TRUE_SHAPES)


def masks(config):
    """Everything that the mask fields decide on, of objects that are their own RoIs: head, targets and loss."""
    base, predictions = base_model(), base_predictions()
    tf_keras.utils.set_random_seed(0)
    branch = builder.build_mask_branch(config, base.feature_extractor, base.box_head)
    stored = tf.tile(tf.constant(255 * np.tri(20, dtype=np.uint8))[None, None], [2, 2, 1, 1])
    groundtruth = GROUNDTRUTH._replace(masks=stored, mask_frames=GROUNDTRUTH.boxes + 1.0)
    rois = Proposals(GROUNDTRUTH.boxes, tf.zeros([2, 2]), GROUNDTRUTH.num_boxes)
    boxes, matches = branch.sampler.choose(rois.boxes, targets.RoISampler().targets(rois, groundtruth))
    features = branch.pooler(predictions.pyramid, boxes, predictions.image_size)
    classes = branch.sampler.classes(matches, groundtruth)
    class_weights = base.box_head.class_weights() if branch.head.transfer is not None else None
    logits = branch.head(features, classes, training=True, class_weights=class_weights)
    shares, weights = branch.sampler.targets(MaskOutputs(logits, boxes, matches), groundtruth, predictions.image_size)
    losses = branch.head.loss(logits, shares, weights, training=True)
    return [*branch.head.variables, logits, shares, weights, *losses.values()]


def stages(config):
    """Whether the configuration is accepted."""
    problems = find_problems(pipeline_pb2.TrainEvalPipelineConfig(model=model_pb2.DetectionModel(faster_rcnn=config)))
    return [np.array(len(list(problems)))]


def rows_of_context(config):
    model = model_pb2.DetectionModel(faster_rcnn=config)
    return builder.build_context_decoding(pipeline_pb2.TrainEvalPipelineConfig(model=model)).max_num


def image(config):
    picture = tf.constant(np.random.RandomState(0).randint(0, 256, [24, 36, 3]), tf.uint8)
    return builder.build_resizer(config.image_resizer)(picture)


def training_image(config):
    picture = tf.constant(np.random.RandomState(0).randint(0, 256, [24, 36, 3]), tf.uint8)
    return builder.build_resizer(config.image_resizer, is_training=True)(picture, seed=tf.constant([1, 2]))


def pasted(config):
    """A mask in an image."""
    kind = model_config.mask_pasting(model_pb2.DetectionModel(faster_rcnn=config))
    masks, boxes = np.linspace(0, 1, 9, dtype=np.float32).reshape(1, 3, 3), np.float32([[1, 1, 9, 9]])
    return pasting.fill_image(pasting.paste_masks(masks, boxes, (10, 10), pasting=kind), (10, 10))


OBSERVATIONS = {
    "pasted": pasted,
    "variables": lambda config: [(v.shape.as_list(), v.trainable) for v in build(config).variables],
    "values": lambda config: build(config).variables,
    "layers": norms,
    "losses": training_losses,
    "statistics": statistics,
    "anchors": lambda config: predict(build(config)).rpn.anchors,
    "proposals": lambda config: predict(build_lively(config)).rois,
    "inference": inference,
    "resnet50": resnet50,
    "static inference": lambda config: inference(config, Execution(static=True)),
    "raw": lambda config: predict(build(config)).box.raw_boxes,
    "detections": detections,
    "suppression": suppression,
    "masks": masks,
    "stages": stages,
    "rows of context": rows_of_context,
    "image": image,
    "training image": training_image,
}


OBSERVER = field_effects.Observer(parse, OBSERVATIONS)


@pytest.mark.parametrize("field, seen_in, needs, change", EFFECTS, ids=[row[0] for row in EFFECTS])
def test_field_changes_something(field, seen_in, needs, change):
    OBSERVER.assert_changes(seen_in, needs, change)


@pytest.mark.parametrize("seen_in", ["values", "losses", "proposals", "detections", "image"])
def test_the_same_configuration_gives_the_same(seen_in):
    one, other = (field_effects.Observer(parse, OBSERVATIONS).observe(seen_in, "") for _ in range(2))
    assert not field_effects.differ(one, other)


# Completeness ---------------------------------------------------------------------------------------------------------


def all_messages(messages):
    for message in messages:
        if not message.GetOptions().map_entry:
            yield message
            yield from all_messages(message.nested_types)


MESSAGES = [m for file in FILES for m in all_messages(file.DESCRIPTOR.message_types_by_name.values())]


def name_of(message):
    return message.full_name.removeprefix("object_detection_fpn.protos.")


def is_map(field):
    return field.message_type and field.message_type.GetOptions().map_entry


def containers_of(message):
    return {f"{name_of(m)}.{f.name}" for m in MESSAGES for f in m.fields if f.message_type == message}


def test_every_field_is_in_one_of_the_tables():
    effective = {row[0] for row in EFFECTS}
    others = {*tables.NO_EFFECT, *tables.REFUSED, *tables.DOCUMENTATION, *REFUSED_BY_RULES}
    assert effective.isdisjoint(others)
    known = effective | others
    missing = []
    for message in MESSAGES:
        containers = containers_of(message)
        if name_of(message) in OF_RETINANET or (containers and containers <= set(tables.REFUSED)):
            continue  # a message that can stand nowhere
        for field in message.fields:
            name = f"{name_of(message)}.{field.name}"
            # What a message does, its fields do, if it has one that does anything.
            inside = (
                [f"{name_of(field.message_type)}.{f.name}" for f in field.message_type.fields]
                if field.message_type
                else []
            )
            does_something = not is_map(field) and any(f not in tables.NO_EFFECT for f in inside)
            does_something |= bool(field.message_type) and name_of(field.message_type) in ("Ssd", *OF_RETINANET)
            if name not in known and not does_something:
                missing.append(name)
    assert missing == []


def test_rows_name_fields_that_exist():
    fields = {f"{name_of(message)}.{field.name}" for message in MESSAGES for field in message.fields}
    assert {row[0] for row in EFFECTS} | set(REFUSED_BY_RULES) <= fields


@pytest.mark.parametrize("field", REFUSED_BY_RULES)
def test_fields_of_one_value_refuse_another(field):
    model = model_pb2.DetectionModel(faster_rcnn=parse(REFUSED_BY_RULES[field]))
    assert field_effects.refused_fields(model) == [field.split(".")[-1]]
