"""Images in, detections out: a result file, and the images with what was found drawn on them.

The detector is a SavedModel that this package or the Object Detection API exported, or a model with its weights. An image
that cannot be read is named with the reason, counted, and passed over. A model that looks at context finds it in records.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tqdm

from object_detection_fpn import builder
from object_detection_fpn.config import model as model_config
from object_detection_fpn.data import exif
from object_detection_fpn.interop import sources
from object_detection_fpn.jobs.evaluate import list_categories, load_label_map
from object_detection_fpn.jobs.predictions.drawings import DrawingNames, draw_found
from object_detection_fpn.jobs.predictions.image_ids import CocoIds, CountedIds, ImageIds
from object_detection_fpn.jobs.predictions.reading import GivenImage, read_all
from object_detection_fpn.jobs.predictions.writers import OutputFormat, make_writer, to_json
from object_detection_fpn.protos import pipeline_pb2
from object_detection_fpn.serving.images import LoadedImage, UnreadableImageError, find_images, find_named_images
from object_detection_fpn.serving.merging import Found
from object_detection_fpn.serving.predictor import Predictor
from object_detection_fpn.serving.record_images import is_record_file
from object_detection_fpn.serving.tiling import Tiling, in_image, predict_image, predict_tiles

__all__ = [
    "CocoIds",
    "PredictionReport",
    "Predictor",
    "Tiling",
    "check_context",
    "find_images",
    "find_named_images",
    "is_record_file",
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
    names: Mapping[str, str] | None = None,
    min_score: float = 0.5,
    tiling: Tiling | None = None,
    batch_size: int = 1,
    output_format: OutputFormat = "json",
    image_ids: ImageIds | None = None,
    max_num_boxes: int | None = None,
    draw: bool = True,
    show_progress: bool = True,
) -> PredictionReport:
    """Detects objects in image files, and in the images of TFRecord files; writes a result file, and a PNG an image.

    Photographs are turned upright, and everything is in the frame of the upright image.

    An image's entry in the result file has `id`, `file_name`, `width`, `height`, and `drawing`, the PNG; for a photograph that
    was turned, `exif_orientation` by which, and `frame`, "upright"; for an image of a TFRecord file, `record`, the file and the
    number. The formats are described in `jobs.predictions.writers`.

    Args:
        predictor: of detections.
        paths: image files, of which `find_named_images` lists those of folders, and TFRecord files.
        output_dir: folder to write, made if missing; images in it are not written over.
        names: path -> name of its drawing, below `output_dir`; a path without one has its file name.
        min_score: detections below it are left out of results and drawings.
        tiling: how images are cut into tiles; None = they are not.
        batch_size: tiles, or following images of one size, that go through the model at once, if it takes more than one.
        output_format: of the result file.
        image_ids: ids by which results name images; None = `CountedIds`. An image without one is passed over.
        max_num_boxes: most detections drawn on an image; None = all.
        draw: whether PNGs are written.
        show_progress: whether a progress bar is shown on standard error.

    Raises:
        ValueError: if there are no paths, a value is not allowed, or as `check_context` and `make_output_dir`.
        DataError: if a TFRecord file cannot be read.
    """
    if not paths:
        raise ValueError("There are no images to predict.")
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}. Allowed: 1 and more.")
    check_context(predictor, paths, tiling=tiling)
    make_output_dir(output_dir)
    writer = make_writer(output_format, output_dir, predictor.categories)
    names = names or {}
    drawing_names = DrawingNames(paths, names.values(), output_dir)
    ids = _Ids(image_ids or CountedIds())
    num_images = num_detections = 0
    failures: dict[str, str] = {}
    total = None if any(map(is_record_file, paths)) else len(paths)
    # miniters: an image may take long, so the bar moves between two of them as well, but not more often than mininterval.
    with tqdm.tqdm(total=total, unit="image", disable=not show_progress, miniters=0, mininterval=0.5) as progress:

        def show_tiles(num_done: int, num_all: int) -> None:
            progress.set_postfix_str(f"tile {num_done} of {num_all}", refresh=False)
            progress.update(0)

        detect = _Detection(predictor, min_score, tiling, batch_size, show_tiles)
        for given, found in detect.all(read_all(predictor, paths, take_id=ids.take)):
            progress.update()
            if found is None:
                failures[given.place] = str(given.loaded)
                writer.fail(given.place, str(given.loaded))
                _LOGGER.warning("%s cannot be read and is passed over: %s", given.place, given.loaded)
                continue
            image, entry = _pixels(given), _describe(given)
            if draw:
                base_name = os.path.basename(given.name)
                entry["drawing"] = drawing_names.take(
                    base_name if given.record is not None else names.get(given.name, base_name)
                )
                path = os.path.join(output_dir, entry["drawing"])
                side = None if tiling is None else min(tiling.side, *image.shape[:2])
                draw_found(predictor, image, found, path, max_num_boxes=max_num_boxes, shorter_side=side)
            writer.add(entry, list(to_json(predictor, found, image.shape[:2])))
            num_images += 1
            num_detections += len(found.scores)
    writer.finish()
    if failures:
        _LOGGER.warning("%d of %d images could not be read.", len(failures), len(failures) + num_images)
    if ids.num_without:
        _LOGGER.warning("%d images are not in the file of image ids and were passed over.", ids.num_without)
    return PredictionReport(writer.path, num_images, num_detections, failures)


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


def check_context(predictor: Predictor, paths: Sequence[str], *, tiling: Tiling | None = None) -> None:
    """Makes sure that a model that looks at context can have it.

    Raises:
        ValueError: if it cannot: image files have none, and tiles of an image neither.
    """
    if predictor.context_length is not None and tiling is not None:
        raise ValueError("The model looks at context features of whole images. Allowed: no tiles.")
    bare = [path for path in paths if not is_record_file(path)]
    if predictor.context_length is not None and bare:
        raise ValueError(
            f"The model looks at context features, which the image file {bare[0]} does not have. Allowed: TFRecord files whose "
            f"records have the image and image/context_features, of length {predictor.context_length}."
        )


class _Ids:
    """Counts the images that have no id."""

    def __init__(self, ids: ImageIds):
        self._ids = ids
        self.num_without = 0

    def take(self, name: str, source_id: str) -> int | str | None:
        image_id = self._ids.take(name, source_id)
        self.num_without += image_id is None
        return image_id


class _Detection(NamedTuple):
    """Runs the predictor over images, in their order."""

    predictor: Predictor
    min_score: float
    tiling: Tiling | None
    batch_size: int
    on_progress: Callable[[int, int], None]

    def all(self, images: Iterable[GivenImage]) -> Iterator[tuple[GivenImage, Found | None]]:
        """Each image with what was found; None for one that could not be read."""
        can_wait = self.tiling is None and self.batch_size > 1 and self.predictor.takes_batches
        waiting: list[GivenImage] = []  # images of one size, fewer than go into a batch
        for given in images:
            is_image = not isinstance(given.loaded, UnreadableImageError)
            is_next = can_wait and is_image and (not waiting or _pixels(given).shape == _pixels(waiting[0]).shape)
            if waiting and not is_next:
                yield from self._of_batch(waiting)
                waiting = []
            if can_wait and is_image:
                waiting.append(given)
                if len(waiting) == self.batch_size:
                    yield from self._of_batch(waiting)
                    waiting = []
            else:
                yield given, self._of_one(given)
        yield from self._of_batch(waiting)

    def _of_one(self, given: GivenImage) -> Found | None:
        if isinstance(given.loaded, UnreadableImageError):
            return None
        image = given.loaded.pixels
        if self.tiling is None:
            return predict_image(self.predictor, image, given.context, min_score=self.min_score)
        return predict_tiles(
            self.predictor,
            image,
            self.tiling,
            min_score=self.min_score,
            batch_size=self.batch_size,
            on_progress=self.on_progress,
        )

    def _of_batch(self, batch: Sequence[GivenImage]) -> Iterator[tuple[GivenImage, Found | None]]:
        if batch:
            images = np.stack([_pixels(given) for given in batch])
            whole = (0, 0, *images.shape[1:3])
            for given, prediction in zip(batch, self.predictor.predict_batch(images), strict=True):
                yield given, in_image(self.predictor, prediction, whole, min_score=self.min_score)


def _pixels(given: GivenImage) -> np.ndarray:
    assert isinstance(given.loaded, LoadedImage)
    return given.loaded.pixels


def _describe(given: GivenImage) -> dict[str, Any]:
    """The entry of an image in a result file."""
    assert isinstance(given.loaded, LoadedImage)
    height, width = given.loaded.pixels.shape[:2]
    entry: dict[str, Any] = {"id": given.image_id, "file_name": given.name, "width": width, "height": height}
    if given.record is not None:
        entry["record"] = given.record
    if given.loaded.exif_orientation != exif.UPRIGHT:
        entry |= {"exif_orientation": given.loaded.exif_orientation, "frame": "upright"}
    return entry


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
