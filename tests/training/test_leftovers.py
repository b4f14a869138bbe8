"""What killed saves leave is removed, by whoever may; what may be in use and what users put there stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from object_detection_fpn.training import leftovers

HOUR, DAY = 3600, 24 * 3600
PARTS = ("part-00000-of-00001.data-00000-of-00001", "part-00000-of-00001.index")


def leave_save(folder, *, seconds_ago=0, files=PARTS):
    """What a save that was killed leaves, `seconds_ago` when it last wrote."""
    folder.mkdir(parents=True)
    then = time.time() - seconds_ago
    for name in files:
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (then, then))
    os.utime(folder, (then, then))


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_unclaimed_folder_loses_only_what_has_been_still_for_an_hour(tmp_path):
    leave_save(tmp_path / "ckpt-5_temp", seconds_ago=2 * HOUR)
    leave_save(tmp_path / "ckpt-7_temp", seconds_ago=2 * HOUR, files=())
    leave_save(tmp_path / "ckpt-8_temp", seconds_ago=60)  # that another process may be writing
    leave_save(tmp_path / "ckpt-9_temp", seconds_ago=DAY, files=["part-00000-of-00001.index", "notes.txt"])  # a user's
    leave_save(tmp_path / "my_temp", seconds_ago=DAY)
    (tmp_path / "checkpoint.tmp0123abcd").write_text("half")
    leftovers.remove_leftovers(str(tmp_path), is_claimed=False)
    assert names(tmp_path) == ["checkpoint.tmp0123abcd", "ckpt-8_temp", "ckpt-9_temp", "my_temp"]


def test_a_claimed_folder_loses_every_part_of_a_save(tmp_path):
    leave_save(tmp_path / "ckpt-8_temp")
    leave_save(tmp_path / "ckpt-9_temp", files=["part-00000-of-00001.index", "notes.txt"])  # a user's
    kept = ["checkpoint", "ckpt-3.data-00000-of-00001", "ckpt-3.index", "ckpt-notes.txt", "other.data-00000-of-00001"]
    parts = ["checkpoint.tmp0123abcd", "ckpt-6.data-00000-of-00001", "ckpt-7.index.tempstate123456"]
    for name in kept + parts:
        (tmp_path / name).write_text("x")
    leftovers.remove_leftovers(str(tmp_path), is_claimed=True)
    assert names(tmp_path) == sorted([*kept, "ckpt-9_temp"])


def test_a_failed_save_removes_its_own_parts_alone(tmp_path):
    leave_save(tmp_path / "ckpt-8_temp")
    leave_save(tmp_path / "ckpt-9_temp")
    for name in ("checkpoint.tmp01", "ckpt-8.data-00000-of-00001", "ckpt-80.data-00000-of-00001", "ckpt-7.index"):
        (tmp_path / name).write_text("x")
    leftovers.remove_failed_save(str(tmp_path), 8)
    assert names(tmp_path) == ["ckpt-7.index", "ckpt-80.data-00000-of-00001", "ckpt-9_temp"]


def test_a_folder_is_claimed_once_until_its_release(tmp_path):
    first, second = (leftovers.FolderClaim(str(tmp_path)) for _ in range(2))
    assert first.acquire() and first.acquire()
    assert not second.acquire() and second.is_taken
    first.release()
    assert second.acquire() and not second.is_taken
    del second  # as at the end of a process
    assert first.acquire()
    assert names(tmp_path) == []


def test_the_claim_of_a_killed_process_is_free(tmp_path):
    code = (
        "import fcntl, os, sys, time; d = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(d, fcntl.LOCK_EX); "
        "print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        claim = leftovers.FolderClaim(str(tmp_path))
        assert not claim.acquire() and claim.is_taken
        holder.kill()
        holder.wait()
        assert claim.acquire()


@pytest.mark.parametrize("folder", ["gs://bucket/run", "missing"])
def test_what_cannot_be_claimed_is_not_held(folder):
    claim = leftovers.FolderClaim(folder)
    assert not claim.acquire() and not claim.is_held and not claim.is_taken
