"""Compares RetinaNet with numbers that the Object Detection API computed, as `parity.py` does.

    python benchmarks/parity_retinanet.py [--golden tests/golden]

Of the detections, at most 1 % may have no partner. The other tolerances are those of `parity.py`: 1e-3 for raw outputs and
boxes, 1e-4 for scores and losses, and 1e-3 of a loss where batch normalization uses the statistics of the batch. Targets and
losses of single anchors are compared to 1e-5 of an array's largest magnitude.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import parity
import tensorflow as tf
from parity import Difference, Differences, WholeModel

from object_detection_fpn.modeling import layers, targets
from object_detection_fpn.modeling.detector import mean_losses
from object_detection_fpn.ops import losses as loss_ops
from object_detection_fpn.records import Groundtruth, Predictions

ARCHIVE = "retinanet_resnet50_160"

_RAW, _BOX, _SCORE = 1e-3, 1e-3, 1e-4
_RELATIVE_SUM = 1e-6
_RELATIVE_LOSS = {"losses": 1e-4, "losses_learning_phase": 1e-3}
_WITHOUT_PARTNER = 0.01
_TRAINING_OUTPUTS = {"losses": "train", "losses_learning_phase": "phase"}

_difference = parity._difference


def load_model(golden: Path) -> WholeModel:
    """The model, run once."""
    return parity.load_whole_model(golden, ARCHIVE, ())


def compare_inference(golden: Path) -> Differences:
    """Everything from the preprocessed images to the detections, by the names of the reference."""
    model = load_model(golden)
    expected, outputs, detections = model.expected, model.predictions.dense, model.detections
    total = expected["preprocessed_sum"]
    result = {
        "preprocessed_sum": _difference(
            np.sum(model.inputs.images, dtype=np.float64), total, _RELATIVE_SUM * abs(total)
        ),
        **{
            f"fpn_{level}": _difference(features[..., ::16], expected[f"fpn_{level}"], _RAW)
            for level, features in enumerate(model.predictions.pyramid)
        },
        # Pixels here, shares of the padded image there.
        "anchors": _difference(outputs.anchors / model.inputs.images.shape[1], expected["anchors"], _RAW),
        "box_encodings": _difference(outputs.box_deltas, expected["box_encodings"], _RAW),
        "class_predictions_with_background": _difference(
            outputs.class_logits, expected["class_predictions_with_background"], _RAW
        ),
        "out_raw_detection_boxes": _difference(detections.raw_boxes, expected["out_raw_detection_boxes"], _BOX),
        "out_raw_detection_scores": _difference(
            detections.raw_class_scores, expected["out_raw_detection_scores"], _SCORE
        ),
        "out_num_detections": _difference(detections.num_detections, expected["out_num_detections"], 0.0),
    }
    images = [_compare_detections(model, i) for i in range(len(expected["out_num_detections"]))]
    for name in images[0]:
        largest = np.max([image[name].value for image in images])  # NaN if any is
        result[name] = Difference(float(largest), images[0][name].tolerance)
    return result


def _compare_detections(model: WholeModel, image: int) -> Differences:
    """Detections that have a partner of their class, and the share of those that have none."""
    found = type(model.detections)(*(v if v is None else v[image].numpy() for v in model.detections))
    wanted = {name: array[image] for name, array in model.expected.items() if name.startswith("out_detection")}
    rows, _ = parity.match_boxes(
        found.boxes, wanted["out_detection_boxes"], found.classes, wanted["out_detection_classes"]
    )
    distance = np.abs(found.boxes[rows] - wanted["out_detection_boxes"]).max(-1)
    has_partner = (rows >= 0) & (distance <= _BOX)
    kept = {name: array[has_partner] for name, array in wanted.items()}
    partners = rows[has_partner]
    return {
        "detections_without_partner": Difference(1.0 - float(np.mean(has_partner)), _WITHOUT_PARTNER),
        "out_detection_boxes": _difference(found.boxes[partners], kept["out_detection_boxes"], _BOX),
        "out_detection_classes": _difference(found.classes[partners], kept["out_detection_classes"], 0.0),
        "out_detection_scores": _difference(found.scores[partners], kept["out_detection_scores"], _SCORE),
        "out_detection_multiclass_scores": _difference(
            found.class_scores[partners], kept["out_detection_multiclass_scores"], _SCORE
        ),
        # Rows of anchors, which have the same order here and there.
        "out_detection_anchor_indices": _difference(
            found.roi_indices[partners], kept["out_detection_anchor_indices"], 0.0
        ),
    }


def compare_losses(golden: Path, *, name: str) -> Differences:
    """Training mode: the outputs and the losses.

    Args:
        golden: folder of the reference.
        name: "losses", with moving statistics, or "losses_learning_phase", with those of the batch.
    """
    model = load_model(golden)
    detector, norms = model.detector, [m for m in model.detector.submodules if isinstance(m, layers.BatchNorm)]
    groundtruth = _read_groundtruth(model)
    before = [(norm, norm.freeze_statistics, norm.get_weights()) for norm in norms]
    if name == "losses":
        for norm in norms:
            norm.freeze_statistics = True
    predictions = detector.predict(model.inputs, training=True, groundtruth=groundtruth)
    losses = mean_losses(detector, predictions, groundtruth)
    for norm, is_frozen, weights in before:
        norm.freeze_statistics = is_frozen
        norm.set_weights(weights)
    wanted = json.loads((model.folder / f"{name}.json").read_text())
    if losses.keys() != wanted.keys():
        raise ValueError(f"The losses are {sorted(losses)}, those of the reference {sorted(wanted)}.")
    result = _compare_training_outputs(model, predictions, _TRAINING_OUTPUTS[name])
    return result | {
        key: _difference(losses[key], value, _RELATIVE_LOSS[name] * abs(value)) for key, value in wanted.items()
    }


def _compare_training_outputs(model: WholeModel, predictions: Predictions, prefix: str) -> Differences:
    stored = np.load(model.folder / "train.npz")
    logits = f"{prefix}_class_predictions_with_background"
    return {
        f"{prefix}_box_encodings": _difference(predictions.dense.box_deltas, stored[f"{prefix}_box_encodings"], _RAW),
        logits: _difference(predictions.dense.class_logits, stored[logits], _RAW),
    }


def _read_groundtruth(model: WholeModel) -> Groundtruth:
    stored = np.load(model.folder / "train.npz")
    boxes = tf.constant(stored["groundtruth_boxes"] * float(model.inputs.images.shape[1]))
    return Groundtruth(
        boxes=boxes,
        classes=tf.constant(stored["groundtruth_classes"].argmax(-1), tf.int32),
        num_boxes=tf.fill([boxes.shape[0]], boxes.shape[1]),
        weights=tf.constant(stored["groundtruth_weights"]),
        is_crowd=tf.zeros(boxes.shape[:2], tf.bool),
    )


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
            result[f"{name}{suffix}"] = _difference(value[0], stored[f"{name}{suffix}"])
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
        result[name] = _difference(loss(tf.constant(logits), tf.constant(class_targets)) * class_weights, wanted)
    of_boxes = {
        "localization_smooth_l1": loss_ops.SmoothL1(),
        "localization_smooth_l1_delta": loss_ops.SmoothL1(delta=0.111),
    }
    deltas = tf.constant(stored["encodings"]), tf.constant(stored["reg_targets"][np.newaxis])
    for name, loss in of_boxes.items():
        result[name] = _difference(loss(*deltas, deltas[0]) * box_weights, stored[name])
    giou = loss_ops.generalized_iou_loss(tf.constant(stored["boxes_predicted"]), tf.constant(stored["boxes_target"]))
    return result | {"localization_giou": _difference(giou * box_weights, stored["localization_giou"])}


COMPARISONS: dict[str, Callable[[Path], Differences]] = {
    "retinanet_targets_losses": compare_targets_and_losses,
    f"{ARCHIVE}/inference": compare_inference,
    **{f"{ARCHIVE}/{name}": functools.partial(compare_losses, name=name) for name in _RELATIVE_LOSS},
}
"""One for each file of the reference."""


if __name__ == "__main__":
    parity.COMPARISONS = COMPARISONS
    parity.FURTHER = ()
    sys.exit(parity.main())
