"""What Context R-CNN does not have is refused in words; fields of context without effect are named."""

from __future__ import annotations

import pytest

from object_detection_fpn.config.checks import find_ineffective

MODEL = "model.faster_rcnn"
CONTEXT = [
    f"{MODEL}.context_config={{pool_by_level: true}}",
    "train_input_reader.load_context_features=true",
    "eval_input_reader[0].load_context_features=true",
]
PLACE = f"{MODEL}.context_config"


@pytest.mark.parametrize(
    "changes, expected",
    [
        ([], ""),
        ([f"{PLACE}.attention_position=POST_RPN"], ""),
        (
            [f"{PLACE}.use_self_attention=true"],
            f"{PLACE}.use_self_attention = true asks for attention among the regions of an image, which is not supported. "
            "Allowed: false.",
        ),
        (
            [f"{PLACE}.self_attention_in_sequence=true"],
            f"{PLACE}.self_attention_in_sequence = true asks for attention among the regions of an image, which is not "
            "supported. Allowed: false.",
        ),
        (
            [f"{PLACE}.use_long_term_attention=false"],
            f"{PLACE}.use_long_term_attention = false leaves nothing to look at: attention among the regions of an image is "
            "not supported. Allowed: true.",
        ),
        (
            [f"{PLACE}.num_attention_heads=2"],
            f"{PLACE}.num_attention_heads = 2 is not supported. Allowed: 1.",
        ),
        (
            [f"{PLACE}.num_attention_layers=3"],
            f"{PLACE}.num_attention_layers = 3 is not supported. Allowed: 1.",
        ),
        (
            [f"{MODEL}.number_of_stages=1"],
            f"{MODEL}.number_of_stages = 1 does not go with context_config. Allowed: 2.",
        ),
        (
            [f"{MODEL}.output_final_box_features=true"],
            f"{MODEL}.output_final_box_features = true does not go with context_config. Allowed: false.",
        ),
        (
            [f"{MODEL}.output_final_box_rpn_features=true"],
            f"{MODEL}.output_final_box_rpn_features = true does not go with context_config. Allowed: false.",
        ),
        (
            ["train_input_reader.load_context_features=false"],
            "train_input_reader.load_context_features = false leaves out the context features that the model looks at: "
            f"{PLACE} is set. Allowed: true, or no {PLACE}.",
        ),
        (
            ["eval_input_reader[0].load_context_features=false"],
            "eval_input_reader[0].load_context_features = false leaves out the context features",
        ),
        ([f"{PLACE}.attention_temperature=0"], f"{PLACE}.attention_temperature = 0 is out of range. Allowed: above 0."),
        *(
            ([f"{PLACE}.{name}=0"], f"{PLACE}.{name} = 0 is out of range. Allowed: 1 or more.")
            for name in ("max_num_context_features", "context_feature_length", "attention_bottleneck_dimension")
        ),
    ],
)
def test_combination(config, change, refusals, changes, expected):
    change(config, *CONTEXT, *changes)
    found = refusals(config)
    assert len(found) == bool(expected), found
    assert not expected or expected in found[0]


def test_three_stages_are_refused_beside_context(config, change, refusals):
    change(config, *CONTEXT, f"{MODEL}.number_of_stages=3")
    assert f"my.config: {MODEL}.number_of_stages = 3 does not go with context_config. Allowed: 2." in refusals(config)


def warnings(config) -> list[str]:
    return [f"{p.field} = {p.value} {p.problem}" for p in find_ineffective(config) if "context" in p.field]


def test_context_that_is_read_for_a_model_without_it_has_no_effect(config, change):
    change(config, *CONTEXT)
    assert warnings(config) == []
    change(config, f"-{PLACE}")
    assert warnings(config) == [
        f"{reader}.load_context_features = true has no effect: the model looks at single images, without context_config"
        for reader in ("train_input_reader", "eval_input_reader[0]")
    ]


def test_regions_from_the_finest_level_alone_are_a_warning(config, change):
    change(config, *CONTEXT, f"{PLACE}.pool_by_level=false")
    (line,) = warnings(config)
    assert line.startswith(f"{PLACE}.pool_by_level = false pools all regions, large ones too, from the finest level")


def test_attention_nowhere_is_a_warning(config, change):
    change(config, *CONTEXT, f"{PLACE}.attention_position=ATTENTION_DEFAULT")
    (line,) = warnings(config)
    assert line.startswith(f"{PLACE}.attention_position = ATTENTION_DEFAULT leaves the context without any influence")


def test_levels_have_no_effect_without_a_pyramid(config, change):
    change(config, *CONTEXT, f"{MODEL}.feature_extractor.type=faster_rcnn_resnet50_keras")
    (line,) = warnings(config)
    assert line == f'{PLACE}.pool_by_level = true has no effect: type = "faster_rcnn_resnet50_keras" has one level'
