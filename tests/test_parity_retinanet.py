"""The numbers of the Object Detection API for RetinaNet, by `benchmarks/parity_retinanet.py`."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

ARCHIVE = "retinanet_resnet50_160"
PREFIXES = {"losses": "train", "losses_learning_phase": "phase"}
INPUTS = {"images", "true_image_shapes"}  # of `inference.npz`, given and not computed


@pytest.fixture(scope="module")
def comparisons(import_benchmark):
    return import_benchmark("parity_retinanet")


def assert_within(differences):
    assert {name: difference for name, difference in differences.items() if not difference.is_within} == {}


def test_targets_and_losses_of_anchors_agree_with_the_object_detection_api(comparisons, golden_dir):
    differences = comparisons.COMPARISONS["retinanet_targets_losses"](golden_dir)
    assert_within(differences)
    wanted = {f"{name}{case}" for name in ("match", "cls_targets", "reg_targets") for case in ("", "_ignore")}
    assert wanted <= differences.keys()


def test_every_output_agrees_with_the_object_detection_api(comparisons, golden_dir):
    differences = comparisons.COMPARISONS[f"{ARCHIVE}/inference"](golden_dir)
    assert_within(differences)
    folder = comparisons.load_model(golden_dir).folder
    assert set(np.load(folder / "inference.npz")) - INPUTS <= differences.keys()


@pytest.mark.parametrize("name", PREFIXES)
def test_losses_agree_with_the_object_detection_api(comparisons, golden_dir, name):
    differences = comparisons.COMPARISONS[f"{ARCHIVE}/{name}"](golden_dir)
    assert_within(differences)
    folder = comparisons.load_model(golden_dir).folder
    outputs = {array for array in np.load(folder / "train.npz") if array.startswith(PREFIXES[name])}
    assert outputs | set(json.loads((folder / f"{name}.json").read_text())) <= differences.keys()


def test_every_file_of_the_reference_is_compared(comparisons):
    assert comparisons.COMPARISONS.keys() == {
        "retinanet_targets_losses",
        *(f"{ARCHIVE}/{group}" for group in ("inference", *PREFIXES)),
    }
