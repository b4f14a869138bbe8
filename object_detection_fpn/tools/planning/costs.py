"""What each part of a compiled program takes, from the text of the program.

The TPU's compiler writes into every instruction it schedules how many cycles it expects, and where the operation comes from.
This file sums the first by the second.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

# First pattern that is found in the scopes of an operation. Names of layers are the model's; pure functions open scopes of
# their own. What multiplies matrices is looked at in between: crops may be computed so, and a convolution may have the
# addition or update behind it in one instruction, of which it takes the most.
_BEFORE_CONVOLUTIONS = (
    ("crop-and-resize", re.compile(r"roi_pooler|crop_and_resize")),
    ("proposals and NMS", re.compile(r"suppression")),
    ("target assignment", re.compile(r"matching")),
    ("samplers", re.compile(r"sampling")),
)
# The predictors of a dense head are convolutions.
_FULLY_CONNECTED = re.compile(r"(?<!dense_head)/(fc\d*|class_predictor|box_predictor)/")
_AFTER_CONVOLUTIONS = (
    (
        "optimizer",
        re.compile(r"Resource(Sparse)?Apply|/update(_\d+)?/|global_norm|clip_by_global|^(SGD|Adam|RMSprop)/"),
    ),
    ("losses", re.compile(r"(^|/)losses/|Regularizer|L2Loss")),
    ("batch norm", re.compile(r"BatchNorm|batchnorm|moments/|AssignMovingAvg|_bn/|/norm/")),
    (
        "activations, additions and pooling",
        re.compile(r"(^|/)(feature_extractor|rpn_head|box_head|dense_head|resnet\w*|fpn)/"),
    ),
)
_COPIES = frozenset({"copy", "copy-start", "copy-done", "transpose", "bitcast-convert", "slice-start", "slice-done"})
_OTHERS = "others"

# Instructions that take time and carry no estimate.
_WITHOUT_ESTIMATE = frozenset({"sort", "scatter", "gather", "custom-call", "convolution", "dot", "rng-bit-generator"})
# Custom calls that reserve, assert or rename, and take no time.
_FREE_CALLS = frozenset({"AllocateBuffer", "AssumeGatherIndicesInBound", "X64Combine", "X64SplitHigh", "X64SplitLow"})
_COLLECTIVES = ("all-", "reduce-scatter", "collective-")

_COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<rest>.*)")
_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_SCOPES = re.compile(r'op_name="([^"]*)"')
_CALLED = re.compile(r"(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"?(\d+)')
_INTEGER = re.compile(r"constant\((-?\d+)\)")
_LESS_THAN = re.compile(r"compare\((?:[^%()]*)%([\w.\-]+), (?:[^%()]*)%([\w.\-]+)\), direction=LT")


class Instruction(NamedTuple):
    name: str
    opcode: str
    text: str
    """All behind the equals sign."""

    def called(self, key: str) -> list[str]:
        return [name for k, name in _CALLED.findall(self.text) if k == key]

    @property
    def scopes(self) -> str:
        match = _SCOPES.search(self.text)
        return match[1] if match else ""


Program = dict[str, list[Instruction]]
"""Computations by name; the one that the program starts with is "ENTRY"."""


class Costs(NamedTuple):
    """Of one run of a program, by group of operations."""

    cycles: dict[str, int]
    """Costliest first."""
    without_estimate: dict[str, dict[str, int]]
    """How many instructions of each kind are not among the cycles."""
    loops_of_unknown_length: dict[str, int]
    """How many loops are counted as if they ran once."""


def parse(text: str) -> Program:
    """Reads the text form of an HLO module."""
    program: Program = {}
    instructions: list[Instruction] | None = None
    for line in text.splitlines():
        if line and not line[0].isspace():
            match = _COMPUTATION.match(line.rstrip())
            instructions = None
            if match:
                instructions = program["ENTRY" if match["entry"] else match["name"]] = []
        elif instructions is not None and (match := _INSTRUCTION.match(line)):
            instructions.append(Instruction(match["name"], _opcode(match["rest"]), match["rest"]))
    return program


def sum_costs(program: Program) -> Costs:
    """Sums the estimated cycles.

    The body of a loop counts as often as it runs at most, once where the program does not tell; of the branches of a
    condition the costliest counts. What has no name of its own belongs to the group of the loop it stands in.
    """
    total = _sum_computation(program, "ENTRY", _OTHERS)
    without: dict[str, dict[str, int]] = collections.defaultdict(dict)
    for (group, kind), number in total.without_estimate.items():
        without[group][kind] = number
    return Costs(dict(total.cycles.most_common()), dict(without), dict(total.unknown_loops))


class _Sum:
    def __init__(self) -> None:
        self.cycles: collections.Counter[str] = collections.Counter()
        self.without_estimate: collections.Counter[tuple[str, str]] = collections.Counter()
        self.unknown_loops: collections.Counter[str] = collections.Counter()

    def add(self, other: _Sum, times: int = 1) -> None:
        for group, cycles in other.cycles.items():
            self.cycles[group] += times * cycles
        # These are counted as they stand in the program, however often they run.
        self.without_estimate.update(other.without_estimate)
        self.unknown_loops.update(other.unknown_loops)


def _sum_computation(program: Program, name: str, outer_group: str) -> _Sum:
    total = _Sum()
    for instruction in program.get(name, ()):
        group = _group(program, instruction, outer_group)
        match = _CYCLES.search(instruction.text)
        if match:
            total.cycles[group] += int(match[1])
        elif kind := _kind_without_estimate(instruction):
            total.without_estimate[group, kind] += 1
        if instruction.opcode == "while":
            [body], [condition] = instruction.called("body"), instruction.called("condition")
            trips = _num_trips(program, instruction, condition)
            if trips is None:
                total.unknown_loops[group] += 1
            total.add(_sum_computation(program, body, group), times=1 if trips is None else trips)
        elif instruction.opcode == "conditional":
            branches = [_sum_computation(program, branch, group) for branch in _branches(instruction)]
            total.add(max(branches, key=lambda branch: sum(branch.cycles.values())))
        elif instruction.opcode in ("call", "async-start"):
            for called in instruction.called("to_apply") + instruction.called("calls"):
                total.add(_sum_computation(program, called, group))
    return total


def _group(program: Program, instruction: Instruction, outer_group: str) -> str:
    scopes = instruction.scopes
    if group := _search(_BEFORE_CONVOLUTIONS, scopes):
        return group
    if _multiplies_matrices(program, instruction):
        return "fully connected layers" if _FULLY_CONNECTED.search(scopes) else "convolutions"
    if instruction.opcode in _COPIES:
        return "copies" if outer_group == _OTHERS else outer_group
    return _search(_AFTER_CONVOLUTIONS, scopes) or outer_group


def _search(groups: tuple[tuple[str, re.Pattern[str]], ...], scopes: str) -> str | None:
    return next((group for group, pattern in groups if pattern.search(scopes)), None)


def _multiplies_matrices(program: Program, instruction: Instruction) -> bool:
    if instruction.opcode in ("convolution", "dot"):
        return True
    if instruction.opcode != "fusion":
        return False
    return any(_multiplies_matrices(program, i) for name in instruction.called("calls") for i in program.get(name, ()))


def _kind_without_estimate(instruction: Instruction) -> str | None:
    """How to call what takes time that the compiler does not tell; None for what takes none worth mentioning."""
    if instruction.opcode == "fusion" and "kind=kCustom" in instruction.text:
        # The compiler names these after what they do: "scatter_fusion.3".
        return re.sub(r"[._]?\d+(\.clone)*$", "", instruction.name).replace("_", " ")
    if instruction.opcode == "custom-call" and (match := _TARGET.search(instruction.text)):
        return None if match[1] in _FREE_CALLS else match[1]
    if instruction.opcode in _WITHOUT_ESTIMATE or instruction.opcode.startswith(_COLLECTIVES):
        return instruction.opcode
    return None


def _branches(instruction: Instruction) -> Iterator[str]:
    yield from instruction.called("true_computation") + instruction.called("false_computation")
    if match := _BRANCHES.search(instruction.text):
        yield from (name.strip().lstrip("%") for name in match[1].split(","))


def _num_trips(program: Program, loop: Instruction, condition: str) -> int | None:
    """How often a loop runs: as the compiler knows, or at most while its counter is below a number; None = unknown."""
    if match := _KNOWN_TRIPS.search(loop.text):
        return int(match[1])
    instructions = program.get(condition, [])
    numbers: Mapping[str, int] = {
        i.name: int(match[1]) for i in instructions if i.opcode == "constant" and (match := _INTEGER.search(i.text))
    }
    # Conditions that are joined by "and" each give a limit; of one that is not, none would follow.
    if any(i.opcode in ("or", "not") for i in instructions):
        return None
    counters = {i.name for i in instructions if i.opcode == "get-tuple-element"}
    limits = [
        numbers[right]
        for i in instructions
        if (match := _LESS_THAN.search(i.text)) and match[1] in counters and (right := match[2]) in numbers
    ]
    return max(min(limits), 0) if limits else None


def _opcode(text: str) -> str:
    """The word behind the shape of the result, which may be a tuple."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == " " and depth == 0:
            match = re.match(r"[\w\-]+", text[i + 1 :])
            return match[0] if match else ""
    return ""
