"""`tools/convert/voc.py`: PASCAL VOC gives the records of COCO JSON, and every mistake in words."""

from __future__ import annotations

import pytest

from object_detection_fpn.tools.convert import detect, voc
from object_detection_fpn.tools.convert.sources import Options, SourceError


def write_xml(scene, folder, name, extra=""):
    rows = "".join(
        f"<object><name>{label}</name><difficult>0</difficult><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin><xmax>{b[2]}"
        f"</xmax><ymax>{b[3]}</ymax></bndbox></object>"
        for label, b in scene.boxes[name]
    )
    width, height = scene.sizes[name]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (name.split(".")[0] + ".xml")
    path.write_text(
        f"<annotation><filename>{name}</filename><size><width>{width}</width><height>{height}</height></size>{rows}{extra}"
        "</annotation>"
    )
    return path


@pytest.fixture
def source(scene, tmp_path):
    folder = tmp_path / "VOC"
    scene.draw(folder / "JPEGImages")
    for name in scene.sizes:
        write_xml(scene, folder / "Annotations", name)
    return folder


def test_records_are_those_of_coco(scene, source):
    assert detect.detect(str(source)).format == "voc"
    scene.check(source, source, scene.coco("JPEGImages/"))


def test_xml_beside_images_in_folders_of_splits(scene, source):
    for split, name in (("train", "a.jpg"), ("valid", "c.jpg")):
        scene.draw(source.parent / "flat" / split, [name])
        write_xml(scene, source.parent / "flat" / split, name)
    found = detect.read_source(str(source.parent / "flat"), Options())
    assert [(split.name, split.dataset.images[0].file_name) for split in found.splits] == [
        ("train", "train/a.jpg"),
        ("val", "valid/c.jpg"),
    ]
    assert found.splits[0].dataset.names == found.splits[1].dataset.names == {1: "cat", 2: "dog"}


def test_lists_are_splits(source):
    lists = source / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("c\nx\n")
    (lists / "val.txt").write_text("a\n")
    found = voc.read(str(source), Options())
    assert [(split.name, [image.id for image in split.dataset.images]) for split in found.splits] == [
        ("train", [1]),
        ("val", [2]),
    ]
    assert "1 names have no XML file and were left out, the first is x." in found.notes[0]
    assert found.notes[1] == "1 XML files are in none of the lists and were left out, the first is b.xml."


def test_a_devkit_is_opened(scene, source):
    devkit = source.parent / "VOCdevkit"
    devkit.mkdir()
    source.rename(devkit / "VOC2007")
    assert len(voc.read(str(devkit), Options()).splits[0].dataset.images) == 3
    write_xml(scene, devkit / "VOC2012" / "Annotations", "a.jpg")
    with pytest.raises(SourceError, match=r"has 2 sets of PASCAL VOC: VOC2007, VOC2012. Allowed: name one of them."):
        voc.recognize(str(devkit))


def test_difficult_objects_and_files_that_name_other_endings(scene, source):
    corners = "<xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>3</ymax>"
    extra = f"<object><name>cat</name><difficult>1</difficult><bndbox>{corners}</bndbox></object>"
    path = write_xml(scene, source / "Annotations", "a.jpg", extra)
    path.write_text(path.read_text().replace("a.jpg", "photos/other.jpeg").replace("<width>40<", "<width>0<"))
    first, *_ = scene.records(source)
    assert first["image/object/difficult"] == [0, 0, 1]
    assert first["image/width"] == [40]
    assert first["image/filename"] == [b"JPEGImages/a.jpg"]


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("</annotation>", "", r"a.xml: is not XML \(no element found"),
        ("annotation>", "note>", r"a.xml: its root is <note>. Allowed: <annotation>."),
        ("<xmin>10</xmin>", "", r"object 1 of .*a.xml lacks bndbox/xmin. Allowed: xmin, ymin, xmax, ymax in pixels."),
        ("<xmin>10<", "<xmin>ten<", r'object 1 of .*a.xml: bndbox/xmin = "ten". Allowed: a finite number.'),
        ("<xmin>10<", "<xmin>nan<", r'bndbox/xmin = "nan". Allowed: a finite number.'),
        ("<name>cat</name>", "", r"object 1 of .*a.xml has no name. Allowed: the name of a class."),
        ("<width>40<", "<width>wide<", r'a.xml: size/width = "wide". Allowed: a whole number of pixels.'),
        ("<width>40<", "<width>-4<", r'a.xml: size/width = "-4". Allowed: a whole number of pixels.'),
        ("<difficult>0<", "<difficult>2<", r'object 1 of .*a.xml: difficult = "2". Allowed: 0 or 1.'),
        (
            "<filename>",
            '<object><name>emu</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></object><filename>',
            r'object 1 of .*a.xml is of class "emu". Allowed: cat, dog.',
        ),
    ],
)  # fmt: skip
def test_mistakes_are_named(source, old, new, message):
    path = source / "Annotations" / "a.xml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(SourceError, match=message):
        voc.read(str(source), Options(class_names=["cat", "dog"]))
