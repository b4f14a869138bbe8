"""`tools/convert/detect.py`: what is no source, or may be several, is refused with what is there and what is allowed."""

from __future__ import annotations

import json

import pytest

from object_detection_fpn.data.source.coco import CocoError
from object_detection_fpn.tools.convert import command, detect
from object_detection_fpn.tools.convert.sources import Options, SourceError

CSV = "filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,1,2,3,4\n"


def test_the_command_offers_every_format():
    assert tuple(detect.READERS) == command.FORMATS


def test_unknown_folders_say_what_they_hold(scene, tmp_path):
    with pytest.raises(SourceError, match=r"none: there is no such file or folder"):
        detect.detect(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        SourceError, match=r"empty: its format is not recognized; it holds nothing. Allowed: a COCO JSON"
    ):
        detect.detect(str(tmp_path / "empty"))
    folder = scene.draw(tmp_path / "pictures")
    with pytest.raises(SourceError, match=r"it holds a.jpg, b.png, c.jpg. Allowed: a COCO JSON file .* Open Images'"):
        detect.detect(str(folder))
    with pytest.raises(SourceError, match=r"a.jpg: its format is not recognized; it is a file of another kind."):
        detect.detect(str(folder / "a.jpg"))
    (folder / "a.txt").write_text("0 0.5 0.5 0.1 0.1")
    with pytest.raises(SourceError, match=r"The text files of YOLO need a data.yaml with the names of the classes."):
        detect.detect(str(folder))
    (folder / "x.json").write_text('{"a": 1}')
    (folder / "x.xml").write_text("<a/>")
    (folder / "x.csv").write_text("a,b\n1,2\n")
    (folder / "empty.csv").write_text("")
    (folder / "x.yaml").write_text("a: 1")
    for name in ("x.json", "x.xml", "x.csv", "empty.csv", "."):
        with pytest.raises(SourceError, match="its format is not recognized"):
            detect.detect(str(folder / name))


def test_folders_of_two_formats_need_a_choice(scene, tmp_path):
    folder = scene.draw(tmp_path / "both")
    (folder / "boxes.csv").write_text(CSV)
    (folder / "coco.json").write_text(json.dumps(scene.coco()))
    with pytest.raises(SourceError) as caught:
        detect.detect(str(folder))
    assert str(caught.value) == (
        f"{folder}: may be of several formats: COCO JSON ({folder}/coco.json), CSV of boxes ({folder}/boxes.csv). "
        "--format coco or csv chooses; or name the file."
    )
    assert detect.read_source(str(folder), Options(), "csv").format == "CSV of boxes"
    assert detect.read_source(str(folder / "coco.json"), Options()).format == "COCO JSON"
    with pytest.raises(SourceError, match=r"both: is not PASCAL VOC \(--format voc\). Allowed: a COCO JSON file"):
        detect.read_source(str(folder), Options(), "voc")
    with pytest.raises(SourceError, match=r"none: there is no such file or folder"):
        detect.read_source(str(folder / "none"), Options(), "voc")
    with pytest.raises(SourceError, match=r"none: there is no such folder \(--image_dir\)"):
        detect.read_source(str(folder / "boxes.csv"), Options(image_dir=str(folder / "none")))


def test_broken_json_of_coco_is_refused_in_words(scene, tmp_path):
    path = scene.draw(tmp_path / "coco") / "coco.json"
    path.write_text(json.dumps(scene.coco())[:-10])
    with pytest.raises(CocoError, match=r"coco.json: is not JSON"):
        detect.read_source(str(path), Options())
