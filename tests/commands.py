"""The commands of `odfpn` as their users run them, each a process of its own, and what end-to-end tests of all detectors do."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import measuring
import numpy as np

from object_detection_fpn.config import pipeline as config_lib
from object_detection_fpn.jobs import predict as predict_job
from object_detection_fpn.jobs import train as train_job

_TIMEOUT = 900.0  # seconds; of a process that hangs, not of a slow machine


def start(*words: str) -> subprocess.Popen[str]:
    """`odfpn WORDS` in the background, on a machine without GPU."""
    return subprocess.Popen(
        [sys.executable, "-m", "object_detection_fpn.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What a command printed, which must have succeeded."""
    output, _ = process.communicate(timeout=_TIMEOUT)
    assert process.returncode == 0 and "Traceback" not in output, output
    return output


def run(*words: str) -> str:
    """`odfpn WORDS`, to its end."""
    return finish(start(*words))


def override_flags(overrides: Iterable[str]) -> list[str]:
    return [word for override in overrides for word in ("--config_override", override)]


def read_detections(folder: Path) -> dict[str, Any]:
    """What `odfpn predict` wrote there."""
    return json.loads((folder / "detections.json").read_text())


class Ran(NamedTuple):
    """What the commands left in a folder."""

    folder: Path

    @property
    def model_dir(self) -> Path:
        """Of a training of three steps, stopped after the second."""
        return self.folder / "model"

    @property
    def config(self) -> Any:
        """As training has stored it."""
        return config_lib.load_config(str(self.model_dir / "pipeline.config"), require_data=["train", "eval"])

    @property
    def metrics(self) -> dict[str, float]:
        """Of `odfpn eval`."""
        (path,) = (self.folder / "evaluated").rglob("metrics.jsonl")
        (line,) = path.read_text().splitlines()
        return json.loads(line)

    @property
    def exported(self) -> Path:
        """Of `odfpn export`."""
        return self.folder / "exported"

    @property
    def expected(self) -> dict[str, Any]:
        """Detections of the checkpoint, found in this process."""
        return read_detections(self.folder / "expected")

    @property
    def found(self) -> dict[str, Any]:
        """Detections of the exported model, found by `odfpn predict`."""
        return read_detections(self.folder / "found")


def run_all(
    folder: Path,
    recipe: str,
    overrides: Iterable[str],
    *,
    inputs: str,
    label_map: str,
    untraced: Callable[[], contextlib.AbstractContextManager[None]],
) -> Ran:
    """Trains two steps, and one more in this process; evaluates and exports; predicts with both.

    Args:
        folder: for everything.
        recipe: its name.
        overrides: that make it small.
        inputs: images or records to predict.
        label_map: path.
        untraced: the fixture.
    """
    ran = Ran(folder)
    run("train", "--config", recipe, *override_flags(overrides), "--model_dir", str(ran.model_dir), "--num_steps", "2")
    with untraced(), measuring.unmeasured():
        assert train_job.train(ran.config, model_dir=str(ran.model_dir), num_steps=3).step == 3
    # From here on the config of the training is enough.
    common = ["--config", str(ran.model_dir / "pipeline.config"), "--checkpoint", str(ran.model_dir), "--output_dir"]
    with (
        start("eval", *common, str(folder / "evaluated")) as evaluation,
        start("export", *common, str(ran.exported)) as export,
    ):
        with untraced(), measuring.unmeasured():
            predictor = predict_job.make_predictor(ran.config, checkpoint=str(ran.model_dir))
            report = predict_job.predict_files(
                predictor, [inputs], output_dir=str(folder / "expected"), min_score=0.0, show_progress=False
            )
        assert report.exit_code == 0
        assert "DetectionBoxes_Precision/mAP@.50IOU" in finish(evaluation)
        assert f"Exported to {ran.exported}" in finish(export)
    model = ["--saved_model", str(ran.exported), "--label_map", label_map, "--min_score", "0"]
    run("predict", inputs, *model, "--output_dir", str(folder / "found"))
    return ran


def assert_same_detections(found: dict[str, Any], expected: dict[str, Any], *, side: int, scores: float = 1e-5) -> None:
    """Two results of `odfpn predict` agree: number, classes, boxes to 1e-4 of the image, scores.

    Args:
        found: of the one model.
        expected: of the other.
        side: of the images, pixels.
        scores: how far they may be apart.
    """
    assert len(found["detections"]) == len(expected["detections"]) > 0
    ours, theirs = (
        np.array([[each["image_id"], each["category_id"], *each["bbox"], each["score"]] for each in one["detections"]])
        for one in (found, expected)
    )
    tolerances = np.array([0.5, 0.5, *[1e-4 * side] * 4, scores])
    # Nearly equal scores may change places, and boxes without area may be there twice.
    distances = np.max(np.abs(ours[:, np.newaxis] - theirs) / tolerances, axis=-1)
    assert distances.min(axis=1).max() <= 1.0, ours[distances.min(axis=1).argmax()]
    assert distances.min(axis=0).max() <= 1.0, theirs[distances.min(axis=0).argmax()]
