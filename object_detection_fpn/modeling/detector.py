"""What training, evaluation, serving and weight import know of a detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from object_detection_fpn.modeling.statistics import Statistics
from object_detection_fpn.records import REGULARIZATION_LOSS, Detections, Groundtruth, Inputs, Predictions


class ClassColumns(NamedTuple):
    """What the last axis of a layer's variables holds of each class."""

    num_columns: int
    """Of each class, one class after the other; 0 where all classes share what is there."""
    has_background: bool
    """Whether the background comes first, as one more class."""
    num_groups: int = 1
    """How often all this follows one after the other: once for each anchor of a cell."""


class Detector(Protocol):
    """A model that detects objects, in four verbs.

        inputs = detector.preprocess(batch.inputs)
        predictions = detector.predict(inputs, training=True, groundtruth=batch.groundtruth, seed=seed)
        losses = detector.loss(predictions, batch.groundtruth)
        detections = detector.postprocess(predictions, inputs)

    It has no state beyond its variables, all of which exist after construction.
    """

    feature_extractor: Any
    """Images -> pyramid; its `backbone` is what weights of classifiers are for."""
    variables: Sequence[tf.Variable]
    trainable_variables: Sequence[tf.Variable]

    @property
    def loss_names(self) -> tuple[str, ...]:
        """The names that `loss` returns, in their order."""

    @property
    def statistic_names(self) -> tuple[str, ...]:
        """The names of what `loss` measures on the way, in their order; see `modeling.statistics`."""

    def preprocess(self, inputs: Inputs) -> Inputs:
        """Normalizes pixels as the backbone wants them.

        Args:
            inputs: images of any number type in [0, 255], already resized.

        Returns:
            The same with float32 images.
        """

    def predict(
        self,
        inputs: Inputs,
        *,
        training: bool,
        groundtruth: Groundtruth | None = None,
        seed: tf.Tensor | None = None,
    ) -> Predictions:
        """Runs the network.

        Args:
            inputs: of `preprocess`.
            training: batch normalization uses the batch's statistics, and heads see what they train on.
            groundtruth: needed in training by detectors whose heads train on RoIs.
            seed: [2] int32 for every random choice of a train step; zeros when None.
        """

    def loss(
        self, predictions: Predictions, groundtruth: Groundtruth, measured: Statistics | None = None
    ) -> dict[str, tf.Tensor]:
        """Computes each image's share of every loss, [B] float32; the loss of a batch is its mean.

        Predictions made outside of training have the losses of all their proposals.

        Args:
            predictions: of a batch.
            groundtruth: of the same batch.
            measured: takes what `statistic_names` names, on which no loss depends; None = nothing is measured.
        """

    def regularization_loss(self) -> tf.Tensor:
        """Computes what the weights cost by themselves, a scalar float32; no image has a share in it."""

    def postprocess(self, predictions: Predictions, inputs: Inputs) -> Detections:
        """Turns predictions into detections, in the frame of the resized image without its padding."""

    def restorable_parts(self, kind: str) -> tuple[str, ...] | None:
        """Says what a checkpoint gives this detector when it is fine-tuned.

        Args:
            kind: "classification", "detection" or "full", as `train_config.fine_tune_checkpoint_type`.

        Returns:
            Beginnings of the paths of variables; None = all variables.
        """

    def class_columns(self) -> dict[str, ClassColumns]:
        """Says which layers predict classes or something of each class, by their paths in a checkpoint."""


def mean_losses(
    detector: Detector, predictions: Predictions, groundtruth: Groundtruth, measured: Statistics | None = None
) -> dict[str, tf.Tensor]:
    """The losses of a batch, scalars: the mean of each over the images, and last the regularization of the weights.

    The other arguments are those of `Detector.loss`.
    """
    losses = detector.loss(predictions, groundtruth, *(() if measured is None else (measured,)))
    means = {name: tf.reduce_mean(losses[name]) for name in detector.loss_names}
    return means | {REGULARIZATION_LOSS: detector.regularization_loss()}
