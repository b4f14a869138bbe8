"""`odfpn context-features`: what a bank holds, what an image gets of it, and the command on records and a detector."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from object_detection_fpn.cli import main as cli
from object_detection_fpn.data import context as context_data
from object_detection_fpn.data.decoder import Decoding, decode_example
from object_detection_fpn.jobs.predict import Predictor
from object_detection_fpn.serving.predictor import ImagePrediction
from object_detection_fpn.tools.context_features import banks, build, embedding, frames
from object_detection_fpn.tools.context_features.settings import HORIZONS, Settings

RECIPE = "faster_rcnn_resnet18_fpn_shapes_160x160"
FEATURES_OVERRIDE = "model.faster_rcnn.output_final_box_features=true"
NOON = datetime.datetime(2012, 7, 1, 12, 30, 59)  # a Sunday


def make_prediction(scores=(0.9, 0.5, 0.2), *, num_cells=1, num_units=3):
    """Features of detection i are i + 1 in all units."""
    num = len(scores)
    cells = np.arange(1, num + 1, dtype=np.float32)[:, None, None, None]
    return ImagePrediction(
        boxes_normalized=np.tile(np.float32([[0.25, 0.5, 0.75, 1.0]]), (num, 1)),
        scores=np.float32(scores),
        class_ids=np.ones(num, np.int64),
        box_features=np.broadcast_to(cells, [num, num_cells, num_cells, num_units]),
    )


def make_frame(*scores, bank="a", date=NOON, frame_num=None, image_id=b"", value=0.0):
    features = np.full([len(scores), 2], value, np.float32)
    return banks.Frame(image_id, bank, date, frame_num, features, np.float32(scores))


def seconds(number):
    return NOON + datetime.timedelta(seconds=number)


# --- what is embedded ---------------------------------------------------------------------------------------------------------


def test_time_is_that_of_the_object_detection_api():
    np.testing.assert_allclose(embedding.embed_time(NOON), [22 / 40, 6 / 12, 0, 12 / 24, 30 / 60], rtol=1e-6)
    np.testing.assert_array_equal(embedding.embed_time(datetime.datetime(1990, 1, 1)), np.zeros(5))
    np.testing.assert_array_equal(embedding.embed_time(None), np.zeros(5))


def test_place_is_centre_and_size():
    boxes = np.float32([[0.25, 0.5, 0.75, 1.0], [0, 0, 0, 0]])
    np.testing.assert_allclose(embedding.embed_boxes(boxes), [[0.75, 0.5, 0.5, 0.5], [0, 0, 0, 0]])
    assert embedding.embed_boxes(boxes[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    "num, top_k, bottom_k, rows",
    [
        (5, 1, 0, [0]),
        (5, 2, 2, [0, 1, 4, 3]),
        (3, 2, 2, [0, 1, 2]),  # none is embedded twice
        (1, 3, 3, [0]),
        (4, 0, 1, [3]),
        (0, 2, 2, []),
    ],
)
def test_best_and_worst_detections_are_chosen(num, top_k, bottom_k, rows):
    assert embedding.choose_detections(num, top_k=top_k, bottom_k=bottom_k) == rows


@pytest.mark.parametrize("num_cells", [1, 4])
def test_embedding_is_the_mean_of_the_cells_then_place_then_time(num_cells):
    found = embedding.embed_detections(make_prediction(num_cells=num_cells), NOON, top_k=1, bottom_k=1)
    rest = [0.75, 0.5, 0.5, 0.5, 0.55, 0.5, 0, 0.5, 0.5]
    np.testing.assert_allclose(found.features, [[1, 1, 1, *rest], [3, 3, 3, *rest]], rtol=1e-6)
    np.testing.assert_allclose(found.scores, [0.9, 0.2])
    assert found.features.dtype == np.float32
    assert found.features.shape[1] == 3 + embedding.NUM_EXTRA_ENTRIES


def test_an_image_without_detections_gives_nothing():
    found = embedding.embed_detections(make_prediction(()), NOON, top_k=1, bottom_k=0)
    assert found.features.shape == (0, 3 + embedding.NUM_EXTRA_ENTRIES) and found.scores.shape == (0,)


def test_a_detector_without_features_or_with_broken_ones_is_refused():
    with pytest.raises(embedding.FeaturesError, match="gives no detection_features"):
        embedding.embed_detections(make_prediction()._replace(box_features=None), NOON, top_k=1, bottom_k=0)
    broken = np.full([3, 1, 1, 2], np.nan, np.float32)
    with pytest.raises(embedding.FeaturesError, match="not finite"):
        embedding.embed_detections(make_prediction()._replace(box_features=broken), NOON, top_k=1, bottom_k=0)


# --- which images share a bank ------------------------------------------------------------------------------------------------


def test_windows_are_calendar_units():
    moments = {
        "year": (datetime.datetime(2012, 1, 1), datetime.datetime(2013, 7, 1, 12, 30)),
        "month": (datetime.datetime(2012, 7, 31), datetime.datetime(2012, 6, 30)),
        "week": (datetime.datetime(2012, 6, 25), datetime.datetime(2012, 7, 2)),  # Monday before, Monday after
        "day": (datetime.datetime(2012, 7, 1), datetime.datetime(2012, 8, 1)),
        "hour": (datetime.datetime(2012, 7, 1, 12), datetime.datetime(2012, 7, 1, 13)),
        "minute": (datetime.datetime(2012, 7, 1, 12, 30), datetime.datetime(2012, 7, 1, 12, 31)),
    }
    assert tuple(moments) == HORIZONS
    for horizon, (inside, outside) in moments.items():
        key = banks.bank_of("a", NOON, horizon)
        assert banks.bank_of("a", inside, horizon) == key
        assert banks.bank_of("a", outside, horizon) != key
        assert banks.bank_of("b", inside, horizon) != key


def test_a_week_runs_over_the_end_of_a_year():
    assert banks.bank_of("a", datetime.datetime(2018, 12, 31), "week") == banks.bank_of(
        "a", datetime.datetime(2019, 1, 6), "week"
    )


def test_dates_are_needed_for_windows_only():
    assert banks.bank_of("a", None, None) == banks.bank_of("a", NOON, None)
    assert banks.bank_of("a", None, "month") is None


def test_a_bank_is_in_the_order_of_time_then_frame_then_record():
    images = [
        make_frame(0.1, date=seconds(9), image_id=b"late"),
        make_frame(0.2, date=seconds(1), frame_num=2, image_id=b"second"),
        make_frame(0.3, date=seconds(1), frame_num=1, image_id=b"first"),
        None,  # left out
        make_frame(0.4, bank="b", image_id=b"other"),
        make_frame(0.5, bank=None, image_id=b"none"),
        make_frame(0.6, date=None, image_id=b"dateless"),
        make_frame(date=seconds(2), image_id=b"nothing"),
    ]
    found = banks.make_banks(images, rate=0, min_score=-np.inf)
    assert set(found) == {"a", "b"}
    assert found["a"].image_ids == (b"first", b"second", b"late", b"dateless")
    np.testing.assert_allclose(found["a"].scores, [0.3, 0.2, 0.1, 0.6])
    assert found["a"].owners.tolist() == [0, 1, 3, 4]
    assert found["a"].places == {2: 0, 1: 1, 7: 2, 0: 3, 6: 4}
    assert found["b"].image_ids == (b"other",)


def test_low_scores_and_images_between_every_nth_are_left_out():
    images = [make_frame(0.9, 0.1, date=seconds(i), image_id=str(i).encode(), value=i) for i in range(6)]
    found = banks.make_banks(images, rate=2, min_score=0.5)["a"]
    assert found.image_ids == (b"0", b"2", b"4")
    np.testing.assert_array_equal(found.features[:, 0], [0, 2, 4])
    assert len(found.places) == 6  # each of them gets context


# --- what an image gets -------------------------------------------------------------------------------------------------------


@pytest.fixture
def bank():
    """Five images; the third gives nothing, the fourth two features."""
    scores = [(0.5,), (0.9,), (), (0.2, 0.9), (0.7,)]
    images = [make_frame(*s, date=seconds(i)) for i, s in enumerate(scores)]
    return banks.make_banks(images, rate=0, min_score=-np.inf)["a"]


@pytest.mark.parametrize(
    "method, most, number, rows",
    [
        ("score", 9, 0, [0, 1, 2, 3, 4]),
        ("score", 2, 0, [1, 3]),
        ("score", 1, 0, [1]),  # of equals the earlier
        ("uniform", 2, 0, [0, 2]),
        ("uniform", 4, 0, [0, 1, 2, 3]),
        ("nearest", 2, 0, [0, 1]),
        ("nearest", 2, 3, [2, 3]),
        ("nearest", 2, 2, [1, 2]),
        ("nearest", 2, 4, [2, 4]),
    ],
)
def test_what_an_image_gets_of_a_bank_that_is_too_large(bank, method, most, number, rows):
    assert banks.choose_features(bank, number, most=most, method=method).tolist() == rows


def test_own_features_can_be_left_out(bank):
    assert banks.choose_features(bank, 3, most=9, exclude_own=True).tolist() == [0, 1, 4]
    assert banks.choose_features(bank, 3, most=2, method="nearest", exclude_own=True).tolist() == [1, 4]
    assert banks.choose_features(bank, 2, most=9, exclude_own=True).tolist() == [0, 1, 2, 3, 4]


@given(
    counts=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    most=st.integers(1, 8),
    method=st.sampled_from(["score", "uniform", "nearest"]),
    exclude_own=st.booleans(),
    data=st.data(),
)
def test_chosen_rows_are_as_many_as_allowed_ordered_and_different(counts, most, method, exclude_own, data):
    rng = np.random.default_rng(0)
    images = [make_frame(*rng.random(count), date=seconds(i)) for i, count in enumerate(counts)]
    found = banks.make_banks(images, rate=0, min_score=-np.inf)["a"]
    number = data.draw(st.integers(0, len(counts) - 1))
    rows = banks.choose_features(found, number, most=most, method=method, exclude_own=exclude_own)
    available = sum(counts) - (counts[number] if exclude_own else 0)
    assert len(rows) == min(most, available)
    assert (np.diff(rows) > 0).all()
    assert not exclude_own or number not in found.owners[rows]


@pytest.mark.parametrize(
    "values, problem",
    [
        ({"top_k_embedding_count": -1}, r"top_k_embedding_count = -1 is not allowed\. Allowed: 0 and above\."),
        ({"top_k_embedding_count": 0}, "embeds nothing"),
        ({"max_num_elements_in_context_features": 0}, "Allowed: 1 and above"),
        ({"context_features_score_threshold": 1.5}, r"= 1\.5 is not allowed\. Allowed: 0 to 1\."),
        ({"sequence_key": ""}, "sequence_key is empty"),
    ],
)
def test_settings_out_of_range_are_refused(values, problem):
    with pytest.raises(ValueError, match=problem):
        Settings(**values)


# --- what records say ---------------------------------------------------------------------------------------------------------


def make_example(**fields):
    """A record with fields by the end of their names; values are bytes, ints or floats."""
    example = tf.train.Example()
    for name, value in fields.items():
        feature = example.features.feature[f"image/{name}"]
        kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[type(value)]
        getattr(feature, kind).value.append(value)
    return example


@pytest.mark.parametrize(
    "text, found",
    [
        (b"2013-07-14 06:31:09", datetime.datetime(2013, 7, 14, 6, 31, 9)),
        (b" 2013-07-14T06:31:09.5+02:00\n", datetime.datetime(2013, 7, 14, 6, 31, 9, 500000)),
        (b"2013-07-14", datetime.datetime(2013, 7, 14)),
        (b"", None),
        (b"14.7.2013", "14.7.2013"),
        (b"2013-02-30 00:00:00", "2013-02-30 00:00:00"),
    ],
)
def test_dates_are_read(text, found):
    assert frames.read_date(make_example(date_captured=text)) == found
    assert frames.read_date(tf.train.Example()) is None


def test_keys_are_texts_or_whole_numbers():
    assert frames.read_key(make_example(location=b"gate"), "image/location") == "gate"
    assert frames.read_key(make_example(location=7), "image/location") == "7"
    for example in (make_example(location=0.5), make_example(location=b""), tf.train.Example()):
        assert frames.read_key(example, "image/location") is None
        assert len(example.features.feature) <= 1  # asking adds no field
    assert frames.read_frame_num(make_example(seq_frame_num=3)) == 3
    assert frames.read_frame_num(make_example(seq_frame_num=b"3")) is None


# --- the command --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector(small_overrides, untraced, tmp_path_factory) -> dict[str, list[str]]:
    """Flags of one detector: as a SavedModel with features, as one without, and as a checkpoint."""
    folder = tmp_path_factory.mktemp("detector")
    words = [word for override in small_overrides for word in ("--config_override", override)]
    with pytest.MonkeyPatch.context() as patch:
        import support

        support.put_backbone(patch)
        with untraced():
            train = ["train", "--config", RECIPE, "--model_dir", str(folder / "model"), "--num_steps", "1"]
            assert cli.main([*train, *words]) == 0
        checkpoint = ["--config", RECIPE, *words, "--checkpoint", str(folder / "model")]
        for name, more in (("plain", []), ("features", ["--config_override", FEATURES_OVERRIDE])):
            assert cli.main(["export", *checkpoint, *more, "--output_dir", str(folder / name)]) == 0
    return {
        "features": ["--saved_model", str(folder / "features")],
        "plain": ["--saved_model", str(folder / "plain")],
        "checkpoint": checkpoint,
    }


def encode(value):
    """A drawn image: a bright rectangle, somewhere else for each value."""
    pixels = np.full([64, 64, 3], 40, np.uint8)
    pixels[8 + value : 40 + value, 10:40] = (250, 20 * value, 90)
    return tf.io.encode_png(pixels).numpy()


def make_record(number, **fields):
    known = {
        "encoded": encode(number),
        "source_id": f"image{number}".encode(),
        "location": b"gate" if number < 4 else b"pond",
        "date_captured": f"2013-07-{31 - 2 * number:02d} 06:31:00".encode(),
    }
    example = make_example(**{name: value for name, value in (known | fields).items() if value is not None})
    for side, value in (("ymin", 0.25), ("xmin", 0.25), ("ymax", 0.5), ("xmax", 0.75)):
        example.features.feature[f"image/object/bbox/{side}"].float_list.value.append(value)
    example.features.feature["image/object/class/label"].int64_list.value.append(1)
    return example


@pytest.fixture
def write(tmp_path):
    """Writes records to two files; returns their glob."""

    def write_records(examples):
        (tmp_path / "in").mkdir(exist_ok=True)
        for part in (0, 1):
            with tf.io.TFRecordWriter(str(tmp_path / "in" / f"{part}.tfrecord")) as writer:
                for example in examples[part::2]:
                    writer.write(example.SerializeToString() if isinstance(example, tf.train.Example) else example)
        return str(tmp_path / "in" / "*.tfrecord")

    return write_records


@pytest.fixture
def run(detector, tmp_path):
    """The command; its exit status, and the records it wrote by their source ids."""

    def call(pattern, *words, model="features"):
        output = tmp_path / "out" / "data"
        status = cli.main(["context-features", "--input", pattern, "--output", str(output), *detector[model], *words])
        return status, read(tmp_path / "out")

    return call


def read(folder: Path):
    found = {}
    for path in sorted(folder.glob("*.tfrecord")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            name = b"".join(features["image/source_id"].bytes_list.value)
            found[name.decode()] = features
    return found


def context_of(features):
    """Features [M, L] and image ids of a record."""
    length = features[build.LENGTH_KEY].int64_list.value[0]
    ids = [value.decode() for value in features[build.IMAGE_IDS_KEY].bytes_list.value]
    return np.array(features[build.FEATURES_KEY].float_list.value, np.float32).reshape(-1, length), ids


def test_records_get_the_features_of_their_camera_in_the_order_of_time(detector, write, run, tmp_path, capfd):
    pattern = write([make_record(number) for number in range(6)])
    status, found = run(pattern, "--top_k_embedding_count", "2")
    assert status == 0
    assert len(found) == 6
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"data-{part:05d}-of-00002.tfrecord" for part in (0, 1)
    ]
    predictor = Predictor.from_saved_model(detector["features"][1])
    for name, camera in (("image0", [3, 2, 1, 0]), ("image3", [3, 2, 1, 0]), ("image4", [5, 4])):
        features, ids = context_of(found[name])
        assert ids == [f"image{number}" for number in camera for _ in range(2)]
        expected = []
        for number in camera:
            prediction = predictor.predict(tf.io.decode_png(encode(number)).numpy())
            date = datetime.datetime(2013, 7, 31 - 2 * number, 6, 31)
            expected.append(embedding.embed_detections(prediction, date, top_k=2, bottom_k=0).features)
        np.testing.assert_array_equal(features, np.concatenate(expected))
        assert found[name]["image/encoded"].bytes_list.value[0] == encode(int(name[-1]))
        assert found[name]["image/object/bbox/xmax"].float_list.value == [0.75]
    message = capfd.readouterr().err
    assert "Wrote 6 images to" in message and "2 memory banks" in message
    length = features.shape[1]
    assert f"context_feature_length: {length} max_num_context_features: 8 }}" in message

    # Training reads what was written.
    decoding = Decoding(num_classes=3, context=context_data.ContextDecoding(max_num=9, length=length))
    record = next(tf.data.TFRecordDataset(str(tmp_path / "out" / "data-00000-of-00002.tfrecord")).as_numpy_iterator())
    context = decode_example(tf.constant(record), decoding).example.context
    assert context.num_features == 8 and context.features.shape == (9, length)


def test_a_checkpoint_gives_what_its_saved_model_gives(tiny_resnet18, write, run):
    pattern = write([make_record(number) for number in range(4)])
    _, exported = run(pattern)
    status, found = run(pattern, model="checkpoint")
    assert status == 0
    for name, record in found.items():
        np.testing.assert_allclose(context_of(record)[0], context_of(exported[name])[0], rtol=1e-4, atol=1e-5)


def test_the_same_command_writes_the_same_bytes(write, run, tmp_path):
    pattern = write([make_record(number) for number in range(4)])
    words = ("--time_horizon", "month", "--num_shards", "3")
    contents = []
    for _ in range(2):
        assert run(pattern, *words)[0] == 0
        contents.append([path.read_bytes() for path in sorted((tmp_path / "out").iterdir())])
    assert len(contents[0]) == 3 and contents[0] == contents[1]


def test_windows_limits_and_left_out_images_reach_the_records(write, run):
    records = [make_record(number, location=b"gate") for number in range(6)]
    records[2] = make_record(2, location=b"gate", date_captured=b"2013-08-01 00:00:00")
    for key in ("ymin", "xmin", "ymax", "xmax"):
        records[4].features.feature.pop(f"image/object/bbox/{key}")
    del records[4].features.feature["image/object/class/label"]
    words = ("--time_horizon", "month", "--exclude_own", "--keep_only_positives_gt")
    _, found = run(write(records), *words)
    assert context_of(found["image1"])[1] == ["image5", "image3", "image0"]
    assert context_of(found["image4"])[1] == ["image5", "image3", "image1", "image0"]
    assert build.FEATURES_KEY not in found["image2"] and build.LENGTH_KEY in found["image2"]
    limit = ("--max_num_elements_in_context_features", "2", "--subsample_method", "nearest")
    _, found = run(write(records), *words, *limit)
    assert context_of(found["image1"])[1] == ["image3", "image0"]
    _, found = run(write(records), "--keep_only_positives", "--context_features_score_threshold", "1")
    assert all(build.FEATURES_KEY not in record for record in found.values())


def test_context_of_an_earlier_run_is_replaced(write, run):
    records = [make_record(number) for number in range(4)]
    records[0].features.feature[build.FEATURES_KEY].float_list.value.extend([1, 2])
    records[0].features.feature[build.LENGTH_KEY].int64_list.value.append(2)
    _, found = run(write(records))
    assert context_of(found["image0"])[1] == ["image3", "image2", "image1", "image0"]
    assert len(found["image0"][build.LENGTH_KEY].int64_list.value) == 1


def test_odd_records_are_counted_with_the_first_of_them(write, run, caplog, capfd):
    records = [
        make_record(0),
        make_record(1, location=None),
        make_record(2, encoded=b"no image"),
        make_record(3, date_captured=b"yesterday"),
        make_record(4, date_captured=None),
        make_record(5, encoded=None),
    ]
    pattern = write(records)
    folder = pattern.removesuffix("*.tfrecord")
    status, found = run(pattern, "--time_horizon", "month")
    assert status == 1
    assert set(found) == {"image0", "image1", "image3", "image4"}
    assert context_of(found["image0"])[1] == ["image0"]
    for name in ("image1", "image3", "image4"):
        assert build.FEATURES_KEY not in found[name] and build.LENGTH_KEY in found[name]
    text = caplog.text
    nothing = "they get no context and give none. The first is"
    assert f"1 records have no image/location: {nothing} {folder}1.tfrecord, record 0 (source_id image1)." in text
    assert f"1 records have no image/date_captured: {nothing} {folder}0.tfrecord, record 2 (source_id image4)." in text
    assert re.search(r"image/date_captured that is no date .* \(source_id image3\) \(yesterday\)\.", text)
    assert "8 bytes beginning with 6e 6f 20 69, does not decode" in text
    assert "2 records hold no readable image and were left out." in text
    message = capfd.readouterr().err
    assert "2 that cannot be read were left out" in message and "4 images, 3 of them without context" in message

    caplog.clear()
    _, found = run(pattern)  # without a horizon, dates are only entries of features
    assert context_of(found["image4"])[1] == ["image4"]
    np.testing.assert_array_equal(context_of(found["image4"])[0][0, -5:], np.zeros(5))
    assert "the time in their features is 0" in caplog.text


def test_records_without_an_id_are_named_by_their_place(write, run):
    pattern = write([make_record(0), make_record(1, source_id=None)])
    _, found = run(pattern)
    assert set(found) == {"image0", ""}
    assert context_of(found["image0"])[1] == [pattern.replace("*", "1") + ":0", "image0"]


def broken(record):
    return record.SerializeToString()[:-40]


@pytest.mark.parametrize(
    "records, words, problem",
    [
        (
            [make_record(0)],
            ("--sequence_key", "image/seq_id"),
            r"has the field image/seq_id .* has image/date_captured, ",
        ),
        ([make_record(0, date_captured=b"?")], ("--time_horizon", "day"), r"--time_horizon day needs.*image0\) \(\?\)"),
        ([make_record(0, encoded=None)], (), "None of the 1 records holds a readable image"),
        (
            [make_record(0), broken(make_record(1))],
            (),
            r"1\.tfrecord, record 0: .* bytes that are no serialized tf\.Example",
        ),
        (
            [
                tf.train.SequenceExample(
                    feature_lists=tf.train.FeatureLists(feature_list={"image/encoded": tf.train.FeatureList()})
                ).SerializeToString()
            ],
            (),
            r"record 0: is a tf\.SequenceExample",
        ),
    ],
)
def test_data_without_use_end_with_one_line_and_leave_nothing(write, run, tmp_path, capfd, records, words, problem):
    (tmp_path / "out").mkdir()
    older = tmp_path / "out" / "data-00000-of-00001.tfrecord"
    older.touch()
    assert run(write(records), *words)[0] == 2
    message = capfd.readouterr().err
    line = next(line for line in message.splitlines() if line.startswith("error: "))
    assert re.search(problem, line)
    assert "Traceback" not in message
    assert [path.name for path in (tmp_path / "out").iterdir()] == [older.name]


def test_a_detector_without_features_is_refused_with_the_remedy(write, run, tmp_path, capfd):
    assert run(write([make_record(0)]), model="plain")[0] == 2
    message = capfd.readouterr().err
    assert "gives no detection_features" in message and f"--config_override {FEATURES_OVERRIDE}" in message
    assert not list((tmp_path / "out").iterdir())


def test_a_truncated_file_ends_with_its_name(write, run, tmp_path, capfd):
    pattern = write([make_record(0), make_record(1)])
    path = tmp_path / "in" / "1.tfrecord"
    path.write_bytes(path.read_bytes()[:-10])
    assert run(pattern)[0] == 2
    assert f"{path}: truncated or corrupted at byte" in capfd.readouterr().err
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "words, problem",
    [
        ("--output {0}/x --checkpoint {0}", "--checkpoint needs --config"),
        ("--output {0}/x", "Give either --saved_model, or --checkpoint with --config."),
        (
            "--output {0}/x --checkpoint {0} --saved_model {0}",
            "Give either --saved_model, or --checkpoint with --config.",
        ),
        ("--output {0}/ --saved_model {0}", "names a folder"),
        ("--output {0}/a.tfrecord/x --saved_model {0}", "is a file, where a folder is needed"),
        ("--output {0}/a --saved_model {0} --num_shards 0", "--num_shards = 0 is not allowed"),
        ("--output {0}/a --saved_model {0} --top_k_embedding_count 0", "embeds nothing"),
        ("--output {0}/x --saved_model {0}", "There is no SavedModel in"),
        ("--output {0}/train --saved_model {0}", "which is read. Allowed: another beginning of names."),
    ],
)
def test_a_mistake_of_the_command_line_ends_with_one_line(tmp_path, capfd, words, problem):
    for name in ("a.tfrecord", "train-00000-of-00001.tfrecord"):
        with tf.io.TFRecordWriter(str(tmp_path / name)) as writer:
            writer.write(make_record(0).SerializeToString())
    arguments = ["context-features", "--input", f"{tmp_path}/*.tfrecord", *words.format(tmp_path).split()]
    assert cli.main(arguments) == 2
    message = capfd.readouterr().err
    assert problem in message
    assert message.startswith("error: ") and message.count("\n") == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_a_saved_model_that_looks_at_context_itself_is_no_first_detector(write, run, monkeypatch, capfd):
    predictor = Predictor(lambda image, context: {}, context_length=3)
    monkeypatch.setattr(Predictor, "from_saved_model", lambda path: predictor)
    assert run(write([make_record(0)]))[0] == 2
    assert "looks at context itself. Allowed: a detector that looks at single images" in capfd.readouterr().err


def test_a_config_that_looks_at_context_itself_is_no_first_detector(detector, write, run, capfd):
    words = ["--config_override", "model.faster_rcnn.context_config={}"]
    assert run(write([make_record(0)]), *words, model="checkpoint")[0] == 2
    assert "model.faster_rcnn.context_config is set" in capfd.readouterr().err
