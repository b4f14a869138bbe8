"""`data/augment/pad.py`: what each parameter does; `test_all.py` has the laws that hold for all."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.data.augment import pad


def sizes(augment, example, num=60, **settings):
    """Heights and widths of many results, [num, 2]."""
    return np.array([augment(example, seed=tf.constant([i, 0]), **settings).image.shape[:2] for i in range(num)])


@pytest.mark.parametrize(
    "settings, low, high",
    [
        ({}, (20, 30), (39, 59)),
        ({"min_image_height": 35, "min_image_width": 50}, (35, 50), (39, 59)),
        ({"max_image_height": 25, "max_image_width": 200}, (20, 30), (24, 199)),
        ({"min_image_height": 30, "max_image_height": 40}, (30, 30), (39, 59)),  # of the width nothing is said
        ({"max_image_height": 5, "max_image_width": 5}, (20, 30), (20, 30)),  # below that of the image
        (
            {"min_image_height": 25, "max_image_height": 25, "min_image_width": 40, "max_image_width": 40},
            (25, 40),
            (25, 40),
        ),
    ],
)
@pytest.mark.no_cover
def test_padded_sizes_lie_in_their_range_without_its_upper_end(draw_example, settings, low, high):
    found = sizes(pad.random_pad_image, draw_example([], 20, 30), **settings)
    margin = 0.15 * (np.array(high) - low)
    assert (found.min(axis=0) >= low).all() and (found.min(axis=0) <= low + margin).all()
    assert (found.max(axis=0) <= high).all() and (found.max(axis=0) >= high - margin).all()


@pytest.mark.parametrize(
    "settings, high",
    [
        ({}, (20, 30)),
        ({"max_height_padding": 1}, (20, 30)),
        ({"max_height_padding": 4, "max_width_padding": 9}, (23, 38)),
    ],
)
def test_absolute_padding_stays_below_its_maximum(draw_example, settings, high):
    found = sizes(pad.random_absolute_pad_image, draw_example([], 20, 30), **settings)
    assert found.min(axis=0).tolist() == [20, 30]
    assert found.max(axis=0).tolist() == list(high)


def test_the_image_comes_to_lie_anywhere(draw_example, find_box):
    corners = []
    for i in range(60):
        after = pad.random_pad_image(
            draw_example([(0, 0, 20, 30)], 20, 30),
            seed=tf.constant([i, 0]),
            pad_color=(0,),
            **{f"{end}_image_{side}": 80 for end in ("min", "max") for side in ("height", "width")},
        )
        corners.append(find_box(after)[:2])
    corners = np.array(corners)
    assert (corners.min(axis=0) < 10).all()
    assert (corners.max(axis=0) > (50, 40)).all() and (corners.max(axis=0) < (60, 50)).all()


@pytest.mark.parametrize(
    "pad_color, expected",
    [
        ((), (63.75, 0, 127.5, 0)),  # the mean
        ((7,), (7, 7, 7, 7)),
        ((1, 2, 3), (1, 2, 3, 0)),
        ((1, 2, 3, 4), (1, 2, 3, 4)),
    ],
)
def test_padding_has_the_colour_asked_for(draw_example, pad_color, expected):
    image = np.zeros([20, 30, 4], np.uint8)
    image[:10, :15, 0] = 255
    image[:10, :, 2] = 255
    before = draw_example([], 20, 30)._replace(image=tf.constant(image))
    size = {f"{end}_image_{side}": 40 for end in ("min", "max") for side in ("height", "width")}
    after = pad.random_pad_image(before, seed=tf.constant([1, 2]), pad_color=pad_color, **size).image.numpy()
    unusual = (after == np.array(expected)).all(axis=-1)
    assert unusual.sum() >= 40 * 40 - 20 * 30
    rows, columns = np.flatnonzero(~unusual.all(axis=1)), np.flatnonzero(~unusual.all(axis=0))
    assert len(rows) <= 20 and len(columns) <= 30


@pytest.mark.parametrize("pad_color, channels", [((1, 2), 3), ((1, 2, 3, 4), 3), ((1, 2), 4)])
def test_colours_that_do_not_fit_the_channels_are_refused(draw_example, pad_color, channels):
    with pytest.raises(ValueError, match=rf"pad_color has {len(pad_color)} values; the image has {channels} channels"):
        pad.random_pad_image(draw_example([], channels=channels), seed=tf.constant([1, 2]), pad_color=pad_color)


@pytest.mark.parametrize(
    "aspect_ratio, low_ratio, high_ratio, low, high",
    [
        (1.0, (1.0, 1.0), (1.0, 1.0), (30, 30), (30, 30)),
        (1.5, (1.0, 1.0), (2.0, 2.0), (20, 30), (40, 60)),
        (1.5, (1.5, 1.0), (2.0, 2.0), (30, 45), (40, 60)),
        (3.0, (1.0, 1.0), (4.0, 4.0), (20, 60), (40, 120)),
        (0.5, (1.0, 1.0), (1.0, 1.0), (60, 30), (60, 30)),
    ],
)
@pytest.mark.no_cover
def test_padding_to_an_aspect_ratio_is_black_below_and_to_the_right(
    draw_example, find_box, aspect_ratio, low_ratio, high_ratio, low, high
):
    before = draw_example([(0, 0, 20, 30)], 20, 30)
    settings = {
        "aspect_ratio": aspect_ratio, "min_padded_size_ratio": low_ratio, "max_padded_size_ratio": high_ratio
    }  # fmt: skip
    found = sizes(pad.random_pad_to_aspect_ratio, before, num=30, **settings)
    np.testing.assert_allclose(found[:, 1] / found[:, 0], aspect_ratio, rtol=0.03)
    margin = 0.2 * (np.array(high) - low)
    assert (found.min(axis=0) >= low).all() and (found.min(axis=0) <= low + margin).all()
    assert (found.max(axis=0) <= high).all() and (found.max(axis=0) >= high - margin).all()
    after = pad.random_pad_to_aspect_ratio(before, seed=tf.constant([1, 2]), **settings)
    np.testing.assert_array_equal(find_box(after), [0, 0, 20, 30])
    assert after.image.numpy().sum() == 20 * 30 * 255
