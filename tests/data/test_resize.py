"""`data/resize.py`: sizes and pixels as in the Object Detection API."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from object_detection_fpn.data import resize
from object_detection_fpn.data.resample import Interpolation


def ramp(height: int, width: int, channels: int = 3) -> tf.Tensor:
    image = np.linspace(1, 254, height * width * channels).reshape(height, width, channels)
    return tf.constant(image.astype(np.uint8))


@pytest.mark.parametrize(
    "size, min_dimension, max_dimension, expected",
    [
        ((480, 640), 600, 1024, (600, 800)),
        ((480, 640), 600, 700, (525, 700)),
        ((640, 480), 640, 640, (640, 480)),
        ((45, 70), 64, 96, (62, 96)),
        ((1, 1), 10, 20, (10, 10)),
        ((10000, 20), 600, 1024, (1024, 2)),
        ((20, 10000), 600, 1024, (2, 1024)),
        ((4, 10000), 60, 100, (1, 100)),  # the API asks for 0 rows here and crashes
    ],
)
@pytest.mark.parametrize("is_padded", [False, True])
def test_keep_aspect_ratio_obeys_both_bounds(size, min_dimension, max_dimension, expected, is_padded):
    resizer = resize.keep_aspect_ratio(
        min_dimension=min_dimension, max_dimension=max_dimension, pad_to_max_dimension=is_padded
    )
    image, true_shape = resizer(ramp(*size))
    assert true_shape.numpy().tolist() == [*expected, 3]
    assert image.shape == ((max_dimension, max_dimension, 3) if is_padded else (*expected, 3))
    assert image.dtype == tf.float32
    if is_padded:
        assert not np.any(image[expected[0] :]) and not np.any(image[:, expected[1] :])


@settings(max_examples=50, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), low=st.integers(1, 50), more=st.integers(0, 50))
def test_keep_aspect_ratio_fits_between_its_bounds(height, width, low, more):
    image, true_shape = resize.keep_aspect_ratio(min_dimension=low, max_dimension=low + more)(ramp(height, width))
    short, long = sorted(true_shape.numpy()[:2])
    assert long == low + more or short == low
    assert 1 <= short <= long <= low + more
    assert image.shape == tuple(true_shape.numpy())


@pytest.mark.parametrize(
    "condition, size, expected",
    [
        ("greater", (50, 100), (20, 40)),
        ("greater", (30, 40), (30, 40)),
        ("greater", (1, 1000), (1, 40)),
        ("smaller", (20, 50), (40, 100)),
        ("smaller", (40, 50), (40, 50)),
    ],
)
def test_conditional_shape_scales_only_what_meets_its_condition(condition, size, expected):
    image, true_shape = resize.conditional_shape(condition=condition, size_threshold=40)(ramp(*size))
    assert true_shape.numpy().tolist() == [*expected, 3]
    assert image.shape == (*expected, 3)
    if size == expected:
        np.testing.assert_array_equal(image, tf.cast(ramp(*size), tf.float32))


@pytest.mark.parametrize(
    "multiple, size, padded", [(32, (45, 70), (64, 96)), (32, (64, 32), (64, 32)), (1, (7, 5), (7, 5))]
)
def test_pad_to_multiple_keeps_pixels_and_pads_with_zeros(multiple, size, padded):
    original = ramp(*size)
    image, true_shape = resize.pad_to_multiple(multiple=multiple)(original)
    assert image.shape == (*padded, 3)
    assert true_shape.numpy().tolist() == [*size, 3]
    np.testing.assert_array_equal(image[: size[0], : size[1]], tf.cast(original, tf.float32))
    assert tf.reduce_sum(image) == tf.reduce_sum(tf.cast(original, tf.float32))


def test_identity_changes_nothing_but_the_type():
    image, true_shape = resize.identity()(ramp(5, 6))
    np.testing.assert_array_equal(image, tf.cast(ramp(5, 6), tf.float32))
    assert image.dtype == tf.float32
    assert true_shape.numpy().tolist() == [5, 6, 3]


@pytest.mark.parametrize(
    "method, expected",
    [
        ("bilinear", [10, 15, 20, 20]),  # without half-pixel centres: reads at 0, 0.5, 1, 1.5
        ("nearest", [10, 10, 20, 20]),
        ("area", [10, 10, 20, 20]),
        ("bicubic", [10, 15, 20, 20.9375]),
    ],
)
def test_each_method_samples_as_tensorflow_1_did(method, expected):
    image = tf.constant([10, 20], tf.uint8)[None, :, None]
    resized, _ = resize.fixed_shape(height=1, width=4, method=method)(image)
    np.testing.assert_allclose(resized[0, :, 0], expected, atol=1e-3)


def test_conditional_shape_aligns_corners():
    image = tf.constant([10, 20], tf.uint8)[None, :, None] * tf.ones([2, 1, 1], tf.uint8)
    resized, _ = resize.conditional_shape(condition="smaller", size_threshold=4)(image)
    np.testing.assert_allclose(resized[0, :, 0], [10, 10 + 10 / 3, 10 + 20 / 3, 20], rtol=1e-6)


def test_padding_takes_one_value_for_each_channel():
    resizer = resize.keep_aspect_ratio(
        min_dimension=4, max_dimension=4, pad_to_max_dimension=True, per_channel_pad_value=(1.5, 2.0, 3.0)
    )
    image, _ = resizer(tf.zeros([2, 4, 3]))
    np.testing.assert_array_equal(image[2:], np.broadcast_to([1.5, 2.0, 3.0], [2, 4, 3]))
    np.testing.assert_array_equal(image[:2], np.zeros([2, 4, 3]))


def test_pad_values_that_do_not_fit_the_channels_are_refused():
    resizer = resize.keep_aspect_ratio(
        min_dimension=4, max_dimension=4, pad_to_max_dimension=True, per_channel_pad_value=(1.0,)
    )
    with pytest.raises(ValueError, match="per_channel_pad_value has 1 values; the image has 3 channels"):
        resizer(tf.zeros([2, 4, 3]))


@pytest.mark.parametrize(
    "resizer",
    [
        resize.keep_aspect_ratio(
            min_dimension=8, max_dimension=8, pad_to_max_dimension=True, convert_to_grayscale=True
        ),
        resize.fixed_shape(height=8, width=8, convert_to_grayscale=True),
        resize.pad_to_multiple(multiple=8, convert_to_grayscale=True),
        resize.conditional_shape(condition="smaller", size_threshold=8, convert_to_grayscale=True),
    ],
)
def test_grayscale_has_one_channel_of_the_right_brightness(resizer):
    image, true_shape = resizer(tf.constant([200, 100, 50], tf.uint8) * tf.ones([8, 8, 1], tf.uint8))
    assert resizer.num_channels == 1
    assert image.shape == (8, 8, 1)
    assert true_shape[2] == 1
    np.testing.assert_allclose(image[0, 0, 0], 0.2989 * 200 + 0.587 * 100 + 0.114 * 50, rtol=1e-3)


@pytest.mark.parametrize(
    "resizer, size",
    [
        (resize.keep_aspect_ratio(min_dimension=8, max_dimension=9, pad_to_max_dimension=True), (9, 9)),
        (resize.keep_aspect_ratio(min_dimension=8, max_dimension=9), (None, None)),
        (resize.fixed_shape(height=8, width=9), (8, 9)),
        (resize.pad_to_multiple(multiple=8), (None, None)),
        (resize.identity(), (None, None)),
    ],
)
@pytest.mark.no_cover
def test_static_size_is_what_a_graph_knows(resizer, size):
    assert resizer.static_size == size
    traced = tf.function(lambda image: resizer(image), autograph=False)
    image, true_shape = traced.get_concrete_function(tf.TensorSpec([None, None, 3], tf.uint8)).structured_outputs
    assert tuple(image.shape) == (*size, 3)
    assert tuple(true_shape.shape) == (3,)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: resize.fixed_shape(height=0, width=5), "height = 0 is not a size"),
        (lambda: resize.pad_to_multiple(multiple=0), "multiple = 0 is not a size"),
        (
            lambda: resize.fixed_shape(height=5, width=5, method="lanczos"),
            'method = "lanczos" is unknown. Allowed: bil',
        ),
        (
            lambda: resize.keep_aspect_ratio(min_dimension=5, max_dimension=8, min_dimensions=(7, 9)),
            "min_dimensions = 9 exceeds max_dimension = 8",
        ),
        (
            lambda: resize.keep_aspect_ratio(min_dimension=5, max_dimension=8, size_rounding="ceil"),
            'size_rounding = "ceil" is unknown. Allowed: object_detection_api, floor, round',
        ),
        (
            lambda: resize.keep_aspect_ratio(
                min_dimension=5, max_dimension=8, pad_to_multiple=4, pad_to_max_dimension=True
            ),
            "pad_to_multiple = 4 does not go with pad_to_max_dimension",
        ),
        (
            lambda: resize.keep_aspect_ratio(min_dimension=9, max_dimension=8),
            "min_dimension = 9 exceeds max_dimension = 8",
        ),
        (lambda: resize.conditional_shape(condition="equal", size_threshold=8), 'condition = "equal" is unknown'),
    ],
)
def test_impossible_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        make()


# The libraries' rules -------------------------------------------------------------------------------------------------

SAMPLING = {
    "torchvision": ("floor", Interpolation(half_pixel_centers=True)),
    "detectron2": ("round", Interpolation(half_pixel_centers=True, antialias=True, round_pixels=True)),
}


@pytest.fixture(scope="module")
def golden(golden_dir):
    return dict(np.load(golden_dir / "pytorch" / "resize.npz"))


@pytest.mark.parametrize("rounding, column", [("floor", 4), ("round", 6)])
def test_sizes_are_those_of_the_libraries(golden, rounding, column):
    rows = golden["sizes"]  # h, w, min, max, torchvision's h, w, Detectron2's h, w
    found = [resize.scaled_size(tf.constant(row[:2]), int(row[2]), int(row[3]), rounding).numpy() for row in rows]
    np.testing.assert_array_equal(found, rows[:, column : column + 2])


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("library", SAMPLING)
def test_pixels_are_those_of_the_libraries(golden, library, case):
    min_dimension, max_dimension = golden[f"min_max{case}"].tolist()
    rounding, interpolation = SAMPLING[library]
    resizer = resize.keep_aspect_ratio(
        min_dimension=min_dimension, max_dimension=max_dimension, size_rounding=rounding, interpolation=interpolation
    )
    resized = resizer(tf.constant(golden[f"image{case}"]))[0].numpy()
    if library == "torchvision":
        normalized = (resized / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        np.testing.assert_allclose(normalized, golden[f"torchvision{case}"][0].transpose(1, 2, 0), atol=1e-3)
    else:
        difference = np.abs(resized - golden[f"detectron2_{case}"])
        assert difference.max() <= 1
        assert np.mean(difference > 0) < 0.002


def test_one_of_the_sides_is_drawn_by_the_seed_alone():
    resizer = resize.keep_aspect_ratio(min_dimension=6, max_dimension=40, min_dimensions=(8, 10, 16))
    drawn = [resizer(ramp(5, 7), seed=tf.constant([i, 3]))[1].numpy().tolist() for i in range(40)]
    assert {tuple(shape) for shape in drawn} == {(8, 11, 3), (10, 14, 3), (16, 22, 3)}
    assert drawn == [resizer(ramp(5, 7), seed=tf.constant([i, 3]))[1].numpy().tolist() for i in range(40)]
    assert resizer(ramp(5, 7))[1].numpy().tolist() == [6, 8, 3]


def test_drawn_sides_are_padded_to_one_size():
    resizer = resize.keep_aspect_ratio(
        min_dimension=6, max_dimension=24, min_dimensions=(8, 16), pad_to_max_dimension=True
    )
    assert resizer.static_size == (24, 24)
    for i in range(4):
        image, true_shape = resizer(ramp(5, 7), seed=tf.constant([i, 0]))
        assert image.shape == (24, 24, 3)
        assert not np.any(image[true_shape[0] :]) and np.all(image[: true_shape[0], : true_shape[1]] > 0)


@pytest.mark.parametrize("size, padded", [((8, 12), (8, 12)), ((9, 12), (12, 12)), ((9, 13), (12, 16))])
def test_padding_to_a_multiple_has_the_value_asked_for(size, padded):
    resizer = resize.keep_aspect_ratio(
        min_dimension=min(size), max_dimension=99, pad_to_multiple=4, per_channel_pad_value=(1.5, 2.0, 3.0)
    )
    image, true_shape = resizer(ramp(*size))
    assert image.shape == (*padded, 3)
    assert true_shape.numpy().tolist() == [*size, 3]
    np.testing.assert_array_equal(image[: size[0], : size[1]], tf.cast(ramp(*size), tf.float32))
    outside = np.ones(padded, bool)
    outside[: size[0], : size[1]] = False
    assert np.all(image.numpy()[outside] == [1.5, 2.0, 3.0])


@pytest.mark.parametrize(
    "is_gray, value", [(False, [100.0, 50.0, 20.0]), (True, [0.2989 * 100 + 0.587 * 50 + 0.114 * 20])]
)
def test_what_a_batch_adds_to_its_images_has_that_value_too(is_gray, value):
    resizer = resize.keep_aspect_ratio(
        min_dimension=2, max_dimension=9, per_channel_pad_value=(100, 50, 20), convert_to_grayscale=is_gray
    )
    images = tf.ones([2, 3, 4, len(value)])
    filled = resizer.fill_padding(images, tf.constant([[3, 2, 3], [1, 4, 3]])).numpy()
    np.testing.assert_allclose(filled[0, :, 2:], np.broadcast_to(value, [3, 2, len(value)]), rtol=1e-5)
    np.testing.assert_allclose(filled[1, 1:], np.broadcast_to(value, [2, 4, len(value)]), rtol=1e-5)
    assert np.all(filled[0, :, :2] == 1) and np.all(filled[1, :1] == 1)
    assert resize.identity().fill_padding(images, tf.ones([2, 3], tf.int32)) is images
