"""How a model is computed, from `train_config`, `eval_config` and the devices."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

from object_detection_fpn.builder.training import dtype_name, training_precision
from object_detection_fpn.config import model as model_config
from object_detection_fpn.execution import Execution
from object_detection_fpn.modeling.backbones import resnet_v1
from object_detection_fpn.protos import model_pb2, pipeline_pb2, train_pb2

_MIN_WINOGRAD_CELLS = 64  # of a side of the finest level


def training_execution(
    config: pipeline_pb2.TrainEvalPipelineConfig, *, is_tpu: bool = False, jit_compile: bool = False
) -> Execution:
    """How training computes the model.

    Args:
        config: a checked config.
        is_tpu: whether it trains on a TPU, which compiles every step.
        jit_compile: whether XLA compiles the step on another device.
    """
    settings = config.train_config
    precision = training_precision(settings, is_tpu=is_tpu)
    static = is_tpu or jit_compile
    if settings.HasField("recompute_backbone"):
        recomputed_stages = len(resnet_v1.LEVELS) if settings.recompute_backbone else 0
    else:
        # XLA orders a step so that it needs less memory, and a TPU has much: there it is not worth the time. Nor is it without
        # a pyramid: what is kept of the RoIs in the last stage weighs as much.
        is_single = model_config.is_single_level(model_config.feature_extractor(config.model))
        recomputed_stages = 0 if static or is_single else 1
    return Execution(
        dtype="float32" if precision == train_pb2.FLOAT32 else f"mixed_{dtype_name(precision)}",
        static=static,
        jit_compile=jit_compile and not is_tpu,
        winograd=not static and _device() == "cpu",
        recomputed_stages=recomputed_stages,
    )


def inference_execution(
    config: pipeline_pb2.TrainEvalPipelineConfig,
    *,
    is_tpu: bool = False,
    jit_compile: bool = False,
    device: Literal["cpu", "gpu"] | None = None,
) -> Execution:
    """How evaluation, export and prediction compute a model whose weights are restored; nothing has a gradient.

    Args:
        config: a checked config.
        is_tpu: whether it runs on a TPU.
        jit_compile: whether XLA compiles it on another device.
        device: what the model is to be fast on; it runs on both. None: what this machine has.
    """
    device = device or _device()
    static = is_tpu or jit_compile
    return Execution(
        static=static,
        jit_compile=jit_compile and not is_tpu,
        winograd=device == "cpu" and not static and _has_large_maps(config.model),
        is_restored=True,
    )


def portable_execution() -> Execution:
    """How a model is computed that leaves TensorFlow: see `serving.portable`."""
    return Execution(portable=True, is_restored=True)


def _device() -> Literal["cpu", "gpu"]:
    """What this machine computes on."""
    return "gpu" if tf.config.list_logical_devices("GPU") else "cpu"


def _has_large_maps(model: model_pb2.DetectionModel) -> bool:
    """Whether the finest level has enough cells for Winograd's algorithm to save time; True if unknown."""
    resizer = model_config.image_resizer(model)
    kind = resizer.WhichOneof("image_resizer_oneof")
    if kind == "keep_aspect_ratio_resizer":
        side = resizer.keep_aspect_ratio_resizer.max_dimension
    elif kind == "fixed_shape_resizer":
        side = max(resizer.fixed_shape_resizer.height, resizer.fixed_shape_resizer.width)
    else:
        return True
    min_level, _ = model_config.feature_levels(model_config.feature_extractor(model))
    return side >> min_level >= _MIN_WINOGRAD_CELLS
