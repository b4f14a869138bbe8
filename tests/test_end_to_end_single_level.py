"""One level, from training to serving: train, stop, resume, evaluate, export, predict, each command a process."""

from __future__ import annotations

from pathlib import Path

import commands
import numpy as np
import pytest

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

RECIPE = "faster_rcnn_resnet18_shapes_160x160"


@pytest.fixture(scope="module")
def ran(single_level_overrides, shapes_data, untraced, tmp_path_factory) -> commands.Ran:
    return commands.run_all(
        tmp_path_factory.mktemp("one_level"),
        RECIPE,
        single_level_overrides,
        inputs=str(sorted(Path(shapes_data.eval_images).iterdir())[0]),
        label_map=shapes_data.label_map_path,
        untraced=untraced,
    )


def test_training_goes_on_with_finite_losses(ran, read_summaries):
    summaries = read_summaries(ran.model_dir / "train")
    assert max(summaries["Loss/total_loss"]) == 3
    names = ("RPNLoss/objectness_loss", "BoxClassifierLoss/classification_loss", "regularization_loss")
    for name in names:
        assert all(np.isfinite(loss) and loss > 0 for loss in summaries[f"Loss/{name}"].values()), name


def test_boxes_are_evaluated(ran):
    assert {"DetectionBoxes_Precision/mAP", "Loss/total_loss"} <= set(ran.metrics)


def test_exported_boxes_are_those_of_the_checkpoint(ran):
    commands.assert_same_detections(ran.found, ran.expected, side=96)
