"""`odfpn import-weights` on real files: the folder it leaves goes into every command, and mistakes leave nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import support
from interop import fake_library
from interop import torch_writer as writer

from object_detection_fpn import builder
from object_detection_fpn.cli import main as cli
from object_detection_fpn.config import pipeline as config_lib
from object_detection_fpn.config import recipes
from object_detection_fpn.interop import sources
from object_detection_fpn.training.weights import variables_by_path

pytestmark = pytest.mark.usefixtures("tiny_resnet18_throughout")

RECIPE = "faster_rcnn_resnet18_fpn_shapes_160x160"


@pytest.fixture(scope="module", autouse=True)
def library():
    with pytest.MonkeyPatch.context() as patch:
        fake_library.put(patch)
        yield


@pytest.fixture(scope="module")
def tensors(small_config, tiny_resnet18_throughout):
    return fake_library.filled(builder.build_model(small_config.model), seed=3)


@pytest.fixture(scope="module")
def file(tensors, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    path.write_bytes(writer.old_bytes(writer.state_dict(**tensors)))
    return path


@pytest.fixture
def run(small_overrides):
    """The command with the small config, and its exit status."""

    def call(file, output, *more, library="torchvision", config=RECIPE):
        overrides = [word for override in small_overrides for word in ("--config_override", override)]
        common = ["--from", library, "--config", str(config), "--output", str(output)]
        return cli.main(["import-weights", str(file), *common, *overrides, *more])

    return call


def test_the_folder_goes_into_every_command(run, file, tensors, shapes_data, untraced, tmp_path, capfd, monkeypatch):
    output = tmp_path / "imported"
    assert run(file, output) == 0
    shown = capfd.readouterr()
    assert f"Weights from {file} (a detector of torchvision)" in shown.out
    assert re.search(rf"restored +{len(tensors)}\n", shown.out)
    assert "feature_extractor/backbone" in shown.out and "numbers" in shown.out
    assert f"--config {output}/pipeline.config --checkpoint {output}" in shown.err
    assert {path.name for path in output.iterdir()} == {
        *("checkpoint", "ckpt-0.index", "ckpt-0.data-00000-of-00001", "label_map.pbtxt", "pipeline.config")
    }
    monkeypatch.chdir(tmp_path)  # the config's paths stand for themselves
    config = config_lib.load_config(str(output / "pipeline.config"), require_data=["train", "eval"])
    assert config.train_config.fine_tune_checkpoint == str(output / "ckpt-0")
    assert config.eval_input_reader[0].label_map_path == str(output / "label_map.pbtxt")
    assert (output / "label_map.pbtxt").read_text() == Path(shapes_data.label_map_path).read_text()

    model = builder.build_model(config.model)
    settings = config.train_config
    report, _ = sources.restore_for_fine_tuning(
        settings.fine_tune_checkpoint, model, kind=settings.fine_tune_checkpoint_type
    )
    assert len(report.restored) == len(tensors)
    assert sources.restore_model(str(output), model).step == 0
    for name, array in fake_library.weights_by_path(tensors, model, "").items():
        np.testing.assert_array_equal(variables_by_path(model)[name], array)

    common = ["--config", str(output / "pipeline.config")]
    with untraced():
        predict = ["predict", shapes_data.eval_images, "--min_score", "0", "--output_dir", "drawn"]
        assert cli.main([*predict, *common, "--checkpoint", str(output)]) == 0
        names = {each["name"] for each in json.loads(Path("drawn/detections.json").read_text())["categories"]}
        assert names == {"circle", "square", "triangle"}
        assert cli.main(["train", *common, "--model_dir", str(output), "--num_steps", "1"]) == 0
    assert f"Resuming from {output}/ckpt-0 at step 0" in "".join(capfd.readouterr())
    assert run(file, output, "--overwrite") == 2
    assert (
        f"error: --output = {output} holds ckpt-1 of a training run. Name another folder.\n" in capfd.readouterr().err
    )


def test_a_retinanet_is_imported(small_overrides, tmp_path, capfd, monkeypatch):
    support.put_backbone(monkeypatch, support.SSD_RESNET18)
    overrides = [text for text in small_overrides if "faster_rcnn" not in text]
    overrides += ["model.ssd.box_predictor.weight_shared_convolutional_box_predictor.depth=8"]
    recipe = "retinanet_resnet18_fpn_shapes_160x160"
    model = builder.build_model(config_lib.load_config(recipes.recipe_path(recipe), overrides).model)
    tensors = fake_library.filled(model)
    file, output = tmp_path / "retinanet.pth", tmp_path / "out"
    file.write_bytes(writer.zip_bytes(writer.state_dict(**tensors)))
    words = [word for override in overrides for word in ("--config_override", override)]
    command = ["import-weights", str(file), "--from", "torchvision", "--config", recipe, "--output", str(output)]
    assert cli.main([*command, *words]) == 0
    assert re.search(r"dense_head/class_tower +\d+ variables", capfd.readouterr().out)
    config = config_lib.load_config(str(output / "pipeline.config"), require_data=["train", "eval"])
    model = builder.build_model(config.model)
    assert sources.restore_model(str(output), model).step == 0
    for name, array in fake_library.weights_by_path(tensors, model, "").items():
        np.testing.assert_array_equal(variables_by_path(model)[name], array)


def test_a_mask_head_that_the_config_lacks_is_named(run, tensors, tmp_path, capfd):
    file = tmp_path / "masks.pth"
    masks = {"fake.mask_head.conv1.weight": np.zeros([1], np.float32)}
    file.write_bytes(writer.zip_bytes(writer.state_dict(**tensors, **masks)))
    assert run(file, tmp_path / "out") == 0
    assert "masks.pth: its mask head is left out, as the config has number_of_stages: 2." in capfd.readouterr().err


def test_an_earlier_import_is_replaced_only_when_asked_to(run, file, tmp_path, capfd):
    output = tmp_path / "imported"
    output.mkdir()
    (output / "pipeline.config").write_text("before")
    assert run(file, output) == 2
    assert "is not empty. Name another folder, or add --overwrite" in capfd.readouterr().err
    assert (output / "pipeline.config").read_text() == "before"
    assert run(file, output, "--overwrite") == 0
    config_lib.load_config(str(output / "pipeline.config"))


def test_label_map_may_be_named(run, file, shapes_data, tmp_path):
    names = tmp_path / "names.pbtxt"
    names.write_text(Path(shapes_data.label_map_path).read_text().replace("circle", "disc"))
    missing = 'eval_input_reader.0.label_map_path="PATH_TO_BE_CONFIGURED/label_map.pbtxt"'
    assert run(file, tmp_path / "out", "--label_map", str(names), "--config_override", missing) == 0
    assert "disc" in (tmp_path / "out" / "label_map.pbtxt").read_text()


def test_a_config_with_averages_is_written_without(run, file, tmp_path):
    fields = ("eval_config.use_moving_averages=true", "train_config.optimizer.use_moving_average=true")
    assert run(file, tmp_path / "out", *(word for field in fields for word in ("--config_override", field))) == 0
    assert not config_lib.load_config(str(tmp_path / "out" / "pipeline.config")).eval_config.use_moving_averages


@pytest.mark.parametrize(
    "fault, words",
    [
        ("no file", "nowhere.pth does not exist."),
        ("folder", "is a folder, not a file of weights."),
        ("web address", "FILE = https://host/x.pth is an https:// address, from which nothing is downloaded"),
        ("page", "bad.pth: these weights cannot be read: this is a web page"),
        ("cut off", "bad.pth: these weights cannot be read: the file is not whole: download it again."),
        (
            "malicious",
            "bad.pth: this file is refused: it asks for posix.system, which weights do not need. Nothing of it",
        ),
        ("tensor missing", "bad.pth: fake.box_head.box_predictor.bias is missing."),
        ("tensor left over", "bad.pth: fake.extra is left over."),
        ("other shape", "bad.pth: fake.box_head.class_predictor.weight has another shape."),
        ("other library", "bad.pth: "),
        ("config", "nowhere.config: "),
        ("recipe", "faster_rcnn_resnet18"),
        ("label map", '--label_map is needed, as the config names "nowhere.pbtxt", which is not there'),
        ("no label map", "--label_map is needed, as the config names none"),
        ("large label map", "has ids up to 9, but model.faster_rcnn.num_classes = 3."),
    ],
)
def test_mistakes_end_with_one_line_and_leave_nothing(run, file, tensors, shapes_data, tmp_path, capfd, fault, words):
    bad, changed, more, settings = tmp_path / "bad.pth", dict(tensors), [], {}
    match fault:
        case "no file" | "folder" | "web address":
            bad = {"no file": tmp_path / "nowhere.pth", "folder": tmp_path}.get(fault, "https://host/x.pth")
        case "page":
            bad.write_text("<html>")
        case "cut off":
            bad.write_bytes(file.read_bytes()[:-7])
        case "malicious":
            bad.write_bytes(writer.zip_bytes({"a": writer.call("posix", "system", f"touch {tmp_path}/harm")}))
        case "config" | "recipe":
            settings["config"] = tmp_path / "nowhere.config" if fault == "config" else "faster_rcnn_resnet18"
            bad = file
        case "other library":
            settings["library"] = "detectron2"
        case "label map" | "no label map":
            name = "nowhere.pbtxt" if fault == "label map" else ""
            more = ["--config_override", f'eval_input_reader.0.label_map_path="{name}"']
            bad = file
        case "large label map":
            (tmp_path / "large.pbtxt").write_text('item { id: 9 name: "a" }')
            more, bad = ["--label_map", str(tmp_path / "large.pbtxt")], file
        case "tensor missing":
            del changed["fake.box_head.box_predictor.bias"]
        case "tensor left over":
            changed["fake.extra"] = np.zeros(1, np.float32)
        case "other shape":
            changed["fake.box_head.class_predictor.weight"] = np.zeros((9, 9), np.float32)
    if fault.startswith(("tensor", "other")):
        bad.write_bytes(writer.zip_bytes(writer.state_dict(**changed)))
    before = sorted(path.name for path in tmp_path.iterdir())
    assert run(bad, tmp_path / "out", *more, **settings) == 2
    shown = capfd.readouterr()
    assert shown.err.startswith("error: ") and words in shown.err, shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_an_unknown_library_is_refused_by_the_parser(run, file, tmp_path, capfd):
    with pytest.raises(SystemExit):
        run(file, tmp_path / "out", library="keras")
    assert "choose from" in capfd.readouterr().err


def test_the_libraries_of_the_flag_are_those_that_are_read():
    from object_detection_fpn.interop import libraries
    from object_detection_fpn.tools import import_weights

    assert tuple(libraries.LIBRARIES) == import_weights._LIBRARIES
