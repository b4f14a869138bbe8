"""The box head: shapes, shared boxes, dropout, normalization, precision."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import layers
from object_detection_fpn.modeling.heads import box

FEATURES = np.random.RandomState(0).normal(size=[2, 5, 3, 3, 4]).astype(np.float32)


def make_head(spec=layers.LayerSpec(), predictor_spec=None, **settings):
    features = box.BoxFeatureExtractor(in_size=3, in_filters=4, num_units=16, spec=spec)
    return box.BoxHead(feature_extractor=features, num_classes=6, spec=predictor_spec or spec, **settings)


def run(head, features, training=False):
    """Class logits and box deltas."""
    return head(features, training=training)[:2]


@pytest.mark.parametrize("shared, num_boxes", [(False, 6), (True, 1)])
def test_each_class_has_a_box_unless_they_share_one(shared, num_boxes):
    head = make_head(share_box_across_classes=shared)
    logits, deltas = run(head, FEATURES)
    assert logits.shape == (2, 5, 7)
    assert deltas.shape == (2, 5, num_boxes, 4)


def test_outputs_are_those_of_each_roi_alone():
    head = make_head()
    logits, deltas = run(head, FEATURES)
    one_logits, one_deltas = run(head, FEATURES[1:, 2:3])
    np.testing.assert_allclose(logits[1:, 2:3], one_logits, atol=1e-5)
    np.testing.assert_allclose(deltas[1:, 2:3], one_deltas, atol=1e-5)


def test_features_follow_the_formula():
    """Fully connected, ReLU, normalization, fully connected, ReLU."""
    spec = layers.LayerSpec(norm=layers.BatchNormSpec(epsilon=0.5))
    features = make_head(spec).feature_extractor
    features.norm.moving_mean.assign(np.full(16, 0.1))
    fc1, fc2 = features.fc1.get_weights(), features.fc2.get_weights()
    flat = FEATURES[0].reshape(5, 36)
    hidden = (np.maximum(flat @ fc1[0] + fc1[1], 0) - 0.1) / np.sqrt(1.5)
    expected = np.maximum(hidden @ fc2[0] + fc2[1], 0)
    np.testing.assert_allclose(features(FEATURES[0], training=False), expected, atol=1e-5)


def test_the_paper_has_1024_units():
    features = box.BoxFeatureExtractor(in_size=1, in_filters=1, spec=layers.LayerSpec())
    assert [tuple(v.shape) for v in features.variables] == [(1, 1024), (1024,), (1024, 1024), (1024,)]


@pytest.mark.parametrize("norm", [layers.BatchNormSpec(), layers.GroupNormSpec(), None])
def test_every_normalization_works(norm):
    features = box.BoxFeatureExtractor(in_size=3, in_filters=4, num_units=64, spec=layers.LayerSpec(norm=norm))
    assert np.all(np.isfinite(features(FEATURES[0], training=True)))


def test_dropout_acts_in_training_only_and_on_each_predictor_apart():
    head = make_head(dropout_rate=0.5)
    first, second = run(head, FEATURES, training=True), run(head, FEATURES, training=True)
    assert all(np.any(a != b) for a, b in zip(first, second, strict=True))
    first, second = run(head, FEATURES), run(head, FEATURES)
    assert all(np.all(a == b) for a, b in zip(first, second, strict=True))
    ones = tf.ones([1, 1000])
    dropped = [layer(ones, training=True).numpy() for layer in (head.class_dropout, head.box_dropout)]
    assert all(set(np.unique(values)) == {0.0, 2.0} for values in dropped)
    assert np.any(dropped[0] != dropped[1])


def test_without_dropout_training_is_deterministic():
    head = make_head()
    for a, b in zip(run(head, FEATURES, training=True), run(head, FEATURES, training=True), strict=True):
        np.testing.assert_array_equal(a, b)


def test_hyperparameters_act_on_the_predictors_alone():
    """As in the Object Detection API, the two fully connected layers are neither regularized nor initialized by them."""
    spec = layers.LayerSpec(initializer=tf_keras.initializers.Ones, regularizer=tf_keras.regularizers.L2(0.5))
    head = make_head(spec)
    assert [float(loss) for loss in head.losses] == [0.5 * 16 * 7, 0.5 * 16 * 24]
    assert np.ptp(head.feature_extractor.fc1.kernel) > 0


def test_outputs_are_float32_under_bfloat16():
    spec = layers.LayerSpec(norm=layers.BatchNormSpec(), execution=Execution(dtype="mixed_bfloat16"))
    head = make_head(spec)
    assert head.feature_extractor(FEATURES[0], training=True).dtype == tf.bfloat16
    assert {output.dtype for output in run(head, FEATURES, training=True)} == {tf.float32}
    assert {v.dtype for v in head.variables} == {tf.float32}


def test_shapes_in_a_graph_are_as_known_as_those_of_the_features():
    head = make_head()
    call = tf.function(lambda features: run(head, features))
    known = call.get_concrete_function(tf.TensorSpec([2, 5, 3, 3, 4])).output_shapes
    assert [shape.as_list() for shape in known] == [[2, 5, 7], [2, 5, 6, 4]]
    unknown = call.get_concrete_function(tf.TensorSpec([None, None, 3, 3, 4]))
    assert [shape.as_list() for shape in unknown.output_shapes] == [[None, None, 7], [None, None, 6, 4]]
    for a, b in zip(unknown(tf.constant(FEATURES)), run(head, FEATURES), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_no_rois_give_no_outputs():
    logits, deltas = run(make_head(), tf.zeros([2, 0, 3, 3, 4]))
    assert (logits.shape, deltas.shape) == ((2, 0, 7), (2, 0, 6, 4))


def test_predictions_are_normalized_if_the_specification_says_so():
    head = make_head(predictor_spec=layers.LayerSpec(norm=layers.BatchNormSpec(epsilon=0.5)))
    assert head.class_norm.variables and head.box_norm.variables
    head.class_norm.moving_mean.assign(np.arange(7.0))
    hidden = head.extract(FEATURES, training=False)
    logits, _ = run(head, FEATURES)
    expected = (head.class_predictor(hidden) - np.arange(7.0)) / np.sqrt(1.5)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
