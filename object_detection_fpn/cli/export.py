"""`odfpn export`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from object_detection_fpn.serving.input_types import INPUT_TYPES
from object_detection_fpn.tools import command

if TYPE_CHECKING:
    from object_detection_fpn.protos import pipeline_pb2

_FORMATS = ("saved_model", "litert", "onnx")
_QUANTIZATIONS = ("float32", "float16", "int8")
_NUM_REPRESENTATIVE = 100
_NUM_COMPARED = 8


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
    parser.add_argument(
        "--format",
        nargs="+",
        default=["saved_model"],
        choices=_FORMATS,
        help="what to write besides the SavedModel, which is always written and which the others are compared with: "
        "litert (model_*.tflite, of built-in operations), onnx (model.onnx)",
    )
    parser.add_argument(
        "--quantize",
        nargs="+",
        default=["float32"],
        choices=_QUANTIZATIONS,
        help="types of the weights of litert, a file each; int8: backbone and pyramid compute in int8 (float32)",
    )
    parser.add_argument(
        "--batch_size",
        default="1",
        metavar="N",
        help="images that a file of litert or onnx takes at a time; dynamic for any, with onnx alone (1)",
    )
    parser.add_argument(
        "--representative",
        nargs="+",
        default=[],
        metavar="DATA",
        help="images, folders or TFRecord files: int8 takes its ranges from them, and the first are those that files are "
        "compared on; by default the training data for int8, the evaluation data otherwise",
    )
    parser.add_argument(
        "--num_representative",
        type=int,
        default=_NUM_REPRESENTATIVE,
        metavar="N",
        help=f"how many images int8 takes its ranges from ({_NUM_REPRESENTATIVE})",
    )


def run(arguments: argparse.Namespace) -> None:
    from object_detection_fpn.jobs import export as export_job
    from object_detection_fpn.jobs import formats

    batch_size = _check_formats(arguments)
    command.check_input("--checkpoint", arguments.checkpoint)
    command.check_folder("--output_dir", arguments.output_dir)
    config = command.load_config(arguments.config, arguments.config_override)
    if set(arguments.format) != {"saved_model"}:
        formats.portable_config(config)  # before the SavedModel is written
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
    if set(arguments.format) != {"saved_model"}:
        _export_formats(config, arguments, batch_size)


def _check_formats(arguments: argparse.Namespace) -> int | None:
    """The batch size, None = any, once it is known that the flags suit each other."""
    text = arguments.batch_size
    if text != "dynamic" and not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise command.UsageError(f"--batch_size = {text} is no batch size. Allowed: 1 and above, or dynamic.")
    if text == "dynamic" and "litert" in arguments.format:
        raise command.UsageError("--batch_size = dynamic does not go with --format litert. Allowed: 1 and above.")
    if arguments.quantize != ["float32"] and "litert" not in arguments.format:
        raise command.UsageError(f"--quantize {' '.join(arguments.quantize)} needs --format litert.")
    if arguments.num_representative < 1:
        raise command.UsageError(
            f"--num_representative = {arguments.num_representative} is out of range. Allowed: 1 and above."
        )
    if set(arguments.format) != {"saved_model"} and arguments.paste_masks:
        raise command.UsageError(
            "--paste_masks does not go with --format litert and onnx, whose masks lie in their boxes."
        )
    return None if text == "dynamic" else int(text)


def _export_formats(
    config: pipeline_pb2.TrainEvalPipelineConfig, arguments: argparse.Namespace, batch_size: int | None
) -> None:
    from object_detection_fpn.config import model as model_config
    from object_detection_fpn.jobs import formats
    from object_detection_fpn.serving.portable import FormatError

    is_int8 = "litert" in arguments.format and "int8" in arguments.quantize
    reader = config.train_input_reader if is_int8 or not config.eval_input_reader else config.eval_input_reader[0]
    images = formats.read_images(
        arguments.representative,
        max_num=arguments.num_representative if is_int8 else _NUM_COMPARED,
        num_channels=model_config.num_image_channels(config.model, reader),
        reader=reader,
    )

    def report(written: formats.Written) -> None:
        command.say(f"Exported to {written.path}: {written.differences or 'not compared, as there are no images'}.")

    chosen: list[formats.Format] = []
    if "litert" in arguments.format:
        chosen.append("litert")
    if "onnx" in arguments.format:
        chosen.append("onnx")
    try:
        formats.export_formats(
            config,
            checkpoint=arguments.checkpoint,
            output_dir=arguments.output_dir,
            formats=chosen,
            quantizations=list(dict.fromkeys(arguments.quantize)),
            batch_size=batch_size,
            images=images,
            num_compared=_NUM_COMPARED,
            report=report,
        )
    except FormatError as error:
        raise command.UsageError(str(error)) from error
