"""What is refused of the files that a config names: records, label maps, checkpoints, folders."""

from __future__ import annotations

import logging
import re

import pytest
import tensorflow as tf

from object_detection_fpn.config import files
from object_detection_fpn.config.pipeline import check_config, load_config, save_config
from object_detection_fpn.config.text import apply_override

MODEL = "model.faster_rcnn"


@pytest.fixture
def ready(config, tmp_path):
    """The config with all its files."""
    (tmp_path / "a-00000").touch()
    (tmp_path / "ckpt-0.index").touch()
    (tmp_path / "map.pbtxt").write_text("".join(f'item {{ id: {i} name: "class{i}" }}' for i in (1, 2, 3)))
    for reader in ("train_input_reader", "eval_input_reader[0]"):
        apply_override(config, f"{reader}.label_map_path={tmp_path}/map.pbtxt")
        apply_override(config, f"{reader}.tf_record_input_reader.input_path={tmp_path}/a-*")
    apply_override(config, f"train_config.fine_tune_checkpoint={tmp_path}/ckpt-0")
    return config


def test_config_with_its_files_is_accepted(ready, refusals):
    assert refusals(ready, require_data=("train", "eval")) == []


@pytest.mark.parametrize(
    ("use", "changes", "expected"),
    [
        (
            "train",
            ["-train_config"],
            "my.config: train_config is not set. Allowed: { ... } with the fields batch_size, ",
        ),
        (
            "train",
            ["train_config.num_steps=0"],
            "train_config.num_steps = 0 trains nothing. Allowed: 1 or more, here or by a flag.",
        ),
        (
            "train",
            ["-train_input_reader"],
            "train_input_reader.tf_record_input_reader.input_path is not set. Allowed: paths or patterns of TFRecord",
        ),
        (
            "train",
            ["-train_input_reader"],
            "train_input_reader.label_map_path is not set. Allowed: the path of a label map (.pbtxt), or one of this package: "
            "coco_contiguous_label_map.pbtxt, coco_label_map.pbtxt.",
        ),
        (
            "train",
            ["train_input_reader.tf_record_input_reader.input_path+=b-*"],
            'train_input_reader.tf_record_input_reader.input_path[1] = "b-*" matches no file.',
        ),
        (
            "train",
            ["train_input_reader.tf_record_input_reader.input_path=no/b-*"],
            'input_path[0] = "no/b-*" matches no file.',
        ),
        (
            "train",
            ["train_input_reader.label_map_path=x.pbtxt"],
            'train_input_reader.label_map_path = "x.pbtxt" does not exist.',
        ),
        (
            "train",
            ["train_config.fine_tune_checkpoint=no/ckpt-0"],
            'train_config.fine_tune_checkpoint = "no/ckpt-0" does not exist. Allowed: the path of a checkpoint',
        ),
        (
            "eval",
            ["-eval_input_reader"],
            "eval_input_reader is not set. Allowed: { ... } with the fields label_map_path, ",
        ),
        ("eval", ["eval_input_reader[1].name=x"], "eval_input_reader[1].label_map_path is not set."),
        (
            "train",
            ["train_input_reader.tf_record_input_reader.input_path=FOLDER"],
            'input_path[0] = "FOLDER" is a folder: write a pattern of the files in it, such as "FOLDER/*.tfrecord".',
        ),
        (
            "eval",
            ["eval_input_reader.0.tf_record_input_reader.input_path=FOLDER/*"],
            'input_path[0] = "FOLDER/*" matches the folder FOLDER/inside besides files.',
        ),
        (
            "train",
            ["train_input_reader.tf_record_input_reader.input_path=s3://bucket/a-*"],
            'input_path[0] = "s3://bucket/a-*" is on s3://, a file system that TensorFlow does not have here. Allowed',
        ),
        (
            "train",
            ["train_input_reader.tf_record_input_reader.input_path="],
            'input_path[0] = "" is empty. Allowed: paths or patterns',
        ),
        (
            "train",
            ['train_input_reader.tf_record_input_reader.input_path="data\\train.record"'],
            "has a control character, as \\t and \\n are in text format: write / between folders, or \\\\.",
        ),
        ("train", ["train_input_reader.label_map_path=FOLDER"], "FOLDER: is a folder, not a file."),
        (
            "train",
            ["train_input_reader.label_map_path=https://host/map.pbtxt"],
            'label_map_path = "https://host/map.pbtxt" is an https:// address, from which nothing is downloaded: download',
        ),
        (
            "train",
            ["train_config.fine_tune_checkpoint=http://host/model.tar.gz"],
            'fine_tune_checkpoint = "http://host/model.tar.gz" is an http:// address, from which nothing is downloaded',
        ),
        (
            "train",
            ["train_input_reader.cache=DISK", "train_input_reader.cache_dir=FOLDER/a-00000"],
            'train_input_reader.cache_dir = "FOLDER/a-00000" is a file, where a folder is needed. Allowed: a folder, which',
        ),
        (
            "eval",
            ["eval_config.visualization_export_dir=FOLDER/a-00000/below"],
            '"FOLDER/a-00000/below" is a file, or leads through one, where a folder is needed.',
        ),
    ],
)
def test_missing_data_is_refused(ready, use, changes, expected, change, refusals, tmp_path):
    (tmp_path / "inside").mkdir()
    change(ready, *(item.replace("FOLDER", str(tmp_path)) for item in changes))
    lines = refusals(ready, require_data=use)
    assert any(expected.replace("FOLDER", str(tmp_path)) in line for line in lines), lines


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ("class1, class3", None),
        (
            "class1,clas3",
            r'\["few"\] = "class1,clas3" names the class "clas3", which .*map\.pbtxt does not \(nearest: "cl',
        ),
        (
            " , ",
            r'eval_config\.super_categories\["few"\] = " , " names no class\. Allowed: names of classes, separated',
        ),
    ],
)
def test_super_categories_name_classes_of_the_label_map(ready, members, expected, refusals):
    ready.eval_config.super_categories["few"] = members
    lines = refusals(ready, require_data="eval")
    assert not lines if expected is None else re.search(expected, lines[0])


def test_weights_to_be_downloaded_need_no_file(ready, change, refusals):
    change(ready, "train_config.fine_tune_checkpoint=imagenet")
    assert refusals(ready, require_data="train") == []


def test_training_needs_nothing_of_evaluation(ready, change, refusals):
    change(ready, "-eval_input_reader")
    assert refusals(ready, require_data="train") == []


def test_mistake_in_a_shared_label_map_is_said_once(ready, tmp_path, refusals):
    (tmp_path / "map.pbtxt").write_text('item { id: 1 nam: "a" }')
    [line] = refusals(ready, require_data=("train", "eval"))
    assert re.search(r'map.pbtxt:1: StringIntLabelMapItem has no field "nam" \(nearest: "name"\)', line)


def test_unknown_use_is_refused(ready):
    with pytest.raises(ValueError, match=r'use = "test" is unknown. Allowed: train, eval.'):
        check_config(ready, "my.config", require_data="test")


def test_brackets_in_the_path_of_a_single_file_are_no_pattern(ready, change, refusals, tmp_path):
    folder = tmp_path / "run[1]"
    folder.mkdir()
    (folder / "ckpt-0.index").touch()
    (folder / "map.pbtxt").write_text((tmp_path / "map.pbtxt").read_text())
    change(
        ready,
        f"train_config.fine_tune_checkpoint={folder}/ckpt-0",
        f"train_input_reader.label_map_path={folder}/map.pbtxt",
    )
    assert refusals(ready, require_data="train") == []


def test_records_on_a_file_system_that_cannot_be_reached_are_said_in_one_line(ready, change, refusals, monkeypatch):
    reason = (
        "Error executing an HTTP request: libcurl code 6 meaning 'Could not resolve hostname', error details: Could not "
        "resolve host: www.googleapis.com\n\t when reading gs://bucket"
    )

    def unreachable(_):
        raise tf.errors.FailedPreconditionError(None, None, reason)

    change(ready, "train_input_reader.tf_record_input_reader.input_path=gs://bucket/train-*")
    monkeypatch.setattr(tf.io.gfile, "glob", unreachable)
    lines = [line for line in refusals(ready, require_data="train") if "gs://" in line]
    assert lines == [
        'my.config: train_input_reader.tf_record_input_reader.input_path[0] = "gs://bucket/train-*" cannot be reached (Could '
        "not resolve host: www.googleapis.com). Allowed: paths or patterns of TFRecord files."
    ]


@pytest.mark.parametrize(
    "num_classes, expected",
    [
        (3, None),
        (4, "num_classes = 4 is above the largest id of MAP, 3 (class3), named by PLACE: id 4 has no name there"),
        (90, "num_classes = 90 is above the largest id of MAP, 3 (class3), named by PLACE: ids 4 to 90 have no name"),
        (
            1,
            "num_classes = 1 is below the largest id of MAP, 3 (class3), named by PLACE: the model cannot have the classes "
            "2 (class2), 3 (class3), and records with them are refused",
        ),
    ],
)
@pytest.mark.parametrize("use, place", [("train", "train_input_reader"), ("eval", "eval_input_reader[0]")])
def test_another_class_count_than_the_label_maps_is_a_warning(
    ready, change, tmp_path, caplog, num_classes, expected, use, place
):
    change(ready, f"{MODEL}.num_classes={num_classes}")
    path = tmp_path / "my.config"
    save_config(ready, str(path))
    with caplog.at_level(logging.WARNING):
        load_config(str(path), require_data=use)
    lines = [record.getMessage() for record in caplog.records if "num_classes" in record.getMessage()]
    if expected is None:
        assert lines == []
        return
    [line] = lines
    expected = expected.replace("MAP", f"{tmp_path}/map.pbtxt").replace("PLACE", f"{place}.label_map_path")
    assert f"{path}: {MODEL}.{expected}" in line


def test_a_label_map_that_cannot_be_read_has_no_class_count(ready, change):
    change(ready, "train_input_reader.label_map_path=no.pbtxt")
    assert list(files.find_class_differences(ready, "train")) == []
