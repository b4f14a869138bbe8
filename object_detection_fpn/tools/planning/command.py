"""`odfpn plan`."""

from __future__ import annotations

import argparse
import json

from object_detection_fpn.tools.command import UsageError, add_config, load_config, say, usage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The TPU's own compiler compiles both (pip install 'object_detection_fpn[plan]'). The exit status is "
        "0 if both fit into the TPU's memory, 1 if not."
    )
    add_config(parser)
    parser.add_argument(
        "--tpu",
        required=True,
        metavar="KIND-SIZE",
        help="kind v2, v3, v4, v5e, v5p or v6e, and size: a number of cores (v2, v3, v4, v5p: two make a chip) or chips "
        "(v5e, v6e). v3-8 has 4 chips with 8 cores, v5e-8 has 8 chips",
    )
    parser.add_argument(
        "--batch_size", type=int, metavar="N", help="images of all replicas together; overrides train_config.batch_size"
    )
    parser.add_argument("--step", choices=("train", "inference"), help="plan only training or only inference")
    parser.add_argument("--fast", action="store_true", help="memory only: compiling takes a third of the time")
    parser.add_argument(
        "--largest_batch",
        action="store_true",
        help="find the largest batch that fits by compiling: up to 5 more compilations",
    )
    parser.add_argument("--plan_python", metavar="PYTHON", help="interpreter of an environment that has jax[tpu]")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    from object_detection_fpn.tools.planning import plan, report, tpu

    with usage():
        target = tpu.parse_slice(arguments.tpu)
    overrides = list(arguments.config_override)
    if arguments.batch_size is not None:
        overrides.append(f"train_config.batch_size={arguments.batch_size}")
    config = load_config(arguments.config, overrides)
    try:
        planned = plan.make_plan(
            config,
            target,
            source=arguments.config,
            steps=(arguments.step,) if arguments.step else ("train", "inference"),
            is_fast=arguments.fast,
            find_largest_batch=arguments.largest_batch,
            python=arguments.plan_python,
            say=say,
        )
    except plan.PlanError as error:
        raise UsageError(str(error)) from error
    print(json.dumps(planned.as_dict(), indent=2) if arguments.json else report.format_plan(planned))
    return 0 if planned.fits else 1
