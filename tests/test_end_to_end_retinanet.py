"""RetinaNet on drawn data, from training to serving; what the jobs share with other detectors, `test_end_to_end.py` has."""

from __future__ import annotations

from pathlib import Path

import measuring
import numpy as np
import pytest
import support
import tensorflow as tf
import tf_keras
from PIL import Image

from object_detection_fpn import builder
from object_detection_fpn.config import label_map, recipes
from object_detection_fpn.config import pipeline as config_lib
from object_detection_fpn.evaluation import coco
from object_detection_fpn.evaluation.metric import ImageDetections, ImageGroundtruth
from object_detection_fpn.jobs import evaluate as evaluate_job
from object_detection_fpn.jobs import export as export_job
from object_detection_fpn.jobs import predict as predict_job
from object_detection_fpn.jobs import train as train_job
from object_detection_fpn.modeling.detector import mean_losses
from object_detection_fpn.tools.planning import hlo
from object_detection_fpn.training import schedules

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

SMALL = [
    "model.ssd.feature_extractor.fpn.additional_layer_depth=16",
    "model.ssd.box_predictor.weight_shared_convolutional_box_predictor.depth=16",
    "model.ssd.loss_normalization=MOVING_AVERAGE",
]


@pytest.fixture(scope="module", autouse=True)
def _tiny_backbone():
    with pytest.MonkeyPatch.context() as patch:
        support.put_backbone(patch, support.SSD_RESNET18, num_filters=(16, 24, 32, 48), is_residual=True)
        yield


@pytest.fixture(scope="module")
def config(small_overrides):
    overrides = [text for text in small_overrides if "faster_rcnn" not in text]
    recipe = recipes.recipe_path("retinanet_resnet18_fpn_shapes_160x160")
    return config_lib.load_config(recipe, [*overrides, *SMALL], require_data=["train", "eval"])


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory) -> Path:
    model_dir = tmp_path_factory.mktemp("model")
    with measuring.unmeasured():
        train_job.train(config, model_dir=str(model_dir), num_steps=2, evaluate_checkpoints=True)
    return model_dir


def test_training_leaves_summaries_and_the_average_of_matches(trained, read_summaries):
    assert {"Loss/total_loss", "Loss/localization_loss", "Loss/classification_loss"} <= set(
        read_summaries(trained / "train")
    )
    stored = tf.train.load_checkpoint(str(trained))
    average = stored.get_tensor("model/dense_head/loss_normalizer/.ATTRIBUTES/VARIABLE_VALUE")
    assert 81.0 <= average < 100.0  # two steps of at most a hundred matches


def test_evaluation_measures_boxes(trained, config, untraced, tmp_path):
    with untraced():
        metrics = evaluate_job.evaluate(config, checkpoint=str(trained), output_dir=str(tmp_path))
    assert {"DetectionBoxes_Precision/mAP", "Loss/classification_loss", "Loss/total_loss"} <= set(metrics)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_exported_model_gives_the_same_detections_as_the_checkpoint(
    trained, config, shapes_data, tmp_path, jit_compile
):
    image = np.asarray(Image.open(sorted(Path(shapes_data.eval_images).iterdir())[0]))
    expected = predict_job.make_predictor(config, checkpoint=str(trained)).predict(image)
    export_job.export(
        config,
        checkpoint=str(trained),
        output_dir=str(tmp_path),
        input_type="image_tensor",
        jit_compile=jit_compile,
    )
    serve = tf.saved_model.load(str(tmp_path / "saved_model")).signatures["serving_default"]
    outputs = serve(input_tensor=tf.constant(image)[None])
    num = int(outputs["num_detections"][0])
    assert num == len(expected.scores)
    np.testing.assert_allclose(outputs["detection_scores"][0, :num], expected.scores, atol=1e-5)
    if not jit_compile:  # nearly equal scores may change places
        np.testing.assert_allclose(outputs["detection_boxes"][0, :num], expected.boxes_normalized, atol=1e-4)
        np.testing.assert_array_equal(outputs["detection_classes"][0, :num], expected.class_ids)
    num_anchors = 2 * sum(side**2 for side in (20, 10, 5, 3))
    assert outputs["raw_detection_boxes"].shape == (1, num_anchors, 4)
    assert outputs["raw_detection_scores"].shape == (1, num_anchors, 4)


def test_four_drawn_images_are_learned_by_heart(config):
    """AP50 >= 0.95 on the images it saw, after 200 steps from random weights."""
    labels = label_map.load_label_map(config.train_input_reader.label_map_path)
    reader = config.eval_input_reader[0]
    dataset = builder.build_dataset(config, reader, label_map=labels, batch_size=4, is_training=False, seed=0)
    batch = next(iter(dataset))
    tf_keras.utils.set_random_seed(3)
    message = type(config.model)()
    message.CopyFrom(config.model)
    message.ssd.ClearField("loss_normalization")  # whose average starts for larger batches
    model = builder.build_model(message)
    optimizer = builder.OPTIMIZERS["adam_optimizer"](
        config.train_config.optimizer.adam_optimizer,
        schedules.CosineDecayLearningRate(learning_rate_base=3e-3, total_steps=200),
    )
    optimizer.build(model.trainable_variables)
    inputs = model.preprocess(batch.inputs)

    @tf.function(autograph=False)
    def step(i):
        with tf.GradientTape() as tape:
            predictions = model.predict(inputs, training=True, seed=tf.stack([i, 0]))
            total = tf.add_n(list(mean_losses(model, predictions, batch.groundtruth).values()))
        gradients = tape.gradient(total, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return total

    for i in tf.range(200):
        step(i)

    metrics = coco.CocoBoxMetrics(labels.categories)
    detections = model.postprocess(model.predict(inputs, training=False), inputs)
    for i in range(4):
        num, found = int(batch.groundtruth.num_boxes[i]), int(detections.num_detections[i])
        size = np.tile(inputs.true_shapes[i, :2].numpy(), 2)
        metrics.update(
            ImageGroundtruth(
                source_id=str(i),
                boxes=batch.groundtruth.boxes[i, :num].numpy(),
                classes=batch.groundtruth.classes[i, :num].numpy(),
                is_crowd=batch.groundtruth.is_crowd[i, :num].numpy(),
            ),
            ImageDetections(
                boxes=detections.boxes[i, :found].numpy() * size,
                scores=detections.scores[i, :found].numpy(),
                classes=detections.classes[i, :found].numpy(),
            ),
        )
    assert metrics.result()["DetectionBoxes_Precision/mAP@.50IOU"] >= 0.95


def test_a_plan_has_programs_of_the_train_step_and_of_detection(config):
    train, detection = hlo.TrainStep(config), hlo.DetectionStep(config)
    assert detection.state_bytes < train.state_bytes
    program = train.lower(2)
    for name in (b"matching", b"losses", b"ResourceApply"):
        assert name in program, name
    assert b"suppression" in detection.lower(1)
