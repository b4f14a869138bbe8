"""Compiles an XLA program for a TPU that is not there: a script, run in a process of its own, that prints one JSON object.

    PYTHON tpu_compiler.py --check
    PYTHON tpu_compiler.py PROGRAM --topology v5e:2x2 [--effort -1] [--optimized_hlo FILE]

It needs JAX and libtpu and must not import TensorFlow or the rest of this package: TensorFlow and JAX bring an XLA each,
and PYTHON may be that of another environment. JAX has no public way to compile a program that is not its own; those used
here are those of the versions that the extra `plan` of this package asks for.

The object holds `versions` after `--check`; `missing`, the package that is not installed; `out_of_memory` with `used_bytes`
(null if the compiler does not say) and `available_bytes`; `error`, any other reason; or, of a program that was compiled,
`memory`, `flops` and `seconds`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import re
import time
from typing import Any

# libtpu looks for the machine it runs on, and for a lock that another process may hold; it is only to compile here.
_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    "TPU_ACCELERATOR_TYPE": "none",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
_NEEDED = ("jax", "jaxlib", "libtpu")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([KMGT]?)"
_MEMORY_MESSAGES = (
    re.compile(rf"Used {_SIZE} of {_SIZE} hbm"),
    re.compile(rf"\({_SIZE}\) exceeds available HBM \({_SIZE}\)"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", help="a serialized xla.HloModuleProto")
    parser.add_argument("--check", action="store_true", help="only say whether what is needed is installed")
    parser.add_argument("--topology", help="for one device of which to compile")
    parser.add_argument("--effort", type=float, help="of the compiler, -1 (least) to 1; 0 by default")
    parser.add_argument("--optimized_hlo", help="file to write the compiled program to, as text")
    arguments = parser.parse_args()
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        result: dict[str, Any] = {"missing": missing[0]}
    elif arguments.check:
        result = {"versions": {name: importlib.metadata.version(name) for name in _NEEDED}}
    else:
        result = compile_program(arguments)
    print(json.dumps(result), flush=True)


def compile_program(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compiles; whatever goes wrong becomes a part of the answer."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with open(arguments.program, "rb") as file:
            program = file.read()
        executable, seconds = _compile(program, arguments.topology, arguments.effort)
    except Exception as error:  # of many kinds, by many layers
        return explain(f"{type(error).__name__}: {error}")
    if arguments.optimized_hlo:
        with open(arguments.optimized_hlo, "w") as file:
            file.write(executable.hlo_modules()[0].to_string())
    memory = executable.get_compiled_memory_stats()
    costs = executable.cost_analysis()
    costs = costs[0] if isinstance(costs, list) else costs
    sizes = {
        "arguments": memory.argument_size_in_bytes,
        "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,  # weights are updated where they are
        "temporary": memory.temp_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
    }
    return {"memory": sizes, "flops": costs["flops"], "seconds": round(seconds, 1)}


def explain(message: str) -> dict[str, Any]:
    """What a message of the compiler means."""
    for pattern in _MEMORY_MESSAGES:
        match = pattern.search(message)
        if match:
            used, available = (int(float(match[i]) * _UNITS[match[i + 1]]) for i in (1, 3))
            return {"out_of_memory": {"used_bytes": used, "available_bytes": available}}
    if "RESOURCE_EXHAUSTED" in message and "hbm" in message.lower():
        return {"out_of_memory": {"used_bytes": None, "available_bytes": None}}
    return {"error": message if len(message) < 2000 else f"{message[:1400]} ... {message[-500:]}"}


def _compile(program: bytes, topology: str, effort: float | None) -> tuple[Any, float]:
    """Returns the executable and the seconds it took."""
    import numpy as np
    from jax._src.interpreters import mlir
    from jax.experimental import topologies
    from jaxlib import _jax, xla_client
    from jaxlib.mlir import ir

    device = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    options = xla_client.CompileOptions()
    options.device_assignment = xla_client.DeviceAssignment.create(np.array([[device.id]], np.int32))
    if effort is not None:
        build = options.executable_build_options
        build.exec_time_optimization_effort = build.memory_fitting_effort = effort
    with mlir.make_ir_context():
        module = ir.Module.parse(_jax.mlir.hlo_to_stablehlo(program))
        _make_portable(module)
        start = time.perf_counter()
        executable = device.client.compile(
            module, executable_devices=_jax.DeviceList((device,)), compile_options=options
        )
    return executable, time.perf_counter() - start


def _make_portable(module: Any) -> None:
    """Removes what TensorFlow's programs contain and the compiler's interface does not accept."""
    from jaxlib.mlir import ir

    copies: list[Any] = []

    def visit(operation: Any) -> Any:
        if operation.name == "mhlo.copy":
            copies.append(operation)
        # Integers have one order only.
        elif operation.name == "stablehlo.compare" and "compare_type" in operation.attributes:
            element = ir.ShapedType(operation.operands[0].type).element_type
            if isinstance(element, ir.IntegerType) and "TOTALORDER" in str(operation.attributes["compare_type"]):
                del operation.attributes["compare_type"]
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    for copy in copies:
        copy.results[0].replace_all_uses_with(copy.operands[0])
        copy.erase()


if __name__ == "__main__":
    main()
