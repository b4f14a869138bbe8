"""`odfpn convert`."""

from __future__ import annotations

import argparse
import os

from object_detection_fpn.tools.command import UsageError, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--annotations", required=True, metavar="FILE", help="COCO JSON file")
    parser.add_argument(
        "--image_dir", required=True, metavar="DIR", help="folder that the file names in the JSON start from"
    )
    parser.add_argument("--output", required=True, help="records are written to OUTPUT-00000-of-0000N.tfrecord")
    parser.add_argument(
        "--label_map", help="file to write the label map to; label_map.pbtxt beside the records by default"
    )
    parser.add_argument("--num_shards", type=int, default=1, metavar="N", help="number of record files (1)")
    parser.add_argument(
        "--renumber_classes",
        action="store_true",
        help="number the classes 1, 2, ... in the order of their category ids, which may then start at 0 or be text",
    )
    parser.add_argument(
        "--exif_boxes",
        choices=("stored", "upright"),
        help="which pixels the boxes are of, for photographs whose EXIF orientation does not show in width and height",
    )
    parser.add_argument(
        "--allow_no_boxes",
        action="store_true",
        help="convert images without any object, which show none of the classes",
    )
    parser.add_argument(
        "--no_masks",
        action="store_true",
        help="write boxes alone; masks are written by default where the annotations have segmentations",
    )


def run(arguments: argparse.Namespace) -> None:
    from object_detection_fpn.data.source.coco import CocoError
    from object_detection_fpn.tools.convert import coco

    label_map_path = arguments.label_map or os.path.join(os.path.dirname(arguments.output), "label_map.pbtxt")
    try:
        conversion = coco.coco_to_tfrecords(
            arguments.annotations,
            arguments.image_dir,
            arguments.output,
            label_map_path=label_map_path,
            num_shards=arguments.num_shards,
            renumber_classes=arguments.renumber_classes,
            exif_boxes=arguments.exif_boxes,
            allow_no_boxes=arguments.allow_no_boxes,
            with_masks=not arguments.no_masks,
        )
    except CocoError as error:
        raise UsageError(str(error)) from error
    say(conversion.summary())
