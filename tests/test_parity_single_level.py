"""The numbers of the Object Detection API for detectors on one level, by `benchmarks/parity_single_level.py`."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

ARCHIVES = ("frcnn_resnet50_160", "mask_rcnn_resnet50_160")
GROUPS = ("inference", "losses", "losses_learning_phase")
INPUTS = {"images", "true_image_shapes"}  # of `inference.npz`, given and not computed


@pytest.fixture(scope="module")
def comparisons(import_benchmark):
    return import_benchmark("parity_single_level")


def assert_within(differences):
    assert {name: difference for name, difference in differences.items() if not difference.is_within} == {}


def test_grid_anchors_agree_with_the_object_detection_api(comparisons, golden_dir):
    differences = comparisons.COMPARISONS["grid_anchors"](golden_dir)
    assert_within(differences)
    names = {name for name in np.load(golden_dir / "grid_anchors.npz") if name.startswith("anchors_")}
    assert names <= differences.keys()


@pytest.mark.parametrize("archive, group", [(archive, group) for archive in ARCHIVES for group in GROUPS])
def test_every_array_agrees_with_the_object_detection_api(comparisons, golden_dir, archive, group):
    differences = comparisons.COMPARISONS[f"{archive}/{group}"](golden_dir)
    assert_within(differences)
    folder = comparisons.load_model(golden_dir, archive).folder
    if group == "inference":
        wanted = set(np.load(folder / "inference.npz")) - INPUTS
    else:
        wanted = set(json.loads((folder / f"{group}.json").read_text()))
    assert wanted <= differences.keys()


def test_every_model_is_compared(comparisons):
    names = {f"{archive}/{group}" for archive in ARCHIVES for group in GROUPS}
    assert comparisons.COMPARISONS.keys() == {"grid_anchors", *names}
