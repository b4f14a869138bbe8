"""`odfpn eval`."""

from __future__ import annotations

import argparse
import os

from object_detection_fpn.tools import command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_config(parser)
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help="checkpoint, or a folder: its newest one")
    parser.add_argument("--output_dir", metavar="DIR", help="folder for results; the checkpoint's by default")
    parser.add_argument("--wait", action="store_true", help="evaluate every checkpoint that appears in the folder")
    parser.add_argument(
        "--eval_timeout", type=int, default=3600, metavar="S", help="seconds to wait for the next checkpoint (3600)"
    )
    parser.add_argument("--sample_1_of_n", type=int, metavar="N", help="evaluate every N-th example only")
    parser.add_argument("--eval_on_train_data", action="store_true", help="evaluate the training data")
    command.add_tpu(parser)
    command.add_xla_cache(parser)


def run(arguments: argparse.Namespace) -> None:
    import tensorflow as tf

    from object_detection_fpn.jobs import evaluate as evaluate_job
    from object_detection_fpn.jobs import strategies

    command.check_input("--checkpoint", arguments.checkpoint, is_folder=arguments.wait)
    command.check_xla_cache(arguments.xla_cache_dir)
    use = "train" if arguments.eval_on_train_data else "eval"
    config = command.load_config(arguments.config, arguments.config_override, require_data=[use])
    is_folder = tf.io.gfile.isdir(arguments.checkpoint)
    output_dir = arguments.output_dir
    if output_dir is None:
        output_dir = arguments.checkpoint if is_folder else os.path.dirname(arguments.checkpoint) or os.curdir
    command.check_folder("--output_dir", output_dir)
    with command.usage():
        strategy = strategies.make_strategy(use_tpu=arguments.use_tpu, tpu_name=arguments.tpu_name)
    common = {
        "output_dir": output_dir,
        "strategy": strategy,
        "sample_1_of_n_eval_examples": arguments.sample_1_of_n,
        "eval_on_train_data": arguments.eval_on_train_data,
    }
    if arguments.wait:
        evaluate_job.evaluate_continuously(
            config, checkpoint_dir=arguments.checkpoint, timeout=arguments.eval_timeout, **common
        )
    else:
        evaluate_job.evaluate(config, checkpoint=arguments.checkpoint, **common)
