"""RetinaNet: what its head shares, what its losses are divided by, what it detects, and that all of it trains."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import support
import tensorflow as tf
import tf_keras

from object_detection_fpn import builder
from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import loss_normalization
from object_detection_fpn.modeling.detector import mean_losses
from object_detection_fpn.records import Inputs
from object_detection_fpn.training.weights import variables_by_path

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

HEAD = "box_predictor {{ weight_shared_convolutional_box_predictor {{ {} }} }}".format
NORMS = HEAD("conv_hyperparams { batch_norm { decay: 0 } }")
LOCALIZATION, CLASSIFICATION = "Loss/localization_loss", "Loss/classification_loss"
SEED = tf.constant([1, 2])
INPUTS = Inputs(
    tf.constant(np.random.RandomState(0).uniform(0, 255, [2, 64, 64, 3]), tf.float32),
    tf.constant([[64, 64, 3], [50, 40, 3]]),
)


@pytest.fixture(scope="module", autouse=True)
def _tiny_backbone():
    with pytest.MonkeyPatch.context() as patch:
        support.put_backbone(patch, support.SSD_RESNET18, is_residual=True)
        yield


GROUNDTRUTH = support.make_groundtruth(
    [{"box": (4, 4, 30, 30), "class": 0}, {"box": (20, 30, 60, 60), "class": 2}],
    [{"box": (10, 5, 45, 40), "class": 1}],
)


def build(*changes, **execution):
    tf_keras.utils.set_random_seed(0)
    model = builder.build_model(support.retinanet_message(*changes), execution=Execution(**execution))
    # Untrained, all scores are nearly equal, and rounding would decide their order.
    random = np.random.RandomState(0)
    for predictor in (model.dense_head.class_predictor, model.dense_head.box_predictor):
        predictor.kernel.assign(random.normal(0, 0.003, predictor.kernel.shape))
    return model


def predict(model, *, training=False, inputs=INPUTS):
    return model.predict(model.preprocess(inputs), training=training, seed=SEED)


def detect(model):
    return model.postprocess(predict(model), INPUTS)


def train(model, inputs=INPUTS, groundtruth=GROUNDTRUTH):
    with tf.GradientTape() as tape:
        losses = mean_losses(model, predict(model, training=True, inputs=inputs), groundtruth)
        total = tf.add_n(list(losses.values()))
    return losses, tape.gradient(total, model.trainable_variables)


# The head -------------------------------------------------------------------------------------------------------------


def test_kernels_are_shared_and_normalizations_belong_to_a_level():
    names = {name for name in variables_by_path(build(NORMS)) if name.startswith("dense_head")}
    kernels = {f"dense_head/{tower}/convs/0/kernel" for tower in ("box_tower", "class_tower")}
    kernels |= {
        f"dense_head/{name}/{kind}" for name in ("box_predictor", "class_predictor") for kind in ("kernel", "bias")
    }
    assert {name for name in names if "norms" not in name} == kernels
    assert {name for name in names if name.endswith("moving_mean")} == {
        f"dense_head/{tower}/norms/{level}/0/moving_mean"
        for tower in ("box_tower", "class_tower")
        for level in range(3)
    }


def test_statistics_of_a_level_are_those_of_its_features():
    model = build(NORMS)
    predict(model, training=True)
    means = [norms[0].moving_mean.numpy() for norms in model.dense_head.box_tower.norms]
    assert all(np.any(np.abs(mean - other) > 1e-6) for mean, other in itertools.pairwise(means))


def test_one_normalization_may_serve_all_levels():
    tower = build(NORMS, HEAD("share_norms: true")).dense_head.box_tower
    assert [len(norms) for norms in tower.norms] == [1]


def test_one_tower_may_serve_both_predictors():
    assert build(HEAD("share_prediction_tower: true")).dense_head.class_tower is None


def test_the_background_may_have_no_column():
    model = build("add_background_class: false")
    outputs = predict(model).dense
    assert outputs.class_logits.shape[-1] == 3
    detections = detect(model)
    assert detections.class_scores.shape[-1] == 4
    np.testing.assert_array_equal(detections.class_scores[..., 0], 0.0)
    n = int(detections.num_detections[0])
    best = tf.gather(detections.class_scores[0, :n, 1:], detections.classes[0, :n], batch_dims=1)
    np.testing.assert_array_equal(best, detections.scores[0, :n])


def test_all_classes_start_from_the_bias():
    model = builder.build_model(support.retinanet_message(HEAD("class_prediction_bias_init: -4.6")))
    np.testing.assert_allclose(model.dense_head.class_predictor.bias, -4.6)
    model.dense_head.class_predictor.kernel.assign(tf.zeros_like(model.dense_head.class_predictor.kernel))
    np.testing.assert_allclose(tf.sigmoid(predict(model).dense.class_logits), 0.01, atol=1e-4)


def test_anchors_leave_the_middle_of_cells_whose_stride_does_not_divide_the_image():
    model = build(
        "feature_extractor { fpn { max_level: 6 } } anchor_generator { multiscale_anchor_generator { max_level: 6 } }",
        "image_resizer { fixed_shape_resizer { height: 96 width: 96 } }",
    )
    images = tf.zeros([1, 96, 96, 3])
    outputs = model.predict(Inputs(images, tf.constant([[96, 96, 3]])), training=False).dense
    centers = (outputs.anchors[:, :2] + outputs.anchors[:, 2:]) / 2
    np.testing.assert_array_equal(centers[0], [4.0, 4.0])  # level 3
    np.testing.assert_array_equal(centers[-1], [64.0, 64.0])  # level 6: the second cell of 64 pixels, from its corner


# Losses ---------------------------------------------------------------------------------------------------------------


def sums(model, predictions):
    """Sums of the losses of each image, and its matches."""
    plain = build("normalize_loss_by_num_matches: false")
    losses = plain.loss(predictions._replace(seed=None), GROUNDTRUTH)
    matches = model._matcher(predictions.dense.anchors, GROUNDTRUTH)
    return losses, tf.reduce_sum(matches.box_weights, axis=1)


def test_the_batch_is_divided_by_all_its_matches():
    model = build()
    predictions = predict(model, training=True)
    losses, (of_images, matches) = mean_losses(model, predictions, GROUNDTRUTH), sums(model, predictions)
    assert matches[0] > matches[1] >= 1
    for name in (LOCALIZATION, CLASSIFICATION):
        np.testing.assert_allclose(losses[name], tf.reduce_sum(of_images[name]) / tf.reduce_sum(matches), rtol=1e-5)


def test_outside_of_training_an_image_counts_alone():
    model = build()
    predictions = predict(model)
    losses, (of_images, matches) = model.loss(predictions, GROUNDTRUTH), sums(model, predictions)
    np.testing.assert_allclose(losses[CLASSIFICATION], of_images[CLASSIFICATION] / matches, rtol=1e-5)


def test_images_may_be_divided_by_their_own_matches():
    model = build("loss_normalization: PER_IMAGE")
    predictions = predict(model, training=True)
    losses, (of_images, matches) = model.loss(predictions, GROUNDTRUTH), sums(model, predictions)
    np.testing.assert_allclose(losses[LOCALIZATION], of_images[LOCALIZATION] / matches, rtol=1e-5)


def test_the_moving_average_of_matches_moves_in_training_only():
    model = build("loss_normalization: MOVING_AVERAGE")
    average = model.dense_head.loss_normalizer
    assert not average.trainable
    assert float(average) == loss_normalization.FIRST_AVERAGE == 100.0
    predictions = predict(model)
    _, matches = sums(model, predictions)
    model.loss(predictions, GROUNDTRUTH)
    assert float(average) == 100.0
    predictions = predict(model, training=True)
    losses, (of_images, _) = mean_losses(model, predictions, GROUNDTRUTH), sums(model, predictions)
    expected = 0.9 * 100.0 + 0.1 * float(tf.reduce_sum(matches))
    np.testing.assert_allclose(average, expected, rtol=1e-6)
    np.testing.assert_allclose(losses[LOCALIZATION], tf.reduce_sum(of_images[LOCALIZATION]) / expected, rtol=1e-5)


def test_an_empty_image_has_a_classification_loss_and_no_other():
    empty = support.make_groundtruth([], [], num_rows=2)
    losses, gradients = train(build(), groundtruth=empty)
    assert losses[LOCALIZATION] == 0.0
    assert losses[CLASSIFICATION] > 0.0
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)


def test_objects_in_crowds_and_without_weight_do_not_train():
    boxes = GROUNDTRUTH.boxes
    crowd = GROUNDTRUTH._replace(is_crowd=tf.ones(boxes.shape[:2], tf.bool), weights=tf.zeros(boxes.shape[:2]))
    losses, _ = train(build(), groundtruth=crowd)
    assert losses[LOCALIZATION] == 0.0


@pytest.mark.parametrize(
    "changes",
    [
        [NORMS],
        [NORMS, "loss { localization_loss { weighted_giou { } } }", "add_background_class: false"],
        [NORMS, "loss_normalization: MOVING_AVERAGE low_quality_matches: ALL_ANCHORS"],
        [
            "feature_extractor { fpn { max_level: 7 style: PAPER coarse_levels: CONV_OF_C5 } }",
            "anchor_generator { multiscale_anchor_generator { max_level: 7 } }",
            HEAD("depth: 32 conv_hyperparams { group_norm { } } share_norms: true"),
            "loss { localization_loss { l1_localization_loss { } } } loss_normalization: PER_IMAGE",
        ],
    ],
)
def test_everything_trains_and_the_compiled_step_has_the_same_gradients(changes):
    model, static = build(*changes), build(*changes, static=True)
    for ours, theirs in zip(static.variables, model.variables, strict=True):
        ours.assign(theirs)
    losses, gradients = train(model)
    compiled = tf.function(lambda: train(static), jit_compile=True, autograph=False)
    compiled_losses, compiled_gradients = compiled()
    for name, loss in losses.items():
        np.testing.assert_allclose(compiled_losses[name], loss, rtol=1e-4, err_msg=name)
    for variable, a, b in zip(model.trainable_variables, compiled_gradients, gradients, strict=True):
        assert np.all(np.isfinite(a)), variable.name
        assert np.linalg.norm(a - b) <= 1e-3 * np.linalg.norm(b) + 1e-5, variable.name
    assert sum(np.any(gradient != 0) for gradient in gradients) >= 0.9 * len(gradients)


def test_bfloat16_keeps_boxes_and_losses_in_float32():
    model = build(NORMS, dtype="mixed_bfloat16")
    outputs = predict(model, training=True).dense
    assert {value.dtype for value in outputs} == {tf.float32}
    losses, _ = train(model)
    exact, _ = train(build(NORMS))
    for name, loss in losses.items():
        np.testing.assert_allclose(loss, exact[name], rtol=0.1, atol=0.02, err_msg=name)


# Detections -----------------------------------------------------------------------------------------------------------


def test_detections_are_the_same_compiled():
    model, static = build(), build(static=True)
    for ours, theirs in zip(static.variables, model.variables, strict=True):
        ours.assign(theirs)
    detections = detect(model)
    compiled = tf.function(lambda: detect(static), jit_compile=True, autograph=False)()
    assert np.all(detections.num_detections > 2)
    for name in ("boxes", "scores", "classes", "num_detections", "raw_boxes"):
        np.testing.assert_allclose(getattr(compiled, name), getattr(detections, name), atol=1e-4, err_msg=name)


def test_raw_detections_are_those_of_all_anchors_relative_to_the_padded_image():
    model = build()
    predictions, detections = predict(model), detect(model)
    decoded = model._postprocessor.coder.decode(predictions.dense.box_deltas, predictions.dense.anchors[None])
    np.testing.assert_allclose(detections.raw_boxes, decoded / 64.0, rtol=1e-5)
    assert detections.raw_class_scores.shape == (2, len(predictions.dense.anchors), 4)


def test_pairs_of_each_level_may_be_limited():
    model = build("max_candidates_per_level: 1")
    detections = detect(model)
    assert np.all(detections.num_detections <= 3)
    scores = tf.sigmoid(predict(model).dense.class_logits)[..., 1:]
    best = tf.reduce_max(scores, axis=[1, 2])
    np.testing.assert_allclose(detections.scores[:, 0], best, rtol=1e-6)


def test_the_background_may_compete_with_the_classes():
    model, competing = build(), build("background_competes: true")
    outputs = predict(model)
    raised = outputs.dense.class_logits + tf.constant([9.0, 0.0, 0.0, 0.0])  # all that fits is background
    outputs = outputs._replace(dense=outputs.dense._replace(class_logits=raised))
    assert np.all(model.postprocess(outputs, INPUTS).num_detections > 2)
    np.testing.assert_array_less(
        competing.postprocess(outputs, INPUTS).num_detections, model.postprocess(outputs, INPUTS).num_detections
    )
    lowered = outputs._replace(dense=outputs.dense._replace(class_logits=raised - tf.constant([99.0, 0.0, 0.0, 0.0])))
    wanted, found = model.postprocess(lowered, INPUTS), competing.postprocess(lowered, INPUTS)
    for name in ("boxes", "scores", "classes", "num_detections", "roi_indices", "class_scores"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), err_msg=name)


def test_restorable_parts_are_those_of_the_object_detection_api():
    model = build()
    assert model.restorable_parts("classification") == ("feature_extractor/backbone",)
    assert model.restorable_parts("detection") == ("feature_extractor",)
    assert model.restorable_parts("full") is None


def test_columns_of_classes_repeat_for_each_anchor():
    model = build()
    columns = model.class_columns()["dense_head/class_predictor"]
    width = model.dense_head.class_predictor.kernel.shape[-1]
    assert (3 + columns.has_background) * columns.num_columns * columns.num_groups == width
