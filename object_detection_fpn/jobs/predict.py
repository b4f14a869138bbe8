"""Images in, detections out: a JSON file, and the images with what was found drawn on them.

The detector is a SavedModel that this package or the Object Detection API exported, or a model with its weights. An image
that cannot be read is named with the reason, counted, and passed over. A model that looks at context finds it in records.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tqdm
from PIL import Image

from object_detection_fpn import builder
from object_detection_fpn.config import model as model_config
from object_detection_fpn.data import exif
from object_detection_fpn.drawing.boxes import Boxes, draw_boxes
from object_detection_fpn.interop import sources
from object_detection_fpn.jobs.evaluate import list_categories, load_label_map
from object_detection_fpn.ops import rle
from object_detection_fpn.ops.pasting import PastedMask
from object_detection_fpn.protos import pipeline_pb2
from object_detection_fpn.serving.images import (
    LoadedImage,
    UnreadableImageError,
    decode_image,
    find_images,
    read_image,
)
from object_detection_fpn.serving.predictor import ImagePrediction, Predictor
from object_detection_fpn.serving.record_images import is_record_file, read_record_images

__all__ = [
    "PredictionReport",
    "Predictor",
    "check_context",
    "find_images",
    "make_output_dir",
    "make_predictor",
    "predict_files",
]

_LOGGER = logging.getLogger(__name__)


class PredictionReport(NamedTuple):
    """What became of a list of images."""

    json_path: str
    """The file that holds all detections."""
    num_images: int
    """Images that a prediction was made for."""
    num_detections: int
    """Detections above the score threshold."""
    failures: dict[str, str]
    """Path -> reason, for every image that could not be read."""

    @property
    def exit_code(self) -> int:
        """What a command should end with: 0, or 1 if an image could not be read."""
        return 1 if self.failures else 0


def predict_files(
    predictor: Predictor,
    paths: Sequence[str],
    *,
    output_dir: str,
    min_score: float = 0.5,
    max_num_boxes: int | None = None,
    draw: bool = True,
    show_progress: bool = True,
) -> PredictionReport:
    """Detects objects in image files, and in the images of TFRecord files; writes `detections.json`, and a PNG an image.

    Photographs are turned upright, and everything is in the frame of the upright image.

    The JSON object holds `images` (`id`, counted from 1, `file_name`, `width`, `height`, and `drawing`, the PNG; for a
    photograph that was turned, `exif_orientation` by which, and `frame`, "upright"; for an image of a TFRecord file, `record`,
    the file and the number), `detections` (COCO's results format: `image_id`, `category_id`, `bbox` as xmin, ymin, width,
    height in pixels, `score`; and `category_name`; of models with masks, `segmentation`, the mask as compressed RLE),
    `categories`, and `failures` (`file_name`, `reason`).

    Args:
        predictor: of detections.
        paths: image files, of which `find_images` lists those of folders, and TFRecord files.
        output_dir: folder to write, made if missing; images in it are not written over.
        min_score: detections below it are left out of JSON and drawings.
        max_num_boxes: most detections drawn on an image; None = all.
        draw: whether PNGs are written.
        show_progress: whether a progress bar is shown on standard error.

    Raises:
        ValueError: if there are no paths, or as `check_context` and `make_output_dir`.
        DataError: if a TFRecord file cannot be read.
    """
    if not paths:
        raise ValueError("There are no images to predict.")
    check_context(predictor, paths)
    make_output_dir(output_dir)
    drawing_names = _DrawingNames(paths, output_dir)
    images: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    num_images = None if any(map(is_record_file, paths)) else len(paths)
    given = tqdm.tqdm(_read_all(predictor, paths), total=num_images, unit="image", disable=not show_progress)
    for image_id, (name, record, loaded, context) in enumerate(given, start=1):
        if isinstance(loaded, UnreadableImageError):
            failures[record or name] = str(loaded)
            _LOGGER.warning("%s cannot be read and is passed over: %s", record or name, loaded)
            continue
        image, orientation = loaded
        height, width = image.shape[:2]
        prediction = predictor.predict(image, context)
        found = prediction.select(prediction.scores >= min_score)
        masks = None if found.masks is None else predictor.paste_masks(found, (height, width))
        entry: dict[str, Any] = {"id": image_id, "file_name": name, "width": width, "height": height}
        if record is not None:
            entry["record"] = record
        if orientation != exif.UPRIGHT:
            entry |= {"exif_orientation": orientation, "frame": "upright"}
        detections += _to_json(predictor, image_id, found, masks, (height, width))
        if draw:
            entry["drawing"] = drawing_names.take(name)
            _draw(predictor, image, found, masks, os.path.join(output_dir, entry["drawing"]), max_num_boxes)
        images.append(entry)
    if failures:
        _LOGGER.warning("%d of %d images could not be read.", len(failures), len(failures) + len(images))
    json_path = os.path.join(output_dir, "detections.json")
    content = {
        "images": images,
        "detections": detections,
        "categories": predictor.categories,
        "failures": [{"file_name": path, "reason": reason} for path, reason in failures.items()],
    }
    with tf.io.gfile.GFile(json_path, "w") as file:
        file.write(json.dumps(content, indent=1))
    return PredictionReport(json_path, len(images), len(detections), failures)


def make_output_dir(output_dir: str) -> None:
    """Makes the folder if it is missing.

    Raises:
        ValueError: if it cannot be made.
    """
    try:
        tf.io.gfile.makedirs(output_dir)
        is_folder = tf.io.gfile.isdir(output_dir)
    except tf.errors.OpError as error:
        raise ValueError(
            f"output_dir = {output_dir!r} is no folder and cannot be made one: {error.message}."
        ) from error
    if not is_folder:
        raise ValueError(f"output_dir = {output_dir!r} is a file. Allowed: a folder, made if missing.")


def check_context(predictor: Predictor, paths: Sequence[str]) -> None:
    """Makes sure that a model that looks at context can have it.

    Raises:
        ValueError: if it cannot: image files have none.
    """
    bare = [path for path in paths if not is_record_file(path)]
    if predictor.context_length is not None and bare:
        raise ValueError(
            f"The model looks at context features, which the image file {bare[0]} does not have. Allowed: TFRecord files whose "
            f"records have the image and image/context_features, of length {predictor.context_length}."
        )


class _Given(NamedTuple):
    """An image, or why there is none."""

    name: str
    record: str | None
    loaded: LoadedImage | UnreadableImageError
    context: np.ndarray | None


def _read_all(predictor: Predictor, paths: Sequence[str]) -> Iterator[_Given]:
    for path in paths:
        if not is_record_file(path):
            yield _Given(path, None, _or_error(read_image, path, predictor), None)
            continue
        for found in read_record_images(path):
            loaded = _or_error(decode_image, found.encoded, predictor)
            wanted, context = predictor.context_length, found.context
            if wanted is not None and (context is None or context.shape[1] != wanted):
                has = (
                    "no image/context_features" if context is None else f"context features of length {context.shape[1]}"
                )
                loaded = UnreadableImageError(f"the record has {has}; the model needs those of length {wanted}")
            yield _Given(found.file_name, found.name, loaded, context)


def _or_error(
    read: Callable[..., LoadedImage], source: str | bytes, predictor: Predictor
) -> LoadedImage | UnreadableImageError:
    try:
        return read(source, num_channels=predictor.num_channels)
    except UnreadableImageError as error:
        return error


def _to_json(
    predictor: Predictor,
    image_id: int,
    found: ImagePrediction,
    masks: Sequence[PastedMask] | None,
    image_size: tuple[int, int],
) -> Iterator[dict[str, Any]]:
    boxes = found.boxes_normalized.astype(np.float64) * np.tile(image_size, 2)
    for row, ((ymin, xmin, ymax, xmax), score, class_id) in enumerate(
        zip(boxes.tolist(), found.scores, found.class_ids, strict=True)
    ):
        entry = {
            "image_id": image_id,
            "category_id": int(class_id),
            "category_name": predictor.names.get(int(class_id), f"id {class_id}"),
            "bbox": [round(value, 3) for value in (xmin, ymin, xmax - xmin, ymax - ymin)],
            "score": round(float(score), 6),
        }
        if masks is not None:
            encoded = rle.encode_pasted(masks[row], image_size)
            entry["segmentation"] = {"size": encoded["size"], "counts": encoded["counts"].decode("utf-8")}
        yield entry


def _draw(
    predictor: Predictor,
    image: np.ndarray,
    found: ImagePrediction,
    masks: Sequence[PastedMask] | None,
    path: str,
    max_num_boxes: int | None,
) -> None:
    drawn = draw_boxes(
        image,
        Boxes(found.boxes_normalized, found.class_ids - 1, scores=found.scores, masks=masks),
        names={class_id - 1: name for class_id, name in predictor.names.items()},
        min_score=0.0,
        max_num_boxes=max_num_boxes,
    )
    png = io.BytesIO()
    Image.fromarray(drawn).save(png, format="PNG")
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(png.getvalue())


class _DrawingNames:
    """File names of drawings: the image's name, numbered where several images share it, or one would be lost."""

    def __init__(self, paths: Sequence[str], output_dir: str):
        folder = os.path.abspath(output_dir)
        # What images there are in the folder stay. lower: there are file systems that do not tell a.png from A.png
        self._taken = {
            os.path.basename(path).lower() for path in paths if os.path.dirname(os.path.abspath(path)) == folder
        }

    def take(self, path: str) -> str:
        """The name of the drawing of an image, which no other will have."""
        stem = os.path.splitext(os.path.basename(path))[0]
        name, n = f"{stem}.png", 1
        while name.lower() in self._taken:
            n += 1
            name = f"{stem}_{n}.png"
        self._taken.add(name.lower())
        return name


def make_predictor(config: pipeline_pb2.TrainEvalPipelineConfig, *, checkpoint: str) -> Predictor:
    """A predictor with a checkpoint's weights and the label map's names."""
    reader = config.eval_input_reader[0] if config.eval_input_reader else config.train_input_reader
    model = builder.build_detector(config, reader, execution=builder.inference_execution(config))
    sources.restore_model(checkpoint, model, use_averages=config.eval_config.use_moving_averages)
    return Predictor.from_model(
        model=model,
        resizer=builder.build_resizer(model_config.image_resizer(config.model)),
        categories=list_categories(config, load_label_map(reader)),
        num_channels=model_config.num_image_channels(config.model, reader),
        mask_pasting=model_config.mask_pasting(config.model) or "CORNERS_ALIGNED",
        context=builder.build_context_decoding(config),
    )
