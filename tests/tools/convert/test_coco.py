"""`tools/convert/coco.py`: COCO to records and back, and every mistake in words."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from object_detection_fpn.data.source.coco import CocoError
from object_detection_fpn.tools.convert import coco, to_coco


@pytest.fixture
def data(tmp_path):
    """A small COCO data set (as a dict to change) and a function that writes and converts it."""
    image_dir = tmp_path / "images"
    image_dir.mkdir()
    for i, (name, size) in enumerate({"a.jpg": (40, 20), "b.png": (30, 30), "c.jpg": (10, 50)}.items()):
        Image.new("RGB", size, (40 * i, 100, 200)).save(image_dir / name)
    contents = {
        "images": [
            {"id": 11, "file_name": "a.jpg", "width": 40, "height": 20},
            {"id": 5, "file_name": "b.png", "width": 30, "height": 30},
            {"id": 7, "file_name": "c.jpg", "width": 10, "height": 50},
        ],
        "annotations": [
            {"id": 1, "image_id": 11, "category_id": 90, "bbox": [10, 5, 20, 10], "area": 120.5, "iscrowd": 0},
            {"id": 2, "image_id": 11, "category_id": 3, "bbox": [0, 0, 40, 20], "area": 800, "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]},
        ],
        "categories": [{"id": 90, "name": 'tooth"brush'}, {"id": 3, "name": "car"}],
    }

    def convert(**options):
        path = tmp_path / "coco.json"
        path.write_text(json.dumps(contents))
        options = {"label_map_path": str(tmp_path / "label_map.pbtxt"), "show_progress": False, **options}
        return coco.coco_to_tfrecords(str(path), str(image_dir), str(tmp_path / "out" / "train"), **options)

    return contents, convert


def features(path: str) -> list:
    records = tf.data.TFRecordDataset(path).as_numpy_iterator()
    return [tf.train.Example.FromString(record).features.feature for record in records]


def test_records_hold_what_coco_says(data, tmp_path):
    _, convert = data
    conversion = convert(num_shards=2)
    files = sorted(tf.io.gfile.glob(conversion.record_pattern))
    assert [Path(f).name for f in files] == ["train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"]
    first, third = features(files[0])  # images are dealt out in turn
    (second,) = features(files[1])
    assert [f["image/source_id"].bytes_list.value[0] for f in (first, second, third)] == [b"11", b"5", b"7"]
    assert first["image/object/class/label"].int64_list.value == [90, 3]
    assert first["image/object/class/text"].bytes_list.value == [b'tooth"brush', b"car"]
    assert first["image/object/is_crowd"].int64_list.value == [0, 1]
    assert first["image/object/area"].float_list.value == [120.5, 800]
    box = [first[f"image/object/bbox/{s}"].float_list.value[0] for s in ("ymin", "xmin", "ymax", "xmax")]
    np.testing.assert_allclose(box, [0.25, 0.25, 0.75, 0.75])
    assert first["image/height"].int64_list.value == [20] and first["image/width"].int64_list.value == [40]
    assert first["image/format"].bytes_list.value == [b"jpeg"] and second["image/format"].bytes_list.value == [b"png"]
    assert first["image/encoded"].bytes_list.value == [(tmp_path / "images" / "a.jpg").read_bytes()]
    assert len(second["image/object/class/label"].int64_list.value) == 0
    assert third["image/object/area"].float_list.value == [12]
    assert conversion[2:] == (3, 3, 0, 0)


def test_label_map_has_the_category_ids_and_names(data):
    _, convert = data
    text = Path(convert().label_map_path).read_text()
    assert text == 'item {\n  id: 3\n  name: "car"\n}\n\nitem {\n  id: 90\n  name: "tooth\\"brush"\n}\n'


def test_classes_can_be_numbered_anew(data):
    _, convert = data
    conversion = convert(renumber_classes=True)
    (first, *_) = features(tf.io.gfile.glob(conversion.record_pattern)[0])
    assert first["image/object/class/label"].int64_list.value == [2, 1]
    assert 'id: 2\n  name: "tooth' in Path(conversion.label_map_path).read_text()


@pytest.mark.parametrize("bbox", [[5, 5, 0, 4], [5, 5, 4, -1], [60, 5, 4, 4], [-9, 5, 4, 4]])
def test_boxes_without_area_in_the_image_are_dropped_with_a_count(data, bbox):
    contents, convert = data
    contents["annotations"][0]["bbox"] = bbox
    assert convert()[2:] == (3, 2, 1, 0)


def test_boxes_are_clipped_to_the_image(data):
    contents, convert = data
    contents["annotations"][0]["bbox"] = [30, -5, 20, 15]
    (first, *_) = features(tf.io.gfile.glob(convert().record_pattern)[0])
    box = [first[f"image/object/bbox/{s}"].float_list.value[0] for s in ("ymin", "xmin", "ymax", "xmax")]
    np.testing.assert_allclose(box, [0, 0.75, 0.5, 1])


def test_other_image_formats_are_stored_as_png(data, tmp_path):
    contents, convert = data
    Image.new("RGB", (40, 20), (1, 2, 3)).save(tmp_path / "images" / "a.bmp")
    contents["images"][0]["file_name"] = "a.bmp"
    (first, *_) = features(tf.io.gfile.glob(convert().record_pattern)[0])
    encoded = first["image/encoded"].bytes_list.value[0]
    assert first["image/format"].bytes_list.value == [b"png"]
    assert tf.io.decode_png(encoded)[0, 0].numpy().tolist() == [1, 2, 3]


def change(path, value):
    """A change of the data set: `path` leads to what becomes `value`."""

    def apply(contents):
        *way, last = path
        for key in way:
            contents = contents[key]
        contents[last] = value

    return apply


@pytest.mark.parametrize(
    "spoil, words",
    [
        (change(["images", 1, "file_name"], "no.jpg"), "image 5 names .*no.jpg, which does not exist"),
        (change(["images", 1, "width"], 31), "image 5 is said to be 31 x 30 pixels, but .*b.png is 30 x 30"),
        (change(["images", 1, "id"], 11), "image id 11 occurs twice"),
        (change(["images"], []), "lists no images"),
        (change(["images", 0], {"id": 1}), "image 1 lacks 'file_name'. Allowed: text"),
        (change(["images"], None), "has no list 'images'"),
        (change(["categories"], []), "lists no categories"),
        (change(["categories", 0, "id"], 3), "category id 3 occurs twice"),
        (change(["categories", 0], {"id": 3}), "category 3 lacks 'name'. Allowed: text"),
        (change(["categories", 1, "id"], 0), "category id 0 is below 1, and 0 is the background's.*--renumber_classes"),
        (change(["annotations", 0, "category_id"], 4), "annotation 1 has category id 4, .* Allowed: 3, 90"),
        (change(["annotations", 0, "image_id"], 4), "annotation 1 is of image id 4, which is not among the images"),
        (
            change(["annotations", 2, "bbox"], [1, 2, 3]),
            r"annotation 3 has bbox \[1, 2, 3\]. Allowed: four finite numbers",
        ),
        (change(["annotations", 2, "bbox"], [1, 2, 3, math.nan]), "annotation 3 has bbox .*NaN"),
        (
            change(["annotations", 2, "bbox"], [1, 2, 3, "4"]),
            "annotation 3 has bbox .* text, not a number. Allowed: four",
        ),
        (change(["annotations", 2, "bbox"], None), "annotation 3 has no bbox. Allowed: four finite numbers"),
    ],
)
def test_mistakes_are_refused_in_words_and_leave_no_records(data, tmp_path, spoil, words):
    contents, convert = data
    spoil(contents)
    with pytest.raises(CocoError, match=words) as caught:
        convert()
    assert str(tmp_path / "coco.json") in str(caught.value)
    assert not list((tmp_path / "out").glob("*.tfrecord")) if (tmp_path / "out").exists() else True


def test_an_image_that_cannot_be_read_is_refused(data, tmp_path):
    _, convert = data
    (tmp_path / "images" / "b.png").write_bytes(b"not an image")
    with pytest.raises(CocoError, match=r"b.png \(image 5 of .*\): the image \(12 bytes\) cannot be read"):
        convert()


def test_files_that_are_no_json_or_not_there_are_refused(tmp_path):
    def convert(path):
        return coco.coco_to_tfrecords(str(path), str(tmp_path), str(tmp_path / "o"), show_progress=False)

    with pytest.raises(CocoError, match="there is no such file"):
        convert(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(CocoError, match="is not JSON"):
        convert(tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(CocoError, match="has no list 'images'"):
        convert(tmp_path / "list.json")


def test_no_shards_are_refused(data):
    _, convert = data
    with pytest.raises(ValueError, match="num_shards = 0"):
        convert(num_shards=0)


def test_records_become_the_same_coco_again(data, tmp_path):
    contents, convert = data
    conversion = convert(num_shards=2)
    categories = {3: "car", 90: 'tooth"brush'}
    path = to_coco.tfrecords_to_coco(
        conversion.record_pattern, str(tmp_path / "back"), categories=categories, show_progress=False
    )
    back = json.loads(Path(path).read_text())
    assert back["categories"] == sorted(contents["categories"], key=lambda c: c["id"])
    assert {i["id"]: (i["width"], i["height"]) for i in back["images"]} == {11: (40, 20), 5: (30, 30), 7: (10, 50)}
    found = sorted(back["annotations"], key=lambda a: (-a["image_id"], a["iscrowd"]))
    for annotation, original in zip(found, contents["annotations"], strict=True):
        assert annotation["image_id"] == original["image_id"]
        assert annotation["category_id"] == original["category_id"]
        assert annotation["iscrowd"] == original.get("iscrowd", 0)
        assert annotation["area"] == original.get("area", 12)
        np.testing.assert_allclose(annotation["bbox"], original["bbox"], atol=1e-4)
    (file_name,) = [i["file_name"] for i in back["images"] if i["id"] == 11]
    assert (tmp_path / "back" / "images" / file_name).read_bytes() == (tmp_path / "images" / "a.jpg").read_bytes()
