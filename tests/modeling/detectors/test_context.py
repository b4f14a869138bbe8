"""Context R-CNN: regions that look at context, before or after the layers of the box head, with a pyramid and without."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import support
import tensorflow as tf
import tf_keras

from object_detection_fpn import builder
from object_detection_fpn.execution import Execution
from object_detection_fpn.interop import odapi
from object_detection_fpn.modeling.detector import mean_losses
from object_detection_fpn.records import Context, Inputs

RANDOM = np.random.RandomState(0)
INPUTS = Inputs(
    tf.constant(RANDOM.uniform(0, 255, [2, 64, 64, 3]), tf.float32),
    tf.constant([[64, 64, 3], [50, 40, 3]]),
    Context(tf.constant(RANDOM.normal(size=[2, 5, 7]), tf.float32), tf.constant([5, 2])),
)
GROUNDTRUTH = support.make_groundtruth(
    [{"box": (4, 4, 30, 30), "class": 0}, {"box": (20, 30, 60, 60), "class": 2}], [{"box": (10, 5, 45, 40), "class": 1}]
)
# A temperature at which regions of an untrained model look at more than one feature.
CONTEXT = "context_config {{ context_feature_length: 7 attention_bottleneck_dimension: 6 attention_temperature: 1 {} }}".format
POSITIONS = ("attention_position: POST_BOX_CLASSIFIER", "attention_position: POST_RPN")
MESSAGES = {"pyramid": support.model_message, "single level": support.single_level_message}


@functools.lru_cache
def make_model(kind="pyramid", text=CONTEXT("pool_by_level: true"), execution=Execution()):
    with pytest.MonkeyPatch.context() as patch:
        support.put_backbone(patch)
        support.put_backbone(patch, support.SINGLE_RESNET18)
        tf_keras.utils.set_random_seed(0)
        return builder.build_model(MESSAGES[kind](*([text] if text else [])), execution=execution)


def predict(model, inputs=INPUTS, **settings):
    return model.predict(model.preprocess(inputs), **{"training": False} | settings)


def train(model, inputs=INPUTS):
    with tf.GradientTape() as tape:
        predictions = predict(model, inputs, training=True, groundtruth=GROUNDTRUTH, seed=tf.constant([1, 2]))
        losses = mean_losses(model, predictions, GROUNDTRUTH)
        total = tf.add_n(list(losses.values()))
    return losses, tape.gradient(total, model.trainable_variables)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("kind", MESSAGES)
def test_context_changes_classes_and_boxes_and_nothing_before(kind, position):
    model = make_model(kind, CONTEXT(position))
    other = INPUTS._replace(context=INPUTS.context._replace(features=INPUTS.context.features * [[[-1.0]], [[1.0]]]))
    one, two = predict(model), predict(model, other)
    np.testing.assert_array_equal(one.rois.boxes, two.rois.boxes)
    assert np.any(one.box.class_logits[0] != two.box.class_logits[0])
    assert np.any(one.box.box_deltas[0] != two.box.box_deltas[0])
    np.testing.assert_allclose(one.box.class_logits[1], two.box.class_logits[1], atol=1e-5)
    units = model.box_head.feature_extractor.num_units if "BOX" in position else model.feature_extractor.num_filters
    assert one.context.features.shape == (2, 40, units)
    assert one.context.weights.shape == (2, 40, 5)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("kind", MESSAGES)
def test_what_is_found_is_added_at_each_cell(kind, position):
    model = make_model(kind, CONTEXT(position))
    predictions = predict(model)
    pooled, found = predictions.box.roi_features, predictions.context.features
    if "RPN" in position:
        hidden = model.box_head.extract(pooled + found[:, :, None, None], training=False)
    else:
        hidden = model.box_head.extract(pooled, training=False)
        hidden += found[:, :, None, None] if kind == "single level" else found
    if kind == "single level":
        np.testing.assert_allclose(predictions.box.cell_features, hidden, atol=1e-4)
        hidden = tf.reduce_mean(hidden, axis=[2, 3])
    logits = model.box_head.class_predictor(tf.reshape(hidden, [-1, hidden.shape[-1]]))
    np.testing.assert_allclose(predictions.box.class_logits, tf.reshape(logits, [2, 40, 4]), atol=1e-4)


def test_attention_nowhere_has_no_variables_and_needs_no_context():
    model = make_model(text=CONTEXT("attention_position: ATTENTION_DEFAULT"))
    plain = make_model(text="")
    assert model.context_attention is None
    assert [v.shape for v in model.variables] == [v.shape for v in plain.variables]
    assert predict(model, INPUTS._replace(context=None)).context is None


@pytest.mark.parametrize(
    "context, message",
    [
        (None, r"looks at context features; inputs\.context is None\. Allowed: a Context"),
        (Context(tf.zeros([2, 5, 8]), tf.zeros([2], tf.int32)), r"has 8 numbers a feature\. Allowed: 7"),
    ],
)
def test_context_that_is_missing_or_of_another_length_is_refused(context, message):
    with pytest.raises(ValueError, match=message):
        predict(make_model(), INPUTS._replace(context=context))


def test_regions_are_pooled_from_the_finest_level_unless_the_config_says_otherwise():
    finest, by_level = (
        builder.build_roi_pooler(support.model_message(CONTEXT(text), "roi_pooling { canonical_size: 16 }").faster_rcnn)
        for text in ("", "pool_by_level: true")
    )
    boxes = tf.constant([[[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 40.0, 40.0]]])
    size = tf.constant([64, 64])
    assert finest.level_indices(3, boxes, size).numpy().tolist() == [[0, 0]]
    assert by_level.level_indices(3, boxes, size).numpy().tolist() == [[0, 2]]


@pytest.mark.parametrize("kind", MESSAGES)
def test_the_compiled_step_trains_every_weight_of_attention(kind):
    model = make_model(kind, execution=Execution(static=True, jit_compile=True))
    native_losses, native = train(make_model(kind))
    losses, gradients = tf.function(lambda: train(model), jit_compile=True, autograph=False)()
    for name, loss in losses.items():
        np.testing.assert_allclose(loss, native_losses[name], rtol=1e-3, err_msg=name)
    names = [variable.name for variable in model.trainable_variables]
    of_attention = [row for row, name in enumerate(names) if name.startswith("context_attention/")]
    assert len(of_attention) == 16
    for row in of_attention:
        np.testing.assert_allclose(gradients[row], native[row], rtol=1e-2, atol=1e-4, err_msg=names[row])
        assert names[row].endswith("/bias:0") or np.any(gradients[row].numpy() != 0), names[row]


def test_evaluation_has_losses_of_each_image_alone():
    model = make_model()

    def losses(rows):
        context = Context(*(value[rows] for value in INPUTS.context))
        inputs = Inputs(INPUTS.images[rows], INPUTS.true_shapes[rows], context)
        groundtruth = GROUNDTRUTH._replace(
            **{name: value[rows] for name, value in GROUNDTRUTH._asdict().items() if value is not None}
        )
        return model.loss(predict(model, inputs), groundtruth)["Loss/BoxClassifierLoss/classification_loss"].numpy()

    together = losses(slice(0, 2))
    for image in (0, 1):
        np.testing.assert_allclose(losses(slice(image, image + 1)), together[image : image + 1], rtol=1e-4)


def test_fine_tuning_from_detection_weights_leaves_attention_out():
    assert make_model().restorable_parts("detection") == ("feature_extractor", "box_head/feature_extractor")


def test_attention_has_the_names_of_the_object_detection_api():
    names = {name for name in odapi.variables_by_api_path(make_model()) if "context" in name}
    variables = ("projection/kernel", "projection/bias")
    norms = tuple(f"batch_norm/{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance"))
    assert names == {
        f"_context_feature_extract_fn/_{part}_proj/{name}"
        for part in ("query", "key", "val", "feature")
        for name in (*variables, *norms)
    }
