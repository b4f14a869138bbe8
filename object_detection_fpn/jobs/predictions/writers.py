"""Result files of predictions: one JSON object, JSON lines, or COCO's list of results.

An entry describes an image (`id`, `file_name`, `width`, `height`, ...), a detection has `category_id`, `category_name`, `bbox`
as xmin, ymin, width, height in pixels, `score` and, of models with masks, `segmentation`, the mask as compressed RLE.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, get_args

import tensorflow as tf

from object_detection_fpn.config import paths as path_rules
from object_detection_fpn.ops import rle
from object_detection_fpn.serving.merging import Found
from object_detection_fpn.serving.predictor import Predictor

OutputFormat = Literal["json", "jsonl", "coco"]
OUTPUT_FORMATS: tuple[OutputFormat, ...] = get_args(OutputFormat)

_FILE_NAMES: dict[OutputFormat, str] = {
    "json": "detections.json",
    "jsonl": "detections.jsonl",
    "coco": "detections_coco.json",
}
_REMOTE_SECONDS = 30.0  # between two times that a remote file is written, which may mean that all of it is sent again


class Writer(Protocol):
    """Takes images one after the other."""

    path: str
    """The file."""

    def add(self, entry: dict[str, Any], detections: Sequence[dict[str, Any]]) -> None:
        """An image with its detections."""

    def fail(self, name: str, reason: str) -> None:
        """An image that could not be read."""

    def finish(self) -> None:
        """The file is complete after this."""


def make_writer(output_format: OutputFormat, output_dir: str, categories: Sequence[dict[str, Any]]) -> Writer:
    """The writer of a format.

    Raises:
        ValueError: if there is no such format.
    """
    if output_format not in _FILE_NAMES:
        raise ValueError(f"output_format = {output_format!r} is unknown. Allowed: {', '.join(OUTPUT_FORMATS)}.")
    path = os.path.join(output_dir, _FILE_NAMES[output_format])
    if output_format == "jsonl":
        return _LinesWriter(path)
    return _JsonWriter(path, categories) if output_format == "json" else _CocoWriter(path)


def to_json(predictor: Predictor, found: Found, image_size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """The detections of an image of height and width `image_size`."""
    for row, ((ymin, xmin, ymax, xmax), score, class_id) in enumerate(
        zip(found.boxes.tolist(), found.scores, found.class_ids, strict=True)
    ):
        detection = {
            "category_id": int(class_id),
            "category_name": predictor.names.get(int(class_id), f"id {class_id}"),
            "bbox": [round(value, 3) for value in (xmin, ymin, xmax - xmin, ymax - ymin)],
            "score": round(float(score), 6),
        }
        if found.masks is not None:
            encoded = rle.encode_pasted(found.masks[row], image_size)
            detection["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode("utf-8")}
        yield detection


class _JsonWriter:
    """One object: `images`, `detections` with their `image_id`, `categories`, and `failures` (`file_name`, `reason`)."""

    def __init__(self, path: str, categories: Sequence[dict[str, Any]]):
        self.path = path
        self._content: dict[str, list[Any]] = {
            "images": [],
            "detections": [],
            "categories": list(categories),
            "failures": [],
        }

    def add(self, entry: dict[str, Any], detections: Sequence[dict[str, Any]]) -> None:
        self._content["images"].append(entry)
        self._content["detections"] += [{"image_id": entry["id"], **each} for each in detections]

    def fail(self, name: str, reason: str) -> None:
        self._content["failures"].append({"file_name": name, "reason": reason})

    def finish(self) -> None:
        with tf.io.gfile.GFile(self.path, "w") as file:
            file.write(json.dumps(self._content, indent=1))


class _CocoWriter:
    """The list that `pycocotools`' `loadRes` reads."""

    def __init__(self, path: str):
        self.path = path
        self._results: list[dict[str, Any]] = []

    def add(self, entry: dict[str, Any], detections: Sequence[dict[str, Any]]) -> None:
        for each in detections:
            result = {"image_id": entry["id"], **each}
            del result["category_name"]
            self._results.append(result)

    def fail(self, name: str, reason: str) -> None:
        """The format has no place for it; the log names the image."""

    def finish(self) -> None:
        with tf.io.gfile.GFile(self.path, "w") as file:
            file.write(json.dumps(self._results))


class _LinesWriter:
    """A line an image: its entry with `detections`; of one that could not be read, `file_name` and `failure`.

    Each line is written before the next image, so that a run that is killed leaves what it has found. In a remote file it is
    what was found half a minute ago.
    """

    def __init__(self, path: str):
        self.path = path
        self._file = tf.io.gfile.GFile(path, "w")
        self._file.write("")  # makes the file, and leaves nothing of an earlier one
        self._wait = _REMOTE_SECONDS if path_rules.scheme(path) else 0.0
        self._written_at = time.monotonic()

    def add(self, entry: dict[str, Any], detections: Sequence[dict[str, Any]]) -> None:
        self._write({**entry, "detections": list(detections)})

    def fail(self, name: str, reason: str) -> None:
        self._write({"file_name": name, "failure": reason})

    def finish(self) -> None:
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        if time.monotonic() - self._written_at >= self._wait:
            self._file.flush()
            self._written_at = time.monotonic()
