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


@pytest.fixture(scope="module")
def compiled(ran) -> Path:
    """An export that XLA compiles."""
    folder = ran.folder / "compiled"
    with measuring.unmeasured():
        export_job.export(
            ran.config,
            checkpoint=str(ran.model_dir),
            output_dir=str(folder),
            input_type="image_tensor",
            jit_compile=True,
        )
    return folder


@pytest.mark.parametrize("is_compiled", [False, True])
def test_raw_detections_are_those_of_all_anchors(request, ran, image_path, is_compiled):
    folder = request.getfixturevalue("compiled") if is_compiled else ran.exported
    serve = tf.saved_model.load(str(folder / "saved_model")).signatures["serving_default"]
    outputs = serve(input_tensor=tf.constant(np.asarray(Image.open(image_path)))[None])
    num_anchors = 2 * sum(side**2 for side in (20, 10, 5, 3))
    assert outputs["raw_detection_boxes"].shape == (1, num_anchors, 4)
    assert outputs["raw_detection_scores"].shape == (1, num_anchors, 4)
    scores = [each["score"] for each in ran.expected["detections"]]
    assert int(outputs["num_detections"][0]) == len(scores)
    np.testing.assert_allclose(outputs["detection_scores"][0, : len(scores)], scores, atol=1e-5)


def test_four_drawn_images_are_learned_by_heart(retinanet_overrides, monkeypatch):
    support.put_backbone(monkeypatch, support.SSD_RESNET18, num_filters=(16, 24, 32, 48), is_residual=True)
    message = config_lib.load_config(recipes.recipe_path(RECIPE), retinanet_overrides, require_data=["train", "eval"])
    message.model.ssd.ClearField("loss_normalization")  # whose average starts for larger batches
    assert learning.average_precision_by_heart(message) >= 0.95
