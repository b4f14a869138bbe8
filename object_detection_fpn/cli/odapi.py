"""What the Object Detection API's two scripts, `model_main_tf2.py` and `exporter_main_v2.py`, do with their flags."""

from __future__ import annotations

from typing import Any

from object_detection_fpn.cli.process import guarded
from object_detection_fpn.tools.command import UsageError, check_service_address, load_config, say, usage


def run_model_main(flags: Any) -> int:
    """Trains or evaluates as the flags of `model_main_tf2.py` say; returns the exit status."""

    def act() -> None:
        from object_detection_fpn.jobs import evaluate as evaluate_job
        from object_detection_fpn.jobs import strategies
        from object_detection_fpn.jobs import train as train_job

        is_evaluation = bool(flags.checkpoint_dir)
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
                record_summaries=flags.record_summaries,
                jit_compile=flags.jit_compile,
                seed=flags.seed,
                evaluate_checkpoints=flags.train_and_eval,
                sample_1_of_n_eval_examples=flags.sample_1_of_n_eval_examples,
                data_service_address=check_service_address(flags.data_service_address),
            )

    return guarded(act, xla_cache_dir=flags.xla_cache_dir)


def run_exporter_main(flags: Any) -> int:
    """Exports as the flags of `exporter_main_v2.py` say; returns the exit status."""

    def act() -> None:
        from object_detection_fpn.jobs import export as export_job

        config = load_config(flags.pipeline_config_path, flags.config_override)
        path = export_job.export(
            config,
            checkpoint=flags.trained_checkpoint_dir,
            output_dir=flags.output_directory,
            input_type=flags.input_type,
            jit_compile=flags.jit,
        )
        say(f"Exported to {path}.")

    return guarded(act)
