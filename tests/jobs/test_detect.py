"""A model on the evaluation data of a config, image by image. Of checkpoints, `tools/report/test_command.py` tests more."""

from __future__ import annotations

import numpy as np
import pytest

from object_detection_fpn.config import pipeline, recipes
from object_detection_fpn.evaluation.metric import EvaluationError
from object_detection_fpn.jobs import detect
from object_detection_fpn.serving.predictor import Predictor
from object_detection_fpn.tools import shapes


@pytest.fixture
def serve_with(monkeypatch):
    """Has every SavedModel be a predictor that finds one square; returns the images that it was given."""

    def patch(**settings):
        seen = []

        def serve(image, context=None):
            seen.append(image)
            return {
                "detection_boxes": np.array([[[0.25, 0.5, 0.75, 1.0]]], np.float32),
                "detection_scores": np.array([[0.9]], np.float32),
                "detection_classes": np.array([[2.0]], np.float32),
                "num_detections": np.array([1.0], np.float32),
            }

        monkeypatch.setattr(
            detect.Predictor, "from_saved_model", classmethod(lambda cls, path, **_: Predictor(serve, **settings))
        )
        return seen

    return patch


def test_a_saved_model_is_given_whole_images(serve_with, small_config):
    seen = serve_with()
    found = detect.detect_with_saved_model(small_config, saved_model="x")
    images = list(found.images)
    assert len(images) == len(seen) == 6
    assert (found.step, found.has_masks) == (None, False)
    assert [category["name"] for category in found.categories] == list(shapes.CLASS_NAMES)
    for image, given in zip(images, seen, strict=True):
        height, width = image.groundtruth.image_size
        assert (given.shape, given.dtype) == ((1, height, width, 3), np.uint8)
        assert max(height, width) == 96  # not the 64 pixels that the config resizes to
        np.testing.assert_array_equal(image.image.pixels(), given[0])
        assert image.detections.boxes.tolist() == [[height / 4, width / 2, height * 3 / 4, width]]
        assert image.detections.classes.tolist() == [1]
        assert len(image.groundtruth.classes) > 0


def test_every_second_image_of_the_training_data(serve_with, small_config):
    serve_with()
    found = detect.detect_with_saved_model(small_config, saved_model="x", on_train_data=True, sample_1_of_n=2)
    assert len(list(found.images)) == 4


def test_context_that_is_not_loaded_is_named(serve_with, small_config):
    serve_with(context_length=4)
    with pytest.raises(EvaluationError, match="looks at context features, which the input reader does not load"):
        list(detect.detect_with_saved_model(small_config, saved_model="x").images)


def test_a_saved_model_without_masks_is_not_taken_for_one_with_masks(serve_with, small_overrides):
    serve_with()
    recipe = recipes.recipe_path("mask_rcnn_resnet18_fpn_recipe_shapes_160x160")
    config = pipeline.load_config(recipe, small_overrides, require_data=["eval"])
    with pytest.raises(EvaluationError, match="but the SavedModel gives none"):
        list(detect.detect_with_saved_model(config, saved_model="x").images)
