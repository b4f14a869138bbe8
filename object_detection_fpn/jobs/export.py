"""Writes a checkpoint as a SavedModel in the Object Detection API's layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import tensorflow as tf

from object_detection_fpn import builder
from object_detection_fpn.config import model as model_config
from object_detection_fpn.config import pipeline as config_lib
from object_detection_fpn.data import decoder
from object_detection_fpn.interop import sources
from object_detection_fpn.jobs import strategies
from object_detection_fpn.protos import input_reader_pb2, pipeline_pb2
from object_detection_fpn.serving import saved_model
from object_detection_fpn.training.weights import variables_by_path

Config = pipeline_pb2.TrainEvalPipelineConfig


def export(
    config: Config,
    *,
    checkpoint: str,
    output_dir: str,
    input_type: str = "image_tensor",
    jit_compile: bool = False,
    device: Literal["cpu", "gpu"] | None = None,
    paste_masks: bool = False,
) -> str:
    """Writes a checkpoint as a SavedModel in the Object Detection API's layout; returns the SavedModel's folder.

    Args:
        config: a checked config.
        checkpoint: a checkpoint, or a folder, which means its newest.
        output_dir: folder for `saved_model/`, `checkpoint/` and `pipeline.config`.
        input_type: one of `serving.input_types.INPUT_TYPES`.
        jit_compile: let XLA compile the model where it is served; images must be of one size after the resizer.
        device: what the model is to be fast on; it runs on both. None: what this machine has.
        paste_masks: whether `detection_masks` are pixels of the given image, uint8 [B, D, h, w], instead of shares of the box.

    Raises:
        CheckpointError: if the checkpoint is missing, damaged or of another model.
        ConfigError: if `jit_compile` is asked for, and the resizer leaves images of different sizes; or `paste_masks`, and the
            model predicts none.
        ValueError: if `input_type` is unknown.
    """
    reader = config.eval_input_reader[0] if config.eval_input_reader else config.train_input_reader
    strategies.check_strategy(config, tf.distribute.get_strategy(), use="export", jit_compile=jit_compile)
    has_stages = model_config.has_stages(config.model)
    if paste_masks and not model_config.has_masks(config.model):
        raise config_lib.ConfigError(
            "pipeline config",
            "predicts no masks, which were to be pasted",
            field=model_config.field_path(config.model, "number_of_stages" if has_stages else ""),
            value=str(model_config.detector(config.model).number_of_stages) if has_stages else None,
            allowed="3 with paste_masks" if has_stages else "no paste_masks",
        )
    execution = builder.inference_execution(config, jit_compile=jit_compile, device=device)
    model = builder.build_detector(config, reader, execution=execution)
    sources.restore_model(checkpoint, model, use_averages=config.eval_config.use_moving_averages)
    return saved_model.export_saved_model(
        model=model,
        resizer=builder.build_resizer(model_config.image_resizer(config.model)),
        input_type=input_type,
        output_dir=output_dir,
        pipeline_config_text=config_lib.format_config(config),
        variables=variables_by_path(model),
        num_channels=model_config.num_image_channels(config.model, reader),
        context=builder.build_context_decoding(config),
        decode_record=_make_record_decoder(config, reader) if reader.num_additional_channels else None,
        mask_pasting=model_config.mask_pasting(config.model),
        paste_masks=paste_masks,
        jit_compile=jit_compile,
    )


def _make_record_decoder(config: Config, reader: input_reader_pb2.InputReader) -> Callable[[tf.Tensor], tf.Tensor]:
    """Serialized example -> image with its additional channels, which no image file holds."""
    decoding = decoder.Decoding(
        num_classes=model_config.num_classes(config.model), num_additional_channels=reader.num_additional_channels
    )
    return lambda serialized: decoder.decode_example(serialized, decoding).example.image
