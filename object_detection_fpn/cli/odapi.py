"""What the Object Detection API's two scripts, `model_main_tf2.py` and `exporter_main_v2.py`, do with their flags."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags as flags_lib

from object_detection_fpn.cli.process import guarded
from object_detection_fpn.cli.side_inputs import check_side_inputs
from object_detection_fpn.tools.command import (
    UsageError,
    check_folder,
    check_input,
    check_service_address,
    check_xla_cache,
    load_config,
    say,
    scale_learning_rates,
    usage,
)

_WRONG_FLAGS = 1  # the exit status of absl
_MOST_EDITS = 2  # between a flag and a typo of it; --num_eval_steps, which is none, is 4 from --num_train_steps


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the flags of a script as the Object Detection API does: unknown ones are ignored, here with a warning.

    For `absl.app.run(main, flags_parser=parse_flags)`.

    Args:
        argv: name of the program and its arguments.

    Returns:
        The name of the program and what is left.
    """
    if ignored := [_name_ignored(name) for name in _unknown_flags(argv)]:
        say(f"warning: this script has no such flags, which are ignored: {', '.join(ignored)}")
    try:
        return flags_lib.FLAGS(list(argv), known_only=True)
    except flags_lib.Error as error:
        say(f"error: {error}")
        say("Pass --helpshort to see the flags.")
        sys.exit(_WRONG_FLAGS)


def _unknown_flags(argv: Sequence[str]) -> list[str]:
    names = []
    for argument in argv[1:]:
        if argument == "--":
            break
        match = re.fullmatch(r"--?([A-Za-z_][\w-]*)(=.*)?", argument, re.DOTALL)
        if match and not {match[1], match[1].removeprefix("no")} & set(flags_lib.FLAGS):
            names.append(match[1])
    return names


def _name_ignored(name: str) -> str:
    """An unknown flag as the warning names it, with the known one that was probably meant or is most like it."""
    known = [flag for flag in flags_lib.FLAGS if len(flag) > 1]
    meant = min(known, key=lambda flag: _edit_distance(name, flag))
    if _edit_distance(name, meant) <= _MOST_EDITS:
        return f"--{name} (A TYPO? There is --{meant}, which was not set)"
    [similar, *_] = [*difflib.get_close_matches(name, known, n=1, cutoff=0.6), ""]
    return f"--{name} (nearest: --{similar})" if similar else f"--{name}"


def _edit_distance(a: str, b: str) -> int:
    """Letters to insert, remove or replace that turn one text into the other (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (letter != other))
    return row[-1]


def run_model_main(flags: Any) -> int:
    """Trains or evaluates as the flags of `model_main_tf2.py` say; returns the exit status."""

    def act() -> None:
        from object_detection_fpn.jobs import evaluate as evaluate_job
        from object_detection_fpn.jobs import strategies
        from object_detection_fpn.jobs import train as train_job

        is_evaluation = bool(flags.checkpoint_dir)
        check_xla_cache(flags.xla_cache_dir)
        check_folder("--model_dir", flags.model_dir)
        if is_evaluation:
            check_input("--checkpoint_dir", flags.checkpoint_dir, is_folder=True)
        if flags.train_and_eval and flags.num_workers > 1:
            raise UsageError(
                "--train_and_eval works on one worker. Evaluate in a process of its own: --checkpoint_dir."
            )
        uses = ["eval"] if is_evaluation and not flags.eval_on_train_data else ["train"]
        if flags.train_and_eval:
            uses.append("eval")
        overrides = list(flags.config_override)
        if flags.num_train_steps is not None:
            overrides.append(f"train_config.num_steps={flags.num_train_steps}")
        if is_evaluation and flags.num_workers > 1:
            raise UsageError("Evaluation works on one worker, on all its devices: leave out --num_workers.")
        config = load_config(flags.pipeline_config_path, overrides, require_data=uses)
        if flags.auto_scale_lr and not is_evaluation:
            scale_learning_rates(config, flags.pipeline_config_path)
        with usage():
            strategy = strategies.make_strategy(
                use_tpu=flags.use_tpu,
                tpu_name=flags.tpu_name,
                num_workers=flags.num_workers,
                worker_timeout=flags.worker_timeout,
            )
        if is_evaluation:
            evaluate_job.evaluate_continuously(
                config,
                checkpoint_dir=flags.checkpoint_dir,
                output_dir=flags.model_dir,
                strategy=strategy,
                timeout=flags.eval_timeout,
                sample_1_of_n_eval_examples=flags.sample_1_of_n_eval_examples,
                eval_on_train_data=flags.eval_on_train_data,
                sample_1_of_n_eval_on_train_examples=flags.sample_1_of_n_eval_on_train_examples,
            )
        else:
            train_job.train(
                config,
                model_dir=flags.model_dir,
                strategy=strategy,
                checkpoint_every_n=flags.checkpoint_every_n,
                summary_every_n=100 if flags.record_summaries else None,
                jit_compile=flags.jit_compile,
                seed=flags.seed,
                evaluate_checkpoints=flags.train_and_eval,
                sample_1_of_n_eval_examples=flags.sample_1_of_n_eval_examples,
                data_service_address=check_service_address(flags.data_service_address),
                from_label_map=flags.from_label_map,
            )

    return guarded(act, xla_cache_dir=flags.xla_cache_dir)


def run_exporter_main(flags: Any) -> int:
    """Exports as the flags of `exporter_main_v2.py` say; returns the exit status."""

    def act() -> None:
        from object_detection_fpn.jobs import export as export_job

        check_input("--trained_checkpoint_dir", flags.trained_checkpoint_dir)
        check_folder("--output_directory", flags.output_directory)
        config = load_config(flags.pipeline_config_path, flags.config_override)
        check_side_inputs(flags, config)
        path = export_job.export(
            config,
            checkpoint=flags.trained_checkpoint_dir,
            output_dir=flags.output_directory,
            input_type=flags.input_type,
            jit_compile=flags.jit,
            paste_masks=flags.paste_masks,
        )
        say(f"Exported to {path}.")

    return guarded(act)
