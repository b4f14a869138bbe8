"""Compares Context R-CNN with numbers that the Object Detection API computed, as `parity.py` does.

    python benchmarks/parity_context.py [--golden tests/golden]

On a pyramid, where all regions are pooled from the finest level, and on one level. Tolerances are those of
`parity_single_level.py`; what attention finds counts as a raw output.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import _parity
import numpy as np
import parity_single_level
import tensorflow as tf
from _parity import (
    RAW,
    RELATIVE_LOSS,
    Differences,
    WholeModel,
    compare_inputs_and_pyramid,
    compare_rpn,
    difference,
    load_whole_model,
)

ARCHIVES = ("context_rcnn_resnet50_fpn_160", "context_rcnn_resnet50_160")

# The reference has the config of the API, whose records are sequences; no record is read here.
_OVERRIDES = ("train_input_reader.input_type=TF_EXAMPLE", "eval_input_reader[0].input_type=TF_EXAMPLE")


def load_model(golden: Path, archive: str) -> WholeModel:
    """The model of one of `ARCHIVES`, run once."""
    return load_whole_model(golden, archive, _OVERRIDES)


def compare_inference(golden: Path, *, archive: str) -> Differences:
    """Everything from the preprocessed images to the detections, by the names of the reference."""
    model = load_model(golden, archive)
    predictions = model.predictions
    values = difference(predictions.context.values, model.expected["context_values"], RAW)
    seen = _box_features(model)  # before attention
    attended = {
        "context_box_features_pooled": seen[..., ::8],
        "context_attention_weights": predictions.context.weights,
        "context_attention_features": predictions.context.features[..., ::8],
    }
    of_rois = parity_single_level.features_of_rois(model, seen + predictions.context.features)
    of_rois |= {name: np.asarray(value) for name, value in attended.items()}
    of_images = parity_single_level.compare_images(model, of_rois)
    return {**compare_inputs_and_pyramid(model), **compare_rpn(model), "context_values": values, **of_images}


def _box_features(model: WholeModel) -> tf.Tensor:
    """[B, R, U]: the mean over the cells of each RoI of what attention sees, which is what the box head's layers make of it."""
    features = model.detector.box_head.extract(model.predictions.box.roi_features, training=False)
    return tf.reduce_mean(features, axis=[2, 3]) if features.shape.rank == 5 else features


def compare_losses(golden: Path, *, archive: str, name: str) -> Differences:
    """Training mode, in which samplers take everything; see `_parity.compare_losses`."""
    return _parity.compare_losses(load_model(golden, archive), name)[0]


def _comparisons(archive: str) -> dict[str, Callable[[Path], Differences]]:
    return {
        f"{archive}/inference": functools.partial(compare_inference, archive=archive),
        **{
            f"{archive}/{name}": functools.partial(compare_losses, archive=archive, name=name) for name in RELATIVE_LOSS
        },
    }


COMPARISONS = {name: compare for archive in ARCHIVES for name, compare in _comparisons(archive).items()}
"""One for each file of the reference."""


if __name__ == "__main__":
    sys.exit(_parity.main(COMPARISONS, __doc__))
