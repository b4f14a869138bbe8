"""Runs a model over the evaluation data of a config and hands out each image with its groundtruth and detections.

The model is one with a checkpoint's weights, or an exported one, which is given whole images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tqdm

from object_detection_fpn import builder, records
from object_detection_fpn.config import model as model_config
from object_detection_fpn.data.report import DataReport
from object_detection_fpn.evaluation import loop as evaluation_loop
from object_detection_fpn.evaluation.images import EvaluatedImage, in_original_pixels, real_images, split_by_name
from object_detection_fpn.evaluation.metric import EvaluationError, ImageDetections, ImageGroundtruth
from object_detection_fpn.interop import sources
from object_detection_fpn.jobs import formats
from object_detection_fpn.jobs.evaluate import as_one_class, list_categories, load_label_map, log_notices
from object_detection_fpn.ops import rle
from object_detection_fpn.protos import input_reader_pb2, pipeline_pb2
from object_detection_fpn.serving.predictor import ImagePrediction, Predictor

Config = pipeline_pb2.TrainEvalPipelineConfig


class DetectedImage(NamedTuple):
    """One image of a data set."""

    image: EvaluatedImage
    """Its pixels, among others."""
    groundtruth: ImageGroundtruth
    """Objects of the label map's classes, with masks if the run has them."""
    detections: ImageDetections
    """With masks if the run has them."""


class Detected(NamedTuple):
    """A model and a data set, of which `images` is read once."""

    images: Iterator[DetectedImage]
    categories: Sequence[Mapping[str, Any]]
    """`{"id": 1-based, "name": ...}`."""
    has_masks: bool
    step: int | None
    """The training step of the weights; None where it is not known."""


def detect_with_checkpoint(
    config: Config, *, checkpoint: str, on_train_data: bool = False, sample_1_of_n: int | None = None
) -> Detected:
    """Detects with a checkpoint's weights, or their averages if the config says so.

    Args:
        config: a checked config (`require_data="eval"`, or "train").
        checkpoint: a checkpoint, or a folder, which means its newest.
        on_train_data: take the images of `train_input_reader` instead of the first `eval_input_reader`.
        sample_1_of_n: take every n-th image; None = as the reader says.

    Raises:
        CheckpointError: if the checkpoint is missing, damaged or of another model.
    """
    reader = _reader(config, on_train_data)
    strategy = tf.distribute.get_strategy()
    model = builder.build_detector(config, reader, execution=builder.inference_execution(config))
    restored = sources.restore_model(checkpoint, model, use_averages=config.eval_config.use_moving_averages)
    eval_step = evaluation_loop.make_eval_step(model=model, strategy=strategy, compute_losses=False)
    has_masks = _has_masks(config, reader)
    pasting = model_config.mask_pasting(config.model) if has_masks else None
    report = DataReport()
    dataset = _dataset(config, reader, report, batch_size=config.eval_config.batch_size, sample_1_of_n=sample_1_of_n)

    def images() -> Iterator[DetectedImage]:
        seen = evaluation_loop.run_model(eval_step, dataset, strategy, description=f"detecting at step {restored.step}")
        yield from map(DetectedImage._make, in_original_pixels(seen, pasting))

    return _named(images(), config, reader, report, has_masks=has_masks, step=restored.step)


def detect_with_saved_model(
    config: Config, *, saved_model: str, on_train_data: bool = False, sample_1_of_n: int | None = None
) -> Detected:
    """Detects with an exported model, a SavedModel or a file of another runtime; see `detect_with_predictor`.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if it is no detector.
    """
    predictor = formats.load_predictor(saved_model)
    return detect_with_predictor(config, predictor=predictor, on_train_data=on_train_data, sample_1_of_n=sample_1_of_n)


def detect_with_predictor(
    config: Config, *, predictor: Predictor, on_train_data: bool = False, sample_1_of_n: int | None = None
) -> Detected:
    """Detects with an exported model, one image at a time; of the config, the data and the label map are used.

    The other arguments are those of `detect_with_checkpoint`.
    """
    reader = input_reader_pb2.InputReader()
    reader.CopyFrom(_reader(config, on_train_data))
    reader.ClearField("jpeg_min_side")  # the model is given whole images
    unresized = Config()
    unresized.CopyFrom(config)
    unresized.eval_config.force_no_resize = True
    has_masks = _has_masks(config, reader)
    report = DataReport()
    dataset = _dataset(unresized, reader, report, batch_size=1, sample_1_of_n=sample_1_of_n)

    def images() -> Iterator[DetectedImage]:
        for batch in tqdm.tqdm(dataset, desc="detecting", unit="image"):
            yield _predict(predictor, batch, has_masks=has_masks)

    return _named(images(), config, reader, report, has_masks=has_masks, step=None)


def _predict(predictor: Predictor, batch: records.Batch, *, has_masks: bool) -> DetectedImage:
    height, width = batch.inputs.true_shapes[0, :2].numpy()
    pixels = np.rint(batch.inputs.images[0, :height, :width].numpy()).astype(np.uint8)
    context, of_image = None, batch.inputs.context
    if predictor.context_length is not None:
        if of_image is None:
            raise EvaluationError(
                "The SavedModel looks at context features, which the input reader does not load. Does the config have "
                "context_config and load_context_features: true?"
            )
        context = of_image.features[0, : int(of_image.num_features[0])].numpy()
    prediction = predictor.predict(pixels, context)
    detections = records.Detections(
        boxes=tf.constant(prediction.boxes_normalized[np.newaxis]),
        scores=tf.constant(prediction.scores[np.newaxis]),
        classes=tf.constant(prediction.class_ids[np.newaxis] - 1, tf.int32),
        num_detections=tf.constant([len(prediction.scores)], tf.int32),
    )
    (image,) = real_images(batch, detections, {})
    groundtruth, found = image.in_original_pixels(None)
    if has_masks:
        groundtruth = groundtruth._replace(masks=image.masks_of_record())
        found = found._replace(masks=_encode(predictor, prediction, image.image_size))
    return DetectedImage(image, groundtruth, found)


def _encode(predictor: Predictor, prediction: ImagePrediction, image_size: tuple[int, int]) -> list[rle.Rle]:
    if prediction.masks is None:
        raise EvaluationError(
            "The config is of a model with masks, but the SavedModel gives none. Is it another model?"
        )
    return [rle.encode_pasted(mask, image_size) for mask in predictor.paste_masks(prediction, image_size)]


def _reader(config: Config, on_train_data: bool) -> input_reader_pb2.InputReader:
    return config.train_input_reader if on_train_data else config.eval_input_reader[0]


def _has_masks(config: Config, reader: input_reader_pb2.InputReader) -> bool:
    return model_config.has_masks(config.model) and reader.load_instance_masks


def _dataset(
    config: Config,
    reader: input_reader_pb2.InputReader,
    report: DataReport,
    *,
    batch_size: int,
    sample_1_of_n: int | None,
) -> tf.data.Dataset:
    dataset = builder.build_dataset(
        config, reader, label_map=load_label_map(reader), batch_size=batch_size, is_training=False, seed=0,
        report=report, sample_1_of_n=sample_1_of_n,
    )  # fmt: skip
    return dataset.map(as_one_class) if model_config.is_class_agnostic(config.model) else dataset


def _named(
    images: Iterator[DetectedImage],
    config: Config,
    reader: input_reader_pb2.InputReader,
    report: DataReport,
    *,
    has_masks: bool,
    step: int | None,
) -> Detected:
    categories = list_categories(config, load_label_map(reader))
    classes = [int(category["id"]) - 1 for category in categories]

    def named() -> Iterator[DetectedImage]:
        for image in images:
            groundtruth, _ = split_by_name(image.groundtruth, classes)
            yield image._replace(groundtruth=groundtruth)
        log_notices(report)

    return Detected(named(), categories, has_masks, step)
