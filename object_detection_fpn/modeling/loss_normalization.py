"""What the losses of an image's samples, summed, are divided by."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

LossNormalization = Literal["PER_IMAGE", "BATCH", "CONFIGURED"]
"""Names of the config language, see `protos/losses.proto`."""

MatchNormalization = Literal["NUM_MATCHES", "PER_IMAGE", "MOVING_AVERAGE", "NONE"]
"""Names of the config language, see `Ssd` in `protos/ssd.proto`."""

FIRST_AVERAGE = 100.0  # of "MOVING_AVERAGE" before the first step, as in Detectron2
_KEPT_AVERAGE = 0.9  # share of it that a step keeps, as in Detectron2


def divisor(
    num_samples: tf.Tensor, normalization: LossNormalization, *, num_configured: int, is_batch: bool
) -> tf.Tensor:
    """Chooses what each image's sum of losses is divided by, so that the mean over images is the batch's loss.

    Args:
        num_samples: [B] float32, samples of each image.
        normalization: "PER_IMAGE": its own samples. "BATCH": the mean over the images, so that the batch's loss is a mean over
            all samples. "CONFIGURED": `num_configured`.
        num_configured: samples that were asked for in each image.
        is_batch: whether the images train together. Otherwise each counts as a batch of its own.

    Returns:
        [B] float32, above 0.
    """
    if normalization == "CONFIGURED":
        return tf.fill(tf.shape(num_samples), float(num_configured))
    if normalization == "PER_IMAGE" or not is_batch:
        return tf.maximum(num_samples, 1.0)
    num_images = tf.cast(tf.size(num_samples), tf.float32)
    return tf.ones_like(num_samples) * (tf.maximum(tf.reduce_sum(num_samples), 1.0) / num_images)


def divisor_of_matches(
    num_matches: tf.Tensor,
    normalization: MatchNormalization,
    *,
    is_batch: bool,
    average: tf.Variable | None = None,
) -> tf.Tensor:
    """Chooses what each image's sum of losses of all anchors is divided by, so that the mean over images is the batch's loss.

    Args:
        num_matches: [B] float32, anchors of each image that are objects, each counted with the weight of its box.
        normalization: "PER_IMAGE": the image's own matches. "NUM_MATCHES": the sum of losses of the batch is divided by the
            matches of the batch. "MOVING_AVERAGE": it is divided by the average of such numbers of the steps so far. "NONE": it
            is not divided.
        is_batch: whether the images train together. Otherwise each counts as a batch of its own, and the average stays.
        average: [] float32 variable for "MOVING_AVERAGE".

    Returns:
        [B] float32, above 0.

    Raises:
        ValueError: if `average` is missing.
    """
    if normalization == "PER_IMAGE" or (normalization == "NUM_MATCHES" and not is_batch):
        return tf.maximum(num_matches, 1.0)
    of_batch = tf.maximum(tf.reduce_sum(num_matches), 1.0)
    if normalization == "MOVING_AVERAGE":
        if average is None:
            raise ValueError("The normalization MOVING_AVERAGE needs average, a variable.")
        kept = tf.convert_to_tensor(average)
        of_batch = _KEPT_AVERAGE * kept + (1.0 - _KEPT_AVERAGE) * of_batch if is_batch else kept
        if is_batch:
            average.assign(of_batch)
    elif normalization == "NONE":
        of_batch = tf.ones_like(of_batch)
    num_images = tf.cast(tf.size(num_matches), tf.float32) if is_batch else 1.0
    return tf.ones_like(num_matches) * (of_batch / num_images)
