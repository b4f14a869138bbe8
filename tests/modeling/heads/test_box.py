"""The box head: shapes, shared boxes, dropout, normalization, precision."""

from __future__ import annotations

import dataclasses

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


def test_paths_of_variables_stay_those_of_earlier_checkpoints(tmp_path):
    features = make_head(layers.LayerSpec(norm=layers.BatchNormSpec())).feature_extractor
    names = [v.name for v in features.variables]
    assert [name.split("/")[-2:] for name in names] == [
        ["fc1", "kernel:0"],
        ["fc1", "bias:0"],
        ["norm", "beta:0"],
        ["fc2", "kernel:0"],
        ["fc2", "bias:0"],
        ["norm", "moving_mean:0"],
        ["norm", "moving_variance:0"],
    ]
    expected = ["fc1/bias", "fc1/kernel", "fc2/bias", "fc2/kernel", "norm/beta", "norm/moving_mean"]
    stored = tf.train.list_variables(tf.train.Checkpoint(layer=features).write(str(tmp_path / "ckpt")))
    found = [name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE") for name, _ in stored if name.startswith("layer/")]
    assert found == [f"layer/{name}" for name in (*expected, "norm/moving_variance")]


HIDDEN = layers.LayerSpec(
    initializer=lambda: tf_keras.initializers.RandomNormal(stddev=0.2),
    regularizer=tf_keras.regularizers.L2(0.5),
    activation="swish",
    norm=layers.BatchNormSpec(epsilon=0.5, scale=True),
)


def make_features(hidden=HIDDEN, spec=layers.LayerSpec(norm=layers.BatchNormSpec()), **settings):
    return box.BoxFeatureExtractor(in_size=3, in_filters=4, num_units=16, spec=spec, hidden=hidden, **settings)


def test_convolutions_come_before_the_dense_layers():
    """Convolution, normalization, activation, twice; then flattened by rows, columns, channels; dense and activation."""
    features = make_features(num_convolutions=2, convolution_depth=8, num_dense_layers=1)
    for layer in features.variables:
        if "moving_variance" not in layer.name:
            layer.assign(np.random.RandomState(1).normal(0, 0.3, layer.shape))
    hidden = FEATURES[0]
    for conv in (features.conv1, features.conv2):
        hidden = tf.nn.conv2d(hidden, conv.conv.kernel, 1, "SAME")
        hidden = (hidden - conv.norm.moving_mean) / np.sqrt(1.5) * conv.norm.gamma + conv.norm.beta
        hidden = tf.nn.silu(hidden)
    expected = tf.nn.silu(tf.reshape(hidden, [5, 9 * 8]) @ features.fc1.kernel + features.fc1.bias)
    np.testing.assert_allclose(features(FEATURES[0], training=False), expected, atol=1e-5)
    assert [layer.name for layer in features.parts] == ["conv1", "conv2", "fc1"]
    assert not features.conv1.conv.use_bias


@pytest.mark.parametrize("num_dense_layers", [1, 2, 3])
@pytest.mark.parametrize("hidden", [None, HIDDEN])
def test_dense_layers_are_as_many_as_asked_for(num_dense_layers, hidden):
    features = make_features(hidden, num_dense_layers=num_dense_layers)
    names = [f"fc{i + 1}" for i in range(num_dense_layers)]
    expected = names if hidden else [names[0], "norm", *names[1:]]
    assert [layer.name for layer in features.parts] == expected
    assert features(FEATURES[0], training=True).shape == (5, 16)


def test_hidden_layers_follow_their_specification():
    features = make_features(num_convolutions=1, convolution_depth=8)
    kernels = [v for v in features.trainable_variables if "kernel" in v.name]
    assert len(kernels) == len(features.losses) == 3
    np.testing.assert_allclose(features.losses, [0.5 * tf.reduce_sum(tf.square(v)) for v in kernels], rtol=1e-5)
    assert all(0.15 < np.std(v) < 0.25 for v in kernels)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_statistics_of_the_convolutions_follow_their_specification_alone(is_frozen):
    hidden = dataclasses.replace(HIDDEN, norm=layers.BatchNormSpec(freeze_statistics=is_frozen))
    features = make_features(hidden, num_convolutions=1, spec=layers.LayerSpec(freeze_statistics=True))
    features(FEATURES[0], training=True)
    assert np.any(features.conv1.norm.moving_mean) != is_frozen


def test_group_normalization_of_convolutions_is_that_of_each_roi():
    hidden = dataclasses.replace(HIDDEN, norm=layers.GroupNormSpec())
    features = make_features(hidden, num_convolutions=1, convolution_depth=32)
    alone = features(FEATURES[0, 2:3], training=True)
    np.testing.assert_allclose(features(FEATURES[0], training=True)[2:3], alone, atol=1e-5)


def test_convolutions_compile_and_compute_in_bfloat16():
    execution = Execution(dtype="mixed_bfloat16", static=True)
    hidden = dataclasses.replace(HIDDEN, execution=execution)
    features = make_features(
        hidden, layers.LayerSpec(execution=execution), num_convolutions=2, convolution_depth=8, num_dense_layers=1
    )

    @tf.function(jit_compile=True, autograph=False)
    def step(inputs):
        with tf.GradientTape() as tape:
            outputs = features(inputs, training=True)
            loss = tf.reduce_sum(tf.square(tf.cast(outputs, tf.float32)))
        return outputs, tape.gradient(loss, features.trainable_variables)

    outputs, gradients = step(tf.constant(FEATURES[0]))
    assert outputs.dtype == tf.bfloat16
    assert all(np.all(np.isfinite(g)) and np.any(g) for g in gradients)


def test_convolutions_without_a_specification_are_refused():
    with pytest.raises(ValueError, match="num_convolutions = 4 needs hidden"):
        make_features(None, num_convolutions=4)


def test_the_box_predictor_may_begin_with_other_values():
    spec = layers.LayerSpec(initializer=tf_keras.initializers.Ones)
    head = make_head(predictor_spec=spec, box_initializer=tf_keras.initializers.Zeros)
    assert np.all(head.class_predictor.kernel.numpy() == 1.0)
    assert not np.any(head.box_predictor.kernel)
    restored = layers.LayerSpec(execution=Execution(is_restored=True))
    head = make_head(predictor_spec=restored, box_initializer=tf_keras.initializers.Ones)
    assert not np.any(head.box_predictor.kernel)  # will be overwritten, so that drawing is lost time


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
    call = tf.function(lambda features: run(head, features), autograph=False)
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
