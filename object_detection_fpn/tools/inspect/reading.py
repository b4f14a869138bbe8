"""Reads every record that training would, as it is stored: sizes, boxes, classes and pixel statistics of images.

Letters: I images, N boxes of all images, F channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from object_detection_fpn import builder
from object_detection_fpn.config import model as model_config
from object_detection_fpn.config.label_map import LabelMap
from object_detection_fpn.data.report import DataReport, Notice
from object_detection_fpn.protos import pipeline_pb2

_MOST_BOXES = 10_000  # of an image; further ones are counted as dropped


class Records(NamedTuple):
    """What stands in the records."""

    num_records: int
    """In the files; more than I where only some were read."""
    image_sizes: np.ndarray
    """[I, 2] int64, (height, width) as stored."""
    source_ids: list[str]
    """Of the images; empty where the record has none."""
    pixel_means: np.ndarray
    """[I, F] float64, in [0, 255]."""
    pixel_variances: np.ndarray
    """[I, F] float64."""
    images: np.ndarray
    """[N] int64, the image of each box."""
    boxes: np.ndarray
    """[N, 4] float64, pixels of the stored image, clipped to it."""
    classes: np.ndarray
    """[N] int64, 0-based."""
    is_crowd: np.ndarray
    """[N] bool."""
    faults: list[str]
    """A line for each kind of box that cannot train as it stands."""


class _QuietReport(DataReport):
    """Counts without logging: what it says stands in the result."""

    def add(self, notice: Notice, count: int, record: str, *, num_boxes: int = 0, value: str = "") -> None:
        self.tally(notice, count, record, num_boxes=num_boxes, value=value)


def read_records(
    config: pipeline_pb2.TrainEvalPipelineConfig,
    *,
    label_map: LabelMap,
    max_images: int | None = None,
    show_progress: bool = True,
) -> Records:
    """Reads the records of `train_input_reader`, in the order of its files.

    Args:
        config: a checked config whose data exist.
        label_map: the reader's.
        max_images: read at most so many records, at equal distances; None = all.
        show_progress: show a progress bar.

    Raises:
        data.failures.DataError, tf.errors.InvalidArgumentError: as the input pipeline.
    """
    plain = as_stored(config)
    reader = plain.train_input_reader
    files = builder.list_record_files(plain, reader)
    num_records = _count(files)
    every = reader.sample_1_of_n_examples
    if max_images is not None:
        every *= max(1, -(-num_records // (every * max_images)))
    report = _QuietReport()
    dataset = builder.build_dataset(
        plain,
        reader,
        label_map=label_map,
        batch_size=1,
        is_training=False,
        sample_1_of_n=every,
        report=report,
    ).map(_summarize, num_parallel_calls=tf.data.AUTOTUNE)
    total = -(-num_records // every)
    found = list(
        tqdm(dataset.as_numpy_iterator(), desc="reading", unit="image", total=total, disable=not show_progress)
    )
    num_boxes = [len(image["classes"]) for image in found]

    def join(name: str, shape: list[int], dtype: Any) -> np.ndarray:
        return np.concatenate([np.zeros([0, *shape], dtype), *(image[name].astype(dtype) for image in found)])

    num_channels = len(found[0]["mean"]) if found else 3
    return Records(
        num_records=num_records,
        image_sizes=np.array([image["size"] for image in found], np.int64).reshape(-1, 2),
        source_ids=[image["source_id"].decode("utf-8", "replace") for image in found],
        pixel_means=np.array([image["mean"] for image in found], np.float64).reshape(-1, num_channels),
        pixel_variances=np.array([image["variance"] for image in found], np.float64).reshape(-1, num_channels),
        images=np.repeat(np.arange(len(found)), num_boxes),
        boxes=join("boxes", [4], np.float64),
        classes=join("classes", [], np.int64),
        is_crowd=join("is_crowd", [], bool),
        faults=report.summary().splitlines(),
    )


def as_stored(config: pipeline_pb2.TrainEvalPipelineConfig) -> pipeline_pb2.TrainEvalPipelineConfig:
    """A copy whose training records come unresized, with all boxes, without masks and context."""
    plain = type(config)()
    plain.CopyFrom(config)
    resizer = model_config.image_resizer(plain.model)
    resizer.Clear()
    resizer.identity_resizer.SetInParent()
    plain.eval_config.force_no_resize = False
    plain.train_config.max_number_of_boxes = _MOST_BOXES
    plain.train_input_reader.load_instance_masks = False
    plain.train_input_reader.load_context_features = False
    return plain


def _summarize(batch: Any) -> dict[str, tf.Tensor]:
    """Of a batch of one image what `Records` keep."""
    groundtruth = batch.groundtruth
    num = groundtruth.num_boxes[0]
    mean, variance = tf.nn.moments(batch.inputs.images[0], axes=[0, 1])
    return {
        "size": batch.original_shapes[0],
        "source_id": batch.source_id[0],
        "mean": mean,
        "variance": variance,
        "boxes": groundtruth.boxes[0, :num],
        "classes": groundtruth.classes[0, :num],
        "is_crowd": groundtruth.is_crowd[0, :num],
    }


def _count(files: list) -> int:
    """Records in files; the pipeline names those that are broken."""
    num_records = 0
    for file in files:
        if file.records is not None:
            num_records += len(file.records)
            continue
        dataset = tf.data.TFRecordDataset(file.path, file.compression, buffer_size=4 << 20)
        try:
            num_records += int(dataset.reduce(np.int64(0), lambda count, _: count + 1))
        except tf.errors.DataLossError:
            continue
    return num_records
