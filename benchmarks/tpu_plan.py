"""What the TPU's compiler says of the train step: memory, estimated time, FLOPs, size of the program; JSON.

    python benchmarks/tpu_plan.py [--tpu v5e-8] [--batch_size 8] [--fast] [--plan_python PYTHON]
    python benchmarks/tpu_plan.py --peer_hlo 'peer_{batch_size}.hlo'
    python benchmarks/tpu_plan.py --config NAME --only_sizes

`--batch_size` is that of one core (v2 to v4) or chip; of the program of batch 2 only the size is printed. `--plan_python` is an
interpreter of an environment with `jax[tpu]`. With `--only_sizes`, both programs are written out and none is compiled, which
needs no such environment. With `--peer_hlo`, serialized `xla.HloModuleProto`s of another
implementation's step at both batches, that of the larger one is compiled too and the ratios printed, own by peer;
"{batch_size}" in the name stands for the batch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

RECIPE = "faster_rcnn_resnet50_v1_fpn_640x640_coco17_tpu-8"
SMALL_BATCH = 2  # beside which a program that is not unrolled over images stays the same


def measure(lower: Callable[[int], bytes], compile_program: Callable[[bytes], object], arguments, kind) -> dict:
    """Compiles the larger batch; the smaller one is only written out."""
    program = lower(arguments.batch_size)
    compiled = compile_program(program)
    values = {
        "memory_bytes": compiled.used_bytes,
        "fits": compiled.fits,
        "flops": compiled.flops,
        "seconds": None,
        "hlo_bytes": len(program),
        f"hlo_bytes_batch_{SMALL_BATCH}": len(lower(SMALL_BATCH)),
        "compile_seconds": compiled.seconds,
    }
    if compiled.costs:
        groups = {group: cycles / kind.clock_hz for group, cycles in compiled.costs.cycles.items()}
        values |= {"seconds": sum(groups.values()), "groups": groups}
        values["without_estimate"] = compiled.costs.without_estimate
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=RECIPE, help="pipeline config, or the name of a recipe")
    parser.add_argument("--tpu", default="v5e-8")
    parser.add_argument("--batch_size", type=int, default=8, help="of one replica")
    parser.add_argument("--fast", action="store_true", help="low effort: no time")
    parser.add_argument("--plan_python")
    parser.add_argument("--only_sizes", action="store_true", help="compile nothing")
    parser.add_argument("--peer_hlo", metavar="FILE")
    arguments = parser.parse_args()

    from object_detection_fpn.config import pipeline as config_lib
    from object_detection_fpn.config import recipes
    from object_detection_fpn.tools.planning import hlo, plan, tpu

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    path = arguments.config if arguments.config.endswith(".config") else recipes.recipe_path(arguments.config)
    step = hlo.TrainStep(config_lib.load_config(path))
    if arguments.only_sizes:
        large, small = (len(step.lower(size)) for size in (arguments.batch_size, SMALL_BATCH))
        sizes = {"hlo_bytes": large, f"hlo_bytes_batch_{SMALL_BATCH}": small}
        print(json.dumps({**sizes, "ratio": round(large / small, 4)}))
        return
    kind = tpu.parse_slice(arguments.tpu).kind
    compiler = plan.Compiler(say, python=arguments.plan_python)

    def compile_program(program: bytes) -> plan.Compiled:
        return compiler.compile(program, kind, is_fast=arguments.fast)

    result: dict = {"tpu": arguments.tpu, "batch_size": arguments.batch_size}
    result["own"] = own = measure(step.lower, compile_program, arguments, kind)
    if arguments.peer_hlo:

        def read(batch_size: int) -> bytes:
            return Path(arguments.peer_hlo.format(batch_size=batch_size)).read_bytes()

        result["peer"] = peer = measure(read, compile_program, arguments, kind)
        numbers = [key for key, value in own.items() if isinstance(value, float | int) and not isinstance(value, bool)]
        result["ratio"] = {key: round(own[key] / peer[key], 3) for key in numbers if peer.get(key)}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
