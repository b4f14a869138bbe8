"""`tools/convert/to_coco.py`: records to COCO."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tensorflow as tf

from object_detection_fpn.data.source.coco import CocoError
from object_detection_fpn.tools.convert import to_coco


@pytest.fixture
def write_records(tmp_path):
    """Given source ids: a file of one record each, with one object of a class."""

    def write(*source_ids, label=1):
        path = str(tmp_path / "data.tfrecord")
        with tf.io.TFRecordWriter(path) as writer:
            for source_id in source_ids:
                example = tf.train.Example()
                feature = example.features.feature
                feature["image/encoded"].bytes_list.value.append(
                    tf.io.encode_jpeg(tf.zeros([8, 8, 3], tf.uint8)).numpy()
                )
                feature["image/source_id"].bytes_list.value.append(source_id.encode())
                for side, value in (("ymin", 0.25), ("xmin", 0.25), ("ymax", 0.5), ("xmax", 0.75)):
                    feature[f"image/object/bbox/{side}"].float_list.value.append(value)
                feature["image/object/class/label"].int64_list.value.append(label)
                writer.write(example.SerializeToString())
        return path

    return write


def test_images_are_numbered_where_source_ids_are_no_numbers(write_records, tmp_path):
    path = write_records("x", "3")
    coco_path = to_coco.tfrecords_to_coco(path, str(tmp_path / "o"), categories={1: "cat"}, show_progress=False)
    images = json.loads(Path(coco_path).read_text())["images"]
    assert [image["id"] for image in images] == [1, 2]
    assert images[0]["file_name"] == "000000000001.jpg"


def test_a_truncated_file_is_refused_on_the_way_back(write_records, tmp_path):
    path = write_records("1")
    with open(path, "r+b") as file:
        file.truncate(100)
    with pytest.raises(CocoError, match=r"data.tfrecord: truncated or corrupted at byte 0 of 100"):
        to_coco.tfrecords_to_coco(path, str(tmp_path / "o"), categories={1: "cat"}, show_progress=False)


def test_class_ids_outside_the_label_map_are_refused_on_the_way_back(write_records, tmp_path):
    path = write_records("1", label=2)
    with pytest.raises(CocoError, match=r"data.tfrecord, record 0: class id 2 is not in the label map. Allowed: 1."):
        to_coco.tfrecords_to_coco(path, str(tmp_path / "o"), categories={1: "cat"}, show_progress=False)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b"\xff\xff\xff", "record 0: 3 bytes that are no serialized tf.Example"),
        (None, r"record 0: image/object/bbox/ymin, .* have \[1, 1, 1, 1, 2, 2, 2\] values"),
    ],
)
def test_a_record_that_contradicts_itself_is_named(write_records, tmp_path, record, words):
    path = write_records("1")
    if record is None:
        example = tf.train.Example.FromString(next(tf.data.TFRecordDataset(path).as_numpy_iterator()))
        example.features.feature["image/object/class/label"].int64_list.value.append(1)
        record = example.SerializeToString()
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(record)
    with pytest.raises(CocoError, match=words):
        to_coco.tfrecords_to_coco(path, str(tmp_path / "o"), categories={1: "cat"}, show_progress=False)
