"""The runs that `odfpn compare` compares: a report's JSON, or detections with the groundtruth of a COCO JSON file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask
import tensorflow as tf

from object_detection_fpn.evaluation.metric import ImageDetections, ImageGroundtruth
from object_detection_fpn.ops.rle import Rle
from object_detection_fpn.tools.report.matching import Matches, gather, match_image
from object_detection_fpn.tools.report.stored import FORMAT, NotAReportError, Run, parse

_NAME = "report.json"
_MIN_COORDINATES = 6  # of a polygon: three points


class RunError(ValueError):
    """A run cannot be read, or two cannot be compared. The message names the file."""


def read_runs(paths: Sequence[str], groundtruth: str | None) -> list[Run]:
    """Reads runs.

    Args:
        paths: files that `odfpn report --json` wrote, or their folders; or files of detections: COCO's list of results, or what
            `odfpn predict` writes.
        groundtruth: COCO JSON file, for detections; None if there are none.

    Raises:
        RunError: if a file is none of these.
    """
    truth = None if groundtruth is None else _read_json(groundtruth)
    runs = []
    for path in paths:
        if tf.io.gfile.isdir(path):
            path = os.path.join(path, _NAME)
        content = _read_json(path)
        try:
            runs.append(_read_run(path, content, truth))
        except RunError:
            raise
        except NotAReportError as error:
            raise RunError(f"{path} {error}.") from error
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise RunError(
                f"{path}, with {groundtruth}, is no file of detections as COCO has them: {error!r}."
            ) from error
    return runs


def _read_run(path: str, content: Any, truth: Any) -> Run:
    if isinstance(content, dict) and content.get("format") == FORMAT:
        return parse(content)
    if truth is None:
        raise RunError(
            f"{path} is no report of `odfpn report --json`. Files of detections need --groundtruth, a COCO JSON file."
        )
    return match_coco(truth, content)


def in_order_of(first: Run, second: Run) -> Run:
    """The second run with its images and classes numbered as the first one's; classes are known by their names.

    Raises:
        RunError: if the images, the classes or the groundtruth differ.
    """
    places: dict[tuple[str, int], int] = {key: place for place, key in enumerate(_keys(first.image_ids))}
    keys = _keys(second.image_ids)
    odd = sorted(set(places) ^ set(keys))
    if odd:
        raise RunError(
            f"The runs are of different images: A has {len(places)}, B has {len(keys)}, and {len(odd)} are in one alone, "
            f"such as {odd[0][0]!r}. Allowed: runs on the same images."
        )
    if set(first.names.values()) != set(second.names.values()):
        raise RunError(
            f"The runs have different classes: {_listed(first.names)} and {_listed(second.names)}. Allowed: the same label map."
        )
    numbers = np.array([places[key] for key in keys], int)
    classes = np.zeros(max(second.names) + 1, int)
    for index, name in first.names.items():
        classes[_index_of(second.names, name)] = index
    matches = {
        region: table._replace(
            images=numbers[table.images],
            classes=classes[table.classes],
            gt_images=numbers[table.gt_images],
            gt_classes=classes[table.gt_classes],
            num_classes=max(first.names) + 1,
        )
        for region, table in second.matches.items()
        if region in first.matches
    }
    for region, table in matches.items():
        if _objects(table) != _objects(first.matches[region]):
            raise RunError(f"The runs have different groundtruth of {region}. Allowed: the same objects in each image.")
    return Run(first.image_ids, first.names, matches)


def match_coco(truth: Mapping[str, Any], found: Any) -> Run:
    """Matches detections with the groundtruth of a COCO JSON file.

    Args:
        truth: `images`, `annotations`, `categories`.
        found: COCO's list of results, or an object that has it as `detections`, with `images` whose `file_name` is that of the
            groundtruth.
    """
    results = found if isinstance(found, list) else _with_image_ids(truth, found)
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    index_of = {category["id"]: index for index, category in enumerate(categories)}
    sizes = {image["id"]: (image.get("height", 0), image.get("width", 0)) for image in truth["images"]}
    ids = sorted(sizes)
    annotations: dict[Any, list[Any]] = {image_id: [] for image_id in ids}
    detections: dict[Any, list[Any]] = {image_id: [] for image_id in ids}
    for annotation in truth["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    for result in results:
        if result["category_id"] in index_of and result["image_id"] in detections:
            detections[result["image_id"]].append(result)
    has_masks = bool(results) and all("segmentation" in each for each in results)
    has_masks &= any(annotation.get("segmentation") for annotation in truth["annotations"])
    images = [
        (
            _groundtruth(image_id, annotations[image_id], index_of, sizes[image_id], has_masks),
            _detections(detections[image_id], index_of, has_masks),
        )
        for image_id in ids
    ]
    matches: dict[str, Matches] = {
        region: gather(
            [match_image(*image, use_masks=region == "masks") for image in images], num_classes=len(categories)
        )
        for region in (("boxes", "masks") if has_masks else ("boxes",))
    }
    names = {index: str(category["name"]) for index, category in enumerate(categories)}
    return Run([str(image_id) for image_id in ids], names, matches)


def _with_image_ids(truth: Mapping[str, Any], found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The detections of `odfpn predict`, which counts its images, with the image ids of the groundtruth, by file name."""
    by_name = {os.path.basename(image["file_name"]): image["id"] for image in truth["images"] if "file_name" in image}
    names = {image["id"]: os.path.basename(image["file_name"]) for image in found["images"]}
    ids = {number: by_name[name] for number, name in names.items() if name in by_name}
    if not ids:
        raise ValueError("no image has the file name of one of the groundtruth")
    return [
        {**result, "image_id": ids[result["image_id"]]} for result in found["detections"] if result["image_id"] in ids
    ]


def _groundtruth(
    image_id: Any, annotations: Sequence[Any], index_of: Mapping[Any, int], size: tuple[int, int], has_masks: bool
) -> ImageGroundtruth:
    return ImageGroundtruth(
        source_id=str(image_id),
        boxes=_boxes(annotations),
        classes=np.array([index_of[annotation["category_id"]] for annotation in annotations], int),
        is_crowd=np.array([bool(annotation.get("iscrowd", 0)) for annotation in annotations], bool),
        masks=[_mask(annotation.get("segmentation"), size) for annotation in annotations] if has_masks else None,
        image_size=size,
    )


def _detections(results: Sequence[Any], index_of: Mapping[Any, int], has_masks: bool) -> ImageDetections:
    return ImageDetections(
        boxes=_boxes(results),
        scores=np.array([result["score"] for result in results], float),
        classes=np.array([index_of[result["category_id"]] for result in results], int),
        masks=[result["segmentation"] for result in results] if has_masks else None,
    )


def _boxes(entries: Sequence[Any]) -> np.ndarray:
    xywh = np.array([entry["bbox"] for entry in entries], float).reshape(-1, 4)
    return np.concatenate([xywh[:, 1::-1], xywh[:, 1::-1] + xywh[:, 3:1:-1]], axis=1)


def _mask(segmentation: Any, size: tuple[int, int]) -> Rle | None:
    """Polygons and run lengths as compressed run lengths."""
    if isinstance(segmentation, list):
        polygons = [part for part in segmentation if len(part) >= _MIN_COORDINATES]
        return coco_mask.merge(coco_mask.frPyObjects(polygons, *size)) if polygons else None
    if not segmentation:
        return None
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *size)
    return segmentation


def _keys(image_ids: Sequence[str]) -> list[tuple[str, int]]:
    """Ids that occur several times are told apart by their order."""
    times: dict[str, int] = {}
    keys = []
    for image_id in image_ids:
        keys.append((image_id, times.get(image_id, 0)))
        times[image_id] = times.get(image_id, 0) + 1
    return keys


def _index_of(names: Mapping[int, str], wanted: str) -> int:
    return next(index for index, name in names.items() if name == wanted)


def _objects(matches: Matches) -> list[tuple[int, int]]:
    return sorted(zip(matches.gt_images.tolist(), matches.gt_classes.tolist(), strict=True))


def _listed(names: Mapping[int, str]) -> str:
    shown = ", ".join(names[index] for index in sorted(names)[:5])
    return f"{len(names)} ({shown}{', ...' if len(names) > 5 else ''})"


def _read_json(path: str) -> Any:
    if not tf.io.gfile.exists(path):
        raise RunError(f"{path} is missing. Allowed: what `odfpn report --json` wrote, or a JSON file of detections.")
    try:
        with tf.io.gfile.GFile(path) as file:
            return json.loads(file.read())
    except (UnicodeDecodeError, json.JSONDecodeError, tf.errors.OpError) as error:
        raise RunError(f"{path} is no JSON file: {error}.") from error
