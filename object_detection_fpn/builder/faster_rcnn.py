"""Faster R-CNN, from `model.faster_rcnn`."""

from __future__ import annotations

from object_detection_fpn.builder.context import build_context_branch
from object_detection_fpn.builder.feature_extractor import build_both_stages, build_feature_extractor
from object_detection_fpn.builder.layer_spec import build_initializer, build_layer_spec
from object_detection_fpn.builder.losses import build_box_loss
from object_detection_fpn.builder.masks import build_mask_branch
from object_detection_fpn.builder.postprocess import build_postprocessor
from object_detection_fpn.builder.roi_pooling import build_roi_pooler
from object_detection_fpn.builder.rpn import build_box_coder, build_rpn
from object_detection_fpn.config import model as model_config
from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import fpn, pooler, single_level, targets
from object_detection_fpn.modeling.detectors import faster_rcnn
from object_detection_fpn.modeling.heads import box
from object_detection_fpn.protos import box_predictor_pb2, faster_rcnn_pb2

_OPTIONAL_OUTPUTS = {
    "raw_detections": "return_raw_detections_during_predict",
    "box_features": "output_final_box_features",
    "roi_features": "output_final_box_rpn_features",
}


def build_faster_rcnn(
    config: faster_rcnn_pb2.FasterRcnn, *, execution: Execution = Execution(), num_channels: int = 3
) -> faster_rcnn.FasterRCNN:
    """The detector with all its variables; the arguments are those of `build_model`."""
    has_box_head = config.number_of_stages > 1
    roi_pooler = build_roi_pooler(config, execution=execution) if has_box_head else None
    if roi_pooler and model_config.is_single_level(config.feature_extractor):
        extractor, last_stage = build_both_stages(
            config.feature_extractor, in_size=roi_pooler.output_size, execution=execution, num_channels=num_channels
        )
    else:
        extractor = build_feature_extractor(config.feature_extractor, execution=execution, num_channels=num_channels)
        last_stage = None
    # In the order of the data: what initializers draw depends on the layers before.
    rpn = build_rpn(config, extractor, execution=execution)
    box_head = None
    if roi_pooler:
        features = last_stage or build_box_feature_extractor(config, extractor, roi_pooler, execution=execution)
        box_head = build_box_head(config, features, execution=execution)
    has_masks, has_context = config.number_of_stages == 3, config.HasField("context_config")
    return faster_rcnn.FasterRCNN(
        feature_extractor=extractor,
        rpn=rpn,
        roi_sampler=build_roi_sampler(config, execution=execution),
        roi_pooler=roi_pooler,
        box_head=box_head,
        context=build_context_branch(config, extractor, box_head, execution=execution)
        if box_head and has_context
        else None,
        masks=build_mask_branch(config, extractor, box_head, execution=execution) if box_head and has_masks else None,
        outputs=[name for name, field in _OPTIONAL_OUTPUTS.items() if has_box_head and getattr(config, field)],
    )


def build_roi_sampler(config: faster_rcnn_pb2.FasterRcnn, *, execution: Execution = Execution()) -> targets.RoISampler:
    """The choice of the proposals that train the second stage, and their targets."""
    return targets.RoISampler(
        num_samples=None if config.HasField("hard_example_miner") else config.second_stage_batch_size,
        positive_fraction=config.second_stage_balance_fraction,
        threshold=config.second_stage_matched_threshold,
        min_background_iou=config.second_stage_min_background_iou,
        add_groundtruth=config.add_groundtruth_to_proposals,
        coder=build_box_coder(config.second_stage_box_coder),
        static=execution.static,
    )


def build_box_head(
    config: faster_rcnn_pb2.FasterRcnn,
    features: box.BoxFeatureExtractor | single_level.LastStage,
    *,
    execution: Execution = Execution(),
) -> box.BoxHead:
    """The predictors of `model.faster_rcnn.second_stage_box_predictor` after these features, their loss and post-processing."""
    message: box_predictor_pb2.MaskRCNNBoxPredictor = config.second_stage_box_predictor.mask_rcnn_box_predictor
    coder = build_box_coder(config.second_stage_box_coder)
    return box.BoxHead(
        feature_extractor=features,
        num_classes=config.num_classes,
        share_box_across_classes=message.share_box_across_classes,
        dropout_rate=1.0 - message.dropout_keep_probability if message.use_dropout else None,
        spec=build_layer_spec(message.fc_hyperparams, execution=execution),
        box_initializer=build_initializer(message.box_initializer) if message.HasField("box_initializer") else None,
        loss=build_box_loss(config, decode=coder.decode, execution=execution),
        postprocessor=build_postprocessor(config.second_stage_post_processing, coder=coder, execution=execution),
    )


def build_box_feature_extractor(
    config: faster_rcnn_pb2.FasterRcnn,
    extractor: fpn.FeatureExtractor,
    roi_pooler: pooler.RoIPooler,
    *,
    execution: Execution = Execution(),
) -> box.BoxFeatureExtractor:
    """The layers before the predictors of `mask_rcnn_box_predictor`."""
    message: box_predictor_pb2.MaskRCNNBoxPredictor = config.second_stage_box_predictor.mask_rcnn_box_predictor
    hidden = None
    if message.HasField("hidden_hyperparams"):
        hidden = build_layer_spec(message.hidden_hyperparams, execution=execution)
    return box.BoxFeatureExtractor(
        in_size=roi_pooler.output_size,
        in_filters=extractor.num_filters,
        num_units=message.dense_depth,
        num_dense_layers=message.num_dense_layers,
        num_convolutions=message.num_convolutions,
        convolution_depth=message.convolution_depth,
        spec=build_layer_spec(
            config.feature_extractor.conv_hyperparams,
            freeze_statistics=not config.feature_extractor.batch_norm_trainable,
            execution=execution,
        ),
        hidden=hidden,
    )
