"""`tools/convert/splits.py`: parts are those of the file names, whatever the order, and ratios are checked."""

from __future__ import annotations

import pytest

from object_detection_fpn.tools.convert import sources, splits
from object_detection_fpn.tools.convert.sources import Options, SourceError, SourceImage, SourceObject


def make(names, parts=1):
    cat = SourceObject("cat", (1, 2, 3, 4), "object 1")
    images = {f"part{i}": [SourceImage(name, 10, 10, [cat]) for name in names] for i in range(parts)}
    return sources.make_source("CSV", "a.csv", ".", images, Options())


def files(source):
    return {split.name: [image.file_name for image in split.dataset.images] for split in source.splits}


def test_parts_depend_on_names_and_seed_alone():
    names = [f"{i:03d}.jpg" for i in range(100)]
    found = files(splits.split_source(make(names), [0.8, 0.2], 0))
    assert [len(found[name]) for name in ("train", "val")] == [80, 20]
    assert sorted(found["train"] + found["val"]) == names and found["train"] == sorted(found["train"])
    backward = files(splits.split_source(make(names[::-1]), [0.8, 0.2], 0))
    assert {name: sorted(rows) for name, rows in backward.items()} == found
    assert files(splits.split_source(make(names), [0.8, 0.2], 1)) != found


def test_three_parts_have_every_image_once():
    source = splits.split_source(make([f"{i}.jpg" for i in range(10)]), [0.7, 0.2, 0.1], 0)
    assert {name: len(rows) for name, rows in files(source).items()} == {"train": 7, "val": 2, "test": 1}
    for split in source.splits:
        assert set(split.dataset.annotations) == {image.id for image in split.dataset.images}


@pytest.mark.parametrize("ratios", [[1.0], [0.5, 0.6], [1.5, -0.5], [0.25] * 4, [float("nan"), 0.5]])
def test_other_ratios_are_refused(ratios):
    with pytest.raises(
        SourceError, match=r"--split .* is not allowed. Allowed: two or three numbers above 0 that add up to 1"
    ):
        splits.check_ratios(ratios)


def test_what_cannot_be_split_is_refused():
    with pytest.raises(SourceError, match=r"is split already, into part0, part1. Allowed: sources of one split"):
        splits.split_source(make(["a", "b"], parts=2), [0.5, 0.5], 0)
    with pytest.raises(SourceError, match=r"val would have none of the 2 images. Allowed: larger ratios."):
        splits.split_source(make(["a", "b"]), [0.9, 0.1], 0)
