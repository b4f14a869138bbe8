"""Where the label map of a checkpoint is looked for."""

from __future__ import annotations

import logging

import pytest

from object_detection_fpn.config.text import ConfigError
from object_detection_fpn.interop.label_maps import find_label_map

CATS = 'item { id: 1 name: "cat" display_name: "Cat" }'


def named(path, more=""):
    return f'train_input_reader {{ label_map_path: "{path}" {more} }}'


@pytest.mark.parametrize(
    "checkpoint, config, label_map, path",
    [
        ("ckpt-3", "pipeline.config", "data/map.pbtxt", "FOLDER/data/map.pbtxt"),
        ("ckpt-3", "pipeline.config", "data/map.pbtxt", "data/map.pbtxt"),
        ("best/ckpt-3", "pipeline.config", "map.pbtxt", "/long/ago/map.pbtxt"),
        ("checkpoint/ckpt-0", "pipeline.config", "map.pbtxt", "map.pbtxt"),
        ("saved_model/variables/variables", "pipeline.config", "map.pbtxt", "map.pbtxt"),
        ("ckpt-3", None, "any.pbtxt", None),
    ],
)
def test_label_map_of_a_run_or_an_export_is_found(tmp_path, checkpoint, config, label_map, path):
    for name in (checkpoint, label_map):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / label_map).write_text(CATS)
    if config:
        (tmp_path / config).write_text(named(path.replace("FOLDER", str(tmp_path)), "use_display_name: true"))
    found = find_label_map(str(tmp_path / checkpoint))
    assert found.class_names() == [("Cat", "cat") if config else ("cat", "Cat")]


def test_label_map_of_evaluation_stands_in_for_that_of_training(tmp_path):
    (tmp_path / "map.pbtxt").write_text(CATS)
    (tmp_path / "pipeline.config").write_text(named("gone.pbtxt") + 'eval_input_reader { label_map_path: "map.pbtxt" }')
    assert find_label_map(str(tmp_path / "ckpt-1")).class_names() == [("cat", "Cat")]


@pytest.mark.parametrize(
    "files, words",
    [
        ({}, "no pipeline.config beside it names one"),
        ({"pipeline.config": named("PATH_TO_BE_CONFIGURED")}, "PATH_TO_BE_CONFIGURED, which its pipeline.config names"),
        ({"a.pbtxt": CATS, "b.pbtxt": CATS}, "no pipeline.config beside it names one"),
        ({"pipeline.config": "model { center_net { } }"}, "The label map of a checkpoint is not read from its config."),
    ],
)
def test_an_unknown_label_map_is_worth_a_warning(tmp_path, caplog, files, words):
    folder = tmp_path / "above" / "run"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    with caplog.at_level(logging.WARNING):
        assert find_label_map(str(folder / "ckpt-1")) is None
    texts = [record.getMessage() for record in caplog.records]
    assert any(words in text for text in texts)
    assert texts[-1].startswith(f"{folder}/ckpt-1: the label map of this checkpoint is not known (")
    assert texts[-1].endswith(
        "so predictors are restored as without restore_classes_by_name: pass it with --from_label_map."
    )


def test_a_label_map_that_is_none_is_refused(tmp_path):
    (tmp_path / "map.pbtxt").write_text("item {")
    (tmp_path / "pipeline.config").write_text(named("map.pbtxt"))
    with pytest.raises(ConfigError, match=r"map\.pbtxt:1"):
        find_label_map(str(tmp_path / "ckpt-1"))
