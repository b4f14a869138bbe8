"""The recipe of drawn shapes on one level, from training to serving: train, stop, resume, evaluate, export, load, plan."""

from __future__ import annotations

from pathlib import Path

import measuring
import numpy as np
import pytest
import support
import tensorflow as tf
from PIL import Image

from object_detection_fpn.config import pipeline as config
from object_detection_fpn.config import recipes
from object_detection_fpn.jobs import evaluate as evaluate_job
from object_detection_fpn.jobs import export as export_job
from object_detection_fpn.jobs import predict as predict_job
from object_detection_fpn.jobs import train as train_job
from object_detection_fpn.tools.planning import hlo


@pytest.fixture(scope="module", autouse=True)
def _tiny_backbone():
    with pytest.MonkeyPatch.context() as patch:
        support.put_backbone(patch, support.SINGLE_RESNET18)
        yield


@pytest.fixture(scope="module")
def single_config(small_overrides):
    """The recipe made small."""
    overrides = [each for each in small_overrides if ".fpn." not in each and "multiscale_anchor_generator" not in each]
    suppression = "model.faster_rcnn.second_stage_post_processing.batch_non_max_suppression"
    recipe = recipes.recipe_path("faster_rcnn_resnet18_shapes_160x160")
    return config.load_config(recipe, [*overrides, f"{suppression}.score_threshold=0"], require_data=["train", "eval"])


@pytest.fixture(scope="module")
def trained(single_config, untraced, tmp_path_factory) -> Path:
    """Two steps, stopped, and one more."""
    model_dir = tmp_path_factory.mktemp("model")
    with untraced(), measuring.unmeasured():
        train_job.train(single_config, model_dir=str(model_dir), num_steps=2)
        result = train_job.train(single_config, model_dir=str(model_dir), num_steps=3)
    assert result.step == 3
    return model_dir


def test_training_goes_on_with_finite_losses(trained, read_summaries):
    summaries = read_summaries(trained / "train")
    assert max(summaries["Loss/total_loss"]) == 3
    names = ("RPNLoss/objectness_loss", "BoxClassifierLoss/classification_loss", "regularization_loss")
    for name in names:
        assert all(np.isfinite(loss) and loss > 0 for loss in summaries[f"Loss/{name}"].values()), name


def test_boxes_are_evaluated(trained, single_config, untraced, tmp_path):
    with untraced():
        metrics = evaluate_job.evaluate(single_config, checkpoint=str(trained), output_dir=str(tmp_path))
    assert {"DetectionBoxes_Precision/mAP", "Loss/total_loss"} <= set(metrics)


def test_exported_boxes_are_those_of_the_checkpoint(trained, single_config, shapes_data, tmp_path):
    image = np.asarray(Image.open(sorted(Path(shapes_data.eval_images).iterdir())[0]))
    with measuring.unmeasured():
        expected = predict_job.make_predictor(single_config, checkpoint=str(trained)).predict(image)
        export_job.export(single_config, checkpoint=str(trained), output_dir=str(tmp_path), input_type="image_tensor")
        serve = tf.saved_model.load(str(tmp_path / "saved_model")).signatures["serving_default"]
        outputs = serve(input_tensor=tf.constant(image)[None])
    num = int(outputs["num_detections"][0])
    assert num == len(expected.scores) > 0
    np.testing.assert_allclose(outputs["detection_scores"][0, :num], expected.scores, atol=1e-5)
    np.testing.assert_allclose(outputs["detection_boxes"][0, :num], expected.boxes_normalized, atol=1e-4)


@pytest.mark.no_cover  # tracing is slow under coverage
def test_programs_to_plan_with_hold_the_last_stage(single_config):
    train, detection = hlo.TrainStep(single_config), hlo.DetectionStep(single_config)
    program = train.lower(2)
    assert b"gradient_tape/feature_extractor" in program
    assert b"last_stage" in program and b"last_stage" in detection.lower(1)
    assert detection.state_bytes < train.state_bytes
