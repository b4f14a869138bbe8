from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.ops import anchors as anchor_ops

_GRID = {"scales": [0.5, 1.0], "aspect_ratios": [1.0, 4.0], "base_size": (32.0, 64.0)}
_SPEC = {"min_level": 2, "anchor_scale": 4.0, "aspect_ratios": [1.0, 2.0, 0.5], "scales_per_octave": 2}


def test_anchors_are_centred_on_cells_with_the_areas_and_shapes_asked_for():
    anchors = anchor_ops.multiscale_anchors([(2, 3), (1, 2)], **_SPEC).numpy()
    cells = anchors[:36].reshape(2, 3, 3, 2, 4)  # rows, columns, aspect ratios, scales
    centers = (cells[..., :2] + cells[..., 2:]) / 2
    np.testing.assert_allclose(centers[1, 2], np.broadcast_to([6.0, 10.0], (3, 2, 2)), rtol=1e-6)
    sides = cells[..., 2:] - cells[..., :2]
    np.testing.assert_allclose(sides[0, 0].prod(-1), [[16.0**2, 16.0**2 * 2]] * 3, rtol=1e-5)
    np.testing.assert_allclose(sides[0, 0, :, 0, 1] / sides[0, 0, :, 0, 0], [1.0, 2.0, 0.5], rtol=1e-5)
    np.testing.assert_allclose((anchors[36:, 2:] - anchors[36:, :2]).prod(-1)[:2], [32.0**2, 32.0**2 * 2], rtol=1e-5)


def test_number_of_anchors_is_static_for_static_sizes_and_right_for_dynamic_ones():
    shapes = []

    @tf.function(autograph=False)
    def static():
        anchors = anchor_ops.multiscale_anchors([(4, 4), (2, 2)], **_SPEC)
        shapes.append(anchors.shape)
        return anchors

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)], autograph=False)
    def dynamic(side):
        return anchor_ops.multiscale_anchors([(side, side), (side // 2, side // 2)], **_SPEC)

    expected = static()
    assert shapes[0] == (120, 4)
    np.testing.assert_array_equal(dynamic(tf.constant(4)), expected)
    assert dynamic(tf.constant(8)).shape == (480, 4)
    np.testing.assert_allclose(tf.function(static, jit_compile=True, autograph=False)(), expected, rtol=1e-6)


def test_cells_without_extent_have_no_anchors():
    assert anchor_ops.multiscale_anchors([(0, 5)], **_SPEC).shape == (0, 4)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"aspect_ratios": []}, r"aspect_ratios = \[\]"),
        ({"aspect_ratios": [1.0, 0.0]}, r"aspect_ratios = \[1.0, 0.0\]. Allowed: one or more positive"),
        ({"scales_per_octave": 0}, "scales_per_octave = 0. Allowed: 1 or more"),
        ({"anchor_scale": -1.0}, "anchor_scale = -1.0. Allowed: positive"),
    ],
)
def test_bad_specification_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        anchor_ops.multiscale_anchors([(1, 1)], **{**_SPEC, **change})


def test_pyramid_without_levels_is_refused():
    with pytest.raises(ValueError, match="feature_sizes is empty"):
        anchor_ops.multiscale_anchors([], **_SPEC)


# As in other libraries ------------------------------------------------------------------------------------------------

# Anchors there have ratios of height to width, 0.5, 1 and 2.
_FPN = {"min_level": 2, "anchor_scale": 8.0, "aspect_ratios": [2.0, 1.0, 0.5], "scales_per_octave": 1, "offset": 0.0}
_LIBRARIES = {"detectron2": {}, "torchvision": {"round_corners": True, "stride_of_image": True}}


@pytest.mark.parametrize("library", _LIBRARIES)
@pytest.mark.parametrize("is_static", [True, False])
def test_anchors_are_those_of_other_libraries(golden_dir, library, is_static):
    golden = np.load(golden_dir / "pytorch/anchors.npz")

    def generate(sizes):
        sizes = [tuple(tf.unstack(size)) for size in tf.unstack(sizes)] if tf.is_tensor(sizes) else sizes
        return anchor_ops.multiscale_anchors(sizes, **_FPN, **_LIBRARIES[library])

    sizes = [tuple(size) for size in golden["grid_224x288"].tolist()]
    anchors = generate(sizes) if is_static else tf.function(generate, autograph=False)(tf.constant(sizes))
    xyxy = golden[f"{library}_224x288"]  # every 5th
    np.testing.assert_allclose(anchors[::5], xyxy[:, [1, 0, 3, 2]], rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("library", _LIBRARIES)
def test_corners_of_other_libraries_are_relative_to_the_centre(golden_dir, library):
    golden = np.load(golden_dir / "pytorch/anchors.npz")
    anchors = anchor_ops.multiscale_anchors([(1, 1)] * 5, **_FPN, **_LIBRARIES[library])
    expected = golden[f"{library}_cell"].reshape(-1, 4)[:, [1, 0, 3, 2]]
    np.testing.assert_allclose(anchors, expected, rtol=1e-6)


def test_corners_are_rounded_half_to_even():
    settings = {"min_level": 0, "aspect_ratios": [1.0], "scales_per_octave": 1, "offset": 0.0}
    for side, half in [(5.0, 2.0), (7.0, 4.0), (8.0, 4.0)]:
        anchors = anchor_ops.multiscale_anchors([(1, 1)], anchor_scale=side, round_corners=True, **settings)
        np.testing.assert_array_equal(anchors, [[-half, -half, half, half]])


def test_the_stride_of_the_image_differs_where_cells_cannot_be_halved():
    sizes = [(7, 8), (4, 4)]
    anchors = anchor_ops.multiscale_anchors(
        sizes, min_level=5, anchor_scale=1.0, aspect_ratios=[1.0], scales_per_octave=1, stride_of_image=True
    )
    last = anchors[-1].numpy()
    np.testing.assert_array_equal((last[:2] + last[2:]) / 2, [3.5 * 56, 3.5 * 64])
    np.testing.assert_array_equal(last[2:] - last[:2], [64, 64])


def test_a_grid_lies_on_multiples_of_its_stride_by_aspect_ratio_then_scale():
    settings = {"stride": (16.0, 8.0), "offset": (1.0, 2.0), **_GRID}
    anchors = anchor_ops.grid_anchors([(2, 3)], **settings).numpy().reshape(2, 3, 2, 2, 4)
    centers = (anchors[..., :2] + anchors[..., 2:]) / 2
    np.testing.assert_allclose(centers[1, 2], np.broadcast_to([17.0, 18.0], (2, 2, 2)), rtol=1e-6)
    sides = anchors[0, 0, ..., 2:] - anchors[0, 0, ..., :2]
    np.testing.assert_allclose(sides, [[[16, 32], [32, 64]], [[8, 64], [16, 128]]], rtol=1e-6)


def test_a_grid_of_a_dynamic_map_is_that_of_a_static_one():
    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)], autograph=False)
    def dynamic(side):
        return anchor_ops.grid_anchors([(side, side)], **_GRID)

    np.testing.assert_array_equal(dynamic(tf.constant(3)), anchor_ops.grid_anchors([(3, 3)], **_GRID))


@pytest.mark.parametrize(
    "sizes, change, message",
    [
        ([(1, 1), (1, 1)], {}, "feature_sizes has 2 entries. Allowed: 1"),
        ([(1, 1)], {"scales": []}, r"scales = \[\]. Allowed: one or more positive"),
        ([(1, 1)], {"aspect_ratios": [0.0]}, r"aspect_ratios = \[0.0\]. Allowed: one or more positive"),
    ],
)
def test_a_bad_grid_is_refused(sizes, change, message):
    with pytest.raises(ValueError, match=message):
        anchor_ops.grid_anchors(sizes, **{**_GRID, **change})


def test_sides_may_be_whole_pixels():
    """RetinaNet of torchvision: 32, 40 and 50 pixels for thirds of an octave."""
    settings = {"min_level": 3, "anchor_scale": 4.0, "aspect_ratios": (1.0,), "scales_per_octave": 3}
    anchors = anchor_ops.multiscale_anchors([(1, 1)], **settings, whole_scales=True).numpy()
    np.testing.assert_array_equal(anchors[:, 2] - anchors[:, 0], [32.0, 40.0, 50.0])


def test_anchors_of_a_cell_may_come_scale_by_scale():
    settings = {"min_level": 3, "anchor_scale": 4.0, "aspect_ratios": (1.0, 4.0), "scales_per_octave": 2}
    ratios_outside = anchor_ops.multiscale_anchors([(1, 1)], **settings).numpy()
    scales_outside = anchor_ops.multiscale_anchors([(1, 1)], **settings, scales_first=True).numpy()
    np.testing.assert_array_equal(scales_outside, ratios_outside[[0, 2, 1, 3]])


@pytest.mark.parametrize(
    "image_size, expected",
    [
        ((64, 64), [(0.5, 0.5), (0.5, 0.5)]),
        ((64, 48), [(0.5, 0.5), (0.5, 0.0)]),
        ((40, 48), [(0.0, 0.5), (0.0, 0.0)]),
        ((None, 48), [(0.5, 0.5), (0.5, 0.5)]),
    ],
)
def test_offsets_follow_the_size_of_the_image_as_in_the_api(image_size, expected):
    assert anchor_ops.offsets_by_size(image_size, min_level=4, num_levels=2) == expected
