"""Records with context from training to serving: train, stop, resume, evaluate, export, predict, plan."""

from __future__ import annotations

import json
from pathlib import Path

import measuring
import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.cli import main
from object_detection_fpn.config import pipeline as config
from object_detection_fpn.config import recipes
from object_detection_fpn.data.context import FEATURES_KEY, LENGTH_KEY
from object_detection_fpn.jobs import evaluate as evaluate_job
from object_detection_fpn.jobs import export as export_job
from object_detection_fpn.jobs import predict as predict_job
from object_detection_fpn.jobs import train as train_job
from object_detection_fpn.tools.planning import hlo

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

_LENGTH = 5


def add_context(pattern: str, folder: Path) -> str:
    """Copies records; number n gets n features."""
    random = np.random.default_rng(0)
    for path in sorted(tf.io.gfile.glob(pattern)):
        with tf.io.TFRecordWriter(str(folder / Path(path).name)) as writer:
            for number, serialized in enumerate(tf.data.TFRecordDataset(path).as_numpy_iterator()):
                example = tf.train.Example.FromString(serialized)
                example.features.feature[FEATURES_KEY].float_list.value.extend(random.random(number * _LENGTH).tolist())
                example.features.feature[LENGTH_KEY].int64_list.value.append(_LENGTH)
                writer.write(example.SerializeToString())
    return str(folder / Path(pattern).name)


@pytest.fixture(scope="module")
def context_config(shapes_data, tmp_path_factory):
    """The recipe of drawn scenes with context, made small."""
    folder = tmp_path_factory.mktemp("context")
    reading = [
        f'{reader}.{field}="{value}"'
        for reader, pattern in (
            ("train_input_reader", shapes_data.train_records),
            ("eval_input_reader[0]", shapes_data.eval_records),
        )
        for field, value in (
            ("tf_record_input_reader.input_path[0]", add_context(pattern, folder)),
            ("label_map_path", shapes_data.label_map_path),
        )
    ]
    small = [
        "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer.min_dimension=64",
        "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer.max_dimension=64",
        "model.faster_rcnn.first_stage_max_proposals=20",
        "model.faster_rcnn.second_stage_batch_size=16",
        "model.faster_rcnn.second_stage_post_processing.batch_non_max_suppression.score_threshold=0",
        "model.faster_rcnn.context_config.max_num_context_features=3",
        f"model.faster_rcnn.context_config.context_feature_length={_LENGTH}",
        "model.faster_rcnn.context_config.attention_bottleneck_dimension=6",
        "train_config.batch_size=2",
        "eval_config.batch_size=4",
        "eval_config.num_visualizations=2",
    ]
    recipe = recipes.recipe_path("context_rcnn_resnet18_fpn_recipe_shapes_160x160")
    return config.load_config(recipe, [*small, *reading], require_data=["train", "eval"])


@pytest.fixture(scope="module")
def trained(context_config, tiny_resnet18_throughout, untraced, tmp_path_factory) -> Path:
    """Two steps, stopped, and one more."""
    model_dir = tmp_path_factory.mktemp("model")
    with untraced(), measuring.unmeasured():
        train_job.train(context_config, model_dir=str(model_dir), num_steps=2)
        result = train_job.train(context_config, model_dir=str(model_dir), num_steps=3)
    assert result.step == 3
    return model_dir


def test_training_moves_the_statistics_of_attention(trained):
    stored = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(trained)))
    name = "model/context_attention/key/norm/moving_mean/.ATTRIBUTES/VARIABLE_VALUE"
    assert np.any(stored.get_tensor(name) != 0)


def test_models_with_context_are_evaluated(trained, context_config, untraced, tmp_path):
    with untraced():
        metrics = evaluate_job.evaluate(context_config, checkpoint=str(trained), output_dir=str(tmp_path))
    assert {"DetectionBoxes_Precision/mAP", "Loss/BoxClassifierLoss/classification_loss"} <= set(metrics)


@pytest.fixture(scope="module")
def exported(trained, context_config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    with measuring.unmeasured():
        export_job.export(context_config, checkpoint=str(trained), output_dir=str(folder), input_type="image_tensor")
    return folder


def test_records_are_predicted_alike_by_checkpoint_and_export(trained, exported, context_config, tmp_path):
    (path, *_) = sorted(tf.io.gfile.glob(context_config.eval_input_reader[0].tf_record_input_reader.input_path[0]))
    with measuring.unmeasured():
        predictors = {
            "checkpoint": predict_job.make_predictor(context_config, checkpoint=str(trained)),
            "export": predict_job.Predictor.from_saved_model(str(exported)),
        }
        contents = {}
        for name, predictor in predictors.items():
            report = predict_job.predict_files(
                predictor, [path], output_dir=str(tmp_path / name), min_score=0.0, show_progress=False
            )
            assert report.exit_code == 0 and report.num_detections > 0
            contents[name] = json.loads((tmp_path / name / "detections.json").read_text())
    one, other = contents.values()
    assert [image["record"] for image in one["images"]] == [f"{path}:{i}" for i in range(len(one["images"]))]
    assert all((tmp_path / "export" / image["drawing"]).exists() for image in other["images"])
    scores = [[found["score"] for found in content["detections"]] for content in (one, other)]
    np.testing.assert_allclose(*scores, atol=1e-4)


def test_image_files_have_no_context_which_is_said_in_one_line(exported, tmp_path, capfd):
    path = tmp_path / "a.png"
    path.write_bytes(tf.io.encode_png(np.zeros([8, 8, 3], np.uint8)).numpy())
    words = ["predict", str(path), "--saved_model", str(exported), "--output_dir", str(tmp_path / "out")]
    assert main.main(words) == 2
    assert capfd.readouterr().err.splitlines()[-1] == (
        f"error: The model looks at context features, which the image file {path} does not have. Allowed: TFRecord files whose "
        f"records have the image and image/context_features, of length {_LENGTH}."
    )


def test_a_record_of_another_length_is_passed_over_and_named(exported, tmp_path):
    example = tf.train.Example()
    png = tf.io.encode_png(np.zeros([8, 8, 3], np.uint8)).numpy()
    example.features.feature["image/encoded"].bytes_list.value.append(png)
    path = str(tmp_path / "a.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(example.SerializeToString())
        example.features.feature[FEATURES_KEY].float_list.value.extend([0.5] * 4)
        example.features.feature[LENGTH_KEY].int64_list.value.append(4)
        writer.write(example.SerializeToString())
    predictor = predict_job.Predictor.from_saved_model(str(exported))
    report = predict_job.predict_files(predictor, [path], output_dir=str(tmp_path / "out"), show_progress=False)
    assert report.failures == {
        f"{path}:0": f"the record has no image/context_features; the model needs those of length {_LENGTH}",
        f"{path}:1": f"the record has context features of length 4; the model needs those of length {_LENGTH}",
    }


@pytest.mark.usefixtures("tiny_resnet18_throughout")
@pytest.mark.parametrize("make", [hlo.TrainStep, hlo.DetectionStep])
def test_steps_with_context_are_planned(context_config, make):
    message = type(context_config)()
    message.CopyFrom(context_config)
    assert len(make(message).lower(2)) > 0
