"""Tiles of large images, and how what is found in them is merged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from object_detection_fpn.ops import nms
from object_detection_fpn.ops.pasting import PastedMask, fill_image
from object_detection_fpn.serving.merging import Found, find_cut, join_masks, merge
from object_detection_fpn.serving.predictor import Predictor
from object_detection_fpn.serving.tiling import Tiling, predict_image, predict_tiles, tiles

# Two tiles side by side: columns 0 to 100 and 80 to 180.
PAIR = np.array([[0, 0, 100, 100], [0, 80, 100, 180]])
PAIR_SIZE = (100, 180)


def merge_boxes(boxes, scores, views, *, classes=None, windows=PAIR, image_size=PAIR_SIZE, masks=None):
    found = Found(
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array([1] * len(scores) if classes is None else classes),
        masks,
    )
    return merge(found, views=np.array(views), windows=windows, image_size=image_size)


@pytest.mark.parametrize(
    "length, side, overlap, begins",
    [
        (100, 100, 0.2, [0]),
        (99, 100, 0.2, [0]),
        (101, 100, 0.2, [0, 1]),
        (180, 100, 0.2, [0, 80]),
        (181, 100, 0.2, [0, 80, 81]),
        (250, 100, 0.0, [0, 100, 150]),
        (200, 100, 0.5, [0, 50, 100]),
    ],
)
def test_the_last_tile_ends_with_the_image(length, side, overlap, begins):
    found = tiles((length, 64), side, overlap)
    assert found.tolist() == [[begin, 0, begin + min(side, length), 64] for begin in begins]
    assert tiles((64, length), side, overlap).tolist() == [[0, b, 64, b + min(side, length)] for b in begins]


@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    side=st.integers(16, 120),
    overlap=st.floats(0.0, 0.9),
)
def test_tiles_cover_the_image_in_one_size_and_overlap_enough(size, side, overlap):
    found = tiles(size, side, overlap)
    covered = np.zeros(size, bool)
    for ymin, xmin, ymax, xmax in found:
        covered[ymin:ymax, xmin:xmax] = True
    assert covered.all() and (found[:, 2:] <= size).all() and (found[:, :2] >= 0).all()
    assert {tuple(each) for each in found[:, 2:] - found[:, :2]} == {(min(side, size[0]), min(side, size[1]))}
    for axis in (0, 1):
        begins = np.unique(found[:, axis])
        assert (np.diff(begins) <= side * (1 - overlap) + 1e-6).all() or np.diff(begins).max() == 1


@pytest.mark.parametrize(
    "tiling, message",
    [(Tiling(15), "side 15 is too small"), (Tiling(64, 0.95), "0.95 is not allowed. Allowed: 0 to 0.9")],
)
def test_tilings_that_make_no_sense_are_refused(tiling, message):
    with pytest.raises(ValueError, match=message):
        tiling.check()


def test_a_box_is_cut_where_its_tile_ends_and_the_image_does_not():
    boxes = np.array([[0, 0, 50, 50], [40, 60, 90, 100], [40, 60, 90, 97], [50, 82, 70, 99], [0, 100, 100, 180]])
    windows = PAIR[[0, 0, 0, 1, 1]]
    # The third ends 3 pixels before, and is 37 wide, the fourth is in the second tile.
    assert find_cut(boxes.astype(float), windows, PAIR_SIZE).tolist() == [
        [False] * 4, [False, False, False, True], [False] * 4, [False, True, False, False], [False] * 4,
    ]  # fmt: skip


def count_after_plain_suppression(boxes, scores) -> int:
    num = nms.batched_nms(
        np.array([boxes], np.float32),
        np.array([scores], np.float32),
        max_outputs=len(boxes),
        iou_threshold=0.5,
        score_threshold=0.0,
    )[1]
    return int(num[0])


WHOLE, PART = [20, 90, 60, 130], [20, 90, 60, 100]  # the first tile sees a quarter of what the second sees whole
LEFT, RIGHT = [20, 30, 60, 100], [20, 80, 60, 150]  # of an object that no tile sees whole


@pytest.mark.parametrize("boxes, expected", [([PART, WHOLE], [WHOLE]), ([LEFT, RIGHT], [[20, 30, 60, 150]])])
@pytest.mark.parametrize("scores", [[0.95, 0.9], [0.6, 0.9]])
def test_what_plain_suppression_leaves_twice_is_found_once_and_whole(boxes, expected, scores):
    assert count_after_plain_suppression(boxes, scores) == 2
    merged = merge_boxes(boxes, scores, [0, 1])
    assert merged.boxes.tolist() == expected
    assert merged.scores == np.float32(0.9 if expected == [WHOLE] else max(scores))


def test_an_object_in_four_tiles_is_joined():
    size = (180, 180)
    windows = tiles(size, 100, 0.2)
    whole = np.array([30, 20, 150, 160])
    pieces = [[*np.maximum(whole[:2], w[:2]), *np.minimum(whole[2:], w[2:])] for w in windows]
    assert count_after_plain_suppression(pieces, [0.9, 0.8, 0.7, 0.6]) == 4
    merged = merge_boxes(pieces, [0.9, 0.8, 0.7, 0.6], range(4), windows=windows, image_size=size)
    assert merged.boxes.tolist() == [whole.tolist()] and merged.scores == [np.float32(0.9)]


def test_a_part_that_no_other_tile_sees_whole_stays():
    assert merge_boxes([PART], [0.9], [0]).boxes.tolist() == [PART]
    small = [30, 95, 40, 115]  # covers little of the part
    assert merge_boxes([PART, small], [0.9, 0.8], [0, 1]).boxes.tolist() == [PART, small]


def test_a_part_of_another_class_is_dropped_where_the_other_tile_shows_all_of_it():
    """A part is often taken for something else; but what reaches beyond the other tile may be an object in front."""
    assert merge_boxes([PART, WHOLE], [0.9, 0.6], [0, 1], classes=[1, 2]).boxes.tolist() == [WHOLE]
    boxes = [[20, 75, 60, 100], [20, 84, 60, 130]]
    assert merge_boxes(boxes, [0.9, 0.6], [0, 1]).boxes.tolist() == boxes[1:]
    both = merge_boxes(boxes, [0.9, 0.6], [0, 1], classes=[1, 2])
    assert both.boxes.tolist() == boxes and both.class_ids.tolist() == [1, 2]
    # Nor does the whole image show small things better than a tile.
    windows = np.array([*PAIR, [0, 0, *PAIR_SIZE]])
    for class_id, score in ((2, 0.95), (1, 0.6)):
        both = merge_boxes([PART, WHOLE], [0.9, score], [0, 2], classes=[1, class_id], windows=windows)
        assert len(both.boxes) == 2
    assert merge_boxes([PART, WHOLE], [0.9, 0.95], [0, 2], windows=windows).boxes.tolist() == [WHOLE]


def test_boxes_of_one_tile_are_not_suppressed_again():
    near = [[20, 20, 60, 60], [20, 25, 60, 65]]
    assert merge_boxes(near, [0.9, 0.8], [0, 0]).boxes.tolist() == near
    near = [[20, 84, 60, 96], [20, 85, 60, 97]]
    assert merge_boxes(near, [0.8, 0.9], [0, 1]).boxes.tolist() == near[1:]


def test_nothing_is_merged_of_nothing():
    merged = merge_boxes([], [], np.zeros(0, int), masks=[])
    assert merged.boxes.shape == (0, 4) and merged.masks == []


def test_masks_of_pieces_become_one():
    image = np.zeros(PAIR_SIZE, bool)
    image[20:60, 30:150] = np.random.default_rng(0).random((40, 120)) > 0.5
    masks = [PastedMask(image[20:60, 30:100], (20, 30)), PastedMask(image[20:60, 80:150], (20, 80))]
    merged = merge_boxes([LEFT, RIGHT], [0.9, 0.8], [0, 1], masks=masks)
    np.testing.assert_array_equal(fill_image(merged.masks, PAIR_SIZE), image[np.newaxis])
    empty = PastedMask(np.zeros((0, 0), bool), (0, 0))
    assert join_masks([empty, masks[0]]) is masks[0] and join_masks([empty, empty]) is empty


NUM_ROWS = 30


class PerfectDetector:
    """Finds every object of an image in which the pixels of object k are k; its class is 1 + k % 2, its mask its pixels."""

    def __init__(self, *, max_side: int = 10**6):
        self.max_side = max_side
        self.shapes = []

    def __call__(self, images):
        images = np.asarray(images)
        self.shapes.append(images.shape)
        boxes = np.zeros((len(images), NUM_ROWS, 4), np.float32)
        scores, classes = np.zeros((2, len(images), NUM_ROWS), np.float32)
        masks = np.zeros((len(images), NUM_ROWS, *images.shape[1:3]), np.uint8)
        counts = np.zeros(len(images), np.float32)
        for i, image in enumerate(images[..., 0]):
            for k in np.unique(image[image > 0]):
                mask = image == k
                y, x = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
                box = np.array([y[0], x[0], y[-1] + 1, x[-1] + 1])
                if (box[2:] - box[:2]).max() <= self.max_side:
                    row = int(counts[i])
                    boxes[i, row] = box / np.tile(image.shape, 2)
                    scores[i, row], classes[i, row], masks[i, row] = 0.9, 1 + k % 2, mask
                    counts[i] += 1
        return {
            "detection_boxes": boxes,
            "detection_scores": scores,
            "detection_classes": classes,
            "detection_masks": masks,
            "num_detections": counts,
        }


def draw_objects(seed: int, size: tuple[int, int], *, max_side: int) -> np.ndarray:
    """[h, w, 3] uint8 with rectangles and ellipses, none of which touches another."""
    rng = np.random.default_rng(seed)
    image = np.zeros(size, np.uint8)
    rows, columns = np.mgrid[: size[0], : size[1]]
    for k in range(1, 20):
        height, width = rng.integers(3, max_side, 2)
        y, x = rng.integers(0, size[0] - 3), rng.integers(0, size[1] - 3)
        region = image[max(y - 2, 0) : y + height + 2, max(x - 2, 0) : x + width + 2]
        if not region.any():
            away = ((rows - y - height / 2) / (height / 2)) ** 2 + ((columns - x - width / 2) / (width / 2)) ** 2
            inside = (rows >= y) & (rows < y + height) & (columns >= x) & (columns < x + width)
            image[inside & (away <= 1) if k % 3 == 0 else inside] = k
    return np.repeat(image[..., np.newaxis], 3, axis=2)


def sort_rows(found: Found) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort(found.boxes.round(2).T)
    return found.boxes[order], found.class_ids[order]


@pytest.mark.parametrize("seed", [0, 1, 2, 27, 35, 50])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_perfect_detector_finds_in_tiles_what_it_finds_in_the_whole_image(seed, batch_size):
    """Objects are cut by borders of tiles everywhere, and some are longer than what two tiles share, or than a tile."""
    image = draw_objects(seed, (210, 330), max_side=120)
    detector = PerfectDetector()
    predictor = Predictor(detector, takes_batches=batch_size > 1)
    expected = predict_image(predictor, image, min_score=0.5)
    assert len(expected.scores) > 5
    detector.shapes.clear()
    progress = []
    tiling = Tiling(80, 0.25)
    found = predict_tiles(
        predictor,
        image,
        tiling,
        min_score=0.5,
        batch_size=batch_size,
        on_progress=lambda *numbers: progress.append(numbers),
    )
    for one, other in zip(sort_rows(found), sort_rows(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    pixels = np.zeros(image.shape[:2], int)
    for mask in fill_image(found.masks, image.shape[:2]):
        pixels += mask
    np.testing.assert_array_equal(pixels, image[..., 0] > 0)
    num_tiles = len(tiles(image.shape[:2], 80, 0.25))
    assert progress[-1] == (num_tiles, num_tiles)
    assert {shape[1:] for shape in detector.shapes} == {(80, 80, 3)}
    assert max(shape[0] for shape in detector.shapes) == batch_size
    assert sum(shape[0] for shape in detector.shapes) == num_tiles


def test_the_whole_image_gives_what_no_tile_shows():
    image = np.zeros((200, 200, 3), np.uint8)
    image[20:180, 30:170] = 1
    image[5:15, 5:15] = 2

    def serve(images):  # sees nothing that fills a tile, and nothing small in a large image
        return PerfectDetector(max_side=160 if images.shape[1] == 200 else 30)(images)

    predictor = Predictor(serve)
    small, large = [5, 5, 15, 15], [20, 30, 180, 170]
    found = predict_tiles(predictor, image, Tiling(64, 0.0), min_score=0.5)
    assert found.boxes.round(2).tolist() == [small]
    progress = []
    found = predict_tiles(
        predictor, image, Tiling(64, 0.0, whole_image=True), min_score=0.5, on_progress=lambda *n: progress.append(n)
    )
    assert sorted(found.boxes.round(2).tolist()) == [small, large]
    assert progress[-2:] == [(16, 17), (17, 17)]


def test_an_image_that_is_no_larger_than_a_tile_is_predicted_as_without_tiles():
    image = draw_objects(0, (60, 80), max_side=30)
    detector = PerfectDetector()
    predictor = Predictor(detector)
    whole, tiled = (
        predict_image(predictor, image, min_score=0.5),
        predict_tiles(predictor, image, Tiling(80, whole_image=True), min_score=0.5),
    )
    np.testing.assert_array_equal(whole.boxes, tiled.boxes)
    assert detector.shapes == [(1, 60, 80, 3)] * 2


def test_masks_within_boxes_move_with_them():
    """A model that does not paste: its masks are stretched over the boxes in the tile."""

    def serve(images):
        is_second = images[0, 0, 0, 0] == 2
        box = [0.2, 0.3, 0.6, 0.7] if is_second else [0.0] * 4
        return {
            "detection_boxes": np.array([[box]], np.float32),
            "detection_scores": np.array([[0.9]], np.float32),
            "detection_classes": np.ones((1, 1), np.float32),
            "detection_masks": np.ones((1, 1, 4, 4), np.float32),
            "num_detections": np.array([float(is_second)], np.float32),
        }

    image = np.zeros((100, 180, 3), np.uint8)
    image[0, 80] = 2
    found = predict_tiles(Predictor(serve), image, Tiling(100), min_score=0.5)
    np.testing.assert_allclose(found.boxes, [[20, 110, 60, 150]], atol=1e-4)
    (mask,) = fill_image(found.masks, (100, 180))
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    assert abs(rows[0] - 20) <= 1 and abs(rows[-1] - 59) <= 1 and abs(columns[0] - 110) <= 1
    assert mask[21:59, 111:149].all()
