"""`tools/convert/labelme.py`: LabelMe gives the records of COCO JSON, and every mistake in words."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.tools.convert import detect, labelme
from object_detection_fpn.tools.convert.sources import Options, SourceError


def rectangle(label, box, **more):
    xmin, ymin, xmax, ymax = box
    return {"label": label, "points": [[xmax, ymin], [xmin, ymax]], "shape_type": "rectangle", "group_id": None, **more}


def write(scene, folder, name, shapes):
    width, height = scene.sizes[name]
    contents = {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": f"..\\photos\\{name}",
        "imageData": None,
    }
    contents |= {"imageWidth": width, "imageHeight": height}
    path = (folder / name).with_suffix(".json")
    path.write_text(json.dumps(contents))
    return path


@pytest.fixture
def source(scene, tmp_path):
    folder = scene.draw(tmp_path / "labelme")
    for name, boxes in scene.boxes.items():
        write(scene, folder, name, [rectangle(*each) for each in boxes])
    return folder


def test_records_are_those_of_coco(scene, source):
    assert detect.detect(str(source)) == ("labelme", str(source))
    scene.check(source, source, scene.coco())


def test_polygons_and_groups_become_masks(scene, source):
    parts = [[10, 5, 20, 5, 20, 15, 10, 15], [25, 5, 30, 5, 30, 10, 25, 10]]
    shapes = [
        {"label": "dog", "points": np.reshape(part, [-1, 2]).tolist(), "shape_type": "polygon", "group_id": 1}
        for part in parts
    ]
    write(scene, source, "a.jpg", [*shapes, {"label": "dog", "points": [[1, 2]], "shape_type": "point"}])
    fields = {"category_id": 1, "bbox": [10, 5, 20, 10], "area": 125, "segmentation": parts}
    other = {"category_id": 1, "bbox": [1, 2, 3, 4]}
    contents = scene.coco(objects={"a.jpg": [fields], "c.jpg": [other]}, categories=("dog",))
    written = scene.check(source, source, contents)
    assert written.report.notes == ['1 shapes of kind "point" were left out.']


def test_a_circle_has_the_mask_of_its_disk(scene, source):
    write(scene, source, "b.png", [{"label": "cat", "points": [[15, 15], [15, 25]], "shape_type": "circle"}])
    _, found, _ = scene.records(source)
    (mask,) = found["image/object/mask"]
    assert tf.reduce_sum(tf.cast(tf.io.decode_png(mask) > 0, tf.int32)).numpy() == pytest.approx(np.pi * 100, rel=0.02)
    assert found["image/object/bbox/xmin"] == [pytest.approx(5 / 30)]


@pytest.mark.parametrize(
    "shape, message",
    [
        (1, r"shape 1 of .*a.json is 1. Allowed: an object."),
        ({"label": "", "shape_type": "polygon"}, r'shape 1 of .*a.json: label = "". Allowed: the name of a class.'),
        ({"label": "a", "shape_type": "blob"}, r'shape_type = "blob". Allowed: rectangle, polygon, circle, point'),
        (rectangle("\ud800", (1, 2, 3, 4)), r'the name "\\ud800" is no text in Unicode. Allowed: names in UTF-8.'),
        (rectangle("a\0", (1, 2, 3, 4)), r"has a character 0. Allowed: names without."),
        ({"label": "a", "points": [[1, 2]]}, r"points = \[\[1, 2\]\]. Allowed: 3 points \[x, y\] or more."),
        ({"label": "a", "points": [[1], [2], [3]]}, r"points has \[1\]. Allowed: \[x, y\] in pixels."),
        ({"label": "a", "points": [[1, "x"], [2, 2], [3, 3]]}, r'y = "x". Allowed: a finite number.'),
    ],
)
def test_mistakes_are_named(scene, source, shape, message):
    write(scene, source, "a.jpg", [shape])
    with pytest.raises(SourceError, match=message):
        labelme.read(str(source), Options())


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"shapes": [', r"a.json: is not JSON"),
        ("[1]", r"a.json: is \[1\]. Allowed: an object."),
        ('{"shapes": 1}', r"a.json: shapes = 1. Allowed: a list."),
        ('{"shapes": [], "imagePath": null}', r"a.json: imagePath = null. Allowed: the name of an image file."),
        (
            '{"shapes": [], "imagePath": "a.jpg", "imageWidth": "w"}',
            r'a.json: imageWidth = "w". Allowed: a whole number',
        ),
    ],
)
def test_broken_files_are_named(source, text, message):
    (source / "a.json").write_text(text)
    with pytest.raises(SourceError, match=message):
        labelme.read(str(source), Options())
