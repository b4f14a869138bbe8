"""`data/masks.py`: masks of records, checked and sampled, and their way into batches."""

from __future__ import annotations

import functools
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from object_detection_fpn.data import decoder, failures, masks, preparing, resize
from object_detection_fpn.data import pipeline as input_pipeline
from object_detection_fpn.data.augment import crop, geometry, pad, policies, warp
from object_detection_fpn.data.masks import MaskDecoding

HEIGHT, WIDTH = 20, 30  # of the images that `make_record` encodes
BOXES = [(0.1, 0.2, 0.5, 0.6), (0.25, 0.0, 1.0, 0.5), (0.0, 0.0, 1.0, 1.0)]
BITMAPS = np.random.default_rng(0).random([3, HEIGHT, WIDTH]) < 0.4
PNG = MaskDecoding("png", side=8)


def png(bitmap, value: int = 1) -> bytes:
    return tf.io.encode_png((np.asarray(bitmap)[..., np.newaxis] * value).astype(np.uint8)).numpy()


def pixels_of(file: bytes) -> np.ndarray:
    return tf.io.decode_png(file).numpy()[..., 0] > 0


def numbers(bitmaps) -> list[float]:
    return [float(value) for value in np.ravel(bitmaps)]


FILES = [png(bitmap) for bitmap in BITMAPS]


@pytest.fixture
def decode(make_record):
    """(masks of the record, how they are read, boxes, labels) -> objects; `more` features and settings of `Decoding`."""

    def decode(values, decoding, boxes=BOXES, labels=None, *, more=None, image=None, crop=None, **settings):
        features = {**({} if values is None else {masks.KEY: values}), **(more or {})}
        record = make_record(boxes, labels or [1] * len(boxes), more=features, image=image)
        decode = functools.partial(
            decoder.decode_example,
            decoding=decoder.Decoding(num_classes=3, masks=decoding, **settings),
            crop=crop,
        )
        try:
            return decode(tf.constant(record)).example.objects
        except tf.errors.InvalidArgumentError:
            return failures.explain_failure(record, file="f", index=0, decode=decode).split(": ", 1)[1]

    return decode


# Sampling -------------------------------------------------------------------------------------------------------------


def triangle_weights(size: int, begin: float, end: float, side: int) -> np.ndarray:
    """[side, size]: how much each pixel counts in each cell."""
    step = (end - begin) / side
    centres = begin + (np.arange(side) + 0.5) * step
    weights = np.maximum(0, 1 - np.abs(np.arange(size) + 0.5 - centres[:, None]) / max(step, 1))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("side", [1, 7, 28])
@pytest.mark.parametrize(
    "frame", [(0.0, 0.0, 1.0, 1.0), (0.131, 0.207, 0.532, 0.618), (0.4, 0.0, 0.45, 1.0), (0.99, 0.9, 1.0, 1.0)]
)
def test_a_cell_is_the_weighted_mean_of_the_pixels_around_its_middle(frame, side):
    ymin, xmin, ymax, xmax = frame
    rows = triangle_weights(HEIGHT, ymin * HEIGHT, ymax * HEIGHT, side)
    columns = triangle_weights(WIDTH, xmin * WIDTH, xmax * WIDTH, side)
    sampled = masks.sample_frame(tf.constant(BITMAPS[0, ..., None], tf.uint8), tf.constant(frame), side)
    assert sampled.dtype == tf.uint8
    np.testing.assert_allclose(sampled, 255 * rows @ BITMAPS[0] @ columns.T, atol=0.51)


def test_cells_hold_the_share_of_the_frame_that_is_the_object():
    bitmap = np.zeros([60, 80, 1], np.uint8)
    bitmap[13:44, 21:66] = 3
    whole = masks.sample_frame(tf.constant(bitmap), tf.constant([0.0, 0.0, 1.0, 1.0]), 20)
    np.testing.assert_allclose(np.mean(whole) / 255, np.mean(bitmap > 0), atol=1e-3)
    inner = masks.sample_frame(tf.constant(bitmap), tf.constant([0.3, 0.4, 0.6, 0.7]), 20)
    assert np.all(inner == 255)


# Records --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", ["box", "image"])
def test_each_object_has_the_part_of_its_mask_in_its_frame(decode, frame):
    objects = decode(FILES, MaskDecoding("png", frame, side=8))
    frames = BOXES if frame == "box" else [(0.0, 0.0, 1.0, 1.0)] * 3
    np.testing.assert_allclose(objects.mask_frames, frames, rtol=1e-6)
    for mask, box, bitmap in zip(objects.masks, frames, BITMAPS, strict=True):
        expected = masks.sample_frame(tf.constant(bitmap[..., None], tf.uint8), tf.constant(box), 8)
        np.testing.assert_array_equal(mask, expected)
    assert objects.masks.shape == (3, 8, 8) and objects.encoded_masks is None


@pytest.mark.parametrize("frame", ["box", "image"])
def test_numbers_are_read_as_files_are(decode, frame):
    files = decode(FILES, MaskDecoding("png", frame, side=8, keep_encoded=True))
    values = numbers(np.where(BITMAPS, 0.25, -1.0))
    read = decode(values, MaskDecoding("numerical", frame, side=8, keep_encoded=True))
    np.testing.assert_array_equal(read.masks, files.masks)
    np.testing.assert_array_equal(read.mask_frames, files.mask_frames)
    assert files.encoded_masks.numpy().tolist() == FILES  # as they are
    for file, bitmap in zip(read.encoded_masks.numpy(), BITMAPS, strict=True):
        np.testing.assert_array_equal(pixels_of(file), bitmap)


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "P", "RGB", "LA"])
def test_files_of_every_depth_have_all_but_0_as_the_object(decode, mode):
    bitmap = BITMAPS[0]
    picture = {
        "1": lambda: Image.fromarray(bitmap),
        "L": lambda: Image.fromarray(bitmap.astype(np.uint8)),
        "I;16": lambda: Image.fromarray(bitmap.astype(np.uint16)),
        "P": lambda: Image.fromarray(bitmap.astype(np.uint8)),
        "RGB": lambda: Image.fromarray(np.stack([bitmap * np.uint8(9)] * 3, axis=-1)),
        "LA": lambda: Image.fromarray(np.stack([bitmap * np.uint8(9)] * 2, axis=-1), "LA"),
    }[mode]()
    if mode == "P":
        picture.putpalette([0, 0, 0, 0, 0, 128])
    file = io.BytesIO()
    picture.save(file, "png")
    objects = decode([file.getvalue()], PNG, BOXES[:1])
    np.testing.assert_array_equal(objects.masks, decode(FILES[:1], PNG, BOXES[:1]).masks)


def test_masks_stay_with_their_objects(decode):
    boxes = [BOXES[0], (0.5, 0.5, 0.1, 0.1), BOXES[1]]  # the second one is dropped
    kinds = decoder.Hierarchy(
        ancestors=np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1]], bool), descendants=np.eye(3, dtype=bool)
    )
    objects = decode(FILES, PNG, boxes, [1, 2, 2], hierarchy=kinds)
    assert objects.classes.numpy().tolist() == [0, 2, 1]
    of_boxes = [decode(FILES, PNG, [box] * 3).masks.numpy()[i] for box, i in ((boxes[0], 0), (boxes[2], 2))]
    np.testing.assert_array_equal(objects.masks, [of_boxes[0], of_boxes[0], of_boxes[1]])


NUMERICAL = MaskDecoding("numerical", side=8)
SOME = MaskDecoding("png", side=8, classes_with_masks=(1, 2))


@pytest.mark.parametrize(
    "values, decoding, words",
    [
        (FILES[:2], PNG, "image/object/mask has 2 masks for 3 boxes."),
        ([*FILES, FILES[0]], PNG, "image/object/mask has 4 masks for 3 boxes."),
        (
            None,
            PNG,
            "image/object/mask has no mask for box 0, which is of class id 1. Allowed: only crowds without a mask.",
        ),
        ([FILES[0], b"", FILES[2]], PNG, "has no mask for box 1, which is of class id 2. Allowed: only crowds without"),
        (
            [b"", b"", FILES[2]],
            SOME,
            "has no mask for box 1, which is of class id 2. Allowed: only crowds and classes beside classes_with_masks "
            "without a mask.",
        ),
        (
            [*FILES[:2], png(BITMAPS[0].T)],
            PNG,
            "image/object/mask: mask 2 has height and width 30 20, image/encoded has 20 30.",
        ),
        ([FILES[0], b"no mask", FILES[2]], PNG, "image/object/mask: mask 1 is no PNG file (7 bytes)."),
        ([FILES[0], FILES[1][:10], FILES[2]], PNG, "image/object/mask: mask 1 is no PNG file (10 bytes)."),
        (
            [FILES[0], FILES[1], FILES[2][:60]],
            PNG,
            "image/object/mask: file 2 (60 bytes beginning with 89 50 4e 47) does not decode; it is truncated, corrupted or",
        ),
        (
            numbers(BITMAPS[:2]),
            NUMERICAL,
            "image/object/mask has 1200 numbers; 3 boxes in an image of height and width 20 30 need 1800.",
        ),
        (None, NUMERICAL, "image/object/mask has no mask for box 0, which is of class id 1."),
        (FILES, NUMERICAL, "PNG_MASKS for strings, NUMERICAL_MASKS for floats."),
        (numbers(BITMAPS), PNG, "PNG_MASKS for strings, NUMERICAL_MASKS for floats."),
    ],
)
def test_masks_that_cannot_be_are_refused(decode, values, decoding, words):
    assert words in decode(values, decoding, labels=[1, 2, 3])


def test_a_jpeg_is_no_mask(decode, encode_image):
    assert "mask 0 is no PNG file" in decode([encode_image()], PNG, BOXES[:1])


def test_an_image_without_objects_needs_no_masks(decode):
    for decoding in (PNG, NUMERICAL, MaskDecoding("numerical", side=8, keep_encoded=True)):
        objects = decode(None, decoding, [])
        assert objects.masks.shape == (0, 8, 8) and objects.mask_frames.shape == (0, 4)


@pytest.mark.parametrize("values", [None, [b"", FILES[1], FILES[2]]])
def test_crowds_may_lack_masks_and_have_zeros(decode, values):
    more = {"image/object/is_crowd": [1] + [int(values is None)] * 2}
    objects = decode(values, MaskDecoding("png", side=8, keep_encoded=True), more=more)
    assert not np.any(objects.masks[0])
    assert objects.encoded_masks.numpy().tolist() == (values or [b""] * 3)
    assert np.any(objects.masks[1]) == (values is not None)


def test_masks_of_classes_that_are_not_trained_are_for_evaluation_alone(decode):
    for values in (None, [b""] * 3):
        bare = decode(values, SOME)
        assert not np.any(bare.masks) and bare.masks.shape == (3, 8, 8)
    trained = decode([FILES[0], FILES[1], b""], SOME, labels=[1, 2, 1])
    assert [bool(np.any(mask)) for mask in trained.masks] == [False, True, False]
    measured = decode(
        [FILES[0], FILES[1], b""],
        MaskDecoding("png", side=8, classes_with_masks=(1, 2), keep_encoded=True),
        labels=[1, 2, 1],
    )
    assert measured.encoded_masks.numpy().tolist() == [FILES[0], FILES[1], b""]
    assert [bool(np.any(mask)) for mask in measured.masks] == [True, True, False]


def test_masks_are_those_of_the_stored_image_however_much_is_decoded(decode, encode_image):
    bitmap = np.random.default_rng(1).random([64, 90]) < 0.5
    for image_format in ("jpeg", "png"):
        image = encode_image(64, 90, image_format)
        expected = decode([png(bitmap)], PNG, BOXES[:1], image=image)
        smaller = decode([png(bitmap)], PNG, BOXES[:1], image=image, jpeg_min_side=16)
        np.testing.assert_array_equal(smaller.masks, expected.masks)
        window = warp.Warp(window=warp.make_window(tf.constant([20, 20]), tf.constant([30, 40])))
        cut = decode([png(bitmap)], PNG, BOXES[:1], image=image, crop=lambda size, objects: window)  # noqa: B023
        moved = warp.move_objects(window, expected, tf.constant([64, 90]))
        tf.nest.map_structure(np.testing.assert_array_equal, cut._asdict(), moved._asdict())
    assert "has height and width 64 90, image/encoded has 20 30" in decode(
        [png(bitmap)], PNG, BOXES[:1], image=encode_image(20, 30), jpeg_min_side=4
    )


# Batches --------------------------------------------------------------------------------------------------------------

STATIC = resize.keep_aspect_ratio(min_dimension=32, max_dimension=32, pad_to_max_dimension=True)
DYNAMIC = resize.keep_aspect_ratio(min_dimension=16, max_dimension=64)
CHAIN = (
    functools.partial(geometry.random_horizontal_flip, probability=1.0),
    geometry.random_rotation90,
    functools.partial(geometry.random_self_concat_image, concat_vertical_probability=0.5),
    functools.partial(crop.random_crop_image, min_object_covered=0.5),
    pad.random_pad_image,
    functools.partial(policies.apply_policy, policy=((("Rotate_BBox", 1.0, 5),), (("Color", 1.0, 5),))),
)


def make(path, decoding, *, is_training, resizer=STATIC, augmentations=(), batch_size=2) -> tf.data.Dataset:
    return input_pipeline.make_dataset(
        input_pipeline.Reading([path]),
        decoder.Decoding(num_classes=3, masks=decoding),
        preparing.Preparing(resizer=resizer, augmentations=augmentations, max_num_boxes=5),
        batch_size=batch_size,
        is_training=is_training,
        seed=0,
    )


@pytest.mark.parametrize("resizer", [STATIC, DYNAMIC])
def test_evaluation_has_the_files_beside_masks_and_frames_in_pixels(write_records, make_record, resizer):
    labels, boxes = [1, 2], BOXES[:2]
    path = write_records(
        [make_record(boxes, labels, more={masks.KEY: FILES[:2]}), make_record([], []), make_record([], [])]
    )
    decoding = MaskDecoding("png", side=8, keep_encoded=True)
    first, last = make(path, decoding, is_training=False, resizer=resizer)
    truth = first.groundtruth
    assert first.encoded_masks.numpy().tolist() == [[*FILES[:2], b"", b"", b""], [b""] * 5]
    np.testing.assert_allclose(truth.mask_frames, truth.boxes, rtol=1e-6)
    height, width = first.inputs.true_shapes.numpy()[0, :2]
    np.testing.assert_allclose(truth.mask_frames[0, :2], np.array(boxes) * [height, width, height, width], rtol=1e-5)
    assert truth.masks.shape == (2, 5, 8, 8) and truth.masks.dtype == tf.uint8
    assert not np.any(truth.masks[0, 2:]) and not np.any(truth.masks[1]) and np.any(truth.masks[0, 0])
    assert last.is_padding.numpy().tolist() == [False, True]
    assert last.encoded_masks.numpy().tolist() == [[b""] * 5] * 2


@pytest.mark.parametrize("kind, resizer", [("png", STATIC), ("numerical", DYNAMIC)])
def test_training_has_static_masks_and_no_files(write_records, make_record, kind, resizer):
    values = FILES if kind == "png" else numbers(BITMAPS)
    path = write_records([make_record(BOXES, [1, 2, 3], more={masks.KEY: values})] * 3)
    decoding = MaskDecoding(kind, side=8)
    dataset = make(path, decoding, is_training=True, resizer=resizer, augmentations=CHAIN, batch_size=4)
    spec = dataset.element_spec.groundtruth
    assert spec.masks == tf.TensorSpec([4, 5, 8, 8], tf.uint8) and spec.mask_frames == tf.TensorSpec([4, 5, 4])
    for batch in dataset.take(2):
        assert batch.encoded_masks is None
        is_object = np.arange(5) < batch.groundtruth.num_boxes.numpy()[:, None]
        assert np.array_equal(np.any(batch.groundtruth.masks, axis=(2, 3)), is_object)
        assert not np.any(batch.groundtruth.mask_frames.numpy()[~is_object])
        assert np.isfinite(batch.groundtruth.mask_frames).all()


def test_without_masks_batches_have_none(write_records, make_record):
    path = write_records([make_record(more={masks.KEY: [b"not even looked at"]})])
    (batch,) = make(path, None, is_training=False)
    assert batch.groundtruth.masks is None and batch.groundtruth.mask_frames is None and batch.encoded_masks is None


def test_a_record_without_masks_is_named(write_records, make_record):
    path = write_records([make_record(BOXES[:1], [1], more={masks.KEY: FILES[:1]}), make_record(source_id="bare")])
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        list(make(path, PNG, is_training=True).take(4))
    assert failures.error_message(caught.value).startswith(
        f"{path}, record 1 (source_id bare): image/object/mask has no mask for box 0, which is of class id 1."
    )
