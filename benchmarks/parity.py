"""Compares this package with numbers that the Object Detection API computed, array by array; JSON.

    python benchmarks/parity.py [--golden tests/golden]

Prints `{"within_tolerance": bool, "arrays": {name: {"max_abs_difference": x, "tolerance": y}}}` and ends with status 1 when
an array is out. Tolerances are absolute: for operations 1e-5 of the array's largest magnitude (float32), 0 for integers;
for raw outputs of the whole model 1e-3; for matched detections 1e-3 in boxes and 1e-4 in scores; for losses 1e-4 of the loss.
The tests run the same comparisons.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from google.protobuf import text_format

from object_detection_fpn import builder
from object_detection_fpn.config import pipeline as config
from object_detection_fpn.data import resize
from object_detection_fpn.interop import sources
from object_detection_fpn.modeling import targets
from object_detection_fpn.modeling.detector import mean_losses
from object_detection_fpn.ops import anchors as anchor_ops
from object_detection_fpn.ops import box_coder
from object_detection_fpn.ops import crop_and_resize as crop_ops
from object_detection_fpn.protos import optimizer_pb2
from object_detection_fpn.records import Context, Groundtruth, Inputs

ARCHIVE = "faster_rcnn_resnet50_fpn_160"

_RELATIVE = 1e-5  # float32
_RELATIVE_SUM = 1e-6  # of many float32 added as float64, whose roundings cancel
_RAW = 1e-3
_BOX = 1e-3
_SCORE = 1e-4
_RELATIVE_LOSS = 1e-4
_UNMATCHED = 1.0  # distance of a detection without partner, in shares of the image: nothing is further away


class Difference(NamedTuple):
    """How far an array is from the reference, and how far it may be."""

    value: float
    tolerance: float

    @property
    def is_within(self) -> bool:
        return self.value <= self.tolerance  # False for NaN


Differences = dict[str, Difference]


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
        result[name] = _difference(anchors[:: spec["stored_every"]], stored[name])
        result[f"{name}.num_anchors"] = _difference(len(anchors), spec["num_anchors"])
        result[f"{name}.per_location"] = _difference([per_cell] * len(levels), spec["per_location"])
        for key, total in (("sum", anchors.sum(dtype=np.float64)), ("abs_sum", np.abs(anchors).sum(dtype=np.float64))):
            result[f"{name}.{key}"] = _difference(total, spec[key], _RELATIVE_SUM * abs(spec[key]))
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
            result[name] = _difference(levels, stored[name])
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
    return {name: _difference(crops, stored[name]) for name, crops in actual.items()}


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
        "scale_factors": _difference(box_coder.DEFAULT_SCALES, stored["scale_factors"]),
        "encoded": _difference(box_coder.encode(tf.constant(stored["boxes"]), anchors), stored["encoded"]),
        "decoded": _difference(box_coder.decode(tf.constant(stored["codes"]), anchors), stored["decoded"]),
    }


def compare_targets(golden: Path, *, name: str) -> Differences:
    """Matching and encoding, for the RPN ("proposal") or the box head ("detection")."""
    stored = np.load(golden / "ops" / f"targets_{name}.npz")
    groundtruth = _groundtruth(
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
        "match": _difference(matches[0], stored["match"]),
        "cls_targets": _difference(classes, stored["cls_targets"]),
        "cls_weights": _difference(np.broadcast_to(weights, stored["cls_weights"].shape), stored["cls_weights"]),
        "reg_targets": _difference(encoded.box_deltas[0], stored["reg_targets"]),
        "reg_weights": _difference(encoded.box_weights[0], stored["reg_weights"]),
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
        result[name] = _difference(image, stored[name])
        result[f"{name}_true_shape"] = _difference(true_shape, stored[f"{name}_true_shape"])
    return result


def compare_learning_rates(golden: Path) -> Differences:
    """Schedules, built from the messages that the reference quotes."""
    result = {}
    for name, entry in json.loads((golden / "learning_rates.json").read_text()).items():
        schedule = builder.build_learning_rate(text_format.Parse(entry["config"], optimizer_pb2.LearningRate()))
        rates = [float(schedule(tf.constant(step, tf.int64))) for step in entry["steps"]]
        result[name] = _difference(rates, entry["learning_rate"])
    return result


# The whole model ------------------------------------------------------------------------------------------------------


class WholeModel(NamedTuple):
    """The reference model here, with the API's checkpoint, and what it says of the reference's images."""

    folder: Path
    """Where the archive was unpacked."""
    detector: Any
    expected: dict[str, np.ndarray]
    inputs: Inputs
    """Preprocessed."""
    predictions: Any
    detections: Any


# The reference was computed without a learning phase: its batch norms used their moving statistics in training too.
_WITHOUT_LEARNING_PHASE = ("model.faster_rcnn.feature_extractor.batch_norm_trainable=false",)


@functools.lru_cache(maxsize=1)
def load_whole_model(
    golden: Path, archive: str = ARCHIVE, overrides: tuple[str, ...] = _WITHOUT_LEARNING_PHASE
) -> WholeModel:
    """Reads config and checkpoint as a user does, and runs the model once."""
    folder = unpack(golden, archive)
    message = config.load_config(str(folder / "pipeline.config"), overrides)
    detector = builder.build_model(message.model)
    sources.restore_model(str(folder), detector)
    expected = dict(np.load(folder / "inference.npz"))
    true_shapes = tf.constant(expected["true_image_shapes"])
    context = None
    if "context_features" in expected:
        context = Context(
            tf.constant(expected["context_features"]), tf.constant(expected["valid_context_size"], tf.int32)
        )
    inputs = detector.preprocess(Inputs(tf.constant(expected["images"]), true_shapes, context))
    predictions = detector.predict(inputs, training=False)
    return WholeModel(folder, detector, expected, inputs, predictions, detector.postprocess(predictions, inputs))


@functools.lru_cache
def unpack(golden: Path, archive: str = ARCHIVE) -> Path:
    """The folder of a reference model's files; it lasts as long as the process."""
    temporary = tempfile.TemporaryDirectory(prefix="odfpn-parity-")
    _TEMPORARY.append(temporary)
    with tarfile.open(golden / f"{archive}.tar.xz") as file:
        file.extractall(temporary.name, filter="data")
    return Path(temporary.name) / archive


_TEMPORARY: list[tempfile.TemporaryDirectory] = []


def compare_inference(golden: Path) -> Differences:
    """Everything from the preprocessed images to the detections. What suppression ordered is matched by boxes."""
    model = load_whole_model(golden)
    expected, predictions = model.expected, model.predictions
    total = expected["preprocessed_sum"]
    result = {
        "preprocessed_sum": _difference(
            np.sum(model.inputs.images, dtype=np.float64), total, _RELATIVE_SUM * abs(total)
        )
    }
    for level, features in enumerate(predictions.pyramid):
        result[f"fpn_{level}"] = _difference(features[..., ::16], expected[f"fpn_{level}"], _RAW)
    result["anchors"] = _difference(predictions.rpn.anchors, expected["anchors"], _RAW)
    result["rpn_box_encodings"] = _difference(predictions.rpn.box_deltas, expected["rpn_box_encodings"], _RAW)
    result["rpn_objectness"] = _difference(predictions.rpn.objectness_logits, expected["rpn_objectness"], _RAW)
    result["second_num_proposals"] = _difference(predictions.rois.num_proposals, expected["second_num_proposals"])
    result["out_num_detections"] = _difference(model.detections.num_detections, expected["out_num_detections"], 0.0)
    images = [_compare_image(model, i) for i in range(len(expected["images"]))]
    for name in images[0]:
        largest = np.max([image[name].value for image in images])  # NaN if any is
        result[name] = Difference(float(largest), images[0][name].tolerance)
    return result


def _compare_image(model: WholeModel, image: int) -> Differences:
    """The two things that come in another order where scores are nearly equal: proposals and detections."""
    predictions, side = model.predictions, np.tile(model.inputs.images.shape[1:3], 2)
    wanted = {name: array[image] for name, array in model.expected.items() if name.startswith(("second_prop", "out_"))}
    wanted_proposals = wanted["second_proposal_boxes_normalized"]
    proposals = predictions.rois.boxes[image].numpy() / side
    rows, distance = match_boxes(proposals, wanted_proposals)
    ours = slice(image * len(proposals), (image + 1) * len(proposals))
    result = {
        "second_proposal_boxes_normalized": Difference(distance, _BOX),
        "second_class_predictions_with_background": _difference(
            predictions.box.class_logits[image].numpy()[rows],
            model.expected["second_class_predictions_with_background"][ours],
            _RAW,
        ),
        "second_refined_box_encodings": _difference(
            predictions.box.box_deltas[image].numpy()[rows], model.expected["second_refined_box_encodings"][ours], _RAW
        ),
    }
    found = type(model.detections)(*(v if v is None else v[image].numpy() for v in model.detections))
    result["out_raw_detection_boxes"] = _difference(found.raw_boxes[rows], wanted["out_raw_detection_boxes"], _BOX)
    result["out_raw_detection_scores"] = _difference(
        found.raw_class_scores[rows], wanted["out_raw_detection_scores"], _SCORE
    )
    detected, distance = match_boxes(
        found.boxes, wanted["out_detection_boxes"], found.classes, wanted["out_detection_classes"]
    )
    result["out_detection_boxes"] = Difference(distance, _BOX)
    result["out_detection_classes"] = _difference(found.classes[detected], wanted["out_detection_classes"], 0.0)
    result["out_detection_scores"] = _difference(found.scores[detected], wanted["out_detection_scores"], _SCORE)
    result["out_detection_multiclass_scores"] = _difference(
        found.class_scores[detected], wanted["out_detection_multiclass_scores"], _SCORE
    )
    # Rows of proposals, which have an order of their own here: the same region is what they should name.
    result["out_detection_anchor_indices"] = _difference(
        proposals[found.roi_indices[detected]], wanted_proposals[wanted["out_detection_anchor_indices"]], _BOX
    )
    return result


def match_boxes(
    found: np.ndarray,
    wanted: np.ndarray,
    found_classes: np.ndarray | None = None,
    wanted_classes: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Pairs boxes one to one, nearest pairs first, within classes where there are any.

    Returns:
        The row of the found box for each wanted one, and the largest distance of a coordinate; 1 if a box stays alone.
    """
    distance = np.abs(found[:, None] - wanted).max(-1)
    if found_classes is not None and wanted_classes is not None:
        distance = np.where(found_classes[:, None] == wanted_classes, distance, np.inf)
    rows, largest = np.full(len(wanted), -1), 0.0
    is_free = np.ones(len(found), bool)
    for pair in np.argsort(distance, axis=None, kind="stable"):
        row, column = divmod(int(pair), len(wanted))
        if is_free[row] and rows[column] < 0 and np.isfinite(distance[row, column]):
            rows[column], is_free[row] = row, False
            largest = max(largest, float(distance[row, column]))
    if len(found) != len(wanted) or np.any(rows < 0):
        largest = max(largest, _UNMATCHED)
    return rows, largest


def compare_losses(golden: Path) -> Differences:
    """Training mode. The samplers take everything in this config, so nothing is random."""
    model = load_whole_model(golden)
    stored = np.load(model.folder / "train.npz")
    one_hot = stored["groundtruth_classes"]
    if not np.all(one_hot.sum(-1) == 1):
        raise ValueError("train.npz: some groundtruth rows have no class, but none is padding.")
    side = float(model.inputs.images.shape[1])
    groundtruth = _groundtruth(stored["groundtruth_boxes"] * side, one_hot.argmax(-1))
    predictions = model.detector.predict(model.inputs, training=True, groundtruth=groundtruth)
    losses = mean_losses(model.detector, predictions, groundtruth)
    wanted = json.loads((model.folder / "losses.json").read_text())
    if losses.keys() != wanted.keys():
        raise ValueError(f"The losses are {sorted(losses)}, those of the reference {sorted(wanted)}.")
    return {name: _difference(losses[name], value, _RELATIVE_LOSS * abs(value)) for name, value in wanted.items()}


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


def _groundtruth(boxes: np.ndarray, classes: np.ndarray) -> Groundtruth:
    batch, num_boxes = classes.shape
    return Groundtruth(
        boxes=tf.constant(boxes, tf.float32),
        classes=tf.constant(classes, tf.int32),
        num_boxes=tf.fill([batch], num_boxes),
        weights=tf.ones([batch, num_boxes]),
        is_crowd=tf.zeros([batch, num_boxes], tf.bool),
    )


def _difference(actual: Any, expected: Any, tolerance: float | None = None) -> Difference:
    """Without a tolerance, the one of operations."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape:
        raise ValueError(f"The shape is {actual.shape}, that of the reference {expected.shape}.")
    if tolerance is None:
        is_exact = not np.issubdtype(expected.dtype, np.floating)
        tolerance = 0.0 if is_exact else _RELATIVE * float(np.max(np.abs(expected)))
    return Difference(float(np.max(np.abs(actual.astype(np.float64) - expected))), tolerance)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--golden", type=Path, default=Path(__file__).parent.parent / "tests" / "golden", help="folder of the reference"
    )
    golden = parser.parse_args().golden
    comparisons = COMPARISONS.copy()
    for script in FURTHER:
        comparisons |= importlib.import_module(script).COMPARISONS
    differences = {
        f"{group}/{name}": difference
        for group, compare in comparisons.items()
        for name, difference in compare(golden).items()
    }
    report = {
        "within_tolerance": all(difference.is_within for difference in differences.values()),
        "arrays": {
            # JSON has no NaN: a difference that is no number is null.
            name: {
                "max_abs_difference": difference.value if np.isfinite(difference.value) else None,
                "tolerance": difference.tolerance,
            }
            for name, difference in differences.items()
        },
    }
    print(json.dumps(report, indent=2))
    return 0 if report["within_tolerance"] else 1


if __name__ == "__main__":
    sys.exit(main())
