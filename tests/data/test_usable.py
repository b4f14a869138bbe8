"""`data/usable.py`: data of which nothing can be learned are refused before training, with the reason."""

from __future__ import annotations

import pytest

from object_detection_fpn.data import decoder
from object_detection_fpn.data.failures import DataError
from object_detection_fpn.data.source.files import list_record_files
from object_detection_fpn.data.usable import check_usable

GOOD, PIXELS = (0.1, 0.1, 0.5, 0.5), (12.0, 8.0, 100.0, 90.0)
TEXT, WEIGHT = "image/object/class/text", "image/object/weight"
NAMES = {"cat": 1, "dog": 2}


@pytest.fixture
def check(write_records, make_record):
    """(arguments of `make_record` for each record, settings) -> None, or the message of the error."""

    def run(records, label_to_id=None, **settings) -> str | None:
        made = [record if isinstance(record, bytes) else make_record(*record[:-1], **record[-1]) for record in records]
        table = decoder.make_label_table(label_to_id) if label_to_id else None
        decoding = decoder.Decoding(num_classes=3, label_to_id=label_to_id)
        try:
            check_usable(list_record_files([write_records(made)]), decoding, label_table=table, **settings)
        except DataError as error:
            assert "\n" not in str(error)
            return str(error)
        return None

    return run


def record(*boxes, **more):
    return [list(boxes), {"more": more.pop("more", {}), **more}]


@pytest.mark.parametrize(
    "records",
    [
        [record(GOOD)],
        [record(), record(GOOD)],
        [record(PIXELS), record(GOOD)],
        [record((0.1, 0.1, 0.5, 1.5))],  # clipped, as it is meant
        [record(), b"\xff\xff\xff"],  # the pipeline names what does not decode
        [record(), record(GOOD, labels=[9])],
        [record(), record(GOOD, more={"image/object/bbox/ymin": [0.5]})],
        [record(GOOD, GOOD, more={WEIGHT: [0.0, 0.5]})],
    ],
)
def test_one_object_is_enough(check, records):
    assert check(records) is None


def test_a_record_that_tensorflow_alone_refuses_is_left_to_the_pipeline(check, make_record):
    assert check([b"\x13\x14" + make_record([GOOD])]) is None  # protobuf reads it


def test_no_objects_at_all_are_refused_with_the_features_that_are_there(check, tmp_path):
    found = check([record(), record(more={"objects/bbox": [0.5]})])
    assert found == (
        f"{tmp_path}/data.tfrecord: None of 2 records has an object: image/object/bbox/ymin, xmin, ymax and xmax are missing "
        "or empty. Nothing can be learned from these. Their features: image/encoded, image/object/class/label, "
        "image/source_id, objects/bbox."
    )


@pytest.mark.parametrize("box", [PIXELS, (0.0, 0.0, 100.0, 90.0)])  # the second, clipped, would be the whole image
@pytest.mark.no_cover
def test_boxes_in_pixels_are_refused(check, tmp_path, box):
    found = check([record(box, box), record(box)])
    how = "dropped: lies outside the image" if box == PIXELS else "clipped: reaches beyond the image"
    shown = ", ".join(f"{side:g}" for side in box)
    assert found == (
        f"{tmp_path}/data.tfrecord: None of 2 records has an object that can train. 3 of 3 boxes (100%) in 2 images {how}; "
        f"first (ymin, xmin, ymax, xmax) = ({shown}) in {tmp_path}/data.tfrecord, record 0. These seem to be pixels: "
        "records hold shares of the image's height and width, from 0 to 1."
    )


@pytest.mark.parametrize(
    "name, cause",
    [(b"Cat", "The label map has 'cat': names must be equal"), (b"cow", "The label map has 'cat', 'dog'.")],
)
@pytest.mark.no_cover
def test_names_that_the_label_map_does_not_have_are_refused(check, name, cause):
    found = check([record(GOOD, labels=[], more={TEXT: [name]})], NAMES)
    assert (
        "The only record has no object that can train. 1 of 1 boxes (100%) in 1 image dropped: its class name" in found
    )
    assert f"first '{name.decode()}' in " in found and cause in found


def test_several_reasons_stand_side_by_side(check):
    found = check([record((0.5, 0.5, 0.1, 0.1), (float("nan"), 0.1, 0.5, 0.5)), record(GOOD, more={WEIGHT: [0.0]})])
    assert "dropped: inverted" in found and "dropped: a coordinate is NaN" in found
    assert found.endswith("1 of 3 have image/object/weight 0.")


def test_only_the_first_records_are_looked_at(check):
    assert "None of 5 records has an object" in check([record()] * 9 + [record(GOOD)], most_records=5)
