"""`tools/shapes.py`: reproducible, well-formed, and its boxes fit its pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from pycocotools import mask as coco_mask

from object_detection_fpn.data import decoder, pipeline, preparing, resize
from object_detection_fpn.tools import shapes


@pytest.fixture(scope="module")
def drawn():
    return [shapes.draw_image(np.random.default_rng([0, i]), image_size=160) for i in range(150)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("shapes")
    return path, shapes.write_dataset(str(path), num_train=6, num_eval=3, image_size=64, seed=3, show_progress=False)


def test_boxes_lie_inside_their_image_and_have_a_class(drawn):
    for image in drawn:
        height, width = image.pixels.shape[:2]
        assert max(height, width) == 160 and min(height, width) in (120, 160)
        assert image.pixels.dtype == np.uint8
        assert len(image.boxes) == len(image.classes) == len(image.areas) == len(image.is_crowd)
        assert (image.boxes >= 0).all() and (image.boxes <= [height, width, height, width]).all()
        sides = image.boxes[:, 2:] - image.boxes[:, :2]
        assert (sides >= 9).all()
        assert set(image.classes) <= {1, 2, 3}
        objects = ~image.is_crowd
        assert (image.areas[objects] <= sides[objects].prod(axis=1) * 1.001).all() and (image.areas > 0).all()


def test_the_data_set_has_variety(drawn):
    areas = np.concatenate([image.areas for image in drawn])
    assert (areas < 32**2).mean() > 0.3  # COCO's small, medium and large
    assert ((areas >= 32**2) & (areas < 96**2)).mean() > 0.2
    assert (areas >= 96**2).sum() >= 3
    classes = np.concatenate([image.classes for image in drawn])
    assert min(np.bincount(classes)[1:]) > 0.25 * len(classes)
    assert 1 <= sum(len(image.boxes) == 0 for image in drawn) < 15
    assert 1 <= sum(image.is_crowd.any() for image in drawn) < 20
    assert len({image.pixels.shape for image in drawn}) == 3


def test_a_mask_is_what_is_seen_of_a_shape_and_its_box_is_around_it(drawn):
    num_tight = 0
    for image in drawn:
        assert image.masks.shape == (len(image.boxes), *image.pixels.shape[:2]) and image.masks.dtype == bool
        assert image.masks.sum(axis=0).max(initial=0) <= 1  # a pixel shows one object
        for mask, box, area, is_crowd in zip(image.masks, image.boxes, image.areas, image.is_crowd, strict=True):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            beyond = [rows[0], columns[0], -rows[-1] - 1, -columns[-1] - 1] - box * [1, 1, -1, -1]
            assert min(beyond) > -1
            assert is_crowd or 0.5 * area < mask.sum() < 1.3 * area
            num_tight += max(beyond) < 1.7
    assert num_tight > 0.7 * sum(len(image.boxes) for image in drawn)


def test_objects_rarely_hide_each_other(drawn):
    for image in drawn:
        boxes = image.boxes[~image.is_crowd].astype(np.float64)
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                overlap = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
                smaller = min((a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod())
                assert np.maximum(overlap, 0).prod() <= 0.36 * smaller


@pytest.mark.parametrize("label", [1, 2, 3])
def test_a_box_is_tight_around_the_pixels_of_its_shape(label):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        canvas = np.zeros([100, 120, 3])
        outline = shapes._outline(rng, label, rng.uniform(14, 80))
        box = shapes._place(rng, outline, 100, 120)
        owners = np.full([100, 120], -1, np.int16)
        place = outline + shapes._centre_for(outline, box)
        area = shapes._paint(rng, shapes._Canvas(canvas, owners), place, box, row=5)
        mask = canvas.max(axis=-1) > 0.3 * canvas.max()
        assert (mask != (owners == 5)).sum() < 0.1 * area + 3  # pixels at the edge
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        found = [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]
        np.testing.assert_allclose(found, box, atol=1.7)
        assert abs(mask.sum() - area) < 0.12 * area + 5


def test_the_same_seed_gives_the_same_bytes_and_more_images_change_none(written, tmp_path):
    _, dataset = written
    again = shapes.write_dataset(str(tmp_path), num_train=7, num_eval=3, image_size=64, seed=3, show_progress=False)
    for name in sorted(p.name for p in Path(dataset.train_images).iterdir()):
        assert (Path(dataset.train_images) / name).read_bytes() == (Path(again.train_images) / name).read_bytes()
    assert Path(dataset.eval_annotations).read_bytes() == Path(again.eval_annotations).read_bytes()
    for a, b in zip(
        sorted(tf.io.gfile.glob(dataset.eval_records)), sorted(tf.io.gfile.glob(again.eval_records)), strict=True
    ):
        assert Path(a).read_bytes() == Path(b).read_bytes()


def read_features(pattern):
    records = tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(pattern))).as_numpy_iterator()
    return [tf.train.Example.FromString(record).features.feature for record in records]


def test_masks_are_written_where_asked_for_and_change_nothing_else(written, tmp_path):
    _, dataset = written
    masked = shapes.write_dataset(
        str(tmp_path), num_train=6, num_eval=3, image_size=64, seed=3, with_masks=True, show_progress=False
    )
    contents = json.loads(Path(masked.train_annotations).read_text())
    drawn = [shapes.draw_image(np.random.default_rng([3, 0, i]), image_size=64) for i in range(6)]
    masks = {i: iter(image.masks) for i, image in enumerate(drawn, start=1)}
    for annotation in contents["annotations"]:
        runs = annotation.pop("segmentation")
        np.testing.assert_array_equal(coco_mask.decode(runs), next(masks[annotation["image_id"]]))
    assert contents == json.loads(Path(dataset.train_annotations).read_text())
    plain, with_masks = (read_features(data.train_records) for data in (dataset, masked))
    order = [0, 2, 4, 1, 3, 5]  # images are dealt out to two files in turn
    for a, b, i in zip(plain, with_masks, order, strict=True):
        encoded = list(b.pop("image/object/mask").bytes_list.value) if len(drawn[i].masks) else []
        decoded = [tf.io.decode_png(mask, channels=1)[..., 0].numpy() > 0 for mask in encoded]
        np.testing.assert_array_equal(np.reshape(decoded, drawn[i].masks.shape), drawn[i].masks)
        assert dict(a) == dict(b)


def test_another_seed_and_the_held_out_part_are_other_images(written, tmp_path):
    _, dataset = written
    other = shapes.write_dataset(str(tmp_path), num_train=1, num_eval=1, image_size=64, seed=4, show_progress=False)
    first = [Path(folder) / "000001.jpg" for folder in (dataset.train_images, dataset.eval_images, other.train_images)]
    assert len({path.read_bytes() for path in first}) == 3


def test_records_and_coco_files_say_the_same(written):
    _, dataset = written
    contents = json.loads(Path(dataset.train_annotations).read_text())
    (batch,) = pipeline.make_dataset(
        pipeline.Reading([dataset.train_records], num_readers=2, read_block_length=1),
        decoder.Decoding(num_classes=3, label_to_id={"circle": 1, "square": 2, "triangle": 3}),
        preparing.Preparing(resize.fixed_shape(height=64, width=64)),
        batch_size=6,
        is_training=False,
    )
    assert batch.source_id.numpy().tolist() == [str(i).encode() for i in range(1, 7)]
    for i, image in enumerate(contents["images"]):
        expected = [a for a in contents["annotations"] if a["image_id"] == image["id"]]
        num = int(batch.groundtruth.num_boxes[i])
        assert num == len(expected)
        assert (batch.groundtruth.classes[i, :num].numpy() + 1).tolist() == [a["category_id"] for a in expected]
        np.testing.assert_allclose(batch.groundtruth.areas[i, :num], [a["area"] for a in expected], rtol=1e-6)
        with Image.open(Path(dataset.train_images) / image["file_name"]) as file:
            assert file.size == (image["width"], image["height"])
            assert file.format == "JPEG"


def test_the_label_map_names_the_three_classes(written):
    _, dataset = written
    text = Path(dataset.label_map_path).read_text()
    assert [line.strip() for line in text.splitlines() if "name" in line] == [
        'name: "circle"',
        'name: "square"',
        'name: "triangle"',
    ]


def test_scenes_say_how_many_objects_there_are_and_how_large():
    images = [
        shapes.draw_image(np.random.default_rng([0, i]), image_size=256, scenes=shapes.MANY_SMALL) for i in range(20)
    ]
    objects = [~image.is_crowd for image in images if len(image.boxes)]
    numbers = [mask.sum() for mask in objects]
    assert 8 <= min(numbers) < 15 and 25 < max(numbers) <= 30
    boxes = np.concatenate([image.boxes[~image.is_crowd] for image in images])
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    assert 5 < sides.min() < 8 and 50 < sides.max() < 80  # of a tilted square the box is larger
    areas = np.concatenate([image.areas for image in images])
    assert 0.7 < (areas < 32**2).mean() < 0.9


@pytest.mark.parametrize(
    "options, words",
    [
        ({"max_objects": 0}, "min_objects = 1 is not allowed. Allowed: 1 to max_objects = 0"),
        ({"min_objects": 0}, "min_objects = 0 is not allowed"),
        ({"min_side": 3.0}, "min_side = 3.0 is not allowed. Allowed: 4 and above, up to max_side"),
        ({"max_side": 10.0}, "min_side = 14.0 is not allowed"),
    ],
)
def test_impossible_scenes_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        shapes.Scenes(**options)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"num_train": 0}, "num_train = 0 is not allowed"),
        ({"num_eval": 0}, "num_eval = 0 is not allowed"),
        ({"image_size": 20}, "image_size = 20 is too small"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        shapes.write_dataset(str(tmp_path), show_progress=False, **options)
    assert not (tmp_path / "label_map.pbtxt").exists()
