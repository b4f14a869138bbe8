"""Drawn data from training to serving: train, stop, resume, evaluate, export, load; a model learns four images by heart."""

from __future__ import annotations

import json
from pathlib import Path

import learning
import measuring
import numpy as np
import pytest
import support
import tensorflow as tf
from PIL import Image

from object_detection_fpn.config import pipeline as config
from object_detection_fpn.jobs import evaluate as evaluate_job
from object_detection_fpn.jobs import export as export_job
from object_detection_fpn.jobs import predict as predict_job
from object_detection_fpn.jobs import train as train_job
from object_detection_fpn.training.stored import latest_checkpoint


@pytest.fixture(scope="module")
def trained(small_config, tiny_resnet18_throughout, untraced, tmp_path_factory) -> Path:
    """Four steps, stopped, and two more; evaluated after each checkpoint."""
    model_dir = tmp_path_factory.mktemp("model")
    with untraced():
        train_job.train(small_config, model_dir=str(model_dir), num_steps=4, checkpoint_every_n=4)
    with measuring.unmeasured():
        train_job.train(
            small_config, model_dir=str(model_dir), num_steps=6, checkpoint_every_n=4, evaluate_checkpoints=True
        )
    return model_dir


def test_training_goes_on_from_the_newest_checkpoint_and_saves_at_the_last_step(trained):
    newest = latest_checkpoint(str(trained))
    assert newest is not None
    assert tf.train.load_checkpoint(newest).get_tensor("step/.ATTRIBUTES/VARIABLE_VALUE") == 6


def test_training_leaves_the_config_the_summaries_and_the_best_checkpoint(trained, small_config, read_summaries):
    assert config.load_config(str(trained / "pipeline.config")) == small_config
    assert {"Loss/total_loss", "Loss/RPNLoss/objectness_loss", "learning_rate"} <= set(
        read_summaries(trained / "train")
    )
    assert (trained / "best").is_dir()


def test_evaluation_writes_metrics_losses_and_pictures(trained, small_config, untraced, read_summaries, tmp_path):
    with untraced():
        metrics = evaluate_job.evaluate(small_config, checkpoint=str(trained), output_dir=str(tmp_path))
    assert {
        "DetectionBoxes_Precision/mAP",
        "DetectionBoxes_Precision/mAP@.50IOU",
        "DetectionBoxes_Recall/AR@100 (small)",
        "DetectionBoxes_PerformanceByCategory/mAP/circle",
        "Loss/total_loss",
    } <= set(metrics)
    folder = tmp_path / "eval" / "held_out"
    assert "DetectionBoxes_Precision/mAP" in read_summaries(folder)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 6


def test_evaluation_waits_for_checkpoints_until_the_last_step(trained, small_config, untraced, tmp_path):
    message = type(small_config)()
    message.CopyFrom(small_config)
    message.train_config.num_steps = 6
    with untraced():
        results = evaluate_job.evaluate_continuously(
            message, checkpoint_dir=str(trained), output_dir=str(tmp_path), timeout=60, sample_1_of_n_eval_examples=3
        )
    assert list(results) == [6]


@pytest.mark.no_cover
def test_exported_model_gives_the_same_detections_as_the_checkpoint(trained, small_config, shapes_data, tmp_path):
    image_path = sorted(Path(shapes_data.eval_images).iterdir())[0]
    image = np.asarray(Image.open(image_path))
    expected = predict_job.make_predictor(small_config, checkpoint=str(trained)).predict(image)

    export_job.export(small_config, checkpoint=str(trained), output_dir=str(tmp_path), input_type="image_tensor")
    serve = tf.saved_model.load(str(tmp_path / "saved_model")).signatures["serving_default"]
    outputs = serve(input_tensor=tf.constant(image)[None])
    num = int(outputs["num_detections"][0])
    assert num == len(expected.scores)
    np.testing.assert_allclose(outputs["detection_scores"][0, :num], expected.scores, atol=1e-5)
    np.testing.assert_allclose(outputs["detection_boxes"][0, :num], expected.boxes_normalized, atol=1e-4)
    np.testing.assert_array_equal(outputs["detection_classes"][0, :num], expected.class_ids)
    assert config.load_config(str(tmp_path / "pipeline.config")) == small_config


@pytest.mark.no_cover  # two hundred steps of what others cover
def test_four_drawn_images_are_learned_by_heart(small_config, monkeypatch):
    support.put_backbone(monkeypatch, num_filters=(16, 24, 32, 48), is_residual=True)
    message = type(small_config)()
    message.CopyFrom(small_config)
    message.model.faster_rcnn.feature_extractor.fpn.additional_layer_depth = 16
    assert learning.average_precision_by_heart(message) >= 0.95
