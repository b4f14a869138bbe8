"""Pipeline configs: read, overridden, checked, written."""

from __future__ import annotations

import logging

import pytest

from object_detection_fpn.config import tables
from object_detection_fpn.config.pipeline import ConfigError, format_config, load_config, save_config
from object_detection_fpn.protos import optimizer_pb2


@pytest.fixture
def path(golden_dir) -> str:
    return str(golden_dir / "odapi_pipeline.config")


def test_config_of_the_object_detection_api_is_read(path):
    config = load_config(path)
    assert config.model.faster_rcnn.num_classes == 3
    assert config.model.faster_rcnn.feature_extractor.type == "faster_rcnn_resnet50_fpn_keras"
    assert config.model.faster_rcnn.first_stage_box_predictor_depth == 512  # not written there: the default


def test_overrides_are_applied_in_order_and_checked(path):
    config = load_config(path, ["train_config.batch_size=3", "train_config.batch_size=4"])
    assert config.train_config.batch_size == 4
    with pytest.raises(ConfigError, match=r"odapi_pipeline.config: train_config.batch_size = 0 is out of range"):
        load_config(path, ["train_config.batch_size=0"])


def test_override_that_mends_a_mistake_is_enough(path, tmp_path):
    wrong = tmp_path / "wrong.config"
    with open(path) as file:
        wrong.write_text(file.read().replace("num_classes: 3", "num_classes: 0"))
    mended = load_config(str(wrong), ["model.faster_rcnn.num_classes=3"])
    assert mended.model.faster_rcnn.num_classes == 3


def test_required_data_is_looked_for_only_when_asked(path):
    with pytest.raises(ConfigError, match=r"train_input_reader.label_map_path = \"PATH_TO_BE_.* does not exist"):
        load_config(path, require_data="train")


def test_written_config_is_read_back_unchanged(path, tmp_path):
    config = load_config(path)
    target = tmp_path / "new" / "pipeline.config"
    save_config(config, str(target))
    save_config(config, str(target))  # over the first one
    assert load_config(str(target)) == config
    assert target.read_text() == format_config(config)
    assert [file.name for file in target.parent.iterdir()] == ["pipeline.config"]


def test_config_is_written_to_the_working_directory(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_config(load_config(path), "pipeline.config")
    assert load_config("pipeline.config") == load_config(path)


def test_fields_without_effect_are_logged(path, caplog):
    with caplog.at_level(logging.WARNING):
        load_config(path)
    assert f"{path}: train_config.startup_delay_steps = 0 has no effect: it delayed the workers" in caplog.text


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"absent.config: there is no such file"):
        load_config(str(tmp_path / "absent.config"))


def test_what_is_allowed_can_be_built():
    from object_detection_fpn import builder

    assert tuple(builder.BACKBONES) == tables.EXTRACTOR_TYPES + tables.SSD_EXTRACTOR_TYPES
    assert tuple(builder.METRICS) == tables.METRICS_SETS
    optimizers = optimizer_pb2.Optimizer.DESCRIPTOR.oneofs_by_name["optimizer"].fields
    assert set(builder.OPTIMIZERS) == {field.name for field in optimizers}
