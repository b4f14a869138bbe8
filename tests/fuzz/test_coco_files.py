"""Whatever a COCO file says, it is refused in words, or is read."""

from __future__ import annotations

import copy
import json
import math

from fuzz_support import NUMBERS, WORDS, cases, changed_text
from hypothesis import example, given
from hypothesis import strategies as st

from object_detection_fpn.data.source.coco import CocoError, parse_coco

COCO = {
    "info": {"year": 2017, "date_created": "2017-09-01"},
    "images": [
        {
            "id": 1,
            "file_name": "a.jpg",
            "width": 64,
            "height": 48,
            "license": 3,
            "date_captured": "2013-11-14 17:02:52",
        },
        {"id": 2, "file_name": "b/c.png", "width": None, "height": None, "seq_id": "x", "frame_num": 4, "location": 7},
    ],
    "categories": [{"id": 1, "name": "cat", "supercategory": "animal"}, {"id": 90, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2.5, 30, 20], "area": 600, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 90, "segmentation": [[1, 2, 30, 2, 30, 22.5]], "iscrowd": 0},
        {
            "id": 3,
            "image_id": 2,
            "category_id": 90,
            "bbox": [0, 0, 9, 9],
            "segmentation": {"size": [48, 64], "counts": [10, 20, 3042]},
            "iscrowd": 1,
        },
    ],
}
VALUES = (None, True, -1, 0, 2**63, 10**400, 1.5, math.nan, math.inf, "", "1", "\ud800", "\0", "x" * 9999, {"id": 1})
VALUES += (
    [],
    [[]],
    {},
    [1, 2, 3],
    [1, 2, 3, "4"],
    [1, 2, 3, 1e300],
    [None] * 4,
    [[1, 2, 3]],
    "2013",
    {"counts": "P", "size": [1]},
)


def places(value, path=()):
    """The path of every value below a value of JSON."""
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(child, dict | list):
            yield from places(child, (*path, key))


PLACES = tuple(places(COCO))


@st.composite
def changed_values(draw) -> bytes:
    """The file with a few values of other types, rows that stand twice, or fields left out."""
    coco = copy.deepcopy(COCO)
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(PLACES))
        holder = coco
        try:
            for key in parents:
                holder = holder[key]
            kind = draw(st.sampled_from(("replace", "replace", "replace", "drop", "double")))
            if kind == "replace":
                holder[last] = draw(st.sampled_from(VALUES))
            elif kind == "drop":
                del holder[last]
            elif isinstance(holder, list):
                holder.append(copy.deepcopy(holder[last]))
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change has taken the place away
    return json.dumps(coco).encode()


FILES = tuple(json.dumps(value) for value in (COCO, COCO["images"], {}, 3, None))


@cases(90)
@given(
    data=changed_values() | changed_values() | changed_text(FILES, NUMBERS + WORDS),
    flags=st.tuples(*[st.booleans()] * 2),
)
@example(data=b"", flags=(False, False))
@example(data=b"[" * 100_000, flags=(False, False))
@example(data=b'{"images": [' + b"9" * 5000 + b"]}", flags=(False, False))
def test_coco_file_is_refused_in_words_or_read(data, flags, no_hang):
    no_hang()
    renumber_classes, with_segmentations = flags
    try:
        dataset = parse_coco(
            data, path="some/a.json", renumber_classes=renumber_classes, with_segmentations=with_segmentations
        )
    except CocoError as error:
        assert str(error).startswith("some/a.json"), error
        assert "\n" not in str(error)
        return
    assert set(dataset.annotations) == {image.id for image in dataset.images}
    assert set(dataset.label_of.values()) == set(dataset.names)
