"""The kinds of TPU and what a program may use of each.

A slice is named by its kind and a number, as Cloud TPU names it: v3-8, v5e-8. The number counts cores of v2, v3, v4 and v5p,
two of which make a chip, and chips of v5e and v6e, which have one core each.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class TpuKind(NamedTuple):
    """One generation. Figures without a source are those of Google's system architecture pages."""

    replica: str
    """What runs one replica, "core" or "chip": what the compiler takes as one device. The two cores of a v5p work as one."""
    replicas_per_chip: int
    suffix_per_chip: int
    """By how much a chip raises the number in the name of a slice."""
    sizes: tuple[int, ...]
    """Numbers that name a slice; the last one is the largest."""
    topology: str
    """Smallest topology that the compiler describes. One replica is compiled, so it serves for all sizes."""
    hbm_bytes: int
    """Memory that a program may use of one replica, as the compiler's message says when it is exceeded."""
    clock_hz: float
    """Cycles a second: the published peak divided by what the matrix units do in one cycle."""
    peak_flops: float
    """bfloat16, of one replica."""
    ici_bytes_per_second: float
    """What a chip can send to its neighbours, all links together."""


def _gib(number: float) -> int:
    return int(number * 2**30)


def _powers_of_two(first: int, last: int) -> tuple[int, ...]:
    return tuple(2**i for i in range(first.bit_length() - 1, last.bit_length()))


KINDS: dict[str, TpuKind] = {
    # Link speed of v2 and v3: Jouppi et al. 2020, "A domain-specific supercomputer for training deep neural networks".
    "v2": TpuKind("core", 2, 2, (8, 32, 128, 256, 512), "v2:2x2", _gib(7.48), 0.70e9, 22.5e12, 248e9),
    "v3": TpuKind("core", 2, 2, (8, *_powers_of_two(32, 2048)), "v3:2x2", _gib(15.48), 0.94e9, 61.5e12, 328e9),
    "v4": TpuKind("core", 2, 2, _powers_of_two(8, 8192), "v4:2x2x1", _gib(15.25), 1.05e9, 137.5e12, 300e9),
    "v5e": TpuKind("chip", 1, 1, (1, *_powers_of_two(4, 256)), "v5e:2x2", _gib(15.75), 1.50e9, 197e12, 200e9),
    "v5p": TpuKind("chip", 1, 2, _powers_of_two(8, 8192), "v5p:2x2x1", _gib(95.74), 1.75e9, 459e12, 600e9),
    "v6e": TpuKind("chip", 1, 1, (1, *_powers_of_two(4, 256)), "v6e:2x2", _gib(31.25), 1.75e9, 918e12, 448e9),
}


class TpuSlice(NamedTuple):
    """A TPU to plan for."""

    name: str
    kind: TpuKind
    num_chips: int

    @property
    def num_replicas(self) -> int:
        return self.num_chips * self.kind.replicas_per_chip

    def all_reduce_seconds(self, num_bytes: int) -> float:
        """Least time in which all replicas sum `num_bytes` each: every chip sends and receives nearly all of them twice."""
        return 2 * (self.num_chips - 1) / self.num_chips * num_bytes / self.kind.ici_bytes_per_second


def parse_slice(name: str) -> TpuSlice:
    """The TPU that a name like "v5e-8" means.

    Raises:
        ValueError: if there is none.
    """
    match = re.fullmatch(r"(v\d+[a-z]*)-(\d+)", name.lower().replace("v5litepod", "v5e"))
    if match is None or match[1] not in KINDS:
        raise ValueError(
            f"--tpu = {name} is no TPU. Allowed: {', '.join(KINDS)}, each with a number of cores (v2, v3, v4, v5p) or chips "
            "(v5e, v6e), such as v3-8 and v5e-8."
        )
    kind, size = KINDS[match[1]], int(match[2])
    if size not in kind.sizes:
        unit = "chips" if kind.suffix_per_chip == 1 else "cores"
        sizes = ", ".join(map(str, kind.sizes))
        raise ValueError(f"--tpu = {name}: there is no {match[1]} of {size} {unit}. Allowed: {sizes}.")
    return TpuSlice(f"{match[1]}-{size}", kind, size // kind.suffix_per_chip)
