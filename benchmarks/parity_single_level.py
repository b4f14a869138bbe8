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

import _parity
import numpy as np
import tensorflow as tf
from _parity import (
    BOX,
    RAW,
    RELATIVE_LOSS,
    SCORE,
    Difference,
    Differences,
    WholeModel,
    compare_inputs_and_pyramid,
    compare_rpn,
    difference,
    largest,
    load_whole_model,
    match_boxes,
    pair_detections,
)
from google.protobuf import text_format

from object_detection_fpn import builder
from object_detection_fpn.protos import anchor_generator_pb2

ARCHIVES = ("frcnn_resnet50_160", "mask_rcnn_resnet50_160")

_MASK_EVERY = 4  # of the rows of detections, the reference has the logits of every fourth


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
        result[name] = difference(generate([tuple(spec["feature_map"])], origin=0.0), stored[name])
        result[f"{name}.per_location"] = difference([per_cell], spec["per_location"])
    return result


def load_model(golden: Path, archive: str) -> WholeModel:
    """The model of one of `ARCHIVES`, run once."""
    return load_whole_model(golden, archive)


def compare_inference(golden: Path, *, archive: str) -> Differences:
    """Everything from the preprocessed images to the detections, by the names of the reference."""
    model = load_model(golden, archive)
    features_mean = tf.reduce_mean(model.predictions.box.cell_features, axis=[2, 3])
    of_images = compare_images(model, features_of_rois(model, features_mean))
    return {**compare_inputs_and_pyramid(model), **compare_rpn(model), **of_images}


def compare_images(model: WholeModel, of_rois: dict[str, np.ndarray]) -> Differences:
    """The largest differences of the images: of what belongs to RoIs, [B, R, ...], and of detections."""
    logits = _mask_logits(model) if "third_mask_predictions" in model.expected else None
    return largest(
        [{**_compare_rois(model, of_rois, i), **_compare_detections(model, logits, i)} for i in range(model.num_images)]
    )


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
    rows, distance = match_boxes(found[name][image], wanted[name])
    tolerances = {"second_proposal_boxes": BOX * model.inputs.images.shape[1], "out_raw_detection_scores": SCORE}
    result = {name: difference(of[image][rows], wanted[name], tolerances.get(name, RAW)) for name, of in found.items()}
    return result | {name: Difference(distance, BOX)}


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
    pairs, found = pair_detections(model, image), model.detections_of(image)
    rows, has_partner = pairs.rows, pairs.has_partner
    indices = model.expected["out_detection_anchor_indices"][image][has_partner]
    boxes = model.predictions.rois.boxes[image].numpy()
    result = pairs.differences | {
        # Rows of proposals, which have an order of their own here: the same region is what they should name.
        "out_detection_anchor_indices": difference(
            boxes[found.roi_indices[pairs.found]],
            model.expected["second_proposal_boxes"][image][indices],
            BOX * model.inputs.images.shape[1],
        ),
    }
    if logits is None:
        return result
    stored = model.expected["third_mask_predictions"]
    of_image = stored[image * len(stored) // 2 : (image + 1) * len(stored) // 2]
    has_logits = has_partner[::_MASK_EVERY]
    return result | {
        "out_detection_masks": difference(
            found.masks[pairs.found], model.expected["out_detection_masks"][image][has_partner], RAW
        ),
        "third_mask_predictions": difference(logits[image][rows[::_MASK_EVERY][has_logits]], of_image[has_logits], RAW),
    }


def compare_losses(golden: Path, *, archive: str, name: str) -> Differences:
    """Training mode, in which samplers take everything.

    Args:
        golden: folder of the reference.
        archive: one of `ARCHIVES`.
        name: "losses", with moving statistics, or "losses_learning_phase", with those of the batch where the config says so.
    """
    return _parity.compare_losses(load_model(golden, archive), name)[0]


def _comparisons(archive: str) -> dict[str, Callable[[Path], Differences]]:
    return {
        f"{archive}/inference": functools.partial(compare_inference, archive=archive),
        **{
            f"{archive}/{name}": functools.partial(compare_losses, archive=archive, name=name) for name in RELATIVE_LOSS
        },
    }


COMPARISONS = {
    "grid_anchors": compare_grid_anchors,
    **{name: compare for archive in ARCHIVES for name, compare in _comparisons(archive).items()},
}
"""One for each file of the reference."""


if __name__ == "__main__":
    sys.exit(_parity.main(COMPARISONS, __doc__))
