"""The numbers of the Object Detection API for Context R-CNN, by `benchmarks/parity_context.py`."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

ARCHIVES = ("context_rcnn_resnet50_fpn_160", "context_rcnn_resnet50_160")
GROUPS = ("inference", "losses", "losses_learning_phase")
# Of `inference.npz`, given and not computed.
INPUTS = {"images", "true_image_shapes", "context_features", "valid_context_size"}


@pytest.fixture(scope="module")
def comparisons(import_benchmark):
    return import_benchmark("parity_context")


@pytest.mark.parametrize("archive, group", [(archive, group) for archive in ARCHIVES for group in GROUPS])
def test_every_array_agrees_with_the_object_detection_api(comparisons, golden_dir, archive, group):
    differences = comparisons.COMPARISONS[f"{archive}/{group}"](golden_dir)
    assert {name: difference for name, difference in differences.items() if not difference.is_within} == {}
    folder = comparisons.load_model(golden_dir, archive).folder
    if group == "inference":
        wanted = set(np.load(folder / "inference.npz")) - INPUTS
    else:
        wanted = set(json.loads((folder / f"{group}.json").read_text()))
    assert wanted <= differences.keys()


def test_every_model_is_compared(comparisons):
    names = {f"{archive}/{group}" for archive in ARCHIVES for group in GROUPS}
    assert comparisons.COMPARISONS.keys() == names
