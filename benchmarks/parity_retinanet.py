"""Compares RetinaNet with numbers that the Object Detection API computed, as `parity.py` does.

    python benchmarks/parity_retinanet.py [--golden tests/golden]

Of the detections, at most 1 % may have no partner. The other tolerances are those of `parity.py`: 1e-3 for raw outputs and
boxes, 1e-4 for scores and losses, and 1e-3 of a loss where batch normalization uses the statistics of the batch. Targets and
losses of single anchors are compared to 1e-5 of an array's largest magnitude.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import _parity
import numpy as np
import tensorflow as tf
from _parity import (
    BOX,
    RAW,
    RELATIVE_LOSS,
    SCORE,
    Differences,
    WholeModel,
    compare_inputs_and_pyramid,
    difference,
    largest,
    load_whole_model,
    pair_detections,
)

from object_detection_fpn.modeling import targets
from object_detection_fpn.ops import losses as loss_ops
from object_detection_fpn.records import Groundtruth, Predictions

ARCHIVE = "retinanet_resnet50_160"

_TRAINING_OUTPUTS = {"losses": "train", "losses_learning_phase": "phase"}


def load_model(golden: Path) -> WholeModel:
    """The model, run once."""
    return load_whole_model(golden, ARCHIVE)


def compare_inference(golden: Path) -> Differences:
    """Everything from the preprocessed images to the detections, by the names of the reference."""
    model = load_model(golden)
    expected, outputs, detections = model.expected, model.predictions.dense, model.detections
    compared = {
        # Pixels here, shares of the padded image there.
        "anchors": (outputs.anchors / model.inputs.images.shape[1], RAW),
        "box_encodings": (outputs.box_deltas, RAW),
        "class_predictions_with_background": (outputs.class_logits, RAW),
        "out_raw_detection_boxes": (detections.raw_boxes, BOX),
        "out_raw_detection_scores": (detections.raw_class_scores, SCORE),
    }
    return {
        **compare_inputs_and_pyramid(model),
        **{name: difference(array, expected[name], tolerance) for name, (array, tolerance) in compared.items()},
        **largest([_compare_detections(model, i) for i in range(model.num_images)]),
    }


def _compare_detections(model: WholeModel, image: int) -> Differences:
    """Detections that have a partner of their class, and the share of those that have none."""
    pairs, name = pair_detections(model, image), "out_detection_anchor_indices"
    # Rows of anchors, which have the same order here and there.
    indices = model.detections_of(image).roi_indices[pairs.found]
    return pairs.differences | {name: difference(indices, model.expected[name][image][pairs.has_partner], 0.0)}


def compare_losses(golden: Path, *, name: str) -> Differences:
    """Training mode: the outputs and the losses.

    Args:
        golden: folder of the reference.
        name: "losses", with moving statistics, or "losses_learning_phase", with those of the batch.
    """
    model = load_model(golden)
    losses, predictions = _parity.compare_losses(model, name)
    return losses | _compare_training_outputs(model, predictions, _TRAINING_OUTPUTS[name])


def _compare_training_outputs(model: WholeModel, predictions: Predictions, prefix: str) -> Differences:
    stored = np.load(model.folder / "train.npz")
    logits = f"{prefix}_class_predictions_with_background"
    return {
        f"{prefix}_box_encodings": difference(predictions.dense.box_deltas, stored[f"{prefix}_box_encodings"], RAW),
        logits: difference(predictions.dense.class_logits, stored[logits], RAW),
    }


def compare_targets_and_losses(golden: Path) -> Differences:
    """Targets of single anchors, with forced matches or with a zone that is ignored, and their losses."""
    stored = np.load(golden / "retinanet_targets_losses.npz")
    labels = stored["groundtruth_labels_with_background"]
    groundtruth = Groundtruth(
        boxes=tf.constant(stored["groundtruth_boxes"][np.newaxis]),
        classes=tf.constant(labels[np.newaxis, :, 1:].argmax(-1), tf.int32),
        num_boxes=tf.constant([len(labels)]),
        weights=tf.constant(stored["groundtruth_weights"][np.newaxis]),
        is_crowd=tf.zeros([1, len(labels)], tf.bool),
    )
    cases = {
        "": targets.AnchorMatcher(force_match=True),
        "_ignore": targets.AnchorMatcher(unmatched_threshold=0.4),
    }
    result: Differences = {}
    for suffix, matcher in cases.items():
        found = matcher(tf.constant(stored["anchors"]), groundtruth)
        num_columns = labels.shape[-1]
        is_object = (found.matches >= 0)[..., tf.newaxis]
        of_anchors = {
            "match": found.matches,
            "cls_targets": tf.where(is_object, tf.one_hot(found.classes, num_columns), 0.0),
            "cls_weights": tf.repeat(found.class_weights[..., tf.newaxis], num_columns, axis=-1),
            "reg_targets": found.box_deltas,
            "reg_weights": found.box_weights,
        }
        for name, value in of_anchors.items():
            result[f"{name}{suffix}"] = difference(value[0], stored[f"{name}{suffix}"])
    first = cases[""](tf.constant(stored["anchors"]), groundtruth)
    return result | _compare_single_losses(stored, first.class_weights, first.box_weights)


def _compare_single_losses(stored: dict, class_weights: tf.Tensor, box_weights: tf.Tensor) -> Differences:
    """Losses of each anchor, of classes summed over their columns."""
    logits, class_targets = stored["logits"], stored["cls_targets"][np.newaxis]
    of_classes = {
        "classification_focal": functools.partial(loss_ops.sigmoid_focal_loss, gamma=2.0, alpha=0.25),
        "classification_focal_no_alpha": functools.partial(loss_ops.sigmoid_focal_loss, gamma=1.5),
        "classification_sigmoid": loss_ops.sigmoid_cross_entropy,
        "classification_softmax": functools.partial(loss_ops.softmax_cross_entropy, logit_scale=2.0),
    }
    result = {}
    for name, loss in of_classes.items():
        wanted = stored[name] if stored[name].ndim == 2 else stored[name].sum(-1)
        result[name] = difference(loss(tf.constant(logits), tf.constant(class_targets)) * class_weights, wanted)
    of_boxes = {
        "localization_smooth_l1": loss_ops.SmoothL1(),
        "localization_smooth_l1_delta": loss_ops.SmoothL1(delta=0.111),
    }
    deltas = tf.constant(stored["encodings"]), tf.constant(stored["reg_targets"][np.newaxis])
    for name, loss in of_boxes.items():
        result[name] = difference(loss(*deltas, deltas[0]) * box_weights, stored[name])
    giou = loss_ops.generalized_iou_loss(tf.constant(stored["boxes_predicted"]), tf.constant(stored["boxes_target"]))
    return result | {"localization_giou": difference(giou * box_weights, stored["localization_giou"])}


COMPARISONS: dict[str, Callable[[Path], Differences]] = {
    "retinanet_targets_losses": compare_targets_and_losses,
    f"{ARCHIVE}/inference": compare_inference,
    **{f"{ARCHIVE}/{name}": functools.partial(compare_losses, name=name) for name in RELATIVE_LOSS},
}
"""One for each file of the reference."""


if __name__ == "__main__":
    sys.exit(_parity.main(COMPARISONS, __doc__))
