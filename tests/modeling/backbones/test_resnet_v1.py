"""ResNets: levels, parameters, normalization, initial values, regularization, precision."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import layers
from object_detection_fpn.modeling.backbones import resnet_v1
from object_detection_fpn.training.weights import variables_by_path

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

IMAGES = np.random.RandomState(0).normal(scale=50.0, size=[2, 64, 96, 3]).astype(np.float32)
NORM = layers.BatchNormSpec(momentum=0.9, epsilon=0.01, scale=True)


def recomputing(spec, num_stages):
    """The same layers, the inside of some stages computed again for the gradient."""
    return dataclasses.replace(spec, execution=Execution(recomputed_stages=num_stages))


def build(depth, **kwargs):
    return (resnet_v1.resnet_v1_small if depth < 50 else resnet_v1.resnet_v1)(depth, **kwargs)


@functools.cache
def default(depth):
    # Drawing kernels takes two thirds of the time, and of these depths the tests look at layers and shapes only.
    execution = Execution(is_restored=depth in (34, 101, 152))
    return build(depth, spec=dataclasses.replace(resnet_v1.DEFAULT_SPEC, execution=execution))


@functools.cache
def specified(depth):
    """Everything that a specification can say differs from the default. Tests may change all variables but the kernels."""
    return build(
        depth,
        spec=layers.LayerSpec(
            initializer=lambda: tf_keras.initializers.TruncatedNormal(stddev=0.03),
            activation="relu6",
            norm=NORM,
            force_use_bias=True,
        ),
    )


def layers_of(backbone, kind):
    return [layer for layer in backbone.network._flatten_layers() if isinstance(layer, kind)]


def norms(backbone):
    return layers_of(backbone, tf_keras.layers.BatchNormalization)


def convs(backbone):
    return layers_of(backbone, tf_keras.layers.Conv2D)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_levels_have_their_strides_and_filters(depth):
    backbone = default(depth)
    filters = {2: 64, 3: 128, 4: 256, 5: 512} if depth < 50 else {2: 256, 3: 512, 4: 1024, 5: 2048}
    assert backbone.num_filters == filters
    if depth <= 50:
        shapes = {level: tuple(features.shape) for level, features in backbone(IMAGES, training=False).items()}
    else:  # as above, without seconds of running hundreds of layers one by one
        shapes = dict(
            zip(backbone.levels, map(tuple, backbone.network.compute_output_shape(IMAGES.shape)), strict=True)
        )
    assert shapes == {level: (2, 64 >> level, 96 >> level, filters[level]) for level in (2, 3, 4, 5)}


@pytest.mark.parametrize(
    "depth, num_convs, num_parameters",
    [
        # Trainable parameters of the published networks without their classifier. ResNet-18 and -34 of tf-models-official
        # have a projection (4096 weights and 128 of its normalization) in the first block too, which the paper has not.
        (18, 20 + 1, 11_176_512 + 4_224),
        (34, 36 + 1, 21_284_672 + 4_224),
        (50, 53, 23_508_032),
        (101, 104, 42_500_160),
        (152, 155, 58_143_808),
    ],
)
def test_layers_and_parameters_are_those_of_the_paper(depth, num_convs, num_parameters):
    backbone = default(depth)
    assert len(convs(backbone)) == num_convs
    assert sum(int(np.prod(v.shape)) for v in backbone.trainable_variables) == num_parameters
    assert len(backbone.variables) == 5 * num_convs  # kernel; gamma, beta, mean, variance


@pytest.mark.parametrize("depth", [18, 50])
def test_convolutions_never_have_a_bias(depth):
    assert not any(conv.use_bias for conv in convs(specified(depth)))


@pytest.mark.parametrize("depth", [18, 50])
def test_batch_norm_values_arrive_everywhere(depth):
    backbone = specified(depth)
    assert len(norms(backbone)) == len(convs(backbone))
    values = {(norm.momentum, norm.epsilon, norm.scale, norm.center) for norm in norms(backbone)}
    assert values == {(0.9, 0.01, True, True)}


@pytest.mark.parametrize("depth", [18, 50])
def test_statistics_move_in_training_only(depth):
    backbone = specified(depth)
    statistics = [v for v in backbone.variables if "moving" in v.name]
    before = [v.numpy() for v in statistics]
    backbone(IMAGES, training=False)
    assert all(np.array_equal(a, b) for a, b in zip(before, statistics, strict=True))
    backbone(IMAGES, training=True)
    assert all(np.any(a != b) for a, b in zip(before, statistics, strict=True))


@pytest.mark.parametrize("depth, scale_trains", [(18, False), (50, True)])
def test_frozen_statistics_stay_in_training(depth, scale_trains):
    backbone = build(depth, max_level=2, spec=layers.LayerSpec(norm=NORM, freeze_statistics=True))
    statistics = [v for v in backbone.variables if "moving" in v.name]
    before = [v.numpy() for v in statistics]
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(backbone(IMAGES, training=True)[2] ** 2)
    assert all(np.array_equal(a, b) for a, b in zip(before, statistics, strict=True))
    scales = [v for v in backbone.trainable_variables if "gamma" in v.name]
    assert bool(scales) == scale_trains
    assert all(np.any(gradient != 0) for gradient in tape.gradient(loss, scales))


def test_frozen_statistics_of_a_small_resnet_leave_only_kernels_to_train():
    spec = layers.LayerSpec(norm=layers.BatchNormSpec(freeze_statistics=True, scale=True))
    assert all("kernel" in v.name for v in build(18, spec=spec).trainable_variables)


@pytest.mark.parametrize("depth", [18, 50])
def test_every_kernel_is_regularized(depth):
    backbone = default(depth)
    kernels = [conv.kernel for conv in convs(backbone)]
    expected = sum(1e-4 * float(tf.reduce_sum(kernel**2)) for kernel in kernels)  # DEFAULT_SPEC's weight
    assert len(backbone.losses) == len(kernels)
    np.testing.assert_allclose(sum(map(float, backbone.losses)), expected, rtol=1e-5)
    assert specified(depth).losses == []


@pytest.mark.parametrize("depth", [18, 50])
def test_layers_of_equal_shape_start_with_different_values(depth):
    kernels = sorted((conv.kernel for conv in convs(specified(depth))), key=lambda kernel: tuple(kernel.shape))
    groups = [list(group) for _, group in itertools.groupby(kernels, key=lambda kernel: tuple(kernel.shape))]
    assert max(len(group) for group in groups) >= 3
    for group in groups:
        assert len({kernel.numpy().ravel()[:16].tobytes() for kernel in group}) == len(group)
        # No more than two standard deviations: the initializer arrived.
        assert all(np.abs(kernel).max() <= 0.06001 for kernel in group)


@pytest.mark.parametrize("depth", [18, 50])
def test_activation_arrives(depth):
    for norm in norms(specified(depth)):
        norm.gamma.assign(np.full(norm.gamma.shape, 100.0))
    features = specified(depth)(IMAGES, training=False)[2].numpy()
    assert (features.min(), features.max()) == (0.0, 6.0)
    assert default(depth)(1000.0 * IMAGES, training=False)[2].numpy().max() > 6.0


def test_bfloat16_features_of_a_small_network_come_from_float32_variables():
    before = tf_keras.mixed_precision.global_policy().name
    assert_bfloat16(
        build(18, max_level=3, spec=layers.LayerSpec(norm=NORM, execution=Execution(dtype="mixed_bfloat16")))
    )
    assert tf_keras.mixed_precision.global_policy().name == before


def test_a_network_in_bfloat16_up_to_level_3():
    backbone = build(50, max_level=3, spec=layers.LayerSpec(norm=NORM, execution=Execution(dtype="mixed_bfloat16")))
    assert_bfloat16(backbone)
    assert backbone.num_filters == {2: 256, 3: 512}
    assert len(convs(backbone)) == 1 + 3 * 3 + 1 + 4 * 3 + 1  # stem, blocks of three, a projection for each level


def assert_bfloat16(backbone):
    features = backbone(IMAGES, training=True)
    assert list(features) == [2, 3]
    assert {f.dtype for f in features.values()} == {tf.bfloat16}
    assert {v.dtype for v in backbone.variables} == {tf.float32}


@pytest.mark.parametrize(
    "make, depth, message",
    [
        (
            resnet_v1.resnet_v1,
            18,
            r"depth = 18 is not a ResNet V1 of tf_keras\.applications\. Allowed: \[50, 101, 152\]\.",
        ),
        (resnet_v1.resnet_v1_small, 50, r"depth = 50 is not a small ResNet\. Allowed: 18, 34\."),
    ],
)
def test_unknown_depths_are_refused(make, depth, message):
    with pytest.raises(ValueError, match=message):
        make(depth)


@pytest.mark.parametrize("norm", [None, layers.GroupNormSpec()])
def test_small_networks_refuse_other_normalizations(norm):
    with pytest.raises(ValueError, match="ResNet-18 needs batch normalization, not"):
        build(18, spec=layers.LayerSpec(norm=norm))


def test_group_norm_replaces_every_batch_norm_of_a_network_for_gray_images():
    backbone = build(50, max_level=2, num_channels=1, spec=layers.LayerSpec(norm=layers.GroupNormSpec()))
    assert norms(backbone) == []
    assert len(layers_of(backbone, tf_keras.layers.GroupNormalization)) == len(convs(backbone)) == 11
    features = backbone(IMAGES[..., :1], training=True)
    assert features[2].shape == (2, 16, 24, 256)
    assert np.all(np.isfinite(features[2]))


def make_gradient(backbone):
    """Given images: the loss and its gradients; moving statistics are updated by the way."""

    def differentiate(images):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(backbone.trainable_variables)
            features = backbone(images, training=True)
            loss = tf.add_n([tf.reduce_mean(tf.square(tf.cast(f, tf.float32))) for f in features.values()])
        return loss, tape.gradient(loss, backbone.trainable_variables)

    return differentiate


def after_a_step(backbone, images, strategy, *, jit_compile):
    """Loss, gradients and moving statistics of the first replica."""
    step = make_gradient(backbone)
    compiled = tf.function(step, jit_compile=True, autograph=False) if jit_compile else step
    # Not the compiled function itself, which the strategy would compile with all replicas in one.
    whole = tf.function(lambda images: strategy.run(lambda part: compiled(part), args=(images,)), autograph=False)
    values = [strategy.experimental_local_results(value)[0] for value in tf.nest.flatten(whole(images))]
    return [value.numpy() for value in (*values, *backbone.non_trainable_variables)]


def assert_recomputation_changes_nothing(make, strategy, *, recomputed_stages=(1, 4), jit_compile=False):
    images = 100.0 * tf.random.stateless_normal([2, 32, 32, 3], [1, 2])
    results, paths = [], []
    for num_stages in (0, *recomputed_stages):
        tf_keras.utils.set_random_seed(0)
        with strategy.scope():
            backbone = make(num_stages)
        assert backbone.recomputed_stages == min(num_stages, len(backbone.levels))
        results.append(after_a_step(backbone, images, strategy, jit_compile=jit_compile))
        paths.append(list(variables_by_path(backbone)))
    assert all(each == paths[0] for each in paths)
    for expected, *values in zip(*results, strict=True):
        for value in values:
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "on_two, jit_compile, synchronized", [(False, True, False), (True, True, False), (True, False, True)]
)
def test_recomputation_keeps_features_gradients_and_statistics_on_every_strategy(
    two_cpus, make_backbone, on_two, jit_compile, synchronized
):
    norm = layers.BatchNormSpec(momentum=0.9, scale=True, synchronized=synchronized)
    assert_recomputation_changes_nothing(
        lambda stages: make_backbone(recomputing(layers.LayerSpec(norm=norm), stages)),
        two_cpus if on_two else tf.distribute.get_strategy(),
        jit_compile=jit_compile,
    )


@pytest.mark.parametrize("depth", [18, 50])
def test_recomputed_resnet_has_the_same_features_gradients_and_statistics(depth):
    assert_recomputation_changes_nothing(
        lambda stages: build(depth, max_level=3, spec=recomputing(resnet_v1.DEFAULT_SPEC, stages)),
        tf.distribute.get_strategy(),
        recomputed_stages=[1] if depth == 50 else [4],
    )


def test_recomputation_computes_twice_and_survives_the_compiler(make_backbone):
    images = tf.zeros([1, 64, 64, 3])
    in_graph, compiled = [], []
    for recomputed_stages in (0, 1, 4):
        backbone = make_backbone(recomputing(layers.LayerSpec(norm=NORM), recomputed_stages))
        step = tf.function(make_gradient(backbone), jit_compile=True, autograph=False)
        operations = [operation.type for operation in step.get_concrete_function(images).graph.get_operations()]
        in_graph.append(operations.count("Conv2D"))
        hlo = step.experimental_get_compiler_ir(images)(stage="optimized_hlo")
        compiled.append(len(re.findall(r" convolution\(| custom-call\([^\n]*[Cc]onv", hlo)))
    assert in_graph == [4, 5, 8]
    assert compiled[2] > compiled[1] > compiled[0] > 0


# Options of the best detectors ----------------------------------------------------------------------------------------


@functools.cache
def pytorch_like():
    """ResNet-50 up to level 3 as PyTorch's libraries have it, and frozen up to level 2."""
    norm = layers.BatchNormSpec(epsilon=0.0, scale=True, trainable=False)
    return build(
        50,
        max_level=3,
        spec=layers.LayerSpec(norm=norm),
        stride_in_3x3=True,
        symmetric_padding=True,
        frozen_stages=2,
    )


def strides_of(backbone, block):
    return [backbone.network.get_layer(f"{block}_{i}_conv").strides[0] for i in (0, 1, 2, 3)]


def test_the_stride_of_a_stage_moves_to_its_3x3():
    assert strides_of(default(50), "conv3_block1") == [2, 2, 1, 1]
    assert strides_of(pytorch_like(), "conv3_block1") == [2, 1, 2, 1]
    assert strides_of(pytorch_like(), "conv2_block1") == [1, 1, 1, 1]
    assert [backbone.stride_in_3x3 for backbone in (default(50), pytorch_like(), default(18))] == [False, True, True]


def test_symmetric_padding_is_of_strided_convolutions_and_the_pooling():
    assert not layers_of(default(50), (layers.SymmetricConv, layers.SymmetricMaxPool))
    found = layers_of(pytorch_like(), (layers.SymmetricConv, layers.SymmetricMaxPool))
    assert [layer.name for layer in found] == ["pool1_pool", "conv3_block1_2_conv"]
    with_stride_in_1x1 = build(50, max_level=3, symmetric_padding=True)
    assert [layer.name for layer in layers_of(with_stride_in_1x1, layers.SymmetricMaxPool)] == ["pool1_pool"]
    assert not layers_of(with_stride_in_1x1, layers.SymmetricConv)


def test_options_change_no_path_and_no_shape():
    plain = build(50, max_level=3)
    paths = [{path: v.shape for path, v in variables_by_path(backbone).items()} for backbone in (plain, pytorch_like())]
    assert paths[0] == paths[1]


def test_frozen_norms_and_parts_leave_the_other_kernels_to_train():
    backbone = pytorch_like()
    assert {v.name.split("_")[0] for v in backbone.trainable_variables} == {"conv3"}
    assert all(v.name.endswith("conv/kernel:0") for v in backbone.trainable_variables)
    assert len(backbone.trainable_variables) == 4 * 3 + 1
    for variable in backbone.variables:
        if "moving_mean" in variable.name:
            variable.assign(tf.random.stateless_normal(variable.shape, [1, 2]))
    before = [v.numpy() for v in backbone.variables]
    sizes = {level: f.shape[1:3] for level, f in backbone(IMAGES, training=True).items()}
    assert sizes == {2: (16, 24), 3: (8, 12)}
    assert all(np.array_equal(a, b) for a, b in zip(before, backbone.variables, strict=True))


def test_features_of_frozen_norms_are_those_of_inference():
    backbone = pytorch_like()
    training, inference = (backbone(IMAGES, training=training) for training in (True, False))
    for level in (2, 3):
        np.testing.assert_allclose(training[level], inference[level], rtol=1e-5, atol=1e-5)


def test_static_execution_computes_the_same_stem_whatever_the_padding():
    spec = layers.LayerSpec(norm=NORM, execution=Execution(static=True))
    backbone = build(50, max_level=2, spec=spec, symmetric_padding=True)
    plain = build(50, max_level=2, spec=layers.LayerSpec(norm=NORM), symmetric_padding=True)
    plain.set_weights(backbone.get_weights())
    assert isinstance(backbone.network.get_layer("conv1_conv"), layers.SpaceToDepthConv)
    np.testing.assert_allclose(
        backbone(IMAGES, training=False)[2], plain(IMAGES, training=False)[2], rtol=1e-3, atol=1e-3
    )


def test_a_small_network_freezes_its_norms_and_its_first_parts():
    norm = layers.BatchNormSpec(epsilon=0.0, scale=True, trainable=False)
    backbone = build(18, spec=layers.LayerSpec(norm=norm), frozen_stages=1)
    assert all("kernel" in v.name for v in backbone.trainable_variables)
    assert len(backbone.trainable_variables) == 20  # all but the stem's
    assert {(norm.epsilon, norm.fused) for norm in norms(backbone)} == {(0.0, False)}
    with tf.GradientTape() as tape:
        loss = tf.add_n([tf.reduce_mean(f**2) for f in backbone(IMAGES, training=True).values()])
    gradients = tape.gradient(loss, backbone.trainable_variables)
    assert all(np.any(gradient != 0) for gradient in gradients)


def test_small_networks_have_no_other_place_for_their_strides():
    with pytest.raises(
        ValueError, match=r"stride_in_3x3 = False, but ResNet-18 has no other convolutions\. Allowed: True\."
    ):
        build(18, stride_in_3x3=False)
