from __future__ import annotations

from pathlib import Path

import pytest

from object_detection_fpn.tools.planning import costs

# What the TPU's compiler writes, in small: shapes with layouts, tuples, metadata, estimates in `backend_config`.
PROGRAM = (Path(__file__).parents[2] / "golden" / "tpu_program.txt").read_text()


@pytest.fixture(scope="module")
def found() -> costs.Costs:
    return costs.sum_costs(costs.parse(PROGRAM))


@pytest.mark.parametrize(
    "group, cycles",
    [
        ("convolutions", 1000),
        ("crop-and-resize", 200),  # although it multiplies matrices
        ("fully connected layers", 70),
        ("batch norm", 60),
        ("optimizer", 50),
        ("activations, additions and pooling", 40),
        ("copies", 5),
        ("target assignment", 25 * 4),  # at most 25 turns, as its condition says
        ("proposals and NMS", 30),  # one turn; the copy in it belongs to it
        ("samplers", 3 * 4),  # as the compiler says
        ("losses", 9),  # the dearer branch
    ],
)
def test_cycles_are_summed_by_what_a_user_calls_the_operations(found, group, cycles):
    assert found.cycles[group] == cycles


def test_groups_come_costliest_first(found):
    assert list(found.cycles.values()) == sorted(found.cycles.values(), reverse=True)
    assert sum(found.cycles.values()) == 1576


def test_what_has_no_estimate_is_listed_with_its_group(found):
    assert found.without_estimate == {
        "proposals and NMS": {"sort": 1, "TopK": 1},  # and no buffer, which takes no time
        "crop-and-resize": {"scatter fusion": 1},
    }


def test_loops_of_unknown_length_are_listed(found):
    assert found.loops_of_unknown_length == {"proposals and NMS": 1}


def test_condition_that_is_no_limit_makes_a_loop_of_unknown_length():
    text = PROGRAM.replace("and(%less, %more)", "or(%less, %more)")
    assert costs.sum_costs(costs.parse(text)).cycles["target assignment"] == 4


@pytest.mark.parametrize(
    "scope", ["dense_head/class_predictor/Conv2D", "gradient_tape/dense_head/box_predictor/Conv2D"]
)
def test_predictors_of_a_dense_head_are_convolutions(scope):
    text = PROGRAM.replace("box_head/box_feature_extractor/fc1/MatMul", scope)
    cycles = costs.sum_costs(costs.parse(text)).cycles
    assert cycles["convolutions"] == 1070 and "fully connected layers" not in cycles
