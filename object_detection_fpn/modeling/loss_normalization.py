"""What the losses of an image's samples, summed, are divided by."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

LossNormalization = Literal["PER_IMAGE", "BATCH", "CONFIGURED"]
"""Names of the config language, see `protos/losses.proto`."""


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
