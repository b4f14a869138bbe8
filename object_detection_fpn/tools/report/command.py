"""`odfpn report`."""

from __future__ import annotations

import argparse
import os

from object_detection_fpn.tools import command


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
    parser.add_argument("--title", default="Detection report", metavar="TEXT", help="title of the page")
    parser.add_argument(
        "--num_images",
        type=int,
        default=24,
        metavar="N",
        help="how many of the worst and of the best images to show (24)",
    )
    parser.add_argument("--sample_1_of_n", type=int, metavar="N", help="take every N-th image only")
    parser.add_argument("--eval_on_train_data", action="store_true", help="take the training data")


def run(arguments: argparse.Namespace) -> None:
    import tensorflow as tf

    from object_detection_fpn.jobs import detect
    from object_detection_fpn.tools.report import analysis, page, stored

    if (arguments.saved_model is None) == (arguments.checkpoint is None):
        raise command.UsageError("Give either --checkpoint or --saved_model.")
    if not 0 <= arguments.num_images <= 1000:
        raise command.UsageError(f"--num_images = {arguments.num_images} is out of range. Allowed: 0 to 1000.")
    if arguments.sample_1_of_n is not None and arguments.sample_1_of_n < 1:
        raise command.UsageError(f"--sample_1_of_n = {arguments.sample_1_of_n} is out of range. Allowed: 1 and above.")
    for flag in ("saved_model", "checkpoint"):
        if getattr(arguments, flag) is not None:
            command.check_input(f"--{flag}", getattr(arguments, flag))
    output_dir = command.check_folder("--output_dir", arguments.output_dir)
    use = "train" if arguments.eval_on_train_data else "eval"
    config = command.load_config(arguments.config, arguments.config_override, require_data=[use])
    common = {"on_train_data": arguments.eval_on_train_data, "sample_1_of_n": arguments.sample_1_of_n}
    if arguments.checkpoint is not None:
        detected = detect.detect_with_checkpoint(config, checkpoint=arguments.checkpoint, **common)
    else:
        with command.usage():
            detected = detect.detect_with_saved_model(config, saved_model=arguments.saved_model, **common)
    found = analysis.analyse(detected, num_examples=arguments.num_images)
    reader = config.train_input_reader if arguments.eval_on_train_data else config.eval_input_reader[0]
    at_step = f", step {detected.step}" if detected.step is not None else ""
    content = {
        **found.content,
        "model": (arguments.checkpoint or arguments.saved_model) + at_step,
        "data": ", ".join(reader.tf_record_input_reader.input_path),
    }
    files = {"report.html": page.make_page(arguments.title, content, found.examples)}
    if arguments.json:
        files["report.json"] = stored.to_text(content, found.matches, found.image_ids)
    tf.io.gfile.makedirs(output_dir)
    for name, text in files.items():
        path = os.path.join(output_dir, name)
        with tf.io.gfile.GFile(path, "w") as file:
            file.write(text)
        command.say(f"Written: {path} ({len(text) / 1e6:.1f} MB)")
