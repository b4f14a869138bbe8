"""`odfpn predict`."""

from __future__ import annotations

import argparse

from object_detection_fpn.tools import command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images",
        nargs="+",
        help="image files, folders or globs; or TFRecord files, where a model with context finds its features too",
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
        help="folder for detections.json (with masks as RLE, if the model has them) and the drawings",
    )
    parser.add_argument(
        "--min_score", type=float, default=0.5, metavar="SCORE", help="leave out detections below it (0.5)"
    )


def run(arguments: argparse.Namespace) -> int:
    from object_detection_fpn.config import label_map
    from object_detection_fpn.jobs import predict as predict_job

    if (arguments.saved_model is None) == (arguments.checkpoint is None):
        raise command.UsageError("Give either --saved_model, or --checkpoint with --config.")
    for flag in ("saved_model", "checkpoint"):
        if getattr(arguments, flag) is not None:
            command.check_input(f"--{flag}", getattr(arguments, flag))
    command.check_folder("--output_dir", arguments.output_dir)
    images = predict_job.find_images(arguments.images)
    with command.usage():
        predict_job.make_output_dir(arguments.output_dir)
    if arguments.saved_model is not None:
        categories = label_map.load_label_map(arguments.label_map).categories if arguments.label_map is not None else ()
        with command.usage():
            predictor = predict_job.Predictor.from_saved_model(arguments.saved_model, categories=categories)
    else:
        if arguments.config is None:
            raise command.UsageError("--checkpoint needs --config, the pipeline config it was trained with.")
        predictor = predict_job.make_predictor(
            command.load_config(arguments.config, arguments.config_override), checkpoint=arguments.checkpoint
        )
    with command.usage():
        predict_job.check_context(predictor, images)
    report = predict_job.predict_files(
        predictor, images, output_dir=arguments.output_dir, min_score=arguments.min_score
    )
    command.say(f"{report.num_detections} detections in {report.num_images} images, written to {report.json_path}.")
    return report.exit_code
