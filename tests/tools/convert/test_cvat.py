"""`tools/convert/cvat.py`: CVAT's XML gives the records of COCO JSON, and every mistake in words."""

from __future__ import annotations

import pytest

from object_detection_fpn.tools.convert import cvat, detect
from object_detection_fpn.tools.convert.sources import Options, SourceError

LABELS = "<label><name>cat</name></label><label><name>dog</name></label>"
META = f"<version>1.1</version><meta><job><labels>{LABELS}</labels></job></meta>"


def write(scene, folder, shapes, attributes=""):
    """Writes annotations.xml; `shapes` is XML by image."""
    images = "".join(
        f'<image id="{i}" name="{name}" width="{size[0]}" height="{size[1]}"{attributes}>{shapes.get(name, "")}</image>'
        for i, (name, size) in enumerate(scene.sizes.items())
    )
    path = folder / "annotations.xml"
    path.write_text(f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{META}{images}</annotations>')
    return path


def box(label, corners, more=""):
    return '<box label="{}" xtl="{}" ytl="{}" xbr="{}" ybr="{}"{}></box>'.format(label, *corners, more)


@pytest.fixture
def source(scene, tmp_path):
    folder = tmp_path / "cvat"
    scene.draw(folder / "images")
    write(scene, folder, {name: "".join(box(*each) for each in rows) for name, rows in scene.boxes.items()})
    return folder


def test_records_are_those_of_coco(scene, source):
    assert detect.detect(str(source)) == ("cvat", str(source / "annotations.xml"))
    scene.check(source, source, scene.coco("images/"))


def test_polygons_masks_and_turned_boxes(scene, source):
    polygon = [10, 5, 20, 5, 20, 15, 10, 15]
    shapes = (
        '<polygon label="dog" points="10,5;20,5;20,15;10,15"/>'
        '<mask label="cat" rle="1,2,3" left="2" top="4" width="3" height="2"/>'
        '<box label="dog" xtl="10" ytl="5" xbr="20" ybr="9" rotation="90"/>'
        '<points label="cat" points="1,2"/><tag label="cat"/>'
    )
    write(scene, source, {"a.jpg": shapes}, ' subset="default"')
    counts = [3 * 20 + 4, 1, 19, 1, 715]  # pixels (3, 4) and (4, 4), in columns of 20
    turned = [17, 2, 17, 12, 13, 12, 13, 2]
    fields = [
        {"category_id": 2, "bbox": [10, 5, 10, 10], "area": 100, "segmentation": [polygon]},
        {"category_id": 1, "bbox": [2, 4, 3, 2], "area": 2, "segmentation": {"size": [20, 40], "counts": counts}},
        {"category_id": 2, "bbox": [13, 2, 4, 10], "area": 40, "segmentation": [turned]},
    ]
    written = scene.check(source, source, scene.coco("images/", objects={"a.jpg": fields}))
    assert written.report.notes == ["1 shapes of kind <points> were left out."]


def test_subsets_are_splits(scene, source):
    write(scene, source, {"a.jpg": box("cat", (1, 2, 3, 4))}, ' subset="Train set"')
    assert [split.name for split in cvat.read(str(source), Options()).splits] == ["train_set"]


@pytest.mark.parametrize(
    "shape, message",
    [
        (box("emu", (1, 2, 3, 4)), r'box 1 of .*annotations.xml: image "a.jpg" is of class "emu". Allowed: cat, dog.'),
        (box("", (1, 2, 3, 4)), r'box 1 of .* lacks label. Allowed: the name of a class.'),
        (box("cat", (1, 2, "x", 4)), r'box 1 of .*: xbr = "x". Allowed: a finite number.'),
        ('<polygon label="cat" points="1,2;3,4"/>', r'polygon 1 of .*: points = "1,2;3,4". Allowed: x,y;x,y;x,y and more.'),
        ('<polygon label="cat" points="1,2;3,4;5,x"/>', r'points = "x". Allowed: x,y;x,y;x,y and more.'),
        ('<mask label="cat" rle="1,2" left="2" top="4" width="3" height="2"/>', r"rle adds up to 3. Allowed: width x h"),
        ('<mask label="cat" rle="x" left="2" top="4" width="3" height="2"/>', r'rle = "x". Allowed: whole numbers'),
        (
            '<mask label="cat" rle="6" left="39" top="4" width="3" height="2"/>',
            r"left, top, width, height = \[39, 4, 3, 2\]. Allowed: a rectangle inside the image, 40 x 20.",
        ),
        ("</image><image>", r"image None lacks name. Allowed: the name of an image file."),
        ('</image><image name="a.jpg">', r'image "a.jpg" occurs twice. Allowed: each image once.'),
        ("</image><track/><image>", r'has tracks, of a video. Allowed: exports as "CVAT for images 1.1".'),
        ("<box>", r"annotations.xml: is not XML \(mismatched tag"),
    ],
)  # fmt: skip
def test_mistakes_are_named(scene, source, shape, message):
    write(scene, source, {"a.jpg": shape})
    with pytest.raises(SourceError, match=message):
        cvat.read(str(source), Options())


def test_several_files_are_refused(source):
    (source / "more.xml").write_text((source / "annotations.xml").read_text())
    with pytest.raises(SourceError, match="has several CVAT files"):
        cvat.recognize(str(source))
