"""`odfpn import-weights`: a detector of torchvision or Detectron2 becomes a checkpoint of this package."""

from __future__ import annotations

import argparse
import collections
import os
import re
from typing import TYPE_CHECKING

from object_detection_fpn.tools import command

if TYPE_CHECKING:
    from object_detection_fpn.modeling.detector import Detector
    from object_detection_fpn.protos import input_reader_pb2, pipeline_pb2
    from object_detection_fpn.training.weights import WeightsReport

_LIBRARIES = ("torchvision", "detectron2")  # keys of interop.libraries.LIBRARIES, which imports TensorFlow
_LABEL_MAP = "label_map.pbtxt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the library's weights: .pth, .pt, .safetensors or .pkl")
    parser.add_argument("--from", dest="library", required=True, choices=_LIBRARIES, help="the library they are of")
    command.add_config(parser)
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder for the checkpoint ckpt-0, pipeline.config and label map"
    )
    parser.add_argument(
        "--label_map", metavar="FILE", help="label map of the weights' classes; that of the config by default"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier import left in --output")


def run(arguments: argparse.Namespace) -> None:
    from object_detection_fpn import builder
    from object_detection_fpn.interop import torch_files
    from object_detection_fpn.interop.libraries import LIBRARIES
    from object_detection_fpn.modeling.detectors.faster_rcnn import FasterRCNN
    from object_detection_fpn.modeling.detectors.retinanet import RetinaNet
    from object_detection_fpn.training.stored import CheckpointError, some
    from object_detection_fpn.training.weights import assign_whole_model, variables_by_path

    command.check_input("FILE", arguments.file)
    command.check_folder("--output", arguments.output)
    _check_output(arguments.output, overwrite=arguments.overwrite)
    config = command.load_config(arguments.config, arguments.config_override)
    label_map_text = _read_label_map(config, arguments.label_map)
    file = torch_files.read_file(arguments.file)
    model = builder.build_detector(config, _reader(config), execution=builder.inference_execution(config))
    if not isinstance(model, FasterRCNN | RetinaNet):
        raise command.UsageError(
            f"--config = {arguments.config} describes no Faster R-CNN or RetinaNet, which these weights are for."
        )
    library = LIBRARIES[arguments.library]
    weights = library.weights_by_path(file.tensors, model, arguments.file)
    if unknown := sorted(weights.keys() - variables_by_path(model).keys()):
        raise CheckpointError(f"{arguments.file}: the model has no variables for {some(unknown)}.")
    report = assign_whole_model(model, weights, source=arguments.file)
    _write(arguments.output, config, model, label_map_text)
    if unused := library.unused_part(file.tensors, model):
        command.say(f"{arguments.file}: its {unused} is left out, as the config has number_of_stages: 2.")
    part = f', its part "{file.part}"' if file.part else ""
    print(report.table(f"Weights from {arguments.file} (a detector of {library.title}{part})"))
    print(_table_of_parts(report, model), flush=True)
    config_path = os.path.join(arguments.output, "pipeline.config")
    command.say(f"Next: odfpn predict IMAGES --config {config_path} --checkpoint {arguments.output} --output_dir DIR")


def _check_output(output: str, *, overwrite: bool) -> None:
    """Refuses a folder whose content would be lost: of an earlier import without --overwrite, of a training run always."""
    import tensorflow as tf

    names = tf.io.gfile.listdir(output) if tf.io.gfile.isdir(output) else []
    trained = sorted(name for name in names if re.fullmatch(r"ckpt-[1-9]\d*\.index", name))
    if trained:
        name = trained[0].removesuffix(".index")
        raise command.UsageError(f"--output = {output} holds {name} of a training run. Name another folder.")
    if names and not overwrite:
        raise command.UsageError(
            f"--output = {output} is not empty. Name another folder, or add --overwrite to replace an earlier import."
        )


def _reader(config: pipeline_pb2.TrainEvalPipelineConfig) -> input_reader_pb2.InputReader:
    return config.eval_input_reader[0] if config.eval_input_reader else config.train_input_reader


def _read_label_map(config: pipeline_pb2.TrainEvalPipelineConfig, named: str | None) -> str:
    """The text of the label map that is named, or of that of the config, once it is known to fit the model."""
    import tensorflow as tf

    from object_detection_fpn.config import label_map, paths, recipes, text
    from object_detection_fpn.config import model as model_config

    reader = _reader(config)
    path = recipes.find_label_map(reader.label_map_path if named is None else named)
    if named is None and (not path or paths.unusable_input(path) or not tf.io.gfile.exists(path)):
        stated = f'names "{path}", which is not there' if path else "names none"
        raise command.UsageError(
            f"--label_map is needed, as the config {stated}: the label map of the weights' classes."
        )
    classes = label_map.load_label_map(path, use_display_name=reader.use_display_name)
    num_classes = model_config.num_classes(config.model)
    if classes.max_id > num_classes:
        field = model_config.field_path(config.model, "num_classes")
        raise command.UsageError(
            f"{path} has ids up to {classes.max_id}, but {field} = {num_classes}. Name the label map of the weights' classes "
            "with --label_map."
        )
    if classes.max_id < num_classes:
        command.say(f"{path} has ids up to {classes.max_id}: the model's classes above it have no name.")
    return text.read_text(path)


def _write(output: str, config: pipeline_pb2.TrainEvalPipelineConfig, model: Detector, label_map_text: str) -> None:
    """Writes the folder: the config last, and with the paths of what lies beside it."""
    import tensorflow as tf

    from object_detection_fpn.config import paths
    from object_detection_fpn.config import pipeline as config_lib
    from object_detection_fpn.training.errors import writing

    folder = output if paths.scheme(output) else os.path.abspath(output)
    label_map_path = os.path.join(folder, _LABEL_MAP)
    written = type(config)()
    written.CopyFrom(config)
    for reader in (written.train_input_reader, *written.eval_input_reader):
        reader.label_map_path = label_map_path
    if written.HasField("train_config"):
        written.train_config.fine_tune_checkpoint = os.path.join(folder, "ckpt-0")
        written.train_config.fine_tune_checkpoint_type = "full"
        written.train_config.ClearField("from_detection_checkpoint")
    written.eval_config.use_moving_averages = False  # there are none
    with writing(f"The imported model in {output}"):
        tf.io.gfile.makedirs(folder)
        with tf.io.gfile.GFile(label_map_path, "w") as file:
            file.write(label_map_text)
        checkpoint = tf.train.Checkpoint(step=tf.Variable(0, dtype=tf.int64), model=model)
        tf.train.CheckpointManager(checkpoint, folder, max_to_keep=None).save(checkpoint_number=0)
        config_lib.save_config(written, os.path.join(folder, "pipeline.config"))


def _table_of_parts(report: WeightsReport, model: Detector) -> str:
    """How many variables and numbers each part of the model has got."""
    from object_detection_fpn.training.weights import variables_by_path

    variables = variables_by_path(model)
    counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for path in report.restored:
        count = counts["/".join(path.split("/")[:2])]
        count[0] += 1
        count[1] += int(variables[path].shape.num_elements())
    return "\n".join(
        f"    {part:<34}{number:>5} variables {size:>12,} numbers" for part, (number, size) in counts.items()
    )
