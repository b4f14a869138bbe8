"""`tools/convert/coco_folder.py`: COCO files and their images are found in the usual folders."""

from __future__ import annotations

import json

import pytest

from object_detection_fpn.tools.convert import coco_folder, detect
from object_detection_fpn.tools.convert.sources import Options, SourceError


def write(path, contents):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents))
    return path


def test_a_file_beside_its_images(scene, tmp_path):
    folder = scene.draw(tmp_path / "coco")
    path = write(folder / "all.json", scene.coco())
    assert detect.detect(str(path)).format == "coco"
    scene.check(path, folder, scene.coco())
    scene.check(folder, folder, scene.coco())


def test_roboflow_folders_are_splits_and_ids_from_0_are_renumbered(scene, tmp_path):
    for split, name in (("train", "a.jpg"), ("valid", "c.jpg")):
        contents = scene.coco(names=[name])
        contents["categories"] = [{"id": i, "name": each} for i, each in enumerate(("animals", "cat", "dog"))]
        scene.draw(tmp_path / "robo" / split, [name])
        write(tmp_path / "robo" / split / "_annotations.coco.json", contents)
    found = coco_folder.read(str(tmp_path / "robo"), Options())
    assert [(split.name, split.image_dir) for split in found.splits] == [
        ("train", str(tmp_path / "robo" / "train")),
        ("val", str(tmp_path / "robo" / "valid")),
    ]
    assert found.splits[0].dataset.names == {1: "animals", 2: "cat", 3: "dog"}
    assert found.notes == ["Category ids start below 1 or are text; the records' are 1, 2, ... in their order."]
    patterns = scene.convert(tmp_path / "robo").patterns
    assert list(patterns) == ["train", "val"]


@pytest.mark.parametrize("images", ["train2017", "images/train2017", "images", "."])
def test_images_of_unpacked_archives_are_found(scene, tmp_path, images):
    folder = scene.draw(tmp_path / "coco" / images)
    for split in ("train2017", "val2017"):
        write(tmp_path / "coco" / "annotations" / f"instances_{split}.json", scene.coco())
    write(tmp_path / "coco" / "annotations" / "captions_train2017.json", scene.coco())
    (tmp_path / "coco" / "val2017").mkdir()
    if "2017" in images:
        scene.draw(folder.parent / "val2017")
    found = coco_folder.read(str(tmp_path / "coco"), Options())
    assert [split.name for split in found.splits] == ["train2017", "val2017"]
    assert found.splits[0].image_dir == str(folder)


def test_ids_are_kept_or_numbered_or_ordered_by_the_user(scene, tmp_path):
    contents = scene.coco()
    for row in contents["categories"]:
        row["id"] *= 10
    for row in contents["annotations"]:
        row["category_id"] *= 10
    path = write(scene.draw(tmp_path / "coco") / "all.json", contents)

    def names(**options):
        return coco_folder.read(str(path), Options(**options)).splits[0].dataset.names

    assert names() == {10: "cat", 20: "dog"}
    assert names(renumber_classes=True) == {1: "cat", 2: "dog"}
    assert names(class_names=["dog", "emu", "cat"]) == {1: "dog", 2: "emu", 3: "cat"}
    with pytest.raises(SourceError, match=r'all.json: category "dog" is unknown. Allowed: cat.'):
        names(class_names=["cat"])


def test_files_of_different_classes_are_refused(scene, tmp_path):
    write(scene.draw(tmp_path / "train") / "a.json", scene.coco())
    write(scene.draw(tmp_path / "test") / "b.json", scene.coco(categories=("dog", "cat")))
    with pytest.raises(
        SourceError, match=r"b.json: its categories differ from those of .*a.json. Allowed: the same in all"
    ):
        coco_folder.read(str(tmp_path), Options())
    write(tmp_path / "train" / "c.json", scene.coco())
    with pytest.raises(
        SourceError, match=r"train: has several COCO files: .*a.json, .*c.json. Allowed: one in each folder"
    ):
        coco_folder.read(str(tmp_path), Options())


def test_images_that_are_not_found_are_asked_for(scene, tmp_path):
    path = write(tmp_path / "all.json", scene.coco())
    with pytest.raises(
        SourceError, match=r'none of its first images, as "a.jpg", is in any of .*--image_dir names their'
    ):
        coco_folder.read(str(path), Options())
    scene.check(path, scene.draw(tmp_path / "x" / "y"), scene.coco(), Options(image_dir=str(tmp_path / "x" / "y")))
