"""`odfpn export` of all formats, and `odfpn benchmark` and `odfpn report` of what it wrote."""

from __future__ import annotations

import json

import pytest

from object_detection_fpn.cli import main as cli
from object_detection_fpn.config import pipeline as config_lib
from object_detection_fpn.config.pipeline import ConfigError
from object_detection_fpn.jobs import formats
from object_detection_fpn.jobs import train as train_job
from object_detection_fpn.tools.benchmark.command import as_table
from object_detection_fpn.tools.benchmark.measure import Measurement

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere

FILES = ["model_float32.tflite", "model_int8.tflite", "model.onnx"]


@pytest.fixture
def model(small_config, untraced, tmp_path):
    """The path of a config, whose model has been trained for a step."""
    with untraced():
        train_job.train(small_config, model_dir=str(tmp_path / "model"), num_steps=1)
    config_lib.save_config(small_config, str(tmp_path / "model.config"))
    return str(tmp_path / "model.config")


@pytest.mark.usefixtures("tiny_resnet18")
def test_all_formats_stand_beside_each_other(model, shapes_data, tmp_path, capsys):
    out = tmp_path / "exported"
    words = ["export", "--config", model, "--checkpoint", str(tmp_path / "model"), "--output_dir", str(out)]
    words += ["--format", "litert", "onnx", "--quantize", "float32", "int8", "--num_representative", "4"]
    assert cli.main(words) == 0
    said = capsys.readouterr().err.splitlines()
    assert all(f"Exported to {out / name}: " in "\n".join(said) for name in FILES)
    assert sum("detections on 4 images are the SavedModel's; largest difference" in line for line in said) == len(FILES)
    assert (out / "saved_model").is_dir() and (out / "portable.config").is_file()

    models = [str(out), *(str(out / name) for name in FILES), str(tmp_path / "model")]
    assert cli.main(["benchmark", *models, "--config", model, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == models
    assert [row["kind"] for row in rows] == ["SavedModel", "LiteRT", "LiteRT", "ONNX", "checkpoint"]
    for row in rows:
        assert row["num_images"] == 6 and row["milliseconds"] > 0.0 and row["megabytes"] > 0.0
    assert rows[1]["box_ap"] == pytest.approx(rows[0]["box_ap"], abs=1e-3)

    records = ["--records", shapes_data.eval_records, "--sample_1_of_n", "3"]
    assert cli.main(["benchmark", models[1], "--config", model, *records]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["model", "kind", "box", "AP", "ms", "MB"] and lines[1].split()[0] == models[1]

    report = ["report", "--config", model, "--saved_model", models[3], "--output_dir", str(tmp_path / "report")]
    assert cli.main(report) == 0
    assert (tmp_path / "report" / "report.html").is_file()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--format", "onnx", "--quantize", "int8"], "--quantize int8 needs --format litert."),
        (["--format", "litert", "--batch_size", "dynamic"], "--batch_size = dynamic does not go with --format litert."),
        (["--batch_size", "0"], "--batch_size = 0 is no batch size. Allowed: 1 and above, or dynamic."),
        (["--num_representative", "0"], "--num_representative = 0 is out of range. Allowed: 1 and above."),
        (["--format", "onnx", "--paste_masks"], "--paste_masks does not go with --format litert and onnx"),
    ],
)
def test_flags_that_do_not_suit_each_other_are_refused(words, message, capsys):
    assert cli.main(["export", "--config", "x", "--checkpoint", "x", "--output_dir", "x", *words]) == 2
    assert f"error: {message}" in capsys.readouterr().err


def test_a_resizer_of_many_sizes_is_refused(small_config):
    config = type(small_config)()
    config.CopyFrom(small_config)
    config.model.faster_rcnn.image_resizer.identity_resizer.SetInParent()
    with pytest.raises(
        ConfigError,
        match=r"^pipeline config: model\.faster_rcnn\.image_resizer is identity_resizer, after which images differ in size\. "
        r"Allowed: keep_aspect_ratio_resizer or fixed_shape_resizer with litert and onnx\.$",
    ):
        formats.portable_config(config)


def test_models_that_look_at_context_are_refused(small_config):
    config = type(small_config)()
    config.CopyFrom(small_config)
    config.model.faster_rcnn.context_config.SetInParent()
    with pytest.raises(
        ConfigError, match=r"context_config is set: models that look at context are exported as SavedModels"
    ):
        formats.portable_config(config)


def test_a_resizer_that_does_not_pad_is_made_to(small_config):
    config = type(small_config)()
    config.CopyFrom(small_config)
    resizer = config.model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer
    resizer.pad_to_max_dimension = False
    resizer.pad_to_multiple = 32
    changed = formats.portable_config(config).model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer
    assert changed.pad_to_max_dimension and not changed.pad_to_multiple
    assert not resizer.pad_to_max_dimension


def test_a_file_without_its_config_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(formats._RUNTIMES, ".onnx", lambda path: (None, 1))
    with pytest.raises(FileNotFoundError, match=r"model\.onnx needs portable\.config beside it"):
        formats.load_predictor(str(tmp_path / "model.onnx"))


def test_the_table_is_aligned():
    rows = [
        Measurement("exported", "SavedModel", 0.5, 0.25, 12.34, 100.0, 5),
        Measurement("m.tflite", "LiteRT", 0.5, None, 1.2, 5.0, 5),
    ]
    assert as_table(rows).splitlines() == [
        "model     kind        box AP  mask AP    ms      MB",
        "exported  SavedModel  0.5000   0.2500  12.3  100.00",
        "m.tflite  LiteRT      0.5000            1.2    5.00",
    ]


def test_a_missing_model_is_refused(small_config, tmp_path, capsys):
    config_lib.save_config(small_config, str(tmp_path / "model.config"))
    missing = str(tmp_path / "missing.onnx")
    assert cli.main(["benchmark", missing, "--config", str(tmp_path / "model.config")]) == 2
    assert f"error: There is no file {missing}." in capsys.readouterr().err
