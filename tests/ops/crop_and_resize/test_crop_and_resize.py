from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.ops import crop_and_resize as crop_ops
from object_detection_fpn.ops.crop_and_resize import kernel, sparse, static

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time


@pytest.fixture(scope="module")
def golden(golden_dir):
    arrays = dict(np.load(golden_dir / "ops/crop_and_resize.npz"))
    arrays["pyramid"] = [arrays[f"feature_{level}"] for level in range(4)]
    return arrays


@pytest.mark.parametrize(
    "mode, crop_size, extrapolation_value, name",
    [
        ((sparse.crop, False), 7, 0.0, "native_7x7"),
        ((kernel.crop, False), 7, 0.0, "native_7x7"),
        ((static.crop, True), 7, 0.0, "matmul_7x7"),
        ((static.crop, True), 14, 0.5, "matmul_14x14_extrapolate_0.5"),
    ],
)
def test_agrees_with_golden(golden, mode, crop_size, extrapolation_value, name, crop):
    crops = crop(
        golden["pyramid"],
        golden["boxes"],
        golden["levels"],
        crop_size=crop_size,
        mode=mode,
        extrapolation_value=extrapolation_value,
    )
    np.testing.assert_allclose(crops, golden[name], rtol=1e-5, atol=1e-5 * np.abs(golden[name]).max())


@pytest.mark.parametrize("crop_size", [1, 2, 7])
def test_samples_bilinearly_with_aligned_corners(mode, crop_size, crop, random_case, reference):
    pyramid, boxes, levels = random_case()
    crops = crop(pyramid, boxes, levels, crop_size=crop_size, mode=mode)
    assert crops.shape == (2, 9, crop_size, crop_size, 3)
    np.testing.assert_allclose(crops, reference(pyramid, boxes, levels, crop_size), rtol=1e-4, atol=1e-5)


def test_crops_need_not_be_square(mode, crop, random_case):
    pyramid, boxes, levels = random_case()
    crops = crop(pyramid, boxes, levels, crop_size=(5, 3), mode=mode)
    assert crops.shape == (2, 9, 5, 3, 3)
    square = crop(pyramid, boxes, levels, crop_size=5, mode=mode)
    np.testing.assert_allclose(crops, square[:, :, :, ::2], rtol=1e-5, atol=1e-5)


def test_whole_image_at_its_own_size_is_itself(mode, crop):
    features = np.arange(2 * 5 * 5 * 2, dtype=np.float32).reshape(2, 5, 5, 2)
    boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (2, 1, 1))
    crops = crop([features], boxes, np.zeros((2, 1), np.int32), crop_size=5, mode=mode)
    np.testing.assert_allclose(crops[:, 0], features, rtol=1e-5, atol=1e-4)


def test_boxes_that_end_on_the_border_never_lose_their_last_row(mode, crop):
    start = np.random.default_rng(0).uniform(0, 0.999, (1, 3000)).astype(np.float32)
    boxes = np.stack([start, start, np.ones_like(start), np.ones_like(start)], axis=-1)
    features = np.ones((1, 34, 50, 1), np.float32)
    crops = crop([features], boxes, np.zeros((1, 3000), np.int32), crop_size=14, mode=mode)
    np.testing.assert_allclose(crops, np.ones(crops.shape), rtol=1e-5)


def test_beyond_the_border_lies_the_extrapolation_value(mode, crop):
    boxes = tf.constant([[[-3.0, -3.0, -2.0, -2.0], [0.0, 2.0, 1.0, 3.0], [5.0, 5.0, 5.0, 5.0]]])
    crops = crop(
        [np.ones((1, 8, 8, 2))], boxes, np.zeros((1, 3), np.int32), crop_size=3, mode=mode, extrapolation_value=0.25
    )
    np.testing.assert_allclose(crops, np.full(crops.shape, 0.25))


def test_degenerate_boxes_give_finite_crops(mode, crop, random_case):
    odd = [np.nan, np.inf, -np.inf, 1e30]
    boxes = tf.constant([[[0.0] * 4, [0.5, 0.5, 0.5, 0.5], [0.9, 0.9, 0.1, 0.1], *([0.1, 0.1, v, v] for v in odd)]])
    pyramid, _, _ = random_case(batch=1)
    crops = crop(pyramid, boxes, np.zeros((1, 7), np.int32), crop_size=4, mode=mode).numpy()
    assert np.all(np.isfinite(crops))
    np.testing.assert_allclose(crops[0, 0], np.broadcast_to(pyramid[0][0, 0, 0], (4, 4, 3)), rtol=1e-6)
    np.testing.assert_allclose(crops[0, 1], np.broadcast_to(pyramid[0][0, 6, 4], (4, 4, 3)), rtol=1e-6)


def test_without_rois_the_crops_are_empty(mode, crop, random_case):
    pyramid, _, _ = random_case()
    crops = crop(pyramid, tf.zeros([2, 0, 4]), tf.zeros([2, 0], tf.int32), crop_size=4, mode=mode)
    assert crops.shape == (2, 0, 4, 4, 3)


def test_a_level_that_no_roi_uses_changes_nothing(mode, crop, random_case):
    pyramid, boxes, _ = random_case()
    levels = np.full((2, 9), 1, np.int32)
    crops = crop(pyramid, boxes, levels, crop_size=3, mode=mode)
    alone = crop(pyramid[1:2], boxes, levels - 1, crop_size=3, mode=mode)
    np.testing.assert_allclose(crops, alone, rtol=1e-6)


def test_gradient_is_that_of_finite_differences(mode, gradient_of, random_case, reference):
    pyramid, boxes, levels = random_case()
    rng = np.random.default_rng(1)
    upstream = rng.normal(size=(2, 9, 5, 5, 3)).astype(np.float32)
    gradient = gradient_of(pyramid, boxes, levels, upstream, mode)
    assert [g.shape for g in gradient] == [features.shape for features in pyramid]
    for _ in range(3):
        # Crops are linear in the features, so a step of any size serves; in float64 by the reference.
        step = [rng.normal(size=features.shape) for features in pyramid]
        change = reference([f + s for f, s in zip(pyramid, step, strict=True)], boxes, levels, 5)
        change -= reference(pyramid, boxes, levels, 5)
        slope = sum(np.sum(g.numpy() * s) for g, s in zip(gradient, step, strict=True))
        np.testing.assert_allclose(slope, np.sum(change * upstream), rtol=1e-4)


def test_gradients_of_all_implementations_agree_where_boxes_share_cells(gradient_of, random_case):
    pyramid, boxes, levels = random_case(rois=60)
    upstream = np.random.default_rng(1).normal(size=(2, 60, 5, 5, 3)).astype(np.float32)
    expected = gradient_of(pyramid, boxes, levels, upstream, (sparse.crop, False))
    for mode in [(kernel.crop, False), (static.crop, False), (static.crop, True)]:
        for mine, other in zip(gradient_of(pyramid, boxes, levels, upstream, mode), expected, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4)


def test_native_on_a_machine_without_gpu_is_sparse(monkeypatch, random_case):
    pyramid, boxes, levels = random_case()
    for gpus, name in [([], "sparse_crop"), (["GPU:0"], "kernel_crop")]:
        used = []
        with monkeypatch.context() as patch:
            patch.setattr(tf.config, "list_physical_devices", lambda _, gpus=gpus: gpus)
            function = getattr(crop_ops, name)
            patch.setattr(crop_ops, name, lambda *args, function=function, used=used: used.append(1) or function(*args))
            crop_ops.multilevel_crop_and_resize([tf.constant(f) for f in pyramid], boxes, levels, crop_size=3)
        assert used == [1]


def test_boxes_receive_nogradient_of(mode, random_case):
    pyramid, boxes, levels = random_case()
    boxes = tf.constant(boxes)
    with tf.GradientTape() as tape:
        tape.watch(boxes)
        total = tf.reduce_sum(crop_ops.crop_by(mode[0], [tf.constant(f) for f in pyramid], boxes, levels, 3))
    assert tape.gradient(total, boxes) is None


def test_bfloat16_features_keep_their_type_and_exact_coordinates(mode, crop, gradient_of, random_case, reference):
    pyramid, boxes, levels = random_case()
    half = [tf.cast(features, tf.bfloat16) for features in pyramid]
    crops = crop(half, boxes, levels, crop_size=7, mode=mode)
    assert crops.dtype == tf.bfloat16
    expected = reference([tf.cast(features, tf.float32).numpy() for features in half], boxes, levels, 7)
    np.testing.assert_allclose(tf.cast(crops, tf.float32), expected, rtol=2**-7, atol=2**-7)
    upstream = tf.ones([2, 9, 5, 5, 3], tf.bfloat16)
    gradient = gradient_of(half, boxes, levels, upstream, mode)
    assert all(g.dtype == tf.bfloat16 for g in gradient)


@pytest.mark.parametrize("function", [sparse.crop, kernel.crop, static.crop])
def test_unknown_shapes_are_taken(function, random_case, reference):
    pyramid, boxes, levels = random_case()

    def run(pyramid, boxes, levels):
        return crop_ops.crop_by(function, pyramid, boxes, levels, 3)

    unknown = tf.function(
        run,
        input_signature=[
            [tf.TensorSpec([None, None, None, 3])] * 4,
            tf.TensorSpec([None, None, 4]),
            tf.TensorSpec([None, None], tf.int32),
        ],
        autograph=False,
    )
    crops = unknown([tf.constant(features) for features in pyramid], boxes, levels)
    np.testing.assert_allclose(crops, reference(pyramid, boxes, levels, 3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"crop_size": 0}, "crop_size = 0. Allowed: 1 or more"),
        ({"crop_size": (3, 0)}, r"crop_size = \(3, 0\). Allowed: 1 or more"),
    ],
)
def test_bad_values_are_refused(change, message):
    values = {"crop_size": 3, **change}
    with pytest.raises(ValueError, match=message):
        features, boxes, levels = tf.zeros([1, 2, 2, 1]), tf.zeros([1, 1, 4]), tf.zeros([1, 1], tf.int32)
        crop_ops.multilevel_crop_and_resize([features], boxes, levels, **values)


def _crops_and_gradient(function, pyramid, boxes, levels, *, compiled, upstream):
    @tf.function(jit_compile=compiled, autograph=False)
    def run(pyramid, boxes, levels):
        with tf.GradientTape() as tape:
            tape.watch(pyramid)
            crops = crop_ops.crop_by(function, pyramid, boxes, levels, upstream.shape[2:4], 0.5)
            total = tf.reduce_sum(tf.cast(crops, tf.float32) * upstream)
        return crops, *tape.gradient(total, pyramid)

    return [tf.cast(values, tf.float32).numpy() for values in run(pyramid, boxes, levels)]


@pytest.mark.parametrize(
    "dtype, sizes, num_rois, tolerance",
    [
        ("float32", [(8, 6), (4, 3)], 9, 1e-5),
        ("bfloat16", [(8, 6), (4, 3)], 9, 2**-7),
        ("float16", [(8, 6), (4, 3)], 9, 2**-10),
        ("float32", [(5, 1)], 1, 1e-5),
    ],
)
def test_implementations_agree_on_odd_boxes_inside_the_image(dtype, sizes, num_rois, tolerance):
    rng = np.random.default_rng(0)
    boxes = rng.random((2, num_rois, 4)).astype(np.float32)  # half of them inverted along an axis
    # Empty, a line, a point on the last corner, the whole image, not finite.
    odd = [[0.3] * 4, [0.2, 0.2, 0.2, 0.8], [1.0] * 4, [0.0, 0.0, 1.0, 1.0], [np.nan] * 4]
    boxes[0, : len(odd)] = odd[:num_rois]
    levels = rng.integers(0, len(sizes), (2, num_rois)).astype(np.int32)
    pyramid = [tf.cast(rng.normal(size=(2, *size, 3)), dtype) for size in sizes]
    upstream = rng.normal(size=(2, num_rois, 5, 2, 3)).astype(np.float32)
    expected = _crops_and_gradient(kernel.crop, pyramid, boxes, levels, compiled=False, upstream=upstream)
    for function, compiled in [(sparse.crop, False), (static.crop, True)]:
        found = _crops_and_gradient(function, pyramid, boxes, levels, compiled=compiled, upstream=upstream)
        for values, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(values, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())
