"""Refuses configs that cannot work before anything is built: the tables of `config.tables`, the rules of `config.rules`, files.

To refuse one more value, add a line to a table; to refuse a combination of fields, a rule.
"""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from object_detection_fpn.config import tables as fields
from object_detection_fpn.config.label_map import load_label_map
from object_detection_fpn.config.problems import Problem, fields_of, join, single, unset, walk
from object_detection_fpn.config.rules import model as model_rules
from object_detection_fpn.config.text import ConfigError, format_value, is_repeated, listed, nearest, split_names
from object_detection_fpn.protos import eval_pb2, faster_rcnn_pb2, input_reader_pb2, pipeline_pb2, train_pb2


def find_problems(config: pipeline_pb2.TrainEvalPipelineConfig) -> Iterator[Problem]:
    """All that is wrong with the config itself; no file is looked at."""
    for path, message in walk(config):
        name = message.DESCRIPTOR.name
        for rule in (_required, _bounds, _ranges, _refused, *model_rules.RULES.get(name, ())):
            yield from rule(message, path)


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
        yield from _label_map_problems(reader, path, config.model.faster_rcnn)
        if use == "eval":
            yield from _unknown_members(config.eval_config, reader)


def find_ineffective(config: pipeline_pb2.TrainEvalPipelineConfig) -> Iterator[Problem]:
    """The fields that say something which has no effect here, and why."""
    for path, message in walk(config):
        for field, value in message.ListFields():
            reason = fields.NO_EFFECT.get(f"{message.DESCRIPTOR.name}.{field.name}")
            if reason and (field.message_type or value != field.default_value):
                text = None if field.message_type else format_value(field, value)
                yield Problem(join(path, field.name), f"has no effect: {reason}", value=text)


def _required(message: Message, path: str) -> Iterator[Problem]:
    descriptor = message.DESCRIPTOR
    for name in fields.REQUIRED.get(descriptor.name, ()):
        if name in descriptor.oneofs_by_name:
            if not message.WhichOneof(name):
                members = [field.name for field in descriptor.oneofs_by_name[name].fields]
                yield Problem(path, "is empty", f"one of {listed(members)}" if len(members) > 1 else members[0])
        else:
            yield from unset(message, path, name)


def _bounds(message: Message, path: str) -> Iterator[Problem]:
    for field in message.DESCRIPTOR.fields:
        bounds = fields.BOUNDS.get(f"{message.DESCRIPTOR.name}.{field.name}") or fields.BOUNDS.get(f"*.{field.name}")
        if not bounds or field.message_type:
            continue
        value = getattr(message, field.name)
        for row, element in enumerate(value) if is_repeated(field) else [(None, value)]:
            if element not in bounds:
                place = join(path, field.name) + ("" if row is None else f"[{row}]")
                yield Problem(place, "is out of range", str(bounds), format_value(field, element))


def _ranges(message: Message, path: str) -> Iterator[Problem]:
    known = message.DESCRIPTOR.fields_by_name
    for low_part, high_part in fields.RANGE_ENDS:
        for low_name in known:
            high = known.get(low_name.replace(low_part, high_part))
            if low_part not in low_name or not high or is_repeated(high):
                continue
            if not high.has_default_value and not message.HasField(high.name):
                continue  # without a default, an unset end means no end
            low_value = getattr(message, low_name)
            if getattr(message, high.name) < low_value:
                low_text = format_value(known[low_name], low_value)
                allowed = model_rules.pyramid_levels(message) or f"{low_text} or more"
                yield single(message, path, high.name, f"is below {low_name} = {low_text}", allowed)


def _refused(message: Message, path: str) -> Iterator[Problem]:
    for field, value in message.ListFields():
        reason = fields.REFUSED.get(f"{message.DESCRIPTOR.name}.{field.name}")
        if reason and (field.message_type or value):
            text = None if field.message_type or is_repeated(field) else format_value(field, value)
            allowed = "false" if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL else "to leave it out"
            yield Problem(join(path, field.name), reason, allowed, text)


# Files ----------------------------------------------------------------------------------------------------------------


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
    reader: input_reader_pb2.InputReader, path: str, model: faster_rcnn_pb2.FasterRcnn
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
    if model.num_classes != label_map.max_id:
        last = label_map.items[-1]
        problem = (
            f"differs from the largest id of {reader.label_map_path}, {last.id} ({last.name}), "
            f"named by {path}.label_map_path"
        )
        yield single(model, "model.faster_rcnn", "num_classes", problem, str(last.id))


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
