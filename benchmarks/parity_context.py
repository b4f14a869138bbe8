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

import numpy as np
import parity
import parity_single_level
import tensorflow as tf
from parity import Differences, WholeModel

ARCHIVES = ("context_rcnn_resnet50_fpn_160", "context_rcnn_resnet50_160")
GROUPS = ("losses", "losses_learning_phase")

# The reference has the config of the API, whose records are sequences; no record is read here.
_OVERRIDES = ("train_input_reader.input_type=TF_EXAMPLE", "eval_input_reader[0].input_type=TF_EXAMPLE")

_RAW = 1e-3
_RELATIVE_SUM = 1e-6

_difference = parity._difference


def load_model(golden: Path, archive: str) -> WholeModel:
    """The model of one of `ARCHIVES`, run once."""
    return parity.load_whole_model(golden, archive, _OVERRIDES)


def compare_inference(golden: Path, *, archive: str) -> Differences:
    """Everything from the preprocessed images to the detections, by the names of the reference."""
    model = load_model(golden, archive)
    expected, predictions = model.expected, model.predictions
    total = expected["preprocessed_sum"]
    result = {
        "preprocessed_sum": _difference(
            np.sum(model.inputs.images, dtype=np.float64), total, _RELATIVE_SUM * abs(total)
        ),
        "anchors": _difference(predictions.rpn.anchors, expected["anchors"], _RAW),
        "rpn_box_encodings": _difference(predictions.rpn.box_deltas, expected["rpn_box_encodings"], _RAW),
        "rpn_objectness": _difference(predictions.rpn.objectness_logits, expected["rpn_objectness"], _RAW),
        "second_num_proposals": _difference(predictions.rois.num_proposals, expected["second_num_proposals"]),
        "out_num_detections": _difference(model.detections.num_detections, expected["out_num_detections"], 0.0),
        "context_values": _difference(predictions.context.values, expected["context_values"], _RAW),
    }
    if "rpn_features" in expected:
        (features,) = predictions.pyramid
        head = model.detector.rpn.head
        result["rpn_features"] = _difference(features[..., ::16], expected["rpn_features"], _RAW)
        result["rpn_box_predictor_features"] = _difference(
            head.activation(head.conv(features))[..., ::16], expected["rpn_box_predictor_features"], _RAW
        )
    else:
        for level, features in enumerate(predictions.pyramid):
            result[f"fpn_{level}"] = _difference(features[..., ::16], expected[f"fpn_{level}"], _RAW)
    seen = _box_features(model)  # before attention
    attended = {
        "context_box_features_pooled": seen[..., ::8],
        "context_attention_weights": predictions.context.weights,
        "context_attention_features": predictions.context.features[..., ::8],
    }
    of_rois = parity_single_level.features_of_rois(model, seen + predictions.context.features)
    of_rois |= {name: np.asarray(value) for name, value in attended.items()}
    return result | parity_single_level.compare_images(model, of_rois)


def _box_features(model: WholeModel) -> tf.Tensor:
    """[B, R, U]: the mean over the cells of each RoI of what attention sees, which is what the box head's layers make of it."""
    features = model.detector.box_head.extract(model.predictions.box.roi_features, training=False)
    return tf.reduce_mean(features, axis=[2, 3]) if features.shape.rank == 5 else features


def compare_losses(golden: Path, *, archive: str, name: str) -> Differences:
    """Training mode, in which samplers take everything; see `parity_single_level.compare_losses`."""
    return parity_single_level.losses_of(load_model(golden, archive), name)


def _comparisons(archive: str) -> dict[str, Callable[[Path], Differences]]:
    return {
        f"{archive}/inference": functools.partial(compare_inference, archive=archive),
        **{f"{archive}/{name}": functools.partial(compare_losses, archive=archive, name=name) for name in GROUPS},
    }


COMPARISONS = {name: compare for archive in ARCHIVES for name, compare in _comparisons(archive).items()}
"""One for each file of the reference."""


if __name__ == "__main__":
    parity.COMPARISONS = COMPARISONS
    parity.FURTHER = ()
    sys.exit(parity.main())
