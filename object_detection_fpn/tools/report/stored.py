"""The JSON file of a report, which `odfpn compare` reads: the page's numbers, and what became of every detection.

Each region has columns with one value a detection: the number of its image in `image_ids`, score, class, and two numbers of ten
bits, one a threshold: whether the detection is true there, and whether it is ignored. Objects have an image and a class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from object_detection_fpn.tools.report.matching import THRESHOLDS, Matches

FORMAT = "odfpn report 1"
_BITS = 2 ** np.arange(len(THRESHOLDS))


class NotAReportError(ValueError):
    """A file does not hold what `odfpn report --json` writes. The message says why."""


class Run(NamedTuple):
    """One model on one data set, as far as a comparison needs it."""

    image_ids: list[str]
    """In the order that the images of `matches` are numbered by."""
    names: dict[int, str]
    """0-based class -> name."""
    matches: dict[str, Matches]
    """By region: "boxes", and "masks" if there are some."""


def to_text(content: Mapping[str, Any], matches: Mapping[str, Matches], image_ids: Sequence[str]) -> str:
    """The file's text."""
    stored = {
        **content,
        "image_ids": list(image_ids),
        "matches": {region: _to_json(table) for region, table in matches.items()},
    }
    return json.dumps(stored, allow_nan=False, separators=(",", ":"))


def parse(content: Any) -> Run:
    """The run that a file's JSON describes.

    Raises:
        NotAReportError: if it is no report, or a damaged one.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise NotAReportError(f'is no report: it has no "format": "{FORMAT}"')
    try:
        image_ids = [str(image_id) for image_id in content["image_ids"]]
        names = {int(entry["index"]): str(entry["name"]) for entry in content["classes"]}
        matches = {
            str(region): _from_json(table, num_images=len(image_ids), num_classes=max(names) + 1)
            for region, table in content["matches"].items()
        }
        return Run(image_ids, names, matches)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotAReportError(f"is a damaged report: {error!r}") from error


def _to_json(matches: Matches) -> dict[str, Any]:
    return {
        "images": matches.images.tolist(),
        "scores": matches.scores.tolist(),
        "classes": matches.classes.tolist(),
        "true": (_BITS @ matches.is_true).tolist(),
        "ignored": (_BITS @ matches.is_ignored).tolist(),
        "gt_images": matches.gt_images.tolist(),
        "gt_classes": matches.gt_classes.tolist(),
    }


def _from_json(content: Mapping[str, Any], *, num_images: int, num_classes: int) -> Matches:
    columns = {name: np.asarray(values) for name, values in content.items()}
    for names in (("images", "scores", "classes", "true", "ignored"), ("gt_images", "gt_classes")):
        lengths = {name: len(columns[name]) for name in names}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of different lengths {lengths}")
    for name, end in (("images", num_images), ("gt_images", num_images), ("classes", num_classes)):
        if len(columns[name]) and not 0 <= columns[name].min() <= columns[name].max() < end:
            raise ValueError(f"{name} reach beyond 0 to {end - 1}")
    return Matches(
        images=columns["images"].astype(int),
        scores=columns["scores"].astype(float),
        classes=columns["classes"].astype(int),
        is_true=_unpack(columns["true"]),
        is_ignored=_unpack(columns["ignored"]),
        gt_images=columns["gt_images"].astype(int),
        gt_classes=columns["gt_classes"].astype(int),
        num_images=num_images,
        num_classes=num_classes,
    )


def _unpack(bits: np.ndarray) -> np.ndarray:
    """[N] int -> [T, N] bool."""
    return (bits.astype(int)[np.newaxis] & _BITS[:, np.newaxis]) > 0
