"""`odfpn report` on drawn records with a tiny model, of a checkpoint and of its SavedModel."""

from __future__ import annotations

import json

import pytest

from object_detection_fpn.cli import main as cli

pytestmark = pytest.mark.usefixtures("tiny_resnet18_throughout")

MASK_RECIPE = "mask_rcnn_resnet18_fpn_recipe_shapes_160x160"
RECIPE = "faster_rcnn_resnet18_fpn_shapes_160x160"


@pytest.fixture(scope="module")
def arguments(small_overrides):
    return ["--config", RECIPE, *(word for override in small_overrides for word in ("--config_override", override))]


@pytest.fixture(scope="module")
def model_dir(arguments, tiny_resnet18_throughout, untraced, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "model"
    with untraced():
        assert cli.main(["train", *arguments, "--model_dir", str(folder), "--num_steps", "2"]) == 0
    return folder


def test_checkpoint_and_saved_model_give_the_same_report(arguments, model_dir, tmp_path, capfd):
    at_all_scores = "model.faster_rcnn.second_stage_post_processing.batch_non_max_suppression.score_threshold=0.0"
    arguments = [*arguments, "--config_override", at_all_scores]
    assert cli.main(["export", *arguments, "--checkpoint", str(model_dir), "--output_dir", str(tmp_path / "exp")]) == 0
    reports = {}
    for flag, path in (("--checkpoint", model_dir), ("--saved_model", tmp_path / "exp")):
        output_dir = tmp_path / flag.strip("-")
        command = ["report", *arguments, flag, str(path), "--output_dir", str(output_dir), "--num_images", "2"]
        assert cli.main([*command, "--json", "--title", "My <report>"]) == 0
        message = capfd.readouterr().err
        assert f"Written: {output_dir}/report.html" in message
        page = (output_dir / "report.html").read_text()
        assert "<title>My &lt;report&gt;</title>" in page
        assert '"jpeg":' in page
        reports[flag] = json.loads((output_dir / "report.json").read_text())
    first, second = reports.values()
    assert first["num_images"] == second["num_images"] == 6
    assert first["num_objects"] == second["num_objects"] > 0
    assert first["num_detections"] > 0
    assert first["model"] == f"{model_dir}, step 2"
    assert first["image_ids"] == second["image_ids"]
    of_boxes, of_saved = (report["regions"]["boxes"]["summary"] for report in reports.values())
    assert of_boxes == pytest.approx(of_saved, abs=0.02)  # pixels of the exported model pass through bytes

    folders = [str(tmp_path / flag.strip("-")) for flag in reports]
    assert cli.main(["compare", *folders, "--num_samples", "20", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)["regions"]["boxes"]["metrics"]["AP"]
    assert found["a"]["value"] == pytest.approx(of_boxes["Precision/mAP"])


def test_training_data_and_every_second_image(arguments, model_dir, tmp_path, untraced):
    with untraced():
        command = ["report", *arguments, "--checkpoint", str(model_dir), "--output_dir", str(tmp_path), "--json"]
        assert cli.main([*command, "--eval_on_train_data", "--sample_1_of_n", "2"]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["num_images"] == 4


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "Give either --checkpoint or --saved_model."),
        (["--checkpoint", "a", "--saved_model", "b"], "Give either --checkpoint or --saved_model."),
        (["--checkpoint", "a", "--num_images", "-1"], "--num_images = -1 is out of range. Allowed: 0 to 1000."),
        (["--checkpoint", "a", "--sample_1_of_n", "0"], "--sample_1_of_n = 0 is out of range. Allowed: 1 and above."),
        (["--checkpoint", "/nowhere/model"], "/nowhere/model"),
        (["--saved_model", "/nowhere/model"], "There is no SavedModel in /nowhere/model"),
    ],
)
def test_mistakes_end_with_one_line(arguments, tmp_path, capfd, words, message):
    assert cli.main(["report", *arguments, *words, "--output_dir", str(tmp_path / "out")]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_masks_stand_beside_boxes(small_overrides, untraced, tmp_path):
    changes = [
        *small_overrides,
        "model.faster_rcnn.second_stage_post_processing.batch_non_max_suppression.score_threshold=0.0",
        "model.faster_rcnn.second_stage_post_processing.batch_non_max_suppression.max_total_detections=10",
    ]
    arguments = ["--config", MASK_RECIPE, *(word for change in changes for word in ("--config_override", change))]
    model_dir, exported = str(tmp_path / "model"), str(tmp_path / "exported")
    with untraced():
        assert cli.main(["train", *arguments, "--model_dir", model_dir, "--num_steps", "1"]) == 0
    export = ["export", *arguments, "--checkpoint", model_dir, "--output_dir", exported]
    assert cli.main([*export, "--paste_masks"]) == 0
    summaries = []
    for flag, path in (("--checkpoint", model_dir), ("--saved_model", exported)):
        command = ["report", *arguments, flag, path, "--output_dir", str(tmp_path / "out"), "--json"]
        with untraced():
            assert cli.main(command) == 0
        assert '"mask":{"frame":' in (tmp_path / "out" / "report.html").read_text()
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert report["regions"].keys() == report["matches"].keys() == {"boxes", "masks"}
        summaries.append(report["regions"]["masks"]["summary"])
    assert summaries[0] == pytest.approx(summaries[1], abs=0.02)
