"""`tools/convert/csv_boxes.py`: files of boxes give the records of COCO JSON, and every mistake in words."""

from __future__ import annotations

import pytest

from object_detection_fpn.tools.convert import csv_boxes, detect
from object_detection_fpn.tools.convert.sources import Options, SourceError

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax"


def rows(scene, form, empty):
    lines = []
    for name, boxes in scene.boxes.items():
        width, height = scene.sizes[name]
        for label, (x1, y1, x2, y2) in boxes:
            lines.append(form.format(name=name, w=width, h=height, label=label, x1=x1, y1=y1, x2=x2, y2=y2))
        if not boxes:
            lines.append(empty.format(name=name, w=width, h=height))
    return lines


@pytest.fixture
def source(scene, tmp_path):
    folder = scene.draw(tmp_path / "csv")
    lines = rows(scene, "{name},{w},{h},{label},{x1},{y1},{x2},{y2}", "{name},{w},{h},,,,,")
    (folder / "boxes.csv").write_text("\n".join([HEADER, *lines]))
    return folder


def test_records_are_those_of_coco(scene, source):
    assert detect.detect(str(source)) == ("csv", str(source / "boxes.csv"))
    scene.check(source, source, scene.coco())


@pytest.mark.parametrize(
    "header, form, empty",
    [
        ("", "{name},{x1},{y1},{x2},{y2},{label}", "{name},,,,,"),
        ("Path;Left;Top;Right;Bottom;Label", "x/{name};{x1};{y1};{x2};{y2};{label}", "x/{name};;;;;"),
        ("image\tx1\ty1\tx2\ty2\tlabel", "{name}\t{x1}\t{y1}\t{x2}\t{y2}\t{label}", "{name}\t\t\t\t\t"),
    ],
)
def test_other_columns_are_understood(scene, source, header, form, empty):
    (source / "boxes.csv").write_text("\n".join([*([header] if header else []), *rows(scene, form, empty)]))
    scene.check(source / "boxes.csv", source, scene.coco())


def test_a_column_or_folders_are_splits(scene, source):
    text = "split,filename,class,xmin,ymin,xmax,ymax\nTest,a.jpg,cat,1,2,3,4\ntrain,c.jpg,cat,1,2,3,4\n"
    (source / "boxes.csv").write_text(text)
    assert [split.name for split in csv_boxes.read(str(source), Options()).splits] == ["test", "train"]
    for split, name in (("train", "a.jpg"), ("valid", "c.jpg")):
        scene.draw(source / "parts" / split, [name])
        (source / "parts" / split / "_annotations.csv").write_text(f"{HEADER}\n{name},,,cat,1,2,3,4\n")
    found = csv_boxes.read(str(source / "parts"), Options())
    assert [(each.name, each.dataset.images[0].file_name) for each in found.splits] == [
        ("train", "train/a.jpg"),
        ("val", "valid/c.jpg"),
    ]


@pytest.mark.parametrize(
    "line, message",
    [
        ("a.jpg,40,20,cat,1,2,x,4", r'boxes.csv: line 2: xmax = "x". Allowed: a number of pixels.'),
        ("a.jpg,40,20,cat,1,2,,4", r'boxes.csv: line 2: xmax = "". Allowed: a number of pixels.'),
        ("a.jpg,40,20,,1,2,3,4", r'line 2: class = "". Allowed: the name of a class.'),
        ("a.jpg,40,20,cat,1,2", r"line 2 has 6 columns. Allowed: those of the first line."),
        (",40,20,cat,1,2,3,4", r"line 2 names no file. Allowed: the name of an image file."),
        ("a.jpg,4.5,20,cat,1,2,3,4", r'line 2: width = "4.5". Allowed: a whole number of pixels.'),
        (
            "a.jpg,40,20,cat,1,2,3,4\na.jpg,40,21,cat,1,2,3,4",
            r"line 3: 40 x 21 pixels. Allowed: \(40, 20\), as in the rows",
        ),
        ("", r"has no images \(CSV of boxes\)"),
        ("a.jpg,40,20,,,,,", r"has no objects, so there is nothing to detect \(CSV of boxes\)"),
    ],
)
def test_mistakes_are_named(source, line, message):
    (source / "boxes.csv").write_text(f"{HEADER}\n{line}\n")
    with pytest.raises(SourceError, match=message):
        csv_boxes.read(str(source), Options())


def test_other_bytes_than_utf_8_are_refused(source):
    (source / "boxes.csv").write_bytes(HEADER.encode() + b"\na\xff.jpg,1,1,cat,1,2,3,4")
    with pytest.raises(SourceError, match=r"boxes.csv: is not UTF-8 \(byte 0xff at 49\)"):
        csv_boxes.read(str(source), Options())


def test_several_files_are_refused(source):
    (source / "more.csv").write_text((source / "boxes.csv").read_text())
    with pytest.raises(SourceError, match=r"has several files of boxes: .*boxes.csv, .*more.csv. Allowed: name one"):
        csv_boxes.recognize(str(source))
