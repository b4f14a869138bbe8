"""What RetinaNet cannot be, and what other single-stage detectors have, is refused in words."""

from __future__ import annotations

import pytest

from object_detection_fpn.config.checks import find_ineffective
from object_detection_fpn.config.pipeline import load_config
from object_detection_fpn.config.recipes import recipe_path
from object_detection_fpn.config.text import ConfigError, parse_text
from object_detection_fpn.protos import model_pb2

RECIPE = "retinanet_resnet18_fpn_shapes_160x160"
MODEL = "model.ssd"
EXTRACTOR = f"{MODEL}.feature_extractor"
HEAD = f"{MODEL}.box_predictor.weight_shared_convolutional_box_predictor"
ANCHORS = f"{MODEL}.anchor_generator"
MATCHER = f"{MODEL}.matcher.argmax_matcher"


@pytest.fixture
def config():
    return load_config(recipe_path(RECIPE))


@pytest.mark.parametrize(
    "changes",
    [
        [],
        [f"{MODEL}.add_background_class=false"],
        [f"{MODEL}.loss_normalization=MOVING_AVERAGE", f"{MODEL}.low_quality_matches=ALL_ANCHORS"],
        [f"{HEAD}.conv_hyperparams.group_norm={{}}", f"{HEAD}.share_norms=true"],
        [f"{MODEL}.image_resizer=fixed_shape_resizer {{height: 129 width: 640}}"],
        [
            f"{MODEL}.image_resizer=keep_aspect_ratio_resizer {{min_dimension: 100 max_dimension: 129}}",
            f"{MODEL}.image_resizer.keep_aspect_ratio_resizer.pad_to_max_dimension=true",
        ],
    ],
    ids=str,
)
def test_what_works_is_accepted(config, changes, change, refusals):
    change(config, *changes)
    assert refusals(config) == []


@pytest.mark.parametrize(
    "changes, expected",
    [
        (
            [f"{EXTRACTOR}.type=ssd_mobilenet_v2_fpn_keras"],
            f'{EXTRACTOR}.type = "ssd_mobilenet_v2_fpn_keras" has a backbone that is not here: write '
            '"ssd_resnet50_v1_fpn_keras", or another that is allowed. Allowed: ssd_resnet18_v1_fpn_keras, ',
        ),
        (
            [f"{EXTRACTOR}.type=ssd_resnet50_v1_fpn"],
            f'{EXTRACTOR}.type = "ssd_resnet50_v1_fpn" is of TensorFlow 1: write "ssd_resnet50_v1_fpn_keras"',
        ),
        (
            [f"{EXTRACTOR}.type=faster_rcnn_resnet50_fpn_keras"],
            '"faster_rcnn_resnet50_fpn_keras" is of a Faster R-CNN, whose model is faster_rcnn and not ssd. Allowed: ssd_',
        ),
        ([f"{EXTRACTOR}.type=ssd_resnet50_v1_ppn"], "has a pooling pyramid, which is not here"),
        (
            [f"{EXTRACTOR}.type=ssd_resnet51_v1_fpn_keras"],
            'is unknown (nearest: "ssd_resnet50_v1_fpn_keras"). Allowed: ssd_resnet18_v1_fpn_keras',
        ),
        ([f"-{EXTRACTOR}.type"], f"{EXTRACTOR}.type is not set. Allowed: ssd_resnet18_v1_fpn_keras, "),
        ([f"{EXTRACTOR}.depth_multiplier=0.5"], f"{EXTRACTOR}.depth_multiplier = 0.5 is out of range. Allowed: 1."),
        ([f"{EXTRACTOR}.num_layers=5"], f"{EXTRACTOR}.num_layers = 5 does not go with a ResNet with a feature pyramid"),
        (
            [f"{MODEL}.box_predictor=mask_rcnn_box_predictor {{fc_hyperparams {{}}}}"],
            f"{MODEL}.box_predictor.mask_rcnn_box_predictor does not go with a single-stage detector on a pyramid. Allowed: "
            "weight_shared_convolutional_box_predictor instead.",
        ),
        (
            [f"{ANCHORS}=grid_anchor_generator {{scales: 1 aspect_ratios: 1}}"],
            f"{ANCHORS}.grid_anchor_generator does not go with a single-stage detector on a pyramid. Allowed: "
            "multiscale_anchor_generator instead.",
        ),
        (
            [f"{ANCHORS}.multiscale_anchor_generator.max_level=7"],
            f"{ANCHORS}.multiscale_anchor_generator.max_level = 7 differs from feature_extractor.fpn.max_level = 6.",
        ),
        (
            [f"{ANCHORS}.multiscale_anchor_generator.normalize_coordinates=false"],
            "normalize_coordinates = false does not fit: the Object Detection API would compare anchors in pixels with",
        ),
        (
            [f"{MODEL}.image_resizer=fixed_shape_resizer {{height: 128 width: 640}}"],
            f"{MODEL}.image_resizer.fixed_shape_resizer.height = 128 is too small for the levels of the pyramid, as the Object "
            "Detection API says. Allowed: 129 or more.",
        ),
        (
            [f"{MODEL}.explicit_background_class=true"],
            f"{MODEL}.explicit_background_class = true is not supported: the classes of the label map are objects",
        ),
        (
            [f"{MODEL}.add_background_class=false", f"{MODEL}.encode_background_as_zeros=false"],
            f"{MODEL}.encode_background_as_zeros = false needs a column for the background",
        ),
        (
            [f"{MODEL}.add_background_class=false", f"{MODEL}.background_competes=true"],
            f"{MODEL}.background_competes = true needs a column for the background: add_background_class = false.",
        ),
        (
            [f"{MODEL}.loss.hard_example_miner={{}}"],
            f"{MODEL}.loss.hard_example_miner is not supported: all anchors train, and weighted_sigmoid_focal",
        ),
        (
            [f"{MODEL}.loss.expected_loss_weights=EXPECTED_SAMPLING"],
            f"{MODEL}.loss.expected_loss_weights = EXPECTED_SAMPLING is not supported: all anchors train.",
        ),
        (
            [f"{MODEL}.loss.classification_loss=weighted_logits_softmax {{}}"],
            f"{MODEL}.loss.classification_loss.weighted_logits_softmax does not go with the targets of anchors",
        ),
        (
            [f"{MODEL}.normalize_loss_by_num_matches=false", f"{MODEL}.loss_normalization=PER_IMAGE"],
            f"{MODEL}.loss_normalization = PER_IMAGE does not go with normalize_loss_by_num_matches = false.",
        ),
        (
            [f"{MATCHER}.force_match_for_each_row=false", f"{MODEL}.low_quality_matches=ALL_ANCHORS"],
            f"{MODEL}.low_quality_matches = ALL_ANCHORS needs matcher.argmax_matcher.force_match_for_each_row = true.",
        ),
        (
            [f"{MATCHER}.unmatched_threshold=0.6"],
            f"{MATCHER}.unmatched_threshold = 0.6 is above matched_threshold = 0.5. Allowed: 0 to 0.5.",
        ),
        (
            [f"{MATCHER}.negatives_lower_than_unmatched=false"],
            f"{MATCHER}.negatives_lower_than_unmatched = false leaves no background",
        ),
        (
            [f"{HEAD}.conv_hyperparams.group_norm={{}}", f"{HEAD}.depth=60"],
            f"{HEAD}.depth = 60 does not go with conv_hyperparams.group_norm. Allowed: multiples of 32.",
        ),
        (
            [f"{HEAD}.box_encodings_clip_range={{min: 1 max: 0}}"],
            f"{HEAD}.box_encodings_clip_range.max = 0 is below min = 1. Allowed: 1 or more.",
        ),
        ([f"{HEAD}.use_depthwise=true"], f"{HEAD}.use_depthwise = true is not supported: no layer here is a depthwise"),
        ([f"-{MODEL}.matcher"], f"{MODEL}.matcher is not set. Allowed: {{ ... }} with the fields argmax_matcher."),
        (
            ["eval_config.metrics_set=coco_mask_metrics"],
            "measures masks, which the model does not predict: model.ssd predicts boxes alone. Allowed: metrics of boxes.",
        ),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused(config, changes, expected, change, refusals):
    change(config, *changes)
    assert any(expected in line for line in refusals(config)), refusals(config)


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "center_net { }",
            "CenterNet is not here. Detectors here: faster_rcnn (Faster R-CNN, Mask R-CNN, Context R-CNN), ssd (RetinaNet)",
        ),
        ("ssd { feature_extractor { bifpn { } } }", "EfficientDet is not here. Detectors here: faster_rcnn "),
        ("ssd { matcher { bipartite_matcher { } } }", "write argmax_matcher instead"),
        (
            "ssd { box_predictor { convolutional_box_predictor { } } }",
            "an SSD with a predictor for each level, as on MobileNet, is not here. Detectors here: ",
        ),
        (
            "ssd { anchor_generator { ssd_anchor_generator { } } }",
            "is not supported: write multiscale_anchor_generator, or",
        ),
        ("ssd { similarity_calculator { ioa_similarity { } } }", "write iou_similarity instead"),
        ("ssd { box_coder { square_box_coder { } } }", "write faster_rcnn_box_coder instead"),
        ("ssd { loss { random_example_sampler { } } }", "all anchors train: leave it out"),
    ],
)
def test_parts_of_other_detectors_are_refused_with_words(text, expected):
    with pytest.raises(ConfigError) as caught:
        parse_text(text, model_pb2.DetectionModel, "my.config")
    assert expected in str(caught.value)


def test_fields_without_effect_are_named(config, change):
    change(
        config,
        f"{MODEL}.inplace_batchnorm_update=true",
        f"{MODEL}.mask_head_config={{}}",
        f"{MODEL}.loss.equalization_loss.weight=1",
        f"{MATCHER}.use_matmul_gather=true",
        "train_input_reader.load_instance_masks=true",
    )
    found = {problem.field: problem.problem for problem in find_ineffective(config)}
    assert {
        f"{MODEL}.inplace_batchnorm_update",
        f"{MODEL}.mask_head_config",
        f"{MODEL}.loss.equalization_loss",
        f"{MATCHER}.use_matmul_gather",
    } <= set(found)
    assert found["train_input_reader.load_instance_masks"] == "has no effect: model.ssd predicts boxes alone"
