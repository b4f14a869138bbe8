"""A COCO file that a config names in place of records, as values."""

from __future__ import annotations

from object_detection_fpn.data.source.coco_examples import ExifBoxes
from object_detection_fpn.data.source.coco_records import CocoSource
from object_detection_fpn.protos import input_reader_pb2

_EXIF_BOXES: dict[int, ExifBoxes | None] = {
    input_reader_pb2.CocoInputReader.NOT_STATED: None,
    input_reader_pb2.CocoInputReader.STORED: "stored",
    input_reader_pb2.CocoInputReader.UPRIGHT: "upright",
}


def coco_source(message: input_reader_pb2.CocoInputReader) -> CocoSource:
    """The file and how it is read, without masks."""
    return CocoSource(
        message.annotations_path,
        message.image_dir,
        renumber_classes=message.renumber_classes,
        exif_boxes=_EXIF_BOXES[message.exif_boxes],
    )
