"""The commands as their users run them: mistakes end with one line and a status, Ctrl-C saves, results are files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from object_detection_fpn.cli import main as cli
from object_detection_fpn.config import recipes
from object_detection_fpn.jobs import train as train_job
from object_detection_fpn.training.stored import latest_checkpoint

# The process that Ctrl-C stops, below, trains the whole ResNet-18.
pytestmark = pytest.mark.usefixtures("tiny_resnet18_throughout")

RECIPE = "faster_rcnn_resnet18_fpn_shapes_160x160"


def override_arguments(overrides) -> list[str]:
    return [argument for override in overrides for argument in ("--config_override", override)]


@pytest.fixture(scope="module")
def model_dir(small_overrides, tiny_resnet18_throughout, untraced, tmp_path_factory) -> Path:
    """Two steps of `odfpn train`."""
    folder = tmp_path_factory.mktemp("cli") / "model"
    arguments = ["train", "--config", RECIPE, "--model_dir", str(folder), "--num_steps", "2"]
    with untraced():
        assert cli.main([*arguments, *override_arguments(small_overrides)]) == 0
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_parser_needs_no_tensorflow():
    code = (
        "import sys; from object_detection_fpn.cli import main; main.make_parser(); print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_misspelt_field_ends_with_its_line_and_the_nearest_name(tmp_path, capfd):
    text = (
        Path(recipes.recipe_path(RECIPE)).read_text().replace("first_stage_max_proposals", "first_stage_max_proposal")
    )
    path = tmp_path / "my.config"
    path.write_text(text)
    assert cli.main(["train", "--config", str(path), "--model_dir", str(tmp_path / "model")]) == 2
    message = capfd.readouterr().err
    line = text[: text.index("first_stage_max_proposal:")].count("\n") + 1
    assert f"{path}:{line}" in message
    assert "first_stage_max_proposals" in message
    assert "Traceback" not in message
    assert not (tmp_path / "model").exists()


def test_missing_records_end_with_the_pattern(tmp_path, small_overrides, capfd):
    overrides = [*small_overrides, 'train_input_reader.tf_record_input_reader.input_path=["/nowhere/*.tfrecord"]']
    arguments = ["train", "--config", RECIPE, "--model_dir", str(tmp_path), *override_arguments(overrides)]
    assert cli.main(arguments) == 2
    assert "/nowhere/*.tfrecord" in capfd.readouterr().err


# What each flag of each command says of a path: {} stands for the path, and the flag comes last.
_FLAGS = {
    "train --model_dir": ("train --config RECIPE", "folder"),
    "train --xla_cache_dir": ("train --config RECIPE --model_dir NEW", "folder"),
    "train --config": ("train --model_dir NEW", "file"),
    "train --from_label_map": (
        "train --config RECIPE --model_dir NEW OVERRIDES --config_override train_config.restore_classes_by_name=true",
        "file",
    ),
    "eval --config": ("eval --checkpoint NEW", "file"),
    "eval --checkpoint": ("eval --config RECIPE", "input"),
    "eval --output_dir": ("eval --config RECIPE --checkpoint NEW OVERRIDES", "folder"),
    "export --config": ("export --checkpoint NEW --output_dir NEW", "file"),
    "export --checkpoint": ("export --config RECIPE --output_dir NEW", "input"),
    "export --output_dir": ("export --config RECIPE --checkpoint NEW", "folder"),
    "predict --saved_model": ("predict IMAGES --output_dir NEW", "input"),
    "predict --checkpoint": ("predict IMAGES --output_dir NEW --config RECIPE", "input"),
    "predict --config": ("predict IMAGES --output_dir NEW --checkpoint NEW", "file"),
    "predict --label_map": ("predict IMAGES --output_dir NEW --saved_model NEW", "file"),
    "predict --coco_images": ("predict IMAGES --output_dir NEW --saved_model NEW", "input"),
    "predict --output_dir": ("predict IMAGES --saved_model NEW", "folder"),
    "context-features --input": ("context-features --saved_model NEW --output NEW", "input"),
    "context-features --saved_model": ("context-features --input NEW --output NEW", "input"),
    "context-features --checkpoint": ("context-features --input NEW --output NEW --config RECIPE", "input"),
    "import-weights --config": ("import-weights NEW --from torchvision --output NEW", "file"),
    "import-weights --output": ("import-weights NEW --from torchvision --config RECIPE", "folder"),
    "import-weights --label_map": ("import-weights NEW --from torchvision --output NEW --config RECIPE", "file"),
    "plan --config": ("plan --tpu v5e-8", "file"),
    "demo --output_dir": ("demo", "folder"),
}
_MESSAGES = {
    "file": {
        "": "is no path of a file",
        "FOLDER": "FOLDER: is a folder, not a file.",
        "FOLDER/file/below": "FOLDER/file/below: is a file, or leads through one, where a folder is needed.",
        "http://host/x": "http://host/x: is an http:// address, from which nothing is downloaded",
        "FOLDER/binary": "FOLDER/binary: is a binary file, not text.",
    },
    "input": {
        "": "FLAG is empty.",
        "https://host/x": "FLAG = https://host/x is an https:// address, from which nothing is downloaded",
        "s3://bucket/x": "FLAG = s3://bucket/x is on s3://, a file system that TensorFlow does not have here",
    },
    "folder": {
        "": "FLAG is empty.",
        "FOLDER/file": "FLAG = FOLDER/file is a file, where a folder is needed.",
        "FOLDER/file/below": "FLAG = FOLDER/file/below is a file, or leads through one, where a folder is needed.",
        "https://host/x": "FLAG = https://host/x is an https:// address, from which nothing is downloaded",
    },
}


@pytest.mark.parametrize("flag", _FLAGS)
def test_a_path_that_cannot_be_used_ends_with_one_line(flag, small_overrides, shapes_data, tmp_path, capfd):
    (tmp_path / "file").write_text("a")
    (tmp_path / "binary").write_bytes(b"\x00\x01")
    command, kind = _FLAGS[flag]
    words = []
    for word in command.split():
        known = {"RECIPE": RECIPE, "NEW": str(tmp_path / "new"), "IMAGES": shapes_data.eval_images}
        words += override_arguments(small_overrides) if word == "OVERRIDES" else [known.get(word, word)]
    name = flag.split()[1]
    for path, expected in _MESSAGES[kind].items():
        if not path and name == "--xla_cache_dir":
            continue  # keeps nothing
        assert cli.main([*words, name, path.replace("FOLDER", str(tmp_path))]) == 2, path
        message = capfd.readouterr().err
        assert expected.replace("FOLDER", str(tmp_path)).replace("FLAG", name) in message
        assert message.startswith("error: ")
        assert message.count("\n") == 1, message
    assert sorted(item.name for item in tmp_path.iterdir()) in (["binary", "file"], ["binary", "file", "new"])


def test_a_label_map_without_use_is_refused(small_overrides, shapes_data, tmp_path, capfd):
    arguments = ["train", "--config", RECIPE, "--model_dir", str(tmp_path), *override_arguments(small_overrides)]
    assert cli.main([*arguments, "--from_label_map", shapes_data.label_map_path]) == 2
    assert "has no use: train_config.restore_classes_by_name is false. Set it" in capfd.readouterr().err


@pytest.mark.parametrize("reference", [8, 0])
def test_learning_rates_follow_the_batch_where_asked_to(
    scripts, small_overrides, monkeypatch, tmp_path, capfd, reference
):
    configs = []
    monkeypatch.setattr(train_job, "train", lambda config, **settings: configs.append(config))
    overrides = [
        *small_overrides,
        f"train_config.reference_batch_size={reference}",
        "train_config.optimizer={momentum_optimizer {learning_rate {constant_learning_rate {learning_rate: 0.5}}}}",
    ]
    arguments = ["--config", RECIPE, "--model_dir", str(tmp_path), *override_arguments(overrides)]
    module = scripts("model_main_tf2")
    words = [f"--pipeline_config_path={recipes.recipe_path(RECIPE)}", f"--model_dir={tmp_path}"]
    module.FLAGS(["model_main_tf2.py", *words, *(f"--config_override={o}" for o in overrides), "--auto_scale_lr"])
    status = 0 if reference else 2
    assert cli.main(["train", *arguments]) == 0
    assert cli.main(["train", *arguments, "--auto_scale_lr"]) == status
    with pytest.raises(SystemExit) as end:
        module.main([])
    assert end.value.code == status
    message = capfd.readouterr().err
    rates = [c.train_config.optimizer.momentum_optimizer.learning_rate.constant_learning_rate for c in configs]
    if reference:
        assert [rate.learning_rate for rate in rates] == [0.5, 0.125, 0.125]
        line = "Learning rates times batch_size / reference_batch_size = 2 / 8: the highest, 0.5, becomes 0.125."
        assert message.count(line) == 2
    else:
        assert [rate.learning_rate for rate in rates] == [0.5]
        assert message.count("train_config.reference_batch_size = 0 does not say for which batch") == 2


def test_waiting_for_checkpoints_needs_their_folder(tmp_path, capfd):
    (tmp_path / "ckpt-1").touch()
    assert cli.main(["eval", "--config", RECIPE, "--wait", "--checkpoint", f"{tmp_path}/ckpt-1"]) == 2
    assert f"--checkpoint = {tmp_path}/ckpt-1 is a file, where a folder is needed." in capfd.readouterr().err


def test_checkpoint_of_another_model_is_refused_and_stays_as_it_is(model_dir, small_overrides, capfd):
    before = files(model_dir)
    overrides = [*small_overrides, "model.faster_rcnn.feature_extractor.fpn.additional_layer_depth=12"]
    arguments = ["train", "--config", RECIPE, "--model_dir", str(model_dir), *override_arguments(overrides)]
    assert cli.main(arguments) == 2
    message = capfd.readouterr().err
    assert "ckpt-" in message
    assert "Traceback" not in message
    assert files(model_dir) == before


def test_corrupted_record_ends_with_its_file_and_reason(small_overrides, shapes_data, tmp_path, capfd):
    records = sorted(Path(shapes_data.train_records).parent.glob(Path(shapes_data.train_records).name))
    damaged = tmp_path / "damaged.tfrecord"
    damaged.write_bytes(records[0].read_bytes()[:-100])
    overrides = [
        *small_overrides,
        f'train_input_reader.tf_record_input_reader.input_path=["{damaged}"]',
        "train_config.num_steps=100",
    ]
    model_dir = tmp_path / "model"
    arguments = ["train", "--config", RECIPE, "--model_dir", str(model_dir), *override_arguments(overrides)]
    assert cli.main(arguments) == 1
    message = capfd.readouterr().err
    assert f"error: {damaged}: truncated or corrupted at byte" in message
    assert "Traceback" not in message


def test_evaluating_exporting_and_predicting_leave_their_files(
    model_dir, small_overrides, shapes_data, untraced, tmp_path, capfd
):
    common = ["--config", RECIPE, "--checkpoint", str(model_dir), *override_arguments(small_overrides)]
    with untraced():
        assert cli.main(["eval", *common, "--output_dir", str(tmp_path / "results")]) == 0
    assert "DetectionBoxes_Precision/mAP@.50IOU" in capfd.readouterr().out
    assert list((tmp_path / "results" / "eval").rglob("metrics.jsonl"))

    assert cli.main(["export", *common, "--output_dir", str(tmp_path / "exported")]) == 0
    assert (tmp_path / "exported" / "saved_model" / "saved_model.pb").exists()
    assert (tmp_path / "exported" / "pipeline.config").exists()
    assert tf.train.latest_checkpoint(str(tmp_path / "exported" / "checkpoint"))

    predict = ["predict", shapes_data.eval_images, "--output_dir", str(tmp_path / "drawn"), "--min_score", "0"]
    saved_model = ["--saved_model", str(tmp_path / "exported"), "--label_map", shapes_data.label_map_path]
    assert cli.main([*predict, *saved_model]) == 0
    result = json.loads((tmp_path / "drawn" / "detections.json").read_text())
    assert len(result["images"]) == 6
    assert {category["name"] for category in result["categories"]} == {"circle", "square", "triangle"}
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 6

    tiles = ["--tile", "64", "--overlap", "0.25", "--whole_image", "--batch_size", "3", "--no_drawings"]
    coco = ["--format", "coco", "--coco_images", shapes_data.eval_annotations]
    predict[3] = str(tmp_path / "tiled")
    assert cli.main([*predict, *saved_model, *tiles, *coco]) == 0
    assert [path.name for path in (tmp_path / "tiled").iterdir()] == ["detections_coco.json"]
    found = json.loads((tmp_path / "tiled" / "detections_coco.json").read_text())
    images = json.loads(Path(shapes_data.eval_annotations).read_text())["images"]
    assert {each["image_id"] for each in found} == {image["id"] for image in images}


def test_masks_of_a_model_without_any_are_not_pasted(tmp_path, capfd):
    arguments = ["--config", RECIPE, "--checkpoint", "x", "--output_dir", str(tmp_path), "--paste_masks"]
    assert cli.main(["export", *arguments]) == 2
    assert capfd.readouterr().err == (
        "error: pipeline config: model.faster_rcnn.number_of_stages = 2 predicts no masks, which were to be pasted. "
        "Allowed: 3 with paste_masks.\n"
    )


def test_predict_needs_a_model(tmp_path, capfd):
    assert cli.main(["predict", str(tmp_path), "--output_dir", str(tmp_path / "out")]) == 2
    assert "--saved_model" in capfd.readouterr().err


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--min_score 50", "--min_score = 50 is not allowed. Allowed: 0 to 1."),
        ("--batch_size 0", "--batch_size = 0 is not allowed. Allowed: 1 and above."),
        ("--overlap 0.3", "--overlap and --whole_image need --tile, the side of the tiles in pixels."),
        ("--tile 8", "A tile of side 8 is too small. Allowed: 16 pixels and more."),
        ("--tile 64 --overlap 1", "An overlap of 1 is not allowed. Allowed: 0 to 0.9."),
        ("--checkpoint x", "Give either --saved_model, or --checkpoint with --config."),
    ],
)
def test_values_that_predict_cannot_use_end_with_one_line(flags, message, shapes_data, tmp_path, capfd):
    arguments = ["predict", shapes_data.eval_images, "--output_dir", str(tmp_path), "--saved_model", str(tmp_path)]
    assert cli.main([*arguments, *flags.split()]) == 2
    assert capfd.readouterr().err == f"error: {message}\n"


def test_convert_writes_records_and_label_map(shapes_data, tmp_path, capsys):
    arguments = ["--annotations", shapes_data.eval_annotations, "--image_dir", shapes_data.eval_images]
    assert cli.main(["convert", *arguments, "--output", str(tmp_path / "data"), "--num_shards", "2"]) == 0
    output = "".join(capsys.readouterr())
    assert (
        f" masks to {tmp_path}/data-*-of-00002.tfrecord, and {tmp_path}/label_map.pbtxt; 0 boxes without area" in output
    )
    assert len(list(tmp_path.glob("data-*-of-*"))) == 2
    assert "circle" in (tmp_path / "label_map.pbtxt").read_text()
    assert cli.main(["convert", *arguments, "--output", str(tmp_path / "data"), "--no_masks"]) == 0
    assert f" boxes to {tmp_path}/data-*-of-00001.tfrecord" in "".join(capsys.readouterr())


@pytest.mark.no_cover
def test_convert_names_the_segmentations_that_give_no_mask(shapes_data, tmp_path):
    contents = json.loads(Path(shapes_data.eval_annotations).read_text())
    first, second = [row for row in contents["annotations"] if not row["iscrowd"]][:2]
    first["segmentation"] = [[1, 2, 3, 4]]
    second["segmentation"] = {"size": [3, 4], "counts": "c0"}
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(contents))
    command = [sys.executable, "-m", "object_detection_fpn.cli", "convert", "--annotations", str(path)]
    command += ["--image_dir", shapes_data.eval_images, "--output", str(tmp_path / "data")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    output = result.stdout + result.stderr
    assert result.returncode == 0 and "Traceback" not in output, output
    where = f"{path}: annotation {first['id']} of image {first['image_id']}"
    assert f"{where} dropped: polygon [1, 2, 3, 4] has 2 corners. Allowed: 3 and more." in output
    assert "dropped: its run lengths are of size [3, 4]. Allowed: [height, width] = [" in output
    assert f"{len(contents['annotations']) - 2} boxes and {len(contents['annotations']) - 2} masks" in output
    assert "2 objects without a usable mask were left out" in output


@pytest.mark.no_cover
def test_ctrl_c_saves_and_says_how_to_go_on(small_overrides, tmp_path):
    model_dir = tmp_path / "model"
    command = [sys.executable, "-m", "object_detection_fpn.cli", "train", "--config", RECIPE]
    command += ["--model_dir", str(model_dir), "--num_steps", "100000", *override_arguments(small_overrides)]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("step "):
            process.send_signal(signal.SIGINT)
            break
    lines += process.stderr.readlines()
    assert process.wait(timeout=120) == 130, "".join(lines)
    assert latest_checkpoint(str(model_dir)), "".join(lines)
    assert "Traceback" not in "".join(lines)
    assert "cuInit" not in "".join(lines)  # the machine shows no GPU, which is no error


_COMPILES = """
import sys

from object_detection_fpn.cli import process


def act():
    import tensorflow as tf

    double = tf.function(lambda x: tf.sin(2.0 * x), jit_compile=True)
    print(double(tf.ones([4])).numpy())


sys.exit(process.guarded(act, xla_cache_dir=sys.argv[1]))
"""


def test_a_second_process_finds_what_the_first_compiled(tmp_path):
    folder = tmp_path / "cache"
    outputs, files = [], []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", _COMPILES, str(folder)], capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
        # What is not found is compiled and written again.
        files.append({file.name: file.stat().st_mtime_ns for file in folder.iterdir()})
    assert outputs[0] == outputs[1]
    assert files[0]
    assert files[0] == files[1]


def test_model_main_trains_and_evaluates_with_the_flags_of_the_api(scripts, small_overrides, untraced, tmp_path):
    module = scripts("model_main_tf2")
    common = ["model_main_tf2.py", f"--pipeline_config_path={recipes.recipe_path(RECIPE)}", f"--model_dir={tmp_path}"]
    common += [f"--config_override={override}" for override in small_overrides]
    module.FLAGS([*common, "--num_train_steps=1", "--checkpoint_every_n=1"])
    with untraced(), pytest.raises(SystemExit) as train_end:
        module.main([])
    assert train_end.value.code == 0
    module.FLAGS([*common, "--num_train_steps=1", f"--checkpoint_dir={tmp_path}", "--eval_timeout=60"])
    with untraced(), pytest.raises(SystemExit) as eval_end:
        module.main([])
    assert eval_end.value.code == 0
    assert list((tmp_path / "eval").rglob("metrics.jsonl"))


def test_a_worker_that_never_arrives_is_named(small_overrides, free_addresses, tmp_path, capfd, monkeypatch):
    addresses = free_addresses(2)
    tf_config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(tf_config))
    arguments = ["train", "--config", RECIPE, "--model_dir", str(tmp_path), *override_arguments(small_overrides)]
    assert cli.main([*arguments, "--num_workers", "2", "--worker_timeout", "0.2"]) == 75
    message = capfd.readouterr().err
    assert f"error: 1 of the 2 workers of TF_CONFIG did not come within 0.2 s: {addresses[1]} (" in message
    assert "Traceback" not in message


def test_exporter_main_takes_the_flags_of_the_api(scripts, model_dir, small_overrides, tmp_path):
    module = scripts("exporter_main_v2")
    arguments = ["exporter_main_v2.py", f"--pipeline_config_path={recipes.recipe_path(RECIPE)}"]
    arguments += [f"--trained_checkpoint_dir={model_dir}", f"--output_directory={tmp_path}"]
    arguments += ["--input_type=encoded_image_string_tensor", *(f"--config_override={o}" for o in small_overrides)]
    module.FLAGS(arguments)
    with pytest.raises(SystemExit) as end:
        module.main([])
    assert end.value.code == 0
    assert (tmp_path / "saved_model" / "saved_model.pb").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["dispatcher"], "A dispatcher takes --port"),
        (["dispatcher", "--port", "1", "--host", "here"], "A dispatcher takes --port"),
        (["worker"], "A worker needs --dispatcher HOST:PORT."),
        (["worker", "--dispatcher", "here"], 'address "here" of a data service is not understood. Allowed: HOST:PORT.'),
    ],
)
def test_a_part_of_a_data_service_needs_its_flags(arguments, words, capfd):
    assert cli.main(["data-service", *arguments]) == 2
    assert words in capfd.readouterr().err


def test_a_data_service_that_is_down_ends_training_with_one_line(small_overrides, tmp_path, capfd, monkeypatch):
    from object_detection_fpn.data.source import service

    monkeypatch.setattr(service.wait_for_service, "__kwdefaults__", {"timeout": 0.1, "worker_timeout": 1.0})
    arguments = ["train", "--config", RECIPE, "--model_dir", str(tmp_path), *override_arguments(small_overrides)]
    assert cli.main([*arguments, "--data_service_address", "localhost:1"]) == 1
    message = capfd.readouterr().err
    assert "error: No data service answers at localhost:1 within 0.1 s" in message
    assert "Traceback" not in message
    assert cli.main([*arguments, "--data_service_address", "localhost"]) == 2
    assert 'address "localhost" of a data service is not understood' in capfd.readouterr().err


def test_plan_for_an_unknown_tpu_ends_with_one_line(capfd):
    assert cli.main(["plan", "--config", RECIPE, "--tpu", "v5x-8"]) == 2
    message = capfd.readouterr().err
    assert message.startswith("error: --tpu = v5x-8 is no TPU. Allowed: v2, v3,")
    assert message.count("\n") == 1


def test_plan_without_jax_ends_with_its_remedy(tmp_path, capfd):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho \'{"missing": "jax"}\'\n')
    python.chmod(0o755)
    coco = "faster_rcnn_resnet50_v1_fpn_640x640_coco17_tpu-8"
    assert cli.main(["plan", "--config", coco, "--tpu", "v5e-8", "--plan_python", str(python)]) == 2
    message = capfd.readouterr().err
    assert 'pip install "object_detection_fpn[plan]"' in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("fits, status", [(True, 0), (False, 1)])
def test_plan_prints_json_and_its_status_says_whether_it_fits(capfd, monkeypatch, fits, status):
    from object_detection_fpn.tools.planning import plan

    asked = {}

    def make_plan(message, target, **options):
        asked.update(options, batch_size=message.train_config.batch_size, tpu=target.name)
        step = plan.StepPlan(**{**dict.fromkeys(plan.StepPlan._fields), "fits": fits})
        return plan.Plan(tpu=target.name, num_chips=8, num_replicas=8, replica="chip", peak_flops=1.0, steps=[step])

    monkeypatch.setattr(plan, "make_plan", make_plan)
    arguments = ["plan", "--config", RECIPE, "--tpu", "v5e-8", "--batch_size", "24", "--fast", "--json"]
    assert cli.main([*arguments, "--step", "train"]) == status
    assert json.loads(capfd.readouterr().out)["steps"][0]["fits"] == fits
    assert (asked["tpu"], asked["batch_size"], asked["is_fast"], asked["steps"]) == ("v5e-8", 24, True, ("train",))
