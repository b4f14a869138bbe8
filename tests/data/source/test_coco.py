"""COCO JSON: a value is taken for the one thing that it means, or refused with file, row, field, value and what is allowed."""

from __future__ import annotations

import copy
import json
import math

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from object_detection_fpn.data.source.coco import CocoAnnotation, CocoError, CocoImage, parse_coco, read_coco

GOOD = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 96, "height": 64}, {"id": "x", "file_name": "b.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 12, 30, 20], "area": 600, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 2, "segmentation": [[1, 2, 9, 2, 9, 7]]},
    ],
    "categories": [{"id": 1, "name": "box"}, {"id": 2, "name": "ball"}],
}


def parse(coco, **options):
    contents = coco if isinstance(coco, bytes) else json.dumps(coco).encode()
    return parse_coco(contents, path="f.json", **options)


def changed(path, value):
    """GOOD with another value at a path of keys."""
    coco = copy.deepcopy(GOOD)
    at = coco
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return coco


def test_a_good_file_becomes_records():
    dataset = parse(GOOD)
    assert dataset.images == [CocoImage(1, "a.jpg", 96, 64), CocoImage("x", "b.jpg", None, None)]
    assert dataset.annotations == {
        1: [
            CocoAnnotation(1, 1, 1, (10, 12, 30, 20), 600, False),
            CocoAnnotation(2, 1, 2, (1, 2, 8, 5), None, False),  # the box around the polygon
        ],
        "x": [],
    }
    assert dataset.names == {1: "box", 2: "ball"} and dataset.label_of == {1: 1, 2: 2}


@pytest.mark.parametrize(
    "path, value",
    [
        (["images", 0, "id"], 1.0),
        (["images", 0, "width"], 96.0),
        (["annotations", 0, "image_id"], 1.0),
        (["annotations", 0, "category_id"], 1.0),
        (["categories", 0, "id"], 1.0),
        (["annotations", 0, "iscrowd"], False),
        (["annotations", 0, "iscrowd"], None),
        (["annotations", 0, "iscrowd"], 0.0),
        (["annotations", 0, "area"], 600.0),
        (["annotations", 0, "bbox"], [10.0, 12.0, 3e1, 20]),
        (["annotations", 0, "segmentation"], {"counts": "abc"}),
        (["info"], [None]),
    ],
)
def test_other_spellings_of_a_value_mean_the_same(path, value):
    dataset = parse(changed(path, value))
    assert dataset == parse(GOOD)
    assert all(type(label) is int for label in dataset.names)


@pytest.mark.parametrize(
    "path, value, message",
    [
        (["images", 0, "file_name"], None, "image 1 has file_name null. Allowed: text that is not empty."),
        (["images", 0, "file_name"], " ", 'image 1 has file_name " ". Allowed'),
        (["images", 0, "file_name"], ["a.jpg"], 'image 1 has file_name ["a.jpg"]. Allowed'),
        (["images", 0, "file_name"], "\ud800.jpg", "half a surrogate pair"),
        (["images", 0, "width"], "96", 'image 1 has width "96", which is text, not a number. Allowed: a whole number'),
        (["images", 0, "width"], 96.5, "image 1 has width 96.5. Allowed"),
        (["images", 0, "height"], [64], "image 1 has height [64]. Allowed"),
        (["images", 0, "id"], None, "image number 1 of the list has id null. Allowed: a whole number or text."),
        (["images", 0, "id"], True, "image number 1 of the list has id true. Allowed"),
        (["images", 0, "id"], 1e300, "has id 1e+300. Allowed"),
        (["images", 0], 7, "image number 1 of the list is 7. Allowed: an object with id, file_name, width, height."),
        (["images", 1, "id"], "1", 'image id "1" occurs twice'),
        (["images", 1, "file_name"], "a.jpg", 'images 1 and "x" have one file_name, "a.jpg"'),
        (["categories", 0, "name"], "", 'category 1 has name "". Allowed: text that is not empty, or a whole number.'),
        (["categories", 0, "name"], None, "category 1 has name null. Allowed"),
        (["categories", 0, "name"], "ball", 'categories 1 and 2 have one name, "ball". Allowed: a name for each'),
        (["categories", 0, "id"], 0, "category id 0 is below 1, and 0 is the background's. --renumber_classes numbers"),
        (["categories", 0, "id"], -3, "category id -3 is below 1"),
        (["categories", 0, "id"], 2**31, "category id 2147483648 is too large, and the largest id is 2147483647"),
        (["categories", 0, "id"], "1", 'category "1" has id "1", which is text. Allowed: a whole number, 1 or more'),
        (["categories", 0, "id"], 1.5, "category 1.5 has id 1.5. Allowed: a whole number."),
        (["categories", 0, "id"], 2, "category id 2 occurs twice"),
        (["annotations", 0, "category_id"], "1", 'the categories; "1" is text, 1 a number. Allowed: 1, 2.'),
        (["annotations", 0, "category_id"], None, "annotation 1 has category_id null. Allowed: the id of a category."),
        (["annotations", 0, "image_id"], "1", 'annotation 1 is of image id "1", which is not among the images; "1" is text'),
        (["annotations", 0, "image_id"], {}, "annotation 1 has image_id {}. Allowed: the id of an image."),
        (["annotations", 0, "area"], [600], "annotation 1 has area [600]. Allowed: a finite number, 0 or more, or null."),
        (["annotations", 0, "area"], -1, "annotation 1 has area -1. Allowed"),
        (["annotations", 0, "area"], 10**400, "annotation 1 has area 1000"),
        (["annotations", 0, "iscrowd"], "0", 'annotation 1 has iscrowd "0". Allowed: 0, 1, false, true or null.'),
        (["annotations", 0, "iscrowd"], 2, "annotation 1 has iscrowd 2. Allowed"),
        (["annotations", 0, "bbox"], [1, 2, 3], "annotation 1 has bbox [1, 2, 3]. Allowed: four finite numbers"),
        (["annotations", 0, "bbox"], ["1", 2, 3, 4], "which is text, not a number"),
        (["annotations", 0, "bbox"], [1, 2, math.inf, 4], "annotation 1 has bbox [1, 2, Infinity, 4]. Allowed"),
        (["annotations", 0, "bbox"], [[1, 2, 3, 4]], "annotation 1 has bbox [[1, 2, 3, 4]]. Allowed"),
        (["annotations", 0, "bbox"], None, "annotation 1 has no bbox"),
        (["annotations", 0, "id"], [], "annotation number 1 of the list has id []. Allowed"),
        (["annotations", 1, "segmentation"], {"counts": [1], "size": [2, 2]}, "pycocotools.mask.toBbox"),
        (["annotations", 1, "segmentation"], [[1, 2, 3]], "in its segmentation [1, 2, 3]. Allowed: polygons of at least"),
        (["annotations", 1, "segmentation"], [], "annotation 2 has no bbox"),
        (["annotations"], {}, "has no list 'annotations'"),
        (["annotations", 0, "bbox"], list(range(1000)), "... Allowed: four"),
    ],
)  # fmt: skip
def test_values_without_one_meaning_are_refused(path, value, message):
    with pytest.raises(CocoError) as caught:
        parse(changed(path, value))
    assert str(caught.value).startswith("f.json: ") and message in str(caught.value)
    assert len(str(caught.value)) < 500


def test_segmentations_are_kept_only_if_asked_for():
    assert [row.segmentation for row in parse(GOOD).annotations[1]] == [None, None]
    dataset = parse(changed(["annotations", 0, "segmentation"], []), with_segmentations=True)
    assert [row.segmentation for row in dataset.annotations[1]] == [None, [[1, 2, 9, 2, 9, 7]]]


def test_fields_that_are_missing_are_named():
    coco = copy.deepcopy(GOOD)
    del coco["annotations"][0]["category_id"]
    with pytest.raises(CocoError, match="annotation 1 lacks 'category_id'"):
        parse(coco)


def test_names_that_are_numbers_become_text():
    assert parse(changed(["categories", 0, "name"], 7)).names[1] == "7"


@pytest.mark.parametrize(
    "ids, labels", [((0, 1), (1, 2)), (("b", "a"), (2, 1)), (("a", 2**40), (2, 1)), ((9, -5), (2, 1))]
)
def test_renumbered_classes_take_any_ids(ids, labels):
    coco = copy.deepcopy(GOOD)
    for row, category_id in enumerate(ids):
        coco["categories"][row]["id"] = coco["annotations"][row]["category_id"] = category_id
    dataset = parse(coco, renumber_classes=True)
    assert dataset.label_of == dict(zip(ids, labels, strict=True))
    assert dataset.names == dict(zip(labels, ("box", "ball"), strict=True))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings_of_json_are_told_apart(encoding):
    coco = changed(["categories", 0, "name"], "коробка")
    assert parse(json.dumps(coco, ensure_ascii=False).encode(encoding)).names[1] == "коробка"


@pytest.mark.parametrize(
    "contents, message",
    [
        (b"", "f.json: is empty"),
        (b" \n", "f.json: is empty"),
        (b"[]", "f.json: has no list 'images'"),
        (b'{"images": [', "f.json: is not JSON"),
        ('{"images": "é"}'.encode("latin-1"), "f.json: is not UTF-8 .byte 0xe9 at 12.; save it as UTF-8"),
        (b"[" * 100_000, "f.json: is not JSON"),
        (b"9" * 10_000, "f.json: is not JSON"),
        (b'{"images": [], "annotations": [], "categories": []}', "lists no images"),
    ],
)
def test_what_is_no_coco_file_is_refused(contents, message):
    with pytest.raises(CocoError, match=message):
        parse(contents)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(CocoError, match="is a folder"):
        read_coco(str(tmp_path))
    with pytest.raises(CocoError, match="there is no such file"):
        read_coco(str(tmp_path / "none.json"))
    with pytest.raises(CocoError, match="cannot be read"):
        read_coco("nowhere://bucket/a.json")


def test_annotation_ids_may_repeat_with_a_warning(caplog):
    dataset = parse(changed(["annotations", 1, "id"], 1))
    assert len(dataset.annotations[1]) == 2
    assert "1 annotation ids occur more than once, the first is 1; every annotation is kept" in caplog.text


def paths_of(value, path=()):
    """Every place in a JSON value."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from paths_of(child, (*path, key))


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5) | st.just(10**350),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=5,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(path=st.sampled_from([path for path in paths_of(GOOD) if path]), value=ANY_JSON, renumber=st.booleans())
@example(path=("images", 0, "id"), value="\ud800", renumber=True)
@pytest.mark.no_cover
def test_any_value_anywhere_is_taken_or_refused(path, value, renumber):
    try:
        dataset = parse(changed(path, value), renumber_classes=renumber)
    except CocoError as error:
        str(error).encode()
        return
    assert sum(map(len, dataset.annotations.values())) == len(changed(path, value)["annotations"])
    assert all(type(label) is int and name for label, name in dataset.names.items())
