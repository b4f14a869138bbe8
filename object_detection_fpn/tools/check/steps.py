"""A detector with all that a train step needs, and steps of any batch, whose memory and arithmetic are told."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from object_detection_fpn import builder
from object_detection_fpn.config import label_map as label_map_lib
from object_detection_fpn.config import model as model_config
from object_detection_fpn.interop import sources
from object_detection_fpn.jobs import strategies
from object_detection_fpn.jobs.evaluate import load_label_map
from object_detection_fpn.protos import input_reader_pb2
from object_detection_fpn.tools.check import arithmetic, inference, memory, parts, schedule
from object_detection_fpn.tools.check.request import Config, Emit, Request
from object_detection_fpn.training import optimizers
from object_detection_fpn.training.errors import TrainingError
from object_detection_fpn.training.selection import select_variables
from object_detection_fpn.training.settings import StepSettings
from object_detection_fpn.training.step import GRADIENT_NORM, Trainer

_SECOND_BATCH = 4  # times the first: far enough apart for a line that what a process keeps back does not bend


class _Trainer(Trainer):
    """Keeps the function of its steps, whose graph tells the arithmetic."""

    function: Any = None

    def create_train_loop_fn(self) -> Any:
        self.function = super().create_train_loop_fn()
        return self.function

    def graph(self) -> tf.Graph:
        """Of the steps that were taken."""
        return self.function.get_concrete_function(self._train_iter, tf.constant(1, tf.int32)).graph


class Trial:
    """A detector with everything that a train step needs, on the devices that training would use.

    Args:
        request: what is to be tried; its config is checked.
        emit: takes the events.
    """

    def __init__(self, request: Request, emit: Emit):
        self._request, self._emit = request, emit
        self._config = config = _without_cache(request.config)
        settings = config.train_config
        emit({"event": "stage", "what": "building the model"})
        self.strategy = strategies.make_strategy()
        strategies.check_strategy(config, self.strategy, use="train", jit_compile=request.jit_compile)
        self._meter = memory.Meter(self.strategy)  # before anything large is there
        self._execution = builder.training_execution(config, jit_compile=request.jit_compile)
        reader = config.train_input_reader
        self._label_map = load_label_map(reader)
        tf_keras.utils.set_random_seed(request.seed)
        start = time.perf_counter()
        with self.strategy.scope():
            self.model = builder.build_detector(config, reader, execution=self._execution)
            self._optimizer = builder.build_optimizer(settings.optimizer)
        self.variables = select_variables(
            self.model, update=list(settings.update_trainable_variables), freeze=list(settings.freeze_variables)
        )
        with self.strategy.scope():
            self._optimizer.build(self.variables)
        self._build_seconds = time.perf_counter() - start
        self.unit = self.strategy.num_replicas_in_sync * settings.accumulate_gradients
        self.used: list[memory.Usage] = []
        # Where shapes are static, all regions that can train masks are there from the first step on.
        self._num_masks = 0
        if model_config.has_masks(config.model) and not self._execution.static:
            self._num_masks = builder.most_masks_in_training(config.model.faster_rcnn)
        self.margin = memory.MARGIN_OF_MASKS if self._num_masks else memory.MARGIN
        self._kept_bytes = 0
        emit(
            {
                "event": "device",
                "device": self._meter.device,
                "num_replicas": self.strategy.num_replicas_in_sync,
                "available_bytes": self._meter.available_bytes,
                "total_bytes": self._meter.total_bytes,
                "unit": self.unit,
                "precision": self._execution.dtype,
                "margin": self.margin,
                "num_masks": self._num_masks,
            }
        )

    def tell_schedule(self) -> schedule.Schedule:
        """Samples the learning rate."""
        found = schedule.sample(self._optimizer.learning_rate_at, self._config.train_config.num_steps)
        self._emit({"event": "schedule", "num_steps": found.num_steps, "steps": found.steps, "rates": found.rates})
        return found

    def restore(self) -> None:
        """Gives the detector its first weights, as training does, and tells which."""
        settings = self._config.train_config
        if settings.fine_tune_checkpoint:
            self._emit({"event": "stage", "what": f"restoring {settings.fine_tune_checkpoint}"})
            there = self._request.from_label_map
            report, title = sources.restore_for_fine_tuning(
                settings.fine_tune_checkpoint,
                self.model,
                kind=settings.fine_tune_checkpoint_type or ("detection" if settings.from_detection_checkpoint else ""),
                label_map=self._label_map if settings.restore_classes_by_name else None,
                from_label_map=label_map_lib.load_label_map(there) if there is not None else None,
            )
            self._emit(
                {
                    "event": "restored",
                    "table": report.table(title),
                    "num_restored": len(report.restored),
                    "num_left_alone": len(report.missing) + len(report.other_shape),
                }
            )
        self._optimizer.start_averages(self.variables)

    def tell_model(self) -> None:
        """Tells the detector's parts, what they give, and the arithmetic of inference."""
        self._emit({"event": "stage", "what": "tracing inference"})
        height, width = inference.image_size(self._config)
        outputs, flops = inference.trace(self._config, self.model, height, width)
        settings = self._config.train_config
        anatomy = parts.describe(
            self.model,
            self.variables,
            freeze=settings.freeze_variables,
            update=settings.update_trainable_variables,
            outputs=outputs,
        )
        self._emit(
            {
                "event": "model",
                "image_size": [height, width],
                "build_seconds": self._build_seconds,
                "inference_flops": flops,
                "num_parameters": anatomy.num_parameters,
                "num_trained": anatomy.num_trained,
                "parts": [vars(part) for part in anatomy.parts],
                "frozen": [vars(frozen) for frozen in anatomy.frozen],
                "variables": anatomy.variables,
            }
        )

    def measure(self, batch_size: int, *, num_steps: int = 1) -> memory.Usage | None:
        """Takes steps of so many images, from the weights of the beginning.

        Args:
            batch_size: images of all replicas, a multiple of `unit`.
            num_steps: how many; the first makes the program, only others show how long a step takes.

        Returns:
            What they took; None where that cannot be seen.

        Raises:
            tf.errors.ResourceExhaustedError: if they do not fit a GPU.
            TrainingError, DataError, tf.errors.OpError: if training would fail.
        """
        images = "1 image" if batch_size == 1 else f"{batch_size} images"
        self._emit({"event": "stage", "what": f"taking a step of {images}", "batch_size": batch_size})
        first_weights = self._keep_weights()
        self._meter.start()
        trainer = self._make_trainer(batch_size)
        start = time.perf_counter()
        values = trainer.run(1)
        first_seconds = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(num_steps - 1):
            trainer.run(1)
        seconds = (time.perf_counter() - start) / (num_steps - 1) if num_steps > 1 else None
        peak = self._meter.peak()
        try:
            batch = trainer.next_batch()
        except StopIteration as error:
            raise TrainingError(
                f"The training data end after step {num_steps}; they have to repeat without end."
            ) from error
        num_parts = self._config.train_config.accumulate_gradients
        rows = batch_size // self.strategy.num_replicas_in_sync // num_parts * self._num_masks
        flops = arithmetic.count_flops(trainer.graph(), rows=max(rows, 1), loop_turns=num_parts)
        del trainer
        self._put_back(first_weights)
        gc.collect()
        usage = None if peak is None else memory.Usage(batch_size, peak - self._kept_bytes)
        if usage is not None:
            self.used.append(usage)
        self._emit(
            {
                "event": "measured",
                "batch_size": batch_size,
                "peak_bytes": usage and usage.num_bytes,
                "losses": {name: value for name, value in values.items() if name != GRADIENT_NORM},
                "gradient_norm": values[GRADIENT_NORM],
                "first_seconds": first_seconds,
                "seconds": seconds,
                "flops": flops * self.strategy.num_replicas_in_sync,
                "images": list(batch.inputs.images.shape),
                "num_boxes": int(tf.reduce_sum(batch.groundtruth.num_boxes)),
            }
        )
        return usage

    def measure_second(self, before: int | None, *, most: int | None = None) -> None:
        """Takes a step of a batch that shows, beside the first one, what an image takes; none if no such batch fits.

        Args:
            before: bytes that were in use before the first step.
            most: images of a batch that is to be measured later; the second batch has fewer.
        """
        if before is None or not self.used or self.available_bytes is None:
            return
        first = self.used[0]
        for times in (_SECOND_BATCH, 2):
            batch_size = times * first.batch_size
            # Too much: what the program takes is not of the image.
            bytes_needed = before + times * (first.num_bytes - before)
            if (most is None or batch_size < most) and bytes_needed <= self.available_bytes:
                self.measure(batch_size)
                return

    def bytes_now(self) -> int | None:
        """Memory in use; None where this cannot be seen."""
        return self._meter.now()

    @property
    def available_bytes(self) -> int | None:
        """What training may take of a device; None if unknown."""
        return self._meter.available_bytes

    @property
    def usable_bytes(self) -> int | None:
        """The same without a margin."""
        return None if self.available_bytes is None else int(self.available_bytes * (1 - self.margin))

    def _make_trainer(self, batch_size: int) -> _Trainer:
        config, settings = self._config, self._config.train_config

        def make_dataset(context: tf.distribute.InputContext) -> tf.data.Dataset:
            return builder.build_dataset(
                config,
                config.train_input_reader,
                label_map=self._label_map,
                batch_size=batch_size,
                is_training=True,
                input_context=context,
                seed=self._request.seed,
            )

        is_scaled = self._execution.dtype == "mixed_float16"
        with self.strategy.scope():
            loss_scaler = optimizers.make_loss_scaler(self._optimizer) if is_scaled else None
        return _Trainer(
            self.strategy.distribute_datasets_from_function(make_dataset),
            model=self.model,
            optimizer=self._optimizer,
            variables=self.variables,
            strategy=self.strategy,
            settings=StepSettings(
                gradient_clipping_by_norm=settings.gradient_clipping_by_norm,
                add_regularization_loss=settings.add_regularization_loss,
                jit_compile=self._execution.jit_compile,
                accumulate_gradients=settings.accumulate_gradients,
                all_reduce_dtype=tf.as_dtype(builder.dtype_name(settings.all_reduce_precision)),
                seed=self._request.seed,
            ),
            loss_scaler=loss_scaler,
        )

    def _state(self) -> list[tf.Variable]:
        return [*self.model.variables, *self._optimizer.variables()]

    def _keep_weights(self) -> list[np.ndarray]:
        kept = [variable.numpy() for variable in self._state()]
        self._kept_bytes = 0 if self._meter.device == "GPU" else sum(value.nbytes for value in kept)
        return kept

    def _put_back(self, values: Sequence[np.ndarray]) -> None:
        for variable, value in zip(self._state(), values, strict=True):
            variable.assign(value)


def _without_cache(config: Config) -> Config:
    """A copy whose reader writes nothing."""
    copy = Config()
    copy.CopyFrom(config)
    copy.train_input_reader.cache = input_reader_pb2.InputReader.NO_CACHE
    return copy
