"""Fixtures of the whole suite."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# oneDNN's own allocator keeps what a process once needed, and each process of a suite comes to need 10 GB at some time.
os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
# XLA's own passes stay; LLVM's, after them, take half of the time, and what they make is run once or twice here.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import measuring  # first: see there
import pytest
import support
import tensorflow as tf
import tf_keras

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).parent.parent


def pytest_configure() -> None:
    """Splits the CPU in two logical devices, so that strategies with two replicas can be tested anywhere; handles Ctrl-C."""
    # A shell's background jobs ignore SIGINT, and pass that on; the tests of stopping need it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    # Tracing makes many objects, and Python looks for garbage among all of TensorFlow's each time; less often is enough.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


# The files that take longest, longest first.
LONGEST = (
    "jobs/test_train.py",
    "builder/test_field_effects_model.py",
    "test_end_to_end_retinanet.py",
    "test_end_to_end_context.py",
    "test_end_to_end_single_level.py",
    "builder/test_field_effects_data.py",
    "conformance/test_conformance.py",
    "data/source/test_service.py",
    "data/test_pipeline.py",
    "training/test_multi_worker.py",
    "interop/test_torchvision.py",
    "interop/test_detectron2.py",
    "modeling/backbones/test_resnet_v1.py",
    "data/augment/test_all.py",
    "cli/test_main.py",
    "ops/nms/test_multiclass.py",
    "test_end_to_end.py",
    "ops/crop_and_resize/test_align.py",
    "interop/test_classification.py",
    "interop/test_libraries.py",
    "ops/crop_and_resize/test_crop_and_resize.py",
    "training/test_step.py",
    "training/test_loop.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take longest first: started last, one of them would leave the other processes without work."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="module", autouse=True)
def released_memory() -> Iterator[None]:
    """Gives the memory of a file's models back: three processes that keep it would need all that a machine has."""
    yield
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Extends `no_cover` to the fixtures: pytest-cov leaves out the test alone."""
    if item.get_closest_marker("no_cover") is None:
        return (yield)
    with measuring.unmeasured():
        return (yield)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    # Not tf.random.set_seed, which leaves the first weights of layers to chance.
    tf_keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def two_cpus() -> tf.distribute.Strategy:
    """A strategy of two replicas, the same one for the whole process."""
    # Not by collective operations, MirroredStrategy's choice: these number themselves anew in every strategy object, and
    # TensorFlow aborts all of a process's collectives once two of one number differ in shape.
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())


@pytest.fixture(scope="session")
def untraced():
    """`with untraced():` runs functions as the Python they are; for few steps, tracing takes most of the time.

    Not the functions of data sets, which are traced all the same.
    """

    @contextlib.contextmanager
    def run_eagerly() -> Iterator[None]:
        tf.config.run_functions_eagerly(True)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Even though the `tf.config.experimental_run_functions_eagerly`")
                yield
        finally:
            tf.config.run_functions_eagerly(False)

    return run_eagerly


@pytest.fixture
def tiny_resnet18(monkeypatch) -> None:
    """Configs that say ResNet-18 get a backbone that is built in a moment."""
    support.put_backbone(monkeypatch)


@pytest.fixture(scope="module")
def tiny_resnet18_throughout() -> Iterator[None]:
    """`tiny_resnet18` in all tests of a file, for what they share."""
    with pytest.MonkeyPatch.context() as patch:
        support.put_backbone(patch)
        yield


@pytest.fixture(scope="session")
def free_addresses():
    """Given a number: so many addresses of this machine, "localhost:PORT", at which nobody listens."""

    def find(number: int) -> list[str]:
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
            for one in sockets:
                one.bind(("localhost", 0))
            return [f"localhost:{one.getsockname()[1]}" for one in sockets]

    return find


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def root_dir() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def import_benchmark(root_dir):
    """Given the name of a script in `benchmarks`: its module."""

    def load(name: str) -> ModuleType:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(root_dir / "benchmarks")  # for what scripts import from beside them
            return importlib.import_module(name)

    return load


@pytest.fixture(scope="session")
def parity(import_benchmark):
    """The comparisons with the Object Detection API, which are a benchmark too."""
    return import_benchmark("parity")


@pytest.fixture(scope="session")
def api_model(parity, golden_dir) -> Path:
    """The folder of the API's Faster R-CNN of the reference: config, checkpoint, arrays, losses."""
    return parity._parity.unpack(golden_dir, parity.ARCHIVE)


@pytest.fixture(scope="session")
def shapes_data(tmp_path_factory):
    """A small drawn data set: 8 training and 6 held-out images of 96 pixels, with masks."""
    from object_detection_fpn.tools import shapes

    folder = tmp_path_factory.mktemp("shapes")
    return shapes.write_dataset(
        str(folder), num_train=8, num_eval=6, image_size=96, seed=1, num_shards=2, with_masks=True, show_progress=False
    )


@pytest.fixture(scope="session")
def small_overrides(shapes_data) -> list[str]:
    """Overrides that make the demo's recipe read `shapes_data` and take a tenth of a second a step."""
    return [
        *support.reading_overrides(shapes_data.train_records, shapes_data.eval_records, shapes_data.label_map_path),
        "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer.min_dimension=64",
        "model.faster_rcnn.image_resizer.keep_aspect_ratio_resizer.max_dimension=64",
        "model.faster_rcnn.feature_extractor.fpn.max_level=5",
        "model.faster_rcnn.feature_extractor.fpn.additional_layer_depth=8",
        "model.faster_rcnn.first_stage_anchor_generator.multiscale_anchor_generator.max_level=5",
        "model.faster_rcnn.first_stage_anchor_generator.multiscale_anchor_generator.scales_per_octave=1",
        "model.faster_rcnn.first_stage_box_predictor_depth=16",
        "model.faster_rcnn.first_stage_max_proposals=20",
        "model.faster_rcnn.second_stage_batch_size=16",
        "model.faster_rcnn.initial_crop_size=4",
        "train_config.batch_size=2",
        "eval_config.batch_size=4",
        "eval_config.num_visualizations=2",
    ]


@pytest.fixture(scope="session")
def single_level_overrides(small_overrides) -> list[str]:
    """The same of `faster_rcnn_resnet18_shapes_160x160`, every score counts."""
    suppression = "model.faster_rcnn.second_stage_post_processing.batch_non_max_suppression"
    kept = [each for each in small_overrides if ".fpn." not in each and "multiscale_anchor_generator" not in each]
    return [*kept, f"{suppression}.score_threshold=0"]


@pytest.fixture(scope="session")
def retinanet_overrides(small_overrides) -> list[str]:
    """The same of `retinanet_resnet18_fpn_shapes_160x160`, for images of 160 pixels."""
    return [
        *(each for each in small_overrides if "faster_rcnn" not in each),
        "model.ssd.feature_extractor.fpn.additional_layer_depth=16",
        "model.ssd.box_predictor.weight_shared_convolutional_box_predictor.depth=16",
        "model.ssd.loss_normalization=MOVING_AVERAGE",
    ]


@pytest.fixture(scope="session")
def small_config(small_overrides):
    """The demo's recipe made small; copy it before changing it."""
    from object_detection_fpn.config import pipeline as config
    from object_detection_fpn.config import recipes

    recipe = recipes.recipe_path("faster_rcnn_resnet18_fpn_shapes_160x160")
    return config.load_config(recipe, small_overrides, require_data=["train", "eval"])


@pytest.fixture(scope="session")
def effective_fields():
    """Given names of .proto files: "Message.field" of all their fields that are neither refused nor without effect."""
    from google.protobuf import descriptor_pool

    from object_detection_fpn.config import tables
    from object_detection_fpn.protos import pipeline_pb2, string_int_label_map_pb2

    assert pipeline_pb2 and string_int_label_map_pb2  # importing them registers every file

    def fields_of(message) -> set[str]:
        if message.GetOptions().map_entry:
            return set()
        own = {f"{message.name}.{field.name}" for field in message.fields}
        return own.union(*map(fields_of, message.nested_types))

    def find(*names: str) -> set[str]:
        pool = descriptor_pool.Default()
        files = [pool.FindFileByName(f"object_detection_fpn/protos/{name}.proto") for name in names]
        found = set().union(*(fields_of(m) for file in files for m in file.message_types_by_name.values()))
        return found - set(tables.REFUSED) - set(tables.NO_EFFECT)

    return find


@pytest.fixture(scope="session")
def read_summaries():
    """Given a TensorBoard folder: {tag: {step: value}} of all that was written below it; images stay encoded."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    def read(folder: Path) -> dict[str, dict[int, object]]:
        found: dict[str, dict[int, object]] = {}
        for file in sorted(folder.rglob("events.out.tfevents.*")):
            for event in EventFileLoader(str(file)).Load():
                for value in event.summary.value:
                    array = tf.make_ndarray(value.tensor)
                    found.setdefault(value.tag, {})[event.step] = array.item() if array.size == 1 else array
        return found

    return read


@pytest.fixture(scope="session")
def make_image():
    """Groundtruth and detections of one image from lists; classes 0, scores 0.9, 0.8, ... and masks that fill the boxes where
    none are given.
    """
    import numpy as np

    from object_detection_fpn.evaluation.metric import ImageDetections, ImageGroundtruth
    from object_detection_fpn.ops.rle import encode_box

    size = (300, 300)

    def fill(boxes):
        return [encode_box(np.nan_to_num(box), size) for box in boxes]

    def make(
        gt_boxes=(), boxes=(), *, gt_classes=None, classes=None, scores=None, difficult=None, group_of=None, crowd=None,
        labeled=None, not_exhaustive=None, gt_masks=None, masks=None, source_id="a",
    ):  # fmt: skip
        gt_boxes, boxes = (np.reshape(np.asarray(b, np.float32), (-1, 4)) for b in (gt_boxes, boxes))
        num_gt, num = len(gt_boxes), len(boxes)
        groundtruth = ImageGroundtruth(
            source_id=source_id,
            boxes=gt_boxes,
            classes=np.asarray(gt_classes or [0] * num_gt, np.int32),
            is_crowd=np.asarray(crowd or [False] * num_gt, bool),
            is_difficult=None if difficult is None else np.asarray(difficult, bool),
            is_group_of=None if group_of is None else np.asarray(group_of, bool),
            labeled_classes=None if labeled is None else np.asarray(labeled, bool),
            not_exhaustive_classes=None if not_exhaustive is None else np.asarray(not_exhaustive, bool),
            masks=fill(gt_boxes) if gt_masks is None else gt_masks,
            image_size=size,
        )
        scores = 0.9 - 0.1 * np.arange(num) if scores is None else scores
        return groundtruth, ImageDetections(
            boxes,
            np.asarray(scores, float),
            np.asarray(classes or [0] * num, np.int32),
            fill(boxes) if masks is None else masks,
        )

    return make


@pytest.fixture(scope="session")
def make_backbone():
    return support.make_backbone


@pytest.fixture(scope="session")
def make_extractor():
    return support.make_extractor


@pytest.fixture(scope="session")
def make_model():
    return support.make_model


@pytest.fixture(scope="session")
def make_groundtruth():
    return support.make_groundtruth


@pytest.fixture(scope="session")
def backbone_filters():
    return support.NUM_FILTERS


@pytest.fixture(scope="session")
def model():
    """Shared: tests must leave its variables as they are."""
    tf_keras.utils.set_random_seed(0)
    return support.make_model()
