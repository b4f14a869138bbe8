"""`tools/convert/yolo.py`: YOLO gives the records of COCO JSON, and every mistake in words."""

from __future__ import annotations

import pytest
from PIL import Image

from object_detection_fpn.tools.convert import detect, yolo
from object_detection_fpn.tools.convert.sources import Options, SourceError


@pytest.fixture
def source(scene, tmp_path):
    """Boxes; image b has no text file."""
    folder = tmp_path / "yolo"
    scene.draw(folder / "images" / "train")
    labels = folder / "labels" / "train"
    labels.mkdir(parents=True)
    for name, rows in scene.boxes.items():
        width, height = scene.sizes[name]
        lines = [
            f"{['cat', 'dog'].index(label)} {(x1 + x2) / 2 / width:.9f} {(y1 + y2) / 2 / height:.9f} {(x2 - x1) / width:.9f} "
            f"{(y2 - y1) / height:.9f}\n"
            for label, (x1, y1, x2, y2) in rows
        ]
        if lines:
            (labels / name).with_suffix(".txt").write_text("".join(lines))
    (folder / "data.yaml").write_text("path: /elsewhere/yolo\ntrain: ../images/train\nnc: 2\nnames: [cat, dog]\n")
    return folder


def test_records_are_those_of_coco(scene, source):
    assert detect.detect(str(source)) == ("yolo", str(source / "data.yaml"))
    written = scene.check(source, source, scene.coco("images/train/"))
    assert "1 images have no text file, so that they show none of the classes" in written.report.notes[0]


def test_polygons_become_masks(scene, source):
    square = [10, 5, 20, 5, 20, 15, 10, 15]
    (source / "labels" / "train" / "a.txt").write_text("1 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.75\n")
    (source / "labels" / "train" / "c.txt").write_text("")
    fields = {"category_id": 2, "bbox": [10, 5, 10, 10], "area": 100, "segmentation": [square]}
    scene.check(source, source, scene.coco("images/train/", objects={"a.jpg": [fields]}))
    found, *_ = scene.records(source, Options(with_masks=False))
    assert "image/object/mask" not in found


def test_ids_with_gaps_and_lists_of_files(scene, source):
    (source / "list.txt").write_text("./images/train/c.jpg\nimages/train/a.jpg\nimages/train/a.jpg\n")
    (source / "data.yaml").write_text("val: list.txt\nnames:\n  7: bird\n  1: dog\n  0: cat\n")
    found = yolo.read(str(source / "data.yaml"), Options())
    assert found.splits[0].name == "val"
    assert [image.file_name for image in found.splits[0].dataset.images] == ["images/train/c.jpg", "images/train/a.jpg"]
    assert found.splits[0].dataset.names == {1: "cat", 2: "dog", 3: "bird"}
    assert "have gaps" in found.notes[0]


def test_boxes_of_rotated_photographs_are_of_what_viewers_show(scene, source):
    exif = Image.Exif()
    exif[274] = 3  # upside down: its size does not tell
    Image.new("RGB", (40, 20)).save(source / "images" / "train" / "a.jpg", exif=exif)
    first, *_ = scene.records(source)
    assert first["image/object/bbox/xmin"][0] == pytest.approx(0.25)


def test_a_missing_image_is_left_to_the_conversion(scene, source):
    (source / "list.txt").write_text("images/train/a.jpg\nimages/train/none.jpg\n")
    (source / "data.yaml").write_text("train: list.txt\nnames: [cat, dog]\n")
    report = scene.convert(source).report.to_json()
    assert report["missing"]["count"] == 1 and "none.jpg, which does not exist" in report["missing"]["first"][0]


def test_the_user_names_the_folder_that_the_paths_start_from(scene, source):
    (source / "data.yaml").rename(source.parent / "data.yaml")
    found = yolo.read(str(source.parent / "data.yaml"), Options(image_dir=str(source)))
    assert found.splits[0].image_dir == str(source) and len(found.splits[0].dataset.images) == 3


@pytest.mark.parametrize(
    "text, message",
    [
        ("names: [cat", r"data.yaml: is not YAML \(while parsing"),
        ("names", r"data.yaml: holds no keys. Allowed: names, and train, val or test."),
        ("names: cat", r'data.yaml: names = "cat". Allowed: a list of class names'),
        ("names: [cat, cat]", r'names has "cat" twice'),
        ("names: {a: cat}", r'names has "a": "cat". Allowed: ids from 0 on'),
        ("names: [cat]\nnc: 2", r"nc = 2, but names has 1. Allowed: the number of names."),
        ("names: [cat]\npath: [1]", r'path = "\[1\]". Allowed: a folder.'),
        ("names: [cat]", r"has none of train, val and test. Allowed: folders of images"),
        ("names: [cat]\ntrain: none", r'train = "none", which does not exist in .*. Allowed: a folder or a file.'),
        ("names: [cat]\ntrain: 3", r"train = 3. Allowed: a folder of images or a text file with their paths."),
        ("names: [cat]\ntrain: labels", r'train = "labels" has no images.'),
        ("names: [cat]\ntrain: images", r"line 2 of .*a.txt: class = 1, which is not among the names. Allowed: 0."),
    ],
)
def test_mistakes_of_the_yaml_are_named(source, text, message):
    (source / "data.yaml").write_text(text)
    with pytest.raises(SourceError, match=message):
        yolo.read(str(source), Options())


@pytest.mark.parametrize(
    "line, message",
    [
        (
            "0 0.5 0.5 0.1",
            r"line 1 of .*a.txt has 4 values. Allowed: class x_center y_center width height, or class x y",
        ),
        ("0 0.5 0.5 0.1 0.1 0.9", r"line 1 of .*a.txt has 6 values"),
        ("cat 0.5 0.5 0.1 0.1", r'line 1 of .*a.txt: value 1 = "cat". Allowed: class x_center'),
        ("0 0.5 nan 0.1 0.1", r'value 3 = "nan"'),
        ("0.5 0.5 0.5 0.1 0.1", r"class = 0.5, which is not among the names. Allowed: 0, 1."),
        ("0 20 10 5 5", r"line 1 of .*a.txt: 20 10 5 5 are no fractions. Allowed: fractions of the image, 0 to 1."),
    ],
)
def test_mistakes_of_a_line_are_named(source, line, message):
    (source / "labels" / "train" / "a.txt").write_text(line)
    with pytest.raises(SourceError, match=message):
        yolo.read(str(source), Options())


def test_labels_that_are_not_found_are_refused(source):
    (source / "labels").rename(source / "txt")
    with pytest.raises(
        SourceError, match=r"none of the 3 images of train has a text file; that of .*/labels/train/a.txt"
    ):
        yolo.read(str(source), Options())
