"""`odfpn export`."""

from __future__ import annotations

import argparse

from object_detection_fpn.serving.input_types import INPUT_TYPES
from object_detection_fpn.tools import command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_config(parser)
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help="checkpoint, or a folder: its newest one")
    parser.add_argument(
        "--output_dir", required=True, metavar="DIR", help="folder for saved_model/, checkpoint/ and pipeline.config"
    )
    parser.add_argument(
        "--input_type", default="image_tensor", choices=INPUT_TYPES, help="what the model takes (image_tensor)"
    )
    parser.add_argument("--jit", action="store_true", help="let XLA compile the model where it is served")
    parser.add_argument(
        "--device", choices=("cpu", "gpu"), help="what the model is fast on; by default what this machine has"
    )
    parser.add_argument(
        "--paste_masks",
        action="store_true",
        help="give detection_masks as pixels of the given image, uint8 [B, D, height, width] (of encoded images of several "
        "sizes, the largest), instead of float32 within each box, [B, D, mask_height, mask_width]",
    )


def run(arguments: argparse.Namespace) -> None:
    from object_detection_fpn.jobs import export as export_job

    command.check_input("--checkpoint", arguments.checkpoint)
    command.check_folder("--output_dir", arguments.output_dir)
    config = command.load_config(arguments.config, arguments.config_override)
    path = export_job.export(
        config,
        checkpoint=arguments.checkpoint,
        output_dir=arguments.output_dir,
        input_type=arguments.input_type,
        jit_compile=arguments.jit,
        device=arguments.device,
        paste_masks=arguments.paste_masks,
    )
    command.say(f"Exported to {path}.")
