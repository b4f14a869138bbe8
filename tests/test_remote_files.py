"""Nothing in the package wants files on a local disk: here all of them are in TensorFlow's file system in memory."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.cli import main as cli
from object_detection_fpn.config import pipeline as config
from object_detection_fpn.config import recipes
from object_detection_fpn.jobs import train as train_job
from object_detection_fpn.tools import shapes

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

RECIPE = "faster_rcnn_resnet18_fpn_shapes_160x160"
ROOT = "ram://remote_files"


@pytest.fixture(scope="module")
def config_path(small_overrides) -> str:
    """Records, label map and config, all remote."""
    data = shapes.write_dataset(f"{ROOT}/data", num_train=4, num_eval=2, image_size=96, show_progress=False)
    overrides = [
        *small_overrides,
        f'train_input_reader.label_map_path="{data.label_map_path}"',
        f'train_input_reader.tf_record_input_reader.input_path=["{data.train_records}"]',
        f'eval_input_reader.0.label_map_path="{data.label_map_path}"',
        f'eval_input_reader.0.tf_record_input_reader.input_path=["{data.eval_records}"]',
        f'eval_config.visualization_export_dir="{ROOT}/pictures"',
        "train_config.num_steps=1",
    ]
    path = f"{ROOT}/my.config"
    config.save_config(config.load_config(recipes.recipe_path(RECIPE), overrides), path)
    return path


@pytest.mark.usefixtures("tiny_resnet18")
def test_training_evaluation_and_export_work_on_remote_paths(config_path, untraced, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model_dir = f"{ROOT}/model"
    message = config.load_config(config_path, require_data=["train", "eval"])
    with untraced():
        assert train_job.train(message, model_dir=model_dir).checkpoint == f"{model_dir}/ckpt-1"
    assert tf.io.gfile.exists(f"{model_dir}/pipeline.config")
    assert tf.io.gfile.glob(f"{model_dir}/train/events*")
    with tf.io.gfile.GFile(f"{model_dir}/metrics.jsonl") as file:
        assert [(line["step"], line["kind"]) for line in map(json.loads, file.read().splitlines())] == [(1, "train")]

    # This file system takes the beginning of any path for a folder, so TensorFlow looks in "ckpt-1" for its newest checkpoint.
    for path in tf.io.gfile.glob(f"{model_dir}/ckpt-1.*"):
        tf.io.gfile.copy(path, f"{model_dir}/ckpt-1/{path.rpartition('/')[2]}")
    with tf.io.gfile.GFile(f"{model_dir}/ckpt-1/checkpoint", "w") as file:
        file.write('model_checkpoint_path: "ckpt-1"')

    # By the command: the folder of results is that of the checkpoint.
    with untraced():
        assert cli.main(["eval", "--config", config_path, "--checkpoint", model_dir]) == 0
    with tf.io.gfile.GFile(f"{model_dir}/eval/held_out/metrics.jsonl") as file:
        assert json.loads(file.read())["step"] == 1
    assert tf.io.gfile.exists(f"{ROOT}/pictures/held_out/export-image-0.png")

    arguments = ["export", "--config", config_path, "--checkpoint", model_dir]
    assert cli.main([*arguments, "--output_dir", f"{ROOT}/exported"]) == 0
    assert tf.io.gfile.exists(f"{ROOT}/exported/saved_model/saved_model.pb")

    images = f"{ROOT}/photos"
    for name in ("cam/frame_10.png", "cam/frame_2.png", "a.png"):
        tf.io.gfile.makedirs(f"{images}/cam")
        with tf.io.gfile.GFile(f"{images}/{name}", "wb") as file:
            file.write(tf.io.encode_png(np.full([96, 128, 3], 90, np.uint8)).numpy())
    arguments = ["predict", images, "--saved_model", f"{ROOT}/exported", "--output_dir", f"{ROOT}/drawn"]
    assert cli.main([*arguments, "--format", "jsonl", "--tile", "96", "--min_score", "0"]) == 0
    with tf.io.gfile.GFile(f"{ROOT}/drawn/detections.jsonl") as file:
        lines = [json.loads(line) for line in file]
    assert [line["drawing"] for line in lines] == ["a.png", "cam/frame_2.png", "cam/frame_10.png"]
    assert all(line["detections"] for line in lines)
    assert all(tf.io.gfile.exists(f"{ROOT}/drawn/{line['drawing']}") for line in lines)
    assert list(tmp_path.iterdir()) == []  # nothing took "ram://..." for a local path
