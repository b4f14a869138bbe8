"""The numbers of the Object Detection API, by the comparisons of `benchmarks/parity.py`."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

# One for each file of the reference: what in it is given and not computed.
INPUTS = {
    "anchors": set(),
    "fpn_levels": {"boxes"},
    "crop_and_resize": {"boxes", "levels", "feature_0", "feature_1", "feature_2", "feature_3"},
    "box_coder": {"anchors", "boxes", "codes"},
    "targets_proposal": {"anchors", "groundtruth_boxes", "groundtruth_labels"},
    "targets_detection": {"anchors", "groundtruth_boxes", "groundtruth_labels"},
    "resizers": {"image"},
    "learning_rates": set(),
    "inference": {"images", "true_image_shapes"},
    "losses": set(),
}


@pytest.mark.parametrize("group", INPUTS)
def test_every_array_agrees_with_the_object_detection_api(parity, golden_dir, api_model, group):
    differences = parity.COMPARISONS[group](golden_dir)
    assert {name: difference for name, difference in differences.items() if not difference.is_within} == {}
    assert _arrays(golden_dir, api_model, group) - INPUTS[group] <= differences.keys()


def _arrays(golden_dir, api_model, group):
    """The names in a file of the reference."""
    if group == "learning_rates":
        return set(json.loads((golden_dir / "learning_rates.json").read_text()))
    if group == "losses":
        return set(json.loads((api_model / "losses.json").read_text()))
    folder = api_model if group == "inference" else golden_dir / "ops"
    return set(np.load(folder / f"{group}.npz"))


def test_every_file_of_the_reference_is_compared(parity, golden_dir):
    assert set(parity.COMPARISONS) == set(INPUTS)
    assert {path.stem for path in (golden_dir / "ops").iterdir()} <= set(INPUTS)


def test_boxes_are_paired_one_to_one_within_classes(parity):
    found = np.array([[0.0, 0, 1, 1], [0.1, 0, 1, 1], [0.5, 0, 1, 1]])
    wanted = np.array([[0.09, 0, 1, 1], [0.12, 0, 1, 1], [0.4, 0, 1, 1]])
    rows, distance = parity.match_boxes(found, wanted)
    assert rows.tolist() == [1, 0, 2]
    assert distance == pytest.approx(0.12)
    rows, distance = parity.match_boxes(found, wanted, np.array([0, 1, 2]), np.array([1, 0, 2]))
    assert rows.tolist() == [1, 0, 2]
    assert distance == pytest.approx(0.12)


def test_a_box_without_partner_is_out_of_any_tolerance(parity):
    boxes = np.zeros((2, 4))
    assert parity.match_boxes(boxes, boxes, np.array([0, 1]), np.array([0, 0]))[1] == 1
    assert parity.match_boxes(boxes[:1], boxes)[1] == 1


@pytest.mark.parametrize("value, status", [(1.0, 0), (1.5, 1), (float("nan"), 1)])
def test_the_benchmark_prints_json_and_fails_when_something_is_out(parity, monkeypatch, capsys, value, status):
    comparisons = {
        "a": lambda _: {"b": parity.Difference(0.0, 0.0)},
        "c": lambda _: {"d": parity.Difference(value, 1.0)},
    }
    monkeypatch.setattr(parity, "COMPARISONS", comparisons)
    monkeypatch.setattr(parity, "FURTHER", ())
    monkeypatch.setattr(sys, "argv", ["parity.py"])
    assert parity.main() == status
    assert json.loads(capsys.readouterr().out) == {
        "within_tolerance": status == 0,
        "arrays": {
            "a/b": {"max_abs_difference": 0.0, "tolerance": 0.0},
            "c/d": {"max_abs_difference": None if np.isnan(value) else value, "tolerance": 1.0},
        },
    }


def test_other_shapes_are_no_agreement(parity, golden_dir, monkeypatch):
    monkeypatch.setattr(parity.box_coder, "decode", lambda codes, anchors: codes[:3])
    with pytest.raises(ValueError, match=r"The shape is \(3, 4\), that of the reference \(64, 4\)\."):
        parity.compare_box_coder(golden_dir)
