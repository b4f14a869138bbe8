"""What is counted, by hand-worked cases."""

from __future__ import annotations

import numpy as np
import pytest

from object_detection_fpn.tools.inspect import charts, statistics


def box(height, width, top=0.0, left=0.0):
    return [top, left, top + height, left + width]


def test_classes_are_counted_with_crowds_apart():
    boxes = np.array([box(10, 10), box(40, 20), box(100, 100), box(50, 50)])
    found = statistics.class_statistics(
        {0: "a", 1: "b", 2: "never"},
        images=np.array([0, 0, 1, 2]),
        classes=np.array([0, 0, 0, 4]),
        is_crowd=np.array([False, False, True, False]),
        boxes=boxes,
        training_boxes=boxes * 2,
    )
    a, b, never, unnamed = found
    assert (a.id, a.name, a.num_boxes, a.num_images, a.num_crowds) == (1, "a", 2, 2, 1)
    assert a.coco_sizes == (1.0, 0.0, 0.0)  # 40 x 20 < 32 x 32
    assert a.median_side == pytest.approx((20 + np.sqrt(80 * 40)) / 2)
    assert a.median_aspect_ratio == pytest.approx(0.75)
    assert (b.num_boxes, b.num_images, b.coco_sizes, b.median_side) == (0, 0, (0, 0, 0), None)
    assert never.name == "never" and never.num_boxes == 0
    assert (unnamed.id, unnamed.name, unnamed.num_boxes) == (5, "id 5", 1)


def test_sizes_are_cocos():
    boxes = np.array([box(31, 33), box(32, 32), box(96, 95), box(96, 96)])
    assert statistics.coco_size_shares(boxes) == (0.25, 0.5, 0.25)
    assert statistics.coco_size_shares(np.zeros([0, 4])) == (0, 0, 0)


def test_aspect_ratio_is_width_by_height():
    assert statistics.aspect_ratios(np.array([box(10, 20), box(20, 10)])).tolist() == [2.0, 0.5]


@pytest.mark.parametrize(
    "values, log, edges, counts",
    [
        (np.array([1, 1, 3]), False, (0.5, 1.5, 2.5, 3.5), (2, 0, 1)),
        (np.array([640, 640]), False, (639.5, 640.5), (2,)),
        (np.array([5.0, 5.0]), True, (4.5, 5.5), (2,)),
        (np.array([], int), False, (), ()),
    ],
)
def test_bars(values, log, edges, counts):
    found = statistics.spread(values, log=log)
    assert found.edges == pytest.approx(edges) and found.counts == counts
    assert len(found.quantiles) == (len(statistics.QUANTILES) if len(values) else 0)


def test_every_value_is_in_a_bar():
    values = np.random.default_rng(0).lognormal(3, 1, 1000)
    for log in (False, True):
        found = statistics.spread(values, log=log)
        assert sum(found.counts) == 1000
        assert (found.edges[0], found.edges[-1]) == (values.min(), values.max())


def test_pixel_moments_are_those_of_all_pixels():
    rng = np.random.default_rng(0)
    images = [rng.uniform(0, 255, [4, 6, 3]), rng.uniform(100, 120, [2, 3, 3])]
    mean, deviation = statistics.pixel_moments(
        np.stack([image.mean(axis=(0, 1)) for image in images]),
        np.stack([image.var(axis=(0, 1)) for image in images]),
        np.array([image.shape[:2] for image in images]),
    )
    pixels = np.concatenate([image.reshape(-1, 3) for image in images])
    np.testing.assert_allclose(mean, pixels.mean(axis=0))
    np.testing.assert_allclose(deviation, pixels.std(axis=0))
    assert statistics.pixel_moments(np.zeros([0, 3]), np.zeros([0, 3]), np.zeros([0, 2])) == ([], [])


def test_pairs_are_of_one_image_and_no_crowds():
    same = box(100, 100)
    boxes = np.array([same, box(100, 95), same, same, same, box(100, 80)])
    pairs = statistics.find_pairs(
        images=np.array([0, 0, 0, 1, 0, 0]),
        boxes=boxes,
        classes=np.array([0, 1, 0, 1, 1, 1]),
        is_crowd=np.array([False, False, False, False, True, False]),
    )
    assert sorted(pairs.two_classes) == [(0, 1), (1, 2)]  # row 5 has an IoU of 0.8 with 0, and of 0.84 with 1
    assert pairs.one_class == [(0, 2)]


def test_pairs_of_nothing():
    nothing = statistics.find_pairs(np.zeros([0], int), np.zeros([0, 4]), np.zeros([0], int), np.zeros([0], bool))
    assert nothing == statistics.Pairs([], [])


def test_boxes_of_one_pixel():
    boxes = np.array([box(1, 50), box(50, 0.5), box(2, 2)])
    assert statistics.find_one_pixel(boxes).tolist() == [0, 1]
    assert statistics.find_one_pixel(np.zeros([0, 4])).tolist() == []


def test_suspects_name_image_and_classes():
    (found,) = statistics.suspects(
        [(1, 0)], images=np.array([0, 0]), boxes=np.array([box(1, 1), box(2, 3.04)]), classes=["a", "b"], ids=["x"]
    )
    assert found == statistics.Suspect("x", (0.0, 0.0, 2.0, 3.0), ("b", "a"))


def test_charts_escape_names_and_draw_nothing_of_nothing():
    drawn = charts.bars(["<b>"], [1.0], title="a & b", shown=["1"])
    assert "<b>" not in drawn and "&lt;b&gt;" in drawn and "a &amp; b" in drawn
    assert "no boxes" in charts.histogram(statistics.spread(np.array([])), title="t")
    assert charts.histogram(statistics.spread(np.array([3, 4, 4])), title="t", is_whole=True).count("<rect") == 2
