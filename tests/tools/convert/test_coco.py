"""`tools/convert/coco.py`: COCO to records and back, and every mistake in words."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from object_detection_fpn.config.label_map import load_label_map
from object_detection_fpn.data.decoder import Decoding, decode_example
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
    assert conversion[2:] == (3, 3, 0, 0, 0, 0)
    assert "image/object/mask" not in first


def test_records_hold_camera_sequence_and_date_where_coco_has_them(data):
    contents, convert = data
    first, second, third = contents["images"]
    first |= {
        "location": 7,
        "seq_id": "a1",
        "seq_num_frames": 3.0,
        "frame_num": 0,
        "date_captured": "2013-07-14 06:31:09",
    }
    second |= {"datetime": "2014-01-01 00:00:00", "date_captured": "", "location": "north \u00e9"}
    third |= {
        "location": None,
        "seq_id": [],
        "seq_num_frames": "3",
        "frame_num": 2**80,
        "date_captured": 1.5,
        "datetime": " ",
    }
    found = features(tf.io.gfile.glob(convert().record_pattern)[0])
    assert found[0]["image/location"].bytes_list.value == [b"7"]
    assert found[0]["image/seq_id"].bytes_list.value == [b"a1"]
    assert found[0]["image/seq_num_frames"].int64_list.value == [3]
    assert found[0]["image/seq_frame_num"].int64_list.value == [0]
    assert found[0]["image/date_captured"].bytes_list.value == [b"2013-07-14 06:31:09"]
    assert found[1]["image/date_captured"].bytes_list.value == [b"2014-01-01 00:00:00"]
    assert found[1]["image/location"].bytes_list.value == ["north \u00e9".encode()]
    for name in ("location", "seq_id", "seq_num_frames", "seq_frame_num", "date_captured"):
        assert f"image/{name}" not in found[2]


def read_masks(found):
    """The masks of a record, None for those that are empty."""
    encoded = found["image/object/mask"].bytes_list.value
    return [tf.io.decode_png(mask)[..., 0].numpy() > 0 if mask else None for mask in encoded]


def test_records_hold_masks_where_coco_has_segmentations(data, caplog):
    contents, convert = data
    first, crowd, _ = contents["annotations"]
    first["segmentation"] = [[10, 5, 20, 5, 20, 15, 10, 15], [25, 5, 30, 5, 30, 10, 25, 10]]
    crowd["segmentation"] = {"size": [20, 40], "counts": [0, 100, 700]}
    conversion = convert()
    found, *_, last = features(tf.io.gfile.glob(conversion.record_pattern)[0])
    expected = np.zeros([2, 20, 40], bool)
    expected[0, 5:15, 10:20] = expected[0, 5:10, 25:30] = expected[1, :, :5] = True
    np.testing.assert_array_equal(read_masks(found), expected)
    assert read_masks(last) == [None]
    assert conversion[2:] == (3, 3, 0, 0, 2, 0) and "3 boxes and 2 masks" in conversion.summary()
    assert (
        "1 objects have no segmentation: they are kept without a mask; the first is annotation 3 of image 7."
        in caplog.text
    )
    found, *_ = features(tf.io.gfile.glob(convert(with_masks=False).record_pattern)[0])
    assert "image/object/mask" not in found and len(found["image/object/area"].float_list.value) == 2
    first["segmentation"], crowd["segmentation"] = [], None
    found, *_ = features(tf.io.gfile.glob(convert().record_pattern)[0])
    assert "image/object/mask" not in found  # as if there were no such field


def test_what_is_odd_about_masks_is_counted_with_the_first_object(data, caplog):
    contents, convert = data
    square = [10, 5, 20, 5, 20, 15, 10, 15]
    segmentations = [
        ([[*square[:6], 10, 19]], False),  # below its box
        ([square, [1, 2, 3]], False),
        ([[-5, *square[1:]]], False),
        ({"size": [1, 2], "counts": [2]}, True),  # of a crowd, which is kept
        ([[1, 2, 3, 4, 5]], False),
        ([[1, 2, 3, 4, 5]], False),
        ([[10, 5, 20]], False),
    ]
    contents["annotations"] = [
        {
            "id": i,
            "image_id": 11,
            "category_id": 3,
            "bbox": [10, 5, 10, 10],
            "segmentation": segmentation,
            "iscrowd": crowd,
        }
        for i, (segmentation, crowd) in enumerate(segmentations, start=1)
    ]
    conversion = convert()
    assert conversion[2:] == (3, 4, 0, 0, 3, 3)
    assert "; 3 objects without a usable mask were left out." in conversion.summary()
    found, *_ = features(tf.io.gfile.glob(conversion.record_pattern)[0])
    assert [mask is None for mask in read_masks(found)] == [False, False, False, True]
    for line in (
        "annotation 5 of image 11 dropped: polygon [1, 2, 3, 4, 5] has 5 coordinates. Allowed: x, y, x, y, ....",
        "3 objects dropped, which have a polygon with an odd number of coordinates; the first is annotation 5 of image 11.",
        "2 objects have a mask that reaches more than a pixel beyond the box; the first is annotation 1 of image 11.",
        "1 objects have a mask that reaches more than a pixel beyond the image: it was clipped; the first is annotation 3",
        "1 objects have a part that is no polygon: it was left out of the mask; the first is annotation 2 of image 11.",
        "1 objects are crowds whose segmentation gives no mask: they are kept without one; the first is annotation 4",
        "3 of 7 objects were dropped because their segmentation gives no mask; --no_masks keeps their boxes.",
    ):
        assert line in caplog.text
    assert convert(with_masks=False).num_boxes == 7
    contents["annotations"] = contents["annotations"][4:]
    message = r"no object is left, and 3 were dropped .* The first is annotation 5 of image 11: polygon .* --no_masks"
    with pytest.raises(CocoError, match=message):
        convert()


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
    assert convert()[2:] == (3, 2, 1, 0, 0, 0)


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


RED = (30, 40, 10, 12)  # left, top, width, height of a red rectangle


def draw_photograph(path, orientation, size=(96, 64), **options):
    """A photograph that viewers show upright, `size` pixels, grey with a red rectangle; stored as `orientation` says."""
    upright = Image.new("RGB", size, (100, 100, 100))
    upright.paste((220, 30, 30), (RED[0], RED[1], RED[0] + RED[2], RED[1] + RED[3]))
    turns = dict(
        enumerate((None, 0, 3, 1, 5, 2, 6, 4), start=1)
    )  # the inverses of what viewers do, members of Transpose
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(turns[orientation]))
    tags = Image.Exif()
    tags[274] = orientation
    stored.save(path, exif=tags, **options)
    rows, columns = np.nonzero(is_red(np.asarray(stored)))
    box = (columns.min(), rows.min(), columns.max() + 1 - columns.min(), rows.max() + 1 - rows.min())
    return stored.size, [int(value) for value in box]


def is_red(pixels):
    return pixels[..., 0].astype(int) - pixels[..., 1] > 60


def convert_photograph(tmp_path, file_name, bbox, size, **options):
    """The record of one image, converted."""
    coco_path = tmp_path / "photo.json"
    image = {"id": 1, "file_name": file_name, "width": size[0], "height": size[1]}
    left, top, w, h = bbox
    polygon = [left, top, left + w, top, left + w, top + h, left, top + h]
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": bbox, "segmentation": [polygon]}
    coco_path.write_text(
        json.dumps({"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "red"}]})
    )
    conversion = coco.coco_to_tfrecords(
        str(coco_path), str(tmp_path), str(tmp_path / "out" / "r"), show_progress=False, **options
    )
    (found,) = features(tf.io.gfile.glob(conversion.record_pattern)[0])
    return conversion, found


def assert_box_is_on_red(found):
    encoded = found["image/encoded"].bytes_list.value[0]
    pixels = tf.io.decode_image(encoded, channels=3).numpy()
    assert pixels.shape[:2] == (found["image/height"].int64_list.value[0], found["image/width"].int64_list.value[0])
    rows, columns = np.nonzero(is_red(pixels))
    side = {"ymin": rows.min() / 64, "xmin": columns.min() / 96, "ymax": (rows.max() + 1) / 64}
    for name, value in side.items():
        assert found[f"image/object/bbox/{name}"].float_list.value[0] == pytest.approx(value, abs=0.02)
    assert pixels.shape == (64, 96, 3)
    (mask,) = found["image/object/mask"].bytes_list.value
    rows, columns = np.nonzero(tf.io.decode_png(mask)[..., 0].numpy())
    assert (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1) == RED
    with Image.open(io.BytesIO(encoded)) as stored:
        assert 274 not in stored.getexif()


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("frame", ["stored", "upright"])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_photographs_and_their_boxes_become_upright(tmp_path, orientation, frame, suffix):
    size, box = draw_photograph(tmp_path / f"a.{suffix}", orientation)
    if frame == "upright":
        size, box = (96, 64), list(RED)
    options = {"exif_boxes": frame} if orientation < 5 else {}  # otherwise width and height tell
    conversion, found = convert_photograph(tmp_path, f"a.{suffix}", box, size, **options)
    assert_box_is_on_red(found)
    assert conversion.num_turned == 1 and "1 photographs were turned upright" in conversion.summary()


@pytest.mark.parametrize("orientation, size", [(2, (96, 64)), (3, (96, 64)), (4, (96, 64)), (6, (None, None))])
def test_photographs_whose_size_does_not_tell_the_frame_of_the_boxes_are_refused(tmp_path, orientation, size):
    draw_photograph(tmp_path / "a.jpg", orientation)
    with pytest.raises(
        CocoError, match=rf"a.jpg of image 1 has EXIF orientation {orientation}, .*--exif_boxes upright"
    ):
        convert_photograph(tmp_path, "a.jpg", list(RED), size)


def test_a_size_of_neither_frame_is_refused(tmp_path):
    draw_photograph(tmp_path / "a.jpg", 6)
    with pytest.raises(CocoError, match=r"said to be 96 x 65 pixels, but .* is 64 x 96 \(96 x 64 upright\)"):
        convert_photograph(tmp_path, "a.jpg", list(RED), (96, 65))


def write_variants(folder):
    """Image files of many kinds: {name: whether they can be decoded}."""
    noise = np.random.default_rng(0).integers(0, 256, [20, 40, 4], np.uint8)
    rgb, rgba = Image.fromarray(noise[..., :3]), Image.fromarray(noise)
    rgb.save(folder / "rgb.jpg")
    rgb.save(folder / "progressive.jpg", progressive=True)
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    rgb.convert("L").save(folder / "grey.jpg")
    rgba.save(folder / "rgba.png")
    rgba.convert("LA").save(folder / "la.png")
    rgb.convert("P").save(folder / "palette.png")
    rgb.convert("1").save(folder / "bits.png")
    Image.fromarray(noise[..., 0].astype(np.uint16) << 8).save(folder / "grey16.png")
    Image.fromarray(noise[..., 0].astype(np.uint16) << 8).save(folder / "grey16.tif")
    rgb.save(folder / "still.webp")
    for name in ("moving.gif", "moving.webp", "moving.png"):
        rgb.save(folder / name, save_all=True, append_images=[rgb.rotate(180)])
    rgb.save(folder / "two.jpg", "MPO", save_all=True, append_images=[rgb.rotate(180)])
    rgb.save(folder / "jpeg.png", "JPEG")
    for name in ("rgb.jpg", "progressive.jpg", "rgba.png"):
        contents = (folder / name).read_bytes()
        for share in (0.5, 0.9):
            (folder / f"{share}_{name}").write_bytes(contents[: int(share * len(contents))])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_bytes(b"<html>404</html>")
    (folder / "folder.jpg").mkdir()
    return sorted(path.name for path in folder.iterdir())


def test_what_is_converted_can_be_trained_on(tmp_path):
    refused = []
    for name in write_variants(tmp_path):
        try:
            _, found = convert_photograph(tmp_path, name, [1, 2, 20, 10], (40, 20))
        except CocoError as error:
            refused.append(name)
            assert name in str(error)
            continue
        example = tf.train.Example(features=tf.train.Features(feature=dict(found))).SerializeToString()
        image = decode_example(tf.constant(example), Decoding(num_classes=1)).example.image
        assert image.shape == (20, 40, 3), name
        if name.startswith("grey16"):
            assert 100 < image.numpy().mean() < 150, name  # the upper 8 bits
    assert refused == [
        *("0.5_progressive.jpg", "0.5_rgb.jpg", "0.5_rgba.png", "0.9_progressive.jpg", "0.9_rgb.jpg", "0.9_rgba.png"),
        *("empty.jpg", "folder.jpg", "text.jpg"),
    ]


def test_label_maps_hold_any_name_that_is_not_empty(data):
    contents, convert = data
    names = [
        "a\"b'c",
        "back\\slash",
        "new\nline",
        "tab\t, bell\x07",
        "кошка",
        "猫",
        "قطة",
        " spaces ",
        "item { id: 1 }",
        "#",
    ]
    contents["categories"] = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    contents["annotations"] = [{"id": 1, "image_id": 5, "category_id": 1, "bbox": [1, 1, 5, 5]}]
    label_map = load_label_map(convert().label_map_path)
    assert [item.name for item in label_map.items] == names


@pytest.mark.parametrize(
    "bboxes, message",
    [
        ([], "has no annotations, so there is nothing to detect. --allow_no_boxes"),
        ([[100, 5, 4, 4], [200, 5, 4, 4]], r"all 2 boxes .* annotation 1, is \[100.0, 5.0, 4.0, 4.0\]: it lies outside"),
        ([[9, 5, -4, 4]], "all 1 boxes .* a width or height is not above 0: is bbox x, y, width, height"),
        ([[0.1, 0.2, 0.5, 0.4], [0, 0, 1, 1]], "all 2 boxes lie within the first pixel .* fractions of the image"),
    ],
)  # fmt: skip
def test_a_data_set_without_a_box_to_learn_is_refused(data, tmp_path, bboxes, message):
    contents, convert = data
    contents["annotations"] = [
        {"id": i, "image_id": 11, "category_id": 3, "bbox": bbox} for i, bbox in enumerate(bboxes, start=1)
    ]
    with pytest.raises(CocoError, match=message):
        convert()
    assert not list((tmp_path / "out").iterdir())
    if not bboxes:
        assert convert(allow_no_boxes=True).num_images == 3


def test_corners_in_place_of_sizes_are_suspected(data, caplog):
    contents, convert = data
    contents["annotations"] = [{"id": 1, "image_id": 11, "category_id": 3, "bbox": [20, 10, 38, 18]}]
    convert()
    assert (
        "1 of 1 boxes (100%) reach beyond their image and were clipped, the first in image 11: is bbox xmin"
        in caplog.text
    )


def test_an_older_set_of_records_is_removed_and_nothing_else(data, tmp_path):
    _, convert = data
    convert(num_shards=3)
    others = [
        "train-00000-of-00003.tfrecord.bak",
        "train-old.tfrecord",
        "train2-00000-of-00003.tfrecord",
        "train-1-of-3.tfrecord",
    ]
    for name in others:
        (tmp_path / "out" / name).write_bytes(b"")
    (tmp_path / "out" / "train-00001-of-00009.tfrecord.part").write_bytes(b"of a run that was killed")
    convert(num_shards=2)
    made = ["train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(made + others)


def test_a_failed_run_leaves_the_older_set_alone(data, tmp_path):
    contents, convert = data
    convert(num_shards=3)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    contents["images"][2]["width"] = 11
    with pytest.raises(CocoError, match="11 x 50"):
        convert(num_shards=2)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_paths_of_other_systems_are_found_and_wrong_ones_named(data, tmp_path):
    contents, convert = data
    (tmp_path / "images" / "sub").mkdir()
    (tmp_path / "images" / "a.jpg").rename(tmp_path / "images" / "sub" / "a.jpg")
    for file_name in ("sub\\a.jpg", "./sub/a.jpg", "../images/sub/a.jpg", str(tmp_path / "images" / "sub" / "a.jpg")):
        contents["images"][0]["file_name"] = file_name
        assert convert().num_images == 3
    for file_name, message in (("sub", "which is a folder"), ("C:\\photos\\a.jpg", "does not exist")):
        contents["images"][0]["file_name"] = file_name
        with pytest.raises(CocoError, match=message):
            convert()


def test_places_that_cannot_be_written_are_refused(data, tmp_path):
    _, convert = data
    path = tmp_path / "coco.json"
    convert()
    with pytest.raises(CocoError, match=r"coco.json/train: cannot be written"):
        coco.coco_to_tfrecords(str(path), str(tmp_path / "images"), str(path / "train"), show_progress=False)
    with pytest.raises(CocoError, match="names a folder"):
        coco.coco_to_tfrecords(str(path), str(tmp_path / "images"), str(tmp_path) + "/", show_progress=False)
    with pytest.raises(CocoError, match=r"nowhere: there is no such folder \(image_dir\)"):
        coco.coco_to_tfrecords(str(path), str(tmp_path / "nowhere"), str(tmp_path / "x"), show_progress=False)
    with pytest.raises(CocoError, match=r"num_shards = 4 is not allowed. Allowed: 1 to 3, the number of images"):
        convert(num_shards=4)


# fmt: off
GOOD = {
    "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 4, 4], "area": 16, "iscrowd": 0,
         "segmentation": [[1, 2, 5, 2, 5, 6]]},
    ],
    "categories": [{"id": 1, "name": "box"}],
}
# fmt: on
PLACES = [(key,) for key in GOOD]
PLACES += [(key, 0, field) for key, rows in GOOD.items() for field in rows[0]]
PLACES += [("annotations", 0, "bbox", i) for i in range(4)]
PLACES += [("annotations", 0, "segmentation", 0, *at) for at in ((), (0,), (3,))]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=3), children, max_size=2),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(place=st.sampled_from(PLACES), value=VALUES)
def test_any_value_anywhere_is_converted_or_refused(tmp_path_factory, place, value):
    folder = tmp_path_factory.mktemp("any")
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    contents = json.loads(json.dumps(GOOD))
    change(place, value)(contents)
    (folder / "coco.json").write_text(json.dumps(contents))
    with contextlib.suppress(CocoError):
        conversion = coco.coco_to_tfrecords(
            str(folder / "coco.json"), str(folder), str(folder / "out" / "r"), show_progress=False,
            label_map_path=str(folder / "map.pbtxt"),
        )  # fmt: skip
        assert conversion.num_boxes == 1
        assert len(load_label_map(conversion.label_map_path).items) == 1
