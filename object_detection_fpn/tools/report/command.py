"""`odfpn report`."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from object_detection_fpn.tools import command

if TYPE_CHECKING:
    from object_detection_fpn.protos import pipeline_pb2

_TITLE = "Detection report"
_NUM_IMAGES = 24
_MAX_IMAGES = 1000  # the page keeps to its size all the same


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "report.html needs nothing but a browser: metrics by class and size, kinds of errors and what each costs, curves, "
        "thresholds, confusion, calibration, and the worst and best images with their boxes."
    )
    command.add_config(parser)
    parser.add_argument("--checkpoint", metavar="PATH", help="checkpoint, or a folder: its newest one")
    parser.add_argument("--saved_model", metavar="DIR", help="folder of an exported model, instead of --checkpoint")
    parser.add_argument("--output_dir", required=True, metavar="DIR", help="folder for report.html and report.json")
    parser.add_argument("--json", action="store_true", help="write report.json too, which `odfpn compare` reads")
    parser.add_argument("--title", default=_TITLE, metavar="TEXT", help="title of the page")
    parser.add_argument(
        "--num_images",
        type=int,
        default=_NUM_IMAGES,
        metavar="N",
        help=f"how many of the worst and of the best images to show ({_NUM_IMAGES})",
    )
    parser.add_argument("--sample_1_of_n", type=int, metavar="N", help="take every N-th image only")
    parser.add_argument("--eval_on_train_data", action="store_true", help="take the training data")


def run(arguments: argparse.Namespace) -> None:
    if (arguments.saved_model is None) == (arguments.checkpoint is None):
        raise command.UsageError("Give either --checkpoint or --saved_model.")
    if not 0 <= arguments.num_images <= _MAX_IMAGES:
        raise command.UsageError(f"--num_images = {arguments.num_images} is out of range. Allowed: 0 to {_MAX_IMAGES}.")
    if arguments.sample_1_of_n is not None and arguments.sample_1_of_n < 1:
        raise command.UsageError(f"--sample_1_of_n = {arguments.sample_1_of_n} is out of range. Allowed: 1 and above.")
    for flag in ("saved_model", "checkpoint"):
        if getattr(arguments, flag) is not None:
            command.check_input(f"--{flag}", getattr(arguments, flag))
    command.check_folder("--output_dir", arguments.output_dir)
    use = "train" if arguments.eval_on_train_data else "eval"
    write_report(
        command.load_config(arguments.config, arguments.config_override, require_data=[use]),
        checkpoint=arguments.checkpoint,
        saved_model=arguments.saved_model,
        output_dir=arguments.output_dir,
        title=arguments.title,
        write_json=arguments.json,
        num_images=arguments.num_images,
        on_train_data=arguments.eval_on_train_data,
        sample_1_of_n=arguments.sample_1_of_n,
    )


def write_report(
    config: pipeline_pb2.TrainEvalPipelineConfig,
    *,
    checkpoint: str | None = None,
    saved_model: str | None = None,
    output_dir: str,
    title: str = _TITLE,
    write_json: bool = False,
    num_images: int = _NUM_IMAGES,
    on_train_data: bool = False,
    sample_1_of_n: int | None = None,
) -> str:
    """Runs the model on its data and writes the page.

    Args:
        config: a checked config.
        checkpoint: a checkpoint, or a folder, which means its newest; or else `saved_model`.
        saved_model: folder of an exported model.
        output_dir: folder to write, made if missing.
        title: of the page.
        write_json: write `report.json` too.
        num_images: how many of the worst and of the best images to show.
        on_train_data: take the training data.
        sample_1_of_n: take every n-th image; None = as the reader says.

    Returns:
        The path of the page.
    """
    import tensorflow as tf

    from object_detection_fpn.jobs import detect
    from object_detection_fpn.tools.report import analysis, page, stored

    if saved_model is not None:
        with command.usage():
            detected = detect.detect_with_saved_model(
                config, saved_model=saved_model, on_train_data=on_train_data, sample_1_of_n=sample_1_of_n
            )
    else:
        assert checkpoint is not None
        detected = detect.detect_with_checkpoint(
            config, checkpoint=checkpoint, on_train_data=on_train_data, sample_1_of_n=sample_1_of_n
        )
    found = analysis.analyse(detected, num_examples=num_images)
    reader = config.train_input_reader if on_train_data else config.eval_input_reader[0]
    at_step = f", step {detected.step}" if detected.step is not None else ""
    content = {
        **found.content,
        "model": f"{saved_model or checkpoint}{at_step}",
        "data": ", ".join(reader.tf_record_input_reader.input_path) or reader.coco_input_reader.annotations_path,
    }
    files = {"report.html": page.make_page(title, content, found.examples)}
    if write_json:
        files["report.json"] = stored.to_text(content, found.matches, found.image_ids)
    tf.io.gfile.makedirs(output_dir)
    for name, text in files.items():
        path = os.path.join(output_dir, name)
        with tf.io.gfile.GFile(path, "w") as file:
            file.write(text)
        command.say(f"Written: {path} ({len(text) / 1e6:.1f} MB)")
    return os.path.join(output_dir, "report.html")
