"""Coverage by anchors: equal to that of all anchors laid out; the search finds what fits and nothing worse."""

from __future__ import annotations

import numpy as np
import pytest
import support
import tensorflow as tf

from object_detection_fpn import builder
from object_detection_fpn.ops import boxes as box_ops
from object_detection_fpn.protos import pipeline_pb2
from object_detection_fpn.tools.inspect import anchors, layout, search
from object_detection_fpn.tools.inspect.anchors import Borders, Grid

KEPT = "rpn { anchor_border: KEPT max_straddle: 8 }"
MODELS = {
    "inside the image": support.model_message(),
    "clipped": support.model_message("clip_anchors_to_image: true"),
    "kept up to 8 pixels beyond": support.model_message(KEPT),
    "placed and rounded as in torchvision": support.model_message(
        "clip_anchors_to_image: true",
        """
        first_stage_anchor_generator {
          multiscale_anchor_generator {
            aspect_ratios: [0.5, 2] scales_per_octave: 2
            offset: 0 round_corners: true stride_of_image: true whole_scales: true
          }
        }
        """,
    ),
    "of one level": support.single_level_message("clip_anchors_to_image: true"),
    "of one level, inside the image": support.single_level_message(),
    "of RetinaNet": support.retinanet_message(),
}


def make_layout(model):
    return layout.anchor_layout(pipeline_pb2.TrainEvalPipelineConfig(model=model))


def make_boxes(size, num=60, seed=0):
    """[num, 4] of all sizes, some at the border."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(-0.2, 1.2, [num, 2, 2]), axis=1).clip(0, 1)
    corners[:, 1] = np.maximum(corners[:, 1], corners[:, 0] + 0.02).clip(0, 1)
    corners[:, 0] = np.minimum(corners[:, 0], corners[:, 1] - 0.02)
    return corners.reshape(num, 4) * np.tile(size, 2)


def all_ious(found, boxes, size):
    """[N, L] by brute force: every anchor, treated at the border as `modeling.heads.rpn.RPN` does it."""
    sizes = found.feature_sizes(size)
    laid_out, num_anchors = found._generate(sizes)
    laid_out = tf.constant(laid_out, tf.float32)
    window = tf.constant([0, 0, *size], tf.float32)
    clipped = box_ops.clip(laid_out, window)
    if found.borders.clip:
        is_valid, laid_out = box_ops.area(clipped) > 0, clipped
    else:
        beyond = tf.concat([-laid_out[:, :2], laid_out[:, 2:] - window[2:]], axis=-1)
        is_valid = tf.reduce_all(beyond <= found.borders.max_straddle, axis=-1)
    ious = box_ops.pairwise_iou(tf.constant(boxes, tf.float32), laid_out).numpy() * is_valid.numpy()
    ends = np.cumsum([height * width * num_anchors for height, width in sizes])
    return np.stack([part.max(axis=1) for part in np.split(ious, ends[:-1], axis=1)], axis=1)


@pytest.mark.parametrize("size", [(64, 64), (75, 130)])
@pytest.mark.parametrize("name", MODELS)
def test_best_anchors_are_those_of_all_anchors(name, size):
    found = make_layout(MODELS[name])
    boxes = make_boxes(size)
    sizes = np.tile(size, (len(boxes), 1))
    best = anchors.best_ious(boxes, sizes, found.grids(sizes), found.shapes(), found.borders)
    expected = all_ious(found, boxes, size)
    np.testing.assert_allclose(best, expected, atol=2e-5)
    assert expected.max() > 0.5


def test_each_box_has_the_grid_of_its_image():
    found = make_layout(MODELS["placed and rounded as in torchvision"])
    sizes = np.array([[64, 64], [75, 130], [64, 64]])
    together = found.grids(sizes)
    for row, size in enumerate(sizes):
        for level, alone in enumerate(found.grids(size[None])):
            for field, of_all in zip(alone, together[level], strict=True):
                np.testing.assert_array_equal(field[0], of_all[row])


def test_iou_with_anchors_by_hand():
    # One anchor of 10 x 20 around (8, 16) in an image of 32 x 32; a box of its shape, and one of its upper half.
    grid = Grid(*(np.array([value] * 2, float) for value in ([8, 16], [16, 16], [1, 1])))
    boxes, sizes = np.array([[3, 6, 13, 26], [3, 6, 8, 26]], float), np.full([2, 2], 32.0)
    found = anchors.shape_ious(boxes, sizes, grid, np.array([10, 20]), Borders())
    np.testing.assert_allclose(found, [1.0, 0.5])


def test_an_anchor_beyond_the_border_is_clipped_left_out_or_kept():
    grid = Grid(*(np.array([value], float) for value in ([8, 8], [16, 16], [2, 2])))
    boxes, sizes, shape = np.array([[0, 0, 20, 20]], float), np.full([1, 2], 32.0), np.array([24, 24])
    # It reaches from -4 to 20: the part inside is the box itself.
    assert anchors.shape_ious(boxes, sizes, grid, shape, Borders(clip=True)) == pytest.approx([1.0])
    assert anchors.shape_ious(boxes, sizes, grid, shape, Borders()) == pytest.approx([400 / 576])
    assert anchors.shape_ious(boxes, sizes, grid, shape, Borders(max_straddle=4)) == pytest.approx([400 / 576])
    assert anchors.shape_ious(boxes, sizes, grid, shape, Borders(max_straddle=3)) == [0.0]


def test_coverage_by_hand():
    ious = np.array([[0.5, 0.1], [0.2, 0.7], [0.3, 0.4], [0.0, 0.0]])
    shapes = [np.array([[8, 8], [4, 16]]), np.array([[16, 16]])]
    found = anchors.summarize(ious, shapes, min_level=3)
    assert (found.num_boxes, found.covered_50, found.covered_70) == (4, 0.5, 0.25)
    assert found.mean_iou == pytest.approx(0.4)
    p3, p4 = found.levels
    assert (p3.level, p3.min_side, p3.max_side, p3.num_best, p3.covered_50, p3.covered_70) == (3, 8, 8, 1, 0.25, 0)
    assert (p4.level, p4.num_best, p4.covered_50, p4.covered_70) == (4, 2, 0.25, 0.25)


def test_coverage_of_no_boxes_is_zero():
    found = make_layout(MODELS["clipped"])
    nothing = np.zeros([0, 4]), np.zeros([0, 2])
    ious = anchors.best_ious(*nothing, found.grids(nothing[1]), found.shapes(), found.borders)
    coverage = anchors.summarize(ious, found.shapes(), min_level=3)
    assert (coverage.num_boxes, coverage.covered_50, coverage.mean_iou) == (0, 0.0, 0.0)
    assert search.search(found, *nothing) is None


def test_training_sizes_are_those_of_the_resizer():
    resizer = "keep_aspect_ratio_resizer { min_dimension: 60 max_dimension: 100 pad_to_max_dimension: true }"
    model = support.model_message(f"image_resizer {{ {resizer} }}")
    config = pipeline_pb2.TrainEvalPipelineConfig(model=model)
    true, padded = layout.training_sizes(config, np.array([[30, 40], [20, 80]]))
    assert true.tolist() == [[60, 80], [25, 100]]
    assert padded.tolist() == [[100, 100], [100, 100]]


@pytest.mark.parametrize(
    "resizer",
    [
        "keep_aspect_ratio_resizer { min_dimension: 50 max_dimension: 70 size_rounding: ROUND antialias: true "
        "half_pixel_centers: true pad_to_multiple: 32 per_channel_pad_value: [1, 2, 3] }",
        "keep_aspect_ratio_resizer { min_dimension: 50 max_dimension: 70 resize_method: BICUBIC convert_to_grayscale: true }",
        "fixed_shape_resizer { height: 40 width: 60 resize_method: AREA }",
        "pad_to_multiple_resizer { multiple: 16 }",
        "conditional_shape_resizer { condition: SMALLER size_threshold: 64 resize_method: BICUBIC }",
        "identity_resizer { }",
    ],
)
def test_training_sizes_of_all_resizers(resizer):
    model = support.model_message()
    model.faster_rcnn.image_resizer.CopyFrom(
        support.model_message(f"image_resizer {{ {resizer} }}").faster_rcnn.image_resizer
    )
    true, padded = layout.training_sizes(pipeline_pb2.TrainEvalPipelineConfig(model=model), np.array([[33, 47]]))
    image, true_shape = builder.build_resizer(model.faster_rcnn.image_resizer)(np.zeros([33, 47, 3], np.uint8))
    assert true.tolist() == [true_shape[:2].numpy().tolist()]
    assert padded.tolist() == [list(image.shape[:2])]


def test_images_take_several_training_sizes_in_turn():
    resizer = "keep_aspect_ratio_resizer { min_dimension: 60 max_dimension: 100 min_dimensions_in_training: [20, 40] }"
    model = support.model_message(f"image_resizer {{ {resizer} }}")
    config = pipeline_pb2.TrainEvalPipelineConfig(model=model)
    true, _ = layout.training_sizes(config, np.array([[10, 10], [10, 10], [10, 20]]))
    assert true.tolist() == [[20, 20], [40, 40], [20, 40]]


# --- search -------------------------------------------------------------------------------------------------------------------


def boxes_of(height, width, num=12, side=64):
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 1, [num, 2]) * [side - height, side - width]
    return np.concatenate([corner, corner + [height, width]], axis=1), np.full([num, 2], side)


def covered(layouts, boxes, sizes):
    """Share of boxes that each of some anchors covers at IoU 0.5."""
    grids = layouts[0].grids(sizes)
    ious = (anchors.best_ious(boxes, sizes, grids, each.shapes(), each.borders).max(axis=1) for each in layouts)
    return [np.mean(each >= 0.5) for each in ious]


def test_a_shape_that_no_anchor_has_is_found_on_a_pyramid():
    before = make_layout(MODELS["clipped"])  # squares of 16, 32 and 64 pixels
    boxes, sizes = boxes_of(12, 48)
    found = search.search(before, boxes, sizes)
    generator = found.multiscale_anchor_generator
    assert generator.aspect_ratios[:] == [4.0] and generator.scales_per_octave == 1  # as many as before
    share_before, share_after = covered([before, search.with_generator(before, found)], boxes, sizes)
    assert share_before < 0.3 and share_after > 0.9
    assert search.search(before, boxes, sizes) == found  # nothing is random
    assert before.generator.multiscale_anchor_generator.aspect_ratios[:] == [1.0]  # the config's own stay


def test_a_shape_that_no_anchor_has_is_found_on_one_level():
    before = make_layout(MODELS["of one level"])  # squares of 16 and 32 pixels
    boxes, sizes = boxes_of(48, 16)
    found = search.search(before, boxes, sizes)
    grid = found.grid_anchor_generator
    assert len(grid.scales) == 2 and len(grid.aspect_ratios) == 1 and grid.aspect_ratios[0] < 1
    share_before, share_after = covered([before, search.with_generator(before, found)], boxes, sizes)
    assert share_after > share_before + 0.3


def test_anchors_that_fit_stay():
    found = make_layout(MODELS["clipped"])
    boxes = np.array([[8, 8, 24, 24], [16, 16, 48, 48]], float) - 4.0  # squares of 16 and 32 pixels on cells' centres
    assert search.search(found, boxes, np.full([2, 2], 64)) is None


def test_of_equal_sizes_the_nearest_is_taken():
    # Sizes 0 and 2 cover both boxes, size 1 neither; size 2 is nearer to that of the config, 1, though size 0 is better.
    ious = np.array([[[0.9, 0.9]], [[0.1, 0.1]], [[0.88, 0.9]]])
    assert search.choose(ious, ((1,), (0,)), np.array([1.0, 0.0, 0.5])) == ((2,), (0,))
    assert search.choose(ious, ((1,), (0,)), np.zeros([3])) == ((0,), (0,))


def test_many_ratios_are_tried_one_at_a_time():
    assert search._sets(4, (0, 1)) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    tried = search._sets(30, (0, 1, 2, 3, 4))
    assert tried[0] == (0, 1, 2, 3, 4) and len(tried) == 1 + 5 * 25
    assert all(len(set(rows) - {0, 1, 2, 3, 4}) <= 1 for rows in tried)
