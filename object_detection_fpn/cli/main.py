"""The command `odfpn`: each of its commands is a module with `add_arguments(parser)` and `run(arguments)`.

A new command is one line in `COMMANDS`. Importing the module must not import TensorFlow: `run` does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from object_detection_fpn.cli import evaluate, export, predict, train
from object_detection_fpn.cli.process import guarded
from object_detection_fpn.tools import data_service, demo, import_weights
from object_detection_fpn.tools.benchmark import command as benchmark
from object_detection_fpn.tools.check import command as check
from object_detection_fpn.tools.context_features import command as context_features
from object_detection_fpn.tools.convert import command as convert
from object_detection_fpn.tools.inspect import command as inspect
from object_detection_fpn.tools.planning import command as planning
from object_detection_fpn.tools.report import command as report
from object_detection_fpn.tools.report import compare


class Module(Protocol):
    """What a command's module has."""

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None: ...

    def run(self, arguments: argparse.Namespace, /) -> int | None:
        """Does the work; returns the exit status (None = 0)."""


class Command(NamedTuple):
    module: Module
    description: str


COMMANDS = {
    "train": Command(train, "Train a detector; continue from the newest checkpoint in --model_dir."),
    "eval": Command(evaluate, "Evaluate a checkpoint, or with --wait every checkpoint that appears in a folder."),
    "report": Command(report, "Write a page that shows what a detector gets right and wrong."),
    "compare": Command(compare, "Compare two detectors on the same images, with intervals."),
    "export": Command(export, "Write a checkpoint as a SavedModel, for LiteRT or as ONNX."),
    "benchmark": Command(benchmark, "Compare exported models: average precision, time and size."),
    "predict": Command(predict, "Detect objects in images; write JSON and drawings."),
    "convert": Command(convert, "Convert a data set of any of seven formats to TFRecords and a label map."),
    "inspect": Command(
        inspect, "Look at the training data of a config: classes, sizes, anchors, labels; suggest changes."
    ),
    "check": Command(check, "Check that training would work: model, memory, learning rate, weights, one real step."),
    "context-features": Command(
        context_features, "Add memory banks of a first detector's features to records, for Context R-CNN."
    ),
    "import-weights": Command(
        import_weights, "Turn weights of torchvision or Detectron2 into a checkpoint and its config."
    ),
    "data-service": Command(
        data_service, "Run a part of the data service, which prepares training batches in other processes."
    ),
    "plan": Command(planning, "Estimate memory and time of training and inference on a TPU, without a TPU."),
    "demo": Command(demo, "Draw a small data set; train, evaluate, export and use a detector on it."),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one `odfpn` command and returns its exit status."""
    arguments = make_parser().parse_args(argv)
    return guarded(lambda: arguments.run(arguments), xla_cache_dir=getattr(arguments, "xla_cache_dir", None))


def make_parser() -> argparse.ArgumentParser:
    """The parser of `odfpn`; what it parses has the command's function as `run`."""
    parser = argparse.ArgumentParser(
        prog="odfpn", description="Faster R-CNN with feature pyramid networks: train, evaluate, export, predict."
    )
    commands = parser.add_subparsers(metavar="command", required=True)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.description, description=command.description)
        command.module.add_arguments(sub)
        sub.set_defaults(run=command.module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
