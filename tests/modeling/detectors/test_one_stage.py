"""A region proposal network alone (`number_of_stages: 1`): it trains, is evaluated, is exported, and is asked for objects."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.config import pipeline as config
from object_detection_fpn.config import recipes
from object_detection_fpn.jobs import evaluate as evaluate_job
from object_detection_fpn.jobs import export as export_job
from object_detection_fpn.jobs import predict as predict_job
from object_detection_fpn.jobs import train as train_job

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time


@pytest.fixture
def one_stage(small_overrides, tiny_resnet18):
    recipe = recipes.recipe_path("faster_rcnn_resnet18_fpn_shapes_160x160")
    overrides = [*small_overrides, "model.faster_rcnn.number_of_stages=1"]
    return config.load_config(recipe, overrides, require_data=["train", "eval"])


def test_proposals_go_all_the_way(one_stage, untraced, tmp_path):
    with untraced():
        trained = train_job.train(one_stage, model_dir=str(tmp_path), num_steps=1)
        assert trained is not None
        checkpoint = str(tmp_path / "ckpt-1")
        metrics = evaluate_job.evaluate(one_stage, checkpoint=checkpoint, output_dir=str(tmp_path))
    assert 0 <= metrics["DetectionBoxes_Precision/mAP"] <= 1  # -1 would say that no groundtruth is of its class
    assert {name for name in metrics if name.startswith("Loss/")} == {
        "Loss/RPNLoss/localization_loss",
        "Loss/RPNLoss/objectness_loss",
        "Loss/regularization_loss",
        "Loss/total_loss",
    }

    export_dir = tmp_path / "export"
    serve = tf.saved_model.load(export_job.export(one_stage, checkpoint=checkpoint, output_dir=str(export_dir)))
    outputs = serve(tf.zeros([1, 64, 64, 3], tf.uint8))
    num = outputs["detection_boxes"].shape[1]
    np.testing.assert_array_equal(outputs["detection_classes"], np.ones([1, num]))
    assert outputs["detection_scores"].shape == (1, num)
    assert outputs["detection_multiclass_scores"].shape == (1, num, 2)
    assert outputs["raw_detection_scores"].shape == (*outputs["raw_detection_boxes"].shape[:2], 2)
    assert outputs["num_detections"] > 0
    assert (export_dir / "pipeline.config").exists()

    predictor = predict_job.make_predictor(one_stage, checkpoint=checkpoint)
    assert json.dumps(predictor.categories) == '[{"id": 1, "name": "object"}]'
