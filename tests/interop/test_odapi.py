"""Our variables have the names of the Object Detection API."""

from __future__ import annotations

import dataclasses
import functools
import json

import pytest

from object_detection_fpn import builder
from object_detection_fpn.config import pipeline as config
from object_detection_fpn.execution import Execution
from object_detection_fpn.interop import odapi
from object_detection_fpn.modeling.backbones import resnet_v1

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
FEATURES = "_feature_extractor_for_proposal_features"


def test_every_variable_has_the_key_and_shape_of_the_checkpoint_and_no_key_is_left(api_model):
    message = config.load_config(str(api_model / "pipeline.config"))
    model = builder.build_model(message.model)
    by_path = odapi.variables_by_api_path(model)
    keys = json.loads((api_model / "checkpoint_keys.json").read_text())
    theirs = {key: shape for key, shape in keys.items() if key.startswith("model/")}
    assert {f"model/{path}{SUFFIX}": list(variable.shape) for path, variable in by_path.items()} == theirs
    variables = list(by_path.values())
    assert len({id(variable) for variable in variables}) == len(variables)
    assert {id(variable) for variable in variables} == {id(variable) for variable in model.variables}


@pytest.mark.parametrize("num_stages", [1, 2])
def test_names_of_another_pyramid_count_from_its_top(build_small, num_stages):
    """P3..P7: of the three residual blocks two are left, there are two coarse layers; one stage has no box head."""
    model = build_small(num_stages=num_stages)
    pyramid = f"{FEATURES}/fpn_features_generator"
    heads = "_first_stage_box_predictor/_prediction_heads"
    expected = [
        *(
            f"{FEATURES}/classification_backbone/layer_with_weights-{i}" for i in (0, 2, 4, 6)
        ),  # between them normalizations
        *(f"{pyramid}/{layer}" for layer in ("top_layers/0", "residual_blocks/0/0", "residual_blocks/1/0")),
        *(f"{pyramid}/conv_layers/{i}/0" for i in range(2)),
        *(f"{FEATURES}/coarse_feature_layers/{i}/0" for i in range(2)),
        "_first_stage_box_predictor_first_conv/layer_with_weights-0",
        *(f"{heads}/box_encodings/{i}/_box_encoder_layers/0" for i in range(5)),
        *(f"{heads}/class_predictions_with_background/{i}/_class_predictor_layers/0" for i in range(5)),
    ]
    if num_stages == 2:
        box_features = "_feature_extractor_for_box_classifier_features"
        expected += [
            *(f"{box_features}/layer_with_weights-{i}" for i in (0, 2)),  # 1 is the normalization
            "_mask_rcnn_box_predictor/_box_prediction_head/_box_encoder_layers/1",
            "_mask_rcnn_box_predictor/_class_prediction_head/_class_predictor_layers/1",
        ]
    paths = set(odapi.variables_by_api_path(model))
    assert {path for path in paths if path.endswith("/kernel")} == {f"{layer}/kernel" for layer in expected}
    # P3 is smoothed last, P4 first.
    assert (
        odapi.variables_by_api_path(model)[f"{pyramid}/conv_layers/1/0/kernel"]
        is model.feature_extractor.fpn.smoothings["3"].conv.kernel
    )


@pytest.mark.parametrize(
    "head, predictor, norm",
    [
        ("fc_hyperparams { batch_norm { } }", 1, 2),
        ("fc_hyperparams { batch_norm { } } use_dropout: true", 2, 3),
        ("fc_hyperparams { } use_dropout: true dropout_keep_probability: 1.0", 2, None),
    ],
)
def test_predictors_are_counted_behind_flattening_and_dropout(build_small, head, predictor, norm):
    paths = odapi.variables_by_api_path(build_small(head=head))
    place = "_mask_rcnn_box_predictor/_box_prediction_head/_box_encoder_layers/"
    layers = {path.removeprefix(place).split("/")[0]: path.split("/")[-1] for path in paths if path.startswith(place)}
    assert layers[str(predictor)] in ("kernel", "bias")
    assert set(layers) == {str(i) for i in (predictor, norm) if i is not None}


@pytest.mark.parametrize("max_level", [3, 4, 5, 6])
def test_a_pyramid_may_end_anywhere(build_small, max_level):
    model = build_small(min_level=2, max_level=max_level, num_stages=1)
    by_path = odapi.variables_by_api_path(model)
    top = min(max_level, 5)
    assert by_path[f"{FEATURES}/fpn_features_generator/top_layers/0/kernel"] is (
        model.feature_extractor.fpn.laterals[str(top)].kernel
    )
    num_coarse = sum("coarse_feature_layers" in path and path.endswith("kernel") for path in by_path)
    assert num_coarse == max_level - top


def test_a_deeper_backbone_is_counted_as_there(build_small):
    """Layers with weights in the order of the graph: a block's shortcut comes between its second and third convolution."""
    # Its kernels, of which names are looked at alone, need not be drawn.
    spec = dataclasses.replace(resnet_v1.DEFAULT_SPEC, execution=Execution(is_restored=True))
    model = build_small(
        backbone=lambda **_: resnet_v1.resnet_v1(152, max_level=5, spec=spec), num_stages=1, max_level=5
    )
    kinds = ["conv", "bn"]
    for blocks in (3, 8, 36, 3):
        kinds += ["conv", "bn", "conv", "bn", "conv", "conv", "bn", "bn"]
        kinds += ["conv", "bn"] * 3 * (blocks - 1)
    names = {"conv": ["kernel"], "bn": ["beta", "gamma", "moving_mean", "moving_variance"]}
    prefix = f"{FEATURES}/classification_backbone/layer_with_weights-"
    expected = {f"{prefix}{i}/{name}" for i, kind in enumerate(kinds) for name in names[kind]}
    assert {path for path in odapi.variables_by_api_path(model) if path.startswith(prefix)} == expected


def test_a_backbone_that_the_api_has_not_is_refused(build_small):
    model = build_small(backbone=functools.partial(resnet_v1.resnet_v1_small, 18), num_stages=1)
    with pytest.raises(ValueError, match=r"no resnet18_v1 for this model\. Allowed: ResNet-50, -101 and -152\."):
        odapi.variables_by_api_path(model)


def test_the_pyramid_of_the_paper_has_no_names_in_the_api(build_small):
    """Its convolutions do other things; the rest of the model keeps its names."""
    api, paper = (odapi.variables_by_api_path(build_small(pyramid=style)) for style in ("", "style: PAPER"))
    parts = ("fpn_features_generator", "coarse_feature_layers")
    assert set(paper) == {path for path in api if not any(part in path for part in parts)}


@pytest.mark.parametrize(
    "repeats, numbers",
    [(False, {"conv1": 0, "conv2": 3, "predictor": 6}), (True, {"conv1": 0, "conv2": 3, "conv3": 7, "predictor": 10})],
)
def test_convolutions_of_masks_are_counted_with_all_their_layers(build_single_level, repeats, numbers):
    model = build_single_level(
        f"""
        number_of_stages: 3
        second_stage_box_predictor {{
          mask_rcnn_box_predictor {{
            predict_instance_masks: true
            mask_prediction_num_conv_layers: 3
            convolve_then_upsample_masks: {str(repeats).lower()}
          }}
        }}
        """
    )
    layers = "_mask_rcnn_box_predictor/_third_stage_heads/mask_predictions/_mask_predictor_layers"
    by_path = odapi.variables_by_api_path(model)
    for name, number in numbers.items():
        layer = getattr(model.mask_head, name)
        kernel = layer.kernel if name == "predictor" else layer.conv.kernel
        assert by_path[f"{layers}/{number}/kernel"] is kernel, name
    assert len([path for path in by_path if path.startswith(layers)]) == 2 * len(numbers)
