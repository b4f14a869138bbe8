"""`odfpn convert`."""

from __future__ import annotations

import argparse
import os

from object_detection_fpn.tools.command import UsageError, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--annotations", required=True, help="COCO JSON file")
    parser.add_argument("--image_dir", required=True)
    parser.add_argument("--output", required=True, help="records are written to OUTPUT-00000-of-0000N.tfrecord")
    parser.add_argument(
        "--label_map", help="file to write the label map to; label_map.pbtxt beside the records by default"
    )
    parser.add_argument("--num_shards", type=int, default=1)


def run(arguments: argparse.Namespace) -> None:
    from object_detection_fpn.tools.convert import coco

    label_map_path = arguments.label_map or os.path.join(os.path.dirname(arguments.output), "label_map.pbtxt")
    try:
        conversion = coco.coco_to_tfrecords(
            arguments.annotations,
            arguments.image_dir,
            arguments.output,
            label_map_path=label_map_path,
            num_shards=arguments.num_shards,
        )
    except coco.CocoError as error:
        raise UsageError(str(error)) from error
    say(
        f"Wrote {conversion.num_images} images with {conversion.num_boxes} boxes to {conversion.record_pattern}, and "
        f"{conversion.label_map_path}; {conversion.num_dropped} boxes without area inside their image were left out."
    )
