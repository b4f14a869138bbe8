"""The meta-architecture: its four verbs, its losses in corner cases, its variables."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import hard_examples, layers
from object_detection_fpn.modeling import pooler as roi
from object_detection_fpn.modeling.detector import mean_losses
from object_detection_fpn.modeling.heads import box
from object_detection_fpn.records import Inputs

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

RPN_LOSSES = {"Loss/RPNLoss/localization_loss", "Loss/RPNLoss/objectness_loss"}
BOX_LOSSES = {"Loss/BoxClassifierLoss/localization_loss", "Loss/BoxClassifierLoss/classification_loss"}
REGULARIZATION = "Loss/regularization_loss"
SEED = tf.constant([1, 2])


def random_images(height=64, width=64, batch=2):
    return tf.constant(np.random.RandomState(0).uniform(0, 255, [batch, height, width, 3]), tf.float32)


IMAGES = random_images()
TRUE_SHAPES = tf.constant([[64, 64, 3], [50, 40, 3]])
INPUTS = Inputs(IMAGES, TRUE_SHAPES)


@pytest.fixture
def groundtruth(make_groundtruth):
    return make_groundtruth(
        [{"box": (4, 4, 30, 30), "class": 0}, {"box": (20, 30, 60, 60), "class": 2}],
        [{"box": (10, 5, 45, 40), "class": 1}],
    )


def step(model, groundtruth, seed=SEED):
    with tf.GradientTape() as tape:
        predictions = model.predict(model.preprocess(INPUTS), training=True, groundtruth=groundtruth, seed=seed)
        values = mean_losses(model, predictions, groundtruth)
        total = tf.add_n(list(values.values()))
    return predictions, values, tape.gradient(total, model.trainable_variables)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_preprocessing_subtracts_the_channel_means_of_rgb(model, dtype):
    images = tf.cast(tf.fill([1, 2, 2, 3], 200), dtype)
    result = model.preprocess(Inputs(images, TRUE_SHAPES[:1])).images
    assert result.dtype == tf.float32
    np.testing.assert_allclose(result[0, 1, 1], [200 - 123.68, 200 - 116.779, 200 - 103.939], rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels_stay_as_they_are(model, channels):
    images = tf.fill([1, 2, 2, channels], tf.constant(7, tf.uint8))
    result = model.preprocess(Inputs(images, TRUE_SHAPES[:1])).images
    assert result.dtype == tf.float32
    np.testing.assert_array_equal(result, images)


def test_predictions_of_inference_are_of_all_proposals(model):
    predictions = model.predict(INPUTS, training=False)
    assert predictions.image_size.numpy().tolist() == [64, 64]
    assert [tuple(level.shape) for level in predictions.pyramid] == [(2, 64 >> i, 64 >> i, 8) for i in range(2, 7)]
    num_anchors = 2 * sum((64 >> i) ** 2 for i in range(2, 7))
    assert predictions.rpn.anchors.shape == (num_anchors, 4)
    assert predictions.rois.boxes.shape == (2, 24, 4)
    assert predictions.box.class_logits.shape == (2, 24, 4)
    assert predictions.box.box_deltas.shape == (2, 24, 3, 4)
    assert predictions.box.roi_features.shape == (2, 24, 3, 3, 8)
    proposals = model.rpn.propose(predictions.rpn, predictions.pyramid, TRUE_SHAPES, training=True)
    np.testing.assert_array_equal(predictions.rois.boxes, proposals.boxes)


def test_predictions_of_training_are_of_sampled_proposals(model, groundtruth):
    predictions, _, _ = step(model, groundtruth)
    proposals = model.rpn.propose(predictions.rpn, predictions.pyramid, TRUE_SHAPES, training=True).boxes.numpy()
    assert predictions.rois.boxes.shape == (2, 12, 4)
    assert predictions.box.class_logits.shape == (2, 12, 4)
    for i in range(2):
        rois = predictions.rois.boxes.numpy()[i, : int(predictions.rois.num_proposals[i])]
        assert {tuple(roi) for roi in rois} <= {tuple(proposal) for proposal in proposals[i]}
    np.testing.assert_array_equal(predictions.seed, SEED)


def test_training_without_groundtruth_is_refused(model):
    with pytest.raises(ValueError, match=r"predict\(training=True\) needs groundtruth"):
        model.predict(INPUTS, training=True)


def test_the_seed_defaults_to_zeros(model, groundtruth):
    default, values, _ = step(model, groundtruth, seed=None)
    zeros, zeros_values, _ = step(model, groundtruth, seed=tf.constant([0, 0]))
    np.testing.assert_array_equal(default.rois.boxes, zeros.rois.boxes)
    assert values == zeros_values


def test_losses_have_the_names_of_the_object_detection_api(model, groundtruth):
    _, values, gradients = step(model, groundtruth)
    assert set(values) == RPN_LOSSES | BOX_LOSSES | {REGULARIZATION}
    assert all(value.shape == () and np.isfinite(value) for value in values.values())
    assert all(gradient is not None for gradient in gradients)
    assert float(values[REGULARIZATION]) == 0.0


def test_regularization_is_the_sum_over_all_layers(make_model, groundtruth):
    model = make_model(spec=layers.LayerSpec(regularizer=tf_keras.regularizers.L2(0.01)))
    _, values, _ = step(model, groundtruth)
    plain = [model.box_head.feature_extractor.fc1.kernel, model.box_head.feature_extractor.fc2.kernel]
    kernels = [v for v in model.trainable_variables if "kernel" in v.name and all(v is not other for other in plain)]
    expected = sum(0.01 * float(tf.reduce_sum(kernel**2)) for kernel in kernels)
    np.testing.assert_allclose(values[REGULARIZATION], expected, rtol=1e-5)


@pytest.mark.parametrize("num_images_with_boxes", [0, 1])
def test_images_without_groundtruth_train_on_background(model, make_groundtruth, num_images_with_boxes):
    boxes = [{"box": (4, 4, 30, 30)}]
    _, values, gradients = step(model, make_groundtruth([], boxes if num_images_with_boxes else []))
    assert all(np.all(np.isfinite(gradient)) for gradient in map(tf.convert_to_tensor, gradients))
    assert values["Loss/RPNLoss/objectness_loss"] > 0
    assert values["Loss/BoxClassifierLoss/classification_loss"] > 0
    if num_images_with_boxes == 0:
        assert values["Loss/RPNLoss/localization_loss"] == 0
        assert values["Loss/BoxClassifierLoss/localization_loss"] == 0


def test_images_without_proposals_train_the_rpn_alone(make_model, groundtruth):
    model = make_model(nms_score_threshold=1.0)
    predictions, values, gradients = step(model, groundtruth)
    assert predictions.rois.num_proposals.numpy().tolist() == [0, 0]
    assert [float(values[name]) for name in BOX_LOSSES] == [0.0, 0.0]
    assert values["Loss/RPNLoss/objectness_loss"] > 0
    assert all(np.all(np.isfinite(tf.convert_to_tensor(gradient))) for gradient in gradients)
    detections = model.postprocess(model.predict(INPUTS, training=False), INPUTS)
    assert detections.num_detections.numpy().tolist() == [0, 0]
    assert all(np.all(np.isfinite(values)) for values in detections if values is not None)


def test_groundtruth_without_weight_moves_no_box(model, groundtruth):
    _, values, _ = step(model, groundtruth._replace(weights=tf.zeros_like(groundtruth.weights)))
    assert values["Loss/RPNLoss/localization_loss"] == 0
    assert values["Loss/BoxClassifierLoss/localization_loss"] == 0


def test_evaluation_losses_are_of_all_proposals(model, groundtruth):
    predictions = model.predict(INPUTS, training=False)
    values = model.loss(predictions, groundtruth)
    assert tuple(values) == model.loss_names and set(values) == RPN_LOSSES | BOX_LOSSES
    targets = model._roi_sampler.targets(predictions.rois, groundtruth)
    outputs = predictions.box
    expected = box.BoxLoss()(outputs.class_logits, outputs.box_deltas, targets, predictions.rois, is_batch=False)
    for name in BOX_LOSSES:
        np.testing.assert_array_equal(values[name], expected[name])


def test_evaluation_losses_of_an_image_are_those_of_a_batch_of_one(make_model, groundtruth):
    model = make_model(num_samples=8)  # far fewer than there are anchors: which ones is drawn
    together = model.loss(model.predict(model.preprocess(INPUTS), training=False), groundtruth)
    for i in range(2):
        inputs, alone = (
            type(record)(*(None if field is None else field[i : i + 1] for field in record))
            for record in (INPUTS, groundtruth)
        )
        values = model.loss(model.predict(model.preprocess(inputs), training=False), alone)
        for name in model.loss_names:
            assert together[name].shape == [2]
            np.testing.assert_allclose(together[name][i], values[name][0], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("training", [False, True])
def test_images_are_a_batch_in_training_alone(model, groundtruth, monkeypatch, training):
    predictions = model.predict(model.preprocess(INPUTS), training=training, groundtruth=groundtruth)
    few = tf.constant([3, 9], tf.int32)  # RoIs, of images whose loss in a batch is divided by 6
    predictions = predictions._replace(rois=predictions.rois._replace(num_proposals=few))
    alone = model.loss(predictions, groundtruth)
    monkeypatch.setattr(model.box_head, "_loss", box.BoxLoss(normalization="BATCH"))
    together = model.loss(predictions, groundtruth)
    for name in BOX_LOSSES:
        expected = alone[name] * ([0.5, 1.5] if training else 1.0)
        np.testing.assert_allclose(together[name], expected, rtol=1e-5, err_msg=name)


def test_detections_lie_in_the_true_images(model):
    detections = model.postprocess(model.predict(INPUTS, training=False), INPUTS)
    assert detections.boxes.shape == (2, 8, 4)
    assert np.all((detections.boxes >= 0) & (detections.boxes <= 1))
    assert np.all(detections.num_detections > 0)
    assert set(np.unique(detections.classes)) <= {0, 1, 2}
    assert np.all(np.diff(detections.scores) <= 0)


def test_one_stage_proposes_and_has_the_losses_of_the_rpn(make_model, groundtruth):
    model = make_model(num_stages=1)
    assert (model.num_stages, model.box_head, model.roi_pooler) == (1, None, None)
    predictions, values, gradients = step(model, groundtruth)
    assert set(values) == RPN_LOSSES | {REGULARIZATION}
    assert all(gradient is not None for gradient in gradients)
    assert predictions.box is None
    detections = model.postprocess(predictions, INPUTS)
    np.testing.assert_array_equal(detections.scores, predictions.rois.scores)
    assert not np.any(detections.classes)
    model.predict(INPUTS, training=True)  # needs no groundtruth


def test_rois_are_cropped_where_they_lie_whatever_the_padding(model):
    """Images of 50 x 70 are padded to 64 x 96 inside; their RoIs see what they see in images padded before."""
    images, shapes = random_images(50, 70), tf.constant([[50, 70, 3]] * 2)
    predictions = model.predict(Inputs(images, shapes), training=False)
    padded = tf.pad(images, [[0, 0], [0, 14], [0, 26], [0, 0]])
    pyramid = model.feature_extractor(padded, training=False)
    expected = model.roi_pooler(pyramid, predictions.rois.boxes, tf.constant([64, 96]))
    np.testing.assert_allclose(predictions.box.roi_features, expected, atol=1e-5)
    assert predictions.image_size.numpy().tolist() == [50, 70]


def test_a_shared_box_has_one_delta(make_model, groundtruth):
    model = make_model(share_box_across_classes=True)
    predictions, values, _ = step(model, groundtruth)
    assert predictions.box.box_deltas.shape == (2, 12, 1, 4)
    assert np.isfinite(values["Loss/BoxClassifierLoss/localization_loss"])
    assert model.postprocess(predictions, INPUTS).boxes.shape == (2, 8, 4)


def test_every_variable_exists_once_after_construction(make_model, groundtruth):
    model = make_model(spec=layers.LayerSpec(norm=layers.BatchNormSpec(scale=True)))
    before = [id(v) for v in model.variables]
    assert len(set(before)) == len(before)
    step(model, groundtruth)
    model.postprocess(model.predict(INPUTS, training=False), INPUTS)
    assert [id(v) for v in model.variables] == before


def test_outputs_that_are_compared_or_are_pixels_stay_float32_under_bfloat16(make_model, groundtruth):
    model = make_model(spec=layers.LayerSpec(norm=layers.BatchNormSpec(), execution=Execution(dtype="mixed_bfloat16")))
    predictions, values, gradients = step(model, groundtruth)
    assert {level.dtype for level in predictions.pyramid} == {tf.bfloat16}
    for tensor in (
        *predictions.rpn[:3],
        *predictions.rois[:2],
        predictions.box.class_logits,
        predictions.box.box_deltas,
    ):
        assert tensor.dtype == tf.float32
    assert {value.dtype for value in values.values()} == {tf.float32}
    assert {gradient.dtype for gradient in gradients} == {tf.float32}


# Hard examples --------------------------------------------------------------------------------------------------------


def test_with_a_miner_all_proposals_train(make_model, groundtruth):
    model = make_model(num_rois=None, miner=hard_examples.HardExampleMiner(num_examples=4))
    predictions, _, gradients = step(model, groundtruth)
    np.testing.assert_array_equal(
        predictions.rois.boxes,
        model.rpn.propose(predictions.rpn, predictions.pyramid, TRUE_SHAPES, training=True).boxes,
    )
    assert all(np.all(np.isfinite(tf.convert_to_tensor(gradient))) for gradient in gradients)
    # An untrained model finds nothing, so that what it proposes has to be there.
    there = groundtruth._replace(boxes=predictions.rois.boxes[:, 3:5], num_boxes=tf.constant([2, 2]))
    there = there._replace(weights=tf.ones([2, 2]))
    values = mean_losses(model, predictions, there)
    targets = model._roi_sampler.targets(predictions.rois, there)
    outputs = predictions.box
    everything = box.BoxLoss()(outputs.class_logits, outputs.box_deltas, targets, predictions.rois, is_batch=True)
    everything = {name: tf.reduce_mean(loss) for name, loss in everything.items()}
    assert 0 < values[box.LOCALIZATION_LOSS] <= everything[box.LOCALIZATION_LOSS]
    assert 0 < values[box.CLASSIFICATION_LOSS] < everything[box.CLASSIFICATION_LOSS]


def test_mining_compiles(make_model, groundtruth):
    mining = {"num_rois": None, "max_proposals": 12}
    native = make_model(**mining, miner=hard_examples.HardExampleMiner(num_examples=4, max_negatives_per_positive=3.0))
    static = make_model(
        **mining,
        miner=hard_examples.HardExampleMiner(num_examples=4, max_negatives_per_positive=3.0, static=True),
        execution=Execution(static=True),
    )
    for ours, theirs in zip(static.variables, native.variables, strict=True):
        ours.assign(theirs)
    # The samplers of graphs and of XLA draw other anchors; the losses of the second stage have nothing random.
    compiled = tf.function(lambda: step(static, groundtruth)[1:], jit_compile=True, autograph=False)
    values, gradients = compiled()
    _, expected, _ = step(native, groundtruth)
    for name in BOX_LOSSES:
        np.testing.assert_allclose(values[name], expected[name], rtol=1e-4)
    assert all(np.all(np.isfinite(tf.convert_to_tensor(gradient))) for gradient in gradients)


# Soft targets ---------------------------------------------------------------------------------------------------------


def test_class_scores_of_the_groundtruth_change_the_second_stage_alone(model, groundtruth):
    hard = tf.one_hot(groundtruth.classes + 1, 4)
    predictions = model.predict(INPUTS, training=True, groundtruth=groundtruth, seed=SEED)
    plain = mean_losses(model, predictions, groundtruth)
    same = mean_losses(model, predictions, groundtruth._replace(class_scores=hard))
    soft = mean_losses(model, predictions, groundtruth._replace(class_scores=0.7 * hard + 0.1))
    classification = "Loss/BoxClassifierLoss/classification_loss"
    for name in plain:
        np.testing.assert_allclose(same[name], plain[name], rtol=1e-6)
        assert (soft[name] != plain[name]) == (name == classification), name


# Outputs that are asked for -------------------------------------------------------------------------------------------


def test_nothing_more_is_told_unasked(model):
    predictions = model.predict(INPUTS, training=False)
    detections = model.postprocess(predictions, INPUTS)
    assert (predictions.box.raw_boxes, predictions.box.raw_level_indices) == (None, None)
    assert (detections.box_features, detections.roi_features) == (None, None)


def test_raw_detections_are_the_boxes_of_every_class_before_suppression(make_model):
    model = make_model(outputs=("raw_detections",))
    predictions = model.predict(INPUTS, training=False)
    detections = model.postprocess(predictions, INPUTS)
    assert predictions.box.raw_boxes.shape == (2, 24, 3, 4)
    for image in range(2):
        for d in range(int(detections.num_detections[image])):
            raw = predictions.box.raw_boxes[image, detections.roi_indices[image, d], detections.classes[image, d]]
            np.testing.assert_allclose(detections.boxes[image, d], raw, atol=1e-5)
    # Small images have their RoIs on the finest levels.
    assert set(np.unique(predictions.box.raw_level_indices)) <= {0, 1}
    assert predictions.box.raw_level_indices.shape == (2, 24)


def test_features_of_detections_are_those_of_their_boxes(make_model):
    model = make_model(outputs=("box_features", "roi_features"))
    predictions = model.predict(INPUTS, training=False)
    detections = model.postprocess(predictions, INPUTS)
    assert detections.box_features.shape == (2, 8, 1, 1, 16)
    assert detections.roi_features.shape == (2, 8, 3, 3, 8)
    # The second image is padded: its boxes are shares of 50 x 40 pixels.
    pixels = detections.boxes * [[[64, 64, 64, 64]], [[50, 40, 50, 40]]]
    pooled = model.roi_pooler(predictions.pyramid, pixels, tf.constant([64, 64]))
    np.testing.assert_allclose(detections.roi_features, pooled, atol=1e-5)
    hidden = model.box_head.feature_extractor(tf.reshape(pooled, [-1, 3, 3, 8]), training=False)
    np.testing.assert_allclose(tf.reshape(detections.box_features, [16, 16]), hidden, atol=1e-5)


def test_unknown_outputs_are_refused(make_model):
    with pytest.raises(ValueError, match=r"outputs = \['masks'\] are unknown. Allowed: raw_detections, box_features"):
        make_model(outputs=("masks",))


# Cropping -------------------------------------------------------------------------------------------------------------


def test_every_way_of_cropping_gives_the_same_since_rois_lie_in_the_image(model):
    """What `use_matmul_crop_and_resize` chose differs beyond the border of the image only."""
    predictions = model.predict(INPUTS, training=False)
    boxes = predictions.rois.boxes.numpy()
    limits = TRUE_SHAPES.numpy()[:, None, :2]
    assert np.all(boxes[..., :2] >= 0) and np.all(boxes[..., 2:] <= limits)
    assert np.any(boxes[..., 2:] == limits)  # some end right on the border
    static = roi.RoIPooler(crop_size=6, execution=Execution(static=True))
    crops = static(predictions.pyramid, predictions.rois.boxes, tf.constant([64, 64]))
    np.testing.assert_allclose(predictions.box.roi_features, crops, atol=1e-5 * np.abs(crops).max())


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_boxes_beyond_pixel_512_are_exact_in_16_bits(make_model, make_groundtruth, dtype):
    # bfloat16 knows every fourth pixel there, float16 every half one.
    objects = [
        {"box": (513.125, 517.375, 771.625, 829.875), "class": 1},
        {"box": (601.0625, 35.8125, 1001.1875, 222.3125), "class": 2},
    ]
    groundtruth = make_groundtruth(objects)
    inputs = Inputs(tf.zeros([1, 1024, 1024, 3]), tf.constant([[1021, 1019, 3]]))
    found = {}
    for policy in ("float32", dtype):
        model = make_model(spec=layers.LayerSpec(execution=Execution(dtype=policy)))
        # Without kernels both models say the same of every anchor and RoI; what differs comes from the coordinates.
        for predictor in (*model.rpn.head.objectness, *model.rpn.head.deltas):
            predictor.kernel.assign(tf.zeros_like(predictor.kernel))
        for predictor in (model.box_head.class_predictor, model.box_head.box_predictor):
            predictor.kernel.assign(tf.zeros_like(predictor.kernel))
        model.rpn.head.objectness[-1].bias.assign([0.0, 5.0] * 2)  # the anchors of the coarsest level propose first
        seed = tf.constant([3, 4])
        trained = model.predict(inputs, training=True, groundtruth=groundtruth, seed=seed)
        served = model.predict(inputs, training=False)
        found[policy] = {
            "proposals": served.rois.boxes,
            "rois": trained.rois.boxes,
            "detections": model.postprocess(served, inputs).boxes,
            **mean_losses(model, trained, groundtruth),
        }
    assert found["float32"]["Loss/RPNLoss/localization_loss"] > 0.0
    boxes = found["float32"]["proposals"].numpy()
    rounded = tf.cast(tf.cast(boxes, dtype.removeprefix("mixed_")), tf.float32).numpy()
    assert np.count_nonzero((boxes > 512.0) & (boxes != rounded)) > 4
    for name, value in found["float32"].items():
        np.testing.assert_array_equal(found[dtype][name], value, err_msg=name)
