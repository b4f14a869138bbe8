"""The detector, from `model` of a pipeline config."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import tensorflow as tf

from object_detection_fpn.builder.data import num_image_channels
from object_detection_fpn.builder.layer_spec import build_layer_spec
from object_detection_fpn.builder.training import dtype_name
from object_detection_fpn.modeling import calibration, fpn, postprocess, targets
from object_detection_fpn.modeling import pooler as roi
from object_detection_fpn.modeling.backbones import resnet_v1
from object_detection_fpn.modeling.detectors import faster_rcnn
from object_detection_fpn.modeling.heads import box, rpn
from object_detection_fpn.ops import anchors as anchor_ops
from object_detection_fpn.ops import losses, nms
from object_detection_fpn.protos import (
    anchor_generator_pb2,
    box_predictor_pb2,
    calibration_pb2,
    faster_rcnn_pb2,
    input_reader_pb2,
    losses_pb2,
    model_pb2,
    pipeline_pb2,
    post_processing_pb2,
    train_pb2,
)

BACKBONES: dict[str, Callable[..., resnet_v1.Backbone]] = {
    "faster_rcnn_resnet18_fpn_keras": functools.partial(resnet_v1.resnet_v1_small, 18),
    "faster_rcnn_resnet34_fpn_keras": functools.partial(resnet_v1.resnet_v1_small, 34),
    "faster_rcnn_resnet50_fpn_keras": functools.partial(resnet_v1.resnet_v1, 50),
    "faster_rcnn_resnet101_fpn_keras": functools.partial(resnet_v1.resnet_v1, 101),
    "faster_rcnn_resnet152_fpn_keras": functools.partial(resnet_v1.resnet_v1, 152),
}

_OPTIONAL_OUTPUTS = {
    "raw_detections": "return_raw_detections_during_predict",
    "box_features": "output_final_box_features",
    "roi_features": "output_final_box_rpn_features",
}
_MIN_WINOGRAD_CELLS = 64  # of a side of the finest level


def build_model(
    message: model_pb2.DetectionModel,
    *,
    static: bool = False,
    dtype: str = "float32",
    num_channels: int = 3,
    recompute_backbone: bool | None = None,
    winograd: bool = False,
    is_restored: bool = False,
) -> faster_rcnn.FasterRCNN:
    """Builds the detector with all its variables.

    Args:
        message: `model` of a pipeline config.
        static: use the ways of cropping and suppressing that XLA can compile (on TPU and with `jit_compile`), instead of the
            native kernels of CPU and GPU. The results are the same.
        dtype: dtype policy, "float32", "mixed_bfloat16" or "mixed_float16".
        num_channels: channels of the images.
        recompute_backbone: compute the inside of the backbone's stages again for the gradient, instead of keeping it. None: of
            its first stage alone, and with `static` of none.
        winograd: compute the 3 x 3 convolutions of pyramid and RPN as is faster on a CPU (`ops.winograd`), if the images are
            large enough for it. The results differ by rounding. Not for training.
        is_restored: leave kernels of convolutions zero, as a checkpoint's follow; drawing them takes two fifths of the time.
    """
    config = message.faster_rcnn
    winograd = winograd and _has_large_maps(config)
    implementation = "xla" if static else "native"
    # XLA orders a step so that it needs less memory, and a TPU has much: there it is not worth the time.
    recomputed_stages = {None: 0 if static else 1, False: 0, True: len(resnet_v1.LEVELS)}[recompute_backbone]
    extractor = build_feature_extractor(
        config.feature_extractor,
        dtype=dtype,
        num_channels=num_channels,
        recomputed_stages=recomputed_stages,
        static=static,
        winograd=winograd,
        is_restored=is_restored,
    )
    num_levels = extractor.max_level - extractor.min_level + 1
    generate_anchors, num_anchors = build_anchor_generator(config.first_stage_anchor_generator)
    head = rpn.RPNHead(
        in_filters=extractor.fpn.num_filters,
        num_levels=num_levels,
        num_anchors=num_anchors,
        num_filters=config.first_stage_box_predictor_depth,
        kernel_size=config.first_stage_box_predictor_kernel_size,
        dilation_rate=config.first_stage_atrous_rate,
        spec=dataclasses.replace(
            build_layer_spec(config.first_stage_box_predictor_conv_hyperparams, dtype=dtype, is_restored=is_restored),
            winograd=winograd,
        ),
    )
    two_stages = config.number_of_stages == 2
    pooler = build_roi_pooler(config, static=static, dtype=dtype) if two_stages else None
    return faster_rcnn.FasterRCNN(
        feature_extractor=extractor,
        rpn=rpn.RPN(
            head=head,
            generate_anchors=generate_anchors,
            clip_anchors=config.clip_anchors_to_image,
            max_proposals=config.first_stage_max_proposals,
            nms_iou_threshold=config.first_stage_nms_iou_threshold,
            nms_score_threshold=config.first_stage_nms_score_threshold,
            keep_empty=config.use_combined_nms_in_first_stage,
            implementation=implementation,
        ),
        anchor_sampler=targets.AnchorSampler(
            num_samples=config.first_stage_minibatch_size,
            positive_fraction=config.first_stage_positive_balance_fraction,
            implementation=implementation,
        ),
        rpn_loss=losses.RpnLoss(
            localization_weight=config.first_stage_localization_loss_weight,
            objectness_weight=config.first_stage_objectness_loss_weight,
        ),
        roi_sampler=targets.RoISampler(
            num_samples=None if config.HasField("hard_example_miner") else config.second_stage_batch_size,
            positive_fraction=config.second_stage_balance_fraction,
            implementation=implementation,
        ),
        roi_pooler=pooler,
        box_head=build_box_head(config, extractor, pooler, dtype=dtype, is_restored=is_restored) if pooler else None,
        box_loss=losses.BoxLoss(
            localization_weight=config.second_stage_localization_loss_weight,
            classification_weight=config.second_stage_classification_loss_weight,
            classification_loss=build_classification_loss(config.second_stage_classification_loss),
            miner=build_miner(config, implementation=implementation) if config.HasField("hard_example_miner") else None,
        ),
        postprocessor=build_postprocessor(config.second_stage_post_processing, implementation=implementation),
        outputs=[name for name, field in _OPTIONAL_OUTPUTS.items() if getattr(config, field)] if two_stages else (),
    )


def build_training_model(
    config: pipeline_pb2.TrainEvalPipelineConfig, *, precision: train_pb2.Precision, static: bool
) -> faster_rcnn.FasterRCNN:
    """The model as training builds it; `static` as for `build_model`."""
    settings = config.train_config
    return build_model(
        config.model,
        static=static,
        dtype="float32" if precision == train_pb2.FLOAT32 else f"mixed_{dtype_name(precision)}",
        num_channels=num_image_channels(config.model.faster_rcnn, config.train_input_reader),
        recompute_backbone=settings.recompute_backbone if settings.HasField("recompute_backbone") else None,
    )


def build_inference_model(
    config: pipeline_pb2.TrainEvalPipelineConfig,
    reader: input_reader_pb2.InputReader,
    *,
    static: bool = False,
    device: Literal["cpu", "gpu"] | None = None,
) -> faster_rcnn.FasterRCNN:
    """The model without training: its weights are to be restored, and nothing of it has a gradient.

    Args:
        config: a checked config.
        reader: of the images, some of whose channels may be additional.
        static: as for `build_model`.
        device: what the model is to be fast on; it runs on both. None: what this machine has.
    """
    if device is None:
        device = "gpu" if tf.config.list_logical_devices("GPU") else "cpu"
    return build_model(
        config.model,
        static=static,
        num_channels=num_image_channels(config.model.faster_rcnn, reader),
        recompute_backbone=False,
        winograd=device == "cpu" and not static,
        is_restored=True,
    )


def _has_large_maps(config: faster_rcnn_pb2.FasterRcnn) -> bool:
    """Whether the finest level has enough cells for Winograd's algorithm to be worth its start; taken to be so if unknown."""
    resizer = config.image_resizer
    kind = resizer.WhichOneof("image_resizer_oneof")
    if kind == "keep_aspect_ratio_resizer":
        side = resizer.keep_aspect_ratio_resizer.max_dimension
    elif kind == "fixed_shape_resizer":
        side = max(resizer.fixed_shape_resizer.height, resizer.fixed_shape_resizer.width)
    else:
        return True
    return side >> config.feature_extractor.fpn.min_level >= _MIN_WINOGRAD_CELLS


def build_feature_extractor(
    message: faster_rcnn_pb2.FasterRcnnFeatureExtractor,
    *,
    dtype: str = "float32",
    num_channels: int = 3,
    recomputed_stages: int = 0,
    static: bool = False,
    winograd: bool = False,
    is_restored: bool = False,
) -> fpn.FeatureExtractor:
    """Backbone and pyramid of `model.faster_rcnn.feature_extractor`."""
    freeze = not message.batch_norm_trainable
    pyramid_spec = build_layer_spec(
        message.conv_hyperparams, freeze_statistics=freeze, dtype=dtype, is_restored=is_restored
    )
    backbone_spec = pyramid_spec
    if not message.override_base_feature_extractor_hyperparams:
        backbone_spec = dataclasses.replace(resnet_v1.DEFAULT_SPEC, freeze_statistics=freeze, dtype=dtype)
    backbone_spec = dataclasses.replace(
        backbone_spec,
        initializer=pyramid_spec.initializer if is_restored else backbone_spec.initializer,
        static=static,
    )
    backbone = BACKBONES[message.type](
        max_level=min(message.fpn.max_level, 5),
        num_channels=num_channels,
        spec=backbone_spec,
        recomputed_stages=recomputed_stages,
    )
    pyramid = fpn.FPN(
        in_filters=backbone.num_filters,
        min_level=message.fpn.min_level,
        max_level=message.fpn.max_level,
        num_filters=message.fpn.additional_layer_depth,
        spec=dataclasses.replace(pyramid_spec, winograd=winograd),
    )
    return fpn.FeatureExtractor(backbone=backbone, fpn=pyramid, pad_to_multiple=message.pad_to_multiple)


def build_anchor_generator(message: anchor_generator_pb2.AnchorGenerator) -> tuple[rpn.AnchorGenerator, int]:
    """The generator and how many anchors a cell has."""
    multiscale = message.multiscale_anchor_generator
    aspect_ratios = tuple(multiscale.aspect_ratios)
    generate = functools.partial(
        anchor_ops.multiscale_anchors,
        min_level=multiscale.min_level,
        anchor_scale=multiscale.anchor_scale,
        aspect_ratios=aspect_ratios,
        scales_per_octave=multiscale.scales_per_octave,
    )
    return generate, len(aspect_ratios) * multiscale.scales_per_octave


def build_roi_pooler(config: faster_rcnn_pb2.FasterRcnn, *, static: bool, dtype: str) -> roi.RoIPooler:
    return roi.RoIPooler(
        crop_size=config.initial_crop_size,
        pool_size=config.maxpool_kernel_size,
        pool_stride=config.maxpool_stride,
        implementation="static" if static else "native",
        dtype=dtype,
    )


def build_box_head(
    config: faster_rcnn_pb2.FasterRcnn,
    extractor: fpn.FeatureExtractor,
    pooler: roi.RoIPooler,
    *,
    dtype: str,
    is_restored: bool = False,
) -> box.BoxHead:
    """Box features and predictors of `model.faster_rcnn.second_stage_box_predictor`."""
    message: box_predictor_pb2.MaskRCNNBoxPredictor = config.second_stage_box_predictor.mask_rcnn_box_predictor
    features = box.BoxFeatureExtractor(
        in_size=pooler.output_size,
        in_filters=extractor.fpn.num_filters,
        spec=build_layer_spec(
            config.feature_extractor.conv_hyperparams,
            freeze_statistics=not config.feature_extractor.batch_norm_trainable,
            dtype=dtype,
            is_restored=is_restored,
        ),
    )
    return box.BoxHead(
        feature_extractor=features,
        num_classes=config.num_classes,
        share_box_across_classes=message.share_box_across_classes,
        dropout_rate=1.0 - message.dropout_keep_probability if message.use_dropout else None,
        spec=build_layer_spec(message.fc_hyperparams, dtype=dtype, is_restored=is_restored),
    )


def build_classification_loss(message: losses_pb2.ClassificationLoss) -> losses.ClassificationLoss:
    """The loss of `second_stage_classification_loss`; softmax cross-entropy when it names none."""
    kind = message.WhichOneof("classification_loss")
    if kind == "weighted_sigmoid":
        return losses.sigmoid_cross_entropy
    if kind == "weighted_sigmoid_focal":
        focal = message.weighted_sigmoid_focal
        alpha = focal.alpha if focal.HasField("alpha") else None
        return functools.partial(losses.sigmoid_focal_loss, gamma=focal.gamma, alpha=alpha)
    if kind == "weighted_logits_softmax":
        scale = message.weighted_logits_softmax.logit_scale
        return functools.partial(losses.softmax_cross_entropy_of_logits, logit_scale=scale)
    return functools.partial(losses.softmax_cross_entropy, logit_scale=message.weighted_softmax.logit_scale)


def build_miner(config: faster_rcnn_pb2.FasterRcnn, *, implementation: str = "native") -> losses.HardExampleMiner:
    """The miner of `hard_example_miner`; it ranks RoIs by the losses as they are weighted in the total."""
    message = config.hard_example_miner
    ranks_by = losses_pb2.HardExampleMiner.LossType.Name(message.loss_type)
    localization, classification = {
        "BOTH": (config.second_stage_localization_loss_weight, config.second_stage_classification_loss_weight),
        "CLASSIFICATION": (0.0, 1.0),
        "LOCALIZATION": (1.0, 0.0),
    }[ranks_by]
    return losses.HardExampleMiner(
        num_examples=message.num_hard_examples or None,
        iou_threshold=message.iou_threshold,
        localization_weight=localization,
        classification_weight=classification,
        max_negatives_per_positive=message.max_negatives_per_positive or None,
        min_negatives=message.min_negatives_per_image,
        implementation=implementation,
    )


def build_postprocessor(
    message: post_processing_pb2.PostProcessing, *, implementation: str = "native"
) -> postprocess.Postprocessor:
    return postprocess.Postprocessor(
        score_converter=build_score_converter(message),
        suppression=build_suppression(message.batch_non_max_suppression),
        implementation=implementation,
    )


def build_suppression(message: post_processing_pb2.BatchNonMaxSuppression) -> nms.Suppression:
    return nms.Suppression(
        iou_threshold=message.iou_threshold,
        score_threshold=message.score_threshold,
        max_detections_per_class=message.max_detections_per_class,
        max_total_detections=message.max_total_detections,
        class_agnostic=message.use_class_agnostic_nms,
        max_classes_per_detection=message.max_classes_per_detection,
        keep_empty=message.use_combined_nms,
        soft_nms_sigma=0.0 if message.use_hard_nms else message.soft_nms_sigma,
    )


def build_score_converter(message: post_processing_pb2.PostProcessing) -> postprocess.ScoreConverter:
    """From logits to calibrated scores: divided by `logit_scale`, converted, calibrated."""
    convert = postprocess.SCORE_CONVERTERS[
        post_processing_pb2.PostProcessing.ScoreConverter.Name(message.score_converter)
    ]
    calibrate = build_calibration(message.calibration_config) if message.HasField("calibration_config") else tf.identity
    return lambda logits: calibrate(convert(logits / message.logit_scale))


def build_calibration(message: calibration_pb2.CalibrationConfig) -> calibration.Calibration:
    """The function of `calibration_config`."""

    def piecewise_linear(pairs: calibration_pb2.XYPairs) -> calibration.Calibration:
        x, y = [pair.x for pair in pairs.x_y_pair], [pair.y for pair in pairs.x_y_pair]
        return functools.partial(calibration.piecewise_linear, x=x, y=y)

    def sigmoid(parameters: calibration_pb2.SigmoidParameters) -> calibration.Calibration:
        return functools.partial(calibration.sigmoid, a=parameters.a, b=parameters.b)

    kind = message.WhichOneof("calibrator")
    chosen = getattr(message, kind)
    if kind == "function_approximation":
        return piecewise_linear(chosen.x_y_pairs)
    if kind == "sigmoid_calibration":
        return sigmoid(chosen.sigmoid_parameters)
    if kind == "temperature_scaling_calibration":
        return functools.partial(calibration.temperature, scaler=chosen.scaler)
    if kind == "class_id_function_approximations":
        calibrations = {i: piecewise_linear(pairs) for i, pairs in chosen.class_id_xy_pairs_map.items()}
    else:
        calibrations = {i: sigmoid(parameters) for i, parameters in chosen.class_id_sigmoid_parameters_map.items()}
    return functools.partial(calibration.of_each_class, calibrations=calibrations)
