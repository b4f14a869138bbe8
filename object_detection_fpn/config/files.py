"""Refuses a config whose files cannot be used: records, label maps, checkpoints. All that looks at files is here."""

from __future__ import annotations

import os
from collections.abc import Iterator

import tensorflow as tf
from google.protobuf.message import Message

from object_detection_fpn.config import model as model_config
from object_detection_fpn.config import paths, recipes
from object_detection_fpn.config import tables as fields
from object_detection_fpn.config.coco_source import coco_source
from object_detection_fpn.config.label_map import LabelMap, load_label_map, reader_label_map
from object_detection_fpn.config.problems import Problem, fields_of, single
from object_detection_fpn.config.text import ConfigError, nearest, some, split_names
from object_detection_fpn.data.source.coco import CocoError
from object_detection_fpn.data.source.coco_records import coco_class_names, in_fields
from object_detection_fpn.protos import eval_pb2, input_reader_pb2, pipeline_pb2, train_pb2


def find_missing_data(config: pipeline_pb2.TrainEvalPipelineConfig, use: str) -> Iterator[Problem | ConfigError]:
    """What `use`, "train" or "eval", needs besides a model: settings, records, label maps, a checkpoint.

    Yields:
        Problems, and the errors of label maps that cannot be read.
    """
    readers = _readers(config, use)
    if use == "train":
        if not config.HasField("train_config"):
            yield Problem("train_config", "is not set", fields_of(config.train_config))
        elif not config.train_config.num_steps:
            yield single(
                config.train_config, "train_config", "num_steps", "trains nothing", "1 or more, here or by a flag"
            )
        yield from _missing_checkpoint(config.train_config)
    elif not readers:
        yield Problem("eval_input_reader", "is not set", fields_of(input_reader_pb2.InputReader()))
    else:
        yield from _unusable_folders(config.eval_config, "eval_config", "visualization_export_dir")
    for path, reader in readers.items():
        yield from _missing_records(reader, path)
        yield from _label_map_problems(reader, path)
        yield from _unusable_folders(reader, path, "cache_dir")
        if use == "eval":
            yield from _unknown_members(config.eval_config, reader)


def find_class_differences(config: pipeline_pb2.TrainEvalPipelineConfig, use: str) -> Iterator[Problem]:
    """Where `num_classes` is not the largest id of a label map: worth a warning, as the model works all the same.

    The Object Detection API does not compare the two. Label maps that cannot be read are left to `find_missing_data`.
    """
    num_classes = model_config.num_classes(config.model)
    for path, reader in _readers(config, use).items():
        label_map = _label_map(reader)
        if label_map is None or label_map.max_id == num_classes:
            continue
        last = label_map.items[-1]
        file, field = reader.label_map_path, "label_map_path"
        if not file:
            file, field = reader.coco_input_reader.annotations_path, "coco_input_reader.annotations_path"
        problem = f"the largest id of {file}, {last.id} ({last.name}), named by {path}.{field}"
        if num_classes > last.id:
            ids = f"id {num_classes} has" if num_classes == last.id + 1 else f"ids {last.id + 1} to {num_classes} have"
            problem = f"is above {problem}: {ids} no name there"
        else:
            beyond = [f"{item.id} ({item.name})" for item in label_map.items if item.id > num_classes]
            problem = f"is below {problem}: the model cannot have the classes {some(beyond)}, and records with them are refused"
        yield single(model_config.detector(config.model), model_config.field_path(config.model), "num_classes", problem)


def _readers(config: pipeline_pb2.TrainEvalPipelineConfig, use: str) -> dict[str, input_reader_pb2.InputReader]:
    """The input readers of a use, by their paths in the config."""
    if use == "train":
        return {"train_input_reader": config.train_input_reader}
    if use == "eval":
        return {f"eval_input_reader[{i}]": reader for i, reader in enumerate(config.eval_input_reader)}
    raise ValueError(f'use = "{use}" is unknown. Allowed: train, eval.')


def _missing_checkpoint(message: train_pb2.TrainConfig) -> Iterator[Problem]:
    path = message.fine_tune_checkpoint
    if not path or path == fields.IMAGENET:
        return
    reason = paths.unusable_input(path)
    if not reason and not (tf.io.gfile.exists(path) or tf.io.gfile.exists(f"{path}.index")):
        reason = paths.MISSING
    if reason:
        allowed = (
            f'the path of a checkpoint, such as "dir/ckpt-0" for dir/ckpt-0.index, of weights, or "{fields.IMAGENET}"'
        )
        yield single(message, "train_config", "fine_tune_checkpoint", reason, allowed)


def _missing_records(reader: input_reader_pb2.InputReader, path: str) -> Iterator[Problem]:
    if reader.HasField("coco_input_reader"):
        yield from _unusable_coco(reader, f"{path}.coco_input_reader")
        return
    place = f"{path}.tf_record_input_reader.input_path"
    allowed = "paths or patterns of TFRecord files"
    if not reader.tf_record_input_reader.input_path:
        yield Problem(place, "is not set", f"{allowed}, or a coco_input_reader in place of tf_record_input_reader")
    for row, pattern in enumerate(reader.tf_record_input_reader.input_path):
        if reason := _unusable_records(pattern):
            yield Problem(f"{place}[{row}]", reason, allowed, f'"{pattern}"')


def _unusable_coco(reader: input_reader_pb2.InputReader, path: str) -> Iterator[Problem]:
    """A COCO file that cannot be used; each of its images is looked at when training or evaluation begins."""
    message = reader.coco_input_reader
    if not message.annotations_path:
        yield Problem(f"{path}.annotations_path", "is not set", "the path of a COCO JSON file")
        return
    if reason := paths.unusable_input(message.annotations_path):
        yield single(message, path, "annotations_path", reason, "the path of a COCO JSON file")
        return
    if message.image_dir:
        folder_reason = paths.unusable_input(message.image_dir)
        if not folder_reason and not tf.io.gfile.isdir(message.image_dir):
            folder_reason = "is no folder" if tf.io.gfile.exists(message.image_dir) else paths.MISSING
        if folder_reason:
            yield single(message, path, "image_dir", folder_reason, "the folder that the file names start from")
    try:
        coco_class_names(coco_source(message))
    except CocoError as error:
        text = in_fields(str(error)).removeprefix(f"{message.annotations_path}: ").removesuffix(".")
        yield single(message, path, "annotations_path", f"cannot be used: {text}")


def _unusable_records(pattern: str) -> str | None:
    if reason := paths.unusable_text(pattern):
        return reason
    try:
        files = tf.io.gfile.glob(pattern)
    except tf.errors.NotFoundError:  # its folder does not exist
        files = []
    except (OSError, tf.errors.OpError) as error:
        return paths.explain(error, pattern) or f"cannot be listed ({error})"
    if not files:
        return "matches no file"
    # On remote file systems every look at a file takes a request.
    folders = [name for name in files if (not paths.scheme(name) or name == pattern) and tf.io.gfile.isdir(name)]
    if folders == [pattern]:
        return 'is a folder: write a pattern of the files in it, such as "' + os.path.join(pattern, "*.tfrecord") + '"'
    return f"matches the folder {folders[0]} besides files" if folders else None


def _unusable_folders(message: Message, path: str, *names: str) -> Iterator[Problem]:
    """Folders to be written that cannot be."""
    for name in names:
        if getattr(message, name) and (reason := paths.unusable_folder(getattr(message, name))):
            yield single(message, path, name, reason, "a folder, which is made if it does not exist")


def _label_map_problems(reader: input_reader_pb2.InputReader, path: str) -> Iterator[Problem | ConfigError]:
    name = reader.label_map_path
    if not name and reader.HasField("coco_input_reader"):
        return  # the categories of its file
    if not name:
        reason: str | None = "is not set"
    else:
        reason = paths.unusable_input(name)
        reason = reason or (None if tf.io.gfile.exists(recipes.find_label_map(name)) else paths.MISSING)
    if reason:
        allowed = f"the path of a label map (.pbtxt), or one of this package: {', '.join(recipes.label_maps())}"
        yield Problem(f"{path}.label_map_path", reason, allowed, f'"{name}"' if name else None)
        return
    try:
        load_label_map(name, use_display_name=reader.use_display_name)
    except ConfigError as error:
        yield error


def _label_map(reader: input_reader_pb2.InputReader) -> LabelMap | None:
    """The label map of a reader, or None where it cannot be read, which `_label_map_problems` reports."""
    if not reader.label_map_path and not reader.coco_input_reader.annotations_path:
        return None
    try:
        return reader_label_map(reader)
    except ConfigError:
        return None


def _unknown_members(message: eval_pb2.EvalConfig, reader: input_reader_pb2.InputReader) -> Iterator[Problem]:
    """Super categories of classes that the label map does not name."""
    label_map = _label_map(reader) if message.super_categories else None
    if label_map is None:
        return
    names = [category["name"] for category in label_map.categories]
    file = reader.label_map_path or reader.coco_input_reader.annotations_path
    for super_category, members in sorted(message.super_categories.items()):
        for name in split_names(members):
            if name not in names:
                place = f'eval_config.super_categories["{super_category}"]'
                problem = f'names the class "{name}", which {file} does not{nearest(name, names)}'
                yield Problem(place, problem, "names to show of its classes, separated by commas", f'"{members}"')
