"""Tables of what single fields of a pipeline config may be; `config.checks` applies them.

A key "Message.field" is one field, "*.field" every field of that name.
"""

from __future__ import annotations

SINGLE_LEVEL_TYPES = tuple(f"faster_rcnn_resnet{depth}_keras" for depth in (18, 34, 50, 101, 152))
"""What `feature_extractor.type` may be without a feature pyramid: the RPN sees one map, and the backbone's last stage makes the
features of the box head."""

EXTRACTOR_TYPES = (
    *(f"faster_rcnn_resnet{depth}_fpn_keras" for depth in (18, 34, 50, 101, 152)),
    *SINGLE_LEVEL_TYPES,
)
"""What `feature_extractor.type` of Faster R-CNN may be."""

SSD_EXTRACTOR_TYPES = tuple(f"ssd_resnet{depth}_v1_fpn_keras" for depth in (18, 34, 50, 101, 152))
"""What `feature_extractor.type` of RetinaNet may be."""

SINGLE_LEVEL = 4
"""Of the map that a detector of `SINGLE_LEVEL_TYPES` sees; its stride is 2 ^ 4 pixels."""

EXTRACTORS_ELSEWHERE = tuple(
    f"faster_rcnn_{backbone}" for backbone in ("inception_v2", "inception_resnet_v2", "nas", "pnas", "mobilenet_v1")
)
"""What it may be in the Object Detection API, with "_keras" or without, of backbones that are not here."""

SSD_EXTRACTORS_ELSEWHERE = (
    "ssd_mobilenet",
    "ssd_inception",
    "ssd_efficientnet",
    "ssd_mobiledet",
    "ssd_spaghettinet",
    "embedded_ssd",
)
"""Beginnings of those of single-stage detectors with backbones that are not here."""

MASK_METRICS_SETS = (
    "coco_mask_metrics",
    "lvis_mask_metrics",
    "pascal_voc_instance_segmentation_metrics",
    "weighted_pascal_voc_instance_segmentation_metrics",
)
"""Sets of metrics that measure masks."""

METRICS_SETS = (
    "coco_detection_metrics",
    "pascal_voc_detection_metrics",
    "weighted_pascal_voc_detection_metrics",
    "precision_at_recall_detection_metrics",
    "oid_V2_detection_metrics",
    "oid_challenge_detection_metrics",
    *MASK_METRICS_SETS,
)
"""What `eval_config.metrics_set` may name."""

FORMER_METRICS_SETS = {
    "open_images_detection_metrics": "oid_V2_detection_metrics",
    "open_images_V2_detection_metrics": "oid_V2_detection_metrics",
    "oid_challenge_object_detection_metrics": "oid_challenge_detection_metrics",
}
"""Names that sets had in older versions of the Object Detection API, and their names today; it may name these too."""

REFUSED_METRICS_SETS = {
    "coco_panoptic_metrics": "measures panoptic segmentation, which is not supported",
    "coco_keypoint_metrics": "measures keypoints, which are not supported",
    "oid_challenge_segmentation_metrics": "measures the masks of Open Images, which is not supported",
}
"""Sets that the Object Detection API has and this package has not, and why."""

AUTOAUGMENT_POLICIES = ("v0", "v1", "v2", "v3", "test")
"""What `policy_name` of `autoaugment_image` may be."""

POLICIES_WITHIN_BOXES = ("v0", "v1")
"""Those that translate, shear or flip the content of boxes, which stay where they are."""

FINE_TUNE_CHECKPOINT_TYPES = ("", "classification", "detection", "full")
"""What `train_config.fine_tune_checkpoint_type` may be; empty: found out from the checkpoint."""

IMAGENET = "imagenet"
"""What `train_config.fine_tune_checkpoint` may be instead of a path: weights that tf_keras.applications downloads."""

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
    "FasterRcnnFeatureExtractor": ("type",),
    "Ssd": (
        "image_resizer",
        "feature_extractor",
        "box_coder",
        "matcher",
        "similarity_calculator",
        "box_predictor",
        "anchor_generator",
        "post_processing",
        "loss",
    ),
    "SsdFeatureExtractor": ("type", "conv_hyperparams", "fpn"),
    "BoxCoder": ("box_coder_oneof",),
    "Matcher": ("matcher_oneof",),
    "RegionSimilarityCalculator": ("region_similarity",),
    "Loss": ("localization_loss", "classification_loss"),
    "WeightSharedConvolutionalBoxPredictor": ("conv_hyperparams",),
    "ImageResizer": ("image_resizer_oneof",),
    "AnchorGenerator": ("anchor_generator_oneof",),
    "GridAnchorGenerator": ("scales", "aspect_ratios"),
    "MultiscaleAnchorGenerator": ("aspect_ratios",),
    "BoxPredictor": ("box_predictor_oneof",),
    "MaskRCNNBoxPredictor": ("fc_hyperparams",),
    "MaskTransfer": ("classes_with_masks",),
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

_NO_CHOICE = "does not go with a ResNet with a feature pyramid, which the Object Detection API builds without it"
_KEYPOINTS = "asks for keypoints, which are not supported"
_SELF_ATTENTION = "asks for attention among the regions of an image, which is not supported"

REFUSED = {
    "FasterRcnn.inplace_batchnorm_update": "is not needed: Keras updates moving averages within the step",
    "Ssd.use_confidences_as_targets": "needs groundtruth with confidences, which is not supported",
    "Ssd.explicit_background_class": (
        "is not supported: the classes of the label map are objects, and add_background_class adds the background, with which "
        "it does not go in the Object Detection API"
    ),
    "SsdFeatureExtractor.replace_preprocessor_with_placeholder": _NO_CHOICE,
    "SsdFeatureExtractor.num_layers": _NO_CHOICE,
    "SsdFeatureExtractor.spaghettinet_arch_name": _NO_CHOICE,
    "WeightSharedConvolutionalBoxPredictor.use_depthwise": "is not supported: no layer here is a depthwise convolution",
    "Loss.hard_example_miner": (
        "is not supported: all anchors train, and weighted_sigmoid_focal, with which the Object Detection API refuses it, "
        "weighs the easy ones down"
    ),
    "Loss.expected_loss_weights": "is not supported: all anchors train",
    "Context.use_self_attention": _SELF_ATTENTION,
    "Context.self_attention_in_sequence": _SELF_ATTENTION,
    "MaskRCNNBoxPredictor.predict_keypoints": _KEYPOINTS,
    "InputReader.num_keypoints": _KEYPOINTS,
    "InputReader.keypoint_type_weight": _KEYPOINTS,
    "InputReader.load_keypoint_depth_features": _KEYPOINTS,
    "InputReader.use_keypoint_label_map": _KEYPOINTS,
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
_ONE_NMS = "tiles are used on every device; results are the same, but for boxes that overlap by exactly the threshold"
_STATIC = "all results are padded to a fixed number of rows anyway, and on TPUs and under XLA every shape is static"
_CROP = (
    "RoIs lie within the image, where all ways of cropping give the same numbers; the device decides on the quickest"
)
_PER_BOX = "losses are kept per box and summed where they are used"

_READ_NOWHERE = "the Object Detection API reads it nowhere"
_NOT_HANDED_ON = "the Object Detection API does not hand it to a ResNet with a pyramid"
_OF_DEPTHWISE = "it belongs to depthwise convolutions"
_OF_EXPECTED_WEIGHTS = "it belongs to `expected_loss_weights`"

NO_EFFECT = {
    "TrainEvalPipelineConfig.graph_rewriter": "it configured the quantization of TensorFlow 1 graphs",
    "FasterRcnn.use_matmul_crop_and_resize": _CROP,
    "FasterRcnn.use_matmul_gather_in_matcher": "groundtruth is gathered by index on every device",
    "FasterRcnn.use_static_balanced_label_sampler": "the sampler always has static shapes, and is as random",
    "FasterRcnn.use_static_shapes": _STATIC,
    "FasterRcnn.use_static_shapes_for_eval": _STATIC,
    "FasterRcnn.resize_masks": "masks lie in frames of their own, which no resizer changes",
    "FasterRcnn.use_partitioned_nms_in_first_stage": _ONE_NMS,
    "FasterRcnnFeatureExtractor.first_stage_features_stride": (
        "each level of a pyramid has a stride of its own, 2 ^ level, and a single level has 16"
    ),
    "Ssd.inplace_batchnorm_update": "Keras updates moving averages within the step, here and in the Object Detection API",
    "Ssd.implicit_example_weight": "it belongs to `use_confidences_as_targets`",
    "Ssd.mask_head_config": _READ_NOWHERE,
    "Ssd.return_raw_detections_during_predict": "detections always carry boxes and scores before suppression",
    "SsdFeatureExtractor.use_explicit_padding": _NOT_HANDED_ON,
    "SsdFeatureExtractor.use_depthwise": _NOT_HANDED_ON,
    "ArgMaxMatcher.use_matmul_gather": "groundtruth is gathered by index on every device",
    "WeightSharedConvolutionalBoxPredictor.apply_conv_hyperparams_to_heads": _OF_DEPTHWISE,
    "WeightSharedConvolutionalBoxPredictor.apply_conv_hyperparams_pointwise": _OF_DEPTHWISE,
    "Loss.equalization_loss": _READ_NOWHERE,
    "Loss.min_num_negative_samples": _OF_EXPECTED_WEIGHTS,
    "Loss.desired_negative_sampling_ratio": _OF_EXPECTED_WEIGHTS,
    "Hyperparams.regularize_depthwise": "no layer here is a depthwise convolution",
    "BatchNonMaxSuppression.use_static_shapes": _STATIC,
    "BatchNonMaxSuppression.use_partitioned_nms": _ONE_NMS,
    "BatchNonMaxSuppression.use_cpu_nms": "TensorFlow places the suppression where it runs",
    "WeightedSigmoidClassificationLoss.anchorwise_output": _PER_BOX,
    "SigmoidFocalClassificationLoss.anchorwise_output": _PER_BOX,
    "WeightedSoftmaxClassificationLoss.anchorwise_output": _PER_BOX,
    "WeightedSmoothL1LocalizationLoss.anchorwise_output": _PER_BOX,
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
    "EvalConfig.eval_instance_masks": "metrics of masks are asked for by `metrics_set`",
    "EvalConfig.use_dummy_loss_in_eval": "losses are always computed on evaluation sets",
    "InputReader.queue_capacity": _QUEUES,
    "InputReader.min_after_dequeue": "`shuffle_buffer_size` is what counts",
    "InputReader.prefetch_size": _QUEUES,
    "InputReader.num_parallel_map_calls": _THREADS,
    "InputReader.num_parallel_batches": _THREADS,
    "InputReader.frame_index": "it belongs to sequence records",
    "InputReader.load_context_image_ids": "no result here names the images that context features come from",
    "InputReader.include_source_id": "evaluation always carries `image/source_id`, training has no use for it",
    "StringIntLabelMapItem.keypoints": "keypoints are not supported",
    "StringIntLabelMapItem.instance_count": "no metric here weighs classes by it",
}
"""Fields that are accepted without effect, and why. The comments in protos/ say the same."""

DOCUMENTATION = ("Hyperparams.op", "XYPairs.training_data_type")
"""Fields that tell the reader what the message they stand in is for; nothing follows from them, here or anywhere."""

_DETECTORS = "Detectors here: faster_rcnn (Faster R-CNN, Mask R-CNN, Context R-CNN), ssd (RetinaNet)"
_OTHER_ANCHORS = "write multiscale_anchor_generator, or grid_anchor_generator for a detector without pyramid, instead"
_OTHER_BOX_LOSS = "write weighted_smooth_l1, l1_localization_loss, weighted_giou, distance_iou or complete_iou instead"
_OTHER_CODER = "write faster_rcnn_box_coder instead"
_OTHER_SIMILARITY = "write iou_similarity instead"
_NO_KEYPOINTS = "keypoints are not supported: leave it out"
_OTHER_LOSS = "write weighted_softmax, weighted_sigmoid, weighted_sigmoid_focal or weighted_logits_softmax instead"

LEFT_OUT = {
    "DetectionModel.center_net": f"CenterNet is not here. {_DETECTORS}",
    "DetectionModel.experimental_model": f"an experimental model is not here. {_DETECTORS}",
    "SsdFeatureExtractor.bifpn": f"EfficientDet is not here. {_DETECTORS}",
    "AnchorGenerator.ssd_anchor_generator": _OTHER_ANCHORS,
    "AnchorGenerator.flexible_grid_anchor_generator": _OTHER_ANCHORS,
    "BoxPredictor.convolutional_box_predictor": (
        f"an SSD with a predictor for each level, as on MobileNet, is not here. {_DETECTORS}, whose heads are "
        "mask_rcnn_box_predictor and weight_shared_convolutional_box_predictor"
    ),
    "BoxCoder.mean_stddev_box_coder": _OTHER_CODER,
    "BoxCoder.square_box_coder": _OTHER_CODER,
    "BoxCoder.keypoint_box_coder": _OTHER_CODER,
    "Matcher.bipartite_matcher": "the Object Detection API has it in TensorFlow 1 only: write argmax_matcher instead",
    "RegionSimilarityCalculator.neg_sq_dist_similarity": _OTHER_SIMILARITY,
    "RegionSimilarityCalculator.ioa_similarity": _OTHER_SIMILARITY,
    "RegionSimilarityCalculator.thresholded_iou_similarity": _OTHER_SIMILARITY,
    "Loss.random_example_sampler": "all anchors train: leave it out",
    "BoxPredictor.rfcn_box_predictor": (
        "R-FCN pools without a pyramid and is not supported: write mask_rcnn_box_predictor instead"
    ),
    "LocalizationLoss.weighted_l2": _OTHER_BOX_LOSS,
    "LocalizationLoss.weighted_iou": _OTHER_BOX_LOSS,
    "ClassificationLoss.bootstrapped_sigmoid": _OTHER_LOSS,
    "ClassificationLoss.penalty_reduced_logistic_focal_loss": _OTHER_LOSS,
    "ClassificationLoss.weighted_dice_classification_loss": _OTHER_LOSS,
    "EvalConfig.parameterized_metric": _NO_KEYPOINTS,
    "EvalConfig.keypoint_edge": _NO_KEYPOINTS,
    "InputReader.external_input_reader": "records are read from files: write tf_record_input_reader instead",
}
"""Fields of the Object Detection API that have no place here ("Message.field"), and what to do instead."""
