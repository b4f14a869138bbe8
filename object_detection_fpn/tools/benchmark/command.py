"""`odfpn benchmark`."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from object_detection_fpn.tools import command

if TYPE_CHECKING:
    from object_detection_fpn.tools.benchmark.measure import Measurement


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The table has COCO's AP on the evaluation data of the config, the median time of an image in milliseconds, resizing "
        "included and one image at a time, and the size of the files in MB."
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="folder of a SavedModel, .tflite or .onnx file of `odfpn export`, or a checkpoint of the config's model",
    )
    command.add_config(parser)
    parser.add_argument(
        "--records", nargs="+", metavar="FILES", help="TFRecord files in place of the config's evaluation data"
    )
    parser.add_argument("--sample_1_of_n", type=int, metavar="N", help="take every N-th image only")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace) -> None:
    if arguments.sample_1_of_n is not None and arguments.sample_1_of_n < 1:
        raise command.UsageError(f"--sample_1_of_n = {arguments.sample_1_of_n} is out of range. Allowed: 1 and above.")
    for model in arguments.models:
        command.check_input("MODEL", model)
    overrides = list(arguments.config_override)
    if arguments.records:
        paths = json.dumps(arguments.records)
        overrides.append(f"eval_input_reader.0.tf_record_input_reader.input_path={paths}")
    config = command.load_config(arguments.config, overrides, require_data=["eval"])

    from object_detection_fpn.tools.benchmark.measure import measure

    measured = []
    for model in arguments.models:
        with command.usage():
            measured.append(measure(config, model, sample_1_of_n=arguments.sample_1_of_n))
    print(
        json.dumps([row._asdict() for row in measured], indent=1) if arguments.json else as_table(measured), flush=True
    )


def as_table(measured: list[Measurement]) -> str:
    """The table in text."""
    has_masks = any(row.mask_ap is not None for row in measured)
    header = ["model", "kind", "box AP", *(["mask AP"] if has_masks else []), "ms", "MB"]
    rows = [
        [
            row.model,
            row.kind,
            f"{row.box_ap:.4f}",
            *(["" if row.mask_ap is None else f"{row.mask_ap:.4f}"] if has_masks else []),
            f"{row.milliseconds:.1f}",
            f"{row.megabytes:.2f}",
        ]
        for row in measured
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in (header, *rows)
    )
