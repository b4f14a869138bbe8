"""From detected images to the numbers of a report, as JSON has them: what the page shows and what `odfpn compare` reads.

Numbers that are undefined (NaN, or -1 of COCO's metrics) are null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from object_detection_fpn.evaluation import coco_format
from object_detection_fpn.evaluation.coco import CocoBoxMetrics, CocoMaskMetrics
from object_detection_fpn.evaluation.metric import EvaluationError, ImageDetections, ImageGroundtruth, clean_image
from object_detection_fpn.jobs.detect import Detected
from object_detection_fpn.tools.report import stored
from object_detection_fpn.tools.report.confusion import confusion_matrix
from object_detection_fpn.tools.report.curves import (
    best_f1,
    calibration,
    histogram,
    precisions,
)
from object_detection_fpn.tools.report.errors import (
    BACKGROUND,
    BOTH,
    CLASSIFICATION,
    DUPLICATE,
    IGNORED,
    KINDS,
    LOCALIZATION,
    MISSED,
    TRUE,
    ImageErrors,
    classify_errors,
    costs,
)
from object_detection_fpn.tools.report.examples import Examples
from object_detection_fpn.tools.report.matching import AT_50, AT_75, ImageMatches, Matches, gather, match_image

_METRICS = {"boxes": CocoBoxMetrics, "masks": CocoMaskMetrics}
_NOT_KEPT = 2.0  # above every score: the threshold of a class of which nothing true is found

MEANING_OF_KINDS = {
    CLASSIFICATION: "on an object, but with a wrong class",
    LOCALIZATION: "right class, but the overlap is between 0.1 and 0.5",
    BOTH: "wrong class, and the overlap is below 0.5",
    DUPLICATE: "on an object that a better detection has found",
    BACKGROUND: "where there is no object",
    MISSED: "objects that no detection was meant for",
}


class Analysis(NamedTuple):
    """What is known of a model on a data set."""

    content: dict[str, Any]
    """Everything but the images that are shown, and the matches."""
    examples: list[dict[str, Any]]
    """See `examples.Examples.to_json`."""
    matches: dict[str, Matches]
    """By region, images ordered as `image_ids`."""
    image_ids: list[str]


class _Seen(NamedTuple):
    """One image, without its pixels."""

    groundtruth: ImageGroundtruth
    detections: ImageDetections
    matches: dict[str, ImageMatches]
    """By region."""


def analyse(detected: Detected, *, num_examples: int) -> Analysis:
    """Reads all images and counts.

    Args:
        detected: a model and a data set, whose images are read.
        num_examples: how many of the worst images are shown, and how many of the best.

    Raises:
        EvaluationError: if there is no image.
    """
    regions = ("boxes", "masks") if detected.has_masks else ("boxes",)
    metrics = {
        region: _METRICS[region](detected.categories, include_metrics_per_category=True, all_metrics_per_category=True)
        for region in regions
    }
    names = {int(category["id"]) - 1: str(category["name"]) for category in detected.categories}
    ids = frozenset(class_index + 1 for class_index in names)
    examples = Examples(num_examples)
    seen: list[_Seen] = []
    for image in detected.images:
        groundtruth, detections, _ = clean_image(image.groundtruth, image.detections, ids)
        for metric in metrics.values():
            metric.update(groundtruth, detections)
        matches = {region: match_image(groundtruth, detections, use_masks=region == "masks") for region in regions}
        examples.add(
            image._replace(groundtruth=groundtruth, detections=detections),
            matches["boxes"],
            classify_errors(matches["boxes"]),
        )
        # Masks are the largest part, and nothing reads them from here on.
        seen.append(_Seen(groundtruth._replace(masks=None), detections._replace(masks=None), matches))
    if not seen:
        raise EvaluationError("The evaluation saw no image. Do the files of the input reader hold any records?")
    return _assemble(seen, metrics, names, examples, step=detected.step)


def _assemble(
    seen: Sequence[_Seen],
    metrics: Mapping[str, CocoBoxMetrics],
    names: Mapping[int, str],
    examples: Examples,
    *,
    step: int | None,
) -> Analysis:
    by_id = {id(image.groundtruth): image for image in seen}
    pairs = coco_format.in_order([image.groundtruth for image in seen], [image.detections for image in seen])
    ordered = [by_id[id(groundtruth)] for groundtruth, _ in pairs]
    num_classes = max(names) + 1
    matches = {
        region: gather([image.matches[region] for image in ordered], num_classes=num_classes) for region in metrics
    }
    of_regions = {
        region: _describe([image.matches[region] for image in ordered], matches[region], metric.result(), names)
        for region, metric in metrics.items()
    }
    content = {
        "format": stored.FORMAT,
        "step": step,
        "num_images": len(seen),
        "num_objects": int(sum((~image.groundtruth.is_crowd).sum() for image in seen)),
        "num_detections": int(sum(len(image.detections.scores) for image in seen)),
        "classes": [{"id": index + 1, "index": index, "name": name} for index, name in names.items()],
        "kinds": MEANING_OF_KINDS,
        "regions": of_regions,
    }
    ids = [image.groundtruth.source_id for image in ordered]
    return Analysis(content, examples.to_json(), matches, ids)


def _describe(
    images: Sequence[ImageMatches], matches: Matches, metrics: Mapping[str, float], names: Mapping[int, str]
) -> dict[str, Any]:
    """What is said of boxes, or of masks."""
    is_counted = ~matches.is_ignored[AT_50]
    is_true = matches.is_true[AT_50]
    num_groundtruth = matches.num_groundtruth()
    at_50, at_75 = precisions(matches, AT_50), precisions(matches, AT_75)
    thresholds = np.full(matches.num_classes, _NOT_KEPT)
    of_classes = []
    for index, name in names.items():
        rows = is_counted & (matches.classes == index)
        best = best_f1(matches.scores[rows], is_true[rows], int(num_groundtruth[index]))
        if best is not None:
            thresholds[index] = best.threshold
        of_classes.append(
            {
                "index": index,
                "num_objects": int(num_groundtruth[index]),
                "num_detections": int(np.sum(rows)),
                "metrics": _of_class(metrics, name),
                "precision": {"0.50": _rounded(at_50[index]), "0.75": _rounded(at_75[index])},
                "best_f1": None if best is None else {k: round(v, 4) for k, v in best._asdict().items()},
                **_of_scores(matches.scores[rows], is_true[rows]),
            }
        )
    errors = [classify_errors(image) for image in images]
    matrix = confusion_matrix(images, thresholds)
    return {
        "summary": {
            name.split("_", 1)[1]: _defined(value) for name, value in metrics.items() if "ByCategory" not in name
        },
        "classes": of_classes,
        "precision": {"0.50": _rounded(_mean(at_50)), "0.75": _rounded(_mean(at_75))},
        "errors": _describe_errors(images, errors, thresholds),
        "confusion": [[int(row), int(column), int(matrix[row, column])] for row, column in np.argwhere(matrix)],
        **_of_scores(matches.scores[is_counted], is_true[is_counted]),
    }


def _of_class(metrics: Mapping[str, float], name: str) -> dict[str, float | None]:
    """The twelve numbers of a class, by the names that the summary has, without its prefix."""
    ending = f" ByCategory/{name}"
    found = {key.removesuffix(ending): value for key, value in metrics.items() if key.endswith(ending)}
    return {key.split("_", 1)[1]: _defined(value) for key, value in found.items()}


def _of_scores(scores: np.ndarray, is_true: np.ndarray) -> dict[str, Any]:
    true, false = histogram(scores, is_true)
    found = calibration(scores, is_true)
    return {
        "histogram": {"true": true.tolist(), "false": false.tolist()},
        "calibration": {
            "num": found.num.tolist(),
            "score": _rounded(found.mean_score),
            "precision": _rounded(found.precision),
            "error": _defined(found.expected_error),
        },
    }


def _describe_errors(
    images: Sequence[ImageMatches], errors: Sequence[ImageErrors], thresholds: np.ndarray
) -> dict[str, Any]:
    """TIDE's table; `kept` counts detections from the threshold of their class's best F1 on alone."""
    found = costs(images, errors, num_classes=len(thresholds))
    num = dict.fromkeys((*KINDS, TRUE, IGNORED), 0)
    num_kept = dict(num)
    by_class: dict[str, dict[int, int]] = {kind: {} for kind in (*KINDS, TRUE)}
    for image, of_image in zip(images, errors, strict=True):
        is_kept = image.scores >= thresholds[image.classes]
        for kind, class_index, kept in zip(of_image.kinds.tolist(), image.classes.tolist(), is_kept, strict=True):
            num[kind] += 1
            num_kept[kind] += bool(kept)
            if kept and kind in by_class:
                by_class[kind][class_index] = by_class[kind].get(class_index, 0) + 1
        for class_index in image.gt_classes[of_image.is_missed].tolist():
            num[MISSED] += 1
            by_class[MISSED][class_index] = by_class[MISSED].get(class_index, 0) + 1
    num_kept[MISSED] = num[MISSED]
    return {
        "ap50": _defined(found.ap50),
        "kinds": [
            {
                "kind": kind,
                "num": num[kind],
                "num_kept": num_kept[kind],
                "gain": _defined(found.gains[kind]),
                "by_class": by_class[kind],
            }
            for kind in KINDS
        ],
        "num_true": num[TRUE],
        "num_true_kept": num_kept[TRUE],
        "true_by_class": by_class[TRUE],
        "num_ignored": num[IGNORED],
        "gain_of_false": _defined(found.gain_of_false),
        "gain_of_missed": _defined(found.gain_of_missed),
    }


def _mean(of_classes: np.ndarray) -> np.ndarray:
    """The mean over classes that are defined, [R]."""
    is_defined = ~np.isnan(of_classes[:, 0])
    return of_classes[is_defined].mean(axis=0) if is_defined.any() else np.full(of_classes.shape[1], np.nan)


def _rounded(values: np.ndarray) -> list[float | None]:
    return [None if math.isnan(value) else round(float(value), 4) for value in values]


def _defined(value: float) -> float | None:
    """COCO says -1 where there is nothing to measure. A gain may be negative, but not -1: AP50 would fall from 1 to 0."""
    return None if math.isnan(value) or value == -1 else float(value)
