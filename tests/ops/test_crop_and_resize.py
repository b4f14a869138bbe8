from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.ops import crop_and_resize as crop_ops

_MODES = [("sparse", False), ("kernel", False), ("static", False), ("static", True)]  # implementation, compiled


@pytest.fixture(params=_MODES, ids=["sparse", "kernel", "static", "static compiled"])
def mode(request):
    return request.param


def _crop(pyramid, boxes, levels, *, crop_size, mode, **kwargs):
    implementation, compiled = mode

    @tf.function(jit_compile=compiled, autograph=False)
    def run(pyramid, boxes, levels):
        return crop_ops.multilevel_crop_and_resize(
            pyramid, boxes, levels, crop_size=crop_size, implementation=implementation, **kwargs
        )

    return run([tf.constant(features) for features in pyramid], boxes, levels)


def _random_case(seed=0, batch=2, rois=9, filters=3, dtype=np.float32):
    """A pyramid whose levels do not halve exactly, and boxes inside the image."""
    rng = np.random.default_rng(seed)
    pyramid = [rng.normal(size=(batch, *size, filters)).astype(dtype) for size in ((13, 9), (7, 5), (4, 3), (1, 1))]
    boxes = np.sort(rng.random((batch, rois, 2, 2)), axis=2).reshape(batch, rois, 4).astype(np.float32)
    return pyramid, boxes, rng.integers(0, len(pyramid), (batch, rois)).astype(np.int32)


def _reference(pyramid, boxes, levels, crop_size):
    """Boxes inside the image, one sample at a time."""
    out = np.zeros((*levels.shape, crop_size, crop_size, pyramid[0].shape[-1]))
    shares = np.linspace(0, 1, crop_size) if crop_size > 1 else [0.5]
    for b, r in np.ndindex(levels.shape):
        features = pyramid[levels[b, r]][b].astype(np.float64)
        last = np.array(features.shape[:2]) - 1
        ymin, xmin, ymax, xmax = boxes[b, r].astype(np.float64)
        for i, u in enumerate(shares):
            for j, v in enumerate(shares):
                y, x = (ymin + u * (ymax - ymin)) * last[0], (xmin + v * (xmax - xmin)) * last[1]
                y0, x0 = int(y), int(x)
                y1, x1 = min(y0 + 1, last[0]), min(x0 + 1, last[1])
                top = features[y0, x0] * (1 - x + x0) + features[y0, x1] * (x - x0)
                bottom = features[y1, x0] * (1 - x + x0) + features[y1, x1] * (x - x0)
                out[b, r, i, j] = top * (1 - y + y0) + bottom * (y - y0)
    return out


@pytest.fixture(scope="module")
def golden(golden_dir):
    arrays = dict(np.load(golden_dir / "ops/crop_and_resize.npz"))
    arrays["pyramid"] = [arrays[f"feature_{level}"] for level in range(4)]
    return arrays


@pytest.mark.parametrize(
    "mode, crop_size, extrapolation_value, name",
    [
        (("sparse", False), 7, 0.0, "native_7x7"),
        (("kernel", False), 7, 0.0, "native_7x7"),
        (("static", True), 7, 0.0, "matmul_7x7"),
        (("static", True), 14, 0.5, "matmul_14x14_extrapolate_0.5"),
    ],
)
def test_agrees_with_golden(golden, mode, crop_size, extrapolation_value, name):
    crops = _crop(
        golden["pyramid"],
        golden["boxes"],
        golden["levels"],
        crop_size=crop_size,
        mode=mode,
        extrapolation_value=extrapolation_value,
    )
    np.testing.assert_allclose(crops, golden[name], rtol=1e-5, atol=1e-5 * np.abs(golden[name]).max())


@pytest.mark.parametrize("crop_size", [1, 2, 7])
def test_samples_bilinearly_with_aligned_corners(mode, crop_size):
    pyramid, boxes, levels = _random_case()
    crops = _crop(pyramid, boxes, levels, crop_size=crop_size, mode=mode)
    assert crops.shape == (2, 9, crop_size, crop_size, 3)
    np.testing.assert_allclose(crops, _reference(pyramid, boxes, levels, crop_size), rtol=1e-4, atol=1e-5)


def test_crops_need_not_be_square(mode):
    pyramid, boxes, levels = _random_case()
    crops = _crop(pyramid, boxes, levels, crop_size=(5, 3), mode=mode)
    assert crops.shape == (2, 9, 5, 3, 3)
    square = _crop(pyramid, boxes, levels, crop_size=5, mode=mode)
    np.testing.assert_allclose(crops, square[:, :, :, ::2], rtol=1e-5, atol=1e-5)


def _align(pyramid, boxes, levels, *, mode, **kwargs):
    implementation, compiled = mode

    @tf.function(jit_compile=compiled, autograph=False)
    def run(pyramid, boxes, levels):
        return crop_ops.multilevel_roi_align(pyramid, boxes, levels, implementation=implementation, **kwargs)

    return run([tf.constant(features) for features in pyramid], boxes, levels)


@pytest.mark.parametrize("crop_size, samples_per_cell", [((2, 3), 2), (1, 1), (3, 1)])
def test_roi_align_averages_samples_inside_of_each_cell(mode, crop_size, samples_per_cell):
    """On a ramp, whose mean over a cell is its value at the cell's centre."""
    rows, columns = np.meshgrid(np.arange(9.0), np.arange(17.0), indexing="ij")
    ramp = (3 * rows + columns)[np.newaxis, :, :, np.newaxis].astype(np.float32)
    box = np.array([[[0.25, 0.125, 0.75, 1.0]]], np.float32)
    levels = np.zeros((1, 1), np.int32)
    pooled = _align([ramp], box, levels, crop_size=crop_size, samples_per_cell=samples_per_cell, mode=mode)
    height, width = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
    y = 8 * (0.25 + 0.5 * (np.arange(height) + 0.5) / height)
    x = 16 * (0.125 + 0.875 * (np.arange(width) + 0.5) / width)
    np.testing.assert_allclose(pooled[0, 0, :, :, 0], 3 * y[:, None] + x, rtol=1e-5)


def test_roi_align_keeps_the_type_of_the_pyramid():
    pyramid, boxes, levels = _random_case()
    pyramid = [tf.cast(features, tf.bfloat16) for features in pyramid]
    pooled = _align(pyramid, boxes, levels, crop_size=2, samples_per_cell=2, mode=_MODES[1])
    assert pooled.dtype == tf.bfloat16
    assert pooled.shape == (2, 9, 2, 2, 3)


def test_whole_image_at_its_own_size_is_itself(mode):
    features = np.arange(2 * 5 * 5 * 2, dtype=np.float32).reshape(2, 5, 5, 2)
    boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (2, 1, 1))
    crops = _crop([features], boxes, np.zeros((2, 1), np.int32), crop_size=5, mode=mode)
    np.testing.assert_allclose(crops[:, 0], features, rtol=1e-5, atol=1e-4)


def test_boxes_that_end_on_the_border_never_lose_their_last_row(mode):
    start = np.random.default_rng(0).uniform(0, 0.999, (1, 3000)).astype(np.float32)
    boxes = np.stack([start, start, np.ones_like(start), np.ones_like(start)], axis=-1)
    features = np.ones((1, 34, 50, 1), np.float32)
    crops = _crop([features], boxes, np.zeros((1, 3000), np.int32), crop_size=14, mode=mode)
    np.testing.assert_allclose(crops, np.ones(crops.shape), rtol=1e-5)


def test_beyond_the_border_lies_the_extrapolation_value(mode):
    boxes = tf.constant([[[-3.0, -3.0, -2.0, -2.0], [0.0, 2.0, 1.0, 3.0], [5.0, 5.0, 5.0, 5.0]]])
    crops = _crop(
        [np.ones((1, 8, 8, 2))], boxes, np.zeros((1, 3), np.int32), crop_size=3, mode=mode, extrapolation_value=0.25
    )
    np.testing.assert_allclose(crops, np.full(crops.shape, 0.25))


def test_degenerate_boxes_give_finite_crops(mode):
    odd = [np.nan, np.inf, -np.inf, 1e30]
    boxes = tf.constant([[[0.0] * 4, [0.5, 0.5, 0.5, 0.5], [0.9, 0.9, 0.1, 0.1], *([0.1, 0.1, v, v] for v in odd)]])
    pyramid, _, _ = _random_case(batch=1)
    crops = _crop(pyramid, boxes, np.zeros((1, 7), np.int32), crop_size=4, mode=mode).numpy()
    assert np.all(np.isfinite(crops))
    np.testing.assert_allclose(crops[0, 0], np.broadcast_to(pyramid[0][0, 0, 0], (4, 4, 3)), rtol=1e-6)
    np.testing.assert_allclose(crops[0, 1], np.broadcast_to(pyramid[0][0, 6, 4], (4, 4, 3)), rtol=1e-6)


def test_without_rois_the_crops_are_empty(mode):
    pyramid, _, _ = _random_case()
    crops = _crop(pyramid, tf.zeros([2, 0, 4]), tf.zeros([2, 0], tf.int32), crop_size=4, mode=mode)
    assert crops.shape == (2, 0, 4, 4, 3)


def test_a_level_that_no_roi_uses_changes_nothing(mode):
    pyramid, boxes, _ = _random_case()
    levels = np.full((2, 9), 1, np.int32)
    crops = _crop(pyramid, boxes, levels, crop_size=3, mode=mode)
    alone = _crop(pyramid[1:2], boxes, levels - 1, crop_size=3, mode=mode)
    np.testing.assert_allclose(crops, alone, rtol=1e-6)


def _gradient(pyramid, boxes, levels, upstream, mode):
    implementation, compiled = mode

    @tf.function(jit_compile=compiled, autograph=False)
    def run(pyramid):
        with tf.GradientTape() as tape:
            tape.watch(pyramid)
            crops = crop_ops.multilevel_crop_and_resize(
                pyramid, boxes, levels, crop_size=5, implementation=implementation
            )
            total = tf.reduce_sum(crops * upstream)
        return tape.gradient(total, pyramid)

    return run([tf.constant(features) for features in pyramid])


def test_gradient_is_that_of_finite_differences(mode):
    pyramid, boxes, levels = _random_case()
    rng = np.random.default_rng(1)
    upstream = rng.normal(size=(2, 9, 5, 5, 3)).astype(np.float32)
    gradient = _gradient(pyramid, boxes, levels, upstream, mode)
    assert [g.shape for g in gradient] == [features.shape for features in pyramid]
    for _ in range(3):
        # Crops are linear in the features, so a step of any size serves; in float64 by the reference.
        step = [rng.normal(size=features.shape) for features in pyramid]
        change = _reference([f + s for f, s in zip(pyramid, step, strict=True)], boxes, levels, 5)
        change -= _reference(pyramid, boxes, levels, 5)
        slope = sum(np.sum(g.numpy() * s) for g, s in zip(gradient, step, strict=True))
        np.testing.assert_allclose(slope, np.sum(change * upstream), rtol=1e-4)


def test_gradients_of_all_implementations_agree_where_boxes_share_cells():
    pyramid, boxes, levels = _random_case(rois=60)
    upstream = np.random.default_rng(1).normal(size=(2, 60, 5, 5, 3)).astype(np.float32)
    expected = _gradient(pyramid, boxes, levels, upstream, _MODES[0])
    for mode in _MODES[1:]:
        for mine, other in zip(_gradient(pyramid, boxes, levels, upstream, mode), expected, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4)


def test_beyond_the_border_sparse_and_kernel_give_the_same():
    pyramid, boxes, levels = _random_case(rois=40)
    boxes = boxes * 1.6 - 0.3
    crops = [
        _crop(pyramid, boxes, levels, crop_size=6, mode=(name, False), extrapolation_value=0.5)
        for name in ("sparse", "kernel")
    ]
    assert np.any(crops[0] == 0.5)
    np.testing.assert_allclose(*crops, rtol=1e-4, atol=1e-5)


def test_the_gradient_on_a_cpu_is_whole_and_the_same_every_time():
    # Enough work for several threads: TensorFlow's own kernel loses up to a tenth of this gradient, another one each time.
    pyramid, boxes, levels = _random_case(rois=400, filters=64)
    upstream = np.random.default_rng(1).normal(size=(2, 400, 5, 5, 64)).astype(np.float32)
    gradients = [_gradient(pyramid, boxes, levels, upstream, ("sparse", False)) for _ in range(3)]
    expected = _gradient(pyramid, boxes, levels, upstream, ("static", False))
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(gradients[0], expected, strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)


def test_native_on_a_machine_without_gpu_is_sparse(monkeypatch):
    pyramid, boxes, levels = _random_case()
    for gpus, name in [([], "_sparse_crop"), (["GPU:0"], "_kernel_crop")]:
        used = []
        with monkeypatch.context() as patch:
            patch.setattr(tf.config, "list_physical_devices", lambda _, gpus=gpus: gpus)
            crop = getattr(crop_ops, name)
            patch.setattr(crop_ops, name, lambda *args, crop=crop, used=used: used.append(1) or crop(*args))
            crop_ops.multilevel_crop_and_resize(
                [tf.constant(f) for f in pyramid], boxes, levels, crop_size=3, implementation="native"
            )
        assert used == [1]


def test_boxes_receive_no_gradient(mode):
    pyramid, boxes, levels = _random_case()
    boxes = tf.constant(boxes)
    with tf.GradientTape() as tape:
        tape.watch(boxes)
        total = tf.reduce_sum(
            crop_ops.multilevel_crop_and_resize(
                [tf.constant(f) for f in pyramid], boxes, levels, crop_size=3, implementation=mode[0]
            )
        )
    assert tape.gradient(total, boxes) is None


def test_bfloat16_features_keep_their_type_and_exact_coordinates(mode):
    pyramid, boxes, levels = _random_case()
    half = [tf.cast(features, tf.bfloat16) for features in pyramid]
    crops = _crop(half, boxes, levels, crop_size=7, mode=mode)
    assert crops.dtype == tf.bfloat16
    expected = _reference([tf.cast(features, tf.float32).numpy() for features in half], boxes, levels, 7)
    np.testing.assert_allclose(tf.cast(crops, tf.float32), expected, rtol=2**-7, atol=2**-7)
    upstream = tf.ones([2, 9, 5, 5, 3], tf.bfloat16)
    gradient = _gradient(half, boxes, levels, upstream, mode)
    assert all(g.dtype == tf.bfloat16 for g in gradient)


def test_program_does_not_grow_with_the_batch():
    def num_lines(batch):
        pyramid, boxes, levels = _random_case(batch=batch)

        @tf.function(jit_compile=True)
        def run(pyramid, boxes, levels):
            with tf.GradientTape() as tape:
                tape.watch(pyramid)
                crops = crop_ops.multilevel_crop_and_resize(
                    pyramid, boxes, levels, crop_size=3, implementation="static"
                )
            return tape.gradient(crops, pyramid)

        args = [tf.constant(features) for features in pyramid], tf.constant(boxes), tf.constant(levels)
        return len(run.experimental_get_compiler_ir(*args)(stage="hlo").splitlines())

    assert num_lines(2) == num_lines(7)


@pytest.mark.parametrize("implementation", crop_ops.IMPLEMENTATIONS)
def test_unknown_shapes_are_taken(implementation):
    pyramid, boxes, levels = _random_case()

    def run(pyramid, boxes, levels):
        return crop_ops.multilevel_crop_and_resize(pyramid, boxes, levels, crop_size=3, implementation=implementation)

    unknown = tf.function(
        run,
        input_signature=[
            [tf.TensorSpec([None, None, None, 3])] * 4,
            tf.TensorSpec([None, None, 4]),
            tf.TensorSpec([None, None], tf.int32),
        ],
    )
    crops = unknown([tf.constant(features) for features in pyramid], boxes, levels)
    np.testing.assert_allclose(crops, _reference(pyramid, boxes, levels, 3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side, level", [(0, 0), (111, 0), (113, 1), (223, 1), (225, 2), (447, 2), (449, 3), (4000, 3)])
def test_level_follows_box_side(side, level):
    box = tf.constant([[[0.0, 0.0, side / 1000, side / 1000]]])
    levels = crop_ops.assign_levels(box, num_levels=4, unit_level_index=2, size_ratio=1000 / 224)
    np.testing.assert_array_equal(levels, [[level]])


def test_empty_and_inverted_boxes_go_to_the_finest_level():
    boxes = tf.constant([[[0.0] * 4, [0.9, 0.9, 0.1, 0.1], [0.0, 0.0, 0.0, 1.0]]])
    levels = crop_ops.assign_levels(boxes, num_levels=4, unit_level_index=2, size_ratio=4.0)
    np.testing.assert_array_equal(levels, [[0, 0, 0]])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"implementation": "matmul"}, "implementation = 'matmul'. Allowed: native, sparse, kernel, static"),
        ({"crop_size": 0}, "crop_size = 0. Allowed: 1 or more"),
        ({"crop_size": (3, 0)}, r"crop_size = \(3, 0\). Allowed: 1 or more"),
    ],
)
def test_bad_values_are_refused(change, message):
    values = {"crop_size": 3, "implementation": "native", **change}
    with pytest.raises(ValueError, match=message):
        features, boxes, levels = tf.zeros([1, 2, 2, 1]), tf.zeros([1, 1, 4]), tf.zeros([1, 1], tf.int32)
        crop_ops.multilevel_crop_and_resize([features], boxes, levels, **values)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match=r"samples_per_cell = 0\. Allowed: 1 or more"):
        _align(*_random_case(), crop_size=2, samples_per_cell=0, mode=_MODES[0])


def test_no_levels_are_refused():
    with pytest.raises(ValueError, match=r"num_levels = 0\. Allowed: 1 or more"):
        crop_ops.assign_levels(tf.zeros([1, 1, 4]), num_levels=0, unit_level_index=0, size_ratio=1.0)
