"""`odfpn convert`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from object_detection_fpn.tools.command import UsageError, check_folder, check_input, say

DESCRIPTION = """Convert a data set to TFRecords and a label map.

  odfpn convert SOURCE OUTPUT                          recognizes what SOURCE is
  odfpn convert --annotations A.json --image_dir D --output P      a COCO JSON file, all images of which must be usable

SOURCE is COCO JSON (a file, or a folder such as Roboflow's), a PASCAL VOC folder, YOLO (data.yaml; boxes and polygons), a CSV
file of boxes, a LabelMe folder, CVAT's XML for images, or Open Images' CSV files. OUTPUT is a folder: the records of each
split, label_map.pbtxt and report.json are written to it. Both may be remote, as gs://bucket/folder.

A run that was stopped goes on where the same command is given again: record files that were finished are not made anew."""

FORMATS = ("coco", "voc", "yolo", "csv", "labelme", "cvat", "open_images")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="file or folder of any format that is known")
    parser.add_argument("output_dir", nargs="?", metavar="OUTPUT", help="folder to write to")
    _add_source_arguments(parser.add_argument_group("with SOURCE OUTPUT"))
    coco = parser.add_argument_group("instead of SOURCE OUTPUT")
    coco.add_argument("--annotations", metavar="FILE", help="COCO JSON file")
    coco.add_argument("--output", help="records are written to OUTPUT-00000-of-0000N.tfrecord")
    both = parser.add_argument_group("with both")
    both.add_argument(
        "--image_dir",
        metavar="DIR",
        help="folder that the file names of images start from; with SOURCE, where its format has them by default",
    )
    _add_common_arguments(both)


def _add_source_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--format", choices=FORMATS, help="what SOURCE is, where it may be several")
    group.add_argument(
        "--split",
        nargs="+",
        type=float,
        metavar="RATIO",
        help="split the images into train and val, or train, val and test, as 0.9 0.1; by their file names",
    )
    group.add_argument("--seed", type=int, default=0, help="of --split: another one gives other parts (0)")
    group.add_argument(
        "--classes", metavar="FILE", help="text file of all class names, a line each, in the order of their ids"
    )
    group.add_argument(
        "--num_processes",
        type=int,
        metavar="N",
        help="processes that read images; the cores by default, for many images",
    )
    group.add_argument(
        "--strict",
        action="store_true",
        help="stop at an image that is missing, unreadable or of another size, instead of leaving it out and reporting it",
    )


def _add_common_arguments(parser: argparse._ArgumentGroup) -> None:
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
    if arguments.source is None:
        _check_flags(arguments, needed=("annotations", "image_dir", "output"), other=_SOURCE_FLAGS)
        _run_coco(arguments)
        return
    if arguments.output_dir is None:
        raise UsageError("OUTPUT is missing. Allowed: odfpn convert SOURCE OUTPUT, with the folder to write to.")
    _check_flags(arguments, needed=(), other=("annotations", "output"))
    _run_source(arguments)


_SOURCE_FLAGS = ("format", "split", "classes", "num_processes", "strict")


def _check_flags(arguments: argparse.Namespace, *, needed: Sequence[str], other: Sequence[str]) -> None:
    """Refuses a command line that mixes the two forms, or lacks a flag."""
    form = "SOURCE OUTPUT" if arguments.source is not None else "--annotations FILE --image_dir DIR --output OUTPUT"
    absent = [f"--{name}" for name in needed if getattr(arguments, name) is None]
    if absent:
        raise UsageError(f"{', '.join(absent)} is missing. Allowed: SOURCE OUTPUT, or {form}.")
    for name in other:
        if getattr(arguments, name):
            raise UsageError(
                f"--{name} does not go with {form}. Allowed: SOURCE OUTPUT, or the flags of a COCO JSON file."
            )


def _run_source(arguments: argparse.Namespace) -> None:
    from object_detection_fpn.data.source.coco import CocoError
    from object_detection_fpn.tools.convert import detect, splits, whole
    from object_detection_fpn.tools.convert.sources import Options, SourceError, read_class_names

    check_folder("OUTPUT", arguments.output_dir)
    for flag, path in (
        ("SOURCE", arguments.source),
        ("--image_dir", arguments.image_dir),
        ("--classes", arguments.classes),
    ):
        if path is not None:
            check_input(flag, path)
    if os.path.realpath(arguments.source) == os.path.realpath(arguments.output_dir):
        raise UsageError(f"OUTPUT = {arguments.output_dir} is SOURCE. Allowed: another folder.")
    try:
        if arguments.split:
            splits.check_ratios(arguments.split)
        options = Options(
            image_dir=arguments.image_dir,
            class_names=read_class_names(arguments.classes) if arguments.classes else None,
            renumber_classes=arguments.renumber_classes,
            with_masks=not arguments.no_masks,
        )
        source = detect.read_source(arguments.source, options, arguments.format)
        num_images = sum(len(split.dataset.images) for split in source.splits)
        parts = ", ".join(f"{split.name} ({len(split.dataset.images):,})" for split in source.splits)
        say(f"{arguments.source} is {source.format}: {num_images:,} images; splits: {parts}.")
        if arguments.split:
            source = splits.split_source(source, arguments.split, arguments.seed)
        written = whole.convert_source(
            source,
            arguments.output_dir,
            num_shards=arguments.num_shards,
            num_processes=arguments.num_processes,
            exif_boxes=arguments.exif_boxes,
            allow_no_boxes=arguments.allow_no_boxes,
            strict=arguments.strict,
            label_map_path=arguments.label_map,
            say=say,
        )
    except (CocoError, SourceError) as error:
        raise UsageError(str(error)) from error
    say(written.report.to_text())
    say(f"Wrote {', '.join(written.patterns.values())}, {written.label_map_path} and {written.report_path}.")


def _run_coco(arguments: argparse.Namespace) -> None:
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
