"""Writes a checkpoint for other runtimes, LiteRT and ONNX's, beside the SavedModel it is compared with, and loads any of them.

output_dir/
  saved_model/, checkpoint/, pipeline.config     see `jobs.export`
  model_float32.tflite, model_float16.tflite, model_int8.tflite
  model.onnx
  portable.config                                the config of these files: images have one size
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf

from object_detection_fpn import builder
from object_detection_fpn.config import model as model_config
from object_detection_fpn.config import pipeline as config_lib
from object_detection_fpn.interop import sources
from object_detection_fpn.protos import input_reader_pb2, pipeline_pb2
from object_detection_fpn.serving import differences, litert, onnx, portable
from object_detection_fpn.serving.images import UnreadableImageError, decode_image, find_images, read_image
from object_detection_fpn.serving.predictor import Predictor
from object_detection_fpn.serving.record_images import RecordImage, is_record_file, read_record_images

Config = pipeline_pb2.TrainEvalPipelineConfig

Format = Literal["litert", "onnx"]

PORTABLE_CONFIG = "portable.config"
"""Beside the files of other runtimes: how their images are resized, among others."""

_RUNTIMES = {".tflite": litert.load, ".onnx": onnx.load}


class Written(NamedTuple):
    """A file that was written."""

    path: str
    differences: differences.Differences | None
    """From the SavedModel; None where there were no images to compare on."""


def portable_config(config: Config) -> Config:
    """The config of a model whose images have one size: where the resizer would leave a longer side open, it pads.

    Raises:
        ConfigError: if the resizer cannot give one size, or the detector looks at more than one image of red, green and blue.
    """
    if model_config.context(config.model) is not None:
        raise config_lib.ConfigError(
            "pipeline config",
            "is set: models that look at context are exported as SavedModels alone",
            field=model_config.field_path(config.model, "context_config"),
            allowed="no context_config with litert and onnx",
        )
    changed = Config()
    changed.CopyFrom(config)
    kind, resizer = model_config.chosen_resizer(changed.model)
    if kind == "keep_aspect_ratio_resizer":
        resizer.pad_to_max_dimension = True
        resizer.ClearField("pad_to_multiple")
    elif kind != "fixed_shape_resizer":
        raise config_lib.ConfigError(
            "pipeline config",
            f"is {kind}, after which images differ in size",
            field=model_config.field_path(config.model, "image_resizer"),
            allowed="keep_aspect_ratio_resizer or fixed_shape_resizer with litert and onnx",
        )
    return changed


def export_formats(
    config: Config,
    *,
    checkpoint: str,
    output_dir: str,
    formats: Sequence[Format],
    quantizations: Sequence[litert.Quantization] = ("float32",),
    batch_size: int | None = 1,
    images: Sequence[np.ndarray] = (),
    num_compared: int = 8,
    report: Callable[[Written], None] = lambda _: None,
) -> list[Written]:
    """Writes a checkpoint for other runtimes, into the folder that already holds its SavedModel.

    Args:
        config: a checked config.
        checkpoint: a checkpoint, or a folder, which means its newest.
        output_dir: the export's folder.
        formats: what to write.
        quantizations: of LiteRT, a file each.
        batch_size: images that a file takes at a time; None = any, which is for ONNX alone.
        images: [h, w, channels] uint8 each: of all, "int8" takes its ranges.
        num_compared: of the first of them, the detections are compared with the SavedModel's.
        report: is told of each file.

    Returns:
        The files.

    Raises:
        CheckpointError: if the checkpoint is missing, damaged or of another model.
        ConfigError: as `portable_config`.
        FormatError: if a package is missing, "int8" has no images, or a format lacks one of the model's operations.
    """
    changed = portable_config(config)
    reader = config.eval_input_reader[0] if config.eval_input_reader else config.train_input_reader
    model = builder.build_detector(changed, reader, execution=builder.portable_execution())
    sources.restore_model(checkpoint, model, use_averages=config.eval_config.use_moving_averages)
    resizer = builder.build_resizer(model_config.image_resizer(changed.model))
    make_graph = functools.partial(
        portable.make_portable_graph,
        model=model,
        resizer=resizer,
        num_channels=model_config.num_image_channels(config.model, reader),
        batch_size=batch_size,
    )
    config_lib.save_config(changed, os.path.join(output_dir, PORTABLE_CONFIG))
    saved_model = Predictor.from_saved_model(output_dir)
    compared = list(images[:num_compared])
    wanted = [saved_model.predict(image) for image in compared]
    written = []
    for name, content in _convert(make_graph, formats, quantizations, _batches(images, resizer, batch_size)):
        path = os.path.join(output_dir, name)
        with tf.io.gfile.GFile(path, "wb") as file:
            file.write(content)
        predictor = load_predictor(path)
        found = ((w, predictor.predict(i), (i.shape[0], i.shape[1])) for w, i in zip(wanted, compared, strict=True))
        written.append(Written(path, differences.compare(found) if compared else None))
        report(written[-1])
    return written


def _convert(
    make_graph: Callable[..., portable.PortableGraph],
    formats: Sequence[Format],
    quantizations: Sequence[litert.Quantization],
    representative: Sequence[Mapping[str, np.ndarray]],
) -> Iterator[tuple[str, bytes]]:
    """Names and contents of files."""
    if "litert" in formats and "int8" in quantizations and not representative:
        raise portable.FormatError("int8 needs representative images, of which its ranges are taken. There is none.")
    graph = make_graph()
    for form in formats:
        if form == "onnx":
            yield "model.onnx", onnx.convert(graph)
        else:
            for quantization in quantizations:
                rounded = make_graph(int8_inputs=representative) if quantization == "int8" else graph
                yield f"model_{quantization}.tflite", litert.convert(rounded, quantization)


def _batches(images: Sequence[np.ndarray], resizer: Any, batch_size: int | None) -> list[dict[str, np.ndarray]]:
    """The graph's inputs, batch by batch; the last one is filled up with the first images."""
    size = batch_size or 1
    inputs = [portable.make_inputs(image, resizer) for image in images]
    if not inputs:
        return []
    inputs = list(itertools.islice(itertools.cycle(inputs), -(-len(inputs) // size) * size))
    return [
        {name: np.stack([one[name] for one in inputs[start : start + size]]) for name in inputs[0]}
        for start in range(0, len(inputs), size)
    ]


def read_images(
    inputs: Sequence[str], *, max_num: int, num_channels: int = 3, reader: input_reader_pb2.InputReader | None = None
) -> list[np.ndarray]:
    """The first images of files, folders, glob patterns and files of records; those that cannot be read are left out.

    Args:
        inputs: names; of records, a pattern is allowed too.
        max_num: how many at most.
        num_channels: of each.
        reader: whose records are taken where `inputs` is empty.

    Raises:
        FileNotFoundError: if a name matches nothing.
        DataError: if a file of records cannot be read.
    """
    patterns = list(inputs) or ([] if reader is None else list(reader.tf_record_input_reader.input_path))

    def loaded() -> Iterator[np.ndarray]:
        for pattern in patterns:
            is_records = is_record_file(pattern) or not inputs
            found: Iterable[str | RecordImage] = read_record_images(pattern) if is_records else find_images([pattern])
            for source in found:
                try:
                    if isinstance(source, str):
                        yield read_image(source, num_channels=num_channels).pixels
                    else:
                        yield decode_image(source.encoded, num_channels=num_channels).pixels
                except UnreadableImageError:
                    continue  # training and evaluation report it

    return list(itertools.islice(loaded(), max_num))


def is_portable_file(path: str) -> bool:
    """Whether a name is that of a file for another runtime."""
    return os.path.splitext(path)[1] in _RUNTIMES


def load_predictor(path: str, *, categories: Sequence[Mapping[str, Any]] = ()) -> Predictor:
    """Loads an exported model: the folder of a SavedModel, a .tflite or an .onnx file, beside which lies its config.

    Raises:
        FileNotFoundError: if it, or the config beside it, is missing.
        FormatError: if the runtime is not installed, or the file is no exported detector.
        ValueError: as `Predictor.from_saved_model`.
    """
    if not is_portable_file(path):
        return Predictor.from_saved_model(path, categories=categories)
    run, batch_size = _RUNTIMES[os.path.splitext(path)[1]](path)
    config_path = os.path.join(os.path.dirname(path), PORTABLE_CONFIG)
    if not tf.io.gfile.exists(config_path):
        raise FileNotFoundError(f"{path} needs {PORTABLE_CONFIG} beside it, which says how images are resized.")
    config = config_lib.load_config(config_path)
    reader = config.eval_input_reader[0] if config.eval_input_reader else config.train_input_reader
    return portable.make_predictor(
        run,
        resizer=builder.build_resizer(model_config.image_resizer(config.model)),
        batch_size=batch_size,
        categories=categories,
        num_channels=model_config.num_image_channels(config.model, reader),
        mask_pasting=model_config.mask_pasting(config.model) or "CORNERS_ALIGNED",
    )
