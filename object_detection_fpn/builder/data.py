"""The input pipeline, from input readers, the resizer and augmentations."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from object_detection_fpn.config import model as model_config
from object_detection_fpn.config.coco_source import coco_source
from object_detection_fpn.config.label_map import LabelMap
from object_detection_fpn.config.text import is_repeated
from object_detection_fpn.data import decoder, pipeline, preparing, resample, resize
from object_detection_fpn.data.augment import colour, crop, geometry, labels, pad, patches, policies, ssd
from object_detection_fpn.data.context import ContextDecoding
from object_detection_fpn.data.masks import MaskDecoding
from object_detection_fpn.data.preparing import Augmentation
from object_detection_fpn.data.report import DataReport
from object_detection_fpn.data.source.coco_records import CocoSource
from object_detection_fpn.data.source.files import RecordFile
from object_detection_fpn.data.source.service import DataService
from object_detection_fpn.protos import (
    image_resizer_pb2,
    input_reader_pb2,
    pipeline_pb2,
    preprocessor_pb2,
)


def _keywords(message: Any, *, zeros: bool = False) -> dict[str, Any]:
    """The fields of a message as keywords: lists as tuples, enum values by their name in small letters.

    Fields that are neither set nor have a default are left to the function, or, if `zeros`, numbers among them are 0.
    """
    keywords: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if is_repeated(field):
            if value:
                keywords[field.name] = tuple(value)
        elif zeros or field.has_default_value or message.HasField(field.name):
            keywords[field.name] = field.enum_type.values_by_number[value].name.lower() if field.enum_type else value
    return keywords


def _with_fields(function: Augmentation) -> Callable[[Any], Augmentation]:
    """For a message whose fields are the function's keywords."""
    return lambda message: functools.partial(function, **_keywords(message))


def _with_operations(function: Augmentation) -> Callable[[Any], Augmentation]:
    """For a message of SSD, whose `operations` are lists of keywords; what they leave unset is 0, as it is there."""

    def operation(message: Any) -> dict[str, Any]:
        keywords = _keywords(message, zeros=True)
        color = tuple(keywords.pop(f"pad_color_{c}") for c in "rgb" if f"pad_color_{c}" in keywords)
        return {**keywords, "pad_color": color} if color else keywords

    def bind(message: Any) -> Augmentation:
        keywords = {**_keywords(message), "operations": tuple(operation(m) for m in message.operations)}
        return functools.partial(function, **keywords)

    return bind


AUGMENTATIONS: dict[str, Callable[[Any], Augmentation]] = {
    "random_horizontal_flip": _with_fields(geometry.random_horizontal_flip),
    "random_vertical_flip": _with_fields(geometry.random_vertical_flip),
    "random_rotation90": _with_fields(geometry.random_rotation90),
    "random_image_scale": _with_fields(geometry.random_image_scale),
    "random_resize_method": _with_fields(geometry.random_resize_method),
    "resize_image": lambda m: functools.partial(
        geometry.resize_image,
        new_height=m.new_height,
        new_width=m.new_width,
        method=m.Method.Name(m.method).lower().removesuffix("_neighbor"),
    ),
    "random_downscale_to_target_pixels": _with_fields(geometry.random_downscale_to_target_pixels),
    "random_self_concat_image": _with_fields(geometry.random_self_concat_image),
    "random_crop_image": _with_fields(crop.random_crop_image),
    "random_crop_pad_image": lambda m: functools.partial(
        crop.random_crop_pad_image, **crop.group_constraints(_keywords(m))
    ),
    "random_crop_to_aspect_ratio": _with_fields(crop.random_crop_to_aspect_ratio),
    "random_square_crop_by_scale": _with_fields(crop.random_square_crop_by_scale),
    "random_scale_crop_and_pad_to_square": _with_fields(crop.random_scale_crop_and_pad_to_square),
    "random_pad_image": _with_fields(pad.random_pad_image),
    "random_absolute_pad_image": _with_fields(pad.random_absolute_pad_image),
    "ssd_random_crop": _with_operations(ssd.ssd_random_crop),
    "ssd_random_crop_pad": _with_operations(ssd.ssd_random_crop_pad),
    "ssd_random_crop_fixed_aspect_ratio": _with_operations(ssd.ssd_random_crop_fixed_aspect_ratio),
    "ssd_random_crop_pad_fixed_aspect_ratio": _with_operations(ssd.ssd_random_crop_pad_fixed_aspect_ratio),
    "autoaugment_image": _with_fields(policies.autoaugment_image),
    "random_jitter_boxes": _with_fields(labels.random_jitter_boxes),
    "drop_label_probabilistically": _with_fields(labels.drop_label_probabilistically),
    "remap_labels": _with_fields(labels.remap_labels),
    "convert_class_logits_to_softmax": _with_fields(labels.convert_class_logits_to_softmax),
    "random_adjust_brightness": _with_fields(colour.random_adjust_brightness),
    "random_adjust_contrast": _with_fields(colour.random_adjust_contrast),
    "random_adjust_hue": _with_fields(colour.random_adjust_hue),
    "random_adjust_saturation": _with_fields(colour.random_adjust_saturation),
    "random_distort_color": _with_fields(colour.random_distort_color),
    "random_pixel_value_scale": _with_fields(colour.random_pixel_value_scale),
    "random_rgb_to_gray": _with_fields(colour.random_rgb_to_gray),
    "rgb_to_gray": _with_fields(colour.rgb_to_gray),
    "adjust_gamma": _with_fields(colour.adjust_gamma),
    "random_jpeg_quality": _with_fields(colour.random_jpeg_quality),
    "normalize_image": _with_fields(colour.normalize_image),
    "subtract_channel_mean": _with_fields(colour.subtract_channel_mean),
    "random_black_patches": _with_fields(patches.random_black_patches),
    "random_patch_gaussian": _with_fields(patches.random_patch_gaussian),
}


_RESIZE_METHODS: dict[int, resample.Method] = {
    image_resizer_pb2.BILINEAR: "bilinear",
    image_resizer_pb2.NEAREST_NEIGHBOR: "nearest",
    image_resizer_pb2.BICUBIC: "bicubic",
    image_resizer_pb2.AREA: "area",
}


_SIZE_ROUNDINGS: dict[int, resize.SizeRounding] = {
    image_resizer_pb2.KeepAspectRatioResizer.OBJECT_DETECTION_API: "object_detection_api",
    image_resizer_pb2.KeepAspectRatioResizer.FLOOR: "floor",
    image_resizer_pb2.KeepAspectRatioResizer.ROUND: "round",
}


def build_resizer(message: image_resizer_pb2.ImageResizer, *, is_training: bool = False) -> resize.Resizer:
    """The resizer of `model.faster_rcnn.image_resizer`; that of evaluation and serving draws nothing at random."""
    kind = message.WhichOneof("image_resizer_oneof")
    chosen = getattr(message, kind)
    if kind == "keep_aspect_ratio_resizer":
        return resize.keep_aspect_ratio(
            min_dimension=chosen.min_dimension,
            max_dimension=chosen.max_dimension,
            min_dimensions=tuple(chosen.min_dimensions_in_training) if is_training else (),
            size_rounding=_SIZE_ROUNDINGS[chosen.size_rounding],
            interpolation=resample.Interpolation(
                method=_RESIZE_METHODS[chosen.resize_method],
                half_pixel_centers=chosen.half_pixel_centers,
                antialias=chosen.antialias,
                round_pixels=chosen.round_pixels,
            ),
            pad_to_max_dimension=chosen.pad_to_max_dimension,
            pad_to_multiple=chosen.pad_to_multiple,
            per_channel_pad_value=tuple(chosen.per_channel_pad_value),
            convert_to_grayscale=chosen.convert_to_grayscale,
        )
    if kind == "fixed_shape_resizer":
        return resize.fixed_shape(
            height=chosen.height,
            width=chosen.width,
            method=_RESIZE_METHODS[chosen.resize_method],
            convert_to_grayscale=chosen.convert_to_grayscale,
        )
    if kind == "pad_to_multiple_resizer":
        return resize.pad_to_multiple(multiple=chosen.multiple, convert_to_grayscale=chosen.convert_to_grayscale)
    if kind == "conditional_shape_resizer":
        smaller = chosen.condition == image_resizer_pb2.ConditionalShapeResizer.SMALLER
        return resize.conditional_shape(
            condition="smaller" if smaller else "greater",
            size_threshold=chosen.size_threshold,
            method=_RESIZE_METHODS[chosen.resize_method],
            convert_to_grayscale=chosen.convert_to_grayscale,
        )
    return resize.identity()


def build_augmentations(messages: Sequence[preprocessor_pb2.PreprocessingStep]) -> list[Augmentation]:
    """The functions of `train_config.data_augmentation_options`, in their order."""
    kinds = [message.WhichOneof("preprocessing_step") for message in messages]
    return [AUGMENTATIONS[kind](getattr(message, kind)) for kind, message in zip(kinds, messages, strict=True)]


def build_dataset(
    config: pipeline_pb2.TrainEvalPipelineConfig,
    reader: input_reader_pb2.InputReader,
    *,
    label_map: LabelMap,
    batch_size: int,
    is_training: bool,
    input_context: tf.distribute.InputContext | None = None,
    seed: int | None = None,
    report: DataReport | None = None,
    sample_1_of_n: int | None = None,
    service: DataService | None = None,
) -> tf.data.Dataset:
    """The input pipeline of one `InputReader`: batches of `records.Batch`.

    Args:
        config: for the resizer, the class count and the augmentations.
        reader: `train_input_reader` or one of `eval_input_reader`.
        label_map: the reader's.
        batch_size: images of all replicas together.
        is_training: augment, shuffle, repeat.
        input_context: which part of the data this worker reads.
        seed: of order and augmentation.
        report: counts what had to be dropped.
        sample_1_of_n: overrides the reader's.
        service: makes the batches of training, see `data.pipeline.make_dataset`.
    """
    training, evaluation = config.train_config, config.eval_config
    num_classes = model_config.num_classes(config.model)
    resizer = build_resizer(model_config.image_resizer(config.model), is_training=is_training)
    if not is_training and evaluation.force_no_resize:
        unchanged = resize.pad_to_multiple(
            multiple=1, convert_to_grayscale=model_config.num_image_channels(config.model) == 1
        )
        resizer = dataclasses.replace(unchanged, pad_values=resizer.pad_values)
    steps, first_crop = list(training.data_augmentation_options), None
    if is_training and reader.decode_and_crop:
        constraints = crop.CropConstraints(**_keywords(steps.pop(0).random_crop_image))
        first_crop = functools.partial(crop.draw_crop, constraints=constraints)
    reading = pipeline.Reading(
        file_patterns=tuple(reader.tf_record_input_reader.input_path),
        coco=_coco_source(config, reader),
        shuffle=reader.shuffle,
        shuffle_buffer_size=reader.shuffle_buffer_size,
        filenames_shuffle_buffer_size=reader.filenames_shuffle_buffer_size,
        num_readers=reader.num_readers,
        read_block_length=reader.read_block_length,
        num_epochs=reader.num_epochs,
        sample_1_of_n=reader.sample_1_of_n_examples if sample_1_of_n is None else sample_1_of_n,
        sample_from_datasets_weights=tuple(reader.sample_from_datasets_weights),
        cache=reader.cache_dir if reader.cache != input_reader_pb2.InputReader.NO_CACHE else None,
        deterministic=reader.deterministic,
    )
    decoding = decoder.Decoding(
        num_classes=num_classes,
        label_to_id=label_map.label_to_id,
        num_additional_channels=reader.num_additional_channels,
        load_class_scores=reader.load_multiclass_scores,
        load_labeled_classes=not is_training,
        map_empty_labeled_classes_to_ones=evaluation.image_classes_field_map_empty_to_ones,
        hierarchy=decoder.Hierarchy(*label_map.hierarchy(num_classes)) if reader.expand_labels_hierarchy else None,
        jpeg_min_side=reader.jpeg_min_side,
        crop=first_crop,
        masks=_build_mask_decoding(config, reader, is_training=is_training),
        context=build_context_decoding(config) if reader.load_context_features else None,
        reads_paths=reader.HasField("coco_input_reader"),
    )
    prepared = preparing.Preparing(
        resizer=resizer,
        augmentations=build_augmentations(steps) if is_training else (),
        max_num_boxes=max_number_of_boxes(config, reader),
        use_class_scores=is_training and training.use_multiclass_scores,
        merge_multiple_label_boxes=is_training and training.merge_multiple_label_boxes,
    )
    return pipeline.make_dataset(
        reading,
        decoding,
        prepared,
        batch_size=batch_size,
        is_training=is_training,
        drop_remainder=reader.drop_remainder,
        num_prefetch_batches=reader.num_prefetch_batches,
        input_context=input_context,
        seed=seed,
        report=report,
        service=service,
    )


def list_record_files(
    config: pipeline_pb2.TrainEvalPipelineConfig, reader: input_reader_pb2.InputReader
) -> list[RecordFile]:
    """The record files of a reader, or the records that stand for a COCO file.

    Raises:
        FileNotFoundError, failures.DataError: as the input pipeline.
    """
    patterns = tuple(reader.tf_record_input_reader.input_path)
    (files,) = pipeline.list_files(pipeline.Reading(patterns, coco=_coco_source(config, reader)))
    return files


def _coco_source(
    config: pipeline_pb2.TrainEvalPipelineConfig, reader: input_reader_pb2.InputReader
) -> CocoSource | None:
    if not reader.HasField("coco_input_reader"):
        return None
    has_masks = reader.load_instance_masks and model_config.has_masks(config.model)
    return coco_source(reader.coco_input_reader)._replace(with_masks=has_masks)


def _build_mask_decoding(
    config: pipeline_pb2.TrainEvalPipelineConfig, reader: input_reader_pb2.InputReader, *, is_training: bool
) -> MaskDecoding | None:
    """None where the model has no masks, whatever the reader says."""
    if not (reader.load_instance_masks and model_config.has_masks(config.model)):
        return None
    ids, is_coco = model_config.classes_with_masks(config.model), reader.HasField("coco_input_reader")
    return MaskDecoding(
        kind="png" if reader.mask_type == input_reader_pb2.PNG_MASKS or is_coco else "numerical",
        frame="image" if reader.mask_frame == input_reader_pb2.InputReader.IMAGE else "box",
        side=reader.mask_side,
        classes_with_masks=None if ids is None else tuple(class_id - 1 for class_id in ids),
        keep_encoded=not is_training,
    )


def build_context_decoding(config: pipeline_pb2.TrainEvalPipelineConfig) -> ContextDecoding | None:
    """The context features of an image; None where the model looks at single images."""
    message = model_config.context(config.model)
    if message is None:
        return None
    return ContextDecoding(max_num=message.max_num_context_features, length=message.context_feature_length)


def max_number_of_boxes(config: pipeline_pb2.TrainEvalPipelineConfig, reader: input_reader_pb2.InputReader) -> int:
    """Groundtruth rows of an image; `train_config.max_number_of_boxes` is the deprecated field for it, and goes first."""
    if config.train_config.HasField("max_number_of_boxes"):
        return config.train_config.max_number_of_boxes
    return reader.max_number_of_boxes
