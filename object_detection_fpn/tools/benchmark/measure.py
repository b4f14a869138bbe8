"""What one model does on the evaluation data: average precision, time of an image, size of its files."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from object_detection_fpn.evaluation.coco import CocoBoxMetrics, CocoMaskMetrics
from object_detection_fpn.jobs import detect, formats
from object_detection_fpn.jobs.predict import make_predictor
from object_detection_fpn.protos import pipeline_pb2
from object_detection_fpn.serving.predictor import ImagePrediction, Predictor

_MEGABYTE = 1e6
_NUM_WARM_UP = 3  # images, of which the first is traced or compiled


class Measurement(NamedTuple):
    """One row of the table."""

    model: str
    """As it was named."""
    kind: str
    """"SavedModel", "LiteRT", "ONNX" or "checkpoint"."""
    box_ap: float
    """COCO's AP of boxes."""
    mask_ap: float | None
    """That of masks; None where the model or the data has none."""
    milliseconds: float
    """Median time of an image, from its pixels to its detections, resizing included."""
    megabytes: float
    """Size of the file or files, millions of bytes."""
    num_images: int


class _Timed(Predictor):
    """A predictor that notes the time of each image."""

    def __init__(self, predictor: Predictor):
        self.__dict__.update(vars(predictor))
        self.seconds: list[float] = []

    def predict(self, image: np.ndarray, context: np.ndarray | None = None) -> ImagePrediction:
        started = time.perf_counter()
        prediction = super().predict(image, context)
        self.seconds.append(time.perf_counter() - started)
        return prediction


def measure(
    config: pipeline_pb2.TrainEvalPipelineConfig, model: str, *, sample_1_of_n: int | None = None
) -> Measurement:
    """Runs a model over the first `eval_input_reader`, one image at a time.

    Args:
        config: a checked config, whose data is taken, and whose model a checkpoint is of.
        model: a SavedModel's folder, a .tflite or .onnx file, or else a checkpoint or a folder of them.
        sample_1_of_n: take every n-th image; None = as the reader says.

    Raises:
        FileNotFoundError: if there is no such model.
        FormatError: if its runtime is not installed or cannot use it.
        CheckpointError: if it is a checkpoint that is missing, damaged or of another model.
        ValueError: if it is no detector.
    """
    kind = _kind(model)
    predictor = make_predictor(config, checkpoint=model) if kind == "checkpoint" else formats.load_predictor(model)
    timed = _Timed(predictor)
    detected = detect.detect_with_predictor(config, predictor=timed, sample_1_of_n=sample_1_of_n)
    boxes = CocoBoxMetrics(detected.categories)
    masks = CocoMaskMetrics(detected.categories) if detected.has_masks else None
    for image in detected.images:
        boxes.update(image.groundtruth, image.detections)
        if masks is not None:
            masks.update(image.groundtruth, image.detections)
    return Measurement(
        model=model,
        kind=kind,
        box_ap=_main_result(boxes),
        mask_ap=None if masks is None else _main_result(masks),
        milliseconds=1000.0 * float(np.median(timed.seconds[_NUM_WARM_UP:] or timed.seconds)),
        megabytes=_num_bytes(model, kind) / _MEGABYTE,
        num_images=len(timed.seconds),
    )


def _main_result(metric: Any) -> float:
    results: Mapping[str, float] = metric.result()
    return float(results[metric.main_result])


def _kind(model: str) -> str:
    if formats.is_portable_file(model):
        return {".tflite": "LiteRT", ".onnx": "ONNX"}[os.path.splitext(model)[1]]
    folders = (model, os.path.join(model, "saved_model"))
    has_graph = any(tf.io.gfile.exists(os.path.join(folder, "saved_model.pb")) for folder in folders)
    return "SavedModel" if has_graph else "checkpoint"


def _num_bytes(model: str, kind: str) -> int:
    if kind == "checkpoint":
        found = tf.train.latest_checkpoint(model) if tf.io.gfile.isdir(model) else model
        return sum(tf.io.gfile.stat(path).length for path in tf.io.gfile.glob(f"{found}.*"))
    inner = os.path.join(model, "saved_model")
    folder = inner if tf.io.gfile.exists(os.path.join(inner, "saved_model.pb")) else model
    if not tf.io.gfile.isdir(folder):
        return tf.io.gfile.stat(folder).length
    return sum(
        tf.io.gfile.stat(os.path.join(root, name)).length
        for root, _, names in tf.io.gfile.walk(folder)
        for name in names
    )
