"""Faster R-CNN and Mask R-CNN on one level: what each head sees, and that all of it trains."""

from __future__ import annotations

import numpy as np
import pytest
import support
import tensorflow as tf

from object_detection_fpn import builder
from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling.detector import mean_losses
from object_detection_fpn.records import Inputs

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

MASKS = """
number_of_stages: 3
second_stage_box_predictor {
  mask_rcnn_box_predictor { predict_instance_masks: true mask_height: 6 mask_width: 6 }
}
"""
EVERY = "first_stage_minibatch_size: 1000 second_stage_batch_size: 40 second_stage_balance_fraction: 1"
SEED = tf.constant([1, 2])
INPUTS = Inputs(
    tf.constant(np.random.RandomState(0).uniform(0, 255, [2, 64, 64, 3]), tf.float32),
    tf.constant([[64, 64, 3], [50, 40, 3]]),
)


@pytest.fixture(scope="module", autouse=True)
def _tiny_backbone():
    with pytest.MonkeyPatch.context() as patch:
        support.put_backbone(patch, support.SINGLE_RESNET18, is_residual=True)
        yield


@pytest.fixture
def groundtruth(make_groundtruth):
    objects = make_groundtruth(
        [{"box": (4, 4, 30, 30), "class": 0}, {"box": (20, 30, 60, 60), "class": 2}],
        [{"box": (10, 5, 45, 40), "class": 1}],
    )
    masks = tf.tile(tf.constant(255 * np.tri(8, dtype=np.uint8))[None, None], [2, 2, 1, 1])
    return objects._replace(masks=masks, mask_frames=objects.boxes)


def build(*changes, **execution):
    model = builder.build_model(support.single_level_message(*changes), execution=Execution(**execution))
    # Untrained, all scores are nearly equal, and rounding would decide their order; features are as large as pixels.
    random = np.random.RandomState(0)
    predictors = [*model.rpn.head.objectness]
    if model.box_head is not None:
        predictors += [model.box_head.class_predictor, model.box_head.box_predictor]
    for predictor in predictors:
        predictor.kernel.assign(random.normal(0, 0.003, predictor.kernel.shape))
    return model


def step(model, groundtruth):
    with tf.GradientTape() as tape:
        predictions = model.predict(model.preprocess(INPUTS), training=True, groundtruth=groundtruth, seed=SEED)
        losses = mean_losses(model, predictions, groundtruth)
        total = tf.add_n(list(losses.values()))
    return predictions, losses, tape.gradient(total, model.trainable_variables)


def test_every_part_of_the_backbone_and_of_the_heads_trains(groundtruth):
    model = build(MASKS, EVERY, "second_stage_matched_threshold: 0.1")
    _, losses, gradients = step(model, groundtruth)
    assert len(losses) == 6
    assert all(np.isfinite(loss) for loss in losses.values())
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None and np.any(gradient != 0), variable.name


def test_boxes_see_the_mean_of_cells_and_masks_the_cells(groundtruth):
    model = build(MASKS, EVERY)
    predictions, _, _ = step(model, groundtruth)
    assert [level.shape for level in predictions.pyramid] == [(2, 4, 4, support.NUM_FILTERS[4])]
    cells = predictions.box.cell_features
    assert cells.shape == (2, 40, 2, 2, support.NUM_FILTERS[5])
    logits = model.box_head.class_predictor(tf.reduce_mean(cells, axis=[2, 3]))
    np.testing.assert_allclose(predictions.box.class_logits, logits, rtol=1e-5, atol=1e-5)
    assert model.mask_head.conv1.conv.kernel.shape[2] == support.NUM_FILTERS[5]


def test_masks_in_training_are_those_of_the_same_regions_pooled_again(groundtruth):
    """The statistics do not move, so that the second stage sees each region alone."""
    model = build(MASKS, EVERY, "second_stage_matched_threshold: 0.1")
    outputs = step(model, groundtruth)[0]
    assert np.sum(outputs.mask.matches >= 0) > 2
    features = model._pool_for_masks(outputs, outputs.mask.boxes)
    classes = model._masks.sampler.classes(outputs.mask.matches, groundtruth)
    logits = model._predict_masks(features, classes, training=False)
    is_real = outputs.mask.matches >= 0
    np.testing.assert_allclose(outputs.mask.logits[is_real], logits[is_real], rtol=1e-4, atol=1e-4)


def test_predictions_of_inference_have_losses_of_masks_too(groundtruth):
    model = build(MASKS, EVERY)
    losses = mean_losses(model, model.predict(model.preprocess(INPUTS), training=False), groundtruth)
    assert all(np.isfinite(loss) for loss in losses.values())


def test_anchors_across_the_border_are_left_out_of_training_alone():
    model = build("number_of_stages: 1", "first_stage_anchor_generator { grid_anchor_generator { scales: 0.1 } }")
    inputs = model.preprocess(INPUTS)
    num_valid = [int(np.sum(model.predict(inputs, training=t).rpn.is_valid)) for t in (True, False)]
    # Around 4 x 4 multiples of 16, from 0 to 48: those on 0 reach beyond the image, others of 16, 32 and 6.4 pixels do not.
    assert num_valid == [3 * 9, 3 * 16]


def test_features_of_detections_keep_their_cells():
    model = build("output_final_box_features: true")
    inputs = model.preprocess(INPUTS)
    detections = model.postprocess(model.predict(inputs, training=False), inputs)
    assert detections.box_features.shape == (2, 10, 2, 2, support.NUM_FILTERS[5])


def test_a_checkpoint_of_a_classifier_gives_both_parts_of_the_backbone():
    model = build()
    assert model.restorable_parts("classification") == ("feature_extractor/backbone", "box_head/feature_extractor")
    assert model.restorable_parts("detection") == ("feature_extractor", "box_head/feature_extractor")
    assert build("number_of_stages: 1").restorable_parts("classification") == ("feature_extractor/backbone",)


def test_the_compiled_step_has_the_losses_and_gradients_of_the_eager_one(groundtruth):
    settings = (MASKS, EVERY, "feature_extractor { batch_norm_trainable: true }")
    eager, static = build(*settings), build(*settings, static=True)
    for ours, theirs in zip(static.variables, eager.variables, strict=True):
        ours.assign(theirs)
    _, losses, gradients = step(eager, groundtruth)
    compiled = tf.function(lambda: step(static, groundtruth)[1:], jit_compile=True, autograph=False)
    compiled_losses, compiled_gradients = compiled()
    for name, loss in losses.items():
        np.testing.assert_allclose(compiled_losses[name], loss, rtol=1e-3, atol=1e-4, err_msg=name)
    for variable, a, b in zip(eager.trainable_variables, compiled_gradients, gradients, strict=True):
        assert np.linalg.norm(a - b) <= 2e-3 * np.linalg.norm(b) + 1e-4, variable.name


def test_one_trace_serves_images_of_every_size():
    model = build(MASKS)

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None, 3], tf.int32)], autograph=False
    )
    def serve(images, true_shapes):
        inputs = model.preprocess(Inputs(images, true_shapes))
        return model.postprocess(model.predict(inputs, training=False), inputs)

    for height, width in ((64, 64), (50, 97)):
        images = tf.constant(np.random.RandomState(1).uniform(0, 255, [1, height, width, 3]), tf.float32)
        shapes = tf.constant([[height, width, 3]])
        inputs = model.preprocess(Inputs(images, shapes))
        expected = model.postprocess(model.predict(inputs, training=False), inputs)
        found = serve(images, shapes)
        assert found.masks.shape == (1, 10, 6, 6)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-4)
        np.testing.assert_allclose(found.masks, expected.masks, atol=1e-4)
