"""Every recipe in configs/tf2 reads and says what it is, and each model of them builds and takes a train step."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn import builder
from object_detection_fpn.config import model as model_config
from object_detection_fpn.config import pipeline as config
from object_detection_fpn.config import recipes
from object_detection_fpn.modeling.detector import mean_losses
from object_detection_fpn.records import Context, Groundtruth, Inputs

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

RECIPES = sorted((Path(__file__).parents[2] / "configs" / "tf2").glob("*.config"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_head_comment_names_paper_result_hardware_and_command(path):
    head = re.match(r"(#.*\n)+", path.read_text())
    assert head, "the file begins with a comment"
    for word in ("Paper:", "Expected:", "Hardware:", "Command:"):
        assert word in head.group(), word


# The ResNets of the Object Detection API's model zoo for TensorFlow 2 on COCO, with the AP that its table reports.
ZOO = {
    "faster_rcnn_resnet50_v1_640x640_coco17_tpu-8": 29.3,
    "faster_rcnn_resnet50_v1_1024x1024_coco17_tpu-8": 31.0,
    "faster_rcnn_resnet50_v1_800x1333_coco17_gpu-8": 31.6,
    "faster_rcnn_resnet101_v1_640x640_coco17_tpu-8": 31.8,
    "faster_rcnn_resnet101_v1_1024x1024_coco17_tpu-8": 37.1,
    "faster_rcnn_resnet101_v1_800x1333_coco17_gpu-8": 36.6,
    "faster_rcnn_resnet152_v1_640x640_coco17_tpu-8": 32.4,
    "faster_rcnn_resnet152_v1_1024x1024_coco17_tpu-8": 37.6,
    "faster_rcnn_resnet152_v1_800x1333_coco17_gpu-8": 37.4,
    "ssd_resnet50_v1_fpn_640x640_coco17_tpu-8": 34.3,
    "ssd_resnet50_v1_fpn_1024x1024_coco17_tpu-8": 38.3,
    "ssd_resnet101_v1_fpn_640x640_coco17_tpu-8": 35.6,
    "ssd_resnet101_v1_fpn_1024x1024_coco17_tpu-8": 39.5,
    "ssd_resnet152_v1_fpn_640x640_coco17_tpu-8": 35.4,
    "ssd_resnet152_v1_fpn_1024x1024_coco17_tpu-8": 39.6,
}


@pytest.mark.parametrize("name", ZOO)
def test_models_of_the_zoo_have_their_recipe_and_their_reported_precision(name):
    assert f"# Expected: {ZOO[name]} AP on COCO17" in Path(recipes.recipe_path(name)).read_text()


def test_the_package_knows_every_recipe():
    assert recipes.recipes() == {path.stem: str(path) for path in RECIPES}


DEEPER = re.compile("resnet(101|152)")
WEIGHTS = {"R-101": "R-50", "resnet101-cd907fc2": "resnet50-11ad3fa6"}
IMPORTED = re.compile("detectron2|torchvision")  # tests/interop has them take a train step


def without_size(path: Path) -> str:
    """Its name without that of its images."""
    return re.sub(r"\d+x\d+", "", path.stem.removesuffix("_tpu-8"))


def layers_of(path: Path) -> str:
    """The model of a recipe without the size of images, and of anchors and regularization only that they are there."""
    recipe = config.load_config(str(path))
    model = getattr(recipe.model, recipe.model.WhichOneof("model"))
    model.ClearField("image_resizer")
    return re.sub(r"(anchor_scale|weight): \S+", r"\1", str(model))


@pytest.mark.parametrize("name", sorted({without_size(path) for path in RECIPES}))
def test_recipes_of_other_image_sizes_have_the_same_layers(name):
    """So that a train step of one of them, below, speaks for all."""
    assert len({layers_of(path) for path in RECIPES if without_size(path) == name}) == 1


def one_recipe_a_model() -> list[Path]:
    """One recipe of those that differ in image size, depth and masks alone, with masks; `test_resnet_v1.py` has all depths."""
    shallow = [path for path in RECIPES if not DEEPER.search(path.stem) and not IMPORTED.search(path.stem)]
    return list(
        {
            re.sub(r"^(faster|mask)_rcnn_", "", without_size(path)): path
            for path in sorted(shallow, reverse=True, key=lambda path: (not path.stem.startswith("mask_rcnn"), path))
        }.values()
    )


@pytest.mark.parametrize("path", [p for p in RECIPES if DEEPER.search(p.stem)], ids=lambda path: path.stem)
def test_a_deeper_recipe_is_that_of_resnet_50_with_another_backbone(path):
    ours = config.load_config(str(path))
    extractor = model_config.feature_extractor(ours.model)
    assert DEEPER.search(extractor.type)[0] == DEEPER.search(path.stem)[0]
    extractor.type = DEEPER.sub("resnet50", extractor.type)
    if ours.train_config.fine_tune_checkpoint:
        weights = ours.train_config.fine_tune_checkpoint
        for deeper, shallower in WEIGHTS.items():
            weights = weights.replace(deeper, shallower)
        ours.train_config.fine_tune_checkpoint = weights
    assert ours == config.load_config(str(path.with_name(DEEPER.sub("resnet50", path.name))))


@pytest.mark.parametrize(
    "name", ["resnet50_v1_640x640_tpu-8", "resnet50_v1_fpn_recipe_640x640_tpu-8", "resnet18_fpn_recipe_shapes_160x160"]
)
def test_a_recipe_with_context_is_that_of_single_images_that_looks_at_it(name):
    folder = RECIPES[0].parent
    ours = config.load_config(str(folder / f"context_rcnn_{name}.config"))
    single = name.replace("640x640", "640x640_coco17")
    theirs = config.load_config(str(folder / f"faster_rcnn_{single}.config"))
    assert ours.model.faster_rcnn.HasField("context_config")
    ours.model.faster_rcnn.ClearField("context_config")
    ours.model.faster_rcnn.num_classes = theirs.model.faster_rcnn.num_classes
    assert ours.model == theirs.model and ours.train_config == theirs.train_config
    assert all(reader.load_context_features for reader in (ours.train_input_reader, *ours.eval_input_reader))


def without_masks(recipe) -> None:
    """Takes from a recipe what its masks need."""
    model = recipe.model.faster_rcnn
    head = model.second_stage_box_predictor.mask_rcnn_box_predictor
    assert (model.number_of_stages, head.predict_instance_masks) == (3, True)
    for field, _ in (*model.ListFields(), *head.ListFields()):
        message = head if field.containing_type is head.DESCRIPTOR else model
        if "mask" in field.name or field.name in ("number_of_stages", "conv_hyperparams"):
            message.ClearField(field.name)
    for reader in (recipe.train_input_reader, *recipe.eval_input_reader):
        assert reader.load_instance_masks
        reader.ClearField("load_instance_masks")
        reader.ClearField("mask_type")
    assert list(recipe.eval_config.metrics_set) == ["coco_detection_metrics", "coco_mask_metrics"]
    del recipe.eval_config.metrics_set[1:]


# The recipe of drawn shapes has one more level than its sibling.
WITH_MASKS = [path for path in RECIPES if path.stem.startswith("mask_rcnn") and "shapes" not in path.stem]


@pytest.mark.parametrize("path", WITH_MASKS, ids=lambda path: path.stem)
def test_a_recipe_with_masks_is_that_of_boxes_with_a_mask_head(path):
    ours = config.load_config(str(path))
    without_masks(ours)
    assert ours == config.load_config(str(path.with_name(path.name.replace("mask_rcnn", "faster_rcnn"))))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_passes_the_checks(path):
    config.load_config(str(path))


@pytest.mark.parametrize("path", one_recipe_a_model(), ids=lambda path: path.stem)
def test_recipe_takes_a_train_step(path):
    message = config.load_config(str(path))
    model = builder.build_model(message.model)
    optimizer = builder.build_optimizer(message.train_config.optimizer)
    optimizer.build(model.trainable_variables)
    groundtruth = Groundtruth(
        boxes=tf.constant([[[8.0, 8.0, 40.0, 48.0]]]),
        classes=tf.constant([[1]]),
        num_boxes=tf.constant([1]),
        weights=tf.ones([1, 1]),
        is_crowd=tf.zeros([1, 1], tf.bool),
        masks=tf.fill([1, 1, 28, 28], tf.constant(255, tf.uint8)),
        mask_frames=tf.constant([[[8.0, 8.0, 40.0, 48.0]]]),
    )
    images = tf.random.uniform([1, 64, 64, 3], 0, 255, seed=1)
    length = message.model.faster_rcnn.context_config.context_feature_length
    context = Context(tf.random.uniform([1, 3, length], seed=1), tf.constant([2]))
    inputs = model.preprocess(Inputs(images, tf.constant([[64, 64, 3]]), context))
    with tf.GradientTape() as tape:
        predictions = model.predict(inputs, training=True, groundtruth=groundtruth)
        losses = mean_losses(model, predictions, groundtruth)
        total = tf.add_n(list(losses.values()))
    gradients = tape.gradient(total, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    num_losses = 3 if message.model.HasField("ssd") else 5 + path.stem.startswith("mask_rcnn")
    assert len(losses) == num_losses
    assert all(np.isfinite(value.numpy()) for value in losses.values())
    assert all(np.isfinite(variable.numpy()).all() for variable in model.trainable_variables)
