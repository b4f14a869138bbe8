"""`odfpn inspect`."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING

from object_detection_fpn.tools.command import OVERRIDE_HELP, UsageError, check_folder, load_config, say

if TYPE_CHECKING:
    from object_detection_fpn.protos import pipeline_pb2
    from object_detection_fpn.tools.inspect.inspection import Inspection
    from object_detection_fpn.tools.inspect.pictures import Picture

_NUM_PICTURES = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Reads the records of train_input_reader and nothing else: no model is built. Sizes and anchors are judged at the "
        "training size, after the resizer and before augmentation."
    )
    parser.add_argument("config", metavar="CONFIG", help="pipeline config, or the name of a recipe")
    parser.add_argument("--config_override", action="append", default=[], metavar="KEY.PATH=VALUE", help=OVERRIDE_HELP)
    parser.add_argument(
        "--max_images", type=int, metavar="N", help="read at most N images, taken at equal distances; all by default"
    )
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON")
    parser.add_argument(
        "--html", metavar="FILE", help="write one HTML page with plots and drawn training images; it needs no network"
    )
    parser.add_argument(
        "--num_pictures",
        type=int,
        default=_NUM_PICTURES,
        metavar="N",
        help=f"augmented training images that the page shows ({_NUM_PICTURES})",
    )
    parser.add_argument(
        "--write", metavar="NEW.config", help="write the config with the suggestions and the overrides applied"
    )


def run(arguments: argparse.Namespace) -> int:
    _check_arguments(arguments)
    config = load_config(arguments.config, arguments.config_override)
    _check_data(config, arguments.config)

    from object_detection_fpn.tools.inspect import inspection as inspection_lib
    from object_detection_fpn.tools.inspect import text

    inspection = inspection_lib.inspect(config, source=arguments.config, max_images=arguments.max_images)
    text.print_inspection(inspection)
    if arguments.json:
        _write(arguments.json, json.dumps(inspection.as_dict(), indent=2) + "\n")
    if arguments.html:
        _write_page(arguments.html, config, inspection, num_pictures=arguments.num_pictures)
    if arguments.write:
        _write_config(arguments.write, config, inspection)
    return 0


def _check_arguments(arguments: argparse.Namespace) -> None:
    for flag, value, least in (
        ("--max_images", arguments.max_images, 1),
        ("--num_pictures", arguments.num_pictures, 0),
    ):
        if value is not None and value < least:
            raise UsageError(f"{flag} = {value} is not allowed. Allowed: {least} and above.")
    outputs = {"--json": arguments.json, "--html": arguments.html, "--write": arguments.write}
    for flag, path in outputs.items():
        if path is None:
            continue
        if not path.strip() or os.path.isdir(path) or path.endswith("/"):
            raise UsageError(f'{flag} = "{path}" is no path of a file.')
        check_folder(flag, os.path.dirname(path) or ".")
    given = [os.path.abspath(path) for path in outputs.values() if path is not None]
    if len(set(given)) < len(given):
        raise UsageError("--json, --html and --write name one file twice. Allowed: a file each.")
    if os.path.abspath(arguments.config) in given:
        raise UsageError(f"{arguments.config}: the config itself would be overwritten. Allowed: another file.")


def _check_data(config: pipeline_pb2.TrainEvalPipelineConfig, source: str) -> None:
    """Refuses a config whose records or label map are missing; a checkpoint and a number of steps are not needed here."""
    from object_detection_fpn.config import pipeline as config_lib

    needed = type(config)()
    needed.CopyFrom(config)
    needed.train_config.ClearField("fine_tune_checkpoint")
    needed.train_config.num_steps = max(needed.train_config.num_steps, 1)
    config_lib.check_config(needed, source, require_data="train")


def _write_page(
    path: str, config: pipeline_pb2.TrainEvalPipelineConfig, inspection: Inspection, *, num_pictures: int
) -> None:
    import tensorflow as tf

    from object_detection_fpn.data import failures
    from object_detection_fpn.tools.inspect import inspection as inspection_lib
    from object_detection_fpn.tools.inspect import page, pictures

    label_map = inspection_lib.load_label_map(config)
    drawn: list[Picture] = []
    reason = ""
    if num_pictures:
        try:
            drawn = pictures.draw_batches(
                config,
                label_map=label_map,
                names=inspection_lib.class_names(label_map),
                num_images=num_pictures,
            )
        except failures.DataError as error:  # nothing to train on: the page says so, and the rest of it stands
            reason = str(error)
        except tf.errors.InvalidArgumentError as error:  # a record that training would refuse, as one without masks
            message = failures.error_message(error)
            if message is None:
                raise
            reason = message
    _write(path, page.make_page(inspection, drawn, why_no_pictures=reason))


def _write_config(path: str, config: pipeline_pb2.TrainEvalPipelineConfig, inspection: Inspection) -> None:
    from object_detection_fpn.config import pipeline as config_lib
    from object_detection_fpn.tools.inspect import suggestions

    suggestions.apply(config, inspection.suggestions, path)
    config_lib.save_config(config, path)
    say(f"Wrote {path}: {len(inspection.suggestions)} suggestion(s) applied.")


def _write(path: str, text: str) -> None:
    import tensorflow as tf

    folder = os.path.dirname(path)
    if folder:
        tf.io.gfile.makedirs(folder)
    unfinished = f"{path}.unfinished"  # so that a file that is there is whole
    with tf.io.gfile.GFile(unfinished, "w") as file:
        file.write(text)
    tf.io.gfile.rename(unfinished, path, overwrite=True)
    say(f"Wrote {path}.")
