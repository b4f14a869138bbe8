"""`odfpn check`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from object_detection_fpn.tools import command
from object_detection_fpn.tools.command import OVERRIDE_HELP, UsageError, check_folder, say

if TYPE_CHECKING:
    from object_detection_fpn.protos import pipeline_pb2
    from object_detection_fpn.tools.check.findings import Findings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Builds the model, restores its first weights and takes a few real steps on the training data, on the devices that "
        "training would use. Nothing is kept and no model_dir is needed. The exit status is 0 if training would work, 1 if "
        "it would fail, with the reason in the last line, and 2 if the config or the command line is wrong."
    )
    parser.add_argument("config", metavar="CONFIG", help="pipeline config, or the name of a recipe")
    parser.add_argument("--config_override", action="append", default=[], metavar="KEY.PATH=VALUE", help=OVERRIDE_HELP)
    command.add_starts(parser)
    parser.add_argument("--jit_compile", action="store_true", help="compile the train step with XLA, as training would")
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON, each variable too")


def run(arguments: argparse.Namespace) -> int:
    _check_output(arguments)
    config = command.load_config(arguments.config, arguments.config_override, require_data=["train"])
    if arguments.from_label_map is not None and not config.train_config.restore_classes_by_name:
        raise UsageError("--from_label_map has no use: train_config.restore_classes_by_name is false. Set it to true.")
    if arguments.auto_scale_lr:
        command.scale_learning_rates(config, arguments.config)
    findings = check(
        config,
        source=arguments.config,
        jit_compile=arguments.jit_compile,
        from_label_map=arguments.from_label_map,
    )

    from object_detection_fpn.tools.check import text

    text.print_findings(findings)
    if arguments.json:
        _write_json(arguments.json, findings)
    if findings.problems:
        say(f"error: {arguments.config}: {findings.problems[0].splitlines()[0]}")
    return 1 if findings.problems else 0


def check(
    config: pipeline_pb2.TrainEvalPipelineConfig,
    *,
    source: str,
    jit_compile: bool = False,
    from_label_map: str | None = None,
) -> Findings:
    """Tries a config out in a process of its own.

    Args:
        config: a checked config whose data exist (`require_data="train"`).
        source: the file it comes from.
        jit_compile: XLA compiles the step.
        from_label_map: label map of `fine_tune_checkpoint`, for `restore_classes_by_name`.
    """
    from object_detection_fpn.tools.check import process
    from object_detection_fpn.tools.check import request as request_lib
    from object_detection_fpn.tools.check.findings import Findings

    findings = Findings(source, config.train_config.batch_size, problems=list(_missing_classes(config)))

    def on_event(event: Mapping[str, Any]) -> None:
        if event["event"] == "stage":
            say(f"{event['what'].capitalize()} ...")
        findings.add(event)

    request = request_lib.Request(config, request_lib.CHECK, jit_compile=jit_compile, from_label_map=from_label_map)
    process.run_trial(request, on_event)
    return findings


def _missing_classes(config: pipeline_pb2.TrainEvalPipelineConfig) -> Iterator[str]:
    """Whether the label map has classes that the model cannot have."""
    from object_detection_fpn.config import files
    from object_detection_fpn.config import model as model_config
    from object_detection_fpn.jobs.evaluate import load_label_map

    if load_label_map(config.train_input_reader).max_id > model_config.num_classes(config.model):
        for problem in files.find_class_differences(config, "train"):
            yield f"{problem.field} = {problem.value} {problem.problem}."


def _check_output(arguments: argparse.Namespace) -> None:
    path = arguments.json
    if path is None:
        return
    if not path.strip() or os.path.isdir(path) or path.endswith("/"):
        raise UsageError(f'--json = "{path}" is no path of a file.')
    check_folder("--json", os.path.dirname(path) or ".")
    if os.path.abspath(arguments.config) == os.path.abspath(path):
        raise UsageError(f"{arguments.config}: the config itself would be overwritten. Allowed: another file.")


def _write_json(path: str, findings: Findings) -> None:
    import tensorflow as tf

    folder = os.path.dirname(path)
    if folder:
        tf.io.gfile.makedirs(folder)
    unfinished = f"{path}.unfinished"  # so that a file that is there is whole
    with tf.io.gfile.GFile(unfinished, "w") as file:
        file.write(json.dumps(findings.as_dict(), indent=2) + "\n")
    tf.io.gfile.rename(unfinished, path, overwrite=True)
    say(f"Wrote {path}.")
