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
from object_detection_fpn.data.failures import DataError
from object_detection_fpn.jobs import export as export_job
from object_detection_fpn.jobs.predict import (
    CocoIds,
    Predictor,
    Tiling,
    find_named_images,
    make_predictor,
    predict_files,
)

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


def test_a_line_an_image_is_written_as_it_goes(tmp_path):
    """A run that ends in the middle leaves what it has found; an image that cannot be read has a line too."""
    paths = [write_image(tmp_path / f"{name}.png") for name in "abcd"]
    (tmp_path / "b.png").write_bytes(b"this is no image")
    seen = []

    def serve_two(image):
        seen.append(image)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return serve(image)

    for predictor, num_lines in ((Predictor(serve_two, categories=CATEGORIES), 3), (Predictor(serve), 4)):
        try:
            predict_files(
                predictor, paths, output_dir=str(tmp_path / "out"), output_format="jsonl", show_progress=False
            )
        except KeyboardInterrupt:
            assert num_lines == 3
        lines = [json.loads(line) for line in (tmp_path / "out" / "detections.jsonl").read_text().splitlines()]
        assert [line["file_name"] for line in lines] == paths[:num_lines]
        assert lines[1] == {"file_name": paths[1], "failure": "neither TensorFlow nor Pillow knows its format"}
        (detection,) = lines[2].pop("detections")
        assert lines[2] == {"id": 3, "file_name": paths[2], "width": 60, "height": 40, "drawing": lines[2]["drawing"]}
        name = predictor.names.get(2, "id 2")
        assert detection == {"category_id": 2, "category_name": name, "bbox": [30, 10, 30, 20], "score": 0.9}


def write_coco(path, names: dict) -> str:
    images = [{"id": image_id, "file_name": name, "width": 60, "height": 40} for name, image_id in names.items()]
    categories = [{"id": 2, "name": "square"}]
    path.write_text(json.dumps({"info": {}, "images": images, "categories": categories, "annotations": []}))
    return str(path)


def test_results_in_the_format_of_coco_have_the_ids_of_a_coco_file(predictor, tmp_path, caplog):
    coco = pytest.importorskip("pycocotools.coco")
    paths = [write_image(tmp_path / "photos" / name) for name in ("a.png", "b.png", "c.png")]
    file = write_coco(tmp_path / "instances.json", {"val/b.png": 17, "val/a.png": 4, "val/d.png": 5})
    report = predict_files(
        predictor, paths, output_dir=str(tmp_path / "out"), output_format="coco", show_progress=False,
        image_ids=CocoIds(file, paths), draw=False,
    )  # fmt: skip
    assert report.num_images == 2 and report.exit_code == 0
    assert "1 images are not in the file of image ids" in caplog.text
    content = json.loads((tmp_path / "out" / "detections_coco.json").read_text())
    assert content == [
        {"image_id": image_id, "category_id": 2, "bbox": [30.0, 10.0, 30.0, 20.0], "score": 0.9} for image_id in (4, 17)
    ]
    results = coco.COCO(file).loadRes(report.json_path)
    assert results.getImgIds() and len(results.anns) == 2


def test_images_of_coco_files_are_known_by_their_folders(tmp_path):
    file = write_coco(tmp_path / "a.json", {"cam1/1.png": 1, "cam2/1.png": 2, "2.png": 3})
    given = ["x/cam1/1.png", "x/cam2/1.png", "y/2.png", "cam3/1.png"]
    ids = CocoIds(file, given)
    assert [ids.take(path) for path in given] == [1, 2, 3, None]
    assert CocoIds(file, ["cam1/1.png"]).take("cam2/1.png", "9") == 2  # of a record
    with pytest.raises(DataError, match=r"the image 2 has the file name of both x/cam2/1.png and cam2/1.png"):
        ids.take("cam2/1.png")
    with pytest.raises(ValueError, match=r"the images 1 and 2 both have the file name of 1.png"):
        CocoIds(file, ["1.png"])
    with pytest.raises(ValueError, match=r"a.json lists none of the images, such as 3.png. .* such as cam1/1.png"):
        CocoIds(file, ["3.png"])


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "no JSON"),
        ("[]", "no list of images"),
        ('{"images": [{"id": 1}]}', r"images\[0\] = \{'id': 1\}. Allowed: an object with id and file_name"),
        (None, "does not exist"),
    ],
)
def test_a_file_of_image_ids_that_holds_none_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=f"a.json: .*{message}"):
        CocoIds(str(tmp_path / "a.json"))


def test_records_have_their_source_ids_and_other_images_are_counted(predictor, tmp_path):
    png = tf.io.encode_png(np.full([40, 60, 3], 102, np.uint8)).numpy()
    path = str(tmp_path / "a.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for source_id in (b"000139", b"2", b"x.jpg", b"2"):
            example = tf.train.Example()
            example.features.feature["image/encoded"].bytes_list.value.append(png)
            example.features.feature["image/source_id"].bytes_list.value.append(source_id)
            example.features.feature["image/filename"].bytes_list.value.append(b"val/%s.jpg" % source_id)
            writer.write(example.SerializeToString())
    image = write_image(tmp_path / "a.png")
    _, content = predict(predictor, [path, image], tmp_path / "out")
    assert [image["id"] for image in content["images"]] == [139, 2, 1, 3, 4]
    file = write_coco(tmp_path / "a.json", {"2.jpg": 77, "x.jpg.jpg": 78})
    with pytest.raises(DataError, match=r"the image 77 has the file name of both val/2.jpg and val/2.jpg"):
        predict(predictor, [path], tmp_path / "again", image_ids=CocoIds(file))


def test_drawings_of_a_folder_keep_its_subfolders_and_the_order_of_frames(predictor, tmp_path):
    for name in ("cam1/frame_10.jpg", "cam1/frame_2.jpg", "cam2/frame_1.jpg", "cam2/frame_1.png"):
        write_image(tmp_path / "frames" / name)
    write_image(tmp_path / "b" / "frame_3.png")
    names = find_named_images([str(tmp_path / "frames")])
    _, content = predict(predictor, list(names), tmp_path / "out", names=names)
    drawings = ["cam1/frame_2.png", "cam1/frame_10.png", "cam2/frame_1.png", "cam2/frame_1_2.png"]
    assert [image["drawing"] for image in content["images"]] == drawings
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")) == sorted(
        drawings
    )
    # Drawings in a folder of results below are no images of the next run; several folders have their own names.
    predict(predictor, list(names), tmp_path / "frames" / "out", names=names)
    again = find_named_images([str(tmp_path / "frames")], output_dir=str(tmp_path / "frames" / "out"))
    assert again == names
    both = find_named_images([str(tmp_path / "frames" / "cam2"), str(tmp_path / "b")])
    assert list(both.values()) == ["cam2/frame_1.jpg", "cam2/frame_1.png", "b/frame_3.png"]


def serve_batch(images):
    """`serve` of each image; all have the same number of rows."""
    found = [serve(np.asarray(image)[np.newaxis]) for image in images]
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def test_following_images_of_one_size_are_detected_at_once(predictor, tmp_path):
    sizes = [(40, 60), (40, 60), (40, 60), (50, 60), (50, 60)]
    paths = [
        write_image(tmp_path / f"{i}.png", height=height, width=width, value=60 + 30 * i)
        for i, (height, width) in enumerate(sizes)
    ]
    (tmp_path / "bad.png").write_bytes(b"")
    paths.insert(4, str(tmp_path / "bad.png"))
    batches = []

    def serve_counted(images):
        batches.append(len(images))
        return serve_batch(images)

    together = Predictor(serve_counted, categories=CATEGORIES, takes_batches=True)
    _, expected = predict(predictor, paths, tmp_path / "one", min_score=0.2)
    _, content = predict(together, paths, tmp_path / "two", min_score=0.2, batch_size=2)
    assert content == expected and batches == [2, 1, 1, 1]
    with pytest.raises(ValueError, match=r"batch_size = 0. Allowed: 1 and more"):
        predict(together, paths, tmp_path / "two", batch_size=0)


def test_tiles_of_an_image_are_merged_in_results_and_drawing(predictor, tmp_path):
    path = write_image(tmp_path / "a.png", height=100, width=180, value=20)
    _, content = predict(predictor, [path], tmp_path / "out", tiling=Tiling(100, 0.2))
    # A square from 0.5 to 1 of each tile: that of the first ends at its border, and the second sees nothing there.
    assert [found["bbox"] for found in content["detections"]] == [[50, 25, 50, 50], [130, 25, 50, 50]]
    drawn = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert drawn.shape == (100, 180, 3) and (drawn[74, 51:99] != 20).any(axis=-1).all()
