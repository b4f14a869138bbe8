"""The data service: batches made in other processes are those of the pipeline, and its errors name the cause."""

from __future__ import annotations

import dataclasses
import functools
import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from object_detection_fpn.config import pipeline as config
from object_detection_fpn.config import recipes
from object_detection_fpn.data import decoder, failures, preparing, record_keys, resize
from object_detection_fpn.data import pipeline as input_pipeline
from object_detection_fpn.data.augment import geometry
from object_detection_fpn.data.masks import MaskDecoding
from object_detection_fpn.data.report import DataReport, Notice
from object_detection_fpn.data.source import service
from object_detection_fpn.data.source.files import list_record_files
from object_detection_fpn.jobs import train as train_job

# Ends with the process of the tests, however that ends.
COMMAND = """
import os, sys, threading, time
from object_detection_fpn.cli import main as cli
from object_detection_fpn.data.source import service
def end_with_parent():
    while os.getppid() == int(sys.argv[1]):
        time.sleep(0.5)
    os._exit(1)
threading.Thread(target=end_with_parent, daemon=True).start()
service.wait_for_dispatcher.__kwdefaults__["timeout"] = float(sys.argv[2])
sys.exit(cli.main(["data-service", *sys.argv[3:]]))
"""
# What TensorFlow 2.21 prints while it is imported, whatever TF_CPP_MIN_LOG_LEVEL says.
IMPORT_LINE = re.compile(r"I0000 |WARNING: All log messages before absl::InitializeLog")


def first_line(process: subprocess.Popen) -> str:
    """The first line of its own, empty when it ended without one."""
    return next((line for line in process.stderr if not IMPORT_LINE.match(line)), "")


def start(*arguments: str, timeout: float = 10.0) -> subprocess.Popen:
    """A server of `odfpn data-service`, which says a line once it is up; `timeout` is that for its dispatcher."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", COMMAND, str(os.getpid()), str(timeout), *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture(scope="module")
def address():
    """Of a dispatcher with two workers, three processes."""
    processes = []
    try:
        processes.append(start("dispatcher", "--port", "0"))
        line = first_line(processes[0])
        assert line.startswith("Data service dispatcher at port "), line
        found = f"localhost:{line.split()[-1].rstrip('.')}"
        processes += [start("worker", "--dispatcher", found) for _ in range(2)]
        for worker in processes[1:]:
            line = first_line(worker)
            assert line == f"Data service worker of {found}.\n", line
        yield found
    finally:
        # An iterator in a cycle, such as an error's traceback, outlives its test; without its service it would wait for it, and
        # stop whichever test collects it.
        gc.collect()
        for process in processes:
            process.kill()
            process.communicate()


def make(patterns, address, *, name, **options) -> tf.data.Dataset:
    defaults = {
        "file_patterns": [patterns] if isinstance(patterns, str) else patterns,
        "resizer": resize.fixed_shape(height=16, width=16),
        "num_classes": 3,
        "batch_size": 4,
        "is_training": True,
        "max_num_boxes": 5,
        "shuffle_buffer_size": 4,
        "seed": 0,
        "service": service.DataService(address, name),
    }
    settings = {**defaults, **options}
    records = (input_pipeline.Reading, decoder.Decoding, preparing.Preparing)
    names = [{field.name for field in dataclasses.fields(record)} for record in records]
    parts = [
        record(**{n: settings.pop(n) for n in own & settings.keys()})
        for record, own in zip(records, names, strict=True)
    ]
    return input_pipeline.make_dataset(*parts, **settings)


def areas(batches) -> list[int]:
    """The area of the first box, which names the record."""
    return [int(a) for batch in batches for a in batch.groundtruth.areas[:, 0].numpy()]


@pytest.fixture
def numbered(write_records, make_record):
    """A file of records that are named by their areas."""

    def write(num: int, **options) -> str:
        more = {"image/object/class/text": [b"dog"]}
        records = [make_record(labels=[2], more={**more, "image/object/area": [float(i)]}) for i in range(num)]
        return write_records(records, **options)

    return write


@pytest.mark.no_cover
def test_two_workers_give_every_record_once_a_stream(address, numbered):
    """One file, two workers, three passes: nothing is lost, doubled, or in the same order twice."""
    tf.random.set_seed(0)  # as `jobs.train` sets it
    path = numbered(12)
    flip = functools.partial(geometry.random_horizontal_flip, probability=0.5)
    options = {"label_to_id": {"cat": 1, "dog": 2}, "augmentations": [flip], "shuffle_buffer_size": 12}
    batches = list(make(path, address, name="once", num_epochs=3, **options))
    assert sorted(areas(batches)) == sorted(list(range(12)) * 3)
    assert len({tuple(areas([batch])) for batch in batches}) == 9  # three a stream, whichever worker made it
    assert batches[0].inputs.images.shape == (4, 16, 16, 3)
    assert batches[0].groundtruth.classes[:, 0].numpy().tolist() == [1] * 4
    assert batches[0].groundtruth.class_scores is None and batches[0].source_id is None
    keys = [key for batch in batches for key in batch.record_keys.numpy()]
    assert record_keys.name_records(keys, lambda: list_record_files([path])) == [
        f"{path}, record {i} (source_id 7)" for i in areas(batches)
    ]


@pytest.mark.no_cover
def test_endless_streams_differ_from_each_other(address, numbered):
    path = numbered(12)
    seen = areas(make(path, address, name="endless", shuffle_buffer_size=12).take(12))
    assert len(seen) == 48 and set(seen) == set(range(12))
    quarters = [tuple(seen[i : i + 4]) for i in range(0, 48, 4)]
    assert len(set(quarters)) == 12  # no worker repeats another one's batch


@pytest.mark.no_cover
def test_pipelines_of_one_job_share_its_batches(address, numbered):
    path = numbered(12)
    pipelines = []
    for i in range(2):
        context = tf.distribute.InputContext(num_input_pipelines=2, input_pipeline_id=i, num_replicas_in_sync=2)
        pipelines.append(make(path, address, name="shared", num_epochs=4, shuffle=False, input_context=context))
    assert all(pipeline.element_spec.inputs.images.shape[0] == 2 for pipeline in pipelines)
    found: list[list[int]] = [[], []]
    threads = [threading.Thread(target=lambda i=i: found[i].extend(areas(pipelines[i]))) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found[0] + found[1]) == sorted(list(range(12)) * 4)


@pytest.mark.parametrize("resizer", [None, resize.keep_aspect_ratio(min_dimension=16, max_dimension=64)])
@pytest.mark.no_cover
def test_what_was_dropped_elsewhere_is_counted_here(address, write_records, make_record, resizer, monkeypatch):
    lines = []
    add = DataReport.add
    monkeypatch.setattr(
        DataReport,
        "add",
        lambda self, n, num, name, **more: (num and lines.append((n, num, name))) or add(self, n, num, name, **more),
    )
    report = DataReport()
    boxes = [(0.1 * i, 0.1, 0.1 * i + 0.1, 0.5) for i in range(8)]
    path = write_records([make_record([*boxes, (0.5, 0.1, 0.1, 0.5)], source_id="many"), *[make_record()] * 7])
    options = {"resizer": resizer} if resizer else {}
    list(make(path, address, name=f"dropped{resizer is None}", num_epochs=1, report=report, **options))
    assert sorted(lines) == [
        (Notice.INVERTED, 1, f"{path}, record 0 (source_id many)"),
        (Notice.TOO_MANY, 3, f"{path}, record 0 (source_id many)"),
    ]
    assert report.num_dropped == 4


@pytest.mark.parametrize("num_epochs", [0, 2])
@pytest.mark.no_cover
def test_a_record_that_does_not_decode_elsewhere_is_named_here(address, write_records, make_record, num_epochs):
    bad = make_record(image=b"garbage", source_id="bad")
    path = write_records([make_record(), bad, *[make_record()] * 6])
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        list(make(path, address, name=f"bad{num_epochs}", num_epochs=num_epochs, shuffle=False).take(8))
    words = failures.error_message(caught.value)
    assert words.startswith(f"{path}, record 1 (source_id bad): image/encoded (7 bytes beginning with")


@pytest.mark.no_cover
def test_masks_are_read_elsewhere_and_bad_ones_named_here(address, write_records, make_record):
    def record(height: int, source_id: str) -> bytes:
        mask = tf.io.encode_png(np.ones([height, 30, 1], np.uint8)).numpy()
        return make_record(more={"image/object/mask": [mask]}, source_id=source_id)

    options = {"masks": MaskDecoding("png", side=6), "num_epochs": 1, "batch_size": 2, "max_num_boxes": 2}
    good, bad = [record(20, "good")] * 4, record(21, "bad")
    batches = list(make(write_records(good), address, name="masks", **options))
    assert len(batches) == 2
    for batch in batches:
        assert batch.groundtruth.masks.dtype == tf.uint8 and batch.groundtruth.masks.shape == (2, 2, 6, 6)
        assert np.all(batch.groundtruth.masks[:, 0] == 255) and batch.encoded_masks is None
    path = write_records([good[0], bad, *good], name="bad.tfrecord")
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        list(make(path, address, name="bad masks", shuffle=False, **options))
    assert failures.error_message(caught.value) == (
        f"{path}, record 1 (source_id bad): image/object/mask: mask 0 has height and width 21 30, image/encoded has 20 30."
    )


@pytest.mark.no_cover
def test_a_broken_file_is_named_here(address, write_records, make_record):
    path = write_records([make_record()] * 3)
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) - 1)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        list(make(path, address, name="broken", batch_size=2).take(8))
    assert failures.error_message(caught.value).startswith(f"{path}: truncated or corrupted at byte")


@pytest.mark.no_cover
def test_weights_hold_elsewhere_too(address, numbered):
    paths = [numbered(4, name="few.tfrecord"), numbered(40, name="many.tfrecord")]
    seen = areas(make(paths, address, name="weights", sample_from_datasets_weights=[1.0, 0.0], batch_size=10).take(4))
    assert set(seen) == set(range(4))


@pytest.mark.no_cover
def test_training_by_a_service_goes_through_all_steps(address, tiny_resnet18, untraced, small_overrides, tmp_path):
    """Three processes: this one trains, the workers read, augment and batch."""
    recipe = recipes.recipe_path("faster_rcnn_resnet18_fpn_shapes_160x160")
    message = config.load_config(recipe, small_overrides, require_data="train")
    with untraced():
        result = train_job.train(message, model_dir=str(tmp_path), num_steps=3, data_service_address=address)
    assert result.step == 3 and all(np.isfinite(loss) for loss in result.losses.values())


def test_a_service_that_goes_away_ends_what_waits_for_it(numbered, caplog):
    """First its worker, which is worth a warning; then its dispatcher. Both are of this process, to be stopped quickly."""
    dispatcher = tf.data.experimental.service.DispatchServer(tf.data.experimental.service.DispatcherConfig(port=0))
    place = dispatcher.target.split("://")[1]
    worker = tf.data.experimental.service.WorkerServer(
        tf.data.experimental.service.WorkerConfig(dispatcher_address=place)
    )
    servers = [dispatcher, worker]
    del dispatcher, worker
    batches = iter(make(numbered(4), place, name="goes", service=service.DataService(place, "goes", patience=0.3)))
    next(batches)
    has_warned = threading.Event()

    def stop_the_dispatcher():
        while f"No batch from the data service at {place} for" not in caplog.text:
            time.sleep(0.1)
        has_warned.set()
        servers.clear()

    servers.pop()
    threading.Thread(target=stop_the_dispatcher, daemon=True).start()
    with caplog.at_level("WARNING"), pytest.raises(tf.errors.InvalidArgumentError) as caught:
        for _ in batches:  # some were made ahead
            pass
    assert has_warned.is_set()
    words = failures.error_message(caught.value)
    # The error's traceback has the iterator, in a cycle, which would look for its service until the tests end.
    del caught, batches
    gc.collect()
    assert words.startswith(f"The data service at {place} has gone: no batch for ")
    assert f"No data service answers at {place} within 0.3 s" in words and "\n" not in words


def test_evaluation_elsewhere_is_refused(numbered):
    with pytest.raises(ValueError, match="for training only"):
        make(numbered(1), "localhost:1", name="evaluation", is_training=False)


def test_a_service_with_workers_is_found(address):
    service.wait_for_service(address)


def test_a_service_that_is_down_is_named():
    with pytest.raises(TimeoutError, match=r"No data service answers at localhost:1 within 0.2 s .*--port 1` on loc"):
        service.wait_for_service("localhost:1", timeout=0.2)


def test_a_service_without_workers_is_named():
    server = tf.data.experimental.service.DispatchServer(tf.data.experimental.service.DispatcherConfig(port=0))
    place = server.target.split("://")[1]
    with pytest.raises(TimeoutError, match=f"at {place} has no worker .* --dispatcher {place}`"):
        service.wait_for_service(place, worker_timeout=1.0)
    # Its question, without an answer, would be repeated until the tests end: a worker answers it.
    config = tf.data.experimental.service.WorkerConfig(dispatcher_address=place)
    worker = tf.data.experimental.service.WorkerServer(config)
    [asking] = [thread for thread in threading.enumerate() if thread.name.endswith("(ask)")]
    asking.join(60)
    assert not asking.is_alive()
    del worker


@pytest.mark.parametrize("text", ["", "localhost", "localhost:", ":5000", "localhost:0", "localhost:70000", "a:b"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match=f'address "{text}" .* Allowed: HOST:PORT'):
        service.split_address(text)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.no_cover
def test_servers_end_at_a_signal(signum):
    process = start("dispatcher", "--port", "0")
    try:
        assert first_line(process).startswith("Data service dispatcher")
        process.send_signal(signum)
        _, rest = process.communicate(timeout=60)
        assert process.returncode == 128 + signum
        assert "Traceback" not in rest
    finally:
        process.kill()


@pytest.mark.no_cover
def test_a_worker_without_dispatcher_ends_with_one_line():
    process = start("worker", "--dispatcher", "localhost:1", timeout=0.2)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 1
    [line] = [line for line in words.splitlines() if not IMPORT_LINE.match(line)]
    assert line.startswith("error: No data service answers at localhost:1")


def test_streams_without_service_are_one_after_the_other():
    dataset = service.in_streams(lambda n: tf.data.Dataset.range(3).map(lambda i: 10 * n + i), num_streams=2)
    np.testing.assert_array_equal(list(dataset.as_numpy_iterator()), [0, 1, 2, 10, 11, 12])
