"""Compares Faster R-CNN and Mask R-CNN on one level with numbers that the Object Detection API computed, as `parity.py` does.

    python benchmarks/parity_single_level.py [--golden tests/golden]

Of the detections, at most 1 % may have no partner. The other tolerances are those of `parity.py`: 1e-3 for raw outputs, logits
of masks among them, and boxes, 1e-4 for scores and losses, and 1e-3 of a loss where batch normalization uses the statistics of
the batch.
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
from google.protobuf import text_format
from parity import Difference, Differences, WholeModel

from object_detection_fpn import builder
from object_detection_fpn.modeling import layers
from object_detection_fpn.modeling.detector import mean_losses
from object_detection_fpn.protos import anchor_generator_pb2
from object_detection_fpn.records import Groundtruth

ARCHIVES = ("frcnn_resnet50_160", "mask_rcnn_resnet50_160")

_RAW, _BOX, _SCORE = 1e-3, 1e-3, 1e-4
_RELATIVE_SUM = 1e-6
_RELATIVE_LOSS = {"losses": 1e-4, "losses_learning_phase": 1e-3}
_WITHOUT_PARTNER = 0.01
_MASK_EVERY = 4  # of the rows of detections, the reference has the logits of every fourth
_WHOLE = 255  # what a stored cell of a mask holds that lies in the object

_difference = parity._difference


def compare_grid_anchors(golden: Path) -> Differences:
    """Anchors of one map, built from the messages that the reference quotes."""
    stored = np.load(golden / "grid_anchors.npz")
    specs = json.loads((golden / "grid_anchors.json").read_text())
    result = {}
    for case, spec in enumerate(spec for spec in specs if "config" in spec):
        message = text_format.Parse(spec["config"], anchor_generator_pb2.AnchorGenerator().grid_anchor_generator)
        generator = anchor_generator_pb2.AnchorGenerator(grid_anchor_generator=message)
        generate, per_cell = builder.build_anchor_generator(generator)
        name = f"anchors_{case}"
        result[name] = _difference(generate([tuple(spec["feature_map"])], origin=0.0), stored[name])
        result[f"{name}.per_location"] = _difference([per_cell], spec["per_location"])
    return result


def load_model(golden: Path, archive: str) -> WholeModel:
    """The model of one of `ARCHIVES`, run once."""
    return parity.load_whole_model(golden, archive, ())


def compare_inference(golden: Path, *, archive: str) -> Differences:
    """Everything from the preprocessed images to the detections, by the names of the reference."""
    model = load_model(golden, archive)
    expected, rpn = model.expected, model.predictions.rpn
    total = expected["preprocessed_sum"]
    (features,) = model.predictions.pyramid
    head = model.detector.rpn.head
    result = {
        "preprocessed_sum": _difference(
            np.sum(model.inputs.images, dtype=np.float64), total, _RELATIVE_SUM * abs(total)
        ),
        "rpn_features": _difference(features[..., ::16], expected["rpn_features"], _RAW),
        "rpn_box_predictor_features": _difference(
            head.activation(head.conv(features))[..., ::16], expected["rpn_box_predictor_features"], _RAW
        ),
        "anchors": _difference(rpn.anchors, expected["anchors"], _RAW),
        "rpn_box_encodings": _difference(rpn.box_deltas, expected["rpn_box_encodings"], _RAW),
        "rpn_objectness": _difference(rpn.objectness_logits, expected["rpn_objectness"], _RAW),
        "second_num_proposals": _difference(model.predictions.rois.num_proposals, expected["second_num_proposals"]),
        "out_num_detections": _difference(model.detections.num_detections, expected["out_num_detections"], 0.0),
    }
    features_mean = tf.reduce_mean(model.predictions.box.cell_features, axis=[2, 3])
    return result | compare_images(model, features_of_rois(model, features_mean))


def compare_images(model: WholeModel, of_rois: dict[str, np.ndarray]) -> Differences:
    """The largest differences of the images: of what belongs to RoIs, [B, R, ...], and of detections."""
    logits = _mask_logits(model) if "third_mask_predictions" in model.expected else None
    images = [
        {**_compare_rois(model, of_rois, i), **_compare_detections(model, logits, i)}
        for i in range(len(model.expected["out_num_detections"]))
    ]
    largest = {name: np.max([image[name].value for image in images]) for name in images[0]}  # NaN if any is
    return {name: Difference(float(value), images[0][name].tolerance) for name, value in largest.items()}


def features_of_rois(model: WholeModel, features_mean: tf.Tensor) -> dict[str, np.ndarray]:
    """What the reference says of each RoI, [B, R, ...]; the mean over its cells of what predictors see, [B, R, U], is given."""
    predictions = model.predictions
    side = np.tile(model.inputs.images.shape[1:3], 2)
    found = {
        "second_proposal_boxes": predictions.rois.boxes,
        "second_proposal_boxes_normalized": predictions.rois.boxes / side,
        "second_class_predictions_with_background": predictions.box.class_logits,
        "second_refined_box_encodings": predictions.box.box_deltas,
        "second_box_classifier_features_mean": features_mean[..., ::16],
        "out_raw_detection_boxes": model.detections.raw_boxes,
        "out_raw_detection_scores": model.detections.raw_class_scores,
    }
    return {name: np.asarray(value) for name, value in found.items()}


def _compare_rois(model: WholeModel, found: dict[str, np.ndarray], image: int) -> Differences:
    """Proposals, which come in another order where scores are nearly equal, and all that belongs to them."""
    num_images = len(found["second_proposal_boxes"])
    # The reference has some of the arrays of all images in one row.
    wanted = {name: model.expected[name].reshape(num_images, -1, *of.shape[2:])[image] for name, of in found.items()}
    name = "second_proposal_boxes_normalized"
    rows, distance = parity.match_boxes(found[name][image], wanted[name])
    tolerances = {"second_proposal_boxes": _BOX * model.inputs.images.shape[1], "out_raw_detection_scores": _SCORE}
    result = {
        name: _difference(of[image][rows], wanted[name], tolerances.get(name, _RAW)) for name, of in found.items()
    }
    return result | {name: Difference(distance, _BOX)}


def _mask_logits(model: WholeModel) -> np.ndarray:
    """Logits of the masks of all classes, [B, D, C, M, M], where `postprocess` has those of a class."""
    branch, predictions = model.detector._masks, model.predictions
    size = tf.cast(model.inputs.true_shapes[:, tf.newaxis, :2], tf.float32)
    boxes = model.detections.boxes * tf.tile(size, [1, 1, 2])
    features = model.detector._pool_for_masks(predictions, boxes)
    classes = range(branch.head.num_masks)
    of_classes = [branch.head(features, tf.fill(boxes.shape[:2], label), training=False) for label in classes]
    return np.stack(of_classes, axis=2)


def _compare_detections(model: WholeModel, logits: np.ndarray | None, image: int) -> Differences:
    """Detections that have a partner of their class, and the share of those that have none."""
    found = type(model.detections)(*(v if v is None else v[image].numpy() for v in model.detections))
    wanted = {name: array[image] for name, array in model.expected.items() if name.startswith("out_detection")}
    rows, _ = parity.match_boxes(
        found.boxes, wanted["out_detection_boxes"], found.classes, wanted["out_detection_classes"]
    )
    distance = np.abs(found.boxes[rows] - wanted["out_detection_boxes"]).max(-1)
    has_partner = (rows >= 0) & (distance <= _BOX)
    kept = {name: array[has_partner] for name, array in wanted.items()}
    boxes = model.predictions.rois.boxes[image].numpy()
    partners = rows[has_partner]
    result = {
        "detections_without_partner": Difference(1.0 - float(np.mean(has_partner)), _WITHOUT_PARTNER),
        "out_detection_boxes": _difference(found.boxes[partners], kept["out_detection_boxes"], _BOX),
        "out_detection_classes": _difference(found.classes[partners], kept["out_detection_classes"], 0.0),
        "out_detection_scores": _difference(found.scores[partners], kept["out_detection_scores"], _SCORE),
        "out_detection_multiclass_scores": _difference(
            found.class_scores[partners], kept["out_detection_multiclass_scores"], _SCORE
        ),
        # Rows of proposals, which have an order of their own here: the same region is what they should name.
        "out_detection_anchor_indices": _difference(
            boxes[found.roi_indices[partners]],
            model.expected["second_proposal_boxes"][image][kept["out_detection_anchor_indices"]],
            _BOX * model.inputs.images.shape[1],
        ),
    }
    if logits is None:
        return result
    stored = model.expected["third_mask_predictions"]
    of_image = stored[image * len(stored) // 2 : (image + 1) * len(stored) // 2]
    has_logits = has_partner[::_MASK_EVERY]
    return result | {
        "out_detection_masks": _difference(found.masks[partners], kept["out_detection_masks"], _RAW),
        "third_mask_predictions": _difference(
            logits[image][rows[::_MASK_EVERY][has_logits]], of_image[has_logits], _RAW
        ),
    }


def compare_losses(golden: Path, *, archive: str, name: str) -> Differences:
    """Training mode, in which samplers take everything.

    Args:
        golden: folder of the reference.
        archive: one of `ARCHIVES`.
        name: "losses", with moving statistics, or "losses_learning_phase", with those of the batch where the config says so.
    """
    return losses_of(load_model(golden, archive), name)


def losses_of(model: WholeModel, name: str) -> Differences:
    """Those of `compare_losses`; statistics of batch normalizations are afterwards what they were."""
    detector, norms = model.detector, [m for m in model.detector.submodules if isinstance(m, layers.BatchNorm)]
    groundtruth = _read_groundtruth(model)
    before = [(norm, norm.freeze_statistics, norm.get_weights()) for norm in norms]
    attention = detector.context_attention  # which uses the statistics of the batch in both
    of_attention = set() if attention is None else {id(module) for module in attention.submodules}
    if name == "losses":
        for norm in norms:
            norm.freeze_statistics = id(norm) not in of_attention
    predictions = detector.predict(model.inputs, training=True, groundtruth=groundtruth)
    losses = mean_losses(detector, predictions, groundtruth)
    for norm, is_frozen, weights in before:
        norm.freeze_statistics = is_frozen
        norm.set_weights(weights)
    wanted = json.loads((model.folder / f"{name}.json").read_text())
    if losses.keys() != wanted.keys():
        raise ValueError(f"The losses are {sorted(losses)}, those of the reference {sorted(wanted)}.")
    return {key: _difference(losses[key], value, _RELATIVE_LOSS[name] * abs(value)) for key, value in wanted.items()}


def _read_groundtruth(model: WholeModel) -> Groundtruth:
    stored = np.load(model.folder / "train.npz")
    boxes = tf.constant(stored["groundtruth_boxes"] * float(model.inputs.images.shape[1]))
    groundtruth = Groundtruth(
        boxes=boxes,
        classes=tf.constant(stored["groundtruth_classes"].argmax(-1), tf.int32),
        num_boxes=tf.fill([boxes.shape[0]], boxes.shape[1]),
        weights=tf.constant(stored["groundtruth_weights"]),
        is_crowd=tf.zeros(boxes.shape[:2], tf.bool),
    )
    if "groundtruth_masks" not in stored:
        return groundtruth
    masks = tf.constant(stored["groundtruth_masks"] * _WHOLE)
    frame = tf.constant([0.0, 0.0, *model.inputs.images.shape[1:3]])
    return groundtruth._replace(masks=masks, mask_frames=tf.broadcast_to(frame, boxes.shape))


def _comparisons(archive: str) -> dict[str, Callable[[Path], Differences]]:
    return {
        f"{archive}/inference": functools.partial(compare_inference, archive=archive),
        **{
            f"{archive}/{name}": functools.partial(compare_losses, archive=archive, name=name)
            for name in _RELATIVE_LOSS
        },
    }


COMPARISONS = {
    "grid_anchors": compare_grid_anchors,
    **{name: compare for archive in ARCHIVES for name, compare in _comparisons(archive).items()},
}
"""One for each file of the reference."""


if __name__ == "__main__":
    parity.COMPARISONS = COMPARISONS
    parity.FURTHER = ()
    sys.exit(parity.main())
