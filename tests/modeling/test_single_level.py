"""One map for the proposals, and the backbone's last stage for each region."""

from __future__ import annotations

import numpy as np
import pytest
import support
import tensorflow as tf

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import fpn, layers, single_level

SPEC = layers.LayerSpec(norm=layers.BatchNormSpec(momentum=0.5, scale=True))
IMAGES = tf.constant(np.random.RandomState(0).normal(0, 50, [2, 64, 96, 3]), tf.float32)


def split(**settings):
    whole = support.make_backbone(SPEC, is_residual=True, **settings)
    return whole, *whole.split_last_stage()


def test_one_level_of_the_backbone_is_given_as_it_is():
    _, backbone, _ = split()
    pyramid = single_level.SingleLevel(in_filters=backbone.num_filters, level=4)
    extractor = fpn.FeatureExtractor(backbone=backbone, fpn=pyramid, pad_to_multiple=1)
    images = IMAGES[:, :50, :61]
    (features,) = extractor(images, training=False)
    assert features.shape == (2, 4, 4, support.NUM_FILTERS[4])
    np.testing.assert_array_equal(features, backbone(images, training=False)[4])
    assert (extractor.min_level, extractor.max_level, extractor.num_filters) == (4, 4, support.NUM_FILTERS[4])
    assert extractor.covered_size(tf.constant([50, 61])).numpy().tolist() == [50, 61]
    assert pyramid.variables == []


def test_a_backbone_without_the_level_is_refused():
    with pytest.raises(ValueError, match=r"The backbone gives levels \[2, 3\]; the pyramid needs \[4\] too"):
        single_level.SingleLevel(in_filters={2: 4, 3: 6}, level=4)


def test_a_split_backbone_computes_what_the_whole_one_does():
    whole, backbone, stage = split()
    features = whole(IMAGES, training=False)
    apart = backbone(IMAGES, training=False)
    assert sorted(apart) == [2, 3, 4]
    for level, of_level in apart.items():
        np.testing.assert_array_equal(of_level, features[level])
    last_stage = single_level.LastStage(stage, in_size=5)
    np.testing.assert_allclose(last_stage(apart[4], training=False), features[5], rtol=1e-5, atol=1e-5)
    here = {id(variable) for variable in (*backbone.variables, *last_stage.variables)}
    assert here == {id(variable) for variable in whole.variables}
    assert len(here) == len(backbone.variables) + len(last_stage.variables)


@pytest.mark.parametrize("in_size, out_size", [(1, 1), (4, 2), (7, 4)])
def test_the_last_stage_says_what_it_makes_of_a_region(in_size, out_size):
    stage = single_level.LastStage(split()[2], in_size=in_size)
    assert (stage.output_size, stage.num_units) == (out_size, support.NUM_FILTERS[5])
    features = stage(tf.zeros([3, in_size, in_size, support.NUM_FILTERS[4]]), training=False)
    assert features.shape == (3, out_size, out_size, stage.num_units)


@pytest.mark.parametrize("num_frozen, is_frozen", [(4, False), (5, True)])
def test_a_frozen_last_stage_neither_trains_nor_moves(num_frozen, is_frozen):
    whole, backbone, stage = split(frozen_stages=num_frozen)
    assert backbone.trainable_variables == []
    last_stage = single_level.LastStage(stage, in_size=4, is_frozen=whole.frozen_stages > len(backbone.levels) + 1)
    assert (last_stage.trainable_variables == []) is is_frozen
    features = tf.constant(np.random.RandomState(1).normal(size=[3, 4, 4, support.NUM_FILTERS[4]]), tf.float32)
    before = [variable.numpy() for variable in last_stage.non_trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(features)
        total = tf.reduce_sum(last_stage(features, training=True))
    assert (tape.gradient(total, features) is None) is is_frozen
    has_moved = [np.any(a != b) for a, b in zip(before, last_stage.non_trainable_variables, strict=True)]
    assert any(has_moved) is not is_frozen


def test_recomputed_stages_are_those_before_the_last():
    spec = layers.LayerSpec(norm=SPEC.norm, execution=Execution(recomputed_stages=4))
    whole = support.make_backbone(spec, is_residual=True)
    backbone, _ = whole.split_last_stage()
    assert backbone.recomputed_stages == 3
    moving = next(variable for variable in backbone.variables if "moving_mean" in variable.name)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(backbone(IMAGES, training=True)[4])
    first = moving.numpy()
    assert all(gradient is not None for gradient in tape.gradient(total, backbone.trainable_variables))
    np.testing.assert_array_equal(moving, first)  # once, and not again with the gradient
