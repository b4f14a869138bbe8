"""Plans: lowers the steps of a config here, has another process compile them for a TPU, and reads what that says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from object_detection_fpn.config import pipeline as config_lib
from object_detection_fpn.protos import pipeline_pb2
from object_detection_fpn.tools.planning import costs, hlo, tpu

_COMPILER = Path(__file__).with_name("tpu_compiler.py")
_LOW_EFFORT = -1.0  # compiles several times as fast; memory then agrees to a few percent, time does not at all
_SECONDS_BETWEEN_NOTES = 60.0
_MOST_COMPILATIONS = 5  # in search of the largest batch

Say = Callable[[str], None]


class PlanError(Exception):
    """Nothing could be planned; the message says why, in one line."""


class Compiled(NamedTuple):
    """What the compiler says of one program on one replica."""

    fits: bool
    used_bytes: int | None
    """Memory; None if the program does not fit and the compiler does not say by how much."""
    available_bytes: int
    memory: dict[str, int] | None = None
    """`used_bytes` by use; None, like the rest, if the program does not fit."""
    flops: float | None = None
    costs: costs.Costs | None = None
    seconds: float | None = None
    """What compiling took."""


class StepPlan(NamedTuple):
    """What one step needs and takes, as numbers; `None` where it is not known."""

    step: str
    """"train" or "inference"."""
    precision: str
    batch_size: int
    """Images of all replicas."""
    batch_size_per_replica: int
    fits: bool
    used_bytes: int | None
    """Memory of one replica."""
    available_bytes: int
    memory: dict[str, int] | None
    flops: float | None
    """Of one replica in a step."""
    seconds: float | None
    """Of a step, the exchange of gradients included; None at low effort."""
    all_reduce_seconds: float
    images_per_second: float | None
    num_steps: int | None
    hours: float | None
    """For `num_steps`."""
    groups: dict[str, float] | None
    """Seconds of a step by group of operations, costliest first."""
    without_estimate: dict[str, dict[str, int]] | None
    loops_of_unknown_length: dict[str, int] | None
    largest_batch_size: int | None
    """Of all replicas; 0 = not even one image each fits."""
    is_largest_batch_checked: bool
    """Whether it was compiled; otherwise it follows from `used_bytes`."""
    hlo_bytes: int
    compile_seconds: float | None


class Plan(NamedTuple):
    """A config on a TPU."""

    tpu: str
    num_chips: int
    num_replicas: int
    replica: str
    """"core" or "chip"."""
    peak_flops: float
    """A second, of one replica in bfloat16."""
    steps: list[StepPlan]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self._asdict(), "steps": [step._asdict() for step in self.steps]}

    @property
    def fits(self) -> bool:
        return all(step.fits for step in self.steps)


class Compiler:
    """The process that compiles.

    Args:
        say: told what goes on.
        python: interpreter in whose environment JAX and libtpu are; None = this one.

    Raises:
        PlanError: if they are not.
    """

    def __init__(self, say: Say, *, python: str | None = None):
        self._say = say
        self._python = python or sys.executable
        missing = self._run(["--check"], note=None).get("missing")
        if missing:
            where = f" in the environment of --plan_python = {python}" if python else ""
            raise PlanError(
                f'{missing} is not installed{where}: pip install "object_detection_fpn[plan]", or give by --plan_python '
                "the interpreter of an environment that has jax[tpu]."
            )

    def compile(self, program: bytes, kind: tpu.TpuKind, *, is_fast: bool) -> Compiled:
        """Compiles a serialized HLO module for one replica.

        Args:
            program: of `hlo.Step.lower`.
            kind: of the TPU.
            is_fast: low effort; the result has no `costs`.

        Raises:
            PlanError: if the compiler fails.
        """
        with tempfile.TemporaryDirectory() as folder:
            source, optimized = os.path.join(folder, "program.hlo"), os.path.join(folder, "optimized.txt")
            Path(source).write_bytes(program)
            command = [source, "--topology", kind.topology]
            command += ["--effort", str(_LOW_EFFORT)] if is_fast else ["--optimized_hlo", optimized]
            answer = self._run(command, note="compiling")
            if "error" in answer:
                raise PlanError(f"The TPU's compiler refuses the program: {answer['error']}")
            if excess := answer.get("out_of_memory"):
                return Compiled(False, excess["used_bytes"], excess["available_bytes"] or kind.hbm_bytes)
            used = sum(answer["memory"].values())
            return Compiled(
                fits=True,
                used_bytes=used,
                available_bytes=kind.hbm_bytes,
                memory=answer["memory"],
                flops=answer["flops"],
                costs=None if is_fast else costs.sum_costs(costs.parse(Path(optimized).read_text())),
                seconds=answer["seconds"],
            )

    def _run(self, arguments: Sequence[str], *, note: str | None) -> dict[str, Any]:
        """Runs the script; its answer is the last line of its output, whatever libraries print before."""
        start = time.monotonic()
        with tempfile.TemporaryFile("w+") as errors:
            try:
                process = subprocess.Popen(
                    [self._python, str(_COMPILER), *arguments], stdout=subprocess.PIPE, stderr=errors, text=True
                )
            except OSError as error:
                raise PlanError(f"--plan_python = {self._python} cannot be run: {error.strerror}.") from error
            try:
                while True:
                    try:
                        output, _ = process.communicate(timeout=_SECONDS_BETWEEN_NOTES)
                        break
                    except subprocess.TimeoutExpired:
                        if note:
                            self._say(f"  still {note}, {(time.monotonic() - start) / 60:.0f} min so far")
            except BaseException:  # the user's Ctrl-C too
                process.kill()
                process.wait()
                raise
            lines = output.splitlines()
            try:
                return json.loads(lines[-1])
            except (IndexError, ValueError) as error:
                errors.seek(0)
                last = next((line for line in reversed(errors.read().splitlines()) if line.strip()), "it says nothing")
                raise PlanError(
                    f"The process that compiles, {self._python} {_COMPILER.name}, ended with exit status "
                    f"{process.returncode}: {last.strip()}"
                ) from error


def make_plan(
    config: pipeline_pb2.TrainEvalPipelineConfig,
    target: tpu.TpuSlice,
    *,
    source: str,
    steps: Sequence[str] = ("train", "inference"),
    is_fast: bool = False,
    find_largest_batch: bool = False,
    python: str | None = None,
    say: Say = lambda _: None,
) -> Plan:
    """Compiles the steps of a config for a TPU and tells what they need and take.

    One replica is compiled. What it exchanges with the others is added: the gradients once around at the speed of the links.

    Args:
        config: a checked config.
        target: the TPU.
        source: the file of the config, for errors.
        steps: of "train", with `train_config.batch_size` images, and "inference", with `eval_config.batch_size`, filled up to
            one for each replica.
        is_fast: compile at low effort, and tell of memory only.
        find_largest_batch: compile more batches, at low effort, to be sure of the largest that fits.
        python: interpreter that has JAX and libtpu; None = this one.
        say: told what goes on.

    Raises:
        ConfigError: if the config does not suit a TPU or its number of replicas.
        PlanError: if JAX or libtpu are missing, or the compiler fails.
    """
    for step in steps:
        config_lib.check_strategy(
            config,
            source,
            use="train" if step == "train" else "eval",
            num_replicas=target.num_replicas,
            is_tpu=True,
        )
    compiler = Compiler(say, python=python)
    plans = []
    for step in steps:
        say(f"Building the model and tracing the {step} step ...")
        plans.append(
            _plan_step(
                config,
                target,
                step,
                compiler=compiler,
                is_fast=is_fast,
                find_largest_batch=find_largest_batch,
                say=say,
            )
        )
    return Plan(
        tpu=target.name,
        num_chips=target.num_chips,
        num_replicas=target.num_replicas,
        replica=target.kind.replica,
        peak_flops=target.kind.peak_flops,
        steps=plans,
    )


def _plan_step(
    config: pipeline_pb2.TrainEvalPipelineConfig,
    target: tpu.TpuSlice,
    name: str,
    *,
    compiler: Compiler,
    is_fast: bool,
    find_largest_batch: bool,
    say: Say,
) -> StepPlan:
    is_training = name == "train"
    step: hlo.Step = hlo.TrainStep(config) if is_training else hlo.DetectionStep(config)
    wanted = config.train_config.batch_size if is_training else config.eval_config.batch_size
    batch_size = -(-wanted // target.num_replicas)
    program = step.lower(batch_size)
    duration = "one to a few minutes" if is_fast else "5 to 15 minutes on two quiet cores"
    say(
        f"Compiling it for {batch_size} images on one {target.kind.replica} of {target.name}; this takes {duration} ..."
    )
    compiled = compiler.compile(program, target.kind, is_fast=is_fast)

    unit = config.train_config.accumulate_gradients if is_training else 1
    largest = _largest_batch(compiled, step.state_bytes, batch_size, unit)
    if find_largest_batch:

        def compile_batch(size: int) -> Compiled:
            say(f"Compiling it for {size} images, in search of the largest batch; this takes one to a few minutes ...")
            return compiler.compile(step.lower(size), target.kind, is_fast=True)

        largest = search_largest_batch(compile_batch, compiled, step.state_bytes, batch_size=batch_size, unit=unit)

    all_reduce = target.all_reduce_seconds(step.reduced_bytes)
    seconds: float | None = None
    hours: float | None = None
    groups: dict[str, float] | None = None
    num_steps = config.train_config.num_steps if is_training else None
    if compiled.costs:
        groups = {group: cycles / target.kind.clock_hz for group, cycles in compiled.costs.cycles.items()}
        if all_reduce:
            groups["exchange of gradients"] = all_reduce
            groups = dict(sorted(groups.items(), key=lambda item: -item[1]))
        seconds = sum(groups.values())
        hours = seconds * num_steps / 3600 if num_steps else None
    num_images = batch_size * target.num_replicas
    return StepPlan(
        step=name,
        precision=step.dtype,
        batch_size=num_images,
        batch_size_per_replica=batch_size,
        fits=compiled.fits,
        used_bytes=compiled.used_bytes,
        available_bytes=compiled.available_bytes,
        memory=compiled.memory,
        flops=compiled.flops,
        seconds=seconds,
        all_reduce_seconds=all_reduce,
        images_per_second=num_images / seconds if seconds else None,
        num_steps=num_steps or None,
        hours=hours,
        groups=groups,
        without_estimate=compiled.costs.without_estimate if compiled.costs else None,
        loops_of_unknown_length=compiled.costs.loops_of_unknown_length if compiled.costs else None,
        largest_batch_size=None if largest is None else largest * target.num_replicas,
        is_largest_batch_checked=find_largest_batch,
        hlo_bytes=len(program),
        compile_seconds=compiled.seconds,
    )


def _largest_batch(compiled: Compiled, state_bytes: int, batch_size: int, unit: int) -> int | None:
    """The batch of a replica that fits if all but the weights grows with it, a multiple of `unit`; None = unknown.

    Some memory does not grow, so a little more may fit.
    """
    if compiled.used_bytes is None:
        return None
    bytes_per_image = max(compiled.used_bytes - state_bytes, 1) / batch_size
    return max(int((compiled.available_bytes - state_bytes) / bytes_per_image) // unit * unit, 0)


def search_largest_batch(
    compile_batch: Callable[[int], Compiled], first: Compiled, state_bytes: int, *, batch_size: int, unit: int = 1
) -> int:
    """The largest batch of a replica that was seen to fit, in few compilations.

    Memory is a line over the batch, nearly: each next batch is where the line through the last two known ones meets what
    is available.

    Args:
        compile_batch: compiles a batch of the given size.
        first: what `batch_size` images need.
        state_bytes: what no image needs.
        batch_size: images of `first`.
        unit: the batch is a multiple of it.

    Returns:
        A number of images; 0 if none fits.
    """
    fitting = batch_size if first.fits else 0
    failing = None if first.fits else batch_size
    known: list[tuple[int, int | None]] = [(0, state_bytes), (batch_size, first.used_bytes)]
    available = first.available_bytes
    for _ in range(_MOST_COMPILATIONS):
        points = [(size, used) for size, used in known[-2:] if used is not None]
        if len(points) == 2 and points[1][1] != points[0][1]:
            (size0, used0), (size1, used1) = points
            guess = size0 + (available - used0) * (size1 - size0) / (used1 - used0)
        else:
            guess = (fitting + failing) / 2 if failing else 2 * fitting
        size = int(guess) // unit * unit
        size = max(size, fitting + unit)
        if failing is not None:
            size = min(size, failing - unit)
        if size <= fitting:
            break
        result = compile_batch(size)
        known.append((size, result.used_bytes))
        if result.fits:
            fitting = size
        else:
            failing = size
    return fitting
