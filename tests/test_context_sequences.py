"""`benchmarks/context_sequences.py`: what it draws, the configs of its rows, and what it reports."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.config import pipeline, recipes
from object_detection_fpn.data.decoder import Decoding, decode_example


@pytest.fixture(scope="module")
def benchmark(import_benchmark):
    return import_benchmark("context_sequences")


@pytest.fixture(scope="module")
def drawn(benchmark):
    """Sixteen sequences."""
    return [
        benchmark._sequences.draw_sequence(np.random.default_rng(i), image_size=96, num_frames=6, num_shown=2)
        for i in range(16)
    ]


def mark_of(frame):
    """Mean colour around the centre of the disc, [3]."""
    ymin, xmin, ymax, xmax = frame.box
    size = len(frame.pixels)
    y, x = round((ymin + ymax) / 2 * size), round((xmin + xmax) / 2 * size)
    return frame.pixels[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).mean(axis=0)


def test_a_mark_shows_the_class_in_as_many_frames_as_asked_for(drawn):
    for sequence in drawn:
        assert [frame.shows_class for frame in sequence.frames].count(True) == 2
        for frame in sequence.frames:
            colour = mark_of(frame)
            if frame.shows_class:
                assert colour.argmax() == sequence.label - 1
                assert np.ptp(colour) > 60
            else:
                assert np.ptp(colour) < 15
    assert {sequence.label for sequence in drawn} == {1, 2, 3}


def test_discs_lie_inside_and_keep_their_size(drawn):
    for sequence in drawn:
        boxes = np.array([frame.box for frame in sequence.frames])
        assert boxes.min() >= -1e-9 and boxes.max() <= 1 + 1e-9
        np.testing.assert_allclose(np.diff(boxes[:, [0, 2]]), np.diff(boxes[:1, [1, 3]])[0, 0])
        assert len({tuple(box) for box in boxes.round(3)}) > 1


def test_the_camera_stands_still(drawn):
    for sequence in drawn:
        first, last = (frame.pixels.astype(float) for frame in (sequence.frames[0], sequence.frames[-1]))
        ratios = np.median(first / np.maximum(last, 1), axis=(0, 1))
        assert np.median(np.abs(first - ratios * last)) < 12  # but for light and noise


def test_more_frames_than_there_are_cannot_show_the_class(benchmark):
    with pytest.raises(ValueError, match=r"num_shown = 7 is not allowed\. Allowed: 0 to num_frames = 6"):
        benchmark._sequences.draw_sequence(np.random.default_rng(0), image_size=96, num_frames=6, num_shown=7)


def test_records_say_camera_sequence_and_date_and_are_the_same_again(benchmark, tmp_path):
    contents = []
    for folder in ("a", "b"):
        pattern = benchmark._sequences.write_records(
            tmp_path / folder / "train", num_sequences=2, seed=(3, 0), image_size=64, num_frames=3, num_shown=1
        )
        (path,) = tf.io.gfile.glob(pattern)
        contents.append(list(tf.data.TFRecordDataset(path).as_numpy_iterator()))
    assert contents[0] == contents[1] and len(contents[0]) == 6
    features = [tf.train.Example.FromString(record).features.feature for record in contents[0]]
    assert [f["image/seq_frame_num"].int64_list.value[0] for f in features] == [0, 1, 2] * 2
    assert len({f["image/seq_id"].bytes_list.value[0] for f in features}) == 2
    assert features[1]["image/date_captured"].bytes_list.value == [b"2014-03-01 06:00:20"]
    assert len({f["image/source_id"].bytes_list.value[0] for f in features}) == 6
    objects = decode_example(tf.constant(contents[0][0]), Decoding(num_classes=3)).example.objects
    assert objects.boxes.shape == (1, 4)


@pytest.mark.parametrize("row", ["first", "without", "with"])
def test_the_config_of_every_row_loads(benchmark, row):
    records = benchmark.Records("train", "eval")
    changes = benchmark.overrides_of(row, label_map="map", records=records, first="first", num_steps=100)
    config = pipeline.load_config(recipes.recipe_path(benchmark._RECIPE), changes)
    assert config.train_input_reader.load_context_features == (row == "with")
    assert config.model.faster_rcnn.HasField("context_config") == (row == "with")
    assert config.train_config.fine_tune_checkpoint == ("" if row == "first" else "first")
    assert config.train_config.num_steps == 100
    assert list(config.eval_input_reader[0].tf_record_input_reader.input_path) == ["eval"]


def test_rows_with_and_without_differ_in_the_context_alone(benchmark):
    records = benchmark.Records("train", "eval")
    common = {"label_map": "map", "records": records, "first": "first", "num_steps": 100}
    without, with_context = (benchmark.overrides_of(row, **common) for row in ("without", "with"))
    assert with_context == [*without, *benchmark.WITH_CONTEXT]


def test_gains_are_those_of_each_seed(benchmark):
    def row(name, seed, ap):
        values = {"AP": ap, "AP50": ap, "small": None, "medium": ap, "large": ap, "classes": {"red": ap}}
        return {"row": name, "seed": seed, **values, "train_minutes": 1.0, "evaluation_minutes": 0.5}

    rows = [row("without", 0, 40.0), row("with", 0, 60.0), row("without", 1, 50.0), row("with", 1, 65.0)]
    summary = benchmark.summarize(rows)
    assert summary["gains"] == {0: 20.0, 1: 15.0} and summary["gain"] == 17.5
    assert summary["rows"]["with"]["AP"] == 62.5


def test_rows_are_measured_in_turn_on_records_with_context(benchmark, tmp_path, monkeypatch):
    measured = []

    def run_own(words):
        task = json.loads(words[-1])
        measured.append(task["config_path"].rpartition("/")[2])
        return {"AP": 50.0}

    def make_context(records, folder, config_path, checkpoint):
        assert config_path.endswith("first.config") and checkpoint.endswith("first")
        measured.append("context")
        return benchmark.Records(*(f"{pattern}_context" for pattern in records))

    monkeypatch.setattr(benchmark._common, "run_own", run_own)
    monkeypatch.setattr(benchmark, "make_context", make_context)
    monkeypatch.setattr(benchmark, "draw_data", lambda *_: ("map", benchmark.Records("train", "eval")))
    rows = benchmark.measure_rows(benchmark.parse_arguments(["--output", str(tmp_path), "--seeds", "4"]))
    assert measured == ["first.config", "context", "without.config", "with.config"]
    assert [row["row"] for row in rows] == list(benchmark.ROWS)
    assert 'input_path: "eval_context"' in (tmp_path / "seed_4" / "with.config").read_text()


@pytest.mark.parametrize(
    "words, problem", [([], "--output is required"), (["--output", "x", "--num_steps", "0"], "--num_steps = 0 is not")]
)
def test_what_is_missing_is_said(benchmark, capsys, words, problem):
    with pytest.raises(SystemExit):
        benchmark.parse_arguments(words)
    assert problem in capsys.readouterr().err
