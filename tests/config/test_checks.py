"""What is refused before anything is built, by message; and what a config of the Object Detection API may say."""

from __future__ import annotations

import re

import pytest

from object_detection_fpn.config import tables
from object_detection_fpn.config.checks import find_ineffective
from object_detection_fpn.config.pipeline import ConfigError, check_config
from object_detection_fpn.config.text import parse_text
from object_detection_fpn.protos import pipeline_pb2

MODEL = "model.faster_rcnn"
EXTRACTOR = f"{MODEL}.feature_extractor"
PYRAMID = f"{EXTRACTOR}.fpn"
ANCHORS = f"{MODEL}.first_stage_anchor_generator.multiscale_anchor_generator"
HEAD = f"{MODEL}.second_stage_box_predictor.mask_rcnn_box_predictor"
SUPPRESSION = f"{MODEL}.second_stage_post_processing.batch_non_max_suppression"
CALIBRATION = f"{MODEL}.second_stage_post_processing.calibration_config"
RESIZER = f"{MODEL}.image_resizer"
OPTIMIZER = "train_config.optimizer"
SCHEDULE = f"{OPTIMIZER}.momentum_optimizer.learning_rate.cosine_decay_learning_rate"
CHANGES = f"{OPTIMIZER}.momentum_optimizer.learning_rate.manual_step_learning_rate"
AUGMENTATION = "train_config.data_augmentation_options"


def test_config_of_the_object_detection_api_is_accepted(config, refusals):
    assert refusals(config) == []


def test_every_recipe_is_accepted(root_dir, refusals):
    for path in (root_dir / "configs" / "tf2").glob("*.config"):
        recipe = parse_text(path.read_text(), pipeline_pb2.TrainEvalPipelineConfig, str(path))
        assert refusals(recipe) == []
        assert list(find_ineffective(recipe)) == []


@pytest.mark.parametrize(
    "changes",
    [
        [f"-{ANCHORS}.normalize_coordinates"],  # its default, true, would be refused
        ["train_config.fine_tune_checkpoint=dir/ckpt-0"],  # the default of its version, V1, too
        ["train_config.fine_tune_checkpoint_version=V1"],  # without a checkpoint it says nothing
        ["train_config.fine_tune_checkpoint=dir/ckpt-0", "train_config.fine_tune_checkpoint_version=V2"],
        ["train_config.num_steps=0"],
        ["-train_config", "-train_input_reader", "-eval_config", "-eval_input_reader"],
        [
            f"{MODEL}.number_of_stages=1",
            *(f"-{MODEL}.{name}" for name in (*tables.SECOND_STAGE, *tables.SECOND_STAGE_SIZES)),
        ],
        [f"{MODEL}.second_stage_batch_size=300"],
        [f"{PYRAMID}.max_level=4", f"{ANCHORS}.max_level=4", f"{EXTRACTOR}.pad_to_multiple=16"],
        [f"{RESIZER}=conditional_shape_resizer {{}}"],
        [f"{RESIZER}.keep_aspect_ratio_resizer.per_channel_pad_value=[1, 2, 3]"],
        [f"{AUGMENTATION}+=random_crop_image {{}}"],
        [f"{CHANGES}.schedule=[{{ step: 0 }}, {{ step: 3 }}]"],
        ["eval_config.metrics_set=[]"],
        ["eval_config.metrics_set=open_images_V2_detection_metrics"],
        ["train_input_reader.load_instance_masks=true", "train_input_reader.mask_type=PNG_MASKS"],
        [f"-{SUPPRESSION}"],  # its defaults, as in the Object Detection API
        ["eval_config.groundtruth_box_visualization_color=DarkOrange"],
        ["train_config.use_multiclass_scores=true", "train_input_reader.load_multiclass_scores=true"],
        ["train_config.merge_multiple_label_boxes=true", "train_input_reader.expand_labels_hierarchy=true"],
    ],
)
def test_config_is_accepted(config, changes, change, refusals):
    change(config, *changes)
    assert refusals(config) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["-model"], "model is not set. Allowed: { ... } with the fields faster_rcnn, ssd."),
        ([f"-{MODEL}"], "model is empty. Allowed: one of faster_rcnn, ssd."),
        ([f"-{RESIZER}"], f"{RESIZER} is not set. Allowed: {{ ... }} with the fields keep_aspect_ratio_resizer, "),
        ([f"{RESIZER}={{}}"], f"{RESIZER} is empty. Allowed: one of keep_aspect_ratio_resizer, fixed_shape_resizer, "),
        (
            [f"-{EXTRACTOR}.conv_hyperparams"],
            f"{EXTRACTOR}.conv_hyperparams is not set. Allowed: {{ ... }} with the fields op, regularizer, initializer, ",
        ),
        (
            [f"-{MODEL}.first_stage_box_predictor_conv_hyperparams"],
            f"{MODEL}.first_stage_box_predictor_conv_hyperparams is not set.",
        ),
        ([f"-{HEAD}.fc_hyperparams"], f"{HEAD}.fc_hyperparams is not set."),
        ([f"-{EXTRACTOR}"], f"{EXTRACTOR} is not set."),
        ([f"-{PYRAMID}"], f"{PYRAMID} is not set. Allowed: {{ ... }} with the fields min_level, max_level, "),
        (
            [f"{EXTRACTOR}.type=resnet18"],
            f'{EXTRACTOR}.type = "resnet18" is unknown. Allowed: faster_rcnn_resnet18_fpn_keras, '
            "faster_rcnn_resnet34_fpn_keras, faster_rcnn_resnet50_fpn_keras, faster_rcnn_resnet101_fpn_keras, "
            "faster_rcnn_resnet152_fpn_keras, faster_rcnn_resnet18_keras, faster_rcnn_resnet34_keras, "
            "faster_rcnn_resnet50_keras, faster_rcnn_resnet101_keras, faster_rcnn_resnet152_keras.",
        ),
        (
            [f"{EXTRACTOR}.type=faster_rcnn_resnet50_fpn"],
            'is unknown (nearest: "faster_rcnn_resnet50_fpn_keras"). Allowed: ',
        ),
        (
            [f"{EXTRACTOR}.type=ssd_resnet50_v1_fpn_keras"],
            '"ssd_resnet50_v1_fpn_keras" is of a RetinaNet, whose model is ssd and not faster_rcnn. Allowed: ',
        ),
        (
            [f"{EXTRACTOR}.type=faster_rcnn_resnet101"],
            'is of TensorFlow 1: write "faster_rcnn_resnet101_keras", or another that is allowed. '
            "Allowed: faster_rcnn_resnet18_fpn_keras, ",
        ),
        (
            [f"{EXTRACTOR}.type=faster_rcnn_inception_resnet_v2_keras"],
            '_keras" has a backbone that is not here: write "faster_rcnn_resnet50_fpn_keras", or another that is allowed. ',
        ),
        (
            [f"{EXTRACTOR}.type=faster_rcnn_inception_v2"],
            'is of TensorFlow 1 and has a backbone that is not here: write "faster_rcnn_resnet50_fpn_keras", or another',
        ),
        ([f"-{EXTRACTOR}.type"], f"{EXTRACTOR}.type is not set. Allowed: faster_rcnn_resnet18_fpn_keras, "),
        ([f"{EXTRACTOR}.pad_to_multiple=16"], "pad_to_multiple = 16 does not fit .* Allowed: multiples of 32."),
        ([f"{EXTRACTOR}.pad_to_multiple=0"], "pad_to_multiple = 0 does not fit .* Allowed: multiples of 32."),
        ([f"{PYRAMID}.min_level=1"], f"{PYRAMID}.min_level = 1 is out of range. Allowed: 2 to 5."),
        ([f"{PYRAMID}.max_level=8"], f"{PYRAMID}.max_level = 8 is out of range. Allowed: 2 to 7."),
        ([f"{PYRAMID}.max_level=1"], f"{PYRAMID}.max_level = 1 is below min_level = 2. Allowed: 2 to 7."),
        ([f"{PYRAMID}.additional_layer_depth=0"], "additional_layer_depth = 0 is out of range. Allowed: 1 or more."),
        (
            [f"{ANCHORS}.min_level=3"],
            f"{ANCHORS}.min_level = 3 differs from feature_extractor.fpn.min_level = 2. Allowed: 2.",
        ),
        ([f"-{ANCHORS}.max_level"], f"{ANCHORS}.max_level = 7 differs from feature_extractor.fpn.max_level = 6."),
        ([f"{ANCHORS}.aspect_ratios=[]"], f"{ANCHORS}.aspect_ratios is not set. Allowed: at least one value."),
        ([f"{ANCHORS}.aspect_ratios=[1, 0]"], "aspect_ratios[1] = 0 is out of range. Allowed: above 0."),
        ([f"{ANCHORS}.scales_per_octave=0"], "scales_per_octave = 0 is out of range. Allowed: 1 or more."),
        ([f"{ANCHORS}.anchor_scale=0"], "anchor_scale = 0 is out of range. Allowed: above 0."),
        (
            [f"{ANCHORS}.normalize_coordinates=true"],
            "normalize_coordinates = true does not fit: Faster R-CNN has its anchors in pixels. Allowed: false.",
        ),
        (
            [f"{MODEL}.first_stage_anchor_generator=grid_anchor_generator {{scales: 1 aspect_ratios: 1}}"],
            "grid_anchor_generator serves one feature map and does not go with feature_extractor.type = "
            '"faster_rcnn_resnet50_fpn_keras". Allowed: multiscale_anchor_generator instead.',
        ),
        ([f"{MODEL}.first_stage_anchor_generator={{}}"], "first_stage_anchor_generator is empty. Allowed: one of grid"),
        ([f"{MODEL}.num_classes=0"], f"{MODEL}.num_classes = 0 is out of range. Allowed: 1 or more."),
        ([f"{MODEL}.number_of_stages=4"], f"{MODEL}.number_of_stages = 4 is out of range. Allowed: 1 to 3."),
        (
            [f"{MODEL}.first_stage_nms_iou_threshold=1.5"],
            "first_stage_nms_iou_threshold = 1.5 is out of range. Allowed: 0 to 1.",
        ),
        ([f"{MODEL}.first_stage_nms_iou_threshold=nan"], "first_stage_nms_iou_threshold = nan is out of range."),
        ([f"{MODEL}.first_stage_nms_score_threshold=-0.1"], "first_stage_nms_score_threshold = -0.1 is out of range."),
        (
            [f"{MODEL}.first_stage_positive_balance_fraction=2"],
            "first_stage_positive_balance_fraction = 2 is out of range.",
        ),
        ([f"{SUPPRESSION}.iou_threshold=60"], f"{SUPPRESSION}.iou_threshold = 60 is out of range. Allowed: 0 to 1."),
        ([f"{SUPPRESSION}.score_threshold=-1"], f"{SUPPRESSION}.score_threshold = -1 is out of range."),
        ([f"{SUPPRESSION}.max_total_detections=0"], "max_total_detections = 0 is out of range. Allowed: 1 or more."),
        (
            [f"{SUPPRESSION}.max_classes_per_detection=0"],
            "max_classes_per_detection = 0 is out of range. Allowed: 1 or more.",
        ),
        (
            [f"{SUPPRESSION}.change_coordinate_frame=false"],
            f"{SUPPRESSION}.change_coordinate_frame = false is not supported: detections are relative to the image; "
            "multiply them by its size where pixels are needed. Allowed: true.",
        ),
        (
            [f"{SUPPRESSION}.use_combined_nms=true", f"{SUPPRESSION}.use_class_agnostic_nms=true"],
            "use_class_agnostic_nms = true does not go with use_combined_nms = true. Allowed: false.",
        ),
        (
            [f"{SUPPRESSION}.use_combined_nms=true", f"{SUPPRESSION}.soft_nms_sigma=0.5"],
            "soft_nms_sigma = 0.5 does not go with use_combined_nms = true. Allowed: 0.",
        ),
        ([f"{CALIBRATION}={{}}"], f"{CALIBRATION} is empty. Allowed: one of function_approximation"),
        ([f"{CALIBRATION}.function_approximation={{}}"], "function_approximation.x_y_pairs is not set."),
        (
            [f"{CALIBRATION}.function_approximation.x_y_pairs={{}}"],
            "function_approximation.x_y_pairs has no x_y_pair. Allowed: at least one.",
        ),
        (
            [f"{CALIBRATION}.function_approximation.x_y_pairs={{x_y_pair {{x: 0.5}} x_y_pair {{x: 0.5}}}}"],
            "function_approximation.x_y_pairs.x_y_pair[1].x = 0.5 is not after the one before, 0.5. Allowed: above 0.5.",
        ),
        (
            [f"{CALIBRATION}.class_id_function_approximations={{class_id_xy_pairs_map {{key: 2 value {{}}}}}}"],
            "class_id_function_approximations.class_id_xy_pairs_map[2] has no x_y_pair. Allowed: at least one.",
        ),
        (
            [f"{CALIBRATION}.class_id_sigmoid_calibrations={{class_id_sigmoid_parameters_map {{key: 4 value {{}}}}}}"],
            "class_id_sigmoid_parameters_map = 4 names a class that does not exist. "
            "Allowed: 0 (background) to num_classes = 3.",
        ),
        ([f"{CALIBRATION}.temperature_scaling_calibration={{}}"], "scaler = 0 is out of range. Allowed: above 0."),
        (
            [f"{MODEL}.second_stage_box_predictor.mask_rcnn_box_predictor.fc_hyperparams.group_norm={{}}"],
            "fc_hyperparams.group_norm does not fit: predictions are no groups of features. Allowed: batch_norm,",
        ),
        (
            [f"{MODEL}.second_stage_batch_size=301"],
            f"{MODEL}.second_stage_batch_size = 301 is above first_stage_max_proposals = 300. Allowed: 1 to 300.",
        ),
        ([f"-{MODEL}.initial_crop_size"], f"{MODEL}.initial_crop_size is not set. Allowed: 1 or more (usually 14"),
        ([f"-{MODEL}.maxpool_kernel_size"], f"{MODEL}.maxpool_kernel_size is not set. Allowed: 1 or more"),
        ([f"{MODEL}.maxpool_stride=0"], f"{MODEL}.maxpool_stride = 0 is out of range. Allowed: 1 or more."),
        (
            [f"{MODEL}.maxpool_kernel_size=15"],
            "maxpool_kernel_size = 15 is above initial_crop_size = 14. Allowed: 1 to 14.",
        ),
        ([f"-{MODEL}.second_stage_box_predictor"], f"{MODEL}.second_stage_box_predictor is not set."),
        ([f"-{MODEL}.second_stage_post_processing"], f"{MODEL}.second_stage_post_processing is not set."),
        ([f"{HEAD}.predict_keypoints=true"], "predict_keypoints = true asks for keypoints, which are not supported."),
        ([f"{HEAD}.box_code_size=5"], f"{HEAD}.box_code_size = 5 is out of range. Allowed: 4."),
        (
            [f"{HEAD}.dropout_keep_probability=0"],
            "dropout_keep_probability = 0 is out of range. Allowed: above 0, up to 1.",
        ),
        ([f"{MODEL}.inplace_batchnorm_update=true"], "inplace_batchnorm_update = true is not needed"),
        (
            [f"{RESIZER}.keep_aspect_ratio_resizer.max_dimension=100"],
            "max_dimension = 100 is below min_dimension = 160. Allowed: 160 or more.",
        ),
        (
            [f"{RESIZER}.keep_aspect_ratio_resizer.per_channel_pad_value=[1]"],
            "per_channel_pad_value has 1 values. Allowed: 3, one a channel.",
        ),
        ([f"{RESIZER}.fixed_shape_resizer.height=0"], f"{RESIZER}.fixed_shape_resizer.height = 0 is out of range."),
        (
            [f"{RESIZER}.conditional_shape_resizer.condition=INVALID"],
            "condition = INVALID is no condition. Allowed: GREATER, SMALLER.",
        ),
        (
            [f"{EXTRACTOR}.conv_hyperparams.batch_norm.decay=1.1"],
            "batch_norm.decay = 1.1 is out of range. Allowed: 0 to 1.",
        ),
        (
            [f"{EXTRACTOR}.conv_hyperparams.regularizer.l2_regularizer.weight=-1"],
            "l2_regularizer.weight = -1 is out of range. Allowed: 0 or more.",
        ),
        (["train_config.batch_size=0"], "train_config.batch_size = 0 is out of range. Allowed: 1 or more."),
        ([f"-{OPTIMIZER}"], "train_config.optimizer is not set. Allowed: { ... } with the fields rms_prop_optimizer, "),
        (
            [f"{OPTIMIZER}={{}}"],
            "train_config.optimizer is empty. Allowed: one of rms_prop_optimizer, momentum_optimizer, ",
        ),
        ([f"{OPTIMIZER}.adam_optimizer={{}}"], f"{OPTIMIZER}.adam_optimizer.learning_rate is not set."),
        (
            [f"{OPTIMIZER}.adam_optimizer.learning_rate={{}}"],
            "learning_rate is empty. Allowed: one of constant_learning_rate, ",
        ),
        (
            [f"{OPTIMIZER}.momentum_optimizer.momentum_optimizer_value=9"],
            "momentum_optimizer_value = 9 is out of range. Allowed: 0 to 1.",
        ),
        ([f"{SCHEDULE}.learning_rate_base=-1"], "learning_rate_base = -1 is out of range. Allowed: 0 or more."),
        (
            [f"{SCHEDULE}.warmup_steps=21"],
            f"{SCHEDULE}.total_steps = 20 is below warmup_steps + hold_base_rate_steps = 21. Allowed: 21 or more.",
        ),
        (
            [f"{SCHEDULE}.warmup_steps=9", f"{SCHEDULE}.hold_base_rate_steps=12"],
            f"{SCHEDULE}.total_steps = 20 is below warmup_steps + hold_base_rate_steps = 21. Allowed: 21 or more.",
        ),
        (
            [f"{SCHEDULE}.warmup_learning_rate=1"],
            "warmup_learning_rate = 1 is above learning_rate_base = 0.04. Allowed: 0 to 0.04, or",
        ),
        (
            [f"{CHANGES}.schedule=[{{ step: 5 }}, {{ step: 5 }}]"],
            f"{CHANGES}.schedule[1].step = 5 is not after the one before. Allowed: 6 or more.",
        ),
        (
            ["train_config.freeze_variables=[ok, (]"],
            'train_config.freeze_variables[1] = "(" is no regular expression (missing )',
        ),
        (
            ["train_config.fine_tune_checkpoint_type=fine_tune"],
            '"fine_tune" is unknown. Allowed: classification, detection, full.',
        ),
        (
            ["train_config.fine_tune_checkpoint=a", "train_config.fine_tune_checkpoint_version=V1"],
            "train_config.fine_tune_checkpoint_version = V1 is the format of TensorFlow 1, which cannot be read. Allowed: V2.",
        ),
        (
            ["train_config.fine_tune_checkpoint=imagenet", "train_config.fine_tune_checkpoint_type=detection"],
            'fine_tune_checkpoint_type = "detection" does not fit fine_tune_checkpoint = "imagenet", which is a backbone. '
            "Allowed: classification, or to leave it out.",
        ),
        (["train_config.load_all_detection_checkpoint_vars=true"], 'write fine_tune_checkpoint_type: "full" instead'),
        ([f"{AUGMENTATION}+={{}}"], f"{AUGMENTATION}[1] is empty. Allowed: one of normalize_image, "),
        (
            [f"{AUGMENTATION}[0].random_horizontal_flip.probability=50"],
            "random_horizontal_flip.probability = 50 is out of range. Allowed: 0 to 1.",
        ),
        (
            [f"{AUGMENTATION}[0]=random_crop_image {{ min_area: 0.9 max_area: 0.5 }}"],
            "max_area = 0.5 is below min_area = 0.9. Allowed: 0.9 or more.",
        ),
        (
            [f"{AUGMENTATION}[0].random_horizontal_flip.keypoint_flip_permutation=[1]"],
            "keypoint_flip_permutation asks for keypoints",
        ),
        (
            ["eval_config.metrics_set=coco"],
            'eval_config.metrics_set[0] = "coco" is unknown. Allowed: coco_detection_metrics, pascal_voc_',
        ),
        (
            ["eval_config.metrics_set=coco_mask_metrics"],
            'metrics_set[0] = "coco_mask_metrics" measures masks, which the model does not predict: '
            f"{MODEL}.number_of_stages is not 3. Allowed: metrics of boxes, or {MODEL}.number_of_stages = 3.",
        ),
        (
            ["eval_config.metrics_set=oid_challenge_segmentation_metrics"],
            'metrics_set[0] = "oid_challenge_segmentation_metrics" measures the masks of Open Images, which is not',
        ),
        (
            ["eval_config.metrics_set=[oid_V2_detection_metrics, open_images_V2_detection_metrics]"],
            'metrics_set[1] = "open_images_V2_detection_metrics" asks for the same metrics as eval_config.metrics_set[0]. '
            "Allowed: each set once.",
        ),
        (
            ["eval_config.groundtruth_box_visualization_color=blau"],
            'eval_config.groundtruth_box_visualization_color = "blau" is no colour. Allowed: HTML names such as "black"',
        ),
        (
            ["train_config.use_multiclass_scores=true"],
            "train_config.use_multiclass_scores = true needs the scores of the records: "
            "train_input_reader.load_multiclass_scores is false. Allowed: false, or true in both.",
        ),
        (["eval_config.metrics_set=coco_detection_metric"], '(nearest: "coco_detection_metrics"). Allowed: '),
        (["eval_config.batch_size=0"], "eval_config.batch_size = 0 is out of range. Allowed: 1 or more."),
        (
            ["eval_config.min_score_threshold=50"],
            "eval_config.min_score_threshold = 50 is out of range. Allowed: 0 to 1.",
        ),
        (
            ["eval_config.recall_upper_bound=0.1", "eval_config.recall_lower_bound=0.2"],
            "recall_upper_bound = 0.1 is below recall_lower_bound = 0.2.",
        ),
        (
            ["eval_config.use_moving_averages=true"],
            "eval_config.use_moving_averages = true needs averages that training does not keep",
        ),
        (
            ["eval_input_reader[0].input_type=TF_SEQUENCE_EXAMPLE"],
            "eval_input_reader[0].input_type = TF_SEQUENCE_EXAMPLE is not supported: write one tf.Example per frame "
            "instead. Allowed: TF_EXAMPLE.",
        ),
        (
            ["train_input_reader.mask_side=0"],
            "train_input_reader.mask_side = 0 is out of range. Allowed: 1 to 1024.",
        ),
        (["train_input_reader.num_keypoints=17"], "train_input_reader.num_keypoints = 17 asks for keypoints"),
        (
            ["train_input_reader.max_number_of_boxes=0"],
            "train_input_reader.max_number_of_boxes = 0 is out of range. Allowed: 1 or more.",
        ),
        (
            ["train_input_reader.sample_from_datasets_weights=[1, 2]"],
            "sample_from_datasets_weights has 2 values for 1 input_path. Allowed: 1 values, or none.",
        ),
        (
            ["train_input_reader.sample_from_datasets_weights=[0]"],
            "takes records from nowhere. Allowed: at least one weight above 0.",
        ),
    ],
)
def test_config_is_refused(config, changes, expected, change, refusals):
    change(config, *changes)
    [*lines] = refusals(config)
    pattern = re.escape(expected).replace(r"\.\*", ".*")
    assert any(re.search(pattern, line) for line in lines), lines
    assert all(line.startswith("my.config: ") for line in lines)


def test_every_mistake_is_said_at_once(config, change):
    change(config, f"-{EXTRACTOR}.conv_hyperparams", f"{MODEL}.num_classes=0", "train_config.batch_size=0")
    with pytest.raises(ConfigError) as caught:
        check_config(config, "my.config")
    assert caught.value.field == f"{MODEL}.num_classes"
    assert [error.field for error in caught.value.others] == [
        f"{EXTRACTOR}.conv_hyperparams",
        "train_config.batch_size",
    ]
    assert len(str(caught.value).splitlines()) == 3


def test_fields_without_effect_are_named_with_the_reason(config):
    assert {problem.field: problem.problem for problem in find_ineffective(config)} == {
        "model.faster_rcnn.use_matmul_crop_and_resize": (
            "has no effect: RoIs lie within the image, where all ways of cropping give the same numbers; the device decides "
            "on the quickest"
        ),
        "model.faster_rcnn.use_matmul_gather_in_matcher": (
            "has no effect: groundtruth is gathered by index on every device"
        ),
        "train_config.sync_replicas": "has no effect: the strategies of TensorFlow 2 are synchronous",
        "train_config.startup_delay_steps": "has no effect: it delayed the workers of asynchronous training",
        "train_config.replicas_to_aggregate": (
            "has no effect: the strategies of TensorFlow 2 always aggregate all replicas"
        ),
        "train_config.unpad_groundtruth_tensors": (
            "has no effect: groundtruth stays padded, and its padding is ignored"
        ),
    }
