"""`data/pipeline.py`: what the batches of training and evaluation hold."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import os

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.data import decoder, failures, preparing, record_keys, resize
from object_detection_fpn.data import pipeline as input_pipeline
from object_detection_fpn.data.augment import crop as crops
from object_detection_fpn.data.augment import geometry
from object_detection_fpn.data.report import DataReport, Notice
from object_detection_fpn.data.source.files import list_record_files
from object_detection_fpn.records import Batch

STATIC = resize.keep_aspect_ratio(min_dimension=32, max_dimension=32, pad_to_max_dimension=True)
DYNAMIC = resize.keep_aspect_ratio(min_dimension=16, max_dimension=64)


def make(patterns, **options) -> tf.data.Dataset:
    defaults = {
        "file_patterns": [patterns] if isinstance(patterns, str) else patterns,
        "resizer": STATIC,
        "num_classes": 3,
        "batch_size": 4,
        "is_training": False,
        "max_num_boxes": 5,
        "num_readers": 4,
        "shuffle_buffer_size": 16,
    }
    settings = {**defaults, **options}
    records = (input_pipeline.Reading, decoder.Decoding, preparing.Preparing)
    names = [{field.name for field in dataclasses.fields(record)} for record in records]
    parts = [
        record(**{n: settings.pop(n) for n in own & settings.keys()})
        for record, own in zip(records, names, strict=True)
    ]
    return input_pipeline.make_dataset(*parts, **settings)


def ids_of(dataset: tf.data.Dataset) -> list[str]:
    """The area of the first box names the record in training, where there are no source ids."""
    return [str(int(a)) for batch in dataset for a in batch.groundtruth.areas[:, 0].numpy()]


@pytest.fixture
def numbered(write_records, make_record):
    """Writes records whose source id and box area are `first`, `first` + 1, ..."""

    def write(num: int, name: str = "data.tfrecord", first: int = 0) -> str:
        ids = range(first, first + num)
        return write_records([make_record(source_id=str(i), more={"image/object/area": [float(i)]}) for i in ids], name)

    return write


@pytest.mark.parametrize("cache", [None, ""])
def test_batches_of_training_carry_the_keys_of_their_records(numbered, cache):
    paths = [numbered(5, "a.tfrecord"), numbered(7, "b.tfrecord", first=5)]
    dataset = make(paths, is_training=True, batch_size=4, num_epochs=2, cache=cache, sample_1_of_n=1)
    assert dataset.element_spec.record_keys == tf.TensorSpec([4], tf.int64)
    batches = list(dataset)
    keys = [key for batch in batches for key in batch.record_keys.numpy()]
    names = record_keys.name_records(keys, lambda: list_record_files(paths))
    ids = ids_of(batches)
    assert sorted(map(int, ids)) == sorted(list(range(12)) * 2)
    for name, source_id in zip(names, ids, strict=True):
        path, index = (paths[0], int(source_id)) if int(source_id) < 5 else (paths[1], int(source_id) - 5)
        assert name == f"{path}, record {index} (source_id {source_id})"
    assert next(iter(make(paths))).record_keys is None  # evaluation has the source ids


def test_a_batch_holds_resized_images_and_boxes_in_their_pixels(write_records, make_record, encode_image):
    path = write_records(
        [
            make_record([(0.0, 0.5, 0.5, 1.0), (0.25, 0.25, 0.75, 0.75)], [2, 3], image=encode_image(20, 40)),
            make_record([], [], image=encode_image(64, 64), source_id="empty"),
        ]
    )
    (batch,) = make(path, batch_size=2)
    assert isinstance(batch, Batch)
    assert batch.inputs.images.shape == (2, 32, 32, 3) and batch.inputs.images.dtype == tf.float32
    assert batch.inputs.true_shapes.numpy().tolist() == [[16, 32, 3], [32, 32, 3]]
    assert batch.original_shapes.numpy().tolist() == [[20, 40], [64, 64]]
    assert not np.any(batch.inputs.images[0, 16:])
    truth = batch.groundtruth
    assert truth.boxes.shape == (2, 5, 4)
    np.testing.assert_allclose(truth.boxes[0, :2], [(0, 16, 8, 32), (4, 8, 12, 24)], rtol=1e-6)
    assert truth.classes[0].numpy().tolist() == [1, 2, 0, 0, 0]
    assert truth.weights[0].numpy().tolist() == [1, 1, 0, 0, 0]
    assert truth.num_boxes.numpy().tolist() == [2, 0]
    assert not np.any(truth.boxes[0, 2:]) and not np.any(truth.boxes[1])
    assert batch.source_id.numpy().tolist() == [b"7", b"empty"]
    assert batch.is_padding.numpy().tolist() == [False, False]


def test_pixels_are_those_of_the_stored_image(write_records, make_record, encode_image):
    png = encode_image(32, 32, "png")
    (batch,) = make(write_records([make_record(image=png)]), batch_size=1)
    np.testing.assert_array_equal(batch.inputs.images[0], tf.cast(tf.io.decode_png(png), tf.float32))


@pytest.mark.parametrize("resizer, size", [(STATIC, 32), (DYNAMIC, None)])
@pytest.mark.no_cover
def test_shapes_are_static_where_the_resizer_is(numbered, resizer, size):
    path = numbered(3)
    for is_training in (True, False):
        spec = make(path, resizer=resizer, is_training=is_training).element_spec
        assert tuple(spec.inputs.images.shape) == (4, size, size, 3)
        assert tuple(spec.groundtruth.boxes.shape) == (4, 5, 4)
        assert all(s.shape.is_fully_defined() for s in spec.groundtruth if isinstance(s, tf.TensorSpec))


def test_training_batches_carry_no_strings(numbered):
    batch = next(iter(make(numbered(3), is_training=True)))
    assert batch.source_id is None and batch.is_padding is None
    assert all(t.dtype != tf.string for t in tf.nest.flatten(batch) if t is not None)


def test_a_dynamic_batch_is_padded_to_its_largest_image(write_records, make_record, encode_image):
    sizes = [(16, 32), (48, 16), (20, 20)]
    path = write_records([make_record(image=encode_image(*size)) for size in sizes])
    (batch,) = make(path, resizer=DYNAMIC, batch_size=3)
    assert batch.inputs.true_shapes.numpy()[:, :2].tolist() == [[16, 32], [48, 16], [16, 16]]
    assert batch.inputs.images.shape == (3, 48, 32, 3)


def test_a_dynamic_batch_is_padded_with_the_resizers_value(write_records, make_record, encode_image):
    sizes = [(16, 32), (48, 16)]
    path = write_records([make_record(image=encode_image(*size)) for size in sizes])
    resizer = resize.keep_aspect_ratio(
        min_dimension=16, max_dimension=64, pad_to_multiple=20, per_channel_pad_value=(124.0, 116.0, 104.0)
    )
    (batch,) = make(path, resizer=resizer, batch_size=3)
    assert batch.inputs.images.shape == (3, 60, 40, 3)
    for image, (height, width, _) in zip(batch.inputs.images.numpy(), batch.inputs.true_shapes.numpy(), strict=True):
        assert np.all(image[height:] == [124, 116, 104]) and np.all(image[:, width:] == [124, 116, 104])


@pytest.mark.no_cover
def test_drawn_sizes_follow_the_seed_and_boxes_the_size(write_records, make_record, encode_image):
    path = write_records([make_record([(0.0, 0.5, 0.5, 1.0)], [2], image=encode_image(20, 40))])
    resizer = resize.keep_aspect_ratio(min_dimension=16, max_dimension=64, min_dimensions=(8, 24, 32))
    runs = [list(make(path, resizer=resizer, is_training=True, batch_size=1, seed=5).take(12)) for _ in range(2)]
    shapes = [[batch.inputs.true_shapes[0].numpy().tolist() for batch in run] for run in runs]
    assert shapes[0] == shapes[1]
    assert {shape[0] for shape in shapes[0]} == {8, 24, 32}
    for batch in runs[0]:
        height, width = batch.inputs.true_shapes[0, :2].numpy().astype(float)
        np.testing.assert_allclose(batch.groundtruth.boxes[0, 0], [0, width / 2, height / 2, width], rtol=1e-6)


@pytest.mark.no_cover
def test_evaluation_goes_through_the_data_once_in_order_and_fills_the_last_batch(numbered):
    numbered(6, "a-0.tfrecord", 0)
    pattern = numbered(5, "a-1.tfrecord", 6).replace("a-1", "a-*")
    for _ in range(2):
        batches = list(make(pattern, num_readers=2, read_block_length=1))
        assert [b.inputs.images.shape[0] for b in batches] == [4, 4, 4]
        is_padding = np.concatenate([b.is_padding for b in batches])
        assert is_padding.tolist() == [False] * 11 + [True]
        ids = np.concatenate([b.source_id for b in batches])
        order = [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5]
        assert ids.tolist() == [str(i).encode() for i in order] + [b""]
        assert batches[-1].groundtruth.num_boxes[-1] == 0


@pytest.mark.parametrize("num_records, num_batches", [(1, 4), (8, 4), (9, 8), (16, 8)])
@pytest.mark.no_cover
def test_all_replicas_get_the_same_number_of_evaluation_batches(numbered, num_records, num_batches):
    context = tf.distribute.InputContext(num_input_pipelines=1, input_pipeline_id=0, num_replicas_in_sync=4)
    batches = list(make(numbered(num_records), batch_size=8, input_context=context))
    assert len(batches) == num_batches
    assert all(b.inputs.images.shape[0] == 2 for b in batches)
    assert sum(int(tf.reduce_sum(tf.cast(~b.is_padding, tf.int32))) for b in batches) == num_records


def test_filling_rows_never_enlarge_a_dynamic_batch(write_records, make_record, encode_image):
    path = write_records([make_record(image=encode_image(16, 16))])
    (batch,) = make(path, resizer=DYNAMIC, batch_size=3)
    assert batch.inputs.images.shape == (3, 16, 16, 3)
    assert batch.is_padding.numpy().tolist() == [False, True, True]


@pytest.mark.no_cover
def test_training_without_end_says_so_which_several_workers_need(numbered):
    path = numbered(4)
    assert make(path, is_training=True).cardinality() == tf.data.INFINITE_CARDINALITY
    assert make(path, is_training=True, num_epochs=1).cardinality() != tf.data.INFINITE_CARDINALITY
    assert make(path).cardinality() != tf.data.INFINITE_CARDINALITY


@pytest.mark.no_cover
def test_training_repeats_every_record_once_an_epoch(numbered):
    dataset = make(numbered(6), is_training=True, batch_size=3, shuffle_buffer_size=1, num_epochs=3, seed=0)
    ids = ids_of(dataset)
    assert [sorted(ids[i : i + 6]) for i in (0, 6, 12)] == [sorted(map(str, range(6)))] * 3
    assert len(ids_of(make(numbered(6), is_training=True).take(20))) == 80


@pytest.mark.parametrize("drop_remainder, num_rows", [(True, 4), (False, 6)])
@pytest.mark.no_cover
def test_finite_training_drops_the_remainder_if_asked(numbered, drop_remainder, num_rows):
    dataset = make(numbered(6), is_training=True, num_epochs=1, drop_remainder=drop_remainder)
    assert len(ids_of(dataset)) == num_rows


@pytest.mark.no_cover
def test_equal_seeds_give_equal_training_batches_and_others_do_not(numbered):
    numbered(10, "s-0.tfrecord")
    pattern = numbered(10, "s-1.tfrecord", 10).replace("s-1", "s-*")
    options = {
        "is_training": True,
        "augmentations": [
            geometry.random_horizontal_flip,
            functools.partial(crops.random_crop_image, min_object_covered=0.3),
        ],
    }

    def draw(seed):
        return [tf.nest.flatten(b) for b in make(pattern, seed=seed, **options).take(5)]

    first, again, other = draw(1), draw(1), draw(2)
    for a, b in zip(first, again, strict=True):
        for x, y in zip(a, b, strict=True):
            if x is not None:
                np.testing.assert_array_equal(x, y)
    assert any(not np.array_equal(a[0], b[0]) for a, b in zip(first, other, strict=True))


@pytest.mark.no_cover
def test_pipelines_of_one_seed_augment_differently(numbered):
    path = numbered(1)
    images = []
    for i in range(2):
        context = tf.distribute.InputContext(num_input_pipelines=2, input_pipeline_id=i, num_replicas_in_sync=2)
        crop = functools.partial(crops.random_crop_image, min_object_covered=0.1)
        options = {"is_training": True, "seed": 1, "input_context": context, "augmentations": [crop]}
        images.append(next(iter(make(path, **options))).inputs.images)
    assert images[0].shape[0] == 2
    assert not np.array_equal(images[0], images[1])


@pytest.mark.no_cover
def test_augmentation_differs_between_visits_of_the_same_image(numbered):
    crop = functools.partial(crops.random_crop_image, min_object_covered=0.1)
    batch = next(iter(make(numbered(1), is_training=True, seed=3, augmentations=[crop])))
    assert len({image.numpy().tobytes() for image in batch.inputs.images}) == 4


@pytest.mark.no_cover
def test_evaluation_never_augments(numbered):
    path = numbered(2)
    flip = functools.partial(geometry.random_horizontal_flip, probability=1.0)
    plain, flipped = (next(iter(make(path, augmentations=a))).inputs.images for a in ([], [flip]))
    np.testing.assert_array_equal(plain, flipped)


@pytest.mark.no_cover
def test_shuffle_can_be_turned_off(numbered):
    path = numbered(8)
    assert ids_of(make(path, is_training=True, shuffle=False, seed=0).take(2)) == [str(i) for i in range(8)]
    assert ids_of(make(path, is_training=True, shuffle=True, seed=0).take(2)) != [str(i) for i in range(8)]


@pytest.mark.no_cover
def test_files_are_drawn_from_a_buffer_of_their_names(numbered):
    for i in range(8):
        numbered(1, f"file-{i}.tfrecord", i)
    pattern = numbered(1, "file-8.tfrecord", 8).replace("file-8", "file-*")
    options = {"is_training": True, "num_epochs": 1, "shuffle_buffer_size": 1, "num_readers": 1, "batch_size": 1}
    in_order = [str(i) for i in range(9)]
    assert ids_of(make(pattern, filenames_shuffle_buffer_size=1, seed=0, **options)) == in_order
    shuffled = ids_of(make(pattern, filenames_shuffle_buffer_size=9, seed=0, **options))
    assert shuffled != in_order and sorted(shuffled) == in_order


@pytest.mark.parametrize("folder", ["", "cache"])
@pytest.mark.no_cover
def test_a_cache_reads_the_files_once(numbered, tmp_path, folder):
    path = numbered(6)
    place = str(tmp_path / folder) if folder else ""
    options = {"is_training": True, "batch_size": 3, "shuffle_buffer_size": 1, "seed": 0, "num_prefetch_batches": 1}
    batches = iter(make(path, cache=place, num_epochs=200, **options))
    first = ids_of([next(batches) for _ in range(3)])
    os.truncate(path, 20)  # without the cache, a later pass would be refused
    assert sorted(first[:6] + first[6:]) == sorted([*map(str, range(6)), *first[6:]])
    assert sorted(ids_of([next(batches)]) + first[6:]) == list(map(str, range(6)))
    assert len(ids_of(batches)) == 1200 - 12


def test_a_cache_that_was_cut_off_is_made_anew(numbered, tmp_path):
    path = numbered(6)
    options = {"is_training": True, "cache": str(tmp_path / "cache"), "num_epochs": 2, "batch_size": 6, "seed": 0}
    next(iter(make(path, **options)))
    for finished in (tmp_path / "cache").glob("*.index"):
        finished.rename(finished.with_suffix(".lockfile"))
    assert len(ids_of(make(path, **options))) == 12


def test_sample_1_of_n_takes_every_nth_record(numbered):
    batches = list(make(numbered(10), sample_1_of_n=3, batch_size=1))
    assert [b.source_id[0].numpy() for b in batches] == [b"0", b"3", b"6", b"9"]


def test_weights_share_training_among_patterns_and_evaluation_ignores_them(numbered):
    paths = [numbered(4, "few.tfrecord", 0), numbered(40, "many.tfrecord", 100)]
    options = {"batch_size": 10, "sample_from_datasets_weights": [0.75, 0.25]}
    ids = ids_of(make(paths, is_training=True, seed=0, **options).take(40))
    assert 0.65 < sum(int(i) < 100 for i in ids) / 400 < 0.85
    rows = [flag for b in make(paths, **options) for flag in b.is_padding.numpy()]
    assert rows.count(False) == 44


def test_further_boxes_than_max_num_boxes_are_dropped_with_a_count(write_records, make_record):
    boxes = [(0.1 * i, 0.1, 0.1 * i + 0.1, 0.5) for i in range(8)]
    report = DataReport()
    (batch,) = make(write_records([make_record(boxes)]), batch_size=1, report=report)
    assert batch.groundtruth.num_boxes[0] == 5
    np.testing.assert_allclose(batch.groundtruth.boxes[0, 4, 0], 32 * 2 / 3 * 0.4, rtol=0.02)
    assert report.counts[Notice.TOO_MANY] == 3


def test_bad_boxes_are_dropped_with_a_count_and_their_image_is_kept(write_records, make_record):
    report = DataReport()
    path = write_records([make_record([(0.5, 0.1, 0.1, 0.5), (0.1, 0.1, 0.5, 0.5), (float("nan"), 0, 1, 1)])])
    (batch,) = make(path, batch_size=1, report=report)
    assert batch.groundtruth.num_boxes[0] == 1
    assert report.counts[Notice.INVERTED] == 1 and report.counts[Notice.NOT_FINITE] == 1


def test_crowd_difficult_group_area_and_scores_reach_the_batch(write_records, make_record):
    more = {
        "image/object/is_crowd": [1],
        "image/object/difficult": [1],
        "image/object/group_of": [1],
        "image/object/area": [33.0],
        "image/object/class/multiclass_scores": [0.1, 0.2, 0.3, 0.4],
    }
    scores = {"load_class_scores": True, "use_class_scores": True}
    (batch,) = make(write_records([make_record(more=more)]), batch_size=2, **scores)
    truth = batch.groundtruth
    for field in (truth.is_crowd, truth.is_difficult, truth.is_group_of):
        assert field.numpy().tolist() == [[True] + [False] * 4, [False] * 5]
    assert truth.areas[0, 0] == 33
    assert truth.class_scores.shape == (2, 5, 4)
    np.testing.assert_allclose(truth.class_scores[0, 0], [0.1, 0.2, 0.3, 0.4], rtol=1e-6)


@pytest.mark.no_cover
def test_class_scores_reach_the_batch_only_as_targets(write_records, make_record):
    path = write_records([make_record(more={"image/object/class/multiclass_scores": [0.2, 0.3, 0.5]})])
    for options, expected in (
        ({"load_class_scores": True}, None),
        ({"load_class_scores": True, "use_class_scores": True}, [0.0, 0.2, 0.3, 0.5]),
        ({"merge_multiple_label_boxes": True}, [0.0, 1.0, 0.0, 0.0]),
    ):
        for is_training in (True, False):
            scores = next(iter(make(path, is_training=is_training, **options))).groundtruth.class_scores
            assert (scores is None) == (expected is None)
            if expected:
                np.testing.assert_allclose(scores[0, 0], expected, rtol=1e-6)
                assert scores.shape == (4, 5, 4) and not np.any(scores[0, 1:])


@pytest.mark.no_cover
def test_objects_of_one_box_are_merged_after_augmentation(write_records, make_record):
    box, other = (0.1, 0.1, 0.5, 0.5), (0.1, 0.1, 0.5, 0.9)
    path = write_records([make_record([box, other, box], [1, 2, 3])])
    flip = functools.partial(geometry.random_horizontal_flip, probability=1.0)
    options = {"is_training": True, "augmentations": [flip], "merge_multiple_label_boxes": True}
    truth = next(iter(make(path, batch_size=1, resizer=DYNAMIC, **options))).groundtruth
    assert truth.num_boxes[0] == 2
    assert truth.class_scores[0, :3].numpy().tolist() == [[0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("resizer", [STATIC, DYNAMIC])
@pytest.mark.no_cover
def test_labeled_classes_reach_the_batch(write_records, make_record, resizer):
    path = write_records([make_record(more={"image/class/label": [2], "image/not_exhaustive_category_ids": [1]})])
    (batch,) = make(path, batch_size=2, resizer=resizer, load_labeled_classes=True)
    assert batch.not_exhaustive_classes.numpy().tolist() == [[True, False, False], [False, False, False]]
    assert batch.labeled_classes.numpy().tolist() == [[False, True, False], [False, False, False]]
    (batch,) = make(path, batch_size=2, resizer=resizer)
    assert batch.labeled_classes is None


@pytest.mark.no_cover
def test_names_and_additional_channels_reach_the_batch(write_records, make_record, encode_image):
    more = {
        "image/object/class/text": [b"dog"],
        "image/additional_channels/encoded": [encode_image(20, 30, "png", 1)],
    }
    path = write_records([make_record(labels=[], more=more)])
    (batch,) = make(path, batch_size=1, label_to_id={"cat": 1, "dog": 2}, num_additional_channels=1)
    assert batch.inputs.images.shape == (1, 32, 32, 4)
    assert batch.groundtruth.classes[0, 0] == 1


@pytest.mark.no_cover
def test_grayscale_batches_have_one_channel(numbered):
    (batch,) = make(numbered(1), resizer=resize.fixed_shape(height=8, width=8, convert_to_grayscale=True), batch_size=2)
    assert batch.inputs.images.shape == (2, 8, 8, 1)
    assert batch.inputs.true_shapes[0].numpy().tolist() == [8, 8, 1]


@pytest.mark.parametrize("size", [(1, 1), (20, 10000), (10000, 20)])
@pytest.mark.no_cover
def test_images_of_extreme_size_train(write_records, make_record, encode_image, size):
    path = write_records([make_record([(0.0, 0.0, 1.0, 1.0)], image=encode_image(*size))])
    augmentations = [geometry.random_horizontal_flip, geometry.random_image_scale, crops.random_crop_image]
    batch = next(iter(make(path, is_training=True, batch_size=2, augmentations=augmentations)))
    assert np.isfinite(batch.groundtruth.boxes).all() and np.isfinite(batch.inputs.images).all()
    np.testing.assert_allclose(batch.groundtruth.boxes[:, 0, 2:], batch.inputs.true_shapes[:, :2], rtol=1e-5)


@pytest.mark.no_cover
def test_errors_inside_a_compiled_loop_still_name_the_record(write_records, make_record, encode_image):
    jpeg = encode_image(64, 64)
    path = write_records([make_record(), make_record(image=jpeg[:300], source_id="cut"), make_record()])

    @tf.function
    def count(dataset):
        num = 0
        for batch in dataset:
            num += tf.shape(batch.inputs.images)[0]
        return num

    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        count(make(path, batch_size=1))
    words = failures.error_message(caught.value)
    assert words.startswith(f"{path}, record 1 (source_id cut): image/encoded (300 bytes beginning with ff d8 ff e0)")
    assert "\n" not in words


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("sample_1_of_n", [1, 9])
@pytest.mark.no_cover
def test_a_truncated_file_is_an_error_that_names_it(numbered, is_training, sample_1_of_n):
    path = numbered(4)
    options = {"is_training": is_training, "sample_1_of_n": sample_1_of_n}
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) - 100)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        list(make(path, **options).take(10))
    assert failures.error_message(caught.value).startswith(f"{path}: truncated or corrupted at byte ")


def test_no_records_is_an_error_that_names_the_patterns(write_records):
    with pytest.raises(FileNotFoundError, match=r"No record file matches '/no/such/\*'"):
        make("/no/such/*")
    with pytest.raises(failures.DataError, match="There are no records"):
        make(write_records([]))


@pytest.mark.no_cover
def test_training_without_any_object_is_refused_and_evaluation_is_not(write_records, make_record):
    path = write_records([make_record([], [])] * 3)
    with pytest.raises(failures.DataError, match=f"{path}: None of 3 records has an object"):
        make(path, is_training=True)
    assert len(list(make(path))) == 1


@pytest.mark.no_cover
def test_compressed_records_are_read_as_plain_ones(numbered):
    path = numbered(4)
    plain = ids_of(make(path))
    with open(path, "rb") as file:
        content = file.read()
    with gzip.open(path, "wb") as file:
        file.write(content)
    assert ids_of(make(path)) == plain


@pytest.mark.parametrize(
    "options, words",
    [
        ({"batch_size": 0}, "batch_size = 0 is not allowed"),
        ({"max_num_boxes": 0}, "max_number_of_boxes = 0 is not allowed"),
        ({"sample_1_of_n": 0}, "sample_1_of_n_examples = 0 is not allowed"),
        ({"filenames_shuffle_buffer_size": 0}, "filenames_shuffle_buffer_size = 0 is not allowed"),
        (
            {"is_training": True, "sample_from_datasets_weights": [1.0, 2.0]},
            "2 sample_from_datasets_weights for 1 file patterns",
        ),
    ],
)
def test_impossible_settings_are_refused(numbered, options, words):
    with pytest.raises(ValueError, match=words):
        make(numbered(1), **options)
