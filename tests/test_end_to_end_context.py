"""Records with context, from training to serving: train, resume, evaluate, export, predict, each command a process; plan."""

from __future__ import annotations

from pathlib import Path

import commands
import numpy as np
import pytest
import support
import tensorflow as tf

from object_detection_fpn.cli import main
from object_detection_fpn.config import pipeline as config
from object_detection_fpn.config import recipes
from object_detection_fpn.data.context import FEATURES_KEY, LENGTH_KEY
from object_detection_fpn.jobs import predict as predict_job
from object_detection_fpn.tools.planning import hlo

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

RECIPE = "context_rcnn_resnet18_fpn_recipe_shapes_160x160"
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
def context_overrides(shapes_data, tmp_path_factory) -> list[str]:
    """Of the recipe of drawn scenes with context, which they make small."""
    folder = tmp_path_factory.mktemp("context")
    patterns = [add_context(each, folder) for each in (shapes_data.train_records, shapes_data.eval_records)]
    return [
        *support.reading_overrides(*patterns, shapes_data.label_map_path),
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


@pytest.fixture(scope="module")
def context_config(context_overrides):
    return config.load_config(recipes.recipe_path(RECIPE), context_overrides, require_data=["train", "eval"])


@pytest.fixture(scope="module")
def records(context_config) -> str:
    """A file of records with context."""
    (path, *_) = sorted(tf.io.gfile.glob(context_config.eval_input_reader[0].tf_record_input_reader.input_path[0]))
    return path


@pytest.fixture(scope="module")
def ran(context_overrides, records, shapes_data, untraced, tmp_path_factory) -> commands.Ran:
    return commands.run_all(
        tmp_path_factory.mktemp("ran"),
        RECIPE,
        context_overrides,
        inputs=records,
        label_map=shapes_data.label_map_path,
        untraced=untraced,
    )


def test_training_moves_the_statistics_of_attention(ran):
    stored = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(ran.model_dir)))
    name = "model/context_attention/key/norm/moving_mean/.ATTRIBUTES/VARIABLE_VALUE"
    assert np.any(stored.get_tensor(name) != 0)


def test_models_with_context_are_evaluated(ran):
    assert {"DetectionBoxes_Precision/mAP", "Loss/BoxClassifierLoss/classification_loss"} <= set(ran.metrics)


def test_records_are_predicted_alike_by_checkpoint_and_export(ran, records):
    commands.assert_same_detections(ran.found, ran.expected, side=96, scores=1e-4)
    images = ran.found["images"]
    assert [image["record"] for image in images] == [f"{records}:{i}" for i in range(len(images))]
    assert ran.expected["images"] == images
    assert all((ran.folder / "found" / image["drawing"]).exists() for image in images)


def test_image_files_have_no_context_which_is_said_in_one_line(ran, tmp_path, capfd):
    path = tmp_path / "a.png"
    path.write_bytes(tf.io.encode_png(np.zeros([8, 8, 3], np.uint8)).numpy())
    words = ["predict", str(path), "--saved_model", str(ran.exported), "--output_dir", str(tmp_path / "out")]
    assert main.main(words) == 2
    assert capfd.readouterr().err.splitlines()[-1] == (
        f"error: The model looks at context features, which the image file {path} does not have. Allowed: TFRecord files whose "
        f"records have the image and image/context_features, of length {_LENGTH}."
    )


def test_a_record_of_another_length_is_passed_over_and_named(ran, tmp_path):
    example = tf.train.Example()
    png = tf.io.encode_png(np.zeros([8, 8, 3], np.uint8)).numpy()
    example.features.feature["image/encoded"].bytes_list.value.append(png)
    path = str(tmp_path / "a.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(example.SerializeToString())
        example.features.feature[FEATURES_KEY].float_list.value.extend([0.5] * 4)
        example.features.feature[LENGTH_KEY].int64_list.value.append(4)
        writer.write(example.SerializeToString())
    predictor = predict_job.Predictor.from_saved_model(str(ran.exported))
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
