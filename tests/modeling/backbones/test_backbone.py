"""What all backbones share: pixel normalization, and parts that do not train or are computed again."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import layers
from object_detection_fpn.modeling.backbones import backbone as backbone_lib

IMAGES = 100.0 * tf.random.stateless_normal([2, 32, 32, 3], [1, 2])
# Statistics that are frozen anyway: then freezing a part changes no features.
SPEC = layers.LayerSpec(norm=layers.BatchNormSpec(scale=True, freeze_statistics=True))
MOVING = layers.LayerSpec(norm=layers.BatchNormSpec(momentum=0.5, scale=True))


# Pixels ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, [10, 20, 60]),
        ({"mean": (1, 2, 3)}, [9, 18, 57]),
        ({"stddev": (2, 4, 5)}, [5, 5, 12]),
        ({"mean": (1, 2, 3), "stddev": (2, 4, 5)}, [4.5, 4.5, 11.4]),
        ({"is_bgr": True}, [60, 20, 10]),
        ({"is_bgr": True, "mean": (1, 2, 3), "stddev": (2, 4, 5)}, [29.5, 4.5, 1.4]),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [tf.uint8, tf.float32])
def test_pixels_are_ordered_then_centred_then_scaled(settings, expected, dtype):
    images = tf.cast(tf.reshape([10, 20, 60], [1, 1, 1, 3]), dtype)
    found = backbone_lib.PixelNormalization(**settings)(images)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found[0, 0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("num_channels", [1, 4])
def test_images_of_other_channels_stay_as_they_are(num_channels):
    images = tf.fill([1, 2, 2, num_channels], 9.0)
    pixels = backbone_lib.PixelNormalization(mean=(1, 2, 3), stddev=(2, 2, 2), is_bgr=True)
    np.testing.assert_array_equal(pixels(images), images)


def test_a_backbone_takes_means_off_unless_it_is_built_otherwise(make_backbone):
    means = [123.68, 116.779, 103.939]
    np.testing.assert_allclose(make_backbone().normalize_pixels(tf.zeros([1, 1, 1, 3]))[0, 0, 0], np.negative(means))
    built = make_backbone(pixels=backbone_lib.PixelNormalization(stddev=(2.0, 2.0, 2.0)))
    np.testing.assert_array_equal(built.normalize_pixels(tf.ones([1, 1, 1, 3])), np.full([1, 1, 1, 3], 0.5))


# Parts ----------------------------------------------------------------------------------------------------------------


def make(make_backbone, num_frozen, num_recomputed=0, norm=SPEC):
    spec = layers.LayerSpec(norm=norm.norm, execution=Execution(recomputed_stages=num_recomputed))
    tf_keras.utils.set_random_seed(0)
    return make_backbone(spec, is_residual=True, frozen_stages=num_frozen)


def step(backbone, *, watched):
    def differentiate(images):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(watched)
            features = backbone(images, training=True)
            loss = tf.add_n([tf.reduce_mean(f**2) for f in features.values()])
        return features, tape.gradient(loss, watched)

    return tf.function(differentiate, autograph=False)


def level_of(variable):
    """0 is the stem."""
    name = variable.name.removeprefix("conv").removeprefix("norm")
    return 0 if name.startswith("_stem") else int(name[0]) - 1


@pytest.mark.parametrize("num_recomputed", [0, 1, 4])
@pytest.mark.parametrize("num_frozen", [1, 2, 3, 5])
def test_frozen_parts_do_not_train_and_the_others_train_as_before(make_backbone, num_frozen, num_recomputed):
    free, frozen = make(make_backbone, 0), make(make_backbone, num_frozen, num_recomputed)
    assert {level_of(v) for v in frozen.trainable_variables} == set(range(num_frozen, 5))
    free_variables = [v for v in free.trainable_variables if level_of(v) >= num_frozen]
    expected_features, expected = step(free, watched=free_variables)(IMAGES)
    features, gradients = step(frozen, watched=frozen.trainable_variables)(IMAGES)
    for level, found in features.items():
        np.testing.assert_allclose(found, expected_features[level], rtol=1e-4, atol=1e-5)
    assert [v.name for v in frozen.trainable_variables] == [v.name for v in free_variables]
    for found, wanted in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5 * np.abs(wanted).max())


def test_no_gradient_goes_through_frozen_parts_even_if_their_variables_are_watched(make_backbone):
    backbone = make(make_backbone, 2)
    frozen = [v for v in backbone.variables if level_of(v) < 2 and "kernel" in v.name]
    _, gradients = step(backbone, watched=frozen)(IMAGES)
    assert frozen
    assert all(gradient is None for gradient in gradients)


@pytest.mark.parametrize("num_frozen, num_recomputed, twice", [(1, 1, 1), (2, 1, 0), (2, 2, 2), (3, 4, 4)])
def test_only_what_trains_is_computed_again(make_backbone, num_frozen, num_recomputed, twice):
    """Level 2 has one convolution, the others two, and the stem one."""
    backbone = make(make_backbone, num_frozen, num_recomputed)
    graph = step(backbone, watched=backbone.trainable_variables).get_concrete_function(IMAGES).graph
    count = [operation.type for operation in graph.get_operations()].count
    assert count("Conv2D") == 1 + 1 + 3 * 2 + twice
    assert count("Conv2DBackpropFilter") == {1: 7, 2: 6, 3: 4}[num_frozen]


def test_statistics_of_frozen_parts_stay_and_are_used_in_training(make_backbone):
    backbone = make(make_backbone, 2, norm=MOVING)
    means = [v for v in backbone.variables if "moving_mean" in v.name]
    features = backbone(IMAGES, training=True)
    assert {level_of(v) for v in means if np.any(v != 0)} == {2, 3, 4}
    np.testing.assert_allclose(features[2], backbone(IMAGES, training=False)[2], rtol=1e-5)


def test_regularization_is_of_frozen_kernels_too(make_backbone):
    """As with `freeze_variables`: a constant in the loss."""
    free, frozen = make_backbone(SPEC, is_residual=True), make_backbone(SPEC, is_residual=True, frozen_stages=3)
    assert len(free.losses) == len(frozen.losses)


def test_freezing_more_parts_than_there_are_freezes_all(make_backbone):
    backbone = make_backbone(SPEC, max_level=3, frozen_stages=5)
    assert backbone.frozen_stages == 3
    assert backbone.trainable_variables == []
    assert list(backbone(IMAGES, training=True)) == [2, 3]


def test_the_stem_alone_can_be_frozen_only_where_it_is_known(make_backbone):
    with pytest.raises(ValueError, match="frozen_stages = 1, but tiny does not say what its stem gives"):
        make_backbone(SPEC, frozen_stages=1)
