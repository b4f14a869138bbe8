"""`tools/convert/open_images.py`: Open Images gives the records of COCO JSON, and every mistake in words."""

from __future__ import annotations

import pytest

from object_detection_fpn.tools.convert import detect, open_images
from object_detection_fpn.tools.convert.sources import Options, SourceError

HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"


@pytest.fixture
def source(scene, tmp_path):
    folder = tmp_path / "oi"
    scene.draw(folder / "images")
    lines = [HEADER]
    for name, rows in scene.boxes.items():
        width, height = scene.sizes[name]
        for label, (x1, y1, x2, y2) in rows:
            sides = f"{x1 / width:.9f},{x2 / width:.9f},{y1 / height:.9f},{y2 / height:.9f}"
            lines.append(f"{name.split('.')[0]},xclick,/m/{label},1,{sides},0,0,0,0,0")
    (folder / "train-annotations-bbox.csv").write_text("\n".join(lines))
    (folder / "class-descriptions-boxable.csv").write_text("/m/dog,dog\n/m/cat,cat\n")
    return folder


def test_records_are_those_of_coco(scene, source):
    assert detect.detect(str(source)) == ("open_images", str(source / "train-annotations-bbox.csv"))
    scene.check(source, source, scene.coco("images/", ["a.jpg", "c.jpg"]))


def test_groups_are_crowds_and_files_are_splits(scene, source):
    path = source / "train-annotations-bbox.csv"
    text = f"{HEADER}\na,x,/m/cat,1,0,0.5,0,0.5,0,0,1,0,0\n"
    (source / "validation-annotations-bbox.csv").write_text(text)
    found = open_images.read(str(source), Options())
    assert [split.name for split in found.splits] == ["train", "val"]
    (rows,) = found.splits[1].dataset.annotations.values()
    assert rows[0].is_crowd
    assert found.splits[0].dataset.names == {1: "cat", 2: "dog"}
    path.rename(source / "boxes.csv")
    with pytest.raises(SourceError, match="has several files of boxes"):
        open_images.recognize(str(source))


def test_classes_have_codes_without_descriptions(scene, source):
    (source / "class-descriptions-boxable.csv").unlink()
    found = open_images.read(str(source / "train-annotations-bbox.csv"), Options())
    assert found.splits[0].dataset.names == {1: "/m/cat", 2: "/m/dog"}
    assert "classes have the codes as names" in found.notes[0]


def test_missing_images_are_left_to_the_conversion(scene, source):
    (source / "images" / "c.jpg").unlink()
    report = scene.convert(source).report.to_json()
    assert report["missing"]["count"] == 1 and "c.jpg, which does not exist" in report["missing"]["first"][0]


@pytest.mark.parametrize(
    "line, message",
    [
        (
            "a,x,/m/emu,1,0,0.5,0,0.5,0,0,1,0,0",
            r'line 2: LabelName = "/m/emu". Allowed: a code of the class descriptions.',
        ),
        ("a,x,/m/cat,1,0,12,0,0.5,0,0,1,0,0", r"line 2: XMax = 12. Allowed: a fraction of the image, 0 to 1."),
        ("a,x,/m/cat,1,0,x,0,0.5,0,0,1,0,0", r'line 2: XMax = "x". Allowed: a fraction of the image, 0 to 1.'),
        ("a,x,/m/cat,1", r"line 2 has fewer columns than the first line. Allowed: ImageID, LabelName"),
    ],
)
def test_mistakes_are_named(source, line, message):
    (source / "train-annotations-bbox.csv").write_text(f"{HEADER}\n{line}\n")
    with pytest.raises(SourceError, match=message):
        open_images.read(str(source), Options())
