"""Prediction of files: the JSON, the drawings, and what happens to images that cannot be read."""

from __future__ import annotations

import io
import json
import logging

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image

from object_detection_fpn import builder
from object_detection_fpn.jobs import export as export_job
from object_detection_fpn.jobs.predict import Predictor, make_predictor, predict_files

CATEGORIES = [{"id": 2, "name": "square"}, {"id": 1, "name": "circle"}]


def serve(image):
    """Two detections an image: a square at a fixed place, scored 0.9, and one of class 8, scored by the image's mean."""
    return {
        "detection_boxes": np.array([[[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.5, 0.5], [0.0] * 4]], np.float32),
        "detection_scores": np.array([[0.9, image.mean() / 255, 0.0]], np.float32),
        "detection_classes": np.array([[2.0, 8.0, 1.0]], np.float32),
        "num_detections": np.array([2.0], np.float32),
    }


@pytest.fixture(scope="module")
def predictor():
    return Predictor(serve, categories=CATEGORIES)


def write_image(path, *, height=40, width=60, value=102, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path, **options)
    return str(path)


def predict(predictor, paths, folder, **options):
    report = predict_files(predictor, paths, output_dir=str(folder), show_progress=False, **options)
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


def serve_masks(image):
    """`serve`, whose detections are what lies left of the middle of their boxes."""
    masks = np.broadcast_to(np.float32([0.9, 0.9, 0.1, 0.1]), (1, 3, 4, 4))
    return serve(image) | {"detection_masks": masks}


def test_masks_are_coco_results_and_drawn(tmp_path):
    coco_mask = pytest.importorskip("pycocotools.mask")
    coco = pytest.importorskip("pycocotools.coco").COCO()
    path = write_image(tmp_path / "a.png", height=200, width=300)
    predictor = Predictor(serve_masks, categories=CATEGORIES)
    _, content = predict(predictor, [path], tmp_path / "out", min_score=0.3)
    expected = np.zeros((2, 200, 300), bool)
    expected[0, 50:150, 150:225] = expected[1, :100, :75] = True
    masks = [coco_mask.decode(found["segmentation"]) for found in content["detections"]]
    np.testing.assert_array_equal(masks, expected)
    assert content["detections"][0]["segmentation"]["size"] == [200, 300]
    coco.dataset = {"info": {}, "images": content["images"], "categories": content["categories"], "annotations": []}
    coco.createIndex()
    results = coco.loadRes(content["detections"])
    np.testing.assert_array_equal(results.annToMask(results.anns[1]), expected[0])
    drawn = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert (drawn[70:130, 160:215] != 102).any(axis=-1).all()  # inside of the mask of the square
    assert (drawn[70:130, 240:290] == 102).all()  # inside of its box alone


def test_masks_of_a_saved_model_that_pastes_are_taken_as_they_are(tmp_path):
    coco_mask = pytest.importorskip("pycocotools.mask")
    pixels = np.random.default_rng(0).integers(0, 2, (1, 3, 40, 60), dtype=np.uint8)
    predictor = Predictor(lambda image: serve(image) | {"detection_masks": pixels}, categories=CATEGORIES)
    path = write_image(tmp_path / "a.png")
    _, content = predict(predictor, [path], tmp_path / "out", min_score=0.3, draw=False)
    masks = [coco_mask.decode(found["segmentation"]) for found in content["detections"]]
    np.testing.assert_array_equal(masks, pixels[0, :2])


MASKS = """
number_of_stages: 3
mask_pasting: PIXEL_CENTERS
second_stage_box_predictor { mask_rcnn_box_predictor {
  predict_instance_masks: true
  conv_hyperparams { batch_norm { scale: true } }
  mask_prediction_conv_depth: 6
  mask_upsampling: TRANSPOSED_CONVOLUTION
  mask_height: 28
  mask_width: 28
} }
"""


@pytest.mark.no_cover
@pytest.mark.usefixtures("tiny_resnet18")
def test_a_checkpoint_and_what_is_exported_of_it_predict_the_same_masks(small_config, tmp_path):
    """Exported within their boxes and pasted; images of two sizes, none of which is that of the resized images."""
    coco_mask = pytest.importorskip("pycocotools.mask")
    config = type(small_config)()
    config.CopyFrom(small_config)
    text_format.Merge(MASKS, config.model.faster_rcnn)
    model = builder.build_model(config.model)
    rng = np.random.default_rng(0)
    for variable in model.mask_head.variables:
        if "kernel" in variable.name:  # as different as trained ones
            variable.assign(rng.normal(0, 2 / np.sqrt(np.prod(variable.shape[:-1])), variable.shape))
    checkpoint = tf.train.Checkpoint(model=model).save(str(tmp_path / "model" / "ckpt"))
    images = []
    for name, size in (("a.png", (50, 70, 3)), ("b.png", (90, 60, 3))):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(tmp_path / name)
        images.append(str(tmp_path / name))
    found = {}
    predictors = {"checkpoint": make_predictor(config, checkpoint=checkpoint)}
    for name in ("within", "pasted"):
        folder = str(tmp_path / name)
        export_job.export(config, checkpoint=checkpoint, output_dir=folder, paste_masks=name == "pasted")
        predictors[name] = Predictor.from_saved_model(folder)
        outputs = tf.saved_model.load(folder + "/saved_model").signatures["serving_default"].structured_outputs
        assert outputs["detection_masks"].dtype == (tf.uint8 if name == "pasted" else tf.float32)
        assert outputs["detection_masks"].shape.as_list() == [None, 40] + [None if name == "pasted" else 28] * 2
    for name, predictor in predictors.items():
        _, content = predict(predictor, images, tmp_path / f"{name}_out", min_score=0.0)
        found[name] = content["detections"]
        assert len({detection["image_id"] for detection in found[name]}) == 2
    masks = {name: [coco_mask.decode(each["segmentation"]) for each in rows] for name, rows in found.items()}
    assert 0.001 < np.mean([mask.mean() for mask in masks["checkpoint"]]) < 0.9
    assert found["pasted"] == found["within"]
    # Batch normalizations are folded in what is exported, which rounds otherwise.
    assert [each["category_id"] for each in found["pasted"]] == [each["category_id"] for each in found["checkpoint"]]
    assert max(np.mean(a != b) for a, b in zip(masks["pasted"], masks["checkpoint"], strict=True)) <= 0.001


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
        predict_files(predictor, [], output_dir=str(tmp_path))


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_photographs_are_upright_in_json_and_drawing(predictor, tmp_path, orientation):
    tags = Image.Exif()
    tags[274] = orientation
    path = write_image(tmp_path / "a.jpg", height=200, width=300, exif=tags)
    _, content = predict(predictor, [path], tmp_path / "out")
    (image,) = content["images"]
    width, height = (200, 300) if orientation == 6 else (300, 200)
    assert (image["width"], image["height"]) == (width, height)
    assert Image.open(tmp_path / "out" / "a.png").size == (width, height)
    assert content["detections"][0]["bbox"] == [width / 2, height / 4, width / 2, height / 2]
    said = {key: image.get(key) for key in ("exif_orientation", "frame")}
    turned = {"exif_orientation": orientation, "frame": "upright"}
    assert said == (turned if orientation > 1 else {"exif_orientation": None, "frame": None})


def test_images_in_the_output_folder_are_not_written_over(predictor, tmp_path):
    path = write_image(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    _, content = predict(predictor, [path], tmp_path)
    assert (tmp_path / "a.png").read_bytes() == before
    assert content["images"][0]["drawing"] == "a_2.png" and (tmp_path / "a_2.png").exists()


def test_an_output_folder_that_is_a_file_is_refused(predictor, tmp_path):
    path = write_image(tmp_path / "a.png")
    for folder in (path, path + "/out"):
        with pytest.raises(ValueError, match=r"output_dir = .* is (a file|no folder)"):
            predict_files(predictor, [path], output_dir=folder, show_progress=False)
