"""The flags of the Object Detection API's scripts: those it has, those it ignores, and what their values may not be."""

from __future__ import annotations

import pytest
from absl import flags

from object_detection_fpn.cli import odapi
from object_detection_fpn.config import recipes

RECIPE = "faster_rcnn_resnet18_fpn_shapes_160x160"


def test_evaluation_on_several_workers_is_refused(scripts, small_overrides, tmp_path, capfd):
    module = scripts("model_main_tf2")
    common = ["model_main_tf2.py", f"--pipeline_config_path={recipes.recipe_path(RECIPE)}", f"--model_dir={tmp_path}"]
    module.FLAGS([*common, f"--checkpoint_dir={tmp_path}", "--num_workers=2"])
    with pytest.raises(SystemExit) as end:
        module.main([])
    assert end.value.code == 2
    assert (
        "error: Evaluation works on one worker, on all its devices: leave out --num_workers." in capfd.readouterr().err
    )


@pytest.mark.parametrize(
    "arguments, warning",
    [
        (["--num_eval_steps=10"], "--num_eval_steps (nearest: --num_train_steps)"),
        (["--num_eval_steps", "10", "--noxyzzy"], "--num_eval_steps (nearest: --num_train_steps), --noxyzzy"),
        (["--num_train_step=4"], "--num_train_step (A TYPO? There is --num_train_steps, which was not set)"),
        (["-checkpoint_dri=x"], "--checkpoint_dri (A TYPO? There is --checkpoint_dir, which was not set)"),
        (["--alsologtostderr", "--logtostderr", "--nouse_tpu", "--", "--xyzzy"], None),
    ],
)
def test_unknown_flags_are_ignored_with_one_warning(scripts, capfd, arguments, warning):
    scripts("model_main_tf2")
    needed = ["--pipeline_config_path=a.config", "--model_dir=runs"]
    odapi.parse_flags(["model_main_tf2.py", *needed, *arguments])
    assert flags.FLAGS.model_dir == "runs"
    expected = f"warning: this script has no such flags, which are ignored: {warning}\n" if warning else ""
    assert capfd.readouterr().err == expected


def test_a_required_flag_with_a_typo_is_named_both_ways(scripts, capfd):
    scripts("model_main_tf2")
    with pytest.raises(SystemExit) as end:
        odapi.parse_flags(["model_main_tf2.py", "--pipeline_config_path=a.config", "--model_dirr=runs"])
    assert end.value.code == 1
    warning, error, _ = capfd.readouterr().err.splitlines()
    assert "--model_dirr (A TYPO? There is --model_dir, which was not set)" in warning
    assert error == "error: flag --model_dir=None: Flag --model_dir must have a value other than None."


@pytest.mark.parametrize(
    "script, arguments, message",
    [
        ("model_main_tf2", ["--model_dir="], "error: --model_dir is empty."),
        ("model_main_tf2", ["--model_dir=FOLDER/file"], "error: --model_dir = FOLDER/file is a file, where a folder"),
        (
            "model_main_tf2",
            ["--model_dir=FOLDER", "--checkpoint_dir=FOLDER/file"],
            "error: --checkpoint_dir = FOLDER/file is a file, where a folder is needed.",
        ),
        (
            "model_main_tf2",
            ["--model_dir=FOLDER", "--pipeline_config_path=FOLDER"],
            "error: FOLDER: is a folder, not a file.",
        ),
        (
            "exporter_main_v2",
            ["--trained_checkpoint_dir=", "--output_directory=FOLDER"],
            "error: --trained_checkpoint_dir is empty.",
        ),
        (
            "exporter_main_v2",
            ["--trained_checkpoint_dir=http://host/x", "--output_directory=FOLDER"],
            "error: --trained_checkpoint_dir = http://host/x is an http:// address, from which nothing is downloaded",
        ),
        (
            "exporter_main_v2",
            ["--trained_checkpoint_dir=x", "--output_directory="],
            "error: --output_directory is empty.",
        ),
        (
            "exporter_main_v2",
            ["--trained_checkpoint_dir=x", "--output_directory=FOLDER", "--paste_masks"],
            "error: pipeline config: model.faster_rcnn.number_of_stages = 2 predicts no masks, which were to be pasted. "
            "Allowed: 3 with paste_masks.",
        ),
        (
            "exporter_main_v2",
            ["--trained_checkpoint_dir=x", "--output_directory=FOLDER", "--use_side_inputs"],
            "error: --use_side_inputs: the model takes none, model.faster_rcnn.context_config is not set. Allowed: to leave it "
            "out.",
        ),
    ],
)
def test_a_path_or_flag_that_cannot_be_used_ends_with_one_line(scripts, tmp_path, capfd, script, arguments, message):
    (tmp_path / "file").touch()
    module = scripts(script)
    recipe = f"--pipeline_config_path={recipes.recipe_path(RECIPE)}"
    words = [word.replace("FOLDER", str(tmp_path)) for word in (recipe, *arguments)]
    module.FLAGS([f"{script}.py", *words])
    with pytest.raises(SystemExit) as end:
        module.main([])
    assert end.value.code == 2
    error = capfd.readouterr().err
    assert error.startswith(message.replace("FOLDER", str(tmp_path)))
    assert error.count("\n") == 1
