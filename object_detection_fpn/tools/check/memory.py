"""The memory of this machine's devices: what there is, what steps took, and what other batches will take.

A step's memory is that of weights, optimizer and program, and that of each image: a line over the batch, which the steps
of two batches determine. On a CPU it is the memory of the whole process, TensorFlow's libraries and the input pipeline
included; on GPUs what TensorFlow's allocator gave out, on the fullest of them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf

MOST_IMAGES = 64
"""Images of a replica that `choose` does not exceed: with more, a step is hardly faster an image."""
MARGIN, MARGIN_OF_MASKS = 0.15, 0.3
"""Shares of the memory that a batch leaves free: for images of other sizes, fragmentation and evaluation; and for the masks of
more regions, which a detector comes to train on once it finds objects."""

_LEAST_OF_IMAGE = 2.0**20  # bytes: no image of a step takes less
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_SYSTEM = Path("/proc/meminfo")
_CGROUPS = Path("/proc/self/cgroup")
_CGROUP_ROOT = Path("/sys/fs/cgroup")


class Usage(NamedTuple):
    """What a step was seen to take."""

    batch_size: int
    """Images of all replicas."""
    num_bytes: int
    """Most memory at any time, of one replica's device."""


class Meter:
    """Memory of the devices of a strategy.

    Attributes:
        device: "CPU" or "GPU", for people.
        available_bytes: what training may take, what this process has now included; None if unknown.
        total_bytes: what the device has; None if unknown.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        gpus = tf.config.list_logical_devices("GPU")[: strategy.num_replicas_in_sync]
        self._gpus = [f"GPU:{place}" for place in range(len(gpus))]
        self.device = "GPU" if self._gpus else "CPU"
        if self._gpus:
            self.available_bytes = self.total_bytes = _gpu_limit(len(self._gpus))
        else:
            self.available_bytes, self.total_bytes = _cpu_memory()

    def start(self) -> None:
        """Forgets the peak until now."""
        if self._gpus:
            for name in self._gpus:
                tf.config.experimental.reset_memory_stats(name)
        elif os.access(_CLEAR, os.W_OK):
            _CLEAR.write_text("5")

    def now(self) -> int | None:
        """Bytes at this moment; None where this cannot be seen."""
        if self._gpus:
            return max(tf.config.experimental.get_memory_info(name)["current"] for name in self._gpus)
        return _field(_STATUS, "VmRSS")

    def peak(self) -> int | None:
        """Bytes, since `start`; None where this cannot be seen."""
        if self._gpus:
            return max(tf.config.experimental.get_memory_info(name)["peak"] for name in self._gpus)
        return _field(_STATUS, "VmHWM")


def predict(used: Sequence[Usage], batch_size: int) -> int:
    """Bytes that a step of another batch will take: on the line through the smallest and the largest batch.

    Args:
        used: of two batches at least.
        batch_size: images of all replicas.
    """
    last = max(used)
    return int(last.num_bytes + bytes_per_image(used) * (batch_size - last.batch_size))


def bytes_per_image(used: Sequence[Usage]) -> float:
    """What one image more takes."""
    first, last = min(used), max(used)
    # The peak can be at the start, when the program is made, and hide the step of few images; no image is free.
    return max((last.num_bytes - first.num_bytes) / (last.batch_size - first.batch_size), _LEAST_OF_IMAGE)


def largest(used: Sequence[Usage], available_bytes: int, *, unit: int) -> int:
    """The largest batch, a multiple of `unit`, that will fit; 0 if none does."""
    last = max(used)
    room = (available_bytes - last.num_bytes) / bytes_per_image(used)
    return max(int(last.batch_size + room) // unit * unit, 0)


def choose(used: Sequence[Usage], usable_bytes: int, *, unit: int, num_replicas: int) -> int:
    """A batch that fits: `unit` times a power of two; 0 if none does.

    Args:
        used: of two batches at least.
        usable_bytes: what there is, without a margin.
        unit: least images of a batch.
        num_replicas: that share a batch.
    """
    limit = largest(used, usable_bytes, unit=unit)
    batch_size = 0
    candidate = unit
    while candidate <= min(limit, max(MOST_IMAGES * num_replicas, unit)):
        batch_size, candidate = candidate, 2 * candidate
    return batch_size


def _gpu_limit(number: int) -> int | None:
    """The memory of the smallest of the first GPUs, as their driver tells it; None = it does not.

    TensorFlow's allocator takes nearly all of it and says how much only in its log.
    """
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]  # MiB
    try:
        output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
        sizes = [int(line) * 2**20 for line in output.split()]
    except (OSError, subprocess.SubprocessError, ValueError):  # not there, or of a card that does not tell
        return None
    return min(sizes[:number], default=None)


def _cpu_memory() -> tuple[int | None, int | None]:
    """(what this process has and could have, what the machine or the limit of its control group is)."""
    own, free, total = _field(_STATUS, "VmRSS"), _field(_SYSTEM, "MemAvailable"), _field(_SYSTEM, "MemTotal")
    if own is None or free is None or total is None:
        return None, None
    available = own + free
    for limit, used in _group_limits():
        available, total = min(available, own + max(limit - used, 0)), min(total, limit)
    return available, total


def _group_limits() -> list[tuple[int, int]]:
    """(limit, use) of the control groups of this process that have a limit, in bytes; files count as free."""
    found = []
    lines = _CGROUPS.read_text().splitlines() if _CGROUPS.exists() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = _CGROUP_ROOT / controllers
        names = ("memory.max", "memory.current") if not controllers else (
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
        )  # fmt: skip
        # In a container, the group's own folder is often the root of what it sees.
        for folder in dict.fromkeys((root / path.lstrip("/"), root)):
            limit, used = (_number(folder / name) for name in names)
            if limit is not None and used is not None:
                cached = _field(folder / "memory.stat", "inactive_file") or 0
                found.append((limit, max(used - cached, 0)))
    return found


def _number(path: Path) -> int | None:
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None  # "max": none


def _field(path: Path, name: str) -> int | None:
    """A number of bytes in a file of lines "name: number kB"; without a unit, bytes."""
    if not path.is_file():
        return None
    for line in path.read_text().splitlines():
        words = line.split()
        if words and words[0].rstrip(":") == name:
            return int(words[1]) * (1024 if words[-1] == "kB" else 1)
    return None
