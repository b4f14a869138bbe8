"""Prediction of files: the JSON, the drawings, and what happens to images that cannot be read."""

from __future__ import annotations

import io
import json
import logging

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from PIL import Image

from object_detection_fpn import records
from object_detection_fpn.data import resize
from object_detection_fpn.jobs.predict import Predictor, UnreadableImageError, find_images, read_image
from object_detection_fpn.serving.saved_model import INPUT_TYPES, export_saved_model
from object_detection_fpn.training.stored import CheckpointError

CATEGORIES = [{"id": 2, "name": "square"}, {"id": 1, "name": "circle"}]


class MeanModel(tf_keras.layers.Layer):
    """Two detections an image: a square at a fixed place, scored 0.9, and one of class 8, scored by the image's mean."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.scale = self.add_weight(name="scale", shape=[], initializer=tf_keras.initializers.Constant(weight))

    def preprocess(self, inputs):
        return inputs._replace(images=inputs.images / 255.0)

    def predict(self, inputs, *, training):
        return tf.reduce_mean(inputs.images, axis=[1, 2, 3]) * self.scale

    def postprocess(self, predictions, inputs):
        batch_size = tf.shape(predictions)[0]
        boxes = [[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.5, 0.5], [0.0] * 4]
        return records.Detections(
            boxes=tf.tile([boxes], [batch_size, 1, 1]),
            scores=tf.stack([tf.fill([batch_size], 0.9), predictions, tf.zeros([batch_size])], axis=1),
            classes=tf.tile([[1, 7, 0]], [batch_size, 1]),
            num_detections=tf.fill([batch_size], 2),
        )


@pytest.fixture(scope="module")
def predictor():
    return Predictor.from_model(model=MeanModel(), resizer=resize.identity(), categories=CATEGORIES)


def write_image(path, *, height=40, width=60, value=102, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path, **options)
    return str(path)


def predict(predictor, paths, folder, **options):
    report = predictor.predict_files(paths, output_dir=str(folder), show_progress=False, **options)
    return report, json.loads((folder / "detections.json").read_text())


def test_json_holds_pixels_names_and_scores(predictor, tmp_path):
    path = write_image(tmp_path / "a.png")
    report, content = predict(predictor, [path], tmp_path / "out", min_score=0.3)
    for found in content["detections"]:
        found["score"] = round(found["score"], 3)
    assert content == {
        "images": [{"id": 1, "file_name": path, "width": 60, "height": 40, "drawing": "a.png"}],
        "detections": [
            {"image_id": 1, "category_id": 2, "category_name": "square", "bbox": [30, 10, 30, 20], "score": 0.9},
            {"image_id": 1, "category_id": 8, "category_name": "id 8", "bbox": [0, 0, 30, 20], "score": 0.4},
        ],
        "categories": [{"id": 1, "name": "circle"}, {"id": 2, "name": "square"}],
        "failures": [],
    }
    assert (report.num_images, report.num_detections, report.failures, report.exit_code) == (1, 2, {}, 0)
    assert report.json_path == str(tmp_path / "out" / "detections.json")


def test_detections_load_as_coco_results(predictor, tmp_path):
    coco = pytest.importorskip("pycocotools.coco").COCO()
    path = write_image(tmp_path / "a.png")
    _, content = predict(predictor, [path], tmp_path / "out")
    coco.dataset = {"info": {}, "images": content["images"], "categories": content["categories"], "annotations": []}
    coco.createIndex()
    assert coco.loadRes(content["detections"]).anns[1]["area"] == 30 * 20


def test_detections_below_the_score_are_left_out_but_not_their_image(predictor, tmp_path):
    path = write_image(tmp_path / "a.png")
    _, content = predict(predictor, [path], tmp_path / "out", min_score=0.95)
    assert content["detections"] == [] and len(content["images"]) == 1
    drawn = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert (drawn == 102).all()


def test_drawings_show_the_detections(predictor, tmp_path):
    path = write_image(tmp_path / "a.png", height=200, width=300)
    predict(predictor, [path], tmp_path / "out", min_score=0.3)
    drawn = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert drawn.shape == (200, 300, 3)
    assert (drawn[149, 151:299] != 102).any(axis=-1).all()  # the lower edge of the square, and only the edge:
    assert (drawn[100, 160:290] == 102).all()


def test_drawings_can_be_left_out(predictor, tmp_path):
    path = write_image(tmp_path / "a.png")
    _, content = predict(predictor, [path], tmp_path / "out", draw=False)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["detections.json"]
    assert "drawing" not in content["images"][0]


def test_images_of_one_name_keep_their_own_drawings(predictor, tmp_path):
    paths = [write_image(tmp_path / name) for name in ("x/a.png", "y/a.png", "y/A.jpg", "y/a_2.png")]
    _, content = predict(predictor, paths, tmp_path / "out")
    drawings = [image["drawing"] for image in content["images"]]
    assert len({name.lower() for name in drawings}) == 4
    assert all((tmp_path / "out" / name).exists() for name in drawings)


def test_unreadable_images_are_named_counted_and_passed_over(predictor, tmp_path, caplog):
    good, late = write_image(tmp_path / "good.png"), write_image(tmp_path / "late.jpg")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, format="JPEG")
    bad = {
        "text.jpg": (b"this is no image", "neither TensorFlow nor Pillow knows its format"),
        "empty.png": (b"", "the file is empty"),
        "cut.jpg": (whole.getvalue()[:1000], "truncated"),
        "missing.png": (None, "cannot be opened"),
    }
    for name, (content, _) in bad.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    paths = [good, *(str(tmp_path / name) for name in bad), late]
    with caplog.at_level(logging.WARNING):
        report, content = predict(predictor, paths, tmp_path / "out")
    assert report.exit_code == 1 and report.num_images == 2
    assert [image["file_name"] for image in content["images"]] == [good, late]
    assert [failure["file_name"] for failure in content["failures"]] == paths[1:-1]
    for name, (_, reason) in bad.items():
        assert reason in report.failures[str(tmp_path / name)], name
        assert f"{tmp_path / name} cannot be read and is passed over: " in caplog.text
    assert "4 of 6 images could not be read." in caplog.text


def test_no_paths_are_refused(predictor, tmp_path):
    with pytest.raises(ValueError, match="no images to predict"):
        predictor.predict_files([], output_dir=str(tmp_path))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".gif", ".tif"])
def test_formats_of_tensorflow_and_pillow_are_read(tmp_path, suffix):
    path = write_image(tmp_path / f"a{suffix}", value=102)
    pixels = read_image(path)
    assert pixels.shape == (40, 60, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - 102).max() <= 1
    assert read_image(path, num_channels=1).shape == (40, 60, 1) or suffix == ".bmp"


def test_unreadable_file_says_why(tmp_path):
    with pytest.raises(UnreadableImageError, match="cannot be opened"):
        read_image(str(tmp_path / "none.png"))


def test_folders_files_and_patterns_are_found_once_in_order(tmp_path):
    paths = [write_image(tmp_path / name) for name in ("b/2.png", "b/1.JPG", "b/c/3.webp", "a.png")]
    (tmp_path / "b" / "notes.txt").write_text("no image")
    folder = str(tmp_path / "b")
    assert find_images([paths[3], folder]) == [paths[3], paths[1], paths[0], paths[2]]
    assert find_images([paths[0], folder, paths[3]]) == [paths[0], paths[1], paths[2], paths[3]]
    assert find_images([str(tmp_path / "b" / "*.png")]) == [paths[0]]
    assert find_images([str(tmp_path / "b" / "notes.txt")]) == [str(tmp_path / "b" / "notes.txt")]


def test_nothing_found_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"folder .*empty holds no images. Looked for: \.jpg"):
        find_images([str(tmp_path / "empty")])
    with pytest.raises(FileNotFoundError, match=r"no image, folder or match of a pattern named .*none\.jpg"):
        find_images([str(tmp_path / "none.jpg")])


@pytest.mark.parametrize("input_type", INPUT_TYPES)
def test_saved_models_of_every_input_type_predict_the_same(predictor, tmp_path, input_type):
    export_saved_model(
        model=MeanModel(), resizer=resize.identity(), input_type=input_type, output_dir=str(tmp_path),
        pipeline_config_text="",
    )  # fmt: skip
    image = np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)
    expected = predictor.predict(image)
    for folder in (tmp_path, tmp_path / "saved_model"):
        found = Predictor.from_saved_model(str(folder)).predict(image)
        assert found.class_ids.tolist() == [2, 8]
        for field, value in zip(found, expected, strict=True):
            np.testing.assert_allclose(field, value, rtol=1e-5)


def test_grey_saved_model_gets_grey_images(tmp_path):
    export_saved_model(
        model=MeanModel(), resizer=resize.identity(), input_type="image_tensor", output_dir=str(tmp_path / "model"),
        pipeline_config_text="", num_channels=1,
    )  # fmt: skip
    predictor = Predictor.from_saved_model(str(tmp_path / "model"))
    for name in ("a.png", "a.webp"):  # TensorFlow reads one, Pillow the other
        _, content = predict(predictor, [write_image(tmp_path / name)], tmp_path / "out", min_score=0.3)
        assert content["detections"][1]["score"] == pytest.approx(0.4, abs=0.01)


def test_weights_come_from_the_checkpoint(tmp_path):
    path = tf.train.Checkpoint(model=MeanModel(weight=0.5), step=tf.Variable(3)).write(str(tmp_path / "ckpt-1"))
    options = {"model": MeanModel(), "resizer": resize.identity()}
    predictor = Predictor.from_model(checkpoint_path=path, **options)
    assert predictor.predict(np.full((4, 4, 3), 204, np.uint8)).scores.tolist() == pytest.approx([0.9, 0.4])
    with pytest.raises(CheckpointError, match="ckpt-2"):
        Predictor.from_model(checkpoint_path=str(tmp_path / "ckpt-2"), **options)


def test_checkpoint_of_another_model_is_refused(tmp_path):
    path = tf.train.Checkpoint(model=tf_keras.layers.BatchNormalization()).write(str(tmp_path / "ckpt-1"))
    with pytest.raises(CheckpointError, match=r"ckpt-1: this checkpoint holds no detector \(its objects are model\)"):
        Predictor.from_model(checkpoint_path=path, model=MeanModel(), resizer=resize.identity())


def test_folder_without_saved_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no SavedModel in .*nowhere"):
        Predictor.from_saved_model(str(tmp_path / "nowhere"))


def test_saved_model_of_something_else_is_refused(tmp_path):
    module = tf.Module()
    module.double = tf.function(lambda x: {"y": 2 * x}, input_signature=[tf.TensorSpec([], tf.float32, name="x")])
    tf.saved_model.save(module, str(tmp_path), signatures=module.double)
    with pytest.raises(
        ValueError, match=r"no exported detector: .* takes \['x'\] and gives \['y'\]. Wanted: input_tensor"
    ):
        Predictor.from_saved_model(str(tmp_path))


def test_channels_that_no_image_file_has_are_refused():
    with pytest.raises(ValueError, match="images of 5 channels"):
        Predictor(lambda image: {}, num_channels=5)
