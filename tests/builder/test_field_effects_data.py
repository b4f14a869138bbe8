"""Each field of input readers, of evaluation and of label maps changes something, has no effect on purpose, or is refused.

A field that is added to one of the .proto files must be added to one of the tables, here or in `config.tables`.
"""

from __future__ import annotations

import functools
import os

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from google.protobuf import text_format
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from object_detection_fpn import builder, records
from object_detection_fpn.config import checks, tables
from object_detection_fpn.config.label_map import load_label_map
from object_detection_fpn.data import images
from object_detection_fpn.data.source import reader as record_reader
from object_detection_fpn.jobs import evaluate as evaluate_job
from object_detection_fpn.protos import eval_pb2, input_reader_pb2, pipeline_pb2, string_int_label_map_pb2

pytestmark = pytest.mark.no_cover  # what runs here is covered elsewhere, and measuring it takes a third of the time

MESSAGES = (
    eval_pb2.EvalConfig,
    input_reader_pb2.InputReader,
    input_reader_pb2.TFRecordInputReader,
    string_int_label_map_pb2.StringIntLabelMap,
    string_int_label_map_pb2.StringIntLabelMapItem,
)
LABEL_MAP = (
    'item { id: 1 name: "cat" display_name: "dog" ancestor_ids: 3 } item { id: 2 name: "dog" display_name: "hound" }'
    ' item { id: 3 name: "animal" descendant_ids: 1 }'
)


# Data -----------------------------------------------------------------------------------------------------------------


def make_record(number: int) -> bytes:
    """Record number n: an image of 8 x 12, boxes told by their area, and labels that the tests below make use of."""
    features = tf.train.Example()

    def put(key, values):
        feature = features.features.feature[key]
        kind = {bytes: feature.bytes_list, float: feature.float_list, int: feature.int64_list}[type(values[0])]
        kind.value.extend(values)

    pixels = np.full([8, 12, 3], number * 10, np.uint8)
    put("image/encoded", [tf.io.encode_png(pixels).numpy()])
    put("image/additional_channels/encoded", [tf.io.encode_png(pixels[..., :1]).numpy()])
    put("image/source_id", [f"id{number}".encode()])
    put("image/context_features", [0.5 + number, 1.0, 2.0])
    put("image/context_feature_length", [3])
    if number % 3 == 1:
        put("image/class/text", [b"animal"])  # somebody looked for animals only; record 2 says nothing
    if number % 3 == 0:
        for side, values in {
            "ymin": [0.25, 0.0],
            "xmin": [0.25, 0.0],
            "ymax": [0.75, 0.5],
            "xmax": [0.75, 0.5],
        }.items():
            put(f"image/object/bbox/{side}", values)
        put("image/object/class/text", [b"cat", b"dog"])
        put("image/object/area", [float(number + 1)] * 2)
        mask = np.zeros([2, 8, 12, 1], np.uint8)
        mask[:, 3:, :5] = 1
        put("image/object/mask", [tf.io.encode_png(each).numpy() for each in mask])
        put("image/object/class/multiclass_scores", [0.5, 0.25, 0.25, 0.0, 1.0, 0.0])
    return features.SerializeToString()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for i in range(3):
        with tf.io.TFRecordWriter(str(folder / f"file-{i}.tfrecord")) as writer:
            for k in range(3):
                writer.write(make_record(3 * i + k))
    (folder / "map.pbtxt").write_text(LABEL_MAP)
    (folder / "other.pbtxt").write_text(LABEL_MAP.replace("cat", "lynx"))
    return folder


def make_config(folder, *, reader: str = "", evaluation: str = "", training: str = "", model: str = ""):
    files = f'tf_record_input_reader {{ input_path: "{folder}/file-*.tfrecord" }}'
    files = "" if "tf_record_input_reader" in reader else files
    labels = "" if "label_map_path" in reader else f'label_map_path: "{folder}/map.pbtxt"'
    reader = f"{files} {labels} {reader}".replace("DIR", str(folder))
    text = f"""
        model {{ faster_rcnn {{ num_classes: 3 image_resizer {{ fixed_shape_resizer {{ height: 64 width: 64 }} }} {model} }} }}
        train_config {{ {training} }}
        train_input_reader {{ {reader} }}
        eval_config {{ {evaluation} }}
        eval_input_reader {{ {reader} }}
    """
    return text_format.Parse(text, pipeline_pb2.TrainEvalPipelineConfig())


def observe_batches(folder, reader: str, *, is_training: bool, training: str = "", model: str = ""):
    """What the pipeline gives: the shape and contents of every field of the first batches, and its buffer of batches."""
    # The images are of one colour, which their corner tells.
    config = make_config(folder, reader=reader, training=training, model=model)
    message = config.train_input_reader
    buffers = []
    prefetch = tf.data.Dataset.prefetch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.data.Dataset, "prefetch", lambda self, n: buffers.append(n) or prefetch(self, n))
        dataset = builder.build_dataset(
            config,
            message,
            label_map=load_label_map(message.label_map_path, use_display_name=message.use_display_name),
            batch_size=2,
            is_training=is_training,
            seed=0,
        )
    buffers.append(dataset.options().deterministic)
    seen = []
    for batch in dataset.take(6):
        inputs = batch.inputs
        rest = tf.nest.flatten(batch._replace(inputs=inputs._replace(images=inputs.images[:, :1, :1])))
        seen.append([inputs.images.shape, *(None if leaf is None else leaf.numpy().tolist() for leaf in rest)])
    return buffers, seen


TRAINING, EVALUATION = True, False
IN_ORDER = "shuffle_buffer_size: 1 num_epochs: 1 num_readers: 1"
ONE_FILE = 'tf_record_input_reader { input_path: "DIR/file-1.tfrecord" }'
TWO_FILES = 'tf_record_input_reader { input_path: "DIR/file-1.tfrecord" input_path: "DIR/file-2.tfrecord" }'

# Field -> in what use, what stands beside it in both readers, and what one of them has besides.
READER_EFFECTS = {
    "InputReader.label_map_path": (EVALUATION, "", 'label_map_path: "DIR/other.pbtxt"'),
    "InputReader.shuffle": (TRAINING, "", "shuffle: false"),
    "InputReader.num_epochs": (TRAINING, "", "num_epochs: 1"),
    "InputReader.num_readers": (EVALUATION, "read_block_length: 1", "num_readers: 1"),
    "InputReader.tf_record_input_reader": (EVALUATION, "", ONE_FILE),
    "InputReader.shuffle_buffer_size": (TRAINING, "", "shuffle_buffer_size: 1"),
    "InputReader.filenames_shuffle_buffer_size": (TRAINING, IN_ORDER, "filenames_shuffle_buffer_size: 1"),
    "InputReader.read_block_length": (EVALUATION, "", "read_block_length: 1"),
    "InputReader.use_display_name": (EVALUATION, "", "use_display_name: true"),
    "InputReader.num_additional_channels": (EVALUATION, "", "num_additional_channels: 1"),
    "InputReader.num_prefetch_batches": (TRAINING, "", "num_prefetch_batches: 5"),
    "InputReader.max_number_of_boxes": (EVALUATION, "", "max_number_of_boxes: 1"),
    "InputReader.sample_1_of_n_examples": (EVALUATION, "", "sample_1_of_n_examples: 2"),
    "InputReader.expand_labels_hierarchy": (EVALUATION, "", "expand_labels_hierarchy: true"),
    "InputReader.sample_from_datasets_weights": (TRAINING, TWO_FILES, "sample_from_datasets_weights: [0, 1]"),
    "InputReader.cache": (TRAINING, "", "cache: MEMORY"),
    "InputReader.deterministic": (TRAINING, "", "deterministic: false"),
    "InputReader.drop_remainder": (TRAINING, "num_epochs: 1", "drop_remainder: false"),
    "TFRecordInputReader.input_path": (EVALUATION, "", ONE_FILE),
}


@pytest.fixture(scope="module")
def batches_without(folder):
    """Batches with settings that several fields share, made once."""

    @functools.cache
    def observe(reader: str, is_training: bool, training: str = "", model: str = ""):
        return observe_batches(folder, reader, is_training=is_training, training=training, model=model)

    return observe


@pytest.mark.parametrize("field", READER_EFFECTS)
def test_a_field_of_the_reader_changes_the_batches(folder, batches_without, field):
    is_training, beside, change = READER_EFFECTS[field]
    with_it = observe_batches(folder, f"{beside} {change}", is_training=is_training)
    assert with_it != batches_without(beside, is_training)


@pytest.mark.parametrize("is_training", [True, False])
def test_batches_repeat_themselves(folder, batches_without, is_training):
    assert observe_batches(folder, "", is_training=is_training) == batches_without("", is_training)


LOAD, USE = "load_multiclass_scores: true", "use_multiclass_scores: true"

# Field -> reader and train_config without it and with it.
TARGETS = {
    "InputReader.load_multiclass_scores": (("", USE), (LOAD, USE)),
    "TrainConfig.use_multiclass_scores": ((LOAD, ""), (LOAD, USE)),
    "TrainConfig.merge_multiple_label_boxes": (("", ""), ("", "merge_multiple_label_boxes: true")),
}


@pytest.mark.parametrize("field", TARGETS)
def test_a_field_of_soft_targets_changes_training_batches(batches_without, field):
    without, with_it = (batches_without(reader, True, training) for reader, training in TARGETS[field])
    assert without != with_it


WITH_MASKS = "number_of_stages: 3"
MASKS = "load_instance_masks: true mask_type: PNG_MASKS mask_side: 3 max_number_of_boxes: 2"

# Field -> the reader of a model with masks without it and with it.
MASK_EFFECTS = {
    "InputReader.load_instance_masks": ("max_number_of_boxes: 2", MASKS),
    "InputReader.mask_frame": (MASKS, f"{MASKS} mask_frame: IMAGE"),
    "InputReader.mask_side": (MASKS, MASKS.replace("mask_side: 3", "mask_side: 4")),
}


@pytest.mark.parametrize("field", MASK_EFFECTS)
def test_a_field_of_masks_changes_the_batches_of_a_model_with_masks(batches_without, field):
    without, with_it = (batches_without(reader, True, model=WITH_MASKS) for reader in MASK_EFFECTS[field])
    assert without != with_it


CONTEXT = "load_context_features: true"


def test_context_is_loaded_for_a_model_that_looks_at_it(batches_without):
    model = "context_config { max_num_context_features: 2 context_feature_length: 3 }"
    without, with_it = (batches_without(reader, True, model=model) for reader in ("", CONTEXT))
    assert without != with_it
    assert batches_without(CONTEXT, True) == batches_without("", True)


def test_a_model_without_masks_gets_none(batches_without):
    assert batches_without(MASKS, False) == batches_without("max_number_of_boxes: 2", False)


def test_the_kind_of_masks_is_what_the_records_hold(folder):
    reader = MASKS.replace("PNG_MASKS", "NUMERICAL_MASKS")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"image/object/mask.*mask_type"):
        observe_batches(folder, reader, is_training=EVALUATION, model=WITH_MASKS)


def test_soft_targets_are_for_training_alone(batches_without):
    training = f"{USE} merge_multiple_label_boxes: true"
    assert batches_without(LOAD, False, training) == batches_without("", False)


def test_the_folder_of_the_cache_takes_the_records(folder, tmp_path):
    observe_batches(folder, f'num_epochs: 2 cache: DISK cache_dir: "{tmp_path}/cache"', is_training=TRAINING)
    assert len(list((tmp_path / "cache").glob("records-*.index"))) == 1


@pytest.mark.parametrize("reader", ["cache: DISK", 'cache_dir: "x"', 'cache: MEMORY cache_dir: "x"'])
def test_a_cache_on_disk_and_a_folder_belong_together(folder, reader):
    problems = [p.field for p in checks.find_problems(make_config(folder, reader=reader))]
    assert [field for field in problems if field.endswith("cache_dir")] == [
        "train_input_reader.cache_dir",
        "eval_input_reader[0].cache_dir",
    ]


def test_smaller_jpegs_are_refused_beside_additional_channels(folder):
    reader = "jpeg_min_side: 64 num_additional_channels: 1"
    problems = [p.field for p in checks.find_problems(make_config(folder, reader=reader))]
    assert problems.count("train_input_reader.jpeg_min_side") == 1
    with pytest.raises(ValueError, match="jpeg_min_side = 64 beside additional channels"):
        observe_batches(folder, reader, is_training=TRAINING)


def test_jpegs_of_training_alone_are_decoded_smaller(folder, tmp_path):
    record = tf.train.Example()
    encoded = tf.io.encode_jpeg(np.zeros([40, 60, 3], np.uint8)).numpy()
    record.features.feature["image/encoded"].bytes_list.value.append(encoded)
    for side, value in (("ymin", 0.2), ("xmin", 0.3), ("ymax", 0.6), ("xmax", 0.9)):
        record.features.feature[f"image/object/bbox/{side}"].float_list.value.append(value)
    record.features.feature["image/object/class/label"].int64_list.value.append(1)
    with tf.io.TFRecordWriter(str(tmp_path / "jpeg.tfrecord")) as writer:
        writer.write(record.SerializeToString())
        writer.write(record.SerializeToString())
    reader = f'jpeg_min_side: 20 num_epochs: 1 tf_record_input_reader {{ input_path: "{tmp_path}/jpeg.tfrecord" }}'
    for use, original_shape in ((TRAINING, [20, 30]), (EVALUATION, [40, 60])):
        _, [batch] = observe_batches(folder, reader, is_training=use)
        assert batch[0] == (2, 64, 64, 3) and [original_shape] * 2 in batch


CROP = "data_augmentation_options { random_crop_image { min_object_covered: 0 min_area: 0.1 random_coef: 0.2 } }"
FLIP = "data_augmentation_options { random_horizontal_flip { } }"


def test_crops_while_decoding_give_the_same_batches(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(record_reader, "_RECORDS_BETWEEN_MARKS", 3)  # marks of which none may count
    decoded = []
    monkeypatch.setattr(images, "decode_window", functools.partial(_noting, decoded, images.decode_window))
    rng = np.random.default_rng(0)
    with tf.io.TFRecordWriter(str(tmp_path / "jpeg.tfrecord")) as writer:
        for _ in range(8):
            record = tf.train.Example()
            feature = record.features.feature
            encoded = tf.io.encode_jpeg(rng.integers(0, 256, [90, 120, 3], np.uint8)).numpy()
            feature["image/encoded"].bytes_list.value.append(encoded)
            for side, value in (("ymin", 0.2), ("xmin", 0.3), ("ymax", 0.6), ("xmax", 0.9)):
                feature[f"image/object/bbox/{side}"].float_list.value.append(value)
            feature["image/object/class/label"].int64_list.value.append(1)
            writer.write(record.SerializeToString())
    batches = []
    for reader in ("", "decode_and_crop: true"):
        reader += f' num_epochs: 1 tf_record_input_reader {{ input_path: "{tmp_path}/jpeg.tfrecord" }}'
        config = make_config(folder, reader=reader, training=CROP + FLIP)
        for is_training in (True, False):
            dataset = builder.build_dataset(
                config,
                config.train_input_reader,
                label_map=load_label_map(config.train_input_reader.label_map_path),
                batch_size=4,
                is_training=is_training,
                seed=3,
            )
            batches.append([(batch.inputs.images.numpy(), batch.groundtruth.boxes.numpy()) for batch in dataset])
    assert decoded == [True]  # traced once, for training with the option
    trained, evaluated, trained_so, evaluated_so = batches
    assert len(trained) == 2 and not np.array_equal(trained[0][1][0], trained[0][1][1])
    for expected, found in ((trained, trained_so), (evaluated, evaluated_so)):
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_array_equal(a[0], b[0])
            np.testing.assert_array_equal(a[1], b[1])


def _noting(calls, function, *arguments):
    calls.append(True)
    return function(*arguments)


@pytest.mark.parametrize(
    "reader, training, words",
    [
        ("", "", "which is empty"),
        ("", FLIP + CROP, "which is random_horizontal_flip"),
        ("jpeg_min_side: 9", CROP, "does not go with jpeg_min_side"),
        ("num_additional_channels: 1", CROP, "does not go with num_additional_channels"),
        ("", CROP + FLIP, None),
    ],
)
def test_crops_while_decoding_need_a_crop_in_front(folder, reader, training, words):
    config = make_config(folder, reader=f"decode_and_crop: true {reader}", training=training)
    found = [p for p in checks.find_problems(config) if p.field == "train_input_reader.decode_and_crop"]
    assert [words in p.problem for p in found] == ([] if words is None else [True])
    if reader:
        with pytest.raises(ValueError, match="A crop while images are decoded beside"):
            observe_batches(folder, f"decode_and_crop: true {reader}", is_training=TRAINING, training=CROP)


def test_another_kind_of_record_is_refused(folder):
    config = make_config(folder, reader="input_type: TF_SEQUENCE_EXAMPLE")
    problems = [p for p in checks.find_problems(config) if p.field.endswith("input_type")]
    assert [p.problem for p in problems] == ["is not supported: write one tf.Example per frame instead"] * 2


# Evaluation -----------------------------------------------------------------------------------------------------------


class Model(tf_keras.layers.Layer):
    """Finds a cat, a dog and something unsure in every image, and remembers the shapes of the images it was traced for."""

    num_stages = 2

    def __init__(self):
        super().__init__()
        self.shapes: list[list[int | None]] = []

    def preprocess(self, inputs):
        self.shapes.append(inputs.images.shape.as_list())
        return inputs

    def predict(self, inputs, *, training):
        n = tf.shape(inputs.images)[0]
        nothing = records.Proposals(tf.zeros([n, 1, 4]), tf.zeros([n, 1]), tf.zeros([n], tf.int32))
        anchors = records.RpnOutputs(tf.zeros([n, 1, 2]), tf.zeros([n, 1, 4]), tf.zeros([1, 4]), tf.ones([1], tf.bool))
        return records.Predictions(tf.shape(inputs.images)[1:3], rpn=anchors, rois=nothing)

    def loss(self, predictions, groundtruth):
        return {"Loss/one": tf.ones_like(groundtruth.num_boxes, tf.float32)}

    def regularization_loss(self):
        return tf.constant(0.0)

    def postprocess(self, predictions, inputs):
        n = tf.shape(inputs.true_shapes)[0]
        boxes = [[0.25, 0.25, 0.75, 0.75], [0.0, 0.0, 0.5, 0.4], [0.1, 0.5, 0.9, 0.9]]
        return records.Detections(
            boxes=tf.tile(tf.constant([boxes]), [n, 1, 1]),
            scores=tf.tile(tf.constant([[0.9, 0.6, 0.4]]), [n, 1]),
            classes=tf.tile(tf.constant([[0, 1, 0]]), [n, 1]),
            num_detections=tf.fill([n], 3),
        )


DATASETS: dict[tuple, tf.data.Dataset] = {}


def build_dataset_once(config, reader, *, batch_size, build=builder.build_dataset, **settings):
    """The pipeline of an evaluation, which takes longest, built once for all that differ in what comes after it."""
    evaluation = config.eval_config
    fields = evaluation.force_no_resize, evaluation.image_classes_field_map_empty_to_ones
    key = (config.model.SerializeToString(), reader.SerializeToString(), batch_size, *fields)
    if key not in DATASETS:
        DATASETS[key] = build(config, reader, batch_size=batch_size, **settings)
    return DATASETS[key]


def observe_evaluation(folder, output_dir, evaluation: str, reader: str = ""):
    """What an evaluation gives: numbers, drawings, files, shapes of images, and how the checkpoint was restored."""
    config = make_config(folder, evaluation=evaluation.replace("DIR", str(output_dir / "png")), reader=reader)
    if not config.eval_config.HasField("num_visualizations"):
        config.eval_config.num_visualizations = 3  # for speed
    restored = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            evaluate_job.sources,
            "restore_model",
            lambda path, model, *, use_averages: restored.append(use_averages) or Step(),
        )
        patch.setattr(evaluate_job.builder, "build_dataset", build_dataset_once)
        model = Model()
        evaluator = evaluate_job.Evaluator(
            config, model=model, strategy=tf.distribute.get_strategy(), output_dir=str(output_dir)
        )
        results = evaluator.evaluate_checkpoint("ckpt-1")
    files, drawings = {}, {}
    for path, _, names in os.walk(output_dir):
        for name in names:
            place = os.path.relpath(os.path.join(path, name), output_dir)
            if name.startswith("events."):
                place = os.path.dirname(place)
                events = EventAccumulator(path, size_guidance={"tensors": 0}).Reload()
                for tag in events.Tags()["tensors"]:
                    if tag.startswith("eval_side_by_side"):
                        drawings[place, tag] = tf.make_ndarray(events.Tensors(tag)[0].tensor_proto)[2]
            elif name.endswith(".png"):
                files[place] = tf.io.read_file(os.path.join(path, name)).numpy()
    shown = {name: f"{value:.6f}" for name, value in results.items()}  # text, since NaN differs from itself
    return shown, files, drawings, model.shapes, restored


class Step:
    step = 7


PER_CATEGORY = "include_metrics_per_category: true"
EXPORT = 'visualization_export_dir: "DIR"'
RECALL = 'metrics_set: "precision_at_recall_detection_metrics"'
LABELED = "skip_predictions_for_unlabeled_class: true"

# Field -> what stands beside it in both evaluations, and what one of them has besides.
EVALUATION_EFFECTS = {
    "EvalConfig.num_visualizations": ("", "num_visualizations: 1"),
    "EvalConfig.visualization_export_dir": ("", EXPORT),
    "EvalConfig.metrics_set": ("", 'metrics_set: "pascal_voc_detection_metrics"'),
    "EvalConfig.ignore_groundtruth": ("", "ignore_groundtruth: true"),
    "EvalConfig.use_moving_averages": ("", "use_moving_averages: true"),
    "EvalConfig.min_score_threshold": ("", "min_score_threshold: 0.3"),
    "EvalConfig.max_num_boxes_to_visualize": ("", "max_num_boxes_to_visualize: 1"),
    "EvalConfig.skip_scores": ("", "skip_scores: true"),
    "EvalConfig.skip_labels": ("", "skip_labels: true"),
    "EvalConfig.visualize_groundtruth_boxes": (EXPORT, "visualize_groundtruth_boxes: true"),
    "EvalConfig.groundtruth_box_visualization_color": ("", 'groundtruth_box_visualization_color: "red"'),
    "EvalConfig.keep_image_id_for_visualization_export": (EXPORT, "keep_image_id_for_visualization_export: true"),
    "EvalConfig.retain_original_images": ("", "retain_original_images: false"),
    "EvalConfig.include_metrics_per_category": ("", PER_CATEGORY),
    "EvalConfig.batch_size": ("", "batch_size: 2"),
    "EvalConfig.recall_lower_bound": (RECALL, "recall_lower_bound: 0.6"),
    "EvalConfig.recall_upper_bound": (RECALL, "recall_upper_bound: 0.4"),
    "EvalConfig.force_no_resize": ("", "force_no_resize: true"),
    "EvalConfig.skip_predictions_for_unlabeled_class": ("", LABELED),
    "EvalConfig.super_categories": (PER_CATEGORY, 'super_categories { key: "pets" value: "dog, hound" }'),
    "EvalConfig.all_metrics_per_category": (PER_CATEGORY, "all_metrics_per_category: true"),
    "EvalConfig.image_classes_field_map_empty_to_ones": (LABELED, "image_classes_field_map_empty_to_ones: false"),
}


@pytest.fixture(scope="module")
def evaluate_without(folder, tmp_path_factory):
    """Evaluations with settings that several fields share, made once."""

    @functools.cache
    def evaluate(evaluation: str):
        return observe_evaluation(folder, tmp_path_factory.mktemp("without"), evaluation)

    return evaluate


@pytest.mark.parametrize("field", EVALUATION_EFFECTS)
def test_a_field_of_the_evaluation_changes_it(folder, tmp_path, evaluate_without, field):
    beside, change = EVALUATION_EFFECTS[field]
    assert observe_evaluation(folder, tmp_path, f"{beside} {change}") != evaluate_without(beside)


def test_an_evaluation_repeats_itself(folder, tmp_path, evaluate_without):
    assert observe_evaluation(folder, tmp_path, EXPORT) == evaluate_without(EXPORT)


def test_the_name_of_a_reader_names_its_folder(folder, tmp_path, evaluate_without):
    _, _, drawings, *_ = observe_evaluation(folder, tmp_path, "", 'name: "held_out"')
    assert {place for place, _ in drawings} == {os.path.join("eval", "held_out")}
    assert {place for place, _ in evaluate_without("")[2]} == {"eval"}


def test_every_reader_is_evaluated_under_its_name(folder, tmp_path):
    config = make_config(
        folder, evaluation=f'metrics_set: "pascal_voc_detection_metrics" {EXPORT}'.replace("DIR", str(tmp_path))
    )
    for name, files in (("one", "file-0"), ("", "file-[12]")):
        reader = config.eval_input_reader.add()
        reader.CopyFrom(config.eval_input_reader[0])
        reader.name = name
        reader.tf_record_input_reader.input_path[:] = [f"{folder}/{files}.tfrecord"]
    evaluator = evaluate_job.Evaluator(
        config, model=Model(), strategy=tf.distribute.get_strategy(), output_dir=str(tmp_path)
    )
    results = evaluator(3)
    mean = "PascalBoxes_Precision/mAP@0.5IOU"
    assert {name for name in results if name.endswith(mean)} == {mean, f"one/{mean}", f"2/{mean}"}
    assert evaluator.main_result == mean
    assert results[f"one/{mean}"] != results[f"2/{mean}"]
    for name in ("", "one", "2"):
        assert (tmp_path / "eval" / name / "metrics.jsonl").exists()
        assert (tmp_path / name / "export-image-0.png").exists()


# Label maps -----------------------------------------------------------------------------------------------------------

# Field -> two label maps that differ in it.
LABEL_MAP_EFFECTS = {
    "StringIntLabelMap.item": ('item { id: 1 name: "a" }', 'item { id: 1 name: "a" } item { id: 2 name: "b" }'),
    "StringIntLabelMapItem.name": ('item { id: 1 name: "a" }', 'item { id: 1 name: "b" }'),
    "StringIntLabelMapItem.id": ('item { id: 1 name: "a" }', 'item { id: 2 name: "a" }'),
    "StringIntLabelMapItem.display_name": ('item { id: 1 name: "a" }', 'item { id: 1 name: "a" display_name: "A" }'),
    "StringIntLabelMapItem.ancestor_ids": ('item { id: 2 name: "a" }', 'item { id: 2 name: "a" ancestor_ids: 1 }'),
    "StringIntLabelMapItem.frequency": ('item { id: 1 name: "a" }', 'item { id: 1 name: "a" frequency: RARE }'),
    "StringIntLabelMapItem.descendant_ids": ('item { id: 2 name: "a" }', 'item { id: 2 name: "a" descendant_ids: 1 }'),
}


@pytest.mark.parametrize("field", LABEL_MAP_EFFECTS)
def test_a_field_of_the_label_map_changes_it(tmp_path, field):
    seen = []
    for text in LABEL_MAP_EFFECTS[field]:
        (tmp_path / "map.pbtxt").write_text(text)
        label_map = load_label_map(str(tmp_path / "map.pbtxt"))
        hierarchy = [relation.tolist() for relation in label_map.hierarchy()]
        seen.append((label_map.label_to_id, label_map.categories, hierarchy))
    assert seen[0] != seen[1]


# All of them ----------------------------------------------------------------------------------------------------------

ELSEWHERE = {
    "InputReader.load_context_features",
    "InputReader.coco_input_reader",  # tests/data/source/test_coco_records.py
    "InputReader.name",
    "InputReader.input_type",
    "InputReader.cache_dir",
    "InputReader.mask_type",
    "InputReader.jpeg_min_side",
    "InputReader.decode_and_crop",
}  # tests of their own above


def test_every_field_is_in_one_table():
    fields = {f"{message.DESCRIPTOR.name}.{field.name}" for message in MESSAGES for field in message.DESCRIPTOR.fields}
    covered = [
        {*READER_EFFECTS, *EVALUATION_EFFECTS, *LABEL_MAP_EFFECTS, *TARGETS, *MASK_EFFECTS, *ELSEWHERE},
        set(tables.NO_EFFECT),
        set(tables.REFUSED),
    ]
    assert {field: sum(field in table for table in covered) for field in fields} == dict.fromkeys(fields, 1)
