"""Mask R-CNN: the third stage trains on objects, and gives masks to the final detections alone."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import support
import tensorflow as tf
import tf_keras

from object_detection_fpn import builder
from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling.detector import ClassColumns, mean_losses
from object_detection_fpn.modeling.heads.mask import MASK_LOSS
from object_detection_fpn.records import Inputs

HEAD = "second_stage_box_predictor {{ mask_rcnn_box_predictor {{ {} }} }}".format
MASKS = (
    "number_of_stages: 3 add_groundtruth_to_proposals: true mask_targets { threshold: 0.5 }",
    HEAD(
        "predict_instance_masks: true mask_upsampling: TRANSPOSED_CONVOLUTION mask_height: 28 mask_width: 28 "
        "mask_prediction_num_conv_layers: 1"
    ),
)
TRANSFER = HEAD("mask_transfer { classes_with_masks: [1, 3] hidden_units: 4 }")
INPUTS = Inputs(
    tf.constant(np.random.RandomState(0).uniform(0, 255, [2, 64, 64, 3]), tf.float32),
    tf.constant([[64, 64, 3], [50, 40, 3]]),
)
GROUNDTRUTH = support.make_groundtruth(
    [{"box": (4, 4, 30, 30), "class": 0}, {"box": (20, 30, 60, 60), "class": 2}], [{"box": (10, 5, 45, 40), "class": 1}]
)
GROUNDTRUTH = GROUNDTRUTH._replace(
    masks=tf.tile(tf.constant(255 * np.tri(12, dtype=np.uint8))[None, None], [2, 2, 1, 1]),
    mask_frames=GROUNDTRUTH.boxes,
)


@functools.lru_cache
def make_model(*changes, execution=Execution()):
    with pytest.MonkeyPatch.context() as patch:
        support.put_backbone(patch)
        tf_keras.utils.set_random_seed(0)
        return builder.build_model(support.model_message(*MASKS, *changes), execution=execution)


def train(model, groundtruth=GROUNDTRUTH):
    """Predictions, losses, and the gradient of each trained variable by its name."""
    with tf.GradientTape() as tape:
        inputs = model.preprocess(INPUTS)
        predictions = model.predict(inputs, training=True, groundtruth=groundtruth, seed=tf.constant([1, 2]))
        losses = mean_losses(model, predictions, groundtruth)
        total = tf.add_n(list(losses.values()))
    gradients = tape.gradient(total, model.trainable_variables)
    return predictions, losses, {v.name: g for v, g in zip(model.trainable_variables, gradients, strict=True)}


def detect(model, inputs=INPUTS):
    inputs = model.preprocess(inputs)
    return model.postprocess(model.predict(inputs, training=False), inputs)


def test_objects_train_masks():
    model = make_model()
    assert model.num_stages == 3
    predictions, losses, gradients = train(model)
    matches = predictions.mask.matches.numpy()
    assert predictions.mask.logits.shape == (2, matches.shape[1], 28, 28)
    assert set(matches[0]) - {-2} == {0, 1}  # and padding, where the other image has more
    assert set(matches[1]) <= {0, -2}
    assert MASK_LOSS in model.loss_names
    assert losses[MASK_LOSS] > 0
    assert all(gradient is not None for gradient in gradients.values())
    assert np.any(gradients["mask_head/predictor/kernel:0"].numpy()[..., 1] != 0)


def test_fixed_shapes_change_nothing():
    """Where shapes are static there are as many RoIs as can be objects, and XLA compiles the step."""
    model = make_model(execution=Execution(static=True, jit_compile=True))
    _, native_losses, native = train(make_model())
    compiled = tf.function(lambda: train(model)[1:], jit_compile=True)
    losses, gradients = compiled()
    for name, loss in losses.items():
        np.testing.assert_allclose(loss, native_losses[name], rtol=1e-4, err_msg=name)
    for name in ("mask_head/conv1/conv/kernel:0", "mask_head/predictor/bias:0"):
        np.testing.assert_allclose(gradients[name], native[name], atol=1e-4, err_msg=name)


def test_detections_have_the_masks_of_their_boxes_and_classes():
    model = make_model()
    detections = detect(model)
    numbers = detections.num_detections.numpy()
    assert detections.masks.shape == (2, 10, 28, 28)
    for image, number in enumerate(numbers):
        masks = detections.masks.numpy()[image]
        assert np.all(masks[number:] == 0)
        assert np.all((masks[:number] >= 0) & (masks[:number] <= 1))
        assert np.all(np.any(masks[:number] > 0, axis=(1, 2)))
    predictions = model.predict(model.preprocess(INPUTS), training=False)
    assert predictions.mask is None
    pixels = detections.boxes[1:, :2] * tf.constant([50.0, 40.0, 50.0, 40.0])  # of the image without its padding
    alone = predictions._replace(pyramid=tuple(level[1:] for level in predictions.pyramid))
    features = model._pool_for_masks(alone, pixels)
    logits = model._predict_masks(features, detections.classes[1:, :2], training=False)
    np.testing.assert_allclose(detections.masks[1:, :2], tf.sigmoid(logits), atol=1e-4)


def test_images_without_detections_have_empty_masks():
    nothing = "second_stage_post_processing { batch_non_max_suppression { score_threshold: 1 } }"
    detections = detect(make_model(nothing))
    assert detections.num_detections.numpy().tolist() == [0, 0]
    np.testing.assert_array_equal(detections.masks, np.zeros([2, 10, 28, 28]))


def test_images_without_objects_have_no_mask_loss():
    empty = support.make_groundtruth([], [], num_rows=2)
    empty = empty._replace(masks=tf.zeros([2, 2, 12, 12], tf.uint8), mask_frames=empty.boxes)
    _, losses, gradients = train(make_model(), empty)
    assert losses[MASK_LOSS] == 0
    assert np.all(gradients["mask_head/predictor/kernel:0"] == 0)


def test_evaluation_has_a_mask_loss_of_each_image_alone():
    model = make_model("second_stage_matched_threshold: 0.02")

    def losses(rows):
        inputs = model.preprocess(Inputs(INPUTS.images[rows], INPUTS.true_shapes[rows]))
        groundtruth = GROUNDTRUTH._replace(
            **{name: value[rows] for name, value in GROUNDTRUTH._asdict().items() if value is not None}
        )
        return model.loss(model.predict(inputs, training=False), groundtruth)[MASK_LOSS].numpy()

    together = losses(slice(0, 2))
    assert np.any(together > 0)
    for image in (0, 1):
        np.testing.assert_allclose(losses(slice(image, image + 1)), together[image : image + 1], rtol=1e-4)


def test_transferred_masks_train_classes_with_masks_alone():
    model = make_model(TRANSFER)
    predictions, losses, gradients = train(model)
    assert np.all(predictions.mask.matches.numpy()[1] == -2)  # an object of the second class
    assert losses[MASK_LOSS] > 0
    assert np.any(gradients["transfer/fc1/kernel:0"].numpy() != 0)
    assert detect(model).masks.shape == (2, 10, 28, 28)


def test_masks_for_all_classes_train_on_classes_with_masks_alone():
    model = make_model(TRANSFER, HEAD("masks_are_class_agnostic: true"))
    predictions, _, gradients = train(model)
    assert np.all(predictions.mask.matches.numpy()[1] == -2)
    assert gradients["mask_head/predictor/kernel:0"].shape[-1] == 1


def test_transfer_leaves_the_gradients_of_boxes_alone():
    """The mask loss moves no weight of the box head's predictors."""
    of_boxes = {}
    for weight in (0, 100):
        model = make_model(TRANSFER, f"second_stage_mask_prediction_loss_weight: {weight}")
        gradients = train(model)[2]
        of_boxes[weight] = [gradients[f"box_head/{name}/kernel:0"] for name in ("class_predictor", "box_predictor")]
    for one, other in zip(of_boxes[0], of_boxes[100], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    "changes, columns",
    [
        ((), ClassColumns(num_columns=1, has_background=False)),
        ((HEAD("masks_are_class_agnostic: true"),), ClassColumns(num_columns=0, has_background=False)),
        ((TRANSFER,), None),
    ],
)
def test_which_variables_are_of_classes(changes, columns):
    assert make_model(*changes).class_columns().get("mask_head/predictor") == columns


def test_fine_tuning_from_detection_weights_leaves_the_mask_head_out():
    parts = make_model().restorable_parts("detection")
    assert parts == ("feature_extractor", "box_head/feature_extractor")
