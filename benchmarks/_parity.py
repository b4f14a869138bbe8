"""What the comparisons with the Object Detection API share: tolerances, the reference's models, how outputs are paired, JSON.

A reference model is an archive of its config, its checkpoint, `inference.npz` (images and everything computed from them),
`train.npz` (groundtruth) and the losses as JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from object_detection_fpn import builder
from object_detection_fpn.config import pipeline as config
from object_detection_fpn.interop import sources
from object_detection_fpn.modeling import layers
from object_detection_fpn.modeling.detector import mean_losses
from object_detection_fpn.records import Context, Groundtruth, Inputs, Predictions

RAW, BOX, SCORE = 1e-3, 1e-3, 1e-4
"""Tolerances of raw outputs, logits of masks among them, of boxes and of scores."""
RELATIVE_LOSS = {"losses": 1e-4, "losses_learning_phase": 1e-3}
"""Tolerances by file, in shares of a loss: with moving statistics, and with those of the batch."""

_RELATIVE = 1e-5  # float32
_RELATIVE_SUM = 1e-6  # of many float32 added as float64, whose roundings cancel
_WITHOUT_PARTNER = 0.01
_UNMATCHED = 1.0  # distance of a detection without partner, in shares of the image: nothing is further away
_WHOLE = 255  # what a stored cell of a mask holds that lies in the object


class Difference(NamedTuple):
    """How far an array is from the reference, and how far it may be."""

    value: float
    tolerance: float

    @property
    def is_within(self) -> bool:
        return self.value <= self.tolerance  # False for NaN


Differences = dict[str, Difference]
Comparisons = Mapping[str, Callable[[Path], Differences]]


def difference(actual: Any, expected: Any, tolerance: float | None = None) -> Difference:
    """Without a tolerance, the one of operations."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape:
        raise ValueError(f"The shape is {actual.shape}, that of the reference {expected.shape}.")
    if tolerance is None:
        is_exact = not np.issubdtype(expected.dtype, np.floating)
        tolerance = 0.0 if is_exact else _RELATIVE * float(np.max(np.abs(expected)))
    return Difference(float(np.max(np.abs(actual.astype(np.float64) - expected))), tolerance)


def sum_difference(actual: Any, total: float) -> Difference:
    """Of the sum of many numbers."""
    return difference(np.sum(actual, dtype=np.float64), total, _RELATIVE_SUM * abs(total))


def largest(images: list[Differences]) -> Differences:
    """The largest difference of the images, by name; NaN if any is."""
    values = {name: np.max([image[name].value for image in images]) for name in images[0]}
    return {name: Difference(float(value), images[0][name].tolerance) for name, value in values.items()}


# The whole model ------------------------------------------------------------------------------------------------------


class WholeModel(NamedTuple):
    """A reference model here, with the API's checkpoint, and what it says of the reference's images."""

    folder: Path
    """Where the archive was unpacked."""
    detector: Any
    expected: dict[str, np.ndarray]
    inputs: Inputs
    """Preprocessed."""
    predictions: Predictions
    detections: Any

    @property
    def num_images(self) -> int:
        return len(self.expected["out_num_detections"])

    def detections_of(self, image: int) -> Any:
        """Arrays of one image."""
        return type(self.detections)(*(v if v is None else v[image].numpy() for v in self.detections))


@functools.lru_cache(maxsize=1)
def load_whole_model(golden: Path, archive: str, overrides: tuple[str, ...] = ()) -> WholeModel:
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
def unpack(golden: Path, archive: str) -> Path:
    """The folder of a reference model's files; it lasts as long as the process."""
    temporary = tempfile.TemporaryDirectory(prefix="odfpn-parity-")
    _TEMPORARY.append(temporary)
    with tarfile.open(golden / f"{archive}.tar.xz") as file:
        file.extractall(temporary.name, filter="data")
    return Path(temporary.name) / archive


_TEMPORARY: list[tempfile.TemporaryDirectory] = []


def compare_inputs_and_pyramid(model: WholeModel) -> Differences:
    """Preprocessed images, the features of all levels where the reference has them, and the number of detections."""
    expected = model.expected
    result = {
        "preprocessed_sum": sum_difference(model.inputs.images, expected["preprocessed_sum"]),
        "out_num_detections": difference(model.detections.num_detections, expected["out_num_detections"], 0.0),
    }
    if "rpn_features" in expected:
        return result
    for level, features in enumerate(model.predictions.pyramid):
        result[f"fpn_{level}"] = difference(features[..., ::16], expected[f"fpn_{level}"], RAW)
    return result


def compare_rpn(model: WholeModel) -> Differences:
    """Anchors and what the first stage says of them, by the names of the reference; of one level, its features too."""
    expected, outputs = model.expected, model.predictions.rpn
    result = {
        "anchors": difference(outputs.anchors, expected["anchors"], RAW),
        "rpn_box_encodings": difference(outputs.box_deltas, expected["rpn_box_encodings"], RAW),
        "rpn_objectness": difference(outputs.objectness_logits, expected["rpn_objectness"], RAW),
        "second_num_proposals": difference(model.predictions.rois.num_proposals, expected["second_num_proposals"]),
    }
    if "rpn_features" in expected:
        (features,) = model.predictions.pyramid
        head = model.detector.rpn.head
        seen = head.activation(head.conv(features))
        result["rpn_features"] = difference(features[..., ::16], expected["rpn_features"], RAW)
        result["rpn_box_predictor_features"] = difference(seen[..., ::16], expected["rpn_box_predictor_features"], RAW)
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
    rows, furthest = np.full(len(wanted), -1), 0.0
    is_free = np.ones(len(found), bool)
    for pair in np.argsort(distance, axis=None, kind="stable"):
        row, column = divmod(int(pair), len(wanted))
        if is_free[row] and rows[column] < 0 and np.isfinite(distance[row, column]):
            rows[column], is_free[row] = row, False
            furthest = max(furthest, float(distance[row, column]))
    if len(found) != len(wanted) or np.any(rows < 0):
        furthest = max(furthest, _UNMATCHED)
    return rows, furthest


class Partners(NamedTuple):
    """Detections of an image that have a partner of their class in the reference."""

    rows: np.ndarray
    """Of the found detection, for each wanted one; -1 for none."""
    has_partner: np.ndarray
    """Of each wanted one."""
    differences: Differences
    """Of the pairs, and the share of those that have none."""

    @property
    def found(self) -> np.ndarray:
        """Rows of the found ones that have a partner."""
        return self.rows[self.has_partner]


def pair_detections(model: WholeModel, image: int) -> Partners:
    """Boxes, classes and scores of the detections of an image."""
    found = model.detections_of(image)
    wanted = {name: array[image] for name, array in model.expected.items() if name.startswith("out_detection")}
    rows, _ = match_boxes(found.boxes, wanted["out_detection_boxes"], found.classes, wanted["out_detection_classes"])
    distance = np.abs(found.boxes[rows] - wanted["out_detection_boxes"]).max(-1)
    has_partner = (rows >= 0) & (distance <= BOX)
    partners = rows[has_partner]
    compared = {
        "out_detection_boxes": (found.boxes, BOX),
        "out_detection_classes": (found.classes, 0.0),
        "out_detection_scores": (found.scores, SCORE),
        "out_detection_multiclass_scores": (found.class_scores, SCORE),
    }
    differences = {
        name: difference(array[partners], wanted[name][has_partner], tolerance)
        for name, (array, tolerance) in compared.items()
    }
    alone = Difference(1.0 - float(np.mean(has_partner)), _WITHOUT_PARTNER)
    return Partners(rows, has_partner, {"detections_without_partner": alone, **differences})


# Training -------------------------------------------------------------------------------------------------------------


def read_groundtruth(model: WholeModel) -> Groundtruth:
    """That of `train.npz`, in pixels."""
    stored = np.load(model.folder / "train.npz")
    one_hot = stored["groundtruth_classes"]
    if not np.all(one_hot.sum(-1) == 1):
        raise ValueError("train.npz: some groundtruth rows have no class, but none is padding.")
    boxes = tf.constant(stored["groundtruth_boxes"] * float(model.inputs.images.shape[1]))
    groundtruth = make_groundtruth(boxes, one_hot.argmax(-1))
    if "groundtruth_weights" in stored:
        groundtruth = groundtruth._replace(weights=tf.constant(stored["groundtruth_weights"]))
    if "groundtruth_masks" not in stored:
        return groundtruth
    masks = tf.constant(stored["groundtruth_masks"] * _WHOLE)
    frame = tf.constant([0.0, 0.0, *model.inputs.images.shape[1:3]])
    return groundtruth._replace(masks=masks, mask_frames=tf.broadcast_to(frame, boxes.shape))


def make_groundtruth(boxes: Any, classes: np.ndarray) -> Groundtruth:
    """No row is padding; all weights are 1."""
    batch, num_boxes = classes.shape
    return Groundtruth(
        boxes=tf.constant(boxes, tf.float32),
        classes=tf.constant(classes, tf.int32),
        num_boxes=tf.fill([batch], num_boxes),
        weights=tf.ones([batch, num_boxes]),
        is_crowd=tf.zeros([batch, num_boxes], tf.bool),
    )


def compare_losses(model: WholeModel, name: str) -> tuple[Differences, Predictions]:
    """Losses of training mode, in which the samplers of these configs take everything, and what was predicted for them.

    Statistics of batch normalizations are afterwards what they were.

    Args:
        model: one of the reference's.
        name: "losses", with moving statistics, or "losses_learning_phase", with those of the batch where the config says so.
    """
    detector, norms = model.detector, [m for m in model.detector.submodules if isinstance(m, layers.BatchNorm)]
    groundtruth = read_groundtruth(model)
    before = [(norm, norm.freeze_statistics, norm.get_weights()) for norm in norms]
    attention = getattr(detector, "context_attention", None)  # which uses the statistics of the batch in both
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
    tolerance = RELATIVE_LOSS[name]
    return {key: difference(losses[key], value, tolerance * abs(value)) for key, value in wanted.items()}, predictions


# The command ----------------------------------------------------------------------------------------------------------


def main(comparisons: Comparisons, description: str | None) -> int:
    """Prints the differences as JSON; the exit status says whether any is out."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--golden", type=Path, default=Path(__file__).parent.parent / "tests" / "golden", help="folder of the reference"
    )
    golden = parser.parse_args().golden
    differences = {
        f"{group}/{name}": found for group, compare in comparisons.items() for name, found in compare(golden).items()
    }
    report = {
        "within_tolerance": all(found.is_within for found in differences.values()),
        "arrays": {
            # JSON has no NaN: a difference that is no number is null.
            name: {
                "max_abs_difference": found.value if np.isfinite(found.value) else None,
                "tolerance": found.tolerance,
            }
            for name, found in differences.items()
        },
    }
    print(json.dumps(report, indent=2))
    return 0 if report["within_tolerance"] else 1
