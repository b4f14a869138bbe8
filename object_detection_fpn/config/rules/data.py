"""Refuses combinations of fields of the input readers, and of these with the rest, that cannot work."""

from __future__ import annotations

from collections.abc import Iterator

from object_detection_fpn.config import model as model_config
from object_detection_fpn.config.problems import Problem, Rule, single
from object_detection_fpn.config.tables import AUTOAUGMENT_POLICIES, POLICIES_WITHIN_BOXES
from object_detection_fpn.config.text import listed
from object_detection_fpn.protos import (
    input_reader_pb2,
    pipeline_pb2,
)


def _scores_are_loaded(config: pipeline_pb2.TrainEvalPipelineConfig, path: str) -> Iterator[Problem]:
    if config.train_config.use_multiclass_scores and not config.train_input_reader.load_multiclass_scores:
        problem = "needs the scores of the records: train_input_reader.load_multiclass_scores is false"
        yield single(config.train_config, "train_config", "use_multiclass_scores", problem, "false, or true in both")


def _crop_comes_first(config: pipeline_pb2.TrainEvalPipelineConfig, path: str) -> Iterator[Problem]:
    reader, steps = config.train_input_reader, config.train_config.data_augmentation_options
    first = steps[0].WhichOneof("preprocessing_step") if steps else None
    if reader.decode_and_crop and first != "random_crop_image":
        problem = f"needs random_crop_image as the first of train_config.data_augmentation_options, which is {first or 'empty'}"
        yield single(reader, "train_input_reader", "decode_and_crop", problem, "false, or that step in front")


def _masks_are_read(config: pipeline_pb2.TrainEvalPipelineConfig, path: str) -> Iterator[Problem]:
    if not model_config.has_masks(config.model):
        return
    stages = model_config.field_path(config.model, "number_of_stages")
    for place, reader in _readers(config).items():
        if not reader.load_instance_masks:
            problem = f"leaves out the masks that the model is to learn, or is measured by: {stages} = 3"
            yield single(reader, place, "load_instance_masks", problem, f"true, or {stages}: 2")


def _context_is_read(config: pipeline_pb2.TrainEvalPipelineConfig, path: str) -> Iterator[Problem]:
    if model_config.context(config.model) is None:
        return
    context = model_config.field_path(config.model, "context_config")
    for place, reader in _readers(config).items():
        if not reader.load_context_features:
            problem = f"leaves out the context features that the model looks at: {context} is set"
            yield single(reader, place, "load_context_features", problem, f"true, or no {context}")


def _readers(config: pipeline_pb2.TrainEvalPipelineConfig) -> dict[str, input_reader_pb2.InputReader]:
    """The readers that are set, by their places."""
    readers = {f"eval_input_reader[{row}]": reader for row, reader in enumerate(config.eval_input_reader)}
    return (
        {"train_input_reader": config.train_input_reader, **readers}
        if config.HasField("train_input_reader")
        else readers
    )


def _masks_follow_augmentations(config: pipeline_pb2.TrainEvalPipelineConfig, path: str) -> Iterator[Problem]:
    """Refuses what moves pixels without their mask, and what makes an object without a mask one that needs it."""
    if not model_config.has_masks(config.model):
        return
    classes = model_config.classes_with_masks(config.model)
    for row, step in enumerate(config.train_config.data_augmentation_options):
        kind = step.WhichOneof("preprocessing_step")
        place, message = f"train_config.data_augmentation_options[{row}].{kind}", kind and getattr(step, kind)
        if kind == "autoaugment_image" and message.policy_name in POLICIES_WITHIN_BOXES:
            others = listed(name for name in AUTOAUGMENT_POLICIES if name not in POLICIES_WITHIN_BOXES)
            problem = "moves the content of boxes without the masks of their objects"
            yield single(message, place, "policy_name", problem, others)
        elif kind == "remap_labels" and classes is not None and message.new_label in classes:
            bare = [label for label in message.original_labels if label not in classes]
            if bare:
                problem = f"is one of classes_with_masks, original_labels = {bare[0]} is not"
                yield single(message, place, "new_label", problem, "a class beside classes_with_masks")


def _records_are_examples(message: input_reader_pb2.InputReader, path: str) -> Iterator[Problem]:
    if message.input_type == input_reader_pb2.TF_SEQUENCE_EXAMPLE:
        problem = "is not supported: write one tf.Example per frame instead"
        yield single(message, path, "input_type", problem, "TF_EXAMPLE")


def _weights_fit_files(message: input_reader_pb2.InputReader, path: str) -> Iterator[Problem]:
    weights, num_paths = message.sample_from_datasets_weights, len(message.tf_record_input_reader.input_path)
    place = f"{path}.sample_from_datasets_weights"
    if message.HasField("coco_input_reader"):
        return
    if weights and len(weights) != num_paths:
        yield Problem(place, f"has {len(weights)} values for {num_paths} input_path", f"{num_paths} values, or none")
    elif weights and not any(weight > 0 for weight in weights):
        yield Problem(place, "takes records from nowhere", "at least one weight above 0")


def _cache_has_a_folder(message: input_reader_pb2.InputReader, path: str) -> Iterator[Problem]:
    if (message.cache == input_reader_pb2.InputReader.DISK) != bool(message.cache_dir):
        problem = "is what cache: DISK needs" if not message.cache_dir else "is of use for cache: DISK only"
        yield single(message, path, "cache_dir", problem, "a folder beside cache: DISK, else nothing")


def _coco_has_what_is_read(message: input_reader_pb2.InputReader, path: str) -> Iterator[Problem]:
    """Refuses beside COCO JSON what only records hold, and the cache, which keeps records without their images."""
    if not message.HasField("coco_input_reader"):
        return
    if message.cache != input_reader_pb2.InputReader.NO_CACHE:
        yield single(message, path, "cache", "keeps nothing of images that are files of their own", "NO_CACHE")
    if message.sample_from_datasets_weights:
        yield Problem(f"{path}.sample_from_datasets_weights", "has no use for one COCO file", "none")
    for name in ("num_additional_channels", "load_multiclass_scores", "load_context_features"):
        if getattr(message, name):
            allowed = "0" if name == "num_additional_channels" else "false"
            yield single(message, path, name, "reads what a COCO file does not have", allowed)


def _channels_fit_image(message: input_reader_pb2.InputReader, path: str) -> Iterator[Problem]:
    if message.jpeg_min_side and message.num_additional_channels:
        problem = "would decode images smaller than the additional channels"
        yield single(message, path, "jpeg_min_side", problem, "0 beside num_additional_channels")
    for name in ("jpeg_min_side", "num_additional_channels"):
        if message.decode_and_crop and getattr(message, name):
            yield single(message, path, "decode_and_crop", f"does not go with {name}", f"false, or {name}: 0")


RULES: dict[str, tuple[Rule, ...]] = {
    "TrainEvalPipelineConfig": (
        _scores_are_loaded,
        _crop_comes_first,
        _masks_are_read,
        _context_is_read,
        _masks_follow_augmentations,
    ),
    "InputReader": (
        _records_are_examples,
        _weights_fit_files,
        _cache_has_a_folder,
        _channels_fit_image,
        _coco_has_what_is_read,
    ),
}
