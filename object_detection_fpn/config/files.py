"""Refuses a config whose files cannot be used: records, label maps, checkpoints. All that looks at files is here."""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf

from object_detection_fpn.config import model as model_config
from object_detection_fpn.config import tables as fields
from object_detection_fpn.config.label_map import load_label_map
from object_detection_fpn.config.problems import Problem, fields_of, single
from object_detection_fpn.config.text import ConfigError, nearest, split_names
from object_detection_fpn.protos import eval_pb2, input_reader_pb2, model_pb2, pipeline_pb2, train_pb2


def find_missing_data(config: pipeline_pb2.TrainEvalPipelineConfig, use: str) -> Iterator[Problem | ConfigError]:
    """What `use`, "train" or "eval", needs besides a model: settings, records, label maps, a checkpoint.

    Yields:
        Problems, and the errors of label maps that cannot be read.
    """
    if use == "train":
        if not config.HasField("train_config"):
            yield Problem("train_config", "is not set", fields_of(config.train_config))
        elif not config.train_config.num_steps:
            yield single(
                config.train_config, "train_config", "num_steps", "trains nothing", "1 or more, here or by a flag"
            )
        yield from _missing_checkpoint(config.train_config)
        readers = {"train_input_reader": config.train_input_reader}
    elif use == "eval":
        readers = {f"eval_input_reader[{i}]": reader for i, reader in enumerate(config.eval_input_reader)}
        if not readers:
            yield Problem("eval_input_reader", "is not set", fields_of(input_reader_pb2.InputReader()))
    else:
        raise ValueError(f'use = "{use}" is unknown. Allowed: train, eval.')
    for path, reader in readers.items():
        yield from _missing_records(reader, path)
        yield from _label_map_problems(reader, path, config.model)
        if use == "eval":
            yield from _unknown_members(config.eval_config, reader)


def _missing_checkpoint(message: train_pb2.TrainConfig) -> Iterator[Problem]:
    path = message.fine_tune_checkpoint
    if path and path != fields.IMAGENET and not (_files(path) or _files(f"{path}.index")):
        allowed = (
            f'the path of a checkpoint, such as "dir/ckpt-0" for dir/ckpt-0.index, of weights, or "{fields.IMAGENET}"'
        )
        yield single(message, "train_config", "fine_tune_checkpoint", "does not exist", allowed)


def _missing_records(reader: input_reader_pb2.InputReader, path: str) -> Iterator[Problem]:
    place = f"{path}.tf_record_input_reader.input_path"
    allowed = "paths or patterns of TFRecord files"
    if not reader.tf_record_input_reader.input_path:
        yield Problem(place, "is not set", allowed)
    for row, pattern in enumerate(reader.tf_record_input_reader.input_path):
        if not _files(pattern):
            yield Problem(f"{place}[{row}]", "matches no file", allowed, f'"{pattern}"')


def _label_map_problems(
    reader: input_reader_pb2.InputReader, path: str, model: model_pb2.DetectionModel
) -> Iterator[Problem | ConfigError]:
    if not reader.label_map_path or not _files(reader.label_map_path):
        problem = "does not exist" if reader.label_map_path else "is not set"
        value = f'"{reader.label_map_path}"' if reader.label_map_path else None
        yield Problem(f"{path}.label_map_path", problem, "the path of a label map (.pbtxt)", value)
        return
    try:
        label_map = load_label_map(reader.label_map_path, use_display_name=reader.use_display_name)
    except ConfigError as error:
        yield error
        return
    if model_config.num_classes(model) != label_map.max_id:
        last = label_map.items[-1]
        problem = (
            f"differs from the largest id of {reader.label_map_path}, {last.id} ({last.name}), "
            f"named by {path}.label_map_path"
        )
        yield single(model_config.detector(model), model_config.field_path(model), "num_classes", problem, str(last.id))


def _unknown_members(message: eval_pb2.EvalConfig, reader: input_reader_pb2.InputReader) -> Iterator[Problem]:
    """Super categories of classes that the label map does not name."""
    if not message.super_categories or not _files(reader.label_map_path):
        return
    try:
        label_map = load_label_map(reader.label_map_path, use_display_name=reader.use_display_name)
    except ConfigError:
        return  # said elsewhere
    names = [category["name"] for category in label_map.categories]
    for super_category, members in sorted(message.super_categories.items()):
        for name in split_names(members):
            if name not in names:
                place = f'eval_config.super_categories["{super_category}"]'
                problem = f'names the class "{name}", which {reader.label_map_path} does not{nearest(name, names)}'
                yield Problem(place, problem, "names to show of its classes, separated by commas", f'"{members}"')


def _files(pattern: str) -> list[str]:
    try:
        return tf.io.gfile.glob(pattern)
    except tf.errors.NotFoundError:  # its folder does not exist
        return []
