"""`odfpn predict`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from object_detection_fpn.tools import command

if TYPE_CHECKING:
    from object_detection_fpn.jobs import predict as predict_job

_FORMATS = ("json", "jsonl", "coco")  # of jobs.predictions.writers, which needs TensorFlow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Exit status: 0; 1 if an image could not be read (it is named and passed over); 2 if the command line is wrong, or a "
        "file that it names."
    )
    parser.add_argument(
        "images",
        nargs="+",
        help="image files, folders or globs, local or gs://; or TFRecord files, where a model with context finds its features",
    )
    parser.add_argument("--saved_model", metavar="DIR", help="folder of an exported model")
    parser.add_argument("--label_map", metavar="FILE", help="label map with the names to show, for --saved_model")
    parser.add_argument("--config", metavar="FILE", help="pipeline config, for --checkpoint")
    parser.add_argument(
        "--config_override", action="append", default=[], metavar="KEY.PATH=VALUE", help=command.OVERRIDE_HELP
    )
    parser.add_argument(
        "--checkpoint", metavar="PATH", help="checkpoint, or a folder: its newest one; instead of --saved_model"
    )
    parser.add_argument(
        "--output_dir",
        required=True,
        metavar="DIR",
        help="folder for the detections (with masks as RLE, if the model has them) and the drawings",
    )
    parser.add_argument(
        "--format",
        choices=_FORMATS,
        default="json",
        help="json: detections.json, one object with images, detections, classes; jsonl: detections.jsonl, a line an image, "
        "written as it goes; coco: detections_coco.json, COCO's list of results (json)",
    )
    parser.add_argument(
        "--coco_images",
        metavar="FILE",
        help="COCO JSON whose image ids are taken, by file name; images that it does not list are passed over",
    )
    parser.add_argument("--no_drawings", action="store_true", help="write no PNGs")
    parser.add_argument(
        "--min_score", type=float, default=0.5, metavar="SCORE", help="leave out detections below it (0.5)"
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="SIDE",
        help="cut images into tiles of SIDE x SIDE pixels, detect in each, and merge: finds small objects in large images",
    )
    parser.add_argument("--overlap", type=float, metavar="SHARE", help="of a tile with the next, with --tile (0.2)")
    parser.add_argument(
        "--whole_image",
        action="store_true",
        help="with --tile, detect in the whole image too, for objects larger than a tile",
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        default=1,
        metavar="N",
        help="tiles, or following images of one size, that go through the model at once, if it takes several (1)",
    )


def run(arguments: argparse.Namespace) -> int:
    from object_detection_fpn.jobs import predict as predict_job

    _check_arguments(arguments)
    names = predict_job.find_named_images(arguments.images, output_dir=arguments.output_dir)
    images, image_ids = list(names), None
    with command.usage():
        tiling = _make_tiling(arguments)
        if arguments.coco_images is not None:
            given = [path for path in images if not predict_job.is_record_file(path)]
            image_ids = predict_job.CocoIds(arguments.coco_images, given)
        predict_job.make_output_dir(arguments.output_dir)
    predictor = _make_predictor(arguments)
    with command.usage():
        predict_job.check_context(predictor, images, tiling=tiling)
    if arguments.batch_size > 1 and not predictor.takes_batches:
        command.say("The model takes one image at a time: --batch_size has no effect.")
    report = predict_job.predict_files(
        predictor,
        images,
        output_dir=arguments.output_dir,
        names=names,
        min_score=arguments.min_score,
        tiling=tiling,
        batch_size=arguments.batch_size,
        output_format=arguments.format,
        image_ids=image_ids,
        draw=not arguments.no_drawings,
    )
    command.say(f"{report.num_detections} detections in {report.num_images} images, written to {report.json_path}.")
    return report.exit_code


def _check_arguments(arguments: argparse.Namespace) -> None:
    if (arguments.saved_model is None) == (arguments.checkpoint is None):
        raise command.UsageError("Give either --saved_model, or --checkpoint with --config.")
    if arguments.checkpoint is not None and arguments.config is None:
        raise command.UsageError("--checkpoint needs --config, the pipeline config it was trained with.")
    for flag in ("saved_model", "checkpoint", "coco_images"):
        if getattr(arguments, flag) is not None:
            command.check_input(f"--{flag}", getattr(arguments, flag))
    command.check_folder("--output_dir", arguments.output_dir)
    if not 0.0 <= arguments.min_score <= 1.0:
        raise command.UsageError(f"--min_score = {arguments.min_score:g} is not allowed. Allowed: 0 to 1.")
    if arguments.batch_size < 1:
        raise command.UsageError(f"--batch_size = {arguments.batch_size} is not allowed. Allowed: 1 and above.")


def _make_tiling(arguments: argparse.Namespace) -> predict_job.Tiling | None:
    from object_detection_fpn.serving import tiling

    if arguments.tile is None:
        if arguments.overlap is not None or arguments.whole_image:
            raise command.UsageError("--overlap and --whole_image need --tile, the side of the tiles in pixels.")
        return None
    overlap = tiling.DEFAULT_OVERLAP if arguments.overlap is None else arguments.overlap
    made = tiling.Tiling(arguments.tile, overlap, arguments.whole_image)
    made.check()
    return made


def _make_predictor(arguments: argparse.Namespace) -> predict_job.Predictor:
    from object_detection_fpn.config import label_map
    from object_detection_fpn.jobs import predict as predict_job

    if arguments.saved_model is None:
        config = command.load_config(arguments.config, arguments.config_override)
        return predict_job.make_predictor(config, checkpoint=arguments.checkpoint)
    categories: Sequence[Mapping[str, Any]] = ()
    if arguments.label_map is not None:
        categories = label_map.load_label_map(arguments.label_map).categories
    with command.usage():
        return predict_job.Predictor.from_saved_model(arguments.saved_model, categories=categories)
