"""Compares this package with numbers that the Object Detection API computed, array by array; JSON.

    python benchmarks/parity.py [--golden tests/golden]

Prints `{"within_tolerance": bool, "arrays": {name: {"max_abs_difference": x, "tolerance": y}}}` and ends with status 1 when
an array is out. Tolerances are absolute: for operations 1e-5 of the array's largest magnitude (float32), 0 for integers;
for raw outputs of the whole model 1e-3; for matched detections 1e-3 in boxes and 1e-4 in scores; for losses 1e-4 of the loss.
The tests run the same comparisons.
"""

from __future__ import annotations

import functools
import importlib
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
    SCORE,
    Difference,
    Differences,
    WholeModel,
    compare_inputs_and_pyramid,
    compare_rpn,
    difference,
    largest,
    load_whole_model,
    make_groundtruth,
    match_boxes,
    sum_difference,
)
from google.protobuf import text_format

from object_detection_fpn import builder
from object_detection_fpn.data import resize
from object_detection_fpn.modeling import targets
from object_detection_fpn.ops import anchors as anchor_ops
from object_detection_fpn.ops import box_coder
from object_detection_fpn.ops import crop_and_resize as crop_ops
from object_detection_fpn.protos import optimizer_pb2

ARCHIVE = "faster_rcnn_resnet50_fpn_160"
# The reference was computed without a learning phase: its batch norms used their moving statistics in training too.
_WITHOUT_LEARNING_PHASE = ("model.faster_rcnn.feature_extractor.batch_norm_trainable=false",)


# Operations -----------------------------------------------------------------------------------------------------------


def compare_anchors(golden: Path) -> Differences:
    """All rows that are stored, and sums over those that are not."""
    stored = np.load(golden / "ops" / "anchors.npz")
    result = {}
    for case, spec in enumerate(json.loads((golden / "ops" / "anchors.json").read_text())):
        height, width = spec["image_height"], spec["image_width"]
        levels = range(spec["min_level"], spec["max_level"] + 1)
        anchors = anchor_ops.multiscale_anchors(
            [(-(-height // 2**level), -(-width // 2**level)) for level in levels],
            min_level=spec["min_level"],
            anchor_scale=spec["anchor_scale"],
            aspect_ratios=spec["aspect_ratios"],
            scales_per_octave=spec["scales_per_octave"],
            image_size=(height, width) if spec["normalize_coordinates"] else None,
        ).numpy()
        per_cell = anchor_ops.num_anchors_per_cell(
            aspect_ratios=spec["aspect_ratios"], scales_per_octave=spec["scales_per_octave"]
        )
        name = f"anchors_{case}"
        result[name] = difference(anchors[:: spec["stored_every"]], stored[name])
        result[f"{name}.num_anchors"] = difference(len(anchors), spec["num_anchors"])
        result[f"{name}.per_location"] = difference([per_cell] * len(levels), spec["per_location"])
        for key, total in (("sum", anchors.sum(dtype=np.float64)), ("abs_sum", np.abs(anchors).sum(dtype=np.float64))):
            result[f"{name}.{key}"] = sum_difference(total, spec[key])
    return result


def compare_fpn_levels(golden: Path) -> Differences:
    """`levels_<number of levels>_<side of the image>`."""
    stored = np.load(golden / "ops" / "fpn_levels.npz")
    result = {}
    for name in stored:
        if name.startswith("levels_"):
            num_levels, side = map(int, name.split("_")[1:])
            levels = crop_ops.assign_levels(
                stored["boxes"], num_levels=num_levels, unit_level_index=num_levels - 2, size_ratio=side / 224
            )
            result[name] = difference(levels, stored[name])
    return result


def compare_crop_and_resize(golden: Path) -> Differences:
    """The API's "matmul" crops are what "static" computes here; its "native" ones, "native"."""
    stored = np.load(golden / "ops" / "crop_and_resize.npz")
    pyramid = [tf.constant(stored[f"feature_{level}"]) for level in range(4)]
    boxes, levels = tf.constant(stored["boxes"]), tf.constant(stored["levels"])
    crop = functools.partial(crop_ops.multilevel_crop_and_resize, pyramid, boxes, levels)
    crop_within = functools.partial(crop_ops.multilevel_crop_and_resize, pyramid, level_indices=levels, static=True)
    single = functools.partial(crop_ops.multilevel_crop_and_resize, pyramid[:1], boxes, tf.zeros_like(levels))
    actual = {
        "matmul_7x7": crop(crop_size=7, static=True),
        "matmul_14x14_extrapolate_0.5": crop(crop_size=14, static=True, extrapolation_value=0.5),
        "native_7x7": crop(crop_size=7),
        "roi_align_7x7_2x2samples": _mean_of_samples(crop_within, boxes, num_cells=7, samples_per_cell=2),
        "single_level_matmul_5x3": single(crop_size=(5, 3), static=True),
    }
    return {name: difference(crops, stored[name]) for name, crops in actual.items()}


def _mean_of_samples(
    crop: Callable[..., tf.Tensor], boxes: tf.Tensor, *, num_cells: int, samples_per_cell: int
) -> tf.Tensor:
    """RoIAlign in the API's coordinates: a crop that begins and ends half a sample within the box, averaged over each cell."""
    num_samples = num_cells * samples_per_cell
    inset = (boxes[..., 2:] - boxes[..., :2]) * (0.5 / num_samples)
    inner = tf.concat([boxes[..., :2] + inset, boxes[..., 2:] - inset], axis=-1)
    samples = crop(inner, crop_size=num_samples).numpy()
    cells = samples.reshape(*samples.shape[:2], num_cells, samples_per_cell, num_cells, samples_per_cell, -1)
    return tf.constant(cells.mean(axis=(3, 5)))


def compare_box_coder(golden: Path) -> Differences:
    """Both directions."""
    stored = np.load(golden / "ops" / "box_coder.npz")
    anchors = tf.constant(stored["anchors"])
    return {
        "scale_factors": difference(box_coder.DEFAULT_SCALES, stored["scale_factors"]),
        "encoded": difference(box_coder.encode(tf.constant(stored["boxes"]), anchors), stored["encoded"]),
        "decoded": difference(box_coder.decode(tf.constant(stored["codes"]), anchors), stored["decoded"]),
    }


def compare_targets(golden: Path, *, name: str) -> Differences:
    """Matching and encoding, for the RPN ("proposal") or the box head ("detection")."""
    stored = np.load(golden / "ops" / f"targets_{name}.npz")
    groundtruth = make_groundtruth(
        stored["groundtruth_boxes"][None], stored["groundtruth_labels"].argmax(-1)[None] - 1  # background first
    )  # fmt: skip
    boxes = tf.constant(stored["anchors"][None])
    if name == "proposal":
        sampler = targets.AnchorSampler()
        matches = targets.match(
            boxes,
            groundtruth,
            matched_threshold=sampler.matched_threshold,
            unmatched_threshold=sampler.unmatched_threshold,
            force_match=True,
        )
    else:
        matches = targets.RoISampler().match(boxes, groundtruth)
    encoded = targets.encode(boxes, matches, groundtruth, class_agnostic=name == "proposal")
    classes, weights = encoded.classes[0].numpy(), encoded.class_weights[0].numpy()
    if name == "detection":  # the API repeats classes and weights along an axis of classes
        classes, weights = np.eye(stored["cls_targets"].shape[1])[classes], weights[:, None]
    else:
        classes, weights = classes[:, None], weights[:, None]
    return {
        "match": difference(matches[0], stored["match"]),
        "cls_targets": difference(classes, stored["cls_targets"]),
        "cls_weights": difference(np.broadcast_to(weights, stored["cls_weights"].shape), stored["cls_weights"]),
        "reg_targets": difference(encoded.box_deltas[0], stored["reg_targets"]),
        "reg_weights": difference(encoded.box_weights[0], stored["reg_weights"]),
    }


def compare_resizers(golden: Path) -> Differences:
    """Pixels and true shapes."""
    stored = np.load(golden / "ops" / "resizers.npz")
    resizers = {
        "keep_aspect_pad": resize.keep_aspect_ratio(min_dimension=64, max_dimension=96, pad_to_max_dimension=True),
        "keep_aspect": resize.keep_aspect_ratio(min_dimension=60, max_dimension=100),
        "fixed": resize.fixed_shape(height=50, width=60),
    }
    result = {}
    for name, resizer in resizers.items():
        image, true_shape = resizer(tf.constant(stored["image"]))
        result[name] = difference(image, stored[name])
        result[f"{name}_true_shape"] = difference(true_shape, stored[f"{name}_true_shape"])
    return result


def compare_learning_rates(golden: Path) -> Differences:
    """Schedules, built from the messages that the reference quotes."""
    result = {}
    for name, entry in json.loads((golden / "learning_rates.json").read_text()).items():
        schedule = builder.build_learning_rate(text_format.Parse(entry["config"], optimizer_pb2.LearningRate()))
        rates = [float(schedule(tf.constant(step, tf.int64))) for step in entry["steps"]]
        result[name] = difference(rates, entry["learning_rate"])
    return result


# The whole model ------------------------------------------------------------------------------------------------------


def load_model(golden: Path) -> WholeModel:
    """The model, run once."""
    return load_whole_model(golden, ARCHIVE, _WITHOUT_LEARNING_PHASE)


def compare_inference(golden: Path) -> Differences:
    """Everything from the preprocessed images to the detections. What suppression ordered is matched by boxes."""
    model = load_model(golden)
    of_images = largest([_compare_image(model, i) for i in range(model.num_images)])
    return {**compare_inputs_and_pyramid(model), **compare_rpn(model), **of_images}


def _compare_image(model: WholeModel, image: int) -> Differences:
    """The two things that come in another order where scores are nearly equal: proposals and detections."""
    predictions, side = model.predictions, np.tile(model.inputs.images.shape[1:3], 2)
    wanted = {name: array[image] for name, array in model.expected.items() if name.startswith(("second_prop", "out_"))}
    wanted_proposals = wanted["second_proposal_boxes_normalized"]
    proposals = predictions.rois.boxes[image].numpy() / side
    rows, distance = match_boxes(proposals, wanted_proposals)
    ours = slice(image * len(proposals), (image + 1) * len(proposals))
    result = {
        "second_proposal_boxes_normalized": Difference(distance, BOX),
        "second_class_predictions_with_background": difference(
            predictions.box.class_logits[image].numpy()[rows],
            model.expected["second_class_predictions_with_background"][ours],
            RAW,
        ),
        "second_refined_box_encodings": difference(
            predictions.box.box_deltas[image].numpy()[rows], model.expected["second_refined_box_encodings"][ours], RAW
        ),
    }
    found = model.detections_of(image)
    result["out_raw_detection_boxes"] = difference(found.raw_boxes[rows], wanted["out_raw_detection_boxes"], BOX)
    result["out_raw_detection_scores"] = difference(
        found.raw_class_scores[rows], wanted["out_raw_detection_scores"], SCORE
    )
    detected, distance = match_boxes(
        found.boxes, wanted["out_detection_boxes"], found.classes, wanted["out_detection_classes"]
    )
    result["out_detection_boxes"] = Difference(distance, BOX)
    result["out_detection_classes"] = difference(found.classes[detected], wanted["out_detection_classes"], 0.0)
    result["out_detection_scores"] = difference(found.scores[detected], wanted["out_detection_scores"], SCORE)
    result["out_detection_multiclass_scores"] = difference(
        found.class_scores[detected], wanted["out_detection_multiclass_scores"], SCORE
    )
    # Rows of proposals, which have an order of their own here: the same region is what they should name.
    result["out_detection_anchor_indices"] = difference(
        proposals[found.roi_indices[detected]], wanted_proposals[wanted["out_detection_anchor_indices"]], BOX
    )
    return result


def compare_losses(golden: Path) -> Differences:
    """Training mode. The samplers take everything in this config, so nothing is random."""
    return _parity.compare_losses(load_model(golden), "losses")[0]


COMPARISONS: dict[str, Callable[[Path], Differences]] = {
    "anchors": compare_anchors,
    "fpn_levels": compare_fpn_levels,
    "crop_and_resize": compare_crop_and_resize,
    "box_coder": compare_box_coder,
    "targets_proposal": functools.partial(compare_targets, name="proposal"),
    "targets_detection": functools.partial(compare_targets, name="detection"),
    "resizers": compare_resizers,
    "learning_rates": compare_learning_rates,
    "inference": compare_inference,
    "losses": compare_losses,
}
"""One for each file of the reference."""

FURTHER: tuple[str, ...] = ("parity_retinanet", "parity_single_level", "parity_context")
"""Scripts beside this one that have `COMPARISONS` of further models."""


def main() -> int:
    comparisons = COMPARISONS.copy()
    for script in FURTHER:
        comparisons |= importlib.import_module(script).COMPARISONS
    return _parity.main(comparisons, __doc__)


if __name__ == "__main__":
    sys.exit(main())
