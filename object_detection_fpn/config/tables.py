"""Tables of what single fields of a pipeline config may be; `config.checks` applies them.

A key "Message.field" is one field, "*.field" every field of that name.
"""

from __future__ import annotations

from dataclasses import dataclass

EXTRACTOR_TYPES = tuple(f"faster_rcnn_resnet{depth}_fpn_keras" for depth in (18, 34, 50, 101, 152))
"""What `feature_extractor.type` may be."""

EXTRACTORS_ELSEWHERE = tuple(
    f"faster_rcnn_{backbone}" for backbone in ("inception_v2", "inception_resnet_v2", "nas", "pnas", "mobilenet_v1")
)
"""What it may be in the Object Detection API, with "_keras" or without, of backbones that are not here."""

METRICS_SETS = (
    "coco_detection_metrics",
    "pascal_voc_detection_metrics",
    "weighted_pascal_voc_detection_metrics",
    "precision_at_recall_detection_metrics",
    "oid_V2_detection_metrics",
    "oid_challenge_detection_metrics",
)
"""What `eval_config.metrics_set` may name."""

FORMER_METRICS_SETS = {
    "open_images_detection_metrics": "oid_V2_detection_metrics",
    "open_images_V2_detection_metrics": "oid_V2_detection_metrics",
    "oid_challenge_object_detection_metrics": "oid_challenge_detection_metrics",
}
"""Names that sets had in older versions of the Object Detection API, and their names today; it may name these too."""

_MASK_METRICS = "measures masks, which are not supported yet"

REFUSED_METRICS_SETS = {
    "coco_mask_metrics": _MASK_METRICS,
    "coco_panoptic_metrics": "measures panoptic segmentation, which is not supported",
    "coco_keypoint_metrics": "measures keypoints, which are not supported",
    "lvis_mask_metrics": _MASK_METRICS,
    "oid_challenge_segmentation_metrics": _MASK_METRICS,
    "pascal_voc_instance_segmentation_metrics": _MASK_METRICS,
    "weighted_pascal_voc_instance_segmentation_metrics": _MASK_METRICS,
}
"""Sets that the Object Detection API has and this package has not, and why."""

AUTOAUGMENT_POLICIES = ("v0", "v1", "v2", "v3", "test")
"""What `policy_name` of `autoaugment_image` may be."""

FINE_TUNE_CHECKPOINT_TYPES = ("", "classification", "detection", "full")
"""What `train_config.fine_tune_checkpoint_type` may be; empty: found out from the checkpoint."""

IMAGENET = "imagenet"
"""What `train_config.fine_tune_checkpoint` may be instead of a path: weights that tf_keras.applications downloads."""


@dataclass(frozen=True)
class Bounds:
    """An interval that contains its ends, unless `above`: then it begins right after `low`."""

    low: float
    high: float = float("inf")
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.low:g}"
        if self.high == float("inf"):
            return f"above {self.low:g}" if self.above else f"{self.low:g} or more"
        return f"above {self.low:g}, up to {self.high:g}" if self.above else f"{self.low:g} to {self.high:g}"


_FRACTION = Bounds(0, 1)
_COUNT = Bounds(1)
_NOT_NEGATIVE = Bounds(0)
_POSITIVE = Bounds(0, above=True)
_SHARE = Bounds(0, 1, above=True)
_PIXEL_VALUE = Bounds(0, 255)
_QUALITY = Bounds(0, 100)

BOUNDS = {
    "RandomDistortColor.color_ordering": Bounds(0, 1),
    "FasterRcnn.number_of_stages": Bounds(1, 2),
    "FasterRcnn.num_classes": _COUNT,
    "FasterRcnn.first_stage_atrous_rate": _COUNT,
    "FasterRcnn.first_stage_box_predictor_kernel_size": _COUNT,
    "FasterRcnn.first_stage_box_predictor_depth": _COUNT,
    "FasterRcnn.first_stage_minibatch_size": _COUNT,
    "FasterRcnn.first_stage_positive_balance_fraction": _FRACTION,
    "FasterRcnn.first_stage_nms_score_threshold": _FRACTION,
    "FasterRcnn.first_stage_nms_iou_threshold": _FRACTION,
    "FasterRcnn.first_stage_max_proposals": _COUNT,
    "FasterRcnn.first_stage_localization_loss_weight": _NOT_NEGATIVE,
    "FasterRcnn.first_stage_objectness_loss_weight": _NOT_NEGATIVE,
    "FasterRcnn.second_stage_batch_size": _COUNT,
    "FasterRcnn.second_stage_balance_fraction": _FRACTION,
    "FasterRcnn.second_stage_localization_loss_weight": _NOT_NEGATIVE,
    "FasterRcnn.second_stage_classification_loss_weight": _NOT_NEGATIVE,
    "FeaturePyramidNetworks.additional_layer_depth": _COUNT,
    "MultiscaleAnchorGenerator.anchor_scale": _POSITIVE,
    "MultiscaleAnchorGenerator.aspect_ratios": _POSITIVE,
    "MultiscaleAnchorGenerator.scales_per_octave": _COUNT,
    "MaskRCNNBoxPredictor.box_code_size": Bounds(4, 4),
    "MaskRCNNBoxPredictor.dropout_keep_probability": Bounds(0, 1, above=True),
    "BatchNonMaxSuppression.max_detections_per_class": _COUNT,
    "BatchNonMaxSuppression.max_total_detections": _COUNT,
    "BatchNonMaxSuppression.max_classes_per_detection": _COUNT,
    "BatchNonMaxSuppression.soft_nms_sigma": _NOT_NEGATIVE,
    "TemperatureScalingCalibration.scaler": _POSITIVE,
    "SigmoidFocalClassificationLoss.gamma": _NOT_NEGATIVE,
    "SigmoidFocalClassificationLoss.alpha": _FRACTION,
    "HardExampleMiner.num_hard_examples": _NOT_NEGATIVE,
    "HardExampleMiner.max_negatives_per_positive": _NOT_NEGATIVE,
    "HardExampleMiner.min_negatives_per_image": _NOT_NEGATIVE,
    "KeepAspectRatioResizer.min_dimension": _COUNT,
    "KeepAspectRatioResizer.max_dimension": _COUNT,
    "KeepAspectRatioResizer.per_channel_pad_value": Bounds(0, 255),
    "FixedShapeResizer.height": _COUNT,
    "FixedShapeResizer.width": _COUNT,
    "ConditionalShapeResizer.size_threshold": _COUNT,
    "PadToMultipleResizer.multiple": _COUNT,
    "L1Regularizer.weight": _NOT_NEGATIVE,
    "L2Regularizer.weight": _NOT_NEGATIVE,
    "VarianceScalingInitializer.factor": _POSITIVE,
    "BatchNorm.decay": _FRACTION,
    "BatchNorm.epsilon": _POSITIVE,
    "TrainConfig.gradient_clipping_by_norm": _NOT_NEGATIVE,
    "TrainConfig.accumulate_gradients": _COUNT,
    "TrainConfig.keep_checkpoint_every_n_hours": _NOT_NEGATIVE,
    "Optimizer.moving_average_decay": Bounds(0, 1, above=True),
    "RMSPropOptimizer.decay": _FRACTION,
    "RMSPropOptimizer.epsilon": _NOT_NEGATIVE,
    "AdamOptimizer.epsilon": _NOT_NEGATIVE,
    "ExponentialDecayLearningRate.decay_steps": _COUNT,
    "ExponentialDecayLearningRate.decay_factor": _POSITIVE,
    "CosineDecayLearningRate.total_steps": _COUNT,
    "EvalConfig.min_score_threshold": _FRACTION,
    "EvalConfig.max_num_boxes_to_visualize": _NOT_NEGATIVE,
    "EvalConfig.recall_lower_bound": _FRACTION,
    "EvalConfig.recall_upper_bound": _FRACTION,
    "InputReader.num_readers": _COUNT,
    "InputReader.read_block_length": _COUNT,
    "InputReader.shuffle_buffer_size": _COUNT,
    "InputReader.filenames_shuffle_buffer_size": _COUNT,
    "InputReader.num_additional_channels": _NOT_NEGATIVE,
    "InputReader.num_prefetch_batches": Bounds(-1),
    "InputReader.sample_1_of_n_examples": _COUNT,
    "InputReader.sample_from_datasets_weights": _NOT_NEGATIVE,
    "*.max_number_of_boxes": _COUNT,
    "*.batch_size": _COUNT,
    "*.iou_threshold": _FRACTION,
    "*.score_threshold": _FRACTION,
    "*.logit_scale": _POSITIVE,
    "*.stddev": _NOT_NEGATIVE,
    "*.momentum_optimizer_value": _FRACTION,
    "*.learning_rate": _NOT_NEGATIVE,
    "*.initial_learning_rate": _NOT_NEGATIVE,
    "*.burnin_learning_rate": _NOT_NEGATIVE,
    "*.min_learning_rate": _NOT_NEGATIVE,
    "*.learning_rate_base": _NOT_NEGATIVE,
    "*.warmup_learning_rate": _NOT_NEGATIVE,
    "*.probability": _FRACTION,
    "*.random_coef": _FRACTION,
    "*.overlap_thresh": _FRACTION,
    "*.min_object_covered": _FRACTION,
    "*.min_area": _SHARE,
    "*.max_area": _SHARE,
    "*.min_aspect_ratio": _POSITIVE,
    "*.max_aspect_ratio": _POSITIVE,
    "*.min_padded_size_ratio": _POSITIVE,
    "*.max_padded_size_ratio": _POSITIVE,
    "*.pad_color": _PIXEL_VALUE,
    "*.pad_color_r": _PIXEL_VALUE,
    "*.pad_color_g": _PIXEL_VALUE,
    "*.pad_color_b": _PIXEL_VALUE,
    "*.min_scale_ratio": _POSITIVE,
    "*.min_delta": _NOT_NEGATIVE,
    "*.scale_min": _POSITIVE,
    "RandomAdjustBrightness.max_delta": _FRACTION,
    "RandomAdjustHue.max_delta": Bounds(0, 0.5),
    "RandomJitterBoxes.ratio": _FRACTION,
    "RandomPadImage.min_image_height": _NOT_NEGATIVE,
    "RandomPadImage.min_image_width": _NOT_NEGATIVE,
    "RandomPadImage.max_image_height": _NOT_NEGATIVE,
    "RandomPadImage.max_image_width": _NOT_NEGATIVE,
    "RandomAbsolutePadImage.max_height_padding": _NOT_NEGATIVE,
    "RandomAbsolutePadImage.max_width_padding": _NOT_NEGATIVE,
    "RandomCropToAspectRatio.aspect_ratio": _POSITIVE,
    "SSDRandomCropFixedAspectRatio.aspect_ratio": _POSITIVE,
    "SSDRandomCropPadFixedAspectRatio.aspect_ratio": _POSITIVE,
    "RandomBlackPatches.max_black_patches": _NOT_NEGATIVE,
    "RandomBlackPatches.size_to_image_ratio": _FRACTION,
    "RandomResizeMethod.target_height": _COUNT,
    "RandomResizeMethod.target_width": _COUNT,
    "ResizeImage.new_height": _COUNT,
    "ResizeImage.new_width": _COUNT,
    "ConvertClassLogitsToSoftmax.temperature": _POSITIVE,
    "RandomSelfConcatImage.concat_vertical_probability": _FRACTION,
    "RandomSelfConcatImage.concat_horizontal_probability": _FRACTION,
    "DropLabelProbabilistically.label": _COUNT,
    "DropLabelProbabilistically.drop_probability": _FRACTION,
    "RemapLabels.original_labels": _COUNT,
    "RemapLabels.new_label": _COUNT,
    "RandomJpegQuality.min_jpeg_quality": _QUALITY,
    "RandomJpegQuality.max_jpeg_quality": _QUALITY,
    "RandomDownscaleToTargetPixels.min_target_pixels": _COUNT,
    "RandomPatchGaussian.min_patch_size": _COUNT,
    "RandomPatchGaussian.min_gaussian_stddev": _NOT_NEGATIVE,
    "RandomSquareCropByScale.max_border": _NOT_NEGATIVE,
    "RandomSquareCropByScale.num_scales": _COUNT,
    "RandomScaleCropAndPadToSquare.output_size": _COUNT,
    "AdjustGamma.gamma": _NOT_NEGATIVE,
    "AdjustGamma.gain": _NOT_NEGATIVE,
}
"""Numbers, defaults included, that a field of a present message may have; of a repeated field each of them."""

RANGE_ENDS = (("min_", "max_"), ("minval", "maxval"), ("scale_min", "scale_max"), ("_lower_", "_upper_"))
"""Parts of names that make one field the lower, another the upper end of a range."""

REQUIRED = {
    "TrainEvalPipelineConfig": ("model",),
    "DetectionModel": ("model",),
    "FasterRcnn": (
        "image_resizer",
        "feature_extractor",
        "first_stage_anchor_generator",
        "first_stage_box_predictor_conv_hyperparams",
    ),
    "FasterRcnnFeatureExtractor": ("type", "conv_hyperparams", "fpn"),
    "ImageResizer": ("image_resizer_oneof",),
    "AnchorGenerator": ("anchor_generator_oneof",),
    "MultiscaleAnchorGenerator": ("aspect_ratios",),
    "BoxPredictor": ("box_predictor_oneof",),
    "MaskRCNNBoxPredictor": ("fc_hyperparams",),
    "CalibrationConfig": ("calibrator",),
    "FunctionApproximation": ("x_y_pairs",),
    "TrainConfig": ("optimizer",),
    "Optimizer": ("optimizer",),
    "RMSPropOptimizer": ("learning_rate",),
    "MomentumOptimizer": ("learning_rate",),
    "AdamOptimizer": ("learning_rate",),
    "LearningRate": ("learning_rate",),
    "PreprocessingStep": ("preprocessing_step",),
    "NormalizeImage": ("original_minval", "original_maxval"),
    "SubtractChannelMean": ("means",),
    "RemapLabels": ("original_labels",),
}
"""Fields, or oneofs of which one field, that a present message must set."""

SECOND_STAGE = ("second_stage_box_predictor", "second_stage_post_processing")
"""What a FasterRcnn with two stages must set as well."""

SECOND_STAGE_SIZES = ("initial_crop_size", "maxpool_kernel_size", "maxpool_stride")
"""What it must set to 1 or more."""

_MASKS = "asks for masks, which are not supported yet"
_KEYPOINTS = "asks for keypoints, which are not supported"
_CONTEXT = "asks for Context R-CNN, which is not supported yet"
_NOT_YET = "is not supported yet"

REFUSED = {
    "FasterRcnn.inplace_batchnorm_update": "is not needed: Keras updates moving averages within the step",
    "MultiscaleAnchorGenerator.normalize_coordinates": "does not fit: Faster R-CNN has its anchors in pixels",
    "AnchorGenerator.grid_anchor_generator": "serves one feature map: write multiscale_anchor_generator instead",
    "MaskRCNNBoxPredictor.predict_instance_masks": _MASKS,
    "MaskRCNNBoxPredictor.predict_keypoints": _KEYPOINTS,
    "EvalConfig.eval_instance_masks": _MASKS,
    "InputReader.load_instance_masks": _MASKS,
    "InputReader.num_keypoints": _KEYPOINTS,
    "InputReader.keypoint_type_weight": _KEYPOINTS,
    "InputReader.load_keypoint_depth_features": _KEYPOINTS,
    "InputReader.use_keypoint_label_map": _KEYPOINTS,
    "InputReader.load_context_features": _CONTEXT,
    "InputReader.load_context_image_ids": _CONTEXT,
    "InputReader.load_dense_pose": "asks for dense pose, which is not supported",
    "InputReader.load_track_id": "asks for tracking, which is not supported",
    "TrainConfig.load_all_detection_checkpoint_vars": 'is not there: write fine_tune_checkpoint_type: "full" instead',
    "PreprocessingStep.scale_boxes_to_pixel_coordinates": (
        "does not fit: boxes stay normalized until all steps are done, and then become pixels"
    ),
    "RandomHorizontalFlip.keypoint_flip_permutation": _KEYPOINTS,
    "RandomVerticalFlip.keypoint_flip_permutation": _KEYPOINTS,
    "RandomRotation90.keypoint_rot_permutation": _KEYPOINTS,
}
"""Fields that must be left out, be false or 0, and why."""

_QUEUES = "tf.data sizes its buffers itself"
_THREADS = "tf.data sizes its thread pools itself"
_SYNCHRONOUS = "the strategies of TensorFlow 2 are synchronous"
_NO_MASK_HEAD = "there is no mask head yet"
_ONE_NMS = "tiles are used on every device; results are the same, but for boxes that overlap by exactly the threshold"
_STATIC = "all results are padded to a fixed number of rows anyway, and on TPUs and under XLA every shape is static"
_CROP = (
    "RoIs lie within the image, where all ways of cropping give the same numbers; the device decides on the quickest"
)
_PER_BOX = "losses are kept per box and summed where they are used"

NO_EFFECT = {
    "TrainEvalPipelineConfig.graph_rewriter": "it configured the quantization of TensorFlow 1 graphs",
    "FasterRcnn.second_stage_mask_prediction_loss_weight": _NO_MASK_HEAD,
    "FasterRcnn.use_matmul_crop_and_resize": _CROP,
    "FasterRcnn.use_matmul_gather_in_matcher": "groundtruth is gathered by index on every device",
    "FasterRcnn.use_static_balanced_label_sampler": "the sampler always has static shapes, and is as random",
    "FasterRcnn.use_static_shapes": _STATIC,
    "FasterRcnn.use_static_shapes_for_eval": _STATIC,
    "FasterRcnn.resize_masks": _NO_MASK_HEAD,
    "FasterRcnn.use_partitioned_nms_in_first_stage": _ONE_NMS,
    "FasterRcnnFeatureExtractor.first_stage_features_stride": (
        "each level of a pyramid has a stride of its own, 2 ^ level"
    ),
    "Hyperparams.regularize_depthwise": "no layer here is a depthwise convolution",
    "MaskRCNNBoxPredictor.conv_hyperparams": "it is for mask and keypoint heads, which are not there yet",
    "MaskRCNNBoxPredictor.mask_prediction_conv_depth": _NO_MASK_HEAD,
    "MaskRCNNBoxPredictor.mask_height": _NO_MASK_HEAD,
    "MaskRCNNBoxPredictor.mask_width": _NO_MASK_HEAD,
    "MaskRCNNBoxPredictor.mask_prediction_num_conv_layers": _NO_MASK_HEAD,
    "MaskRCNNBoxPredictor.masks_are_class_agnostic": _NO_MASK_HEAD,
    "MaskRCNNBoxPredictor.convolve_then_upsample_masks": _NO_MASK_HEAD,
    "BatchNonMaxSuppression.use_static_shapes": _STATIC,
    "BatchNonMaxSuppression.use_partitioned_nms": _ONE_NMS,
    "BatchNonMaxSuppression.use_cpu_nms": "TensorFlow places the suppression where it runs",
    "WeightedSigmoidClassificationLoss.anchorwise_output": _PER_BOX,
    "SigmoidFocalClassificationLoss.anchorwise_output": _PER_BOX,
    "WeightedSoftmaxClassificationLoss.anchorwise_output": _PER_BOX,
    "WeightedSoftmaxClassificationAgainstLogitsLoss.anchorwise_output": _PER_BOX,
    "TrainConfig.sync_replicas": _SYNCHRONOUS,
    "TrainConfig.startup_delay_steps": "it delayed the workers of asynchronous training",
    "TrainConfig.bias_grad_multiplier": "gradients of biases are not scaled",
    "TrainConfig.replicas_to_aggregate": "the strategies of TensorFlow 2 always aggregate all replicas",
    "TrainConfig.batch_queue_capacity": _QUEUES,
    "TrainConfig.num_batch_queue_threads": _THREADS,
    "TrainConfig.prefetch_queue_capacity": _QUEUES,
    "TrainConfig.unpad_groundtruth_tensors": "groundtruth stays padded, and its padding is ignored",
    "TrainConfig.retain_original_images": "training shows no original images",
    "TrainConfig.summarize_gradients": "the norm of the gradients is always summarized",
    "TrainConfig.run_fine_tune_checkpoint_dummy_computation": "all variables exist once the model is constructed",
    "EvalConfig.num_examples": "all records of the input reader are evaluated",
    "EvalConfig.eval_interval_secs": "evaluation waits for checkpoints",
    "EvalConfig.max_evals": "evaluation ends at the last checkpoint or after the time-out",
    "EvalConfig.save_graph": "TensorFlow 2 has no evaluation graph to save",
    "EvalConfig.eval_master": "the strategy knows its devices",
    "EvalConfig.export_path": "detections are written by `odfpn predict`",
    "EvalConfig.retain_original_image_additional_channels": "only the first three channels are drawn",
    "EvalConfig.use_dummy_loss_in_eval": "losses are always computed on evaluation sets",
    "InputReader.queue_capacity": _QUEUES,
    "InputReader.min_after_dequeue": "`shuffle_buffer_size` is what counts",
    "InputReader.mask_type": "masks are not read",
    "InputReader.prefetch_size": _QUEUES,
    "InputReader.num_parallel_map_calls": _THREADS,
    "InputReader.num_parallel_batches": _THREADS,
    "InputReader.frame_index": "it belongs to sequence records",
    "InputReader.include_source_id": "evaluation always carries `image/source_id`, training has no use for it",
    "StringIntLabelMapItem.keypoints": "keypoints are not supported",
    "StringIntLabelMapItem.frequency": "no metric here groups classes by frequency",
    "StringIntLabelMapItem.instance_count": "no metric here weighs classes by it",
}
"""Fields that are accepted without effect, and why. The comments in protos/ say the same."""

DOCUMENTATION = ("Hyperparams.op", "XYPairs.training_data_type")
"""Fields that tell the reader what the message they stand in is for; nothing follows from them, here or anywhere."""

_ONLY_FASTER_RCNN = "this package trains Faster R-CNN with FPN only: write faster_rcnn instead"
_ONLY_MASK_RCNN_HEAD = "a head on pooled features is what Faster R-CNN has: write mask_rcnn_box_predictor instead"
_ONLY_MULTISCALE = "a pyramid needs anchors for each level: write multiscale_anchor_generator instead"
_NO_KEYPOINTS = "keypoints are not supported: leave it out"
_OTHER_LOSS = "write weighted_softmax, weighted_sigmoid, weighted_sigmoid_focal or weighted_logits_softmax instead"

LEFT_OUT = {
    "DetectionModel.ssd": _ONLY_FASTER_RCNN,
    "DetectionModel.center_net": _ONLY_FASTER_RCNN,
    "DetectionModel.experimental_model": _ONLY_FASTER_RCNN,
    "FasterRcnn.context_config": "Context R-CNN is not supported yet: leave it out",
    "AnchorGenerator.ssd_anchor_generator": _ONLY_MULTISCALE,
    "AnchorGenerator.flexible_grid_anchor_generator": _ONLY_MULTISCALE,
    "BoxPredictor.convolutional_box_predictor": _ONLY_MASK_RCNN_HEAD,
    "BoxPredictor.weight_shared_convolutional_box_predictor": _ONLY_MASK_RCNN_HEAD,
    "BoxPredictor.rfcn_box_predictor": (
        "R-FCN pools without a pyramid and is not supported: write mask_rcnn_box_predictor instead"
    ),
    "ClassificationLoss.bootstrapped_sigmoid": _OTHER_LOSS,
    "ClassificationLoss.penalty_reduced_logistic_focal_loss": _OTHER_LOSS,
    "ClassificationLoss.weighted_dice_classification_loss": _OTHER_LOSS,
    "EvalConfig.parameterized_metric": _NO_KEYPOINTS,
    "EvalConfig.keypoint_edge": _NO_KEYPOINTS,
    "InputReader.external_input_reader": "records are read from files: write tf_record_input_reader instead",
}
"""Fields of the Object Detection API that have no place here ("Message.field"), and what to do instead."""
