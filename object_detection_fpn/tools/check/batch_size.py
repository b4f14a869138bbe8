"""`--batch_size` of `odfpn train`: a number, or the largest batch that fits the memory of this machine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from object_detection_fpn.tools.command import UsageError, say

if TYPE_CHECKING:
    from object_detection_fpn.protos import pipeline_pb2

AUTO = "auto"
HELP = (
    "images of a step; overrides train_config.batch_size. auto: the most that fit the memory of this machine, by a few trial "
    "steps: a power of two for each replica, at most 64"
)


def apply(config: pipeline_pb2.TrainEvalPipelineConfig, text: str, *, arguments: argparse.Namespace) -> None:
    """Does what --batch_size asks for, in place, and says so.

    With --auto_scale_lr, where the config does not say for which batch its learning rates are written
    (`reference_batch_size`), it is the one that the config has.

    Args:
        config: a checked config whose data exist.
        text: the value of the flag.
        arguments: of `odfpn train`.

    Raises:
        UsageError: if the value is none, `auto` cannot work, or no batch fits.
        ConfigError: if the config does not suit the batch.
    """
    from object_detection_fpn.config import pipeline as config_lib

    settings = config.train_config
    former = settings.batch_size
    if text == AUTO:
        if arguments.use_tpu or arguments.num_workers > 1:
            where = "--use_tpu" if arguments.use_tpu else f"--num_workers {arguments.num_workers}"
            raise UsageError(
                f"--batch_size auto does not work with {where}: it tries steps on this machine's own devices. "
                "`odfpn plan --largest_batch` finds the largest batch of a TPU; for several workers, find that of one with "
                "`odfpn check` and give their sum as a number."
            )
        batch_size = _of_run(arguments.model_dir) or _choose(config, arguments)
    elif text.isdigit() and int(text):
        batch_size = int(text)
    else:
        raise UsageError(f"--batch_size = {text} is not allowed. Allowed: 1 and above, or {AUTO}.")
    settings.batch_size = batch_size
    if arguments.auto_scale_lr and not settings.reference_batch_size:
        settings.reference_batch_size = former
    config_lib.check_config(config, arguments.config)
    if text == AUTO and not arguments.auto_scale_lr:
        say(_rates(batch_size, settings.reference_batch_size or former))


def _rates(batch_size: int, reference: int) -> str:
    """How the learning rates relate to the batch."""
    if batch_size == reference:
        return f"The learning rates are written for batches of {reference} and fit."
    return (
        f"The learning rates stay as they are written, for batches of {reference}; --auto_scale_lr multiplies them by "
        f"{batch_size} / {reference}."
    )


def _of_run(model_dir: str) -> int | None:
    """The batch of the run that goes on in a folder; None if a new one begins."""
    import tensorflow as tf

    from object_detection_fpn.config.text import parse_text, read_text
    from object_detection_fpn.protos import pipeline_pb2
    from object_detection_fpn.training.stored import latest_checkpoint

    path = os.path.join(model_dir, "pipeline.config")
    if latest_checkpoint(model_dir) is None or not tf.io.gfile.exists(path):
        return None
    batch_size = parse_text(read_text(path), pipeline_pb2.TrainEvalPipelineConfig, path).train_config.batch_size
    say(f"--batch_size auto: {batch_size}, as in {path}: the run goes on with the batch that it began with.")
    return batch_size


def _choose(config: pipeline_pb2.TrainEvalPipelineConfig, arguments: argparse.Namespace) -> int:
    from object_detection_fpn.tools.check import memory, process
    from object_detection_fpn.tools.check import request as request_lib
    from object_detection_fpn.tools.check.findings import Findings, gib

    findings = Findings("", config.train_config.batch_size)

    def on_event(event: Mapping[str, Any]) -> None:
        if event["event"] == "stage":
            say(f"--batch_size auto: {event['what']} ...")
        findings.add(event)

    request = request_lib.Request(
        config, request_lib.CHOOSE, jit_compile=arguments.jit_compile, from_label_map=arguments.from_label_map
    )
    process.run_trial(request, on_event)
    chosen = findings.chosen
    fitting = [step["batch_size"] for step in findings.measured]
    if chosen is None and findings.tried is not None and len(fitting) > 1 and findings.tried > fitting[-1]:
        chosen = max(fitting[-1], findings.tried // 2)  # the estimate was too low, and that batch did not fit
        findings.problems.clear()
    device = findings.device
    if findings.problems:
        raise UsageError(f"--batch_size auto: {findings.problems[0]}")
    if device is None or device["available_bytes"] is None or chosen is None:
        raise UsageError("--batch_size auto: the memory of this machine cannot be read. Allowed here: a number.")
    available = gib(device["available_bytes"])
    if not chosen:
        unit = "1 image fits" if device["unit"] == 1 else f"{device['unit']} images fit"
        need = gib(findings.measured[0]["peak_bytes"])
        raise UsageError(
            f"--batch_size auto: not even {unit}: a step takes {need} of {available}, of which "
            f"{device['margin']:.0%} are to stay free. What helps: a smaller image_resizer, or recompute_backbone: true."
        )
    measured = next((step for step in findings.measured if step["batch_size"] == chosen), None)
    taken = "" if measured is None else f" A step takes {gib(measured['peak_bytes'])}"
    limit = f", {memory.MOST_IMAGES} for each replica at most"
    say(
        f"--batch_size auto: {chosen}.{taken} of the {available} of this {device['device']}; "
        f"{device['margin']:.0%} stay free{limit}."
    )
    return chosen
