from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.ops import crop_and_resize as crop_ops
from object_detection_fpn.ops.crop_and_resize import RoIAlign, kernel, sparse, static
from object_detection_fpn.ops.crop_and_resize.align import locate_bins

# (function, compiled)
MODES = [(sparse.align, False), (kernel.align, False), (static.align, False), (static.align, True)]
IDS = ["sparse", "kernel", "static", "static compiled"]
SIZES = ((13, 17), (7, 9), (5, 2), (1, 1))
STRIDES = (4.0, 8.0, 16.0, 32.0)

# Pixels of an image of 52 x 68. None has a sample exactly one cell beyond the border, where rounding decides whether it is 0.
ODD_BOXES = [
    [0.0, 0.0, 52.0, 68.0],
    [30.0, 40.0, 60.3, 80.7],  # over the border
    [-20.0, -9.0, 15.0, 20.0],
    [-40.0, -40.0, -10.0, -10.0],  # outside
    [62.0, 78.0, 92.0, 108.0],
    [10.0, 10.0, 10.0, 10.0],  # empty
    [12.0, 10.0, 12.0, 30.0],
    [5.0, 17.0, 40.0, 17.0],
    [20.2, 20.1, 20.4, 20.3],  # tiny
    [-60.0, -60.0, 110.0, 130.0],  # huge
    [30.0, 30.0, 20.0, 15.0],  # inverted
]


@pytest.fixture(params=MODES, ids=IDS)
def mode(request):
    return request.param


def align(pyramid, boxes, levels, *, mode, roi_align, strides=STRIDES, upstream=None):
    """What it gives, and if `upstream` is given the gradient of the pyramid as well."""
    function, compiled = mode

    @tf.function(jit_compile=compiled, autograph=False)
    def run(pyramid, boxes, levels):
        with tf.GradientTape() as tape:
            tape.watch(pyramid)
            pooled = crop_ops.align_by(
                function, pyramid, boxes, levels, strides=strides[: len(pyramid)], roi_align=roi_align
            )
            total = tf.reduce_sum(tf.cast(pooled, tf.float32) * (0.0 if upstream is None else upstream))
        return pooled if upstream is None else (pooled, *tape.gradient(total, pyramid))

    return run([tf.constant(features) for features in pyramid], tf.constant(boxes), tf.constant(levels))


def random_case(*, num_rois=20, dtype="float32", seed=0):
    """Boxes of all sizes, some over the border, and the odd ones, on levels that are not square."""
    rng = np.random.default_rng(seed)
    pyramid = [tf.cast(rng.normal(size=(2, *size, 3)), dtype) for size in SIZES]
    centers, sides = rng.uniform(0, 60, (2, num_rois, 2)), rng.uniform(1, 50, (2, num_rois, 2))
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], -1)
    boxes = np.concatenate([boxes, np.tile(ODD_BOXES, (2, 1, 1))], 1).astype(np.float32)
    return pyramid, boxes, rng.integers(0, len(SIZES), boxes.shape[:2]).astype(np.int32)


ADAPTIVE = [(sparse.align, False), (static.align, True)]  # the kernel does not sample so


def golden_case(golden_dir, *, stride, size, ratio, aligned):
    golden = np.load(golden_dir / "pytorch/ops/roi_align.npz")
    rois, features = golden["rois"], golden[f"map_stride{stride}"].transpose(0, 2, 3, 1)
    assert rois[:, 0].tolist() == [0, 1] * (len(rois) // 2)  # those of both images come in turn
    boxes = rois[:, [2, 1, 4, 3]].reshape(-1, 2, 4).transpose(1, 0, 2)
    pooled = golden[f"stride{stride}_aligned{int(aligned)}_ratio{ratio}_out{size[0]}x{size[1]}"].transpose(0, 2, 3, 1)
    return features, boxes, pooled.reshape(-1, 2, *pooled.shape[1:]).transpose(1, 0, 2, 3, 4)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("stride, size", [(4, (7, 7)), (8, (5, 3))])
@pytest.mark.no_cover
def test_agrees_with_pytorch(golden_dir, mode, stride, size, ratio, aligned):
    features, boxes, expected = golden_case(golden_dir, stride=stride, size=size, ratio=ratio, aligned=aligned)
    roi_align = RoIAlign(output_size=size, sampling_ratio=ratio, aligned=aligned)
    levels = np.zeros(boxes.shape[:2], np.int32)
    pooled = align([features], boxes, levels, mode=mode, roi_align=roi_align, strides=(stride,))
    np.testing.assert_allclose(pooled, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("stride, size", [(4, (7, 7)), (8, (5, 3))])
@pytest.mark.parametrize("mode", ADAPTIVE)
@pytest.mark.no_cover
def test_adaptive_sampling_agrees_with_pytorch(golden_dir, mode, stride, size, aligned):
    features, boxes, expected = golden_case(golden_dir, stride=stride, size=size, ratio=0, aligned=aligned)
    roi_align = RoIAlign(output_size=size, sampling_ratio=0, aligned=aligned)
    levels = np.zeros(boxes.shape[:2], np.int32)
    pooled = align([features], boxes, levels, mode=mode, roi_align=roi_align, strides=(stride,)).numpy()
    if mode[0] is static.align:  # exact up to its bound
        wanted = np.ceil((boxes[..., 2:] - boxes[..., :2]) / stride / size).max(-1)
        exact = wanted <= roi_align.max_static_samples
        assert 20 < exact.sum() < exact.size
        pooled, expected = pooled[exact], expected[exact]
    np.testing.assert_allclose(pooled, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"sampling_ratio": 1},
        {"sampling_ratio": 2},
        {"sampling_ratio": 3, "aligned": False},
        {"sampling_ratio": 2, "aligned": False, "output_size": (2, 4)},
        {"sampling_ratio": 0},
        {"sampling_ratio": 0, "max_static_samples": 3, "aligned": False, "output_size": (5, 6)},
    ],
    ids=str,
)
@pytest.mark.no_cover
def test_implementations_agree_forward_and_backward(settings):
    pyramid, boxes, levels = random_case()
    roi_align = RoIAlign(**{"output_size": 5, **settings})
    if not roi_align.sampling_ratio:  # which is bounded in `static`
        wanted = (boxes[..., 2:] - boxes[..., :2]).max(-1) / np.array(STRIDES)[levels] / 5
        boxes[wanted > roi_align.max_static_samples] = 1.0
    upstream = np.random.default_rng(1).normal(size=(*levels.shape, *roi_align.size, 3)).astype(np.float32)
    modes = [*ADAPTIVE, *([(kernel.align, False)] if roi_align.sampling_ratio else [])]
    expected, *others = (
        align(pyramid, boxes, levels, mode=mode, roi_align=roi_align, upstream=upstream) for mode in modes
    )
    assert [values.shape for values in expected[1:]] == [features.shape for features in pyramid]
    assert all(np.any(values) for values in expected)
    for found in others:
        for values, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.no_cover
def test_gradient_is_the_transposed_of_the_forward_pass(mode):
    """Values are linear in the features: upstream times values of any features is their product with the gradient."""
    pyramid, boxes, levels = random_case(seed=2)
    roi_align = RoIAlign(output_size=3, sampling_ratio=2)
    upstream = np.random.default_rng(3).normal(size=(*levels.shape, 3, 3, 3)).astype(np.float32)
    pooled, *gradient = align(pyramid, boxes, levels, mode=mode, roi_align=roi_align, upstream=upstream)
    product = sum(np.sum(g.numpy() * p.numpy()) for g, p in zip(gradient, pyramid, strict=True))
    np.testing.assert_allclose(product, np.sum(pooled.numpy() * upstream), rtol=1e-4)


@pytest.mark.parametrize("mode", [(sparse.align, False), (kernel.align, False), (static.align, True)])
@pytest.mark.no_cover
def test_bfloat16_features_keep_their_type_and_exact_coordinates(mode):
    """In bfloat16, pixel 513 equals 512."""
    ramp = tf.reshape(tf.range(130.0), [1, 130, 1, 1]) * tf.ones([1, 1, 130, 1])
    boxes = np.array([[[512.0, 0, 516, 8], [513.0, 0, 517, 8]]], np.float32)
    levels, roi_align = np.zeros((1, 2), np.int32), RoIAlign(output_size=1, sampling_ratio=2)
    upstream = np.ones((1, 2, 1, 1, 1), np.float32)
    pooled, gradient = align(
        [tf.cast(ramp, tf.bfloat16)], boxes, levels, mode=mode, roi_align=roi_align, upstream=upstream
    )
    assert pooled.dtype == gradient.dtype == tf.bfloat16
    np.testing.assert_array_equal(tf.cast(pooled, tf.float32)[0, :, 0, 0, 0], [128.0, 128.0])
    half = [tf.cast(ramp - 128.0, tf.bfloat16)]  # around 0, where bfloat16 tells quarters apart
    pooled = align(half, boxes, levels, mode=mode, roi_align=roi_align)
    np.testing.assert_array_equal(tf.cast(pooled, tf.float32)[0, :, 0, 0, 0], [0.0, 0.25])


@pytest.mark.parametrize("max_samples", [1, 3])
@pytest.mark.no_cover
def test_adaptive_sampling_is_bounded_where_shapes_are_static(max_samples):
    rng = np.random.default_rng(0)
    features = [rng.normal(size=(1, 16, 16, 2)).astype(np.float32)]
    boxes, levels = np.array([[[4.0, 8, 60, 60], [0, 0, 8, 4]]], np.float32), np.zeros((1, 2), np.int32)

    def pool(function, **settings):
        roi_align = RoIAlign(output_size=2, **settings)
        return align(features, boxes, levels, mode=(function, False), roi_align=roi_align)

    bounded = pool(static.align, sampling_ratio=0, max_static_samples=max_samples)
    np.testing.assert_allclose(
        bounded[:, 0], pool(sparse.align, sampling_ratio=max_samples)[:, 0], rtol=1e-5, atol=1e-5
    )
    exact = pool(sparse.align, sampling_ratio=0, max_static_samples=max_samples)
    np.testing.assert_allclose(bounded[:, 1], exact[:, 1], rtol=1e-5, atol=1e-5)
    assert not np.allclose(bounded[:, 0], exact[:, 0], atol=1e-3)


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize(
    "boxes", [np.zeros((2, 0, 4)), np.tile([[[-90.0, -90, -60, -60]]], (2, 3, 1))], ids=["no", "far"]
)
@pytest.mark.no_cover
def test_without_anything_to_sample_all_is_zero(boxes, ratio):
    pyramid, _, _ = random_case()
    roi_align = RoIAlign(output_size=4, sampling_ratio=ratio, max_static_samples=2)
    levels = np.zeros(boxes.shape[:2], np.int32)
    for mode in ADAPTIVE:
        upstream = np.ones((*levels.shape, 4, 4, 3), np.float32)
        found = align(pyramid, boxes.astype(np.float32), levels, mode=mode, roi_align=roi_align, upstream=upstream)
        assert found[0].shape == upstream.shape
        assert not any(np.any(values) for values in found)


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.no_cover
def test_boxes_that_are_not_finite_give_finite_values(ratio):
    values = [np.nan, np.inf, -np.inf, 1e30, 3e38]
    boxes = np.array([[[0.1, 0.1, v, v] for v in values] + [[-3e38, -3e38, 3e38, 3e38]]], np.float32)
    features = [np.ones((1, 5, 6, 2), np.float32)]
    for mode in ADAPTIVE:
        roi_align = RoIAlign(output_size=2, sampling_ratio=ratio, max_static_samples=2)
        pooled = align(features, boxes, np.zeros((1, 6), np.int32), mode=mode, roi_align=roi_align)
        assert np.all(np.isfinite(pooled))


@pytest.mark.parametrize(
    "function, ratio", [(sparse.align, 0), (sparse.align, 2), (kernel.align, 2), (static.align, 2)]
)
@pytest.mark.no_cover
def test_unknown_shapes_are_taken(function, ratio):
    pyramid, boxes, levels = random_case()
    roi_align = RoIAlign(output_size=3, sampling_ratio=ratio)
    unknown = tf.function(
        lambda *args: crop_ops.align_by(function, *args, strides=STRIDES, roi_align=roi_align),
        input_signature=[
            [tf.TensorSpec([None, None, None, 3])] * 4,
            tf.TensorSpec([None, None, 4]),
            tf.TensorSpec([None, None], tf.int32),
        ],
        autograph=False,
    )
    expected = align(pyramid, boxes, levels, mode=(sparse.align, False), roi_align=roi_align)
    found = unknown(pyramid, boxes, levels)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert unknown(pyramid, boxes[:, :0], levels[:, :0]).shape == (2, 0, 3, 3, 3)


def test_adaptive_bins_touch_no_more_cells_than_they_must():
    """Samples less than a cell apart share their cells."""
    features, levels = tf.zeros([1, 20, 20, 1]), tf.zeros([1, 2], tf.int32)
    boxes = tf.constant([[[1.0, 0.0, 57.0, 28.0], [1.0, 1.0, 57.0, 8.0]]])  # bins of 2 rows, and of 1 column or less
    between = locate_bins(
        [features], boxes, levels, strides=[4.0], roi_align=RoIAlign(output_size=7, sampling_ratio=0), static=False
    )
    assert between.rows.shape == (1, 2, 7, 3)
    assert between.columns.shape == (1, 2, 7, 2)
    np.testing.assert_allclose(tf.reduce_sum(between.column_weights, -1), np.ones([1, 2, 7]), rtol=1e-6)


def test_native_on_a_machine_with_gpu_is_the_kernel_unless_sampling_is_adaptive(monkeypatch):
    pyramid, boxes, levels = random_case()
    cases = [([], 2, "sparse_align"), (["GPU:0"], 2, "kernel_align"), (["GPU:0"], 0, "sparse_align")]
    for gpus, ratio, name in cases:
        used = []
        with monkeypatch.context() as patch:
            patch.setattr(tf.config, "list_physical_devices", lambda _, gpus=gpus: gpus)
            function = getattr(crop_ops, name)
            patch.setattr(
                crop_ops, name, lambda *a, function=function, used=used, **k: used.append(1) or function(*a, **k)
            )
            crop_ops.multilevel_roi_align(
                pyramid, boxes, levels, strides=STRIDES, roi_align=RoIAlign(sampling_ratio=ratio)
            )
        assert used == [1]


def test_boxes_receive_no_gradient(mode):
    pyramid, boxes, levels = random_case()
    boxes = tf.constant(boxes)
    with tf.GradientTape() as tape:
        tape.watch(boxes)
        total = tf.reduce_sum(
            crop_ops.align_by(mode[0], pyramid, boxes, levels, strides=STRIDES, roi_align=RoIAlign(output_size=2))
        )
    assert tape.gradient(total, boxes) is None


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"output_size": 0}, r"output_size = 0\. Allowed: 1 or more"),
        ({"output_size": (3, 0)}, r"output_size = \(3, 0\)\. Allowed: 1 or more"),
        ({"sampling_ratio": -1}, r"sampling_ratio = -1\. Allowed: 0 or more"),
        ({"max_static_samples": 0}, r"max_static_samples = 0\. Allowed: 1 or more"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RoIAlign(**settings)


def test_a_stride_is_needed_for_each_level():
    pyramid, boxes, levels = random_case()
    with pytest.raises(ValueError, match=r"strides = \[4\.0\] for 4 levels\. Allowed: one for each level"):
        crop_ops.multilevel_roi_align(pyramid, boxes, levels, strides=[4.0], roi_align=RoIAlign())
