"""What the screen shows of an evaluation, and what its files keep."""

from __future__ import annotations

import io
import json

import rich.console

from object_detection_fpn.evaluation.results import print_results, write_results

RESULTS = {
    "DetectionBoxes_Precision/mAP@.50IOU": 1.0,
    "DetectionBoxes_PerformanceByCategory/mAP/square": -1.0,
    "DetectionBoxes_PerformanceByCategory/mAP/circle": 1.0,
    "Loss/RPNLoss/objectness_loss": 0.15,
}


def show(results):
    screen = io.StringIO()
    print_results(results, "step 7: 2 images", rich.console.Console(file=screen, width=100))
    return screen.getvalue()


def test_a_table_of_metrics_losses_and_classes_is_printed():
    printed = show(RESULTS)
    assert "Evaluation of step 7: 2 images" in printed
    for words in (["mAP@.50IOU", "1.0000"], ["Loss/RPNLoss/objectness_loss", "0.1500"], ["circle", "1.0000"]):
        assert any(all(word in line for word in words) for line in printed.splitlines()), words
    assert any("square" in line and "no groundtruth" in line for line in printed.splitlines())
    assert "PerformanceByCategory" not in printed


def test_each_metric_has_a_table_of_its_classes():
    pascal = "PascalBoxes_PerformanceByCategory/AP@0.5IOU/"
    printed = show({**RESULTS, pascal + "circle": 0.5, pascal + "square": float("nan")})
    assert printed.count("AP of each class") == 2
    assert "DetectionBoxes ┃" in printed and "PascalBoxes ┃" in printed
    assert printed.count("no groundtruth") == 2  # of squares: -1 by COCO, NaN by PASCAL VOC
    assert "nan" not in printed


def test_a_loss_that_diverged_is_shown_as_such():
    assert "nan" in show({"Loss/total_loss": float("nan")})


def test_sets_of_metrics_that_share_names_stand_beside_each_other():
    printed = show(
        {
            "DetectionBoxes_Precision/mAP": 0.5,
            "DetectionBoxes_Recall/AR@1": 0.25,
            "DetectionMasks_Precision/mAP": 0.375,
            "DetectionMasks_Recall/AR@1": -1.0,
            "PascalBoxes_Precision/mAP@0.5IOU": 0.125,
            "DetectionBoxes_PerformanceByCategory/mAP/circle": 0.5,
            "DetectionMasks_PerformanceByCategory/mAP/circle": 0.375,
            "Loss/total_loss": 1.5,
        }
    )
    lines = printed.splitlines()
    assert any(line.split() == ["┃", "metric", "┃", "DetectionBoxes", "┃", "DetectionMasks", "┃"] for line in lines)
    assert any(line.split() == ["│", "Precision/mAP", "│", "0.5000", "│", "0.3750", "│"] for line in lines)
    assert any("Recall/AR@1" in line and "0.2500" in line and "no groundtruth" in line for line in lines)
    for name, value in (("PascalBoxes_Precision/mAP@0.5IOU", "0.1250"), ("Loss/total_loss", "1.5000")):
        assert any(name in line and value in line for line in lines)
    assert printed.count("AP of each class") == 1
    assert any(line.split() == ["│", "circle", "│", "0.5000", "│", "0.3750", "│"] for line in lines)


def test_sets_that_share_other_names_have_a_table_of_their_own():
    names = ("DetectionBoxes_Precision/mAP", "DetectionMasks_Precision/mAP", "PascalBoxes_mAP", "PascalMasks_mAP")
    lines = show(dict.fromkeys(names, 0.5)).splitlines()
    heads = [line.replace("┃", "").split() for line in lines if "metric" in line]
    assert heads == [["metric", "DetectionBoxes", "DetectionMasks"], ["metric", "PascalBoxes", "PascalMasks"]]


def test_one_set_alone_has_its_full_names():
    assert "DetectionBoxes_Precision/mAP@.50IOU" in show(RESULTS)


def test_a_half_line_of_an_earlier_run_is_dropped(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1}\n{"step": 2, "Loss/tot')
    write_results(str(tmp_path), {"Loss/total_loss": 0.5}, [], step=3, num_images=2)
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert lines == [{"step": 1}, {"step": 3, "num_images": 2, "Loss/total_loss": 0.5}]
    assert sorted(path.name for path in tmp_path.iterdir() if "tfevents" not in path.name) == ["metrics.jsonl"]
