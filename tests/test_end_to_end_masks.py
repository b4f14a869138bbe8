"""Polygons of a COCO JSON from conversion to serving: convert, train, stop, resume, evaluate, export, load, the same masks."""

from __future__ import annotations

import json
from pathlib import Path

import measuring
import numpy as np
import pytest
import support
import tensorflow as tf
from PIL import Image, ImageDraw

from object_detection_fpn.config import pipeline as config
from object_detection_fpn.config import recipes
from object_detection_fpn.jobs import evaluate as evaluate_job
from object_detection_fpn.jobs import export as export_job
from object_detection_fpn.jobs import predict as predict_job
from object_detection_fpn.jobs import train as train_job
from object_detection_fpn.tools.convert import coco

_NUM_IMAGES = 4
_OBJECTS = (
    (1, "tomato", [[10, 12, 44, 12, 27, 50]]),
    (2, "navy", [[60, 20, 84, 20, 84, 44, 60, 44], [60, 60, 84, 60, 84, 70, 60, 70]]),  # one object of two parts
)
"""Class, colour and polygons (x, y, ...) of the objects of every image."""


@pytest.fixture(scope="module")
def polygons(tmp_path_factory) -> Path:
    """A COCO JSON with polygons and its images, 96 x 80 pixels, the objects two pixels further right in each."""
    folder = tmp_path_factory.mktemp("polygons")
    (folder / "images").mkdir()
    images, annotations = [], []
    for number in range(_NUM_IMAGES):
        image = Image.new("RGB", (96, 80), "gray")
        for class_id, colour, parts in _OBJECTS:
            moved = [(np.reshape(part, [-1, 2]) + [2 * number, 0]).tolist() for part in parts]
            for part in moved:
                ImageDraw.Draw(image).polygon([tuple(point) for point in part], fill=colour)
            points = np.concatenate(moved)
            low, high = points.min(axis=0), points.max(axis=0)
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number, "category_id": class_id, "iscrowd": 0,
                    "bbox": [*low.tolist(), *(high - low).tolist()], "area": float(np.prod(high - low)),
                    "segmentation": [np.ravel(part).tolist() for part in moved],
                }
            )  # fmt: skip
        image.save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 96, "height": 80})
    categories = [{"id": 1, "name": "triangle"}, {"id": 2, "name": "pair"}, {"id": 3, "name": "nothing"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def masks_config(polygons):
    """The recipe of drawn shapes with masks, made small, for the converted polygons."""
    converted = coco.coco_to_tfrecords(
        str(polygons / "annotations.json"), str(polygons / "images"), str(polygons / "records"),
        label_map_path=str(polygons / "label_map.pbtxt"), show_progress=False,
    )  # fmt: skip
    assert (converted.num_images, converted.num_boxes, converted.num_masks) == (_NUM_IMAGES, 8, 8)
    resizer = "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer"
    small = [
        f"{resizer}.min_dimension=96",
        f"{resizer}.max_dimension=96",
        "model.faster_rcnn.second_stage_post_processing.batch_non_max_suppression.score_threshold=0",
        "model.faster_rcnn.second_stage_post_processing.batch_non_max_suppression.max_total_detections=6",
        "train_config.batch_size=2",
        "eval_config.batch_size=2",
    ]
    reading = support.reading_overrides(*[converted.record_pattern] * 2, converted.label_map_path)
    recipe = recipes.recipe_path("mask_rcnn_resnet18_fpn_recipe_shapes_160x160")
    return config.load_config(recipe, [*small, *reading], require_data=["train", "eval"])


@pytest.fixture(scope="module")
def trained(masks_config, tiny_resnet18_throughout, untraced, tmp_path_factory) -> Path:
    """Two steps, stopped, and one more."""
    model_dir = tmp_path_factory.mktemp("model")
    with untraced(), measuring.unmeasured():
        train_job.train(masks_config, model_dir=str(model_dir), num_steps=2)
        result = train_job.train(masks_config, model_dir=str(model_dir), num_steps=3)
    assert result.step == 3
    return model_dir


def test_training_learns_masks_and_goes_on(trained, read_summaries):
    losses = read_summaries(trained / "train")["Loss/BoxClassifierLoss/mask_loss"]
    assert max(losses) == 3
    assert all(0 < loss < 10 for loss in losses.values())


def test_boxes_and_masks_are_evaluated_at_once(trained, masks_config, untraced, read_summaries, tmp_path):
    with untraced():
        metrics = evaluate_job.evaluate(masks_config, checkpoint=str(trained), output_dir=str(tmp_path))
    assert {
        "DetectionBoxes_Precision/mAP",
        "DetectionMasks_Precision/mAP",
        "DetectionMasks_Precision/mAP@.50IOU",
        "DetectionMasks_PerformanceByCategory/mAP/pair",
        "Loss/BoxClassifierLoss/mask_loss",
    } <= set(metrics)
    assert any(tag.startswith("eval_side_by_side") for tag in read_summaries(tmp_path))


def test_exported_masks_are_those_of_the_checkpoint(trained, masks_config, polygons, tmp_path):
    image = np.asarray(Image.open(polygons / "images" / "1.png"))
    with measuring.unmeasured():
        expected = predict_job.make_predictor(masks_config, checkpoint=str(trained)).predict(image)
        export_job.export(masks_config, checkpoint=str(trained), output_dir=str(tmp_path), input_type="image_tensor")
        serve = tf.saved_model.load(str(tmp_path / "saved_model")).signatures["serving_default"]
        outputs = serve(input_tensor=tf.constant(image)[None])
    num = int(outputs["num_detections"][0])
    assert num == len(expected.scores) > 0
    assert outputs["detection_masks"].shape[2:] == (28, 28)
    np.testing.assert_allclose(outputs["detection_scores"][0, :num], expected.scores, atol=1e-5)
    np.testing.assert_allclose(outputs["detection_masks"][0, :num], expected.masks, atol=1e-4)
