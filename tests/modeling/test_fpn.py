"""The pyramid and the feature extractor: levels, sizes, what flows down, padding, upsampling."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling import fpn, layers

LEVELS = [(2, 6), (2, 5), (2, 7), (3, 7), (2, 4), (3, 3), (5, 5), (5, 7)]


def random_images(height, width, seed=0, batch=2):
    return np.random.RandomState(seed).normal(size=[batch, height, width, 3]).astype(np.float32)


@pytest.mark.parametrize("min_level, max_level", LEVELS)
def test_every_level_halves_the_one_before_and_odd_sizes_round_up(make_extractor, min_level, max_level):
    extractor = make_extractor(min_level=min_level, max_level=max_level)
    pyramid = extractor(random_images(97, 70), training=False)  # padded to 128 x 96
    assert [tuple(p.shape) for p in pyramid] == [
        (2, -(-128 // 2**level), -(-96 // 2**level), 8) for level in range(min_level, max_level + 1)
    ]
    assert (extractor.min_level, extractor.max_level) == (min_level, max_level)


@pytest.mark.parametrize(
    "multiple, size, covered",
    [(1, (33, 50), (33, 50)), (32, (33, 50), (64, 64)), (64, (64, 65), (64, 128)), (32, (64, 96), (64, 96))],
)
def test_images_are_padded_to_a_multiple(make_extractor, multiple, size, covered):
    extractor = make_extractor(pad_to_multiple=multiple)
    assert tuple(extractor.covered_size(tf.constant(size)).numpy()) == covered
    pyramid = extractor(random_images(*size), training=False)
    assert [tuple(p.shape[1:3]) for p in pyramid] == [
        tuple(-(-side // 2**level) for side in covered) for level in range(2, 7)
    ]


def test_padding_is_zeros_below_and_to_the_right(make_extractor):
    extractor = make_extractor()
    images = random_images(45, 70)
    padded = np.pad(images, [[0, 0], [0, 64 - 45], [0, 96 - 70], [0, 0]])
    for alone, by_hand in zip(extractor(images, training=False), extractor(padded, training=False), strict=True):
        np.testing.assert_array_equal(alone, by_hand)


def constant_kernel(layer, value):
    """Makes a convolution multiply by `value`."""
    kernel = np.zeros(layer.kernel.shape, np.float32)
    kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] = value
    layer.kernel.assign(kernel)


def test_the_smoothed_map_goes_down_and_extra_levels_feed_each_other():
    """C3, C4, C5 = 1, 10, 100; smoothing doubles; extra levels triple."""
    pyramid = fpn.FPN(
        in_filters={3: 1, 4: 1, 5: 1},
        min_level=3,
        max_level=7,
        num_filters=1,
        spec=layers.LayerSpec(activation="linear"),
    )
    for lateral in pyramid.laterals.values():
        constant_kernel(lateral, 1.0)
    for smoothing in pyramid.smoothings.values():
        constant_kernel(smoothing.conv, 2.0)
    for extra in pyramid.extras.values():
        constant_kernel(extra.conv, 3.0)
    features = {
        level: tf.fill([1, 64 >> level - 3, 64 >> level - 3, 1], value)
        for level, value in ((3, 1.0), (4, 10.0), (5, 100.0))
    }
    p3, p4, p5, p6, p7 = (np.unique(level) for level in pyramid(features, training=False))
    assert p5 == 100  # the coarsest backbone level has no 3 x 3
    assert p4 == 2 * (10 + 100)
    assert p3 == 2 * (1 + 2 * (10 + 100))  # 2 * (1 + 10 + 100) if what is not smoothed went down
    assert (p6, p7) == (300, 900)


def test_laterals_have_a_bias_and_neither_norm_nor_activation():
    spec = layers.LayerSpec(norm=layers.BatchNormSpec(), activation="relu")
    pyramid = fpn.FPN(in_filters={5: 1}, min_level=5, max_level=5, num_filters=1, spec=spec)
    assert [v.name.split("/")[-1] for v in pyramid.variables] == ["kernel:0", "bias:0"]
    constant_kernel(pyramid.laterals["5"], 1.0)
    (p5,) = pyramid({5: tf.fill([1, 2, 2, 1], -3.0)}, training=False)
    assert np.unique(p5) == -3


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"min_level": 1}, r"min_level = 1 is out of range\. Allowed: 2 to 5\."),
        ({"min_level": 6, "max_level": 7}, r"min_level = 6 is out of range\. Allowed: 2 to 5\."),
        ({"max_level": 8}, r"max_level = 8 is out of range\. Allowed: min_level = 3 to 7\."),
        ({"min_level": 4, "max_level": 3}, r"max_level = 3 is out of range\. Allowed: min_level = 4 to 7\."),
        ({"min_level": 2}, r"The backbone gives levels \[3, 4, 5\]; the pyramid needs \[2\] too\."),
    ],
)
def test_levels_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        fpn.FPN(in_filters={3: 1, 4: 1, 5: 1}, spec=layers.LayerSpec(), **{"min_level": 3, **settings})


def test_a_backbone_need_not_reach_level_5_if_the_pyramid_does_not():
    pyramid = fpn.FPN(in_filters={2: 3, 3: 3}, min_level=2, max_level=3, num_filters=4, spec=layers.LayerSpec())
    features = {2: tf.zeros([1, 8, 8, 3]), 3: tf.zeros([1, 4, 4, 3])}
    assert [p.shape[1] for p in pyramid(features, training=False)] == [8, 4]


def test_pad_to_multiple_below_one_is_refused(make_extractor):
    with pytest.raises(ValueError, match=r"pad_to_multiple = 0 is too small\. Allowed: 1 or more\."):
        make_extractor(pad_to_multiple=0)


def test_one_trace_with_unknown_sizes_serves_every_size(make_extractor):
    extractor = make_extractor()

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])], autograph=False)
    def extract(images):
        return extractor(images, training=False)

    for batch, height, width in [(1, 64, 64), (2, 33, 101), (3, 1, 1)]:
        images = random_images(height, width, batch=batch)
        for dynamic, static in zip(extract(images), extractor(images, training=False), strict=True):
            np.testing.assert_allclose(dynamic, static, atol=1e-5)
    assert extract.experimental_get_tracing_count() == 1


def test_known_image_sizes_give_known_level_sizes_in_a_graph(make_extractor):
    extractor = make_extractor()
    trace = tf.function(lambda images: extractor(images, training=True), autograph=False).get_concrete_function(
        tf.TensorSpec([2, 70, 97, 3])
    )
    assert [tuple(shape) for shape in trace.output_shapes] == [
        (2, 24, 32, 8),
        (2, 12, 16, 8),
        (2, 6, 8, 8),
        (2, 3, 4, 8),
        (2, 2, 2, 8),
    ]


def test_bfloat16_gives_bfloat16_levels(make_extractor):
    extractor = make_extractor(
        spec=layers.LayerSpec(norm=layers.BatchNormSpec(), execution=Execution(dtype="mixed_bfloat16"))
    )
    assert {p.dtype for p in extractor(random_images(64, 64), training=True)} == {tf.bfloat16}
    assert {v.dtype for v in extractor.variables} == {tf.float32}


def test_training_reaches_the_normalization(make_extractor):
    extractor = make_extractor(spec=layers.LayerSpec(norm=layers.BatchNormSpec()))
    means = [v for v in extractor.variables if "moving_mean" in v.name]
    assert len(means) == 4 + 3 + 1  # backbone, smoothings, extra
    extractor(random_images(64, 64), training=False)
    assert all(np.all(mean == 0) for mean in means)
    extractor(random_images(64, 64), training=True)
    assert all(np.any(mean != 0) for mean in means)


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 6), width=st.integers(1, 6), filters=st.integers(1, 3))
def test_upsampling_is_nearest_neighbour(height, width, filters):
    features = tf.random.stateless_normal([2, height, width, filters], [height, width])
    expected = tf.image.resize(features, [2 * height, 2 * width], method="nearest")
    np.testing.assert_array_equal(fpn.upsample_nearest(features), expected)


def test_upsampling_of_unknown_sizes():
    features = random_images(3, 5)
    dynamic = tf.function(fpn.upsample_nearest, input_signature=[tf.TensorSpec([None, None, None, 3])], autograph=False)
    np.testing.assert_array_equal(dynamic(features), fpn.upsample_nearest(features))


def test_the_gradient_of_upsampling_compiles_and_sums_each_cell_of_four():
    upstream = random_images(6, 8)

    @tf.function(jit_compile=True, autograph=False)
    def gradient(features):
        with tf.GradientTape() as tape:
            tape.watch(features)
            loss = tf.reduce_sum(fpn.upsample_nearest(features) * upstream)
        return tape.gradient(loss, features)

    expected = upstream.reshape(2, 3, 2, 4, 2, 3).sum((2, 4))
    np.testing.assert_allclose(gradient(tf.zeros([2, 3, 4, 3])), expected, rtol=1e-5, atol=1e-5)


# The pyramid of the paper ---------------------------------------------------------------------------------------------


def paper_pyramid(in_filters=1, *, max_level=7, num_filters=1, spec=None, **settings):
    return fpn.PaperFPN(
        in_filters=dict.fromkeys((3, 4, 5), in_filters),
        min_level=3,
        max_level=max_level,
        num_filters=num_filters,
        spec=spec or layers.LayerSpec(),
        **settings,
    )


def constant_levels(*values, side=64):
    return {
        level: tf.fill([1, side >> level - 3, side >> level - 3, 1], float(value))
        for level, value in zip((3, 4, 5), values, strict=True)
    }


@pytest.mark.parametrize(
    "coarse_levels, p6, p7",
    [
        (fpn.CoarseLevels.MAX_POOL, -200, -200),
        (fpn.CoarseLevels.CONV_OF_C5, -300, 0),
        (fpn.CoarseLevels.CONV_OF_P5, -600, 0),
    ],
)
def test_sums_go_down_every_level_is_smoothed_and_nothing_is_activated(coarse_levels, p6, p7):
    """C3, C4, C5 = 1, 10, -100; smoothing doubles; convolutions of coarse levels triple, with a ReLU between them."""
    pyramid = paper_pyramid(coarse_levels=coarse_levels, spec=layers.LayerSpec(activation="relu6"))
    for lateral in pyramid.laterals.values():
        constant_kernel(lateral.conv, 1.0)
    for smoothing in pyramid.smoothings.values():
        constant_kernel(smoothing.conv, 2.0)
    for extra in pyramid.extras.values():
        constant_kernel(extra, 3.0)
    levels = pyramid(constant_levels(1, 10, -100), training=False)
    assert [np.unique(level).tolist() for level in levels] == [[-178], [-180], [-200], [p6], [p7]]
    assert [level.shape[1] for level in levels] == [64, 32, 16, 8, 4]


@pytest.mark.parametrize(
    "coarse_levels, in_filters", [(fpn.CoarseLevels.CONV_OF_C5, [5, 4]), (fpn.CoarseLevels.CONV_OF_P5, [4, 4])]
)
def test_coarse_convolutions_have_the_channels_of_what_they_see_and_a_bias(coarse_levels, in_filters):
    spec = layers.LayerSpec(norm=layers.BatchNormSpec())
    pyramid = paper_pyramid(5, num_filters=4, coarse_levels=coarse_levels, spec=spec)
    assert [extra.kernel.shape[2] for extra in pyramid.extras.values()] == in_filters
    assert all(extra.use_bias for extra in pyramid.extras.values())
    assert all(isinstance(extra, layers.SymmetricConv) for extra in pyramid.extras.values())


@pytest.mark.parametrize("norm, per_conv", [(None, {"kernel", "bias"}), (layers.BatchNormSpec(), {"kernel", "beta"})])
def test_a_norm_follows_every_convolution_of_the_paper_and_takes_its_bias(norm, per_conv):
    pyramid = paper_pyramid(max_level=6, spec=layers.LayerSpec(norm=norm))
    for layer in (*pyramid.laterals.values(), *pyramid.smoothings.values()):
        assert {v.name.split("/")[-1].removesuffix(":0") for v in layer.trainable_variables} == per_conv
    assert len(pyramid.trainable_variables) == 2 * 6


def test_training_reaches_the_norms_of_the_paper():
    pyramid = paper_pyramid(max_level=6, spec=layers.LayerSpec(norm=layers.BatchNormSpec()))
    means = [v for v in pyramid.variables if "moving_mean" in v.name]
    pyramid(constant_levels(1, 10, -100), training=False)
    assert all(np.all(mean == 0) for mean in means)
    pyramid(constant_levels(1, 10, -100), training=True)
    assert all(np.any(mean != 0) for mean in means)


@pytest.mark.parametrize("size", ["17x22", "32x40", "33x31"])
def test_upsampling_to_an_exact_size_and_p6_are_those_of_pytorch(golden_dir, size):
    golden = np.load(golden_dir / "pytorch" / "stem.npz")
    pool, coarser, nearest, p6 = (
        golden[f"{size}_{name}"].transpose(0, 2, 3, 1) for name in ("pool", "conv1_stride2", "nearest", "p6")
    )
    np.testing.assert_array_equal(fpn._add_upsampled(tf.zeros_like(pool), coarser), nearest)
    pyramid = paper_pyramid(4, max_level=6, num_filters=4)
    for layer in (pyramid.laterals["5"], pyramid.smoothings["5"]):
        kernel = np.zeros(layer.conv.kernel.shape)
        kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] = np.eye(4)
        layer.conv.kernel.assign(kernel)
    height, width = pool.shape[1:3]
    finer = {level: tf.zeros([1, height << 5 - level, width << 5 - level, 4]) for level in (3, 4)}
    np.testing.assert_array_equal(pyramid({**finer, 5: pool}, training=False)[-1], p6)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 200))
def test_cell_i_of_n_gets_cell_i_times_ratio_of_the_ceil_half(size):
    """What interpolation to a size means: floor(i * in / out)."""
    coarser = -(-size // 2)
    features = tf.reshape(tf.range(coarser, dtype=tf.float32), [1, coarser, 1, 1])
    found = fpn._add_upsampled(tf.zeros([1, size, 1, 1]), features)[0, :, 0, 0]
    np.testing.assert_array_equal(found, np.arange(size) * coarser // size)


@pytest.mark.parametrize("coarse_levels", fpn.CoarseLevels)
def test_the_pyramid_of_the_paper_compiles_with_its_gradient_for_odd_sizes(coarse_levels):
    spec = layers.LayerSpec(norm=layers.BatchNormSpec())
    pyramid = paper_pyramid(2, num_filters=4, coarse_levels=coarse_levels, spec=spec)
    features = {level: random_images(side, side + 1)[..., :2] for level, side in ((3, 25), (4, 13), (5, 7))}

    def step():
        with tf.GradientTape() as tape:
            levels = pyramid(features, training=False)
            loss = tf.add_n([tf.reduce_sum(level**2) for level in levels])
        return loss, tape.gradient(loss, pyramid.trainable_variables)

    compiled = tf.function(step, jit_compile=True, autograph=False)()
    for found, expected in zip(*map(tf.nest.flatten, (compiled, step())), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_winograds_algorithm_computes_the_smoothing_of_the_paper():
    pyramid = paper_pyramid(max_level=7, spec=layers.LayerSpec(execution=Execution(winograd=True)))
    assert all(isinstance(layer.conv, layers.WinogradConv) for layer in pyramid.smoothings.values())


def test_the_pyramid_of_the_paper_in_bfloat16():
    spec = layers.LayerSpec(execution=Execution(dtype="mixed_bfloat16"))
    pyramid = paper_pyramid(coarse_levels=fpn.CoarseLevels.CONV_OF_P5, spec=spec)
    assert {level.dtype for level in pyramid(constant_levels(1, 2, 3), training=True)} == {tf.bfloat16}
