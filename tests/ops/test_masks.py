"""Crops of stored masks are those of the libraries, and nearly the same whatever rectangle a stored mask covers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.ops import masks
from object_detection_fpn.ops.masks import MaskCrop

GOLDEN = Path(__file__).parent.parent / "golden"
YXYX = [1, 0, 3, 2]
_MOST_DIFFERENT = 0.01  # share of cells that a frame of the box may change


def crop_whole_images(bitmaps, boxes, rows, crop):
    """Crops of masks that are stored pixel by pixel."""
    height, width = bitmaps.shape[1:]
    frames = np.tile(np.array([0, 0, height, width], np.float32), [len(bitmaps), 1])
    return masks.crop_masks(
        tf.constant(bitmaps[None] * np.uint8(255)),
        tf.constant(frames[None]),
        tf.constant(boxes[None]),
        tf.constant(rows[None].astype(np.int32)),
        image_size=tf.constant([height, width]),
        crop=crop,
    ).numpy()[0]


def store_in_boxes(bitmaps, boxes, side):
    """Masks of `side` x `side` cells of their boxes, [N, 4] pixels: each cell's share of the object."""
    stored = []
    for bitmap, (ymin, xmin, ymax, xmax) in zip(bitmaps, boxes, strict=True):
        scale = np.array([side / (ymax - ymin), side / (xmax - xmin)], np.float32)
        resized = tf.raw_ops.ScaleAndTranslate(
            images=bitmap[None, ..., None] * np.float32(255),
            size=[side, side],
            scale=scale,
            translation=-np.array([ymin, xmin], np.float32) * scale,
            kernel_type="triangle",
            antialias=True,
        )
        stored.append(np.round(resized.numpy()[0, ..., 0]))
    return np.stack(stored).astype(np.uint8)


@pytest.fixture(scope="module")
def pytorch():
    with np.load(GOLDEN / "pytorch" / "mask_targets.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.mark.parametrize("size", [14, 28])
def test_aligned_crops_are_those_of_detectron2(pytorch, size):
    boxes, crop = pytorch["boxes"][:, YXYX], MaskCrop(size=(size, size), kind="roi_align")
    shares = crop_whole_images(pytorch["bitmasks"], boxes, pytorch["object"], crop)
    np.testing.assert_array_equal(shares >= 0.5 - 1e-5, pytorch[f"detectron2_bitmask_{size}"])


@pytest.mark.parametrize("size", [14, 28])
def test_other_crops_are_those_of_torchvision(pytorch, size):
    boxes, crop = pytorch["boxes"][:, YXYX], MaskCrop(size=(size, size), kind="roi_align", aligned=False)
    shares = crop_whole_images(pytorch["bitmasks"], boxes, pytorch["object"], crop)
    np.testing.assert_allclose(shares, pytorch[f"torchvision_{size}"], atol=1e-5)


@pytest.mark.parametrize("size", [(14, 14), (33, 33), (28, 20)])
def test_corner_crops_are_those_of_the_object_detection_api(size):
    with np.load(GOLDEN / "masks" / "mask_targets.npz") as golden:
        bitmaps = golden["groundtruth_masks"]
        pixels = golden["proposals"] * np.tile(bitmaps.shape[1:], 2).astype(np.float32)
        shares = crop_whole_images(bitmaps, pixels, golden["match"], MaskCrop(size=size, kind="corners_aligned"))
        np.testing.assert_allclose(shares, golden[f"matmul_{size[0]}x{size[1]}"], atol=1e-5)


@pytest.mark.parametrize("aligned", [True, False])
def test_frames_of_boxes_change_few_cells(pytorch, aligned):
    """The boxes of RoIs that overlap their objects by half, as those that train."""
    crop = MaskCrop(kind="roi_align", aligned=aligned)
    objects = pytorch["bitmask_boxes"][:, YXYX].astype(np.float32)
    boxes, rows = pytorch["boxes"][:, YXYX], pytorch["object"]
    low, high = np.maximum(boxes[:, :2], objects[rows, :2]), np.minimum(boxes[:, 2:], objects[rows, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    areas = [np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (boxes, objects[rows])]
    trains = shared / (sum(areas) - shared) >= 0.5
    assert np.sum(trains) >= 6
    exact = crop_whole_images(pytorch["bitmasks"], boxes[trains], rows[trains], crop)
    stored = store_in_boxes(pytorch["bitmasks"], objects, 112)
    image_size = tf.constant(pytorch["bitmasks"].shape[1:])
    ours = masks.crop_masks(
        stored[None], objects[None], boxes[trains][None], rows[trains][None], image_size=image_size, crop=crop
    ).numpy()[0]
    assert np.mean((ours >= 0.5) != (exact >= 0.5)) <= _MOST_DIFFERENT


def test_a_mask_is_zero_outside_of_its_frame():
    whole = np.full([1, 1, 8, 8], 255, np.uint8)
    crop = MaskCrop(size=(4, 4), kind="roi_align")
    frame, box = (np.array([[ends]], np.float32) for ends in ([8, 8, 24, 24], [0, 0, 32, 32]))
    shares = masks.crop_masks(
        whole, frame, box, np.zeros([1, 1], np.int32), image_size=tf.constant([32, 32]), crop=crop
    )
    expected = np.pad(np.ones([2, 2]), 1)
    np.testing.assert_allclose(shares.numpy()[0, 0], expected, atol=0.13)  # cells of 8 pixels fade over one of 2
    assert shares.numpy()[0, 0, 0, 0] == 0.0


def test_padding_rows_are_finite():
    shares = masks.crop_masks(
        np.zeros([1, 1, 8, 8], np.uint8), np.zeros([1, 1, 4], np.float32), np.zeros([1, 2, 4], np.float32),
        np.zeros([1, 2], np.int32), image_size=tf.constant([32, 32]), crop=MaskCrop(),
    )  # fmt: skip
    assert np.all(np.isfinite(shares))


def test_compiled_crops_are_the_same(pytorch):
    crop = MaskCrop(kind="roi_align")
    boxes, rows = pytorch["boxes"][:, YXYX], pytorch["object"]
    plain = crop_whole_images(pytorch["bitmasks"], boxes, rows, crop)
    size = pytorch["bitmasks"].shape[1:]
    frames = np.tile(np.array([0, 0, *size], np.float32), [len(pytorch["bitmasks"]), 1])

    @tf.function(jit_compile=True)
    def compiled(bitmaps, boxes):
        return masks.crop_masks(
            bitmaps, frames[None], boxes, rows[None], image_size=tf.constant(size, tf.int32), crop=crop
        )

    shares = compiled(pytorch["bitmasks"][None] * np.uint8(255), boxes[None]).numpy()[0]
    np.testing.assert_allclose(shares, plain, atol=1e-4)  # of positions of 100 pixels in float32


@pytest.mark.parametrize(
    "settings, message", [({"size": (0, 3)}, r"size = \(0, 3\)"), ({"sampling_ratio": -1}, "sampling_ratio = -1")]
)
def test_numbers_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MaskCrop(**settings)
