"""`odfpn train`."""

from __future__ import annotations

import argparse

from object_detection_fpn.tools import command
from object_detection_fpn.tools.check import batch_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_config(parser)
    parser.add_argument("--model_dir", required=True, metavar="DIR", help="folder for checkpoints and summaries")
    parser.add_argument(
        "--num_steps", type=int, metavar="N", help="train up to this step; overrides train_config.num_steps"
    )
    parser.add_argument("--batch_size", metavar="N|auto", help=batch_size.HELP)
    parser.add_argument(
        "--checkpoint_every_n", type=int, default=1000, metavar="N", help="steps between checkpoints (1000)"
    )
    parser.add_argument(
        "--train_and_eval", action="store_true", help="evaluate after every checkpoint, and keep the best one"
    )
    parser.add_argument(
        "--keep_best",
        metavar="METRIC",
        help="with --train_and_eval: what makes a checkpoint the best one, any metric of the evaluation, or a loss, of "
        "which less is better (the main metric of the config's metrics_set)",
    )
    parser.add_argument(
        "--early_stopping_patience",
        type=int,
        metavar="N",
        help="with --train_and_eval: end after N evaluations in a row without a better result",
    )
    parser.add_argument(
        "--max_to_keep", type=int, default=7, metavar="N", help="newest checkpoints to keep; 0 keeps all (7)"
    )
    parser.add_argument(
        "--time_budget",
        type=float,
        metavar="HOURS",
        help="end with a checkpoint after so many hours; the learning rate does not change for it",
    )
    parser.add_argument(
        "--metrics_log",
        choices=("json", "csv", "none"),
        default="json",
        help="also write the numbers to metrics.jsonl or metrics.csv in --model_dir (json)",
    )
    parser.add_argument(
        "--summary_histograms", action="store_true", help="histograms of weights and gradients in TensorBoard"
    )
    parser.add_argument("--jit_compile", action="store_true", help="compile the train step with XLA on CPU and GPU too")
    command.add_xla_cache(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all random choices (0)")
    parser.add_argument(
        "--data_service_address",
        metavar="HOST:PORT",
        help="dispatcher of `odfpn data-service` that prepares the batches",
    )
    command.add_starts(parser)
    command.add_tpu(parser)
    parser.add_argument(
        "--num_workers",
        type=int,
        default=1,
        metavar="N",
        help="above 1: this is one of the workers that TF_CONFIG lists",
    )
    parser.add_argument(
        "--worker_timeout", type=float, default=600, metavar="S", help="seconds to wait for the other workers (600)"
    )


def run(arguments: argparse.Namespace) -> None:
    from object_detection_fpn.jobs import strategies
    from object_detection_fpn.jobs import train as train_job

    if arguments.train_and_eval and arguments.num_workers > 1:
        raise command.UsageError(
            "--train_and_eval works on one worker. Evaluate in a process of its own: odfpn eval --wait."
        )
    command.check_folder("--model_dir", arguments.model_dir)
    command.check_xla_cache(arguments.xla_cache_dir)
    overrides = list(arguments.config_override)
    if arguments.num_steps is not None:
        overrides.append(f"train_config.num_steps={arguments.num_steps}")
    uses = ["train", "eval"] if arguments.train_and_eval else ["train"]
    config = command.load_config(arguments.config, overrides, require_data=uses)
    if arguments.batch_size is not None:
        batch_size.apply(config, arguments.batch_size, arguments=arguments)
    if arguments.auto_scale_lr:
        command.scale_learning_rates(config, arguments.config)
    with command.usage():
        strategy = strategies.make_strategy(
            use_tpu=arguments.use_tpu,
            tpu_name=arguments.tpu_name,
            num_workers=arguments.num_workers,
            worker_timeout=arguments.worker_timeout,
        )
    train_job.train(
        config,
        model_dir=arguments.model_dir,
        strategy=strategy,
        checkpoint_every_n=arguments.checkpoint_every_n,
        jit_compile=arguments.jit_compile,
        seed=arguments.seed,
        evaluate_checkpoints=arguments.train_and_eval,
        data_service_address=command.check_service_address(arguments.data_service_address),
        from_label_map=arguments.from_label_map,
        keep_best=arguments.keep_best,
        early_stopping_patience=arguments.early_stopping_patience,
        max_to_keep=arguments.max_to_keep,
        time_budget=arguments.time_budget,
        metrics_log=None if arguments.metrics_log == "none" else arguments.metrics_log,
        summary_histograms=arguments.summary_histograms,
    )
