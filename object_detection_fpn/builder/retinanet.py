"""RetinaNet, from `model.ssd`."""

from __future__ import annotations

from object_detection_fpn.builder.data import build_resizer
from object_detection_fpn.builder.feature_extractor import build_feature_extractor
from object_detection_fpn.builder.layer_spec import build_layer_spec
from object_detection_fpn.builder.losses import build_classification_loss, build_localization_loss
from object_detection_fpn.builder.postprocess import build_score_converter, build_suppression
from object_detection_fpn.builder.rpn import build_anchor_generator, build_box_coder
from object_detection_fpn.config import model as model_config
from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import dense_postprocess, fpn, loss_normalization, targets
from object_detection_fpn.modeling.detectors import retinanet
from object_detection_fpn.modeling.heads import dense, rpn
from object_detection_fpn.ops import anchors as anchor_ops
from object_detection_fpn.protos import box_predictor_pb2, ssd_pb2

NORMALIZATIONS: dict[int, loss_normalization.MatchNormalization] = {
    ssd_pb2.Ssd.NUM_MATCHES: "NUM_MATCHES",
    ssd_pb2.Ssd.PER_IMAGE: "PER_IMAGE",
    ssd_pb2.Ssd.MOVING_AVERAGE: "MOVING_AVERAGE",
}

_CODE_SIZE = 4.0  # numbers that encode a box


def build_retinanet(
    config: ssd_pb2.Ssd, *, execution: Execution = Execution(), num_channels: int = 3
) -> retinanet.RetinaNet:
    """The detector with all its variables; the arguments are those of `build_model`."""
    extractor = build_feature_extractor(
        config.feature_extractor,
        execution=execution,
        num_channels=num_channels,
        freeze_statistics=config.freeze_batchnorm,
    )
    predictor = config.box_predictor.weight_shared_convolutional_box_predictor
    limits = predictor.box_encodings_clip_range
    generate_anchors, num_anchors = build_dense_anchors(config)
    return retinanet.RetinaNet(
        feature_extractor=extractor,
        head=build_dense_head(config, extractor, num_anchors=num_anchors, execution=execution),
        generate_anchors=generate_anchors,
        matcher=build_anchor_matcher(config, execution=execution),
        loss=build_dense_loss(config),
        postprocessor=build_dense_postprocessor(config, execution=execution),
        delta_range=(limits.min, limits.max) if predictor.HasField("box_encodings_clip_range") else None,
        converts_to_scores=predictor.score_converter == predictor.SIGMOID,
        execution=execution,
    )


def build_dense_anchors(config: ssd_pb2.Ssd) -> tuple[rpn.AnchorGenerator, int]:
    """The anchors of `anchor_generator` on the pyramid, and how many of them a cell has."""
    min_level, max_level = model_config.feature_levels(config.feature_extractor)
    offsets = anchor_ops.offsets_by_size(
        build_resizer(config.image_resizer).static_size, min_level=min_level, num_levels=max_level - min_level + 1
    )
    return build_anchor_generator(config.anchor_generator, offset=offsets)


def build_dense_head(
    config: ssd_pb2.Ssd, extractor: fpn.FeatureExtractor, *, num_anchors: int, execution: Execution = Execution()
) -> dense.DenseHead:
    """The head of `box_predictor`, for that many anchors of each cell."""
    message: box_predictor_pb2.WeightSharedConvolutionalBoxPredictor = (
        config.box_predictor.weight_shared_convolutional_box_predictor
    )
    return dense.DenseHead(
        in_filters=extractor.num_filters,
        num_levels=extractor.max_level - extractor.min_level + 1,
        num_anchors=num_anchors,
        num_classes=config.num_classes,
        has_background=config.add_background_class,
        tower=dense.TowerSpec(
            num_filters=message.depth,
            num_convs=message.num_layers_before_predictor,
            kernel_size=message.kernel_size,
            share_norms=message.share_norms,
        ),
        share_tower=message.share_prediction_tower,
        class_bias=message.class_prediction_bias_init,
        dropout_rate=1.0 - message.dropout_keep_probability if message.use_dropout else None,
        has_average=_normalization(config) == "MOVING_AVERAGE",
        spec=build_layer_spec(message.conv_hyperparams, freeze_statistics=config.freeze_batchnorm, execution=execution),
    )


def build_anchor_matcher(config: ssd_pb2.Ssd, *, execution: Execution = Execution()) -> targets.AnchorMatcher:
    """Which anchors answer for which object, from `matcher`."""
    message = config.matcher.argmax_matcher
    return targets.AnchorMatcher(
        matched_threshold=0.0 if message.ignore_thresholds else message.matched_threshold,
        unmatched_threshold=0.0 if message.ignore_thresholds else message.unmatched_threshold,
        background_between=not message.negatives_lower_than_unmatched,
        force_match=message.force_match_for_each_row,
        match_ties=config.low_quality_matches == ssd_pb2.Ssd.ALL_ANCHORS,
        coder=build_box_coder(config.box_coder.faster_rcnn_box_coder),
        static=execution.static,
    )


def build_dense_loss(config: ssd_pb2.Ssd) -> dense.DenseLoss:
    """The losses of `loss` and of the fields that normalize them."""
    message = config.loss
    coder = build_box_coder(config.box_coder.faster_rcnn_box_coder)
    return dense.DenseLoss(
        localization_weight=message.localization_weight,
        classification_weight=message.classification_weight,
        localization_loss=build_localization_loss(message.localization_loss, decode=coder.decode),
        classification_loss=build_classification_loss(message.classification_loss),
        normalization=_normalization(config),
        has_background=config.add_background_class,
        background_is_zero=config.encode_background_as_zeros,
        background_weight=config.negative_class_weight,
        code_size=_CODE_SIZE if config.normalize_loc_loss_by_codesize else 1.0,
    )


def build_dense_postprocessor(
    config: ssd_pb2.Ssd, *, execution: Execution = Execution()
) -> dense_postprocess.DensePostprocessor:
    """From the outputs of all anchors to detections, from `post_processing`."""
    message = config.post_processing
    return dense_postprocess.DensePostprocessor(
        score_converter=build_score_converter(message, execution=execution),
        suppression=build_suppression(message.batch_non_max_suppression),
        coder=build_box_coder(config.box_coder.faster_rcnn_box_coder),
        max_candidates_per_level=config.max_candidates_per_level or None,
        has_background=config.add_background_class,
        background_competes=config.background_competes,
        static=execution.static,
    )


def _normalization(config: ssd_pb2.Ssd) -> loss_normalization.MatchNormalization:
    return NORMALIZATIONS[config.loss_normalization] if config.normalize_loss_by_num_matches else "NONE"
