"""`tools/convert/whole.py`: all files or none, the same bytes however many processes, and a report of everything odd."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from object_detection_fpn.data.source.coco import CocoError
from object_detection_fpn.tools.convert import whole
from object_detection_fpn.tools.convert.sources import SourceError

HEADER = "filename,class,xmin,ymin,xmax,ymax"


@pytest.fixture
def source(scene, tmp_path):
    """Everything that a report tells, in a CSV file."""
    folder = scene.draw(tmp_path / "csv")
    shutil.copy(folder / "a.jpg", folder / "same.jpg")
    (folder / "broken.jpg").write_bytes((folder / "a.jpg").read_bytes()[:300])
    (folder / "text.png").write_text("no image")
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (20, 10), (1, 2, 3)).save(folder / "turned.jpg", exif=exif)
    rows = [
        "split,width,height,filename,class,xmin,ymin,xmax,ymax",
        "train,40,20,a.jpg,cat,10,5,30,15",
        "train,40,20,a.jpg,cat,10,5,30,15",
        "train,40,20,a.jpg,cat,10,5,10,15",
        "train,,,b.png,,,,,",
        "train,,,none.jpg,dog,1,2,3,4",
        "train,,,broken.jpg,dog,1,2,3,4",
        "train,,,text.png,dog,1,2,3,4",
        "train,11,50,c.jpg,dog,1,2,3,4",
        "test,,,same.jpg,dog,1,2,300,4",
        "test,10,20,turned.jpg,dog,1,2,3,4",
    ]
    (folder / "boxes.csv").write_text("\n".join(rows))
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_the_report_tells_everything_odd(scene, source, tmp_path):
    written = scene.convert(source)
    report = json.loads(Path(written.report_path).read_text())
    assert {kind: value["count"] for kind, value in report.items() if isinstance(value, dict) and "count" in value} == {
        "missing": 1,
        "unreadable": 2,
        "other_size": 1,
        "bad_boxes": 1,
        "clipped_boxes": 1,
        "bad_masks": 0,
        "odd_masks": 0,
        "rotated": 1,
        "duplicate_images": 1,
        "duplicate_boxes": 1,
        "empty": 1,
        "crowds": 0,
    }
    assert report["splits"]["train"] == {"images": 2, "boxes": 2, "boxes_of_class": {"cat": 2}}
    assert report["rare_classes"] == report["boxes_of_class"] == {"cat": 2, "dog": 2}
    assert report["duplicate_images"]["first"] == ["test: same.jpg is train: a.jpg"]
    bad = f"train: a.jpg: {source}/boxes.csv: line 4, x = 10, y = 5, width = 0, height = 10"
    assert report["bad_boxes"]["first"] == [bad]
    assert "is said to be 11 x 50 pixels, but" in report["other_size"]["first"][0]
    text = written.report.to_text()
    assert "1 rotated photographs, turned upright:\n    test: turned.jpg\n" in text
    assert "2 unreadable images, left out:\n" in text and text.endswith(
        "2 classes with fewer than 20 boxes: cat 2, dog 2"
    )
    assert names(tmp_path / "out") == [
        "label_map.pbtxt",
        "report.json",
        "test-00000-of-00001.tfrecord",
        "train-00000-of-00001.tfrecord",
    ]


def test_the_bytes_are_the_same_whatever_the_processes(scene, source, tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "_CHUNK_SIZE", 2)
    found = []
    for num_processes in (1, 2, None):
        scene.convert(source, num_processes=num_processes, num_shards=2)
        found.append({path.name: path.read_bytes() for path in sorted((tmp_path / "out").iterdir())})
    assert found[0] == found[1] == found[2] and len(found[0]) == 6


def test_masks_and_what_is_odd_about_them_come_back_from_processes(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "_CHUNK_SIZE", 1)
    square, far = [10, 5, 20, 5, 20, 15, 10, 15], [90, 5, 95, 5, 95, 15]
    fields = [
        {"category_id": 1, "bbox": [10, 5, 10, 10], "segmentation": [square]},
        {"category_id": 1, "bbox": [10, 5, 10, 10], "segmentation": [far]},
        {"category_id": 2, "bbox": [10, 5, 10, 10]},
        {"category_id": 2, "bbox": [10, 5, 10, 10], "iscrowd": 1},
    ]
    folder = scene.draw(tmp_path / "coco")
    (folder / "coco.json").write_text(json.dumps(scene.coco(objects={"a.jpg": fields})))
    report = scene.convert(folder, num_processes=2).report.to_json()
    assert report["bad_masks"]["count"] == 1 and "lies outside of the image" in report["bad_masks"]["first"][0]
    assert report["odd_masks"]["count"] == 2 and report["crowds"]["count"] == 1 and report["masks"] == 1
    assert report["crowds"]["first"] == ["data: a.jpg: annotation 4"]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"strict": True}, r"names .*none.jpg, which does not exist. \(--strict\)"),
        ({"num_shards": 0}, r"--num_shards 0 is not allowed. Allowed: 1 and more."),
        ({"num_processes": 0}, r"--num_processes 0 is not allowed. Allowed: 1 and more."),
        (
            {"num_shards": 3},
            r"train: 2 of its 6 images can be used, fewer than its 3 record files. The first that cannot: ",
        ),
    ],
)
def test_a_run_that_fails_leaves_what_was_there(scene, source, tmp_path, settings, message):
    out = tmp_path / "out"
    with pytest.raises(SourceError, match=message):
        scene.convert(source, **settings)
    assert names(out) == []
    scene.convert(source)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(SourceError, match=message):
        scene.convert(source, **settings)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_sources_that_teach_nothing_are_refused(scene, source, tmp_path):
    csv = source / "boxes.csv"
    csv.write_text(f"{HEADER}\nx.jpg,cat,1,2,3,4\ny.jpg,cat,1,2,3,4\n")
    with pytest.raises(
        SourceError, match=r"none of its 2 images can be used. The first: .*x.jpg, which does not exist. --image_dir"
    ):
        scene.convert(source)
    csv.write_text(f"{HEADER}\na.jpg,cat,1,2,1,4\n")
    with pytest.raises(CocoError, match=r"all 1 boxes have no area inside their image."):
        scene.convert(source)
    csv.write_text(f"{HEADER}\na.jpg,cat,100,2,110,4\n")
    with pytest.raises(CocoError, match=r"it lies outside the image: are the boxes of images of another size"):
        scene.convert(source)
    csv.write_text(f"{HEADER}\na.jpg,cat,0.1,0.2,0.3,0.4\n")
    with pytest.raises(CocoError, match=r"they seem to be fractions of the image. Allowed: pixels."):
        scene.convert(source)
    assert names(tmp_path / "out") == []


def test_a_folder_that_cannot_be_written_is_named(scene, source, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(CocoError, match=r"out: cannot be written"):
        scene.convert(source)


def test_few_images_need_one_process(monkeypatch):
    monkeypatch.setattr(whole.os, "cpu_count", lambda: 4)
    assert [whole.choose_processes(number) for number in (10, 999, 1000, 5000)] == [1, 1, 2, 4]
