"""`odfpn convert` that is stopped in the middle goes on where the same command is given again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from object_detection_fpn.cli import main as cli
from object_detection_fpn.tools.convert import whole, work

NUM_SHARDS = 3
SHARD_IMAGES = whole._CHUNK_SIZE  # so that no chunk is of two record files


@pytest.fixture
def source(tmp_path):
    """A COCO folder; image i is of record file i % 3."""
    folder = tmp_path / "source"
    folder.mkdir()
    images = []
    for i in range(NUM_SHARDS * SHARD_IMAGES):
        Image.new("RGB", (20, 10), (i, 100, 200)).save(folder / f"{i:02d}.jpg")
        images.append({"id": i + 1, "file_name": f"{i:02d}.jpg", "width": 20, "height": 10})
    rows = [{"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": [1, 2, 5, 6]} for i in range(len(images))]
    contents = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cat"}]}
    (folder / "annotations.json").write_text(json.dumps(contents))
    return folder


def command(source: Path, output: Path) -> list[str]:
    return ["convert", str(source), str(output), "--num_shards", str(NUM_SHARDS), "--num_processes", "1"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def wait_until(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None or condition()
        time.sleep(0.05)


def released(pipe: Path) -> bool:
    """Whether a thread that waits for the pipe was let go on."""
    try:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:  # nobody reads it
        return False
    return True


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_is_continued(source, tmp_path, capfd, stop):
    whole_output, output = tmp_path / "whole", tmp_path / "out"
    assert cli.main(command(source, whole_output)) == 0
    held = source / "02.jpg"  # of the last record file: reading a pipe waits until somebody writes to it
    shutil.move(held, tmp_path / "held.jpg")
    os.mkfifo(held)
    process = subprocess.Popen(
        [sys.executable, "-m", "object_detection_fpn.cli", *command(source, output)], stderr=subprocess.PIPE, text=True
    )
    folder = output / work.FOLDER_NAME
    names = [f"data-{i:05d}-of-{NUM_SHARDS:05d}.tfrecord" for i in range(NUM_SHARDS)]
    wait_until(lambda: all((folder / f"{name}.rows").exists() for name in names[:2]), process)
    process.send_signal(stop)
    if stop == signal.SIGINT:
        wait_until(lambda: process.poll() is not None or released(held), process)
    _, printed = process.communicate(timeout=300)
    if stop == signal.SIGINT:
        assert process.returncode == 130
        assert f"2 of 3 record files are finished, in {folder}: the same command goes on from there." in printed
        assert not list(folder.glob("*.part"))
    assert contents(output) == {}
    inodes = [(folder / name).stat().st_ino for name in names[:2]]

    held.unlink()
    shutil.move(tmp_path / "held.jpg", held)
    capfd.readouterr()
    assert cli.main(command(source, output)) == 0
    assert "Goes on with an earlier run: 2 of 3 record files are finished." in capfd.readouterr().err
    assert [(output / name).stat().st_ino for name in names[:2]] == inodes
    assert contents(output) == contents(whole_output)
    assert not folder.exists()


@pytest.fixture
def stopped(source, tmp_path, monkeypatch):
    """The output of a run whose disk was full at the last record file."""
    finish = work.WorkFolder.finish

    def fail(self, name, rows):
        if name.startswith("data-00002"):
            raise OSError(28, "No space left on device", name)
        finish(self, name, rows)

    with monkeypatch.context() as patch:
        patch.setattr(work.WorkFolder, "finish", fail)
        assert cli.main(command(source, tmp_path / "out")) == 2
    return tmp_path / "out"


def test_a_full_disk_keeps_what_is_finished(capfd, source, stopped):
    assert contents(stopped) == {} and len(list((stopped / work.FOLDER_NAME).glob("*.tfrecord"))) == 2
    assert not list((stopped / work.FOLDER_NAME).glob("*.part"))
    assert "No space left on device" in capfd.readouterr().err
    assert cli.main(command(source, stopped)) == 0
    assert "2 of 3" in capfd.readouterr().err and not (stopped / work.FOLDER_NAME).exists()


def test_other_settings_and_other_images_start_anew(source, stopped, capfd):
    Image.new("RGB", (20, 10), (9, 9, 9)).save(source / "00.jpg")  # of the first record file
    assert cli.main(command(source, stopped)) == 0
    assert "1 of 3" in capfd.readouterr().err
    first = contents(stopped)
    (stopped / work.FOLDER_NAME).mkdir()
    (stopped / work.FOLDER_NAME / "fingerprint").write_text("another")
    (stopped / work.FOLDER_NAME / "data-00000-of-00003.tfrecord.rows").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert cli.main(command(source, stopped)) == 0
    assert "earlier run" not in capfd.readouterr().err and contents(stopped) == first
    assert not (stopped / work.FOLDER_NAME).exists()


def test_rows_that_would_run_something_are_not_read(tmp_path):
    folder = work.WorkFolder(str(tmp_path), "a")
    (tmp_path / work.FOLDER_NAME / "x.rows").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    (tmp_path / work.FOLDER_NAME / "x").write_bytes(b"")
    assert folder.load("x") is None
