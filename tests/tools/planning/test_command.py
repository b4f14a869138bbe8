"""`odfpn plan` as a process, up to the TPU's compiler, which a script stands in for."""

from __future__ import annotations

import json

import commands
import pytest
import support
from fake_compiler import GIB, FakeCompiler

from object_detection_fpn.config import pipeline as config_lib
from object_detection_fpn.config import recipes
from object_detection_fpn.tools.planning import hlo

pytestmark = pytest.mark.no_cover  # tracing is slow under coverage

ONE_LEVEL, RETINANET = "faster_rcnn_resnet18_shapes_160x160", "retinanet_resnet18_fpn_shapes_160x160"
# What the programs of the train step and of detection must name.
NAMES = {
    ONE_LEVEL: ((b"gradient_tape/feature_extractor", b"last_stage", b"ResourceApply"), (b"last_stage", b"suppression")),
    RETINANET: ((b"matching", b"losses", b"ResourceApply"), (b"suppression",)),
}


@pytest.fixture(scope="module")
def overrides(single_level_overrides, retinanet_overrides) -> dict[str, list[str]]:
    return {ONE_LEVEL: single_level_overrides, RETINANET: retinanet_overrides}


@pytest.fixture(scope="module")
def planned(overrides, tmp_path_factory) -> dict[str, tuple[FakeCompiler, str]]:
    """The compiler and the output of each recipe, planned side by side."""
    compilers = {recipe: FakeCompiler(tmp_path_factory.mktemp("compiler")) for recipe in NAMES}
    processes = {
        recipe: commands.start(
            *("plan", "--config", recipe, *commands.override_flags(overrides[recipe])),
            *("--tpu", "v5e-1", "--json", "--plan_python", compiler.python),
        )
        for recipe, compiler in compilers.items()
    }
    outputs = {recipe: commands.finish(process) for recipe, process in processes.items()}
    return {recipe: (compilers[recipe], outputs[recipe]) for recipe in NAMES}


@pytest.mark.parametrize("recipe", NAMES)
def test_programs_of_other_detectors_are_compiled_and_their_needs_printed(planned, recipe):
    compiler, output = planned[recipe]
    plan = json.loads(output[output.index("{\n") :])
    assert [(step["step"], step["fits"], step["used_bytes"]) for step in plan["steps"]] == [
        ("train", True, 3 * GIB),
        ("inference", True, 3 * GIB),
    ]
    for program, names in zip(compiler.programs, NAMES[recipe], strict=True):
        for name in names:
            assert name in program, name


@pytest.mark.parametrize("recipe", NAMES)
def test_training_has_more_state_than_detection(overrides, recipe, monkeypatch):
    support.put_backbone(monkeypatch, support.SINGLE_RESNET18, support.SSD_RESNET18)
    config = config_lib.load_config(recipes.recipe_path(recipe), overrides[recipe])
    assert hlo.DetectionStep(config).state_bytes < hlo.TrainStep(config).state_bytes
