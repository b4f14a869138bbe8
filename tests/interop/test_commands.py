"""A checkpoint of the Object Detection API goes into everything one does with a pipeline config."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from PIL import Image

from object_detection_fpn import builder
from object_detection_fpn.config import pipeline as config
from object_detection_fpn.jobs import evaluate as evaluate_job
from object_detection_fpn.jobs import export as export_job
from object_detection_fpn.jobs import predict as predict_job
from object_detection_fpn.jobs import train as train_job
from object_detection_fpn.training.stored import CheckpointError

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.fixture
def api_config(small_config, build_small):
    """The small recipe with a backbone that the API would have."""
    build_small()  # puts the small backbone where ResNet-50 is
    message = type(small_config)()
    message.CopyFrom(small_config)
    message.model.faster_rcnn.feature_extractor.type = "faster_rcnn_resnet50_fpn_keras"
    message.train_config.optimizer.momentum_optimizer.learning_rate.constant_learning_rate.learning_rate = 0.0
    return message


@pytest.fixture
def api_run(api_config, save_as_api, tmp_path):
    """A model and the folder of its run, whose newest checkpoint is number 2, of step 7."""
    tf_keras.utils.set_random_seed(5)
    model = builder.build_model(api_config.model)
    save_as_api(model, tmp_path / "api", step=7, number=2)
    return model, str(tmp_path / "api")


def test_it_is_evaluated(api_config, api_run, tmp_path):
    api_config.train_config.num_steps = 7  # evaluating the last step ends the wait
    _, folder = api_run
    results = evaluate_job.evaluate_continuously(
        api_config, checkpoint_dir=folder, output_dir=str(tmp_path), timeout=60, sample_1_of_n_eval_examples=3
    )
    assert list(results) == [7]
    assert np.isfinite(results[7]["Loss/total_loss"])


def test_it_is_exported_and_predicts_as_it_is(api_config, api_run, shapes_data, tmp_path):
    _, folder = api_run
    export_job.export(api_config, checkpoint=folder, output_dir=str(tmp_path / "exported"))
    files = {str(path.relative_to(tmp_path / "exported")) for path in (tmp_path / "exported").rglob("*")}
    assert {
        "pipeline.config",
        "checkpoint/checkpoint",
        "checkpoint/ckpt-0.index",
        "checkpoint/ckpt-0.data-00000-of-00001",
        "saved_model/assets",
        "saved_model/saved_model.pb",
        "saved_model/variables/variables.index",
        "saved_model/variables/variables.data-00000-of-00001",
    } <= files
    assert config.load_config(str(tmp_path / "exported" / "pipeline.config")) == api_config

    image = np.asarray(Image.open(sorted(Path(shapes_data.eval_images).iterdir())[0]))
    expected = predict_job.make_predictor(api_config, checkpoint=folder).predict(image)
    assert len(expected.scores)
    serve = tf.saved_model.load(str(tmp_path / "exported" / "saved_model")).signatures["serving_default"]
    outputs = serve(input_tensor=tf.constant(image)[None])
    num = int(outputs["num_detections"][0])
    np.testing.assert_allclose(outputs["detection_scores"][0, :num], expected.scores, atol=1e-5)
    np.testing.assert_array_equal(outputs["detection_classes"][0, :num], expected.class_ids)
    assert {value.dtype for value in outputs.values()} == {tf.float32}
    assert {name: value.shape.rank for name, value in outputs.items()} == {
        "detection_boxes": 3,
        "detection_scores": 2,
        "detection_classes": 2,
        "num_detections": 1,
        "detection_multiclass_scores": 3,
        "detection_anchor_indices": 2,
        "raw_detection_boxes": 3,
        "raw_detection_scores": 3,
    }

    # What was exported is where the weights come from next.
    for exported in ("exported", "exported/saved_model"):
        again = predict_job.make_predictor(api_config, checkpoint=str(tmp_path / exported)).predict(image)
        np.testing.assert_array_equal(again.scores, expected.scores)


@pytest.mark.parametrize(
    "kind, is_deprecated_way, meant",
    [("detection", False, "detection"), ("", True, "detection"), ("", False, "full"), ("full", False, "full")],
)
def test_training_starts_from_it(api_config, api_run, capfd, kind, is_deprecated_way, meant):
    model, folder = api_run
    settings = api_config.train_config
    settings.fine_tune_checkpoint, settings.fine_tune_checkpoint_type = folder, kind
    settings.from_detection_checkpoint = is_deprecated_way
    trained = builder.build_model(api_config.model)
    train_job._initialize(api_config, trained)
    extractors = [*model.feature_extractor.variables, *model.box_head.feature_extractor.variables]
    num_restored = len(model.variables if meant == "full" else extractors)
    [title, restored, *_] = capfd.readouterr().out.splitlines()
    assert title == f"Weights from {folder}/ckpt-2 (of the Object Detection API), {meant}"
    assert restored.split() == ["restored", str(num_restored)]
    for variable, expected in zip(trained.feature_extractor.variables, model.feature_extractor.variables, strict=True):
        np.testing.assert_array_equal(variable, expected)
    is_same = np.array_equal(trained.box_head.class_predictor.kernel, model.box_head.class_predictor.kernel)
    assert is_same == (meant == "full")


def test_its_run_is_not_continued(api_config, api_run):
    _, folder = api_run
    before = sorted(Path(folder).iterdir())
    with pytest.raises(CheckpointError, match="written by the Object Detection API, whose runs are not continued"):
        train_job.train(api_config, model_dir=folder, num_steps=9)
    assert sorted(Path(folder).iterdir()) == before
