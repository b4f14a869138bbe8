"""The steps of a pipeline config as XLA programs of one TPU replica: what `tf.distribute` would have each core compile.

The program of another device than this machine's cannot be asked of TensorFlow, but HLO before its optimization is nearly the
same for all; the TPU's compiler does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from object_detection_fpn import builder
from object_detection_fpn.config import model as model_config
from object_detection_fpn.execution import Execution
from object_detection_fpn.protos import pipeline_pb2
from object_detection_fpn.records import Batch, Context, Groundtruth, Inputs
from object_detection_fpn.training.selection import select_variables
from object_detection_fpn.training.settings import StepSettings
from object_detection_fpn.training.step import Trainer

Config = pipeline_pb2.TrainEvalPipelineConfig


class Step(Protocol):
    """A step that can be lowered for any number of images."""

    state_bytes: int
    """Weights and what the optimizer keeps of them, of one replica."""
    reduced_bytes: int
    """What a replica exchanges with the others in a step: the gradients."""
    dtype: str
    """In which convolutions compute."""

    def lower(self, batch_size: int) -> bytes:
        """The serialized `xla.HloModuleProto` for `batch_size` images of one replica."""


class TrainStep:
    """The train step of a config: forward, backward, update of the weights; its own model, with random weights.

    Args:
        config: checked, also by `config.check_strategy` for a TPU.
    """

    def __init__(self, config: Config):
        settings = config.train_config
        self.dtype = builder.dtype_name(builder.training_precision(settings, is_tpu=True))
        execution = builder.training_execution(config, is_tpu=True)
        model = builder.build_detector(config, config.train_input_reader, execution=execution)
        optimizer = builder.build_optimizer(settings.optimizer)
        variables = select_variables(
            model, update=list(settings.update_trainable_variables), freeze=list(settings.freeze_variables)
        )
        optimizer.build(variables)
        all_reduce_dtype = tf.as_dtype(builder.dtype_name(settings.all_reduce_precision))
        self.state_bytes = _num_bytes([*model.variables, *optimizer.variables()])
        self.reduced_bytes = sum(math.prod(v.shape) for v in variables) * all_reduce_dtype.size
        self._config = config
        trainer = Trainer(
            None,  # batches are described here, not read
            model=model,
            optimizer=optimizer,
            variables=variables,
            strategy=tf.distribute.get_strategy(),
            settings=StepSettings(
                gradient_clipping_by_norm=settings.gradient_clipping_by_norm,
                add_regularization_loss=settings.add_regularization_loss,
                jit_compile=False,  # the whole step is compiled
                accumulate_gradients=settings.accumulate_gradients,
                all_reduce_dtype=all_reduce_dtype,
            ),
        )

        # TensorFlow describes a program only by arguments that are tensors.
        @tf.function(jit_compile=True, autograph=False)
        def step(*tensors: tf.Tensor) -> tf.Tensor:
            rest = iter(tensors)
            described = _describe_batch(config, tensors[0].shape[0])
            return trainer.replica_step(tf.nest.map_structure(lambda spec: spec and next(rest), described))

        self._step = step

    def lower(self, batch_size: int) -> bytes:
        """See `Step`."""
        batch = _describe_batch(self._config, batch_size)
        return _lower(self._step, *(spec for spec in tf.nest.flatten(batch) if spec is not None))


class DetectionStep:
    """Images to detections, as evaluation on a TPU computes them; the other details are those of `TrainStep`."""

    def __init__(self, config: Config):
        self.dtype = "float32"
        reader = config.eval_input_reader[0] if config.eval_input_reader else config.train_input_reader
        self._num_channels = model_config.num_image_channels(config.model, reader)
        model = builder.build_detector(config, reader, execution=Execution(static=True))
        self.state_bytes = _num_bytes(model.variables)
        self.reduced_bytes = 0
        self._config = config

        @tf.function(jit_compile=True, autograph=False)
        def detect(images: tf.Tensor, true_shapes: tf.Tensor, *context: tf.Tensor) -> list[tf.Tensor]:
            inputs = model.preprocess(Inputs(images, true_shapes, Context(*context) if context else None))
            detections = model.postprocess(model.predict(inputs, training=False), inputs)
            return [detections.boxes, detections.scores, detections.classes, detections.num_detections]

        self._step = detect

    def lower(self, batch_size: int) -> bytes:
        """See `Step`."""
        height, width = image_size(self._config)
        images = tf.TensorSpec([batch_size, height, width, self._num_channels], tf.float32)
        true_shapes = tf.TensorSpec([batch_size, 3], tf.int32)
        return _lower(self._step, images, true_shapes, *(_describe_context(self._config, batch_size) or ()))


def image_size(config: Config) -> tuple[int, int]:
    """(height, width) of every image, of a config whose images have one size."""
    kind, resizer = model_config.chosen_resizer(config.model)
    if kind == "fixed_shape_resizer":
        return resizer.height, resizer.width
    side = resizer.max_dimension
    return side, side


def _describe_batch(config: Config, batch_size: int) -> Batch:
    """What the input pipeline hands to a replica in training."""
    reader = config.train_input_reader
    height, width = image_size(config)
    num_boxes = builder.max_number_of_boxes(config, reader)

    def spec(*shape: int, dtype: tf.DType = tf.float32) -> tf.TensorSpec:
        return tf.TensorSpec([batch_size, *shape], dtype)

    has_masks, side = model_config.has_masks(config.model) and reader.load_instance_masks, reader.mask_side
    has_class_scores = reader.load_multiclass_scores and config.train_config.use_multiclass_scores
    return Batch(
        inputs=Inputs(
            images=spec(height, width, model_config.num_image_channels(config.model, reader)),
            true_shapes=spec(3, dtype=tf.int32),
            context=_describe_context(config, batch_size),
        ),
        groundtruth=Groundtruth(
            boxes=spec(num_boxes, 4),
            classes=spec(num_boxes, dtype=tf.int32),
            num_boxes=spec(dtype=tf.int32),
            weights=spec(num_boxes),
            is_crowd=spec(num_boxes, dtype=tf.bool),
            class_scores=spec(num_boxes, model_config.num_classes(config.model) + 1) if has_class_scores else None,
            masks=spec(num_boxes, side, side, dtype=tf.uint8) if has_masks else None,
            mask_frames=spec(num_boxes, 4) if has_masks else None,
        ),
        original_shapes=spec(2, dtype=tf.int32),
    )


def _describe_context(config: Config, batch_size: int) -> Context | None:
    """None for a model that looks at single images."""
    context = builder.build_context_decoding(config)
    if context is None:
        return None
    return Context(
        features=tf.TensorSpec([batch_size, context.max_num, context.length], tf.float32),
        num_features=tf.TensorSpec([batch_size], tf.int32),
    )


def _lower(step: Any, *specs: Any) -> bytes:
    return step.experimental_get_compiler_ir(*specs)(stage="hlo_serialized")


def _num_bytes(variables: Sequence[tf.Variable]) -> int:
    return sum(int(np.prod(variable.shape)) * variable.dtype.size for variable in variables)
