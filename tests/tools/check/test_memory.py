"""What follows from measured steps, and where the memory of this machine is read."""

from __future__ import annotations

import pytest

from object_detection_fpn.tools.check import memory
from object_detection_fpn.tools.check.memory import Usage

GIB = 2**30


def line(*batch_sizes, base=GIB, per_image=GIB // 2):
    return [Usage(size, base + per_image * size) for size in batch_sizes]


@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
def test_memory_is_a_line_over_the_batch(batch_size):
    assert memory.predict(line(1, 4), batch_size) == line(batch_size)[0].num_bytes


@pytest.mark.parametrize(
    "available, unit, expected", [(GIB, 1, 0), (5 * GIB, 1, 8), (5 * GIB, 3, 6), (5 * GIB - 1, 1, 7), (2 * GIB, 4, 0)]
)
def test_the_largest_batch_is_a_multiple_of_the_unit(available, unit, expected):
    assert memory.largest(line(1, 2, 4), available, unit=unit) == expected


@pytest.mark.parametrize(
    "available, unit, replicas, expected",
    [
        (4 * GIB, 1, 1, 4),  # 6 fit
        (5 * GIB, 1, 1, 8),
        (1 * GIB, 1, 1, 0),
        (5 * GIB, 3, 1, 6),
        (1000 * GIB, 1, 1, 64),
        (1000 * GIB, 4, 4, 256),
        (1000 * GIB, 200, 2, 200),
    ],
)
def test_the_chosen_batch_is_a_power_of_two(available, unit, replicas, expected):
    assert memory.choose(line(1, 4), available, unit=unit, num_replicas=replicas) == expected


def test_steps_that_hide_behind_the_start_do_not_make_images_free():
    used = [Usage(1, 3 * GIB), Usage(4, 3 * GIB)]
    assert memory.predict(used, 1024) >= 3 * GIB + 1000 * 2**20
    assert memory.choose(used, 8 * GIB, unit=1, num_replicas=1) == 64


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 8 GiB, 6 of them free, on which this process has 1."""

    def write(name, *lines):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
        return path

    kib = 2**20
    monkeypatch.setattr(memory, "_STATUS", write("status", f"VmHWM:\t{2 * kib} kB", f"VmRSS:\t{kib} kB"))
    monkeypatch.setattr(memory, "_SYSTEM", write("meminfo", f"MemTotal: {8 * kib} kB", f"MemAvailable: {6 * kib} kB"))
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_CGROUP_ROOT", tmp_path / "sys")
    return write


def test_memory_of_a_machine(machine):
    assert memory._cpu_memory() == (7 * GIB, 8 * GIB)


def test_a_limit_of_the_second_version_counts(machine):
    machine("cgroup", "0::/box")
    machine("sys/box/memory.max", str(4 * GIB))
    machine("sys/box/memory.current", str(3 * GIB))
    machine("sys/box/memory.stat", "anon 5", f"inactive_file {GIB}")
    assert memory._cpu_memory() == (3 * GIB, 4 * GIB)  # 1 GiB of this process, 2 free: files can be dropped


def test_a_limit_of_the_first_version_counts(machine):
    machine("cgroup", "3:cpu:/", "4:memory:/box")
    machine("sys/memory/memory.limit_in_bytes", str(2 * GIB))  # as a container sees its own group
    machine("sys/memory/memory.usage_in_bytes", str(GIB))
    assert memory._cpu_memory() == (2 * GIB, 2 * GIB)


def test_no_limit_is_none(machine):
    machine("cgroup", "0::/", "4:memory:/")
    machine("sys/memory.max", "max")
    machine("sys/memory.current", str(GIB))
    assert memory._cpu_memory() == (7 * GIB, 8 * GIB)


def test_a_machine_that_does_not_tell_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "nothing")
    assert memory._cpu_memory() == (None, None)


@pytest.mark.parametrize(
    "output, limit", [("81559\n40960\n", 40960 * 2**20), ("81559\n", 81559 * 2**20), ("[N/A]\n", None), (None, None)]
)
def test_the_limit_of_gpus_is_asked_of_their_driver(monkeypatch, tmp_path, output, limit):
    if output is not None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\nprintf '{output}'\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert memory._gpu_limit(2) == limit
