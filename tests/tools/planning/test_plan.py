"""Plans with a compiler that is a script of the same protocol, and steps whose program is a word."""

from __future__ import annotations

import json

import pytest
from fake_compiler import GIB, FakeCompiler

from object_detection_fpn.config import pipeline as config_lib
from object_detection_fpn.config import recipes
from object_detection_fpn.tools.planning import hlo, plan, report, tpu

RECIPE = "faster_rcnn_resnet50_v1_fpn_640x640_coco17_tpu-8"
MIB = 2**20


class FakeStep:
    state_bytes = GIB
    reduced_bytes = 100_000
    dtype = "bfloat16"

    def __init__(self, config):
        pass

    def lower(self, batch_size: int) -> bytes:
        return b"a program of %d images" % batch_size


@pytest.fixture
def compiler(tmp_path, monkeypatch) -> FakeCompiler:
    monkeypatch.setattr(hlo, "TrainStep", FakeStep)
    monkeypatch.setattr(hlo, "DetectionStep", FakeStep)
    return FakeCompiler(tmp_path)


@pytest.fixture
def make_plan(compiler):
    def make_plan(name="v5e-8", *overrides: str, **options) -> plan.Plan:
        config = config_lib.load_config(recipes.recipe_path(RECIPE), list(overrides))
        options = {"python": compiler.python, "steps": ("train",), "source": "my.config", **options}
        return plan.make_plan(config, tpu.parse_slice(name), **options)

    return make_plan


def test_plan_tells_memory_time_and_speed(make_plan, compiler):
    [train] = make_plan().steps
    assert (train.batch_size, train.batch_size_per_replica) == (64, 8)
    assert train.fits and train.used_bytes == 3 * GIB and train.available_bytes == int(15.75 * GIB)
    exchange = 2 * 7 / 8 * 1e5 / 200e9
    assert train.all_reduce_seconds == pytest.approx(exchange)
    assert train.seconds == pytest.approx(1576 / 1.5e9 + exchange)  # 1576 cycles at 1.5 GHz
    assert train.images_per_second == pytest.approx(64 / train.seconds)
    assert train.num_steps == 25_000
    assert train.hours == pytest.approx(train.seconds * 25_000 / 3600)
    assert train.groups["convolutions"] == pytest.approx(1000 / 1.5e9)
    assert next(iter(train.groups)) == "exchange of gradients"  # of this tiny program
    [arguments] = compiler.calls
    assert arguments[1:3] == ["--topology", "v5e:2x2"]
    assert "--effort" not in arguments


def test_low_effort_tells_memory_and_no_time(make_plan, compiler):
    [train] = make_plan(is_fast=True).steps
    assert train.used_bytes == 3 * GIB
    assert train.seconds is train.hours is train.groups is None
    [arguments] = compiler.calls
    assert arguments[-2:] == ["--effort", "-1.0"]


def test_batch_of_a_replica_is_its_share(make_plan):
    assert make_plan("v3-32", "train_config.batch_size=128").steps[0].batch_size_per_replica == 4
    assert make_plan("v5e-8", "train_config.batch_size=128").steps[0].batch_size_per_replica == 16


def test_inference_fills_up_its_batch(make_plan):
    train, inference = make_plan(steps=("train", "inference")).steps
    assert (inference.step, inference.batch_size, inference.batch_size_per_replica) == ("inference", 8, 1)
    assert inference.num_steps is inference.hours is None
    assert train.step == "train"


def test_largest_batch_follows_from_what_is_not_state(make_plan):
    """2 GiB for 8 images beside 1 GiB of weights: 14.75 GiB hold 59."""
    [train] = make_plan(is_fast=True).steps
    assert train.largest_batch_size == 59 * 8
    assert not train.is_largest_batch_checked


def test_largest_batch_is_made_of_whole_parts(make_plan):
    [train] = make_plan("v5e-8", "train_config.accumulate_gradients=4", is_fast=True).steps
    assert train.largest_batch_size == 56 * 8


def test_what_does_not_fit_is_told_with_what_would(make_plan, compiler):
    compiler.answer({"out_of_memory": {"used_bytes": 17 * GIB, "available_bytes": 15 * GIB}})
    planned = make_plan(is_fast=True)
    assert not planned.fits
    assert planned.steps[0].used_bytes == 17 * GIB
    assert planned.steps[0].largest_batch_size == 7 * 8
    text = report.format_plan(planned)
    assert "DOES NOT FIT: 17.00 GiB of 15.00 GiB" in text
    assert "56 images, 7 a chip" in text


def test_what_does_not_fit_by_an_unknown_amount_is_told(make_plan, compiler):
    compiler.answer({"out_of_memory": {"used_bytes": None, "available_bytes": None}})
    planned = make_plan(is_fast=True)
    assert planned.steps[0].largest_batch_size is None
    assert "DOES NOT FIT: more of 15.75 GiB" in report.format_plan(planned)


def test_plan_is_json(make_plan):
    values = json.loads(json.dumps(make_plan(steps=("train", "inference")).as_dict()))
    assert [step["step"] for step in values["steps"]] == ["train", "inference"]
    assert values["num_replicas"] == 8


def test_report_tells_all_that_is_planned_and_what_is_left_out(make_plan):
    text = report.format_plan(make_plan(steps=("train", "inference")))
    for words in (
        "v5e-8: 8 chips",
        "Train step: 64 images, 8 a chip, bfloat16",
        "fits: 3.00 of 15.75 GiB (19%)",
        "about; --largest_batch makes sure",
        "2.00 T a chip",
        "images/s",
        "hours for 25,000 steps",
        "convolutions",
        "exchange of gradients",
        "not counted: proposals and NMS: 1 sort",
        "counted as one turn: proposals and NMS: 1 loop of unknown length",
        "Inference step: 8 images",
        "the input pipeline",
    ):
        assert words in text


def test_cores_are_told_with_their_chips(make_plan):
    assert report.format_plan(make_plan("v3-8", is_fast=True)).startswith("v3-8: 8 cores on 4 chips")


def test_user_is_told_what_goes_on(make_plan, monkeypatch):
    monkeypatch.setattr(plan, "_SECONDS_BETWEEN_NOTES", 0.001)
    said: list[str] = []
    make_plan(say=said.append)
    assert said[0].startswith("Building the model")
    assert "8 images on one chip of v5e-8" in said[1]
    assert any("still compiling" in line for line in said)


@pytest.mark.parametrize("missing", ["jax", "libtpu"])
def test_missing_package_is_named_with_its_remedy(make_plan, compiler, missing):
    compiler.answer_check({"missing": missing})
    with pytest.raises(
        plan.PlanError, match=rf'^{missing} is not .*pip install "object_detection_fpn\[plan\]"'
    ) as error:
        make_plan()
    assert "\n" not in str(error.value)
    assert compiler.calls == []


def test_interpreter_that_is_none_is_named(make_plan):
    with pytest.raises(plan.PlanError, match=r"--plan_python = /nowhere/python cannot be run: No such file"):
        make_plan(python="/nowhere/python")


def test_compiler_that_dies_is_told_with_its_last_words(make_plan, compiler):
    compiler.answer("")
    with pytest.raises(plan.PlanError, match="ended with exit status 0: Check failed: no way"):
        make_plan()


def test_program_that_the_compiler_refuses_is_told(make_plan, compiler):
    compiler.answer({"error": "unknown custom call"})
    with pytest.raises(plan.PlanError, match="refuses the program: unknown custom call"):
        make_plan()


def test_batch_that_cannot_be_divided_is_refused(make_plan):
    with pytest.raises(config_lib.ConfigError, match=r"train_config.batch_size = 63 .*8 replicas.*multiples of 8") as e:
        make_plan("v5e-8", "train_config.batch_size=63")
    assert "\n" not in str(e.value)


def test_config_without_one_size_is_refused(make_plan):
    field = "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer.pad_to_max_dimension"
    with pytest.raises(config_lib.ConfigError, match=field):
        make_plan("v5e-8", f"{field}=false")


@pytest.mark.parametrize("first", [1, 8, 59, 200])
@pytest.mark.parametrize("bend", [0, 3])  # how much each further image needs more than the one before
@pytest.mark.parametrize("unit", [1, 4])
def test_largest_batch_is_found_in_few_compilations(first, bend, unit):
    first *= unit

    def used(size: int) -> int:
        return 300 * MIB + 200 * MIB * size + bend * MIB * size * size // 2

    sizes: list[int] = []

    def compile_batch(size: int) -> plan.Compiled:
        sizes.append(size)
        return plan.Compiled(used(size) <= 16_000 * MIB, used(size), 16_000 * MIB)

    found = plan.search_largest_batch(compile_batch, compile_batch(first), 300 * MIB, batch_size=first, unit=unit)
    assert len(sizes) <= 1 + 5
    assert used(found) <= 16_000 * MIB < used(found + unit)


def test_search_without_sizes_halves():
    def compile_batch(size: int) -> plan.Compiled:
        return plan.Compiled(size <= 5, None, GIB)

    assert plan.search_largest_batch(compile_batch, compile_batch(16), 0, batch_size=16) == 5


def test_search_where_nothing_fits_finds_none():
    def compile_batch(size: int) -> plan.Compiled:
        return plan.Compiled(False, 2 * GIB + size * GIB, GIB)

    assert plan.search_largest_batch(compile_batch, compile_batch(4), 0, batch_size=4) == 0
