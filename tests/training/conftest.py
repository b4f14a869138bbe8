"""A model of three variables that has the verbs of the real one, and data for it: what training needs, in milliseconds."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import tensorflow as tf
import tf_keras

from object_detection_fpn.records import Batch, Groundtruth, Inputs
from object_detection_fpn.training import loop, optimizers, schedules
from object_detection_fpn.training.checkpoints import RunCheckpoints
from object_detection_fpn.training.settings import TrainSettings
from object_detection_fpn.training.weights import variables_by_path


class FakePredictions(NamedTuple):
    boxes: tf.Tensor
    noise: tf.Tensor


class FakeModel(tf_keras.layers.Layer):
    """Says that every image shows one box, from the mean of its channels; counts how often it is traced."""

    loss_names = ("Loss/RPNLoss/localization_loss", "Loss/BoxClassifierLoss/localization_loss")
    statistic_names = ("Proposals/recall",)

    def __init__(self, num_outputs: int = 4, noise: float = 0.0, dtype: str | None = None):
        super().__init__(dtype=dtype)
        self.backbone = tf_keras.layers.Dense(5, kernel_initializer=tf_keras.initializers.GlorotUniform(seed=1))
        self.head = tf_keras.layers.Dense(
            num_outputs, kernel_initializer=tf_keras.initializers.GlorotUniform(seed=2), use_bias=False
        )
        self.backbone.build([None, 3])
        self.head.build([None, 5])
        self.noise = noise
        self.num_traces = 0

    def preprocess(self, inputs: Inputs) -> Inputs:
        return inputs._replace(images=inputs.images / 255.0)

    def predict(self, inputs: Inputs, *, training: bool, groundtruth: Groundtruth, seed: tf.Tensor) -> FakePredictions:
        assert training
        assert groundtruth.boxes.shape[0] == inputs.images.shape[0]
        self.num_traces += 1
        noise = tf.random.stateless_normal([4], seed, stddev=self.noise)
        boxes = self.head(self.backbone(tf.reduce_mean(inputs.images, [1, 2])))
        return FakePredictions(tf.cast(boxes, tf.float32)[:, :4], noise)

    def loss(
        self, predictions: FakePredictions, groundtruth: Groundtruth, measured: dict[str, tf.Tensor] | None = None
    ) -> dict[str, tf.Tensor]:
        if measured is not None:  # of every two objects of an image, one is found
            found = tf.cast(groundtruth.num_boxes, tf.float32)
            measured["Proposals/recall"] = tf.stack([found / 2.0, found], axis=-1)
        error = predictions.boxes + predictions.noise - groundtruth.boxes[:, 0]
        return {
            "Loss/RPNLoss/localization_loss": tf.reduce_mean(tf.square(error), axis=-1),
            "Loss/BoxClassifierLoss/localization_loss": 0.5 * tf.reduce_mean(tf.square(error), axis=-1),
        }

    def regularization_loss(self) -> tf.Tensor:
        return 0.01 * tf.nn.l2_loss(self.head.kernel)


def make_dataset(batch_size: int = 4, value_of_step: Callable[[tf.Tensor], tf.Tensor] | None = None) -> Callable:
    """Endless batches, all alike, of which replica i of n sees the i-th part, in one process or in several.

    `value_of_step` scales the images, given the number of the batch among those of its process.
    """

    def dataset(context: tf.distribute.InputContext, seed: int) -> tf.data.Dataset:
        size = context.get_per_replica_batch_size(batch_size)
        images = tf.random.stateless_uniform([batch_size, 8, 8, 3], [1, 2], maxval=255.0)
        boxes = tf.random.stateless_uniform([batch_size, 2, 4], [3, 4])

        def batch(step: tf.Tensor) -> Batch:
            number = step * context.num_input_pipelines + context.input_pipeline_id
            part = number % (batch_size // size)
            scale = 1.0 if value_of_step is None else value_of_step(step)
            count = tf.fill([size], 2)
            return Batch(
                inputs=Inputs(
                    images=tf.ensure_shape(scale * images[part * size : (part + 1) * size], [size, 8, 8, 3]),
                    true_shapes=tf.tile([[8, 8, 3]], [size, 1]),
                ),
                groundtruth=Groundtruth(
                    boxes=tf.ensure_shape(boxes[part * size : (part + 1) * size], [size, 2, 4]),
                    classes=tf.zeros([size, 2], tf.int32),
                    num_boxes=count,
                    weights=tf.ones([size, 2]),
                    is_crowd=tf.zeros([size, 2], tf.bool),
                ),
                original_shapes=tf.fill([size, 2], 8),
                record_keys=tf.ensure_shape(part * size + tf.range(size, dtype=tf.int64), [size]),
            )

        options = tf.data.Options()
        options.autotune.enabled = False  # as in `data.input`, which says why
        return tf.data.Dataset.counter().map(tf.autograph.experimental.do_not_convert(batch)).with_options(options)

    return dataset


class Run:
    """One run of training with the fakes; `log` is what the user saw."""

    def __init__(self, model_dir: str, *, strategy: tf.distribute.Strategy | None = None, **model_options: Any):
        self.model_dir = str(model_dir)
        self.strategy = strategy or tf.distribute.get_strategy()
        with self.strategy.scope():
            self.model = FakeModel(**model_options)
            rate = schedules.CosineDecayLearningRate(learning_rate_base=0.5, total_steps=20, warmup_steps=3)
            self.optimizer = optimizers.momentum(rate, moving_average_decay=0.9)
        self.output = io.StringIO()

    def train(self, num_steps: int, **options: Any) -> loop.TrainResult:
        options.setdefault("dataset", make_dataset())
        options.setdefault("record_summaries", False)
        names = {field.name for field in dataclasses.fields(TrainSettings)}
        settings = TrainSettings(num_steps=num_steps, **{name: options.pop(name) for name in names & options.keys()})
        return loop.train(
            model=self.model,
            optimizer=self.optimizer,
            strategy=self.strategy,
            model_dir=self.model_dir,
            settings=settings,
            output=self.output,
            **options,
        )

    @property
    def log(self) -> str:
        return self.output.getvalue()

    def state(self) -> list[Any]:
        """The values of all variables of model and optimizer."""
        return [variable.numpy() for variable in [*self.model.variables, *self.optimizer.variables()]]


@pytest.fixture
def break_gradients() -> Callable[[Any], None]:
    """Makes the gradients of a model infinite, and leaves its losses as they are."""

    @tf.custom_gradient
    def breaks_backwards(value: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        return tf.identity(value), lambda grad: grad * float("inf")

    def change(model: Any) -> None:
        predict = model.predict
        model.predict = lambda *args, **named: tf.nest.map_structure(breaks_backwards, predict(*args, **named))

    return change


@pytest.fixture
def make_run() -> type[Run]:
    return Run


@pytest.fixture
def make_data() -> Callable[..., Callable]:
    return make_dataset


class Detector(tf_keras.layers.Layer):
    """A functional backbone, which has several paths to each variable, a dictionary with an awkward key, and a head."""

    def __init__(self, num_classes: int = 3, has_mask: bool = False, dtype: str | None = None):
        super().__init__(dtype=dtype)
        image = tf_keras.Input([8, 8, 3])
        features = tf_keras.layers.Conv2D(4, 3, dtype=dtype)(image)
        self.backbone = tf_keras.Model(image, tf_keras.layers.BatchNormalization(dtype=dtype)(features))
        self.fpn = {"a/b.c": tf_keras.layers.Dense(2, dtype=dtype)}
        self.head = tf_keras.layers.Dense(num_classes, dtype=dtype)
        self.fpn["a/b.c"].build([None, 4])
        self.head.build([None, 2])
        if has_mask:
            self.mask = tf_keras.layers.Dense(1, dtype=dtype)
            self.mask.build([None, 2])


def fill_variables(model, value):
    for number, variable in enumerate(model.variables):
        variable.assign(tf.fill(variable.shape, float(value + number)))


def weights_by_path(model):
    return {path: variable.numpy() for path, variable in variables_by_path(model).items()}


def open_detector_run(model_dir, model=None, optimizer=None, strategy=None, **options):
    """A model with its run's checkpoints, as training opens them."""
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        model = model or Detector()
        optimizer = optimizer or optimizers.momentum(schedules.ConstantLearningRate(learning_rate=0.1))
        optimizer.build(model.trainable_variables)
    run = RunCheckpoints(str(model_dir), model=model, optimizer=optimizer, strategy=strategy, **options)
    return model, optimizer, run


def save_detector_run(model_dir, value=1.0, step=5, **options):
    model, optimizer, run = open_detector_run(model_dir, **options)
    fill_variables(model, value)
    optimizer.start_averages(model.trainable_variables)
    optimizer.iterations.assign(step)
    return model, run.save(step)


@pytest.fixture
def detector():
    return Detector


@pytest.fixture
def fill():
    return fill_variables


@pytest.fixture
def weights():
    return weights_by_path


@pytest.fixture
def open_run():
    return open_detector_run


@pytest.fixture
def save_run():
    return save_detector_run


@pytest.fixture
def eager(untraced) -> Iterator[None]:
    """Steps run as the Python they are: for tests of what the loop does around them."""
    with untraced():
        yield
