"""RetinaNet on drawn data, from training to serving: train, stop, resume, evaluate, export, predict, each command a process."""

from __future__ import annotations

from pathlib import Path

import commands
import learning
import measuring
import numpy as np
import pytest
import support
import tensorflow as tf
from PIL import Image

from object_detection_fpn.config import pipeline as config_lib
from object_detection_fpn.config import recipes
from object_detection_fpn.jobs import export as export_job

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

RECIPE = "retinanet_resnet18_fpn_shapes_160x160"


@pytest.fixture(scope="module")
def image_path(shapes_data) -> Path:
    return sorted(Path(shapes_data.eval_images).iterdir())[0]


@pytest.fixture(scope="module")
def ran(retinanet_overrides, shapes_data, image_path, untraced, tmp_path_factory) -> commands.Ran:
    return commands.run_all(
        tmp_path_factory.mktemp("retinanet"),
        RECIPE,
        retinanet_overrides,
        inputs=str(image_path),
        label_map=shapes_data.label_map_path,
        untraced=untraced,
    )


def test_training_leaves_summaries_and_the_average_of_matches(ran, read_summaries):
    assert {"Loss/total_loss", "Loss/localization_loss", "Loss/classification_loss"} <= set(
        read_summaries(ran.model_dir / "train")
    )
    stored = tf.train.load_checkpoint(str(ran.model_dir))
    average = stored.get_tensor("model/dense_head/loss_normalizer/.ATTRIBUTES/VARIABLE_VALUE")
    assert 72.9 <= average < 100.0  # three steps of at most a hundred matches


def test_evaluation_measures_boxes(ran):
    assert {"DetectionBoxes_Precision/mAP", "Loss/classification_loss", "Loss/total_loss"} <= set(ran.metrics)


def test_exported_boxes_are_those_of_the_checkpoint(ran):
    commands.assert_same_detections(ran.found, ran.expected, side=96)


def serve(folder: Path, image_path: Path) -> dict[str, tf.Tensor]:
    """What an exported model says of an image."""
    signature = tf.saved_model.load(str(folder / "saved_model")).signatures["serving_default"]
    outputs = signature(input_tensor=tf.constant(np.asarray(Image.open(image_path)))[None])
    num_anchors = 2 * sum(side**2 for side in (20, 10, 5, 3))
    assert outputs["raw_detection_boxes"].shape == (1, num_anchors, 4)
    assert outputs["raw_detection_scores"].shape == (1, num_anchors, 4)
    return outputs


def test_an_export_that_xla_compiles_gives_the_same_scores(ran, image_path, tmp_path):
    with measuring.unmeasured():
        export_job.export(
            ran.config,
            checkpoint=str(ran.model_dir),
            output_dir=str(tmp_path),
            input_type="image_tensor",
            jit_compile=True,
        )
        expected, found = (serve(folder, image_path) for folder in (ran.exported, tmp_path))
    assert int(found["num_detections"][0]) == int(expected["num_detections"][0]) > 0
    np.testing.assert_allclose(found["detection_scores"], expected["detection_scores"], atol=1e-5)


def test_four_drawn_images_are_learned_by_heart(retinanet_overrides, monkeypatch):
    support.put_backbone(monkeypatch, support.SSD_RESNET18, num_filters=(16, 24, 32, 48), is_residual=True)
    message = config_lib.load_config(recipes.recipe_path(RECIPE), retinanet_overrides, require_data=["train", "eval"])
    message.model.ssd.ClearField("loss_normalization")  # whose average starts for larger batches
    assert learning.average_precision_by_heart(message) >= 0.95
