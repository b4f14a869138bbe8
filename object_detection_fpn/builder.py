"""The place where messages become objects: four dicts of what can be named, then one short function for each message.

No defaults (those live in protos/) and no checks (those live in config.py): a config that `config.check_config` has passed
can be built.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from object_detection_fpn import losses
from object_detection_fpn.config_fields import FORMER_METRICS_SETS
from object_detection_fpn.config_text import is_repeated, split_names
from object_detection_fpn.data import decoder, resize
from object_detection_fpn.data import input as input_pipeline
from object_detection_fpn.data.augment import colour, crop, geometry, labels, pad, patches, policies, ssd
from object_detection_fpn.data.report import DataReport
from object_detection_fpn.data.service import DataService
from object_detection_fpn.evaluation.coco import CocoBoxMetrics
from object_detection_fpn.evaluation.metric import Metric
from object_detection_fpn.evaluation.open_images import OpenImagesBoxMetrics, OpenImagesChallengeBoxMetrics
from object_detection_fpn.evaluation.pascal import PascalBoxMetrics, PrecisionAtRecallBoxMetrics
from object_detection_fpn.label_map import LabelMap
from object_detection_fpn.modeling import calibration, faster_rcnn, fpn, layers, postprocess, roi, rpn, targets
from object_detection_fpn.modeling.backbones import resnet_v1
from object_detection_fpn.modeling.heads import box
from object_detection_fpn.ops import anchors as anchor_ops
from object_detection_fpn.protos import (
    anchor_generator_pb2,
    box_predictor_pb2,
    calibration_pb2,
    eval_pb2,
    faster_rcnn_pb2,
    hyperparams_pb2,
    image_resizer_pb2,
    input_reader_pb2,
    losses_pb2,
    model_pb2,
    optimizer_pb2,
    pipeline_pb2,
    post_processing_pb2,
    preprocessor_pb2,
)
from object_detection_fpn.training import optimizers

BACKBONES: dict[str, Callable[..., resnet_v1.Backbone]] = {
    "faster_rcnn_resnet18_fpn_keras": functools.partial(resnet_v1.resnet_v1_small, 18),
    "faster_rcnn_resnet34_fpn_keras": functools.partial(resnet_v1.resnet_v1_small, 34),
    "faster_rcnn_resnet50_fpn_keras": functools.partial(resnet_v1.resnet_v1, 50),
    "faster_rcnn_resnet101_fpn_keras": functools.partial(resnet_v1.resnet_v1, 101),
    "faster_rcnn_resnet152_fpn_keras": functools.partial(resnet_v1.resnet_v1, 152),
}


def _keywords(message: Any, *, zeros: bool = False) -> dict[str, Any]:
    """The fields of a message as keywords: lists as tuples, enum values by their name in small letters.

    Fields that are neither set nor have a default are left to the function, or, if `zeros`, numbers among them are 0.
    """
    keywords: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if is_repeated(field):
            if value:
                keywords[field.name] = tuple(value)
        elif zeros or field.has_default_value or message.HasField(field.name):
            keywords[field.name] = field.enum_type.values_by_number[value].name.lower() if field.enum_type else value
    return keywords


def _with_fields(function: input_pipeline.Augmentation) -> Callable[[Any], input_pipeline.Augmentation]:
    """For a message whose fields are the function's keywords."""
    return lambda message: functools.partial(function, **_keywords(message))


def _with_operations(function: input_pipeline.Augmentation) -> Callable[[Any], input_pipeline.Augmentation]:
    """For a message of SSD, whose `operations` are lists of keywords; what they leave unset is 0, as it is there."""

    def operation(message: Any) -> dict[str, Any]:
        keywords = _keywords(message, zeros=True)
        color = tuple(keywords.pop(f"pad_color_{c}") for c in "rgb" if f"pad_color_{c}" in keywords)
        return {**keywords, "pad_color": color} if color else keywords

    def bind(message: Any) -> input_pipeline.Augmentation:
        keywords = {**_keywords(message), "operations": tuple(operation(m) for m in message.operations)}
        return functools.partial(function, **keywords)

    return bind


AUGMENTATIONS: dict[str, Callable[[Any], input_pipeline.Augmentation]] = {
    "random_horizontal_flip": _with_fields(geometry.random_horizontal_flip),
    "random_vertical_flip": _with_fields(geometry.random_vertical_flip),
    "random_rotation90": _with_fields(geometry.random_rotation90),
    "random_image_scale": _with_fields(geometry.random_image_scale),
    "random_resize_method": _with_fields(geometry.random_resize_method),
    "resize_image": lambda m: functools.partial(
        geometry.resize_image,
        new_height=m.new_height,
        new_width=m.new_width,
        method=m.Method.Name(m.method).lower().removesuffix("_neighbor"),
    ),
    "random_downscale_to_target_pixels": _with_fields(geometry.random_downscale_to_target_pixels),
    "random_self_concat_image": _with_fields(geometry.random_self_concat_image),
    "random_crop_image": _with_fields(crop.random_crop_image),
    "random_crop_pad_image": _with_fields(crop.random_crop_pad_image),
    "random_crop_to_aspect_ratio": _with_fields(crop.random_crop_to_aspect_ratio),
    "random_square_crop_by_scale": _with_fields(crop.random_square_crop_by_scale),
    "random_scale_crop_and_pad_to_square": _with_fields(crop.random_scale_crop_and_pad_to_square),
    "random_pad_image": _with_fields(pad.random_pad_image),
    "random_absolute_pad_image": _with_fields(pad.random_absolute_pad_image),
    "ssd_random_crop": _with_operations(ssd.ssd_random_crop),
    "ssd_random_crop_pad": _with_operations(ssd.ssd_random_crop_pad),
    "ssd_random_crop_fixed_aspect_ratio": _with_operations(ssd.ssd_random_crop_fixed_aspect_ratio),
    "ssd_random_crop_pad_fixed_aspect_ratio": _with_operations(ssd.ssd_random_crop_pad_fixed_aspect_ratio),
    "autoaugment_image": _with_fields(policies.autoaugment_image),
    "random_jitter_boxes": _with_fields(labels.random_jitter_boxes),
    "drop_label_probabilistically": _with_fields(labels.drop_label_probabilistically),
    "remap_labels": _with_fields(labels.remap_labels),
    "convert_class_logits_to_softmax": _with_fields(labels.convert_class_logits_to_softmax),
    "random_adjust_brightness": _with_fields(colour.random_adjust_brightness),
    "random_adjust_contrast": _with_fields(colour.random_adjust_contrast),
    "random_adjust_hue": _with_fields(colour.random_adjust_hue),
    "random_adjust_saturation": _with_fields(colour.random_adjust_saturation),
    "random_distort_color": _with_fields(colour.random_distort_color),
    "random_pixel_value_scale": _with_fields(colour.random_pixel_value_scale),
    "random_rgb_to_gray": _with_fields(colour.random_rgb_to_gray),
    "rgb_to_gray": _with_fields(colour.rgb_to_gray),
    "adjust_gamma": _with_fields(colour.adjust_gamma),
    "random_jpeg_quality": _with_fields(colour.random_jpeg_quality),
    "normalize_image": _with_fields(colour.normalize_image),
    "subtract_channel_mean": _with_fields(colour.subtract_channel_mean),
    "random_black_patches": _with_fields(patches.random_black_patches),
    "random_patch_gaussian": _with_fields(patches.random_patch_gaussian),
}

OPTIMIZERS: dict[str, Callable[..., optimizers.AveragingOptimizer]] = {
    "momentum_optimizer": lambda m, rate, **averages: optimizers.momentum(
        rate, momentum=m.momentum_optimizer_value, **averages
    ),
    "rms_prop_optimizer": lambda m, rate, **averages: optimizers.rms_prop(
        rate, decay=m.decay, momentum=m.momentum_optimizer_value, epsilon=m.epsilon, **averages
    ),
    "adam_optimizer": lambda m, rate, **averages: optimizers.adam(rate, epsilon=m.epsilon, **averages),
}

METRICS: dict[str, Callable[[eval_pb2.EvalConfig, Sequence[Mapping[str, Any]]], Metric]] = {
    "coco_detection_metrics": lambda message, categories: CocoBoxMetrics(
        categories,
        include_metrics_per_category=message.include_metrics_per_category,
        all_metrics_per_category=message.all_metrics_per_category,
        super_categories={name: split_names(members) for name, members in sorted(message.super_categories.items())},
        skip_predictions_for_unlabeled_class=message.skip_predictions_for_unlabeled_class,
    ),
    "pascal_voc_detection_metrics": lambda message, categories: PascalBoxMetrics(categories),
    "weighted_pascal_voc_detection_metrics": lambda message, categories: PascalBoxMetrics(categories, weighted=True),
    "precision_at_recall_detection_metrics": lambda message, categories: PrecisionAtRecallBoxMetrics(
        categories,
        recall_lower_bound=message.recall_lower_bound,
        recall_upper_bound=message.recall_upper_bound,
        skip_predictions_for_unlabeled_class=message.skip_predictions_for_unlabeled_class,
    ),
    "oid_V2_detection_metrics": lambda message, categories: OpenImagesBoxMetrics(categories),
    "oid_challenge_detection_metrics": lambda message, categories: OpenImagesChallengeBoxMetrics(categories),
}

_ACTIVATIONS = {
    hyperparams_pb2.Hyperparams.NONE: "linear",
    hyperparams_pb2.Hyperparams.RELU: "relu",
    hyperparams_pb2.Hyperparams.RELU_6: "relu6",
    hyperparams_pb2.Hyperparams.SWISH: "swish",
}

_OPTIONAL_OUTPUTS = {
    "raw_detections": "return_raw_detections_during_predict",
    "box_features": "output_final_box_features",
    "roi_features": "output_final_box_rpn_features",
}
_MIN_WINOGRAD_CELLS = 64  # of a side of the finest level


# Model ----------------------------------------------------------------------------------------------------------------


def build_model(
    message: model_pb2.DetectionModel,
    *,
    static: bool = False,
    dtype: str = "float32",
    num_channels: int = 3,
    recompute_backbone: bool | None = None,
    winograd: bool = False,
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
            build_layer_spec(config.first_stage_box_predictor_conv_hyperparams, dtype=dtype), winograd=winograd
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
        ),
        rpn_loss=losses.RpnLoss(
            localization_weight=config.first_stage_localization_loss_weight,
            objectness_weight=config.first_stage_objectness_loss_weight,
        ),
        roi_sampler=targets.RoISampler(
            num_samples=None if config.HasField("hard_example_miner") else config.second_stage_batch_size,
            positive_fraction=config.second_stage_balance_fraction,
        ),
        roi_pooler=pooler,
        box_head=build_box_head(config, extractor, pooler, dtype=dtype) if pooler else None,
        box_loss=losses.BoxLoss(
            localization_weight=config.second_stage_localization_loss_weight,
            classification_weight=config.second_stage_classification_loss_weight,
            classification_loss=build_classification_loss(config.second_stage_classification_loss),
            miner=build_miner(config, implementation=implementation) if config.HasField("hard_example_miner") else None,
        ),
        postprocessor=build_postprocessor(config.second_stage_post_processing, implementation=implementation),
        outputs=[name for name, field in _OPTIONAL_OUTPUTS.items() if getattr(config, field)] if two_stages else (),
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
) -> fpn.FeatureExtractor:
    """Backbone and pyramid of `model.faster_rcnn.feature_extractor`."""
    freeze = not message.batch_norm_trainable
    pyramid_spec = build_layer_spec(message.conv_hyperparams, freeze_statistics=freeze, dtype=dtype)
    backbone_spec = pyramid_spec
    if not message.override_base_feature_extractor_hyperparams:
        backbone_spec = dataclasses.replace(resnet_v1.DEFAULT_SPEC, freeze_statistics=freeze, dtype=dtype)
    backbone_spec = dataclasses.replace(backbone_spec, static=static)
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
    config: faster_rcnn_pb2.FasterRcnn, extractor: fpn.FeatureExtractor, pooler: roi.RoIPooler, *, dtype: str
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
        ),
    )
    return box.BoxHead(
        feature_extractor=features,
        num_classes=config.num_classes,
        share_box_across_classes=message.share_box_across_classes,
        dropout_rate=1.0 - message.dropout_keep_probability if message.use_dropout else None,
        spec=build_layer_spec(message.fc_hyperparams, dtype=dtype),
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
    suppression = message.batch_non_max_suppression
    return postprocess.Postprocessor(
        score_converter=build_score_converter(message),
        score_threshold=suppression.score_threshold,
        iou_threshold=suppression.iou_threshold,
        max_detections_per_class=suppression.max_detections_per_class,
        max_total_detections=suppression.max_total_detections,
        class_agnostic=suppression.use_class_agnostic_nms,
        max_classes_per_detection=suppression.max_classes_per_detection,
        keep_empty=suppression.use_combined_nms,
        soft_nms_sigma=0.0 if suppression.use_hard_nms else suppression.soft_nms_sigma,
        implementation=implementation,
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


# Layers ---------------------------------------------------------------------------------------------------------------


def build_layer_spec(
    message: hyperparams_pb2.Hyperparams, *, freeze_statistics: bool = False, dtype: str = "float32"
) -> layers.LayerSpec:
    """What `conv_hyperparams` and `fc_hyperparams` say of layers."""
    return layers.LayerSpec(
        initializer=_build_initializer(message.initializer),
        regularizer=_build_regularizer(message.regularizer),
        activation=_ACTIVATIONS[message.activation],
        norm=_build_norm(message),
        force_use_bias=message.force_use_bias,
        freeze_statistics=freeze_statistics,
        dtype=dtype,
    )


def _build_regularizer(message: hyperparams_pb2.Regularizer) -> tf_keras.regularizers.Regularizer | None:
    kind = message.WhichOneof("regularizer_oneof")
    if kind == "l1_regularizer":
        return tf_keras.regularizers.L1(message.l1_regularizer.weight)
    if kind == "l2_regularizer":
        # The config language means weight / 2 * sum of squares; Keras has no half.
        return tf_keras.regularizers.L2(message.l2_regularizer.weight * 0.5)
    return None


def _build_initializer(message: hyperparams_pb2.Initializer) -> Callable[[], tf_keras.initializers.Initializer]:
    initializers = tf_keras.initializers
    kind = message.WhichOneof("initializer_oneof")
    if kind == "truncated_normal_initializer":
        truncated = message.truncated_normal_initializer
        return functools.partial(initializers.TruncatedNormal, mean=truncated.mean, stddev=truncated.stddev)
    if kind == "random_normal_initializer":
        random = message.random_normal_initializer
        return functools.partial(initializers.RandomNormal, mean=random.mean, stddev=random.stddev)
    if kind == "variance_scaling_initializer":
        scaling = message.variance_scaling_initializer
        return functools.partial(
            initializers.VarianceScaling,
            scale=scaling.factor,
            mode=hyperparams_pb2.VarianceScalingInitializer.Mode.Name(scaling.mode).lower(),
            distribution="uniform" if scaling.uniform else "truncated_normal",
        )
    if kind == "keras_initializer_by_name":
        return functools.partial(initializers.get, message.keras_initializer_by_name)
    return initializers.GlorotUniform


def _build_norm(message: hyperparams_pb2.Hyperparams) -> layers.BatchNormSpec | layers.GroupNormSpec | None:
    kind = message.WhichOneof("normalizer_oneof")
    if kind == "group_norm":
        return layers.GroupNormSpec()
    if kind in ("batch_norm", "sync_batch_norm"):
        norm = getattr(message, kind)
        return layers.BatchNormSpec(
            momentum=norm.decay,
            epsilon=norm.epsilon,
            center=norm.center,
            scale=norm.scale,
            freeze_statistics=not norm.train,
            synchronized=kind == "sync_batch_norm",
        )
    return None


# Data -----------------------------------------------------------------------------------------------------------------

_RESIZE_METHODS: dict[int, resize.Method] = {
    image_resizer_pb2.BILINEAR: "bilinear",
    image_resizer_pb2.NEAREST_NEIGHBOR: "nearest",
    image_resizer_pb2.BICUBIC: "bicubic",
    image_resizer_pb2.AREA: "area",
}


def build_resizer(message: image_resizer_pb2.ImageResizer) -> resize.Resizer:
    """The resizer of `model.faster_rcnn.image_resizer`, for training, evaluation and serving alike."""
    kind = message.WhichOneof("image_resizer_oneof")
    chosen = getattr(message, kind)
    if kind == "keep_aspect_ratio_resizer":
        return resize.keep_aspect_ratio(
            min_dimension=chosen.min_dimension,
            max_dimension=chosen.max_dimension,
            pad_to_max_dimension=chosen.pad_to_max_dimension,
            method=_RESIZE_METHODS[chosen.resize_method],
            convert_to_grayscale=chosen.convert_to_grayscale,
            per_channel_pad_value=tuple(chosen.per_channel_pad_value),
        )
    if kind == "fixed_shape_resizer":
        return resize.fixed_shape(
            height=chosen.height,
            width=chosen.width,
            method=_RESIZE_METHODS[chosen.resize_method],
            convert_to_grayscale=chosen.convert_to_grayscale,
        )
    if kind == "pad_to_multiple_resizer":
        return resize.pad_to_multiple(multiple=chosen.multiple, convert_to_grayscale=chosen.convert_to_grayscale)
    if kind == "conditional_shape_resizer":
        smaller = chosen.condition == image_resizer_pb2.ConditionalShapeResizer.SMALLER
        return resize.conditional_shape(
            condition="smaller" if smaller else "greater",
            size_threshold=chosen.size_threshold,
            method=_RESIZE_METHODS[chosen.resize_method],
            convert_to_grayscale=chosen.convert_to_grayscale,
        )
    return resize.identity()


def num_image_channels(config: faster_rcnn_pb2.FasterRcnn, reader: input_reader_pb2.InputReader | None = None) -> int:
    """Channels of the images the model sees: RGB or gray, and the reader's additional ones."""
    resizer = config.image_resizer
    chosen = getattr(resizer, resizer.WhichOneof("image_resizer_oneof"))
    return (1 if getattr(chosen, "convert_to_grayscale", False) else 3) + (
        reader.num_additional_channels if reader else 0
    )


def build_augmentations(messages: Sequence[preprocessor_pb2.PreprocessingStep]) -> list[input_pipeline.Augmentation]:
    """The functions of `train_config.data_augmentation_options`, in their order."""
    kinds = [message.WhichOneof("preprocessing_step") for message in messages]
    return [AUGMENTATIONS[kind](getattr(message, kind)) for kind, message in zip(kinds, messages, strict=True)]


def build_dataset(
    config: pipeline_pb2.TrainEvalPipelineConfig,
    reader: input_reader_pb2.InputReader,
    *,
    label_map: LabelMap,
    batch_size: int,
    is_training: bool,
    input_context: tf.distribute.InputContext | None = None,
    seed: int | None = None,
    report: DataReport | None = None,
    sample_1_of_n: int | None = None,
    service: DataService | None = None,
) -> tf.data.Dataset:
    """The input pipeline of one `InputReader`: batches of `records.Batch`.

    Args:
        config: for the resizer, the class count and the augmentations.
        reader: `train_input_reader` or one of `eval_input_reader`.
        label_map: the reader's.
        batch_size: images of all replicas together.
        is_training: augment, shuffle, repeat.
        input_context: which part of the data this worker reads.
        seed: of order and augmentation.
        report: counts what had to be dropped.
        sample_1_of_n: overrides the reader's.
        service: makes the batches of training, see `data.input.make_dataset`.
    """
    model, training, evaluation = config.model.faster_rcnn, config.train_config, config.eval_config
    resizer = build_resizer(model.image_resizer)
    if not is_training and evaluation.force_no_resize:
        resizer = resize.pad_to_multiple(multiple=1, convert_to_grayscale=num_image_channels(model) == 1)
    return input_pipeline.make_dataset(
        list(reader.tf_record_input_reader.input_path),
        resizer=resizer,
        num_classes=model.num_classes,
        batch_size=batch_size,
        is_training=is_training,
        augmentations=build_augmentations(training.data_augmentation_options) if is_training else (),
        max_num_boxes=max_number_of_boxes(config, reader),
        label_to_id=label_map.label_to_id,
        num_additional_channels=reader.num_additional_channels,
        load_class_scores=reader.load_multiclass_scores,
        use_class_scores=is_training and training.use_multiclass_scores,
        merge_multiple_label_boxes=is_training and training.merge_multiple_label_boxes,
        load_labeled_classes=not is_training,
        map_empty_labeled_classes_to_ones=evaluation.image_classes_field_map_empty_to_ones,
        hierarchy=decoder.Hierarchy(*label_map.hierarchy()) if reader.expand_labels_hierarchy else None,
        jpeg_min_side=reader.jpeg_min_side,
        shuffle=reader.shuffle,
        shuffle_buffer_size=reader.shuffle_buffer_size,
        filenames_shuffle_buffer_size=reader.filenames_shuffle_buffer_size,
        num_readers=reader.num_readers,
        read_block_length=reader.read_block_length,
        num_epochs=reader.num_epochs,
        sample_1_of_n=reader.sample_1_of_n_examples if sample_1_of_n is None else sample_1_of_n,
        sample_from_datasets_weights=tuple(reader.sample_from_datasets_weights),
        drop_remainder=reader.drop_remainder,
        num_prefetch_batches=reader.num_prefetch_batches,
        cache=reader.cache_dir if reader.cache != input_reader_pb2.InputReader.NO_CACHE else None,
        deterministic=reader.deterministic,
        input_context=input_context,
        seed=seed,
        report=report,
        service=service,
    )


def max_number_of_boxes(config: pipeline_pb2.TrainEvalPipelineConfig, reader: input_reader_pb2.InputReader) -> int:
    """Groundtruth rows of an image; `train_config.max_number_of_boxes` is the deprecated place to say it, and goes first."""
    if config.train_config.HasField("max_number_of_boxes"):
        return config.train_config.max_number_of_boxes
    return reader.max_number_of_boxes


# Training and evaluation ----------------------------------------------------------------------------------------------


def build_optimizer(message: optimizer_pb2.Optimizer) -> optimizers.AveragingOptimizer:
    """The optimizer of `train_config.optimizer` with its schedule and moving averages."""
    kind = message.WhichOneof("optimizer")
    chosen = getattr(message, kind)
    decay = message.moving_average_decay if message.use_moving_average else None
    return OPTIMIZERS[kind](chosen, build_learning_rate(chosen.learning_rate), moving_average_decay=decay)


def build_learning_rate(
    message: optimizer_pb2.LearningRate,
) -> tf_keras.optimizers.schedules.LearningRateSchedule:
    kind = message.WhichOneof("learning_rate")
    if kind is None:
        return optimizers.ConstantLearningRate(learning_rate=optimizer_pb2.ConstantLearningRate().learning_rate)
    rate = getattr(message, kind)
    if kind == "constant_learning_rate":
        return optimizers.ConstantLearningRate(learning_rate=rate.learning_rate)
    if kind == "exponential_decay_learning_rate":
        return optimizers.ExponentialDecayLearningRate(
            initial_learning_rate=rate.initial_learning_rate,
            decay_steps=rate.decay_steps,
            decay_factor=rate.decay_factor,
            staircase=rate.staircase,
            burnin_learning_rate=rate.burnin_learning_rate,
            burnin_steps=rate.burnin_steps,
            min_learning_rate=rate.min_learning_rate,
        )
    if kind == "manual_step_learning_rate":
        return optimizers.ManualStepLearningRate(
            initial_learning_rate=rate.initial_learning_rate,
            steps=[entry.step for entry in rate.schedule],
            learning_rates=[entry.learning_rate for entry in rate.schedule],
            warmup=rate.warmup,
        )
    return optimizers.CosineDecayLearningRate(
        learning_rate_base=rate.learning_rate_base,
        total_steps=rate.total_steps,
        warmup_learning_rate=rate.warmup_learning_rate,
        warmup_steps=rate.warmup_steps,
        hold_base_rate_steps=rate.hold_base_rate_steps,
    )


def build_metrics(message: eval_pb2.EvalConfig, categories: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """Fresh metrics of `eval_config.metrics_set`; COCO's when it names none, as in the Object Detection API."""
    names = message.metrics_set or ["coco_detection_metrics"]
    return [METRICS[FORMER_METRICS_SETS.get(name, name)](message, categories) for name in names]
